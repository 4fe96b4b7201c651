"""The encoder and its head, and the seam through which all other code uses them: `init`, `apply` and `hidden`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt32

from fjt.core import prng
from fjt.core.prng import Array
from fjt.core.seeds import make_key
from fjt.core.tree import Tree, flatten
from fjt.models import mixup
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig, Head
from fjt.models.heads import Batch
from fjt.models.layers import EMBEDDINGS, SITES, Hooks, Noise, Tokens, drop, take_tokens, token_keys

# (key pair u32[], hidden rate, attention rate, factors f32[layers] of both or None) of dropout
EncoderNoise = tuple[prng.Key, prng.Rate, prng.Rate, Float[Array, " layers"] | None] | None


class Encoder(nn.Module):
    """Embeddings and layers, or only the layers from `start` on (-1: all)."""

    config: EncoderConfig
    dtype: jnp.dtype
    noisy_from: int
    one_slot: bool = True
    start: int = -1

    @nn.compact
    def __call__(self, batch: Batch, noise: EncoderNoise, hooks: Hooks, stop: int | None = None) -> Float[Array, "..."]:
        """The output of the last layer at the slots, f[G, S, D]; with `stop`, the input f[G, R, L, D] of that layer.

        Args:
            batch: its arrays.
            noise: dropout in the layers from noisy_from on, or None.
            hooks: of the tuning methods.
            stop: a layer; the number of layers gives the output of the last one at the slots, as None does.
        """
        config, family = self.config, find_family(self.config.family)
        if self.start < config.layers:
            tokens = token_addresses(batch)
            keys = None if noise is None else token_keys(noise[0], tokens, config.layers)

        def noise_of(layer: int) -> Noise | None:
            if noise is None or keys is None or layer < self.noisy_from:
                return None
            whole, (hidden, attention, factors) = prng.fold(prng.fold(noise[0], layer), SITES), noise[1:]
            if factors is not None and layer >= 0:
                hidden, attention = hidden * factors[layer], attention * factors[layer]
            return Noise((keys[0][layer + 1], keys[1][layer + 1]), whole, hidden, attention)

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


def token_addresses(batch: Batch) -> Tokens:
    """The Tokens of a batch.  A segment is its example's number in the group plus one, so that it finds the row."""
    segment = batch["segment_ids"]
    shape = segment.shape
    example = jnp.take_along_axis(batch["example"], jnp.maximum(segment.reshape(shape[0], -1) - 1, 0), axis=1)
    return Tokens(segment, batch["position_ids"], example.reshape(shape))


