"""The batches of a run: how many steps, on which examples, in arrays of which shapes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig
from fjt.data import batches, packing
from fjt.experiment import recipes
from fjt.models.encoder import Model


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
    train: batches.Examples,
    model: Model,
    *,
    devices: int,
    shapes: Sequence[packing.Shape] = (),
) -> Layout:
    """The Layout of a run.

    Args:
        experiment: options without open values.
        train: the training split.
        model: the Model of the run.
        devices: number of devices of the mesh.
        shapes: the shapes that batches take; by default they are planned for this run.

    Raises:
        UserError: options that do not fit the data, the devices or the shapes.
    """
    options, rows = experiment.train, len(train)
    steps, groups = recipes.total_steps(experiment, rows), devices * options.accumulation
    recipes.check_groups(min(options.batch_size, rows), groups)
    assert experiment.seeds.data is not None, "seeds are resolved"
    schedule = batches.Schedule(rows, options.batch_size, experiment.seeds.data)
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
        plan = plan_shapes(lengths, experiment, groups, model.config.width, slots=slots)
    return Layout(steps=steps, groups=groups, schedule=schedule, plan=plan)


def plan_shapes(
    lengths: Int[np.ndarray, "K B"],
    experiment: ExperimentConfig,
    groups: int,
    width: int,
    most: int = 3,
    slots: Int[np.ndarray, "K B"] | None = None,
) -> packing.Plan:
    """The packing.Plan of batches.

    Args:
        lengths: tokens of each example; 0 for no example.
        experiment: options without open values.
        groups: groups per batch.
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
        grid=row_grid(),
        most_shapes=most,
        one_a_row=not options.packing,
        width=width,
    )


def row_grid() -> int:
    """The number of which row lengths are multiples: 128 on a TPU, whose tiles are that wide, else 8."""
    return 128 if jax.default_backend() == "tpu" else 8
