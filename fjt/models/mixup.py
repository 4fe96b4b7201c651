"""Mixup of hidden vectors (Zhang et al. 2018; Verma et al. 2019, at the head's input): examples between two others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from fjt.core import prng
from fjt.core.prng import Array

Batch = dict[str, Array]
TAUGHT = ("label", "teacher", "teacher_vectors")  # the arrays that a loss compares an example with
Loss = Callable[[Array, Batch, Any], tuple[Array, Array]]  # `Problem.loss`


def pair(batch: Batch, key: prng.Key, alpha: ArrayLike) -> Batch:
    """The batch with `partner` i32[G, S], a slot in the flattened [G * S], and `share` f32[G, S] of the slot's own.

    The examples of the batch form a ring, in the order of hashes of their numbers; the partner of each is the next one.
    Its own share is drawn from Beta(alpha, alpha).  Both are addressed by the example, so that rows, groups and devices
    do not matter.  Empty places are their own partners.

    Args:
        batch: with `example` and `weight`, and one slot per example.
        key: of the draw.
        alpha: of the distribution, at least 0; with 0 each example stays as it is.
    """
    example, empty = batch["example"].reshape(-1), batch["weight"].reshape(-1) == 0
    keys = prng.fold(key, example)
    order = jnp.lexsort((example, keys[0], empty))
    number = jnp.arange(len(order))
    count = jnp.sum(~empty)
    following = order[jnp.where(number + 1 < count, number + 1, jnp.where(number < count, 0, number))]
    partner = jnp.zeros_like(order).at[order].set(following)
    draws = jax.random.wrap_key_data(jnp.stack(prng.fold(keys, 1), axis=-1))
    alpha = jnp.asarray(alpha, jnp.float32)
    positive = jnp.maximum(alpha, jnp.finfo(jnp.float32).tiny)
    share = jax.vmap(lambda one: jax.random.beta(one, positive, positive))(draws)
    share = jnp.where(alpha > 0, share, 1.0)
    shape = batch["example"].shape
    return batch | {"partner": partner.astype(jnp.int32).reshape(shape), "share": share.reshape(shape)}


def mix(hidden: Float[Array, "G S D"], batch: Batch) -> Float[Array, "G S D"]:
    """The hidden vectors of slots between their own and their partners', where the batch has partners."""
    if "partner" not in batch:
        return hidden
    share = batch["share"][..., None].astype(hidden.dtype)
    return share * hidden + (1 - share) * _of_partners(hidden, batch)


def between(loss: Loss) -> Loss:
    """The loss of mixed examples: that of their own label and that of their partner's, by their shares.

    Args:
        loss: (logits, batch, hyper) -> (value, weight) of each slot.
    """

    def mixed(logits: Array, batch: Batch, hyper: Any) -> tuple[Array, Array]:
        share = batch["share"]
        own = loss(logits, batch, hyper)
        taught = {name: _of_partners(batch[name], batch) for name in TAUGHT if name in batch}
        other = loss(logits, batch | taught, hyper)
        value, weight = (share * a + (1 - share) * b for a, b in zip(own, other, strict=True))
        return value, weight

    return mixed


def _of_partners(values: Shaped[Array, "G S ..."], batch: Batch) -> Shaped[Array, "G S ..."]:
    return values.reshape(-1, *values.shape[2:])[batch["partner"]]
