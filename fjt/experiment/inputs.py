"""The inputs of a run, which do not depend on the tuning method: data, tokenizer and base model."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fjt.core import console, network
from fjt.core.errors import UserError
from fjt.core.files import local_path
from fjt.core.options import DropoutConfig, ExecutionConfig, ExperimentConfig, ModelConfig, Settings
from fjt.data import sources, tokenization
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.synthetic import VOCAB
from fjt.experiment import teachers
from fjt.experiment.teachers import Teachers
from fjt.models import config_json, model_path, pretrained
from fjt.models.families import find_family, scratch_config
from fjt.models.family import EncoderConfig
from fjt.models.pretrained import Checkpoint
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem

Base = tuple[Any, EncoderConfig, dict[str, Any], Checkpoint | None]  # tokenizer, config, config.json, checkpoint


UNKNOWN = 0.1  # share of unknown tokens above which there is a warning
EVERY = 20_000  # examples between two lines of progress of a piped run


class Inputs:
    """The parts that experiments on the same data and base model share, each read when it is first used.

    Reading raises UserError.
    """

    def __init__(self, settings: Settings, view: console.View = console) -> None:
        self._experiment, self._view = settings.experiment, view
        self._cache = cache_dir(settings.execution)

    @functools.cached_property
    def data(self) -> tuple[Task, dict[str, Split]]:
        """(Task, {name: Split})."""
        return _load_data(self._experiment, self._cache)

    @functools.cached_property
    def path(self) -> str:
        """The directory of the base model; "" for random weights."""
        model = self._experiment.model
        return model_path.resolve(model.path, model.revision) if model.path else ""

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, read without the weights."""
        model = self._experiment.model
        if not self.path:
            return tokenization.load_tokenizer(model.scratch.vocab or VOCAB)
        family = find_family(config_json.read_config(self.path)[0].family)
        return tokenization.load_tokenizer(self.path, family.tokenizer)

    @functools.cached_property
    def base(self) -> Base:
        """(tokenizer, EncoderConfig, contents of config.json, Checkpoint or None for random weights)."""
        return _load_model(_base_model(self._experiment.model), self.path, _stamp(self.path))

    @functools.cached_property
    def examples(self) -> dict[str, Examples]:
        """{name: Examples} of the splits."""
        task, splits = self.data
        problem = find_problem(task.kind)
        tokens = _tokenize(splits, self.base[0], self._experiment, problem, self._cache, self._view)
        return {name: problem.targets(splits[name], examples, task) for name, examples in tokens.items()}

    @property
    def train_size(self) -> int:
        """The number of training examples."""
        return self.size_of("train")

    def size_of(self, split: str) -> int:
        """The number of examples of a split: of rows, or of their windows, which only the tokens tell."""
        task, splits = self.data
        return len(splits[split] if find_problem(task.kind).one_slot else self.examples[split])

    @property
    def _answers(self) -> dict[str, np.ndarray]:
        """{name: labels} of the splits where the labels of the slots do not tell them."""
        task, splits = self.data
        return {name: split.label for name, split in splits.items()} if find_problem(task.kind).contexts else {}

    @functools.cached_property
    def teachers(self) -> Teachers | None:
        """The runs that the run learns from, None for none."""
        task, splits = self.data
        return teachers.find(self._experiment, task, splits, self._view)

    @functools.cached_property
    def sha256(self) -> dict[str, str]:
        """{"data", "weights", "tokenizer", and of a run that has them, "teachers"}: their content hashes."""
        tokenizer, _, _, checkpoint = self.base
        taught = {"teachers": self.teachers.sha256} if self.teachers else {}
        return {
            "data": tokenization.data_sha256(self.examples, self._answers),
            "weights": checkpoint.sha256 if checkpoint else "random",
            "tokenizer": tokenization.tokenizer_sha256(tokenizer),
        } | taught


def _check_documents(name: str, done: Examples, total: int, warn: Callable[[str], Any]) -> None:
    """Warns of documents without a token that can be masked.  Raises UserError where no document has one.

    Args:
        name: of the split.
        done: its blocks.
        total: number of its documents.
        warn: prints a warning.
    """
    empty = np.count_nonzero(np.diff(done.row_slots) == 0)
    if empty == total:
        raise UserError(
            f"No document of {name} has a token that can be masked. Check config.data.files.{name}, and whether the "
            "tokenizer fits its texts."
        )
    if empty:
        warn(f"{empty:,} of {total:,} {name} documents have no token that can be masked")


def inputs_key(experiment: ExperimentConfig) -> tuple[Any, ...]:
    """The options that Inputs depend on: experiments with equal keys have equal Inputs."""
    runs = experiment.distill.runs
    return experiment.task, experiment.seeds.subset, experiment.data, _base_model(experiment.model), runs


