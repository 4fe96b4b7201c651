"""A run's training step, compiled for devices that need not be here: its memory, cycles and messages, before it runs.

The step is that of `fjt.experiment.programs`, from shapes alone: no weights are read, and data only where its lengths
decide the shapes of batches.
"""

import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, MeshConfig, ScratchConfig, Settings
from fjt.core.settings import resolve_seeds
from fjt.data import packing
from fjt.data.glue import Task
from fjt.experiment import chips, program_text, recipes
from fjt.experiment.hyper_parameters import build_hyper
from fjt.experiment.inputs import Inputs
from fjt.experiment.layout import plan_layout, row_grid
from fjt.experiment.parameters import Parameters, choose, load
from fjt.experiment.prepare import build_model, fill, quiet_below, share
from fjt.experiment.prepared import Blueprint, Stage, draw
from fjt.experiment.programs import bytes_of, compile_ahead
from fjt.models import config_json
from fjt.models.encoder import Model, abstract_params
from fjt.models.families import find_family, scratch_config
from fjt.models.family import EncoderConfig
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.kinds import find_problem
from fjt.training import placement
from fjt.tuning import partition

ENCODERS = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}  # layers, width, heads, inner width
WORDS, POSITIONS = 30522, 512  # of BERT
TASK = Task("imagined", CLASSIFICATION.name, ("no", "yes"), CLASSIFICATION.table_metrics)  # where no data is read
ROWS, STEPS = 10_000, 2**40  # of that data and of the run; the programs do not depend on them
TRIES = 5  # compilations that look for the largest batch, or confirm it
JUMP = 64  # a batch is at most so many times as large as one that fits
CLOSE = 1.05  # a batch is not tried that is larger than one that fits by less than this factor


@dataclasses.dataclass(frozen=True)
class Case:
    """A step to compile.

    Attributes:
        batch: examples of all devices together.
        mesh: the layout.
    """

    batch: int
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a compiled step takes, per device.

    Attributes:
        case: the step.
        arguments: bytes of what it reads: parameters, the optimizer's state, the batch.
        temporaries: bytes that it needs besides while it runs.
        needed: bytes of both, without results that take the place of arguments; where it does not fit, what it would
            need as far as the compiler says.
        peak: bytes of the arrays that exist at one time at most, in all kinds of the device's memory, as the compiler
            counts them.
        capacity: bytes of the device that programs can use; inf where nobody says.
        flops: operations.
        cycles: of a core, as estimated by a TPU's compiler without communication; 0 for other devices.
        sent: {(kind of collective, dtype): bytes} of the results.
        costs: {place in the code: estimated cycles}.
        seconds: time of compilation.
    """

    case: Case
    arguments: int
    temporaries: int
    needed: float
    peak: int
    capacity: float
    flops: float
    cycles: int
    sent: program_text.Sent
    costs: dict[str, int]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the compiler made the program, and the device has as much memory."""
        return self.arguments > 0 and self.needed <= self.capacity


