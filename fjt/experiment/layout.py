"""The batches of a run: how many steps, on which examples, in arrays of which shapes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, TrainConfig
from fjt.data import batches, packing
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
    mesh: jax.sharding.Mesh,
    shapes: Sequence[packing.Shape] = (),
) -> Layout:
    """The Layout of a run.

    Args:
        experiment: options without open values.
        problem: its Problem.
        train: the training split.
        model: the Model of the run.
        mesh: the devices.
        shapes: the shapes that batches take; by default they are planned for this run.

    Raises:
        UserError: options that do not fit the data, the devices or the shapes.
    """
    options, rows = experiment.train, len(train)
    steps, groups = recipes.total_steps(experiment, rows), placement.num_shards(mesh) * options.accumulation
    recipes.check_groups(min(options.batch_size, rows), groups)
    assert experiment.seeds.data is not None, "seeds are resolved"
    schedule = make_schedule(experiment, problem, train, experiment.seeds.data)
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


def make_schedule(
    experiment: ExperimentConfig, problem: Problem, train: batches.Examples, seed: int
) -> batches.Schedule:
    """The Schedule of a run.

    Args:
        experiment: options without open values.
        problem: its Problem.
        train: the training split.
        seed: seeds.data of the run.

    Raises:
        UserError: shares of tasks that do not fit the tasks.
    """
    mixture = _mix(experiment.train, problem.sizes(train.label))
    return batches.Schedule(len(train), experiment.train.batch_size, seed, mixture)


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
    ends = np.round(np.cumsum(weights) / weights.sum() * sum(sizes)).astype(int)
    places = np.diff(ends, prepend=0)
    if not places.all():
        raise UserError(
            f"config.train: a task would have {places.min()} of the {sum(sizes):,} examples of an epoch, its share "
            f"being {weights[places.argmin()] / weights.sum():.2g}. Give it a larger share."
        )
    return tuple(zip(sizes, map(int, places), strict=True))


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