def _base_model(model: ModelConfig) -> ModelConfig:
    """The ModelConfig without the options that do not affect reading the base model."""
    return dataclasses.replace(
        model,
        name="",
        adapter="",
        dtype=None,
        dropout=DropoutConfig(),
        keep_head=False,
        frozen_dropout=False,
        reinit_layers=0,
    )


def cache_dir(execution: ExecutionConfig) -> str:
    """The folder for tokenized data and downloaded archives."""
    return execution.cache.dir or local_path(os.environ.get("FJT_CACHE", "") or "~/.cache/fjt", "FJT_CACHE")


def _load_data(experiment: ExperimentConfig, cache: str) -> tuple[Task, dict[str, Split]]:
    """(Task, {name: Split}).  Without a network, one UserError names the flags for both data and model."""
    try:
        return sources.load(experiment, cache, find_problem)
    except network.Unreachable as error:
        path = experiment.model.path
        if not path or os.path.exists(path):
            raise
        raise UserError(
            f"{error} The model {path} would be downloaded as well: --config.model.path=DIR names a local copy."
        ) from None


def _stamp(path: str) -> tuple[tuple[str, int, int], ...]:
    """((name, bytes, time of the last change), ...) of the files of a model directory; () for random weights."""
    found = [(entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file()] if path else []
    return tuple(sorted((name, about.st_size, about.st_mtime_ns) for name, about in found))


@functools.lru_cache(maxsize=1)  # one base model for all tasks of a study
def _load_model(model: ModelConfig, path: str, stamp: tuple[tuple[str, int, int], ...]) -> Base:
    """(tokenizer, EncoderConfig, config.json, Checkpoint or None).  stamp: of the files, which may change."""
    if path:
        checkpoint = pretrained.read_checkpoint(path)
        tokenizer = tokenization.load_tokenizer(path, find_family(checkpoint.config.family).tokenizer)
        tokenization.check_vocabulary(tokenizer, checkpoint.config.vocab, path)
        tokenization.fit_types(tokenizer, checkpoint.config.types, path)
        return tokenizer, checkpoint.config, checkpoint.hf_config, checkpoint
    tokenizer = tokenization.load_tokenizer(model.scratch.vocab or VOCAB)
    raw = scratch_config(model.scratch, len(tokenizer), model.max_length)
    return tokenizer, config_json.parse_config(raw, "config.model.scratch"), raw, None


def _tokenize(
    splits: Mapping[str, Split],
    tokenizer: Any,
    experiment: ExperimentConfig,
    problem: Problem,
    cache: str,
    view: console.View,
) -> dict[str, Examples]:
    """{name: Examples} of the splits, with progress, and warnings about truncated texts and unknown tokens."""
    examples, warn, max_length = {}, view.warn, experiment.model.max_length
    stride = (experiment.model.doc_stride or 0) if problem.contexts else None
    for name, split in splits.items():
        with view.bar(f"tokenizing {name}", len(split), every=EVERY) as bar:
            pieces = bool(experiment.data.all_pieces) and name == "train"
            examples[name] = tokenization.tokenize(
                split, tokenizer, max_length, cache, bar.update, stride, problem.documents, pieces
            )
    if tokenization.drops_types(tokenizer) and any(split.pairs or split.choices for split in splits.values()):
        warn(
            "both texts of a pair have token type 0: the base model has one type (type_vocab_size), or its tokenizer "
            "gives none (model_input_names in tokenizer_config.json)"
        )
    paired = {name: not split.singles or split.choices is not None for name, split in splits.items()}
    for name, done in examples.items():
        each, total = np.diff(done.row_offsets), len(splits[name])
        several = 0 if problem.documents else np.count_nonzero(each > 1)
        for count, how in ((done.truncated, "cut to"), (several, "read in overlapping windows of")):
            if count:
                warn(f"{count:,} of {total:,} {name} examples ({count / total:.1%}) are {how} {max_length} tokens")
        if problem.documents:
            _check_documents(name, done, total, warn)
        lengths = np.diff(done.part_offsets)
        bare = np.count_nonzero(lengths <= tokenizer.num_special_tokens_to_add(paired[name]))
        if bare:
            warn(f"{bare:,} of {len(lengths):,} {name} examples have no token: the model cannot tell them apart")
        unknown = float(np.mean(done.token_ids == tokenizer.unk_token_id))
        if unknown > UNKNOWN:
            warn(f"{unknown:.0%} of the tokens of {name} are unknown to the tokenizer: does it fit the texts?")
    return examples
