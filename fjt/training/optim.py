"""Optimizers as functions of hyper-parameters (optax)."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fjt.core import tree
from fjt.core.options import OptimConfig
from fjt.core.tree import Tree
from fjt.training.hyper import Hyper

Optimizer = Callable[[Hyper], optax.GradientTransformation]

# Weight decay is added to the update; elsewhere to the gradient. Both as in PyTorch.
DECOUPLED = ("adamw", "lamb", "lion", "adafactor")
EVERY_LEAF = ("bias", "scale")  # leaves without decay


class Start(NamedTuple):
    """The state of a pull towards the start.  values: the leaves with decay, as they were when they opened."""

    values: Tree


class Average(NamedTuple):
    """The state of an average over steps.  values: the average of each leaf."""

    values: Tree


def _pretrained(name: str) -> bool:
    return name.startswith("encoder/")


def decay_mask(params: Tree) -> Tree:
    """The tree of bool: whether a leaf has weight decay.  Kernels and embeddings have it, biases and LayerNorm not."""
    return tree.map_names(lambda name, leaf: _decays(name), params)


def _decays(name: str) -> bool:
    return name.rsplit("/", 1)[1] not in EVERY_LEAF


def constants(optim: OptimConfig) -> tuple[str, float, float, float, float, bool]:
    """The options that `make_optimizer` builds into the program; all others are data.

    Optimizers with equal constants share a program.
    """
    return optim.name, optim.b1, optim.b2, optim.eps, optim.momentum, _from_start(optim)


def make_optimizer(optim: OptimConfig, groups: Sequence[Set[str]] = ()) -> Optimizer:
    """A function from Hyper to GradientTransformation.

    It is called inside the trace with traced hyper-parameters; the optimizer's state depends on none of them.  It
    takes clipped gradients, and has PyTorch's order: decay into the gradient (or after the moments when decoupled),
    moments, learning rate.  L1 shrinks what this update leads to, and the average over steps takes that in.

    Args:
        optim: the options.
        groups: sets of leaves' names, each with its own state, so that Adam's count starts when a leaf opens; the
            state is then {number of the group: state}.  () for one state.
    """
    decoupled, theirs = optim.name in DECOUPLED, optim.name.startswith("optax:")

    def whole(hyper: Hyper) -> optax.GradientTransformation:
        rate = jnp.asarray(hyper.learning_rate)
        decay = _decay(hyper, _from_start(optim))
        return optax.chain(
            *([] if decoupled else [decay]),
            getattr(optax, optim.name[6:])(rate) if theirs else _moments(optim),
            *([decay] if decoupled else []),
            *([optax.scale_by_trust_ratio()] if optim.name == "lamb" else []),
            *([] if theirs else [optax.scale_by_learning_rate(rate)]),
            *([_scale_leaves(hyper.multipliers)] if hyper.multipliers else []),
            *([] if hyper.l1 is None else [_shrink(hyper, _from_start(optim))]),
            *([] if hyper.average_rate is None else [_average(hyper)]),
        )

    return (lambda hyper: _by_group(whole(hyper), groups)) if groups else whole


def _by_group(transformation: optax.GradientTransformation, groups: Sequence[Set[str]]) -> optax.GradientTransformation:
    def split(leaves: Any) -> dict[str, Tree]:
        return {str(i): tree.split(leaves, names)[0] for i, names in enumerate(groups) if names}

    def init(params: Any) -> dict[str, Any]:
        return {i: transformation.init(part) for i, part in split(params).items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Tree, dict[str, Any]]:
        updates, params = split(updates), split(params)
        done: dict[str, tuple[Any, Any]] = {i: transformation.update(updates[i], state[i], params[i]) for i in updates}
        return tree.merge(*(part for part, _ in done.values())), {i: after for i, (_, after) in done.items()}

    return optax.GradientTransformation(init, update)


def _from_start(optim: OptimConfig) -> bool:
    return optim.decay_toward == "start"


def _decay(hyper: Hyper, from_start: bool) -> optax.GradientTransformation:
    """The pull of weight decay, towards zero or the start (L2-SP: Li et al. 2018, equation 2).

    The start is that of the encoder's own leaves; head and added leaves, which are new, are pulled towards zero.
    """
    rate = jnp.asarray(hyper.weight_decay)
    if not from_start:
        return optax.add_decayed_weights(rate, mask=decay_mask)
    return _pull(lambda name, update, distance: update + rate * distance, from_start)


def _shrink(hyper: Hyper, from_start: bool) -> optax.GradientTransformation:
    """The proximal step of L1: it shortens the distance from zero or the start by learning rate times l1.

    Unlike L1's own gradient, it makes exact zeros (Parikh & Boyd 2014, section 6.5.2), and Adam does not rescale it.
    """

    strength = jnp.asarray(hyper.learning_rate) * jnp.asarray(hyper.l1)

    def shrink(name: str, update: Any, distance: Any) -> Any:
        moved, least = distance + update, strength * hyper.multipliers.get(name, 1.0)
        return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - least, 0.0) - distance

    return _pull(shrink, from_start)


def _pull(change: Callable[[str, Any, Any], Any], from_start: bool) -> optax.GradientTransformation:
    """The transformation that changes the updates of the leaves with decay.

    Args:
        change: (name of a leaf, its update, its distance from zero or the start) -> another update.
        from_start: whether the distance is from the start.
    """

    def init(params: Any) -> Start:
        flat = tree.flatten(params).items()
        kept = {name: jnp.array(leaf) for name, leaf in flat if from_start and _decays(name) and _pretrained(name)}
        return Start(tree.unflatten(kept))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Tree, Start]:
        values, start = tree.flatten(params), tree.flatten(state.values)

        def one(name: str, leaf: Any) -> Any:
            distance = values[name] - start[name] if name in start else values[name]
            return change(name, leaf, distance) if _decays(name) else leaf

        return tree.map_names(one, updates), state

    return optax.GradientTransformation(init, update)


def _average(hyper: Hyper) -> optax.GradientTransformation:
    """The transformation that changes no update and averages what the updates lead to (`schedules.average_rates`)."""

    def init(params: Any) -> Average:
        return Average(jax.tree.map(jnp.array, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Average]:
        after: Any = optax.apply_updates(params, updates)
        rate = hyper.average_rate
        return updates, Average(jax.tree.map(lambda a, w: a + rate * (w - a), state.values, after))

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> Tree | None:
    """The average over steps that an optimizer's state holds, that of all its groups; None where it keeps none."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, Average))
    found = [part.values for part in parts if isinstance(part, Average)]
    return tree.merge(*found) if found else None


