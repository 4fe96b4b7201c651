"""Many runs in one program: the one step over lanes S, beside a frozen backbone that stands once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import tree
from fjt.training.step import eval_step, train_step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """What differs from lane to lane, every leaf with a leading axis S.

    state: TrainState; frozen: those frozen leaves that are a lane's own, such as VeRA's random matrices; hyper: Hyper;
    active: bool[S], the lanes that still move.
    """

    state: object
    frozen: dict
    hyper: object
    active: jax.Array


def stack(trees):
    """The tree whose leaves are those of S equal trees, stacked on a new leading axis (numpy)."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def take(trees, lane):
    """The tree of one lane of leaves [S, ...]."""
    return jax.tree.map(lambda leaf: leaf[lane], trees)


def split_frozen(frozen):
    """(the leaves that all lanes share, [the others of each lane]) of each lane's frozen leaves, trees of numpy."""
    flat = [tree.flatten(one) for one in frozen]
    own = {name for name in flat[0] if name.startswith("adapters/")}
    for name in flat[0].keys() - own:
        if not all(leaf[name] is flat[0][name] or np.array_equal(leaf[name], flat[0][name]) for leaf in flat):
            raise ValueError(f"{name} is frozen and differs between lanes")
    shared, _ = tree.split(frozen[0], flat[0].keys() - own)
    return shared, [tree.split(one, own)[0] for one in frozen]


def lanes_step(lanes, shared, batch, *, one_batch, **parts):
    """(the next Lanes, metrics f32[S] each) after one step of every lane that is active; the others stay as they are.

    shared: the frozen parameters of all lanes; batch: as of `train_step`, arrays [S, G, ...], or [G, ...] and the same
    for all with one_batch; parts: the keywords of `train_step`.
    """

    def one(lane, batch):
        state, metrics = train_step(lane.state, tree.merge(shared, lane.frozen), batch, lane.hyper, **parts)
        return jax.tree.map(lambda new, old: jnp.where(lane.active, new, old), state, lane.state), metrics

    state, metrics = jax.vmap(one, in_axes=(0, None if one_batch else 0))(lanes, batch)
    return dataclasses.replace(lanes, state=state), metrics


def lanes_eval(lanes, shared, batch, *, model):
    """Logits f[G, E, S, C] of a batch that is the same for all lanes."""

    def one(lane):
        params = tree.merge(shared, lane.frozen, lane.state.trainable)
        return eval_step(params, batch, lane.hyper.methods, model=model)

    return jax.vmap(one, out_axes=2)(lanes)


def drop(lanes, lane):
    """Lanes without one whose numbers are no longer finite: it is inactive, and its state is zeros."""

    def zero(leaf):
        return leaf.at[lane].set(jnp.zeros_like(leaf[lane]))

    return dataclasses.replace(lanes, state=jax.tree.map(zero, lanes.state), active=lanes.active.at[lane].set(False))
