"""Softmax over the slots that belong together, such as the tokens of a window or the choices of a question."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fjt.core.prng import Array


def log_sums(
    logits: Float[Array, "G S C"], owner: Int[Array, "G S"], real: Bool[Array, "G S"]
) -> Float[Array, "G S C"]:
    """The logarithm of the sum of exponentials over all slots with a slot's owner, for each slot and output.

    Args:
        logits: of the slots.
        owner: a number below S of what each slot belongs to.
        real: whether a slot is one; the others count for nothing.
    """
    return jax.vmap(_log_sums)(logits, owner, real)


def _log_sums(logits: Float[Array, "S C"], owner: Int[Array, " S"], real: Bool[Array, " S"]) -> Float[Array, "S C"]:
    logits, count = jnp.where(real[:, None], logits, -jnp.inf), len(owner)
    top = jax.lax.stop_gradient(jax.ops.segment_max(logits, owner, count))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jax.ops.segment_sum(jnp.exp(logits - top[owner]), owner, count)
    return (top + jnp.log(jnp.where(total > 0, total, 1.0)))[owner]


def log_sums_of_rows(logits: Float[np.ndarray, "M C"], offsets: Int[np.ndarray, " bounds"]) -> Float[np.ndarray, "M C"]:
    """As `log_sums`, of slots in file order in float64; offsets: the first slot of what they belong to."""
    scores, owner = np.asarray(logits, np.float64), np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    top = np.maximum.reduceat(scores, offsets[:-1])
    return (top + np.log(np.add.reduceat(np.exp(scores - top[owner]), offsets[:-1])))[owner]
