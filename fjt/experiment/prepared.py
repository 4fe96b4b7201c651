"""A prepared run: everything that is known about it before compilation."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from fjt.core import tree
from fjt.core.options import ExperimentConfig, MaskConfig, OptimConfig, Settings
from fjt.core.seeds import make_key
from fjt.data import batches, packing
from fjt.data.glue import Split, Task
from fjt.experiment.teachers import Teachers
from fjt.models.encoder import Model
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem
from fjt.training import placement, schedules
from fjt.training.hyper import Hyper
from fjt.tuning import partition


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run in which one set of parameters is trained.

    Attributes:
        first: its first step.
        last: the step after its last one.
        trainable: the names that are trained.
        model: the Model that they are trained under.
        groups: the names that opened at each stage up to this one, for the optimizer's counts; () in a run of one
            stage.
        shapes: of its batches, in the order of the plan's shapes.
        rate_factor: of the learning rates of its steps.
    """

    first: int
    last: int
    trainable: frozenset[str]
    model: Model
    groups: tuple[frozenset[str], ...]
    shapes: tuple[packing.Shape, ...]
    rate_factor: float = 1.0


def rates_of(optim: OptimConfig, steps: int, stages: Sequence[Stage]) -> Float32[np.ndarray, " steps"]:
    """The learning rate of each step of a run with these stages.

    Args:
        optim: the options.
        steps: number of steps.
        stages: the stages.
    """
    rates = schedules.learning_rates(optim, steps)
    for stage in stages:
        rates[stage.first : stage.last] *= stage.rate_factor
    return rates


def draw(
    options: ExperimentConfig,
    problem: Problem,
    split: str,
    texts: batches.Examples,
    tokenizer: Any,
    epoch: int = 0,
) -> batches.Examples:
    """The examples of a split in an epoch, with room for the learned tokens of the tuning methods.

    Draws for training depend on seeds.data and config.mask; those for other splits are the same in all runs.

    Args:
        options: of the run, without open values.
        problem: its Problem.
        split: the name of the split.
        texts: its tokens and slots, as they were read.
        tokenizer: of the model.
        epoch: its number.
    """
    seed, mask = (options.seeds.data, options.mask) if split == "train" else (0, MaskConfig())
    assert seed is not None, "seeds are resolved"
    drawn = problem.draw(texts, tokenizer, mask, make_key(seed, f"draw/{split}"), epoch)
    return batches.prepend(drawn, partition.prompt_length(partition.find_methods(options.tune)))


def choice(options: ExperimentConfig, task: Task) -> str:
    """The name of the metric that chooses the best step, or the best of several runs.

    Args:
        options: of a run.
        task: what is predicted.
    """
    select = options.train.select
    return task.selects_by if select in ("last", "best") else select


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What the programs of a run are made from.

    Attributes:
        settings: its settings, without open values.
        task: what is predicted.
        params: all parameters, float32 on the host, or their shapes.
        label: the labels of any slots.
        hyper: the hyper-parameters; its learning rate is 0.
        sharding: where each parameter is on the devices.
    """

    settings: Settings
    task: Task
    params: tree.Tree
    label: np.ndarray
    hyper: Hyper
    sharding: placement.Layout

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices."""
        return self.sharding.mesh

    @property
    def problem(self) -> Problem:
        """The Problem of the task."""
        return find_problem(self.task.kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Blueprint):
    """Everything that is known about a run before compilation.

    Attributes:
        origins: {key: origin} of the options that were open or given.
        splits: {name: texts and labels}.
        texts: {name: tokens and slots of the splits}, as they were read.
        examples: {name: tokens and slots} that the model reads; of train, those of its first epoch.
        trained: the examples to train on: those of train, perhaps with synthetic ones behind them.
        tokenizer: of the base model.
        model: the Model of the last stage.
        trainable: the names that are trained, in the last stage at least.
        stages: its stages.
        missing: the names that the checkpoint lacked.
        unused: the checkpoint's tensors that no parameter took.
        schedule: the examples of each step.
        plan: the shapes of the batches.
        steps: number of optimizer steps.
        evaluations: the steps after which dev is evaluated.
        rates: the learning rate of each step.
        average_rates: the share of each step in the average over steps, see `schedules.average_rates`.
        contents: {name: sha256} of data, weights, tokenizer, adapter and teachers.
        fingerprint: of settings and contents.
        adopted: the names of base parameters that came from an adapter.
        teachers: the runs that it learns from, None for none.
    """

    origins: dict[str, str]
    splits: dict[str, Split]
    texts: dict[str, batches.Examples]
    examples: dict[str, batches.Examples]
    trained: batches.Examples
    tokenizer: Any
    model: Model
    trainable: frozenset[str]
    stages: tuple[Stage, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    schedule: batches.Schedule
    plan: packing.Plan
    steps: int
    evaluations: tuple[int, ...]
    rates: Float32[np.ndarray, " steps"]
    average_rates: Float32[np.ndarray, " steps"] | None
    contents: dict[str, str]
    fingerprint: str
    adopted: frozenset[str]
    teachers: Teachers | None = None

    @property
    def synthetic(self) -> dict[str, int]:
        """{label: number of its synthetic training examples}, without labels that have none; {} without train.smote."""
        if not self.settings.experiment.train.smote:
            return {}
        made = self.trained.label[len(self.examples["train"]) :]
        counts = np.bincount(made, minlength=len(self.task.label_names)).tolist()
        return {name: count for name, count in zip(self.task.label_names, counts, strict=True) if count}

    def of_step(self, step: int) -> batches.Examples:
        """The training examples of a step, as the problem draws them in its epoch."""
        chosen = self.schedule.batches(step, step + 1)[0]
        texts = batches.take(self.texts["train"], chosen[chosen >= 0])
        return self.draw("train", texts, epoch=step // self.schedule.steps_per_epoch)

    def draw(self, split: str, texts: batches.Examples, tokenizer: Any = None, epoch: int = 0) -> batches.Examples:
        """As the function `draw`, with the run's options.  tokenizer: by default the run's own."""
        return draw(self.settings.experiment, self.problem, split, texts, tokenizer or self.tokenizer, epoch)

    @property
    def each_step(self) -> dict[str, Float32[np.ndarray, " steps"]]:
        """{attribute of Hyper: its value in each step}."""
        averaged = {} if self.average_rates is None else {"average_rate": self.average_rates}
        return {"learning_rate": self.rates} | averaged

    def ending(self, ends: Sequence[int]) -> "Experiment":
        """The run whose first stages end at these steps, perhaps earlier than planned.

        The stage after the last of them is longer by that, so that the run has as many steps.
        """
        if not ends:
            return self
        number, planned = len(ends), self.stages
        bounds = [*itertools.pairwise((0, *ends)), (ends[-1], planned[number].last)]
        moved = [
            dataclasses.replace(stage, first=first, last=last)
            for stage, (first, last) in zip(planned, bounds, strict=False)
        ]
        stages = (*moved, *planned[number + 1 :])
        rates = rates_of(self.settings.experiment.optim, self.steps, stages)
        return dataclasses.replace(self, stages=stages, rates=rates)

    @property
    def choice(self) -> str:
        """The name of the metric that chooses the best step."""
        return choice(self.settings.experiment, self.task)
