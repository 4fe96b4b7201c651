"""Cached features: the input of the lowest trainable layer, computed once and read from the disk in every step.

The layers below run without dropout, so their output is the same in every epoch, for every seed and learning rate.
"""

import dataclasses
import errno
import functools
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from fjt.core import console, files, records, tree
from fjt.core.errors import UserError
from fjt.core.options import Settings
from fjt.data import batches, packing, sampling
from fjt.experiment import recipes
from fjt.experiment.inputs import cache_dir
from fjt.experiment.layout import row_grid
from fjt.experiment.prepared import Experiment, Stage
from fjt.models.encoder import Model
from fjt.tasks.problem import Problem
from fjt.training import evaluate, placement, processes
from fjt.tuning import cost, partition

EPOCHS = 2  # in fewer epochs they save no more time than it costs to compute them
CPU_TOKENS = 1024  # per chunk: a layer's activations then fit a CPU's cache, 1.4 times as fast as 8192
TOLD = 100  # chunks between two lines of a piped run that computes them

Splits = Mapping[str, batches.Examples]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Whether a stage uses cached features.

    Attributes:
        layer: its lowest trainable layer, -1 for the embeddings.
        size: bytes of the input of this layer, all splits together.
        reason: why it is not cached, "" if it is.
    """

    layer: int
    size: int
    reason: str


def choose(
    settings: Settings, problem: Problem, model: Model, examples: Splits, stages: Sequence[Stage], steps_per_epoch: int
) -> list[Choice]:
    """The Choice of each stage.

    It depends on settings and data alone, not on the files that exist: a run that is killed and resumed makes the same
    choice, and so ends with the same bits.

    Args:
        settings: of the run.
        problem: its Problem.
        model: its Model.
        examples: {name: Examples} of all splits.
        stages: its stages.
        steps_per_epoch: optimizer steps per epoch.
    """
    cache, chosen, left = settings.execution.cache, [], settings.execution.cache.hidden_gib * 2**30
    for stage in stages:
        layer = partition.lowest_layer(stage.trainable, model.config.layers)
        read = ["train", *recipes.evaluated_splits(settings.experiment, examples)]
        size = sum(math.prod(_shape(model, layer, examples[name])) for name in read) * jnp.dtype(model.dtype).itemsize
        epochs, reason = (stage.last - stage.first) / steps_per_epoch, ""
        if layer < 1:
            lowest = min(sorted(stage.trainable), key=lambda name: cost.place(name, model.config.layers))
            reason = f"{lowest} trains, and no layer lies below it"
        elif problem.redraws:
            reason = f"{problem.name} draws other tokens in each epoch"
        elif settings.experiment.model.frozen_dropout:
            reason = "config.model.frozen_dropout=True makes them other ones in each step"
        elif cache.hidden is False:
            reason = "config.cache.hidden=False"
        elif size > left:
            before = ", with those of the stages before" if len(chosen) and left < cache.hidden_gib * 2**30 else ""
            reason = f"they take {gib(size)}{before}, and config.cache.hidden_gib={cache.hidden_gib:g}"
        elif cache.hidden is None and epochs < EPOCHS:
            reason = f"too few epochs to pay for them ({epochs:.3g})"
        chosen.append(Choice(layer, size, reason))
        left -= 0 if reason else size
    return chosen


def start_stages(
    settings: Settings,
    problem: Problem,
    model: Model,
    examples: Splits,
    stages: Sequence[Stage],
    schedule: batches.Schedule,
    groups: int,
) -> tuple[Stage, ...]:
    """The stages, those with cached features starting from them.

    Args:
        settings: of the run.
        problem: its Problem.
        model: its Model.
        examples: {name: Examples} of all splits.
        stages: its stages, all starting from tokens.
        schedule: its batches.
        groups: groups per batch.

    Raises:
        UserError: config.cache.hidden=True, and the features cannot be cached.
    """
    chosen = choose(settings, problem, model, examples, stages, schedule.steps_per_epoch)
    if settings.execution.cache.hidden:  # of gradual's stages, the last ones may start from tokens
        refused = [one.reason for one in [one for one in chosen if one.layer >= 1] or chosen if one.reason]
        if refused:
            raise UserError(f"config.cache.hidden=True asks for hidden states that cannot be kept: {refused[0]}.")
    size = -(-schedule.batch_size // groups)
    dealt = packing.Shape(
        groups=groups, rows=0, row_length=0, examples=size, slots=batches.most_slots(examples["train"], size)
    )
    started = []
    for stage, choice in zip(stages, chosen, strict=True):
        if not choice.reason:
            shapes = (dealt,) * len(stage.shapes) if choice.layer == model.config.layers else stage.shapes
            started_model = dataclasses.replace(stage.model, start=choice.layer)
            stage = dataclasses.replace(stage, model=started_model, shapes=shapes)
        started.append(stage)
    return tuple(started)


def describe(experiment: Experiment) -> list[str]:
    """Lines about the stages above frozen layers: whether their features are cached, how large they are, or why not."""
    settings, layers = experiment.settings, experiment.model.config.layers
    chosen = choose(
        settings,
        experiment.problem,
        experiment.model,
        experiment.examples,
        experiment.stages,
        experiment.schedule.steps_per_epoch,
    )
    lines = []
    for number, choice in enumerate(chosen):
        what = "what the last layer gives" if choice.layer == layers else f"what enters layer {choice.layer}"
        what = f"stage {number}: {what}" if len(chosen) > 1 else what
        if not choice.reason:
            lines.append(f"{what} is computed once: {gib(choice.size)} in {folder(settings)}")
        elif choice.layer >= 1:
            lines.append(f"{what} is computed in each step: {choice.reason}")
    return lines


class States:
    """{split: cached features} that a stage starts from, see `batches.build`; None for a stage that starts from tokens.

    They are f[T, D], one row per token, or f[M, D], one row per slot, above the last layer.

    Args:
        experiment: the run.
        stage: the stage.
        check: called between chunks; may raise to stop.
        compiled: programs of earlier runs; a new one is added.
        view: where progress is shown.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: Stage,
        check: Callable[[], None],
        compiled: dict[Any, Any],
        view: console.View = console,
    ) -> None:
        self._model, self._mesh, self._check, self._view = stage.model, experiment.mesh, check, view
        self._experiment = experiment
        self._opened: dict[str, np.ndarray | None] = dict.fromkeys(experiment.examples)
        if self._model.start < 0:
            return
        config = self._model.config
        self._folder = folder(experiment.settings)
        self._params = partition.split_below(experiment.params, self._model.start, config.layers)[0]
        shards = placement.num_shards(experiment.mesh)
        platform = placement.platform(experiment.mesh)
        tokens = CPU_TOKENS * shards if platform == "cpu" else 0
        self._packed = evaluate.pack_splits(
            experiment.examples,
            groups=shards,
            own=placement.own_groups(experiment.mesh, shards),
            grid=row_grid(platform),
            width=config.width,
            tokens=tokens,
            one_slot=self._model.one_slot,
        )
        self._lowered = self._lower(experiment, compiled)
        self._key = _environment() + self._lowered.as_text() + tree.sha256(self._params)

    def _lower(self, experiment: Experiment, compiled: dict[Any, Any]) -> Any:
        """The lowered program that computes the features: once for all runs for which its text is the same."""
        methods = experiment.hyper.methods  # constants of the program: its text tells whether they matter
        whole = placement.replicated(self._mesh)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), self._params)
        leaves, structure = jax.tree.flatten((shapes, jax.tree.map(lambda x: np.asarray(x).tolist(), methods)))
        key = (
            "hidden states",
            self._model,
            experiment.mesh,
            self._packed["train"].shape,
            structure,
            tuple(leaves),
        )
        if key not in compiled:
            function = jax.jit(
                lambda params, batch: self._model.hidden(params, batch, methods),
                out_shardings=placement.read_by_all(experiment.mesh),
            )
            compiled[key] = function.lower(shapes, self._put(self._packed["train"].chunks[0][0]))
        return compiled[key]

    def _put(self, batch: evaluate.Batch) -> evaluate.Batch:
        return placement.put_batch(batch, self._mesh)

    def __getitem__(self, split: str) -> np.ndarray | None:
        return self._opened[split]

    def compile(self, splits: Iterable[str]) -> None:
        """Compiles the program that computes features, if those of any of these splits are not there."""
        if self._model.start >= 0 and any([self._missing(split) for split in splits]):  # all splits, in each process
            _ = self._program

    def prepare(self, splits: Iterable[str]) -> float:
        """The seconds in which features were computed.  Afterwards those of all these splits can be read.

        Raises:
            UserError: a file cannot be written.
        """
        seconds = 0.0
        for split in splits if self._model.start >= 0 else ():
            if self._missing(split):
                start = time.perf_counter()
                self._make(split)
                seconds += time.perf_counter() - start
                self._opened[split] = self._extended(split, self._open(split))
        return seconds

    def _extended(self, split: str, found: np.ndarray | None) -> np.ndarray | None:
        """The features of a split, with those of synthetic examples of train."""
        options, examples = self._experiment.settings.experiment, self._experiment.examples[split]
        if found is None or split != "train" or not options.train.smote:
            return found
        return sampling.synthesize(found, examples.label, options.train.smote, options.seeds.subset)

    def _missing(self, split: str) -> bool:
        """Whether any process lacks the features of a split: then all compute them, those that have them as well."""
        if self._opened[split] is None:
            self._opened[split] = self._extended(split, self._open(split))
        return processes.any_of(self._opened[split] is None)

    @functools.cached_property
    def _program(self) -> Any:
        return self._lowered.compile()

    def _shape_of(self, split: str) -> tuple[int, int]:
        return _shape(self._model, self._model.start, self._packed[split].chunks.examples)

    def _path(self, split: str) -> str:
        return os.path.join(self._folder, f"{self._fingerprint(split)}.npy")

    def _fingerprint(self, split: str) -> str:
        """sha256 of everything that the bits depend on: program, device, parameters, tokens and their places."""
        digest, chunks = hashlib.sha256(self._key.encode()), self._packed[split].chunks
        found = chunks.examples
        for array in (found.token_ids, found.type_ids, found.offsets, found.part_offsets, chunks.indices):
            digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _open(self, split: str) -> np.ndarray | None:
        """The array of a split from its file; None if the file is missing, incomplete or fails its checksum."""
        path = self._path(split)
        try:
            with open(path, "rb") as file:
                if not files.has_checksum(file):
                    return None
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != self._shape_of(split) or array.dtype != _raw(self._model.dtype):
            return None
        return np.asarray(array).view(jnp.dtype(self._model.dtype))

    def _make(self, split: str) -> None:
        """Computes the features of a split into a file that appears when it is complete."""
        packed, shape, dtype = self._packed[split], self._shape_of(split), _raw(self._model.dtype)
        size = math.prod(shape) * dtype.itemsize
        params = placement.put_whole(self._params, self._mesh)
        of = "slots" if self._model.start == self._model.config.layers else "tokens"
        results = evaluate.results(self._program, params, packed, self._put, of, self._check)
        try:
            os.makedirs(self._folder, exist_ok=True)
            files.remove_leftovers(self._folder)  # before the room is measured
            if shutil.disk_usage(self._folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with files.written(self._path(split)) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                begin = file.tell()
                with self._view.bar(f"hidden states of {split}", len(packed.chunks), every=TOLD) as bar:
                    for done, (rows, values) in enumerate(results, 1):
                        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                            file.seek(begin + int(rows[run[0]]) * shape[1] * dtype.itemsize)
                            file.write(values[run].view(dtype).data)
                        bar.update(done)
                files.add_checksum(file)  # numpy reads what is before it: it knows the array's size
        except OSError as error:
            raise UserError(
                f"the hidden states of {split}, {gib(size)}, cannot be written into {self._folder}: "
                f"{error.strerror or error}. Make room, name another folder by --config.cache.dir=DIR, or do without: "
                "--config.cache.hidden=False."
            ) from None


def _shape(model: Model, layer: int, examples: batches.Examples) -> tuple[int, int]:
    """The shape of a split's array: one row per token, or above the last layer one row per slot."""
    rows = len(examples.slot_token) if layer == model.config.layers else int(examples.offsets[-1])
    return rows, model.config.width


def _raw(name: str) -> np.dtype:
    """The dtype in the file: numpy's own format has no bfloat16, whose 16 bits are written as they are."""
    dtype = jnp.dtype(name)
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else dtype


def _environment() -> str:
    """What the bits depend on besides the program: versions, device, cores, flags."""
    device = jax.local_devices()[0]
    kind = records.processor() if device.platform == "cpu" else device.device_kind
    version = jaxlib.__version__  # pyright: ignore[reportPrivateImportUsage]
    return repr((jax.__version__, version, kind, records.cores(), os.environ.get("XLA_FLAGS", "")))


def folder(settings: Settings) -> str:
    """The folder of cached features."""
    return os.path.join(cache_dir(settings.execution), "hidden")


def gib(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
