"""Heads that several families have, and the dropout of the vectors at the slots."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fjt.core import prng
from fjt.core.prng import Array
from fjt.models.family import EncoderConfig
from fjt.models.layers import ACTIVATIONS, Dense, Hooks, LayerNorm, wide

Batch = dict[str, Any]  # the arrays of `fjt.data.batches.build`
HeadNoise = tuple[prng.Key, prng.Rate] | None  # (key pair u32[], dropout rate), None without dropout


class PoolerHead(nn.Module):
    """Logits of the vectors at the slots: a dense layer with tanh, dropout, a dense layer."""

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise, hooks: Hooks) -> Float[Array, "G S C"]:
        stddev = self.config.stddev
        pooler = Dense(self.config.width, "pooler", self.config.layers, stddev, self.dtype, name="pooler")
        pooled = drop_slots(jnp.tanh(pooler(h, hooks)), batch, noise)
        return Dense(self.classes, "classifier", -1, stddev, self.dtype, name="classifier")(pooled, Hooks())


class TokenHead(nn.Module):
    """Logits of the vectors at the slots: dropout and a dense layer."""

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise, hooks: Hooks) -> Float[Array, "G S C"]:
        del hooks  # no method enters the last layer
        classifier = Dense(self.classes, "classifier", -1, self.config.stddev, self.dtype, name="classifier")
        return classifier(drop_slots(h, batch, noise), Hooks())


class SpanHead(nn.Module):
    """Logits of the start and the end of a span at each slot: a dense layer, without dropout."""

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise, hooks: Hooks) -> Float[Array, "G S C"]:
        del batch, noise, hooks
        return Dense(self.classes, "qa_outputs", -1, self.config.stddev, self.dtype, name="qa_outputs")(h, Hooks())


class MaskedHead(nn.Module):
    """Logits of the tokens at the slots: a dense layer, the activation, LayerNorm, and the table of word embeddings.

    The number of outputs is that of the table's rows.
    """

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise, hooks: Hooks, table: Float[Array, "V D"]
    ) -> Float[Array, "G S V"]:
        del batch, noise, hooks
        config = self.config
        h = Dense(config.width, "transform", -1, config.stddev, self.dtype, name="transform")(h, Hooks())
        h = LayerNorm(config.epsilon, self.dtype, name="norm")(ACTIVATIONS[config.activation](h))
        return Decoder(self.dtype, name="decoder")(h, table)


class Decoder(nn.Module):
    """The products of vectors with the rows of a table that is not its own, and a bias for each row."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Float[Array, "G S D"], table: Float[Array, "V D"]) -> Float[Array, "G S V"]:
        bias: Array = self.param("bias", nn.initializers.zeros, (table.shape[0],))
        # In float32 at least: in bfloat16, many of a vocabulary's logits would be equal.
        logits = jnp.matmul(h, table.astype(self.dtype).T, preferred_element_type=wide(self.dtype))
        return logits + bias[None, None]


def drop_slots(h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise) -> Float[Array, "G S D"]:
    """The vectors at the slots with dropout; h itself without noise.

    The address of a bit is the example's row in the data set, the slot's token in the example, and the feature.

    Args:
        h: vectors at the slots.
        batch: the batch, with example, slot_example and slot_position.
        noise: (key pair u32[], rate f32[]), or None.
    """
    if noise is None:
        return h
    key, rate = noise
    a, b = prng.fold(key, jnp.take_along_axis(batch["example"], batch["slot_example"], axis=1))
    width = h.shape[-1]
    feature = batch["slot_position"][..., None] * width + jnp.arange(width)[None, None]
    return prng.dropout(h, (a[..., None], b[..., None]), feature, rate)