def no_method(adapters: Tree, values: Mapping[str, Any]) -> Hooks:
    """The hooks of no method."""
    del adapters, values
    return Hooks()


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with a head, as functions of plain dicts; equal by value, so that jit compiles each once.

    Attributes:
        config: of the encoder.
        classes: C, number of outputs.
        dtype: of the computation.
        noisy_from: the lowest layer with dropout (-1: the embeddings, `layers`: no layer).
        adapt: (adapters, values) -> Hooks of the tuning methods, from their leaves and their traced values.
        start: the layer whose input batches have in place of tokens (`layers`: the output of the last one); lower
            layers are not computed, and their parameters are not needed.  -1: batches have tokens.
        one_slot: whether each example has one slot, at its first token; the last layer is then computed at these
            tokens alone.
        head: name of the family's head.
    """

    config: EncoderConfig
    classes: int
    dtype: str = "float32"
    noisy_from: int = -1
    adapt: Callable[[Tree, Mapping[str, Any]], Hooks] = no_method
    start: int = -1
    one_slot: bool = True
    head: str = "sequence"

    def init(self, key: UInt32[Array, "2"]) -> Tree:
        """Base parameters {encoder, head} in float32.

        The part of the head that pretrained checkpoints have is drawn with the encoder's key, the rest with its own.

        Args:
            key: of the seed; each leaf's draw depends on the leaf's name alone.
        """
        ones = {
            name: jnp.ones((1, 1, 1), jnp.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")
        }
        zero = jnp.zeros((1, 1), jnp.int32)
        batch = ones | dict.fromkeys(("example", "slot_token", "slot_example", "slot_position"), zero)
        encoder_key, head_key = jax.random.split(jax.random.wrap_key_data(jnp.asarray(key)))
        h, encoder = self._encoder(-1).init_with_output(encoder_key, batch, None, Hooks())
        given = h, batch, None, Hooks(), *self._tied(encoder["params"])
        old, new = (self._head().init(key, *given)["params"] for key in (encoder_key, head_key))
        pretrained = self._head_spec().pretrained
        head = {module: (old if module in pretrained else new)[module] for module in new}
        return {"encoder": encoder["params"], "head": head}

    def apply(
        self,
        params: Tree,
        batch: Batch,
        values: Mapping[str, Any] | None = None,
        hyper: Any = None,
        key: prng.Key | None = None,
    ) -> Float[Array, "G S C"]:
        """Logits of the slots of packed examples.

        Args:
            params: {encoder, head[, adapters]}.
            batch: token_ids, segment_ids, position_ids, type_ids i32[G, R, L]; example (number in the data set),
                slot_token (row * L + column), slot_example (number in the group), slot_position (in the example)
                i32[G, S].  With a start, `hidden` replaces token_ids and type_ids; above the last layer it replaces all
                arrays but example and slots.
                With `partner` and `share`, see `fjt.models.mixup`.
            values: {tuning method: {name: f32[] or f32[7]}}, the traced values.
            hyper: Hyper with the dropout rates; needed with a key.
            key: pair of u32[] for dropout; None without.
        """
        return self.outputs(params, batch, values, hyper, key)[0]

    def outputs(
        self,
        params: Tree,
        batch: Batch,
        values: Mapping[str, Any] | None = None,
        hyper: Any = None,
        key: prng.Key | None = None,
    ) -> tuple[Float[Array, "G S C"], Float[Array, "G S D"]]:
        """(logits of the slots, the output of the last layer there), for the arguments of `apply`."""
        noise = head_noise = None
        if key is not None:
            noise = key, hyper.dropout_hidden, hyper.dropout_attention, hyper.layer_dropout
            head_noise = prng.fold(key, self.config.layers + 1), hyper.dropout_classifier
        hooks = self.adapt(params.get("adapters", {}), values or {})
        # Above the last layer, the parameters of the encoder are not needed and may be absent.
        h: Any = self._encoder(self.start).apply({"params": params.get("encoder", {})}, batch, noise, hooks)
        h = mixup.mix(h, batch)
        tied = self._tied(params.get("encoder", {}))
        logits: Any = self._head().apply({"params": params["head"]}, h, batch, head_noise, hooks, *tied)
        return logits, h

    def hidden(self, params: Tree, batch: Batch, values: Mapping[str, Any] | None = None) -> Float[Array, "G ... D"]:
        """`hidden` of a batch of tokens for this model's start: f[G, R, L, D], or f[G, S, D] above the last layer.

        Args:
            params: as for `apply`; only those below the start are needed.
            batch: as for `apply`.
            values: as for `apply`.
        """
        hooks = self.adapt(params.get("adapters", {}), values or {})
        states: Any = self._encoder(-1).apply({"params": params["encoder"]}, batch, None, hooks, self.start)
        return states

    def _encoder(self, start: int) -> Encoder:
        return Encoder(self.config, jnp.dtype(self.dtype), self.noisy_from, self.one_slot, start)

    def _tied(self, encoder: Any) -> tuple[Array, ...]:
        """The leaf of the encoder that the head reads, if there is one."""
        spec = self._head_spec()
        return (flatten(encoder)[spec.tied],) if spec.tied else ()

    def _head_spec(self) -> Head:
        return find_family(self.config.family).heads[self.head]

    def _head(self) -> nn.Module:
        return self._head_spec().module(self.classes, self.config, jnp.dtype(self.dtype))


@functools.cache
def abstract_params(model: Model) -> Tree:
    """The shapes and types of a Model's base parameters {encoder, head}, without their values."""
    return jax.eval_shape(model.init, make_key(0, "init"))
