"""The batches of a run: how many steps, on which examples, in arrays of which shapes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from fjt.core.errors import UserError, suggest
from fjt.core.options import ExperimentConfig, TrainConfig
from fjt.data import batches, packing, sampling
from fjt.experiment import recipes
from fjt.models.encoder import Model
from fjt.tasks.problem import Problem
from fjt.training import placement


@dataclasses.dataclass(frozen=True)
class Layout:
    """The batches of a run.

    Attributes:
        steps: number of optimizer steps.
        groups: groups per batch, data shards x accumulation.
        schedule: the examples of each step.
        plan: the shapes of the batches.
    """

    steps: int
    groups: int
    schedule: batches.Schedule
    plan: packing.Plan


def plan_layout(
    experiment: ExperimentConfig,
    problem: Problem,
    train: batches.Examples,
    model: Model,
    *,
    rows: int = 0,
    mesh: jax.sharding.Mesh,
    shapes: Sequence[packing.Shape] = (),
) -> Layout:
    """The Layout of a run.

    Args:
        experiment: options without open values.
        problem: its Problem.
        train: the examples to train on.
        model: the Model of the run.
        rows: the number of examples of an epoch; 0 for that of the split.
        mesh: the devices.
        shapes: the shapes that batches take; by default they are planned for this run.

    Raises:
        UserError: options that do not fit the data, the devices or the shapes.
    """
    options, rows = experiment.train, rows or len(train)
    steps, groups = recipes.total_steps(experiment, rows), placement.num_shards(mesh) * options.accumulation
    recipes.check_groups(min(options.batch_size, rows), groups)
    assert experiment.seeds.data is not None, "seeds are resolved"
    schedule = make_schedule(experiment, problem, train, experiment.seeds.data, rows)
    indices = schedule.batches(0, max(steps, 1))
    lengths = batches.lengths_of(train, indices)
    slots = None if model.one_slot else batches.slots_of(train, indices)
    if options.row_length and options.row_length < lengths.max():
        raise UserError(
            f"config.train.row_length={options.row_length} is less than the longest example, {lengths.max()} tokens."
        )
    if shapes and shapes[0].groups != groups:
        raise UserError(
            f"This was planned for {shapes[0].groups} groups a batch (devices x config.train.accumulation) and there "
            f"are {groups} here: take as many devices, by config.mesh.data."
        )
    if shapes:
        plan = packing.assign(lengths, shapes, one_a_row=not options.packing, slots=slots)
    else:
        grid = row_grid(placement.platform(mesh))
        plan = plan_shapes(lengths, experiment, groups, grid, model.config.width, slots=slots)
    return Layout(steps=steps, groups=groups, schedule=schedule, plan=plan)


def to_train(experiment: ExperimentConfig, problem: Problem, train: batches.Examples) -> batches.Examples:
    """The examples that steps train on: those of train, behind them the synthetic ones of config.train.smote."""
    kind = experiment.train.smote
    if not kind:
        return train
    if not (problem.exclusive and problem.one_slot):
        raise UserError(f"config.train.smote={kind} is for classification, not {problem.name}. Leave it out.")
    return sampling.extend(train)


def make_schedule(
    experiment: ExperimentConfig, problem: Problem, train: batches.Examples, seed: int, rows: int = 0
) -> batches.Schedule:
    """The Schedule of a run.

    Args:
        experiment: options without open values.
        problem: its Problem.
        train: the training split.
        seed: seeds.data of the run.
        rows: the number of examples of an epoch; 0 for that of the split.

    Raises:
        UserError: shares that do not fit the tasks or classes.
    """
    options, classes, rows = experiment.train, b"", rows or len(train)
    mixture, shares = _mix(options, problem.sizes(train.label)), options.class_shares
    if shares or options.smote:
        mixture, classes = _mix_classes(shares or ("balanced",), problem, train.label, rows), train.label.tobytes()
    return batches.Schedule(rows, options.batch_size, seed, mixture, classes)


def _mix_classes(given: tuple[Any, ...], problem: Problem, label: np.ndarray, rows: int) -> batches.Mixture:
    """The Mixture of classes that train.class_shares asks for in an epoch of `rows` examples."""
    if not (problem.exclusive and problem.one_slot):
        raise UserError(f"config.train.class_shares={given} is for classification, not {problem.name}. Leave it out.")
    balanced = given == ("balanced",)
    sizes = np.bincount(label, minlength=0 if balanced else len(given))
    numbers = balanced or all(isinstance(x, int | float) and x >= 0 for x in given)
    shares = (sizes > 0).astype(float) if balanced or not numbers else np.array(given, np.float64)
    if len(shares) != len(sizes) or not numbers or not shares.any():
        hint = suggest(given[0], ("balanced",)) if isinstance(given[0], str) and not balanced else ""
        raise UserError(
            f"config.train.class_shares={given} should be {len(sizes)} numbers of at least 0, one per label and not "
            f"all 0, or ('balanced',).{hint}"
        )
    if np.count_nonzero(sizes) == 1:
        raise UserError(f"config.train.class_shares={given}: all training rows are of one class. Leave the option out.")
    if (empty := (sizes == 0) & (shares > 0)).any():
        raise UserError(
            f"config.train.class_shares={given}: no training row has label id {empty.argmax()}. Make its share 0."
        )
    places = _divide(shares, rows)
    if (least := int(np.argmin(np.where(shares > 0, places, rows)))) >= 0 and not places[least]:
        raise UserError(
            f"config.train.class_shares={given}: label id {least} would have 0 of the {rows:,} examples of an epoch. "
            "Give it a larger share, or 0."
        )
    return tuple((size, place) for size, place in zip(sizes.tolist(), places, strict=True) if size)


def _divide(weights: Float[np.ndarray, " n"], total: int) -> list[int]:
    """Whole numbers with this total, each less than one off its share by weight."""
    return np.diff(np.round(np.cumsum(weights) / weights.sum() * total).astype(int), prepend=0).tolist()


def _mix(options: TrainConfig, sizes: tuple[int, ...]) -> batches.Mixture:
    """The Mixture of tasks that train.task_shares or train.task_temperature asks for; () without either.

    Shares of an epoch are rounded so that each is less than one example off.
    """
    given, temperature = options.task_shares, options.task_temperature
    if not given and temperature is None:
        return ()
    if given and temperature is not None:
        raise UserError("Give config.train.task_shares or config.train.task_temperature, not both.")
    if given and (len(given) != len(sizes) or not all(isinstance(x, int | float) and x > 0 for x in given)):
        raise UserError(f"config.train.task_shares={given} should be {len(sizes)} numbers above 0, one per task.")
    weights = np.array(given, np.float64) if given else np.array(sizes, np.float64) ** (1 / (temperature or 1))
    places = _divide(weights, sum(sizes))
    if not all(places):
        least = int(np.argmin(places))
        raise UserError(
            f"config.train: a task would have {places[least]} of the {sum(sizes):,} examples of an epoch, its share "
            f"being {weights[least] / weights.sum():.2g}. Give it a larger share."
        )
    return tuple(zip(sizes, places, strict=True))


def plan_shapes(
    lengths: Int[np.ndarray, "K B"],
    experiment: ExperimentConfig,
    groups: int,
    grid: int,
    width: int,
    most: int = 3,
    slots: Int[np.ndarray, "K B"] | None = None,
) -> packing.Plan:
    """The packing.Plan of batches.

    Args:
        lengths: tokens of each example; 0 for no example.
        experiment: options without open values.
        groups: groups per batch.
        grid: row lengths are multiples of this number.
        width: of the encoder.
        most: maximum number of shapes.
        slots: slots of each example; None where each has one.
    """
    options = experiment.train
    return packing.plan(
        lengths,
        slots=slots,
        groups=groups,
        row_length=options.row_length,
        grid=grid,
        most_shapes=most,
        one_a_row=not options.packing,
        width=width,
    )


def row_grid(platform: str) -> int:
    """The number of which row lengths are multiples: 128 on a TPU, whose tiles are that wide, else 8."""
    return 128 if platform == "tpu" else 8
