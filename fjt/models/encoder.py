"""The BERT encoder, and the seam through which all other code uses it: `init`, `apply` and `hidden`."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjt.core import prng
from fjt.models import heads
from fjt.models.layers import (
    ACTIVATIONS,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    OUTPUT,
    SITES,
    Dense,
    Embedding,
    Hooks,
    LayerNorm,
    Noise,
    Tokens,
    attend,
    drop,
    token_keys,
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shape and the constants of an encoder, as a Hugging Face config.json names them in other words."""

    family: str
    layers: int
    width: int
    heads: int
    inner: int
    vocab: int
    positions: int
    types: int
    epsilon: float
    activation: str
    stddev: float
    dropout_hidden: float
    dropout_attention: float
    dropout_classifier: float


class Layer(nn.Module):
    """One transformer layer, LayerNorm after each sublayer (Vaswani et al. 2017; Devlin et al. 2019)."""

    config: EncoderConfig
    index: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h, tokens, first, noise, hooks):
        """h: f[G, R, L, D] -> f[G, R, L, D]; or f[G, S, 1, D] at the tokens first i32[G, S] alone, when given.

        The output of one token needs the keys and values of all, but only its own query and feed-forward layer.
        """
        config = self.config

        def dense(site, x, features):
            made = Dense(features, site, self.index, config.stddev, self.dtype, name=site)
            return made(x, hooks, noise, tokens)

        head_shape = (config.heads, config.width // config.heads)
        k = dense("key", h, config.width)
        v = dense("value", h, config.width)
        k, v = hooks.key_value(self.index, k.reshape(*h.shape[:-1], *head_shape), v.reshape(*h.shape[:-1], *head_shape))
        keys, gate = tokens, hooks.key_gate(self.index, h, tokens)
        if first is not None:
            row = first // h.shape[2]
            h, tokens = take_tokens(h, first), Tokens(*(take_tokens(x, first) for x in astuple(tokens)))
            k, v = take_rows(k, row), take_rows(v, row)
            noise = noise and noise_at(noise, first)
            keys = Tokens(*(take_rows(x, row) for x in astuple(keys)))
        q = dense("query", h, config.width).reshape(*h.shape[:-1], *head_shape)
        a = attend(q, k, v, tokens, keys, noise, gate).reshape(h.shape)
        a = drop(dense("attention_output", a, config.width), noise, ATTENTION_OUTPUT)
        norm = LayerNorm(config.epsilon, self.dtype, name="attention_norm")
        h = norm(hooks.block("attention_output", self.index, a, h, norm, tokens) + h)
        f = ACTIVATIONS[config.activation](dense("intermediate", h, config.inner))
        f = drop(dense("output", f, config.width), noise, OUTPUT)
        norm = LayerNorm(config.epsilon, self.dtype, name="output_norm")
        return norm(hooks.block("output", self.index, f, h, norm, tokens) + h)


class Encoder(nn.Module):
    """Embeddings, layers, pooler, or what of them lies from layer `start` on (-1: all)."""

    config: EncoderConfig
    dtype: jnp.dtype
    noisy_from: int
    one_slot: bool = True
    start: int = -1

    @nn.compact
    def __call__(self, batch, noise, hooks, stop=None):
        """The pooled vectors of the slots, f[G, S, D]; with `stop`, the input of that layer.

        noise: None, or (key pair u32[], hidden rate, attention rate) of dropout in the layers from noisy_from on.
        The input of a layer is f[G, R, L, D], the output of the last one at the slots f[G, S, D].
        """
        config = self.config
        if self.start < config.layers:
            tokens = token_addresses(batch)
            keys = None if noise is None else token_keys(noise[0], tokens, config.layers)

        def noise_of(layer):
            if noise is None or layer < self.noisy_from:
                return None
            whole = prng.fold(prng.fold(noise[0], layer), SITES)
            return Noise((keys[0][layer + 1], keys[1][layer + 1]), whole, *noise[1:])

        if self.start < 0:
            h = Embeddings(config, self.dtype, name="embeddings")(batch, hooks)
            h = drop(h, noise_of(-1), EMBEDDINGS)
        else:
            h = batch["hidden"]
        for i in range(max(0, self.start), config.layers if stop is None else stop):
            last = i == config.layers - 1
            first = batch["slot_token"] if last and self.one_slot and not hooks.every_token else None
            h = Layer(config, i, self.dtype, name=f"layer_{i}")(h, tokens, first, noise_of(i), hooks)
            if last:
                h = (take_tokens(h, batch["slot_token"]) if first is None else h)[:, :, 0]
        if stop is not None:
            return h
        return jnp.tanh(
            Dense(config.width, "pooler", config.layers, config.stddev, self.dtype, name="pooler")(h, hooks)
        )


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised: f[G, R, L, D]."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch, hooks):
        config = self.config

        def table(rows, name):
            return Embedding(rows, config.width, config.stddev, self.dtype, name=name)

        words = hooks.embed(table(config.vocab, "word")(batch["token_ids"]), batch)
        h = words + table(config.positions, "position")(batch["position_ids"] + hooks.first_position)
        if config.types:
            h = h + table(config.types, "type")(batch["type_ids"])
        return LayerNorm(config.epsilon, self.dtype, name="norm")(h)


def token_addresses(batch):
    """Tokens of a batch; a segment is the number of its example in the group plus one, so it finds the row."""
    segment = batch["segment_ids"]
    shape = segment.shape
    example = jnp.take_along_axis(batch["example"], jnp.maximum(segment.reshape(shape[0], -1) - 1, 0), axis=1)
    return Tokens(segment, batch["position_ids"], example.reshape(shape))


def astuple(tokens):
    return tokens.segment, tokens.position, tokens.example


def take_rows(x, row):
    """x: [G, R, ...], row: i32[G, E] -> [G, E, ...]."""
    return jax.vmap(lambda rows, index: jnp.take(rows, index, axis=0, mode="clip"))(x, row)


def take_tokens(x, first):
    """x: [G, R, L, ...], first: i32[G, E] = row * L + column -> [G, E, 1, ...]."""
    return take_rows(x.reshape(x.shape[0], -1, *x.shape[3:]), first)[:, :, None]


def noise_at(noise, first):
    """The Noise of the tokens first i32[G, E] alone."""
    keys = tuple(jnp.stack([take_tokens(x, first) for x in word]) for word in noise.keys)
    return dataclasses.replace(noise, keys=keys)


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
    adapt(adapters, values) -> Hooks: what the tuning methods add, of their leaves and their traced values.
    """

    config: EncoderConfig
    classes: int
    dtype: str = "float32"
    noisy_from: int = -1
    adapt: Callable = no_method
    start: int = -1
    one_slot: bool = True

    def init(self, key):
        """Base parameters {encoder, head} in float32.  key: u32[2]; each leaf's draw depends on its own name alone."""
        ones = {
            name: jnp.ones((1, 1, 1), jnp.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")
        }
        zero = jnp.zeros((1, 1), jnp.int32)
        batch = ones | dict.fromkeys(("example", "slot_token", "slot_example", "slot_position"), zero)
        encoder_key, head_key = jax.random.split(jax.random.wrap_key_data(jnp.asarray(key)))
        pooled, encoder = self._encoder(-1).init_with_output(encoder_key, batch, None, Hooks())
        head = self._head().init(head_key, pooled, batch, None)
        return {"encoder": encoder["params"], "head": head["params"]}

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
        pooled = self._encoder(self.start).apply({"params": params["encoder"]}, batch, noise, hooks)
        return self._head().apply({"params": params["head"]}, pooled, batch, head_noise)

    def hidden(self, params, batch, values=None):
        """`hidden` of a batch of tokens, for this model's start: f[G, R, L, D], or f[G, S, D] above the last layer.

        params, batch, values: as for `apply`, with the parameters below the start alone.
        """
        hooks = self.adapt(params.get("adapters", {}), values or {})
        return self._encoder(-1).apply({"params": params["encoder"]}, batch, None, hooks, self.start)

    def _encoder(self, start):
        return Encoder(self.config, jnp.dtype(self.dtype), self.noisy_from, self.one_slot, start)

    def _head(self):
        return heads.Classifier(self.classes, self.config.stddev, jnp.dtype(self.dtype))
