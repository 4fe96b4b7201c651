"""Many runs in one program: the one step over J lanes, which share one frozen backbone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fjt.core import tree
from fjt.training.hyper import Hyper
from fjt.training.step import Batch, Model, Reduce, TrainState, eval_step, train_step


@no_type_check  # trees of shapes and of shardings are made of it as well
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """What differs between lanes.  Every leaf has a leading axis J.

    Attributes:
        state: what is trained.
        frozen: frozen parameters that belong to one lane, such as VeRA's random matrices.
        hyper: hyper-parameters.
        active: bool[J], the lanes that are still trained.
    """

    state: TrainState
    frozen: tree.Tree
    hyper: Hyper
    active: jax.Array


def stack(trees: Sequence[Any]) -> Any:
    """The tree whose leaves are the leaves of J trees of one structure, stacked on a new leading axis (numpy)."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def take(trees: Any, lane: int) -> Any:
    """The tree of one lane.  trees: with leaves [J, ...]."""
    return jax.tree.map(lambda leaf: leaf[lane], trees)


def split_frozen(frozen: Sequence[tree.Tree]) -> tuple[tree.Tree, list[tree.Tree]]:
    """(the frozen parameters that all lanes share, the others of each lane).

    Args:
        frozen: all frozen parameters of each lane, numpy arrays.

    Raises:
        ValueError: a base parameter differs between lanes.
    """
    flat = [tree.flatten(one) for one in frozen]
    own = {name for name in flat[0] if name.startswith("adapters/")}
    for name in flat[0].keys() - own:
        if not all(leaf[name] is flat[0][name] or np.array_equal(leaf[name], flat[0][name]) for leaf in flat):
            raise ValueError(f"{name} is frozen and differs between lanes")
    shared, _ = tree.split(frozen[0], flat[0].keys() - own)
    return shared, [tree.split(one, own)[0] for one in frozen]


def lanes_step(
    lanes: Lanes, shared: tree.Tree, batch: Batch, *, one_batch: bool, **parts: Any
) -> tuple[Lanes, dict[str, Float[jax.Array, " J"]]]:
    """The Lanes after one step of every active lane, and the metrics of the step.  Other lanes do not change.

    Args:
        lanes: before the step.
        shared: the frozen parameters of all lanes.
        batch: arrays [J, G, ...], or [G, ...] if all lanes train on the same batch.
        one_batch: whether they do.
        parts: the keywords of `train_step`.
    """

    def one(lane: Lanes, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = train_step(lane.state, tree.merge(shared, lane.frozen), batch, lane.hyper, **parts)
        return jax.tree.map(lambda new, old: jnp.where(lane.active, new, old), state, lane.state), metrics

    state, metrics = jax.vmap(one, in_axes=(0, None if one_batch else 0))(lanes, batch)
    return dataclasses.replace(lanes, state=state), metrics


def lanes_eval(
    lanes: Lanes, shared: tree.Tree, batch: Batch, *, model: Model, reduce: Reduce
) -> Float[jax.Array, "G S J K"]:
    """As `eval_step`, of a batch that is the same for all lanes."""
    own = tree.merge(lanes.frozen, lanes.state.trainable)
    return models_eval(shared, own, lanes.hyper.methods, batch, model=model, reduce=reduce)


def models_eval(
    shared: tree.Tree, own: tree.Tree, values: Mapping[str, Any], batch: Batch, *, model: Model, reduce: Reduce
) -> Float[jax.Array, "G S J K"]:
    """As `eval_step`, of J models of one shape.

    Args:
        shared: the parameters that all models share.
        own: the others, with a leading axis J.
        values: of the tuning methods, with a leading axis J.
        batch: see `eval_step`, also for the arguments that follow.
    """

    def one(own: tree.Tree, values: Mapping[str, Any]) -> jax.Array:
        return eval_step(tree.merge(shared, own), batch, values, model=model, reduce=reduce)

    return jax.vmap(one, out_axes=2)(own, values)


def drop(lanes: Lanes, lane: int) -> Lanes:
    """The Lanes after one whose numbers are no longer finite was taken out: it is inactive and its state is zeros."""

    def zero(leaf: jax.Array) -> jax.Array:
        return leaf.at[lane].set(jnp.zeros_like(leaf[lane]))

    return dataclasses.replace(lanes, state=jax.tree.map(zero, lanes.state), active=lanes.active.at[lane].set(False))