def _scale_leaves(multipliers: Mapping[str, Any]) -> optax.GradientTransformation:
    """The transformation that multiplies each leaf's update by its factor f32[]."""

    def scale(updates: Any, params: Any = None) -> Tree:
        return tree.map_names(lambda name, leaf: leaf * multipliers[name], updates)

    return optax.stateless(scale)


def global_norm(grads: Tree) -> Float[Array, ""]:
    """The norm of all leaves together.

    Float sums depend on their order: the modules of the head are added from the last name to the first, a pooler
    before the classifier behind it.

    Args:
        grads: {encoder, head[, adapters]}.
    """
    head = grads.get("head", {})
    others = {name: part for name, part in grads.items() if name != "head"}
    return optax.tree.norm([others, *(head[module] for module in sorted(head, reverse=True))])


def clip_factor(norm: Float[Array, ""], hyper: Hyper) -> Float[Array, ""]:
    """The factor, at most 1, that reduces gradients with a global norm to at most hyper.clip_norm."""
    return jnp.minimum(1.0, hyper.clip_norm / norm)


def _moments(optim: OptimConfig) -> optax.GradientTransformation:
    if optim.name in ("adamw", "adam", "lamb"):
        return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)
    if optim.name == "sgd":
        return optax.trace(optim.momentum)
    if optim.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    if optim.name == "lion":
        return optax.scale_by_lion(optim.b1, 0.99)
    raise ValueError(optim.name)