class Ahead:
    """Compiles steps of one run in several batches and layouts.

    Args:
        settings: of the run, perhaps with open values; their batch size and mesh are those of each Case.
        devices: for which it is compiled.
        encoder: "base", "large", LAYERSxWIDTHxHEADSxINNER or a directory with a config.json; "" for the run's own.
        padded: tokens of each example; 0: the batches that the run's data gives.  With an encoder of its own, the head
            has two classes.
        capacity: bytes of a device that programs can use; inf where nobody says.

    Raises:
        UserError: options that do not fit.
    """

    def __init__(
        self, settings: Settings, devices: Sequence[Any], encoder: str, padded: int, capacity: float = math.inf
    ) -> None:
        if settings.experiment.model.adapter:
            raise UserError("config.model.adapter: a program does not depend on it. Give its config.tune options.")
        if encoder and not padded:
            raise UserError("--encoder needs --padded=TOKENS: the data of a run needs the tokenizer of its own model.")
        self._devices, self._padded, self._capacity = devices, padded, capacity
        self._inputs = None if encoder else Inputs(settings)
        if self._inputs:
            _, self._config, _, checkpoint = self._inputs.base
            self._scratch = checkpoint is None
        else:
            self._config, self._scratch = find_encoder(encoder), False
        self._task = self._inputs.data[0] if self._inputs else TASK
        if padded and not find_problem(self._task.kind).one_slot:
            raise UserError(f"--padded={padded}: {self._task.name} predicts several places of a text. Leave it out.")
        self._rows = self._inputs.train_size if self._inputs and not padded else 0  # 0: as many as a batch takes
        self._settings = resolve_seeds(settings)

    def compile(self, case: Case) -> Measured:
        """What a step takes."""
        blueprint, stage, shape = self._plan(case)
        start = time.perf_counter()
        try:
            executable, flops = compile_ahead(blueprint, stage, shape)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed, spent = max(chips.sizes(str(error)), default=math.inf), time.perf_counter() - start
            return Measured(case, 0, 0, needed, 0, self._capacity, math.nan, 0, {}, {}, spent)
        about, text = executable.memory_analysis(), executable.as_text()
        return Measured(
            case=case,
            arguments=about.argument_size_in_bytes,
            temporaries=about.temp_size_in_bytes,
            needed=bytes_of(executable),
            peak=about.peak_memory_in_bytes,
            capacity=self._capacity,
            flops=flops / blueprint.mesh.size,
            cycles=program_text.cycles(text),
            sent=program_text.sent(text),
            costs=program_text.costs(text),
            seconds=time.perf_counter() - start,
        )

    def largest(self, case: Case, known: Sequence[Measured], told: Callable[[Measured], None]) -> Measured | None:
        """The largest batch that fits, as estimated by two batches and confirmed by a third; None if not even one does.

        Args:
            case: the layout; its batch does not matter.
            known: what was measured in this layout.
            told: called with each compilation.
        """
        accumulation = self._settings.experiment.train.accumulation
        mesh = placement.make_mesh(case.mesh.data, case.mesh.model, self._devices)
        groups = placement.num_shards(mesh) * accumulation

        def measure(batch: int) -> Measured:
            found = self.compile(dataclasses.replace(case, batch=batch))
            told(found)
            return found

        if math.isinf(self._capacity):
            return None
        fitting = {one.case.batch: one for one in known if one.fits}
        for rows in (8, 32, 2, 1):
            if len(fitting) < 2 and rows * groups not in fitting:
                one = measure(rows * groups)
                fitting |= {one.case.batch: one} if one.fits else {}
        if len(fitting) < 2:
            return fitting.popitem()[1] if fitting else None
        other, best = (fitting[batch] for batch in sorted(fitting)[-2:])
        for _ in range(TRIES):
            each = (other.needed - best.needed) / (other.case.batch - best.case.batch)
            most = min(JUMP * best.case.batch, self._rows or math.inf)
            estimate = best.case.batch + (self._capacity - best.needed) / each if each > 0 else most
            batch = groups * int(min(estimate, most) // groups)
            if batch <= best.case.batch * (1.0 if other.fits else CLOSE):
                break
            found = measure(batch)
            if not found.fits:
                other = found
            elif other.fits and estimate <= most:
                return found
            else:
                other, best = (best if other.fits else other), found
        return best

    def _plan(self, case: Case) -> tuple[Blueprint, Stage, packing.Shape]:
        """(what the programs are made from, the last stage, the largest shape of a batch)."""
        experiment, execution = self._settings.experiment, self._settings.execution
        train = dataclasses.replace(experiment.train, batch_size=case.batch)
        settings = Settings(
            dataclasses.replace(experiment, train=train), dataclasses.replace(execution, mesh=case.mesh)
        )
        sharding = share(settings, self._config, self._devices)
        settings, _ = fill(
            settings,
            rows=self._rows or ROWS,
            config=self._config,
            scratch=self._scratch,
            platform=placement.platform(sharding.mesh),
        )
        experiment, methods = settings.experiment, partition.find_methods(settings.experiment.tune)
        partition.check(methods, self._config, self._padded or experiment.model.max_length)
        model = build_model(experiment, self._config, self._task)
        base = abstract_params(model)
        missing = self._missing(experiment, base)
        params, names = choose(experiment, self._config, base, missing, scratch=self._scratch)
        shape, label = self._shape(experiment, model, sharding.mesh)
        plans = partition.stages(methods, names, missing, self._config.layers, STEPS, 1)
        _, chosen, _ = plans[-1]
        model = quiet_below(experiment, model, chosen)
        stage = Stage(0, STEPS, frozenset(chosen), model, partition.opened(plans), (shape,))
        blueprint = Blueprint(
            settings=settings,
            task=self._task,
            params=params,
            label=label,
            hyper=build_hyper(experiment, self._task, label, Parameters(params, names, missing, ()), self._config),
            sharding=sharding,
        )
        return blueprint, stage, shape

    def _missing(self, experiment: ExperimentConfig, base: tree.Tree) -> tuple[str, ...]:
        """The names that a checkpoint lacks; of an encoder without one, what is new in every run."""
        if self._inputs:
            return load(experiment, self._inputs, base, None).missing
        names, family = tree.flatten(base), find_family(self._config.family)
        again = partition.reinitialised(names, self._config, experiment.model.reinit_layers)
        return tuple(sorted({*again, *(name for name in names if family.is_new(name))}))

    def _shape(
        self, experiment: ExperimentConfig, model: Model, mesh: jax.sharding.Mesh
    ) -> tuple[packing.Shape, np.ndarray]:
        """(the largest shape of a batch, labels)."""
        if self._inputs and not self._padded:
            problem, texts = find_problem(self._task.kind), self._inputs.examples["train"]
            examples = draw(experiment, problem, "train", texts, self._inputs.base[0])
            shapes = plan_layout(experiment, problem, examples, model, mesh=mesh).plan.shapes
            return max(shapes, key=lambda shape: shape.rows * shape.row_length), examples.label
        groups = placement.num_shards(mesh) * experiment.train.accumulation
        recipes.check_groups(experiment.train.batch_size, groups)
        grid = row_grid(placement.platform(mesh))
        tokens = self._padded + partition.prompt_length(partition.find_methods(experiment.tune))
        rows = -(-experiment.train.batch_size // groups)
        shape = packing.Shape(groups, rows, grid * -(-tokens // grid), rows)
        return shape, self._inputs.examples["train"].label if self._inputs else np.zeros(1, np.int32)


def find_encoder(name: str) -> EncoderConfig:
    """The EncoderConfig that a word, LAYERSxWIDTHxHEADSxINNER, or a directory's config.json describes."""
    if os.path.isdir(name):
        return config_json.read_config(name)[0]
    numbers = ENCODERS.get(name) or tuple(map(int, re.findall(r"\d+", name)))
    if name not in ENCODERS and not re.fullmatch(r"\d+x\d+x\d+x\d+", name):
        raise UserError(
            f"--encoder={name} should be {', '.join(ENCODERS)}, LAYERSxWIDTHxHEADSxINNER such as 12x768x12x3072, or a "
            "directory with a config.json."
        )
    layers, width, heads, inner = numbers
    raw = scratch_config(ScratchConfig(layers, width, heads, inner), WORDS, POSITIONS)
    return config_json.parse_config(raw, f"--encoder={name}")
