"""What the heads of all families share: dropout of the vectors at the slots."""

import jax.numpy as jnp

from fjt.core import prng


def drop_slots(h, batch, noise):
    """h f[G, S, D] with dropout; h itself when noise is None.

    noise: None, or (key pair u32[], rate f32[]).  The address of a bit is the example's row in the data set, the slot's
    token in it, and the feature.
    """
    if noise is None:
        return h
    key, rate = noise
    a, b = prng.fold(key, jnp.take_along_axis(batch["example"], batch["slot_example"], axis=1))
    width = h.shape[-1]
    feature = batch["slot_position"][..., None] * width + jnp.arange(width)[None, None]
    return prng.dropout(h, (a[..., None], b[..., None]), feature, rate)
