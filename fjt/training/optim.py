"""Optimizers as functions of hyper-parameters, and learning rates as data (optax)."""

import jax.numpy as jnp
import numpy as np
import optax

from fjt.core import tree

# Weight decay is added to the update; elsewhere to the gradient. Both as in PyTorch.
DECOUPLED = ("adamw", "lamb", "lion", "adafactor")
EVERY_LEAF = ("bias", "scale")  # leaves without decay


def decay_mask(params):
    """The tree of bool: decay on kernels and embeddings, not on biases and LayerNorm."""
    return tree.map_names(lambda name, leaf: name.rsplit("/", 1)[1] not in EVERY_LEAF, params)


def constants(optim):
    """What `make_optimizer` builds into the program; all else of OptimConfig is data.  Equal, the same program."""
    return optim.name, optim.b1, optim.b2, optim.eps, optim.momentum


def make_optimizer(optim, groups=()):
    """Hyper -> GradientTransformation.  optim: OptimConfig.

    groups: sets of leaves' names, each with a state of its own, so that Adam's count begins where a leaf does; the
    state is then {group's number: state}.  Without them there is one state.

    It is built inside the trace from traced rate and decay, and its state depends on none of them.
    It takes clipped gradients; the order is PyTorch's: decay into the gradient (or after the moments when
    decoupled), moments, rate.
    """
    decoupled, theirs = optim.name in DECOUPLED, optim.name.startswith("optax:")

    def whole(hyper):
        decay = optax.add_decayed_weights(hyper.weight_decay, mask=decay_mask)
        return optax.chain(
            *([] if decoupled else [decay]),
            getattr(optax, optim.name[6:])(hyper.learning_rate) if theirs else _moments(optim),
            *([decay] if decoupled else []),
            *([optax.scale_by_trust_ratio()] if optim.name == "lamb" else []),
            *([] if theirs else [optax.scale_by_learning_rate(hyper.learning_rate)]),
            *([_scale_leaves(hyper.multipliers)] if hyper.multipliers else []),
        )

    return (lambda hyper: _by_group(whole(hyper), groups)) if groups else whole


def _by_group(transformation, groups):
    def split(leaves):
        return {str(i): tree.split(leaves, names)[0] for i, names in enumerate(groups) if names}

    def init(params):
        return {i: transformation.init(part) for i, part in split(params).items()}

    def update(updates, state, params):
        updates, params = split(updates), split(params)
        done = {i: transformation.update(updates[i], state[i], params[i]) for i in updates}
        return tree.merge(*(part for part, _ in done.values())), {i: after for i, (_, after) in done.items()}

    return optax.GradientTransformation(init, update)


def _scale_leaves(multipliers):
    """Each leaf's update times its multiplier.  multipliers: {name: f32[]}."""

    def scale(updates, params=None):
        return tree.map_names(lambda name, leaf: leaf * multipliers[name], updates)

    return optax.stateless(scale)


def global_norm(grads):
    """f[]: the norm of all leaves together.  grads: {encoder, head[, adapters]}.

    Float sums depend on their order: modules of the head count from the last name to the first, a pooler before the
    classifier behind it.
    """
    head = grads.get("head", {})
    others = {name: part for name, part in grads.items() if name != "head"}
    return optax.tree.norm([others, *(head[module] for module in sorted(head, reverse=True))])


def clip_factor(norm, hyper):
    """f[], at most 1: what gradients of a global norm f[] are multiplied by to have at most hyper.clip_norm."""
    return jnp.minimum(1.0, hyper.clip_norm / norm)


def _moments(optim):
    if optim.name in ("adamw", "adam", "lamb"):
        return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)
    if optim.name == "sgd":
        return optax.trace(optim.momentum)
    if optim.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    if optim.name == "lion":
        return optax.scale_by_lion(optim.b1, 0.99)
    raise ValueError(optim.name)


def learning_rates(optim, steps):
    """f32[steps]: the rate of each step, warm-up included.  optim: OptimConfig.

    Warm-up rises linearly from 0 over round(warmup_fraction * steps) steps, as in Trainer: step 0 of a run with
    warm-up has rate 0. The linear schedule reaches 0 after the last step.
    """
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


def _restarts(peak, end, steps, cycles):
    def rate(k):
        progress = (k / steps * cycles) % 1.0
        return end + (peak - end) * 0.5 * (1.0 + np.cos(np.pi * progress))

    return rate
