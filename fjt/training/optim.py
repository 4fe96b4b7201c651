"""Optimizers as functions of hyper-parameters, and learning rates as data (optax)."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from fjt.core import tree
from fjt.core.options import OptimConfig
from fjt.core.tree import Tree
from fjt.training.hyper import Hyper

Optimizer = Callable[[Hyper], optax.GradientTransformation]

# Weight decay is added to the update; elsewhere to the gradient. Both as in PyTorch.
DECOUPLED = ("adamw", "lamb", "lion", "adafactor")
EVERY_LEAF = ("bias", "scale")  # leaves without decay


def decay_mask(params: Tree) -> Tree:
    """The tree of bool: whether a leaf has weight decay.  Kernels and embeddings have it, biases and LayerNorm not."""
    return tree.map_names(lambda name, leaf: name.rsplit("/", 1)[1] not in EVERY_LEAF, params)


def constants(optim: OptimConfig) -> tuple[str, float, float, float, float]:
    """The options that `make_optimizer` builds into the program; all others are data.

    Optimizers with equal constants share a program.
    """
    return optim.name, optim.b1, optim.b2, optim.eps, optim.momentum


def make_optimizer(optim: OptimConfig, groups: Sequence[Set[str]] = ()) -> Optimizer:
    """A function from Hyper to GradientTransformation.

    It is called inside the trace with traced hyper-parameters; the optimizer's state depends on none of them.  It
    takes clipped gradients, and has PyTorch's order: decay into the gradient (or after the moments when decoupled),
    moments, learning rate.

    Args:
        optim: the options.
        groups: sets of leaves' names, each with its own state, so that Adam's count starts when a leaf opens; the
            state is then {number of the group: state}.  () for one state.
    """
    decoupled, theirs = optim.name in DECOUPLED, optim.name.startswith("optax:")

    def whole(hyper: Hyper) -> optax.GradientTransformation:
        rate = jnp.asarray(hyper.learning_rate)
        decay = optax.add_decayed_weights(jnp.asarray(hyper.weight_decay), mask=decay_mask)
        return optax.chain(
            *([] if decoupled else [decay]),
            getattr(optax, optim.name[6:])(rate) if theirs else _moments(optim),
            *([decay] if decoupled else []),
            *([optax.scale_by_trust_ratio()] if optim.name == "lamb" else []),
            *([] if theirs else [optax.scale_by_learning_rate(rate)]),
            *([_scale_leaves(hyper.multipliers)] if hyper.multipliers else []),
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


def learning_rates(optim: OptimConfig, steps: int) -> Float32[np.ndarray, " steps"]:
    """The learning rate of each step, warm-up included.

    Warm-up rises linearly from 0 over round(warmup_fraction * steps) steps, as in Trainer: step 0 of a run with
    warm-up has learning rate 0.  The linear schedule reaches 0 after the last step.

    Args:
        optim: the options.
        steps: number of steps.
    """
    assert optim.learning_rate is not None and optim.warmup_fraction is not None, "open options are resolved"
    warmup = round(optim.warmup_fraction * steps)
    rest = max(1, steps - warmup)
    peak, end = optim.learning_rate, optim.learning_rate * optim.final_fraction
    schedules = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=optim.final_fraction),
        "cosine_restarts": lambda: _restarts(peak, end, rest, optim.cycles),
        "polynomial": lambda: optax.polynomial_schedule(peak, end, optim.power, rest),
        "exponential": lambda: optax.exponential_decay(peak, rest, optim.final_fraction),
        "inverse_sqrt": lambda: lambda k: peak * np.sqrt(max(warmup, 1) / (k + max(warmup, 1))),
    }
    rising = np.arange(min(warmup, steps)) * (peak / max(warmup, 1))
    falling = np.broadcast_to(schedules[optim.schedule]()(np.arange(steps - len(rising))), steps - len(rising))
    return np.concatenate([rising, falling]).astype(np.float32)


def _restarts(peak: float, end: float, steps: int, cycles: int) -> Callable[[Any], Any]:
    def rate(k: Any) -> Any:
        progress = (k / steps * cycles) % 1.0
        return end + (peak - end) * 0.5 * (1.0 + np.cos(np.pi * progress))

    return rate
