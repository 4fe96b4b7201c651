"""Heads over the vectors that the encoder computes at the slots."""

import flax.linen as nn
import jax.numpy as jnp

from fjt.core import prng
from fjt.models.layers import Dense, Hooks


class Classifier(nn.Module):
    """Logits f[G, S, C] of pooled vectors f[G, S, D], with dropout before the dense layer.

    C is 1 for regression.  noise: None or (key pair u32[], rate f32[]).
    """

    classes: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled, batch, noise):
        if noise is not None:
            key, rate = noise
            # The address of a bit: the example's row in the data set, the slot's token in it, and the feature.
            a, b = prng.fold(key, jnp.take_along_axis(batch["example"], batch["slot_example"], axis=1))
            width = pooled.shape[-1]
            feature = batch["slot_position"][..., None] * width + jnp.arange(width)[None, None]
            pooled = prng.dropout(pooled, (a[..., None], b[..., None]), feature, rate)
        return Dense(self.classes, "classifier", -1, self.stddev, self.dtype, name="classifier")(pooled, Hooks())
