"""The encoder and its head, and the seam through which all other code uses them: `init`, `apply` and `hidden`."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjt.core import prng
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.layers import EMBEDDINGS, SITES, Hooks, Noise, Tokens, drop, take_tokens, token_keys


class Encoder(nn.Module):
    """Embeddings and layers, or those from layer `start` on (-1: all)."""

    config: EncoderConfig
    dtype: jnp.dtype
    noisy_from: int
    one_slot: bool = True
    start: int = -1

    @nn.compact
    def __call__(self, batch, noise, hooks, stop=None):
        """The output of the last layer at the slots, f[G, S, D]; with `stop`, the input f[G, R, L, D] of that layer.

        noise: None, or (key pair u32[], hidden rate, attention rate) of dropout in the layers from noisy_from on.
        With `stop` at the number of layers, the output of the last one is returned all the same.
        """
        config, family = self.config, find_family(self.config.family)
        if self.start < config.layers:
            tokens = token_addresses(batch)
            keys = None if noise is None else token_keys(noise[0], tokens, config.layers)

        def noise_of(layer):
            if noise is None or layer < self.noisy_from:
                return None
            whole = prng.fold(prng.fold(noise[0], layer), SITES)
            return Noise((keys[0][layer + 1], keys[1][layer + 1]), whole, *noise[1:])

        if self.start < 0:
            h = family.embeddings(config, self.dtype, name="embeddings")(batch, hooks)
            h = drop(h, noise_of(-1), EMBEDDINGS)
        else:
            h = batch["hidden"]
        for i in range(max(0, self.start), config.layers if stop is None else stop):
            last = i == config.layers - 1
            first = batch["slot_token"] if last and self.one_slot and not hooks.every_token else None
            h = family.block(config, i, self.dtype, name=f"layer_{i}")(h, tokens, first, noise_of(i), hooks)
            if last:
                h = (take_tokens(h, batch["slot_token"]) if first is None else h)[:, :, 0]
        return h


def token_addresses(batch):
    """Tokens of a batch; a segment is the number of its example in the group plus one, so it finds the row."""
    segment = batch["segment_ids"]
    shape = segment.shape
    example = jnp.take_along_axis(batch["example"], jnp.maximum(segment.reshape(shape[0], -1) - 1, 0), axis=1)
    return Tokens(segment, batch["position_ids"], example.reshape(shape))


def no_method(adapters, values):
    """The hooks of no method."""
    del adapters, values
    return Hooks()


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with a head, as functions of plain dicts; equal by value, so jit compiles each once.

    noisy_from: the lowest layer with dropout (-1: the embeddings, `layers`: none of the encoder).
    start: the layer that batches hold the input of (`layers`: the output of the last one), in place of tokens; what
    lies below is not computed, and its parameters are not needed.  -1: batches hold tokens.
    one_slot: whether each example has one slot, at its first token; the last layer is then computed there alone.
    head: the name of the family's head.
    adapt(adapters, values) -> Hooks: what the tuning methods add, of their leaves and their traced values.
    """

    config: EncoderConfig
    classes: int
    dtype: str = "float32"
    noisy_from: int = -1
    adapt: Callable = no_method
    start: int = -1
    one_slot: bool = True
    head: str = "sequence"

    def init(self, key):
        """Base parameters {encoder, head} in float32.  key: u32[2]; each leaf's draw depends on its own name alone.

        What a pretrained checkpoint has of the head is drawn with the encoder's key, all else of it with its own.
        """
        ones = {
            name: jnp.ones((1, 1, 1), jnp.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")
        }
        zero = jnp.zeros((1, 1), jnp.int32)
        batch = ones | dict.fromkeys(("example", "slot_token", "slot_example", "slot_position"), zero)
        encoder_key, head_key = jax.random.split(jax.random.wrap_key_data(jnp.asarray(key)))
        h, encoder = self._encoder(-1).init_with_output(encoder_key, batch, None, Hooks())
        old, new = (self._head().init(key, h, batch, None, Hooks())["params"] for key in (encoder_key, head_key))
        pretrained = self._head_spec().pretrained
        head = {module: (old if module in pretrained else new)[module] for module in new}
        return {"encoder": encoder["params"], "head": head}

    def apply(self, params, batch, values=None, hyper=None, key=None):
        """Logits f[G, S, C] of the slots of packed examples.

        params: {encoder, head[, adapters]}.  batch: token_ids, segment_ids, position_ids, type_ids i32[G, R, L];
        example (row in the data set) i32[G, E]; slot_token (row * L + column), slot_example (number in the group),
        slot_position (in the example) i32[G, S].  values: {tuning method: {name: f32[] or
        f32[7]}}, the traced ones.  key: pair of u32[] for dropout with hyper's rates, None without.
        With a start, `hidden` replaces token_ids and type_ids; above the last layer all but example and slots.
        """
        noise = head_noise = None
        if key is not None:
            noise = key, hyper.dropout_hidden, hyper.dropout_attention
            head_noise = prng.fold(key, self.config.layers + 1), hyper.dropout_classifier
        hooks = self.adapt(params.get("adapters", {}), values or {})
        # Above the last layer nothing of the encoder is needed, nor given.
        h = self._encoder(self.start).apply({"params": params.get("encoder", {})}, batch, noise, hooks)
        return self._head().apply({"params": params["head"]}, h, batch, head_noise, hooks)

    def hidden(self, params, batch, values=None):
        """`hidden` of a batch of tokens, for this model's start: f[G, R, L, D], or f[G, S, D] above the last layer.

        params, batch, values: as for `apply`, with the parameters below the start alone.
        """
        hooks = self.adapt(params.get("adapters", {}), values or {})
        return self._encoder(-1).apply({"params": params["encoder"]}, batch, None, hooks, self.start)

    def _encoder(self, start):
        return Encoder(self.config, jnp.dtype(self.dtype), self.noisy_from, self.one_slot, start)

    def _head_spec(self):
        return find_family(self.config.family).heads[self.head]

    def _head(self):
        return self._head_spec().module(self.classes, self.config, jnp.dtype(self.dtype))
