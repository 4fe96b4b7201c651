"""What reads the encoder: heads over the examples' vectors."""

import flax.linen as nn
import jax.numpy as jnp

from fjt.core import prng
from fjt.models.layers import Dense, Hooks


class Classifier(nn.Module):
    """Logits f[G, E, C] of pooled vectors f[G, E, D], with dropout before the dense layer.

    C is 1 for regression.  noise: None or (key pair u32[], rate f32[]); example: i32[G, E], the data set rows.
    """

    classes: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled, example, noise):
        if noise is not None:
            key, rate = noise
            a, b = prng.fold(key, example)
            pooled = prng.dropout(pooled, (a[..., None], b[..., None]), jnp.arange(pooled.shape[-1]), rate)
        return Dense(self.classes, "classifier", -1, self.stddev, self.dtype, name="classifier")(pooled, Hooks())
