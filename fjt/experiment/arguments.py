"""The arguments of a run's programs: its first state, its batches, the chunks of an evaluation, and their shapes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import tree
from fjt.data import batches, packing
from fjt.experiment import features, recipes
from fjt.experiment.layout import row_grid
from fjt.experiment.prepared import Blueprint, Experiment, Stage
from fjt.models.encoder import Model
from fjt.training import evaluate, placement
from fjt.training.hyper import Hyper
from fjt.training.lanes import Lanes, split_frozen
from fjt.training.optim import make_optimizer
from fjt.training.step import TrainState, init_state
from fjt.tuning import partition

Shapes = dict[str, jax.ShapeDtypeStruct]  # of the arrays of a batch


def first_state(experiment: Blueprint, stage: Stage, hyper: Hyper, params: tree.Tree | None = None) -> TrainState:
    """The TrainState of a stage at step 0.

    Args:
        experiment: the run.
        stage: the stage.
        hyper: hyper-parameters.
        params: all parameters; by default those of the experiment.
    """
    trainable = tree.split(experiment.params if params is None else params, stage.trainable)[0]
    return init_state(trainable, hyper, make_optimizer(experiment.settings.experiment.optim, stage.groups))


def above(stage: Stage, params: tree.Tree) -> tree.Tree:
    """The parameters that a stage computes with: without layers below the cached features that it starts from."""
    return partition.split_below(params, stage.model.start, stage.model.config.layers)[1]


def build_batch(
    experiment: Experiment, shape: packing.Shape, cached: features.States, k: int
) -> tuple[dict[str, np.ndarray], int, int]:
    """The batch of step k.

    Args:
        experiment: the run.
        shape: of the batch.
        cached: the cached features of each split, if the run starts from any.
        k: the step.

    Returns:
        batch: its arrays.
        examples: number of examples.
        tokens: number of their tokens.
    """
    examples, indices = experiment.trained, experiment.schedule.batches(k, k + 1)[0]
    if experiment.problem.redraws:
        examples = experiment.of_step(k)
        indices = np.arange(len(examples))
    one_a_row = not experiment.settings.experiment.train.packing
    own = placement.own_groups(experiment.mesh, shape.groups)
    learned = None if experiment.teachers is None else experiment.teachers.predicted
    batch, _ = batches.build(examples, indices, shape, one_a_row, cached["train"], own, learned)
    return batch, int((indices >= 0).sum()), int(batches.lengths_of(examples, indices).sum())


def pack_evaluated(experiment: Experiment, stage: Stage) -> dict[str, evaluate.Packed]:
    """{name: chunks} of the splits that are evaluated, as a stage evaluates them."""
    names = recipes.evaluated_splits(experiment.settings.experiment, experiment.examples)
    splits = {name: experiment.examples[name] for name in names}
    groups, config = placement.num_shards(experiment.mesh), stage.model.config
    own = placement.own_groups(experiment.mesh, groups)
    if stage.model.start == config.layers:
        return evaluate.deal_splits(splits, groups=groups, own=own)
    return evaluate.pack_splits(
        splits,
        groups=groups,
        own=own,
        grid=row_grid(placement.platform(experiment.mesh)),
        width=config.width,
        one_slot=stage.model.one_slot,
        labels=experiment.problem.reduces,
    )


def abstract_run(experiment: Blueprint, stage: Stage) -> tuple[TrainState, tree.Tree]:
    """The shapes of a stage's TrainState and of the frozen parameters that it computes with."""
    state = jax.eval_shape(functools.partial(first_state, experiment, stage, experiment.hyper), experiment.params)
    frozen = jax.eval_shape(lambda params: tree.split(params, stage.trainable)[1], experiment.params)
    return state, above(stage, frozen)


def abstract_state(experiment: Experiment, step: int, ends: Sequence[int]) -> TrainState:
    """The shapes of the TrainState after a step, with shardings: on a boundary, of the stage that ends there.

    Args:
        experiment: the run.
        step: number of steps taken.
        ends: the steps at which stages have ended under `tune.stage_patience`.
    """
    stage = next(stage for stage in experiment.ending(ends).stages if step <= stage.last)
    return experiment.sharding.shapes(abstract_run(experiment, stage)[0])


def abstract_lanes(experiment: Experiment, stage: Stage, size: int) -> tuple[Lanes, tree.Tree]:
    """The shapes of the Lanes of several runs and of the frozen parameters that they share.

    Args:
        experiment: one of the runs.
        stage: its only stage.
        size: number of runs.
    """
    state, frozen = abstract_run(experiment, stage)
    shared, (own,) = split_frozen([frozen])
    hyper = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), experiment.hyper)
    active: Any = jax.ShapeDtypeStruct((), np.bool_)
    whole = placement.replicated(experiment.mesh)
    shared = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shared)
    return add_lane_axis(Lanes(state=state, frozen=own, hyper=hyper, active=active), size, experiment.mesh), shared


def add_lane_axis(shapes: Any, size: int, mesh: jax.sharding.Mesh) -> Any:
    """The shapes with a leading axis of lanes.  What was sharded by group is so on its second axis now."""

    def with_lanes(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = placement.replicated(mesh) if x.sharding is None else placement.lanes_by_group(mesh)
        return jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=sharding)

    return jax.tree.map(with_lanes, shapes)


def abstract_batch(
    shape: packing.Shape, label: np.ndarray, model: Model, mesh: jax.sharding.Mesh, hyper: Hyper | None = None
) -> Shapes:
    """The shapes of the arrays of a batch, sharded by group.

    Args:
        shape: of the batch.
        label: of any split.
        model: says whether the batch holds tokens or cached features.
        mesh: the devices.
        hyper: of a step, which says what it learns from teachers; None for an evaluation.
    """
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.num_slots)
    sizes: dict[str, tuple[tuple[int, ...], Any]] = {
        "example": (slots, np.int32),
        "slot_example": (slots, np.int32),
        "slot_position": (slots, np.int32),
        "label": ((*slots, *label.shape[1:]), label.dtype),
        "weight": (slots, np.float32),
    }
    if hyper is not None and hyper.soft_weight is not None:
        sizes |= {"teacher": ((*slots, model.classes), np.float32)}
    if hyper is not None and hyper.hidden_weight is not None:
        sizes |= {"teacher_vectors": ((*slots, model.config.width), np.float32)}
    if shape.rows:
        names = ("segment_ids", "position_ids")
        sizes |= {"slot_token": (slots, np.int32)} | {name: (tokens, np.int32) for name in names}
    if model.start < 0:
        sizes |= {"token_ids": (tokens, np.int32), "type_ids": (tokens, np.int32)}
    else:
        places = tokens if shape.rows else slots
        sizes |= {"hidden": ((*places, model.config.width), jnp.dtype(model.dtype))}
    sharding = placement.by_group(mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}
