"""The building blocks of an encoder: hooked dense layers, LayerNorm, GELU, segment attention, addressed dropout."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from fjt.core import prng
from fjt.core.prng import Array, Rate


@dataclasses.dataclass(frozen=True)
class Site:
    """A dense layer as hooks see it.

    Attributes:
        name: its name, such as `query`.
        layer: number of its layer.
        kernel: in the dtype of the computation.
        bias: in the dtype of the computation.
        noise: dropout of the layer, None without dropout.
        tokens: addresses of its tokens; None in the head, which reads one vector per slot.
    """

    name: str
    layer: int
    kernel: Float[Array, "D F"]
    bias: Float[Array, " F"]
    noise: "Noise | None"
    tokens: "Tokens | None"


Block = Callable[[str, int, Array, Array, Callable[[Array], Array], Any], Array]


@dataclasses.dataclass(frozen=True)
class Hooks:
    """The places where a tuning method enters the encoder; the default of each hook changes nothing.

    Attributes:
        kernel: (site, kernel) -> kernel of a dense layer, f32[D, F] before it is cast.
        enter: (site, x) -> input of a dense layer, f[..., D].
        linear: (site, x, y) -> output of a dense layer for the input x, f[..., F].
        key_value: (layer, k, v) -> (k, v), f[G, R, L, H, K]; keys inserted before the L own keys are seen by every
            segment.
        key_gate: (layer, h, tokens) -> f[G, R, L], factor of these keys and of their values for a query, or None.
        block: (name, layer, h, residual, norm, tokens) -> h, a sublayer's output before `norm(h + residual)`.
        embed: (words, batch) -> word embeddings f[G, R, L, D] before positions and types are added.
        first_position: the position of an example's first token.
        every_token: whether the last layer is computed for every token, not only for first tokens.
    """

    kernel: Callable[[Site, Array], Array] = lambda site, kernel: kernel
    enter: Callable[[Site, Array], Array] = lambda site, x: x
    linear: Callable[[Site, Array, Array], Array] = lambda site, x, y: y
    key_value: Callable[[int, Array, Array], tuple[Array, Array]] = lambda layer, k, v: (k, v)
    key_gate: Callable[[int, Array, Any], Array | None] = lambda layer, h, tokens: None
    block: Block = lambda name, layer, h, residual, norm, tokens: h
    embed: Callable[[Array, dict[str, Array]], Array] = lambda words, batch: words
    first_position: int = 0
    every_token: bool = False


def compose(*hooks: Hooks) -> Hooks:
    """The Hooks that apply the given hooks one after another at each place."""
    if len(hooks) == 1:
        return hooks[0]
    one, two = hooks[0], compose(*hooks[1:])
    return Hooks(
        kernel=lambda site, kernel: two.kernel(site, one.kernel(site, kernel)),
        enter=lambda site, x: two.enter(site, one.enter(site, x)),
        linear=lambda site, x, y: two.linear(site, x, one.linear(site, x, y)),
        key_value=lambda layer, k, v: two.key_value(layer, *one.key_value(layer, k, v)),
        key_gate=one.key_gate if one.key_gate is not Hooks.key_gate else two.key_gate,
        block=lambda name, layer, h, residual, norm, tokens: two.block(
            name, layer, one.block(name, layer, h, residual, norm, tokens), residual, norm, tokens
        ),
        embed=_embed(one, two),
        first_position=one.first_position + two.first_position,
        every_token=one.every_token or two.every_token,
    )


def _embed(one: Hooks, two: Hooks) -> Callable[[Array, dict[str, Array]], Array]:
    """The `embed` of two Hooks, the default one where both have it: a model may ask whether it is."""
    if Hooks.embed in (one.embed, two.embed):
        return two.embed if one.embed is Hooks.embed else one.embed
    return lambda words, batch: two.embed(one.embed(words, batch), batch)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The addresses of tokens.

    Attributes:
        segment: number of the example in its group plus one; 0 for padding.
        position: of the token in its example.
        example: row of the example in the data set.
    """

    segment: Int[Array, "G X L"]
    position: Int[Array, "G X L"]
    example: Int[Array, "G X L"]

    def arrays(self) -> tuple[Array, Array, Array]:
        """(segment, position, example)."""
        return self.segment, self.position, self.example


# Sites of dropout in a layer; a number is part of a bit's address, so it never changes. The embeddings are layer -1.
EMBEDDINGS, PROBABILITIES, ATTENTION_OUTPUT, OUTPUT, METHODS = range(5)
SITES = 5
HEAD_STRIDE = 1 << 20  # distance between the dropout features of two heads' probabilities


@dataclasses.dataclass(frozen=True)
class Noise:
    """Dropout of one layer.

    Attributes:
        keys: pair of u32[SITES, G, X, L], one key of each token at each site.
        whole: pair of u32[], the key of masks that are drawn once for the layer.
        hidden: dropout rate of hidden states.
        attention: dropout rate of attention.
    """

    keys: prng.Key
    whole: prng.Key
    hidden: prng.Rate
    attention: prng.Rate

    def at(self, site: int) -> prng.Key:
        """The keys of a site's tokens, a pair of u32[G, X, L]."""
        return self.keys[0][site], self.keys[1][site]


def token_keys(key: prng.Key, tokens: Tokens, layers: int) -> prng.Key:
    """The keys of all tokens at all sites of all layers, from layer -1 on: a pair of u32[layers + 1, SITES, G, R, L].

    They are computed in a loop, whose result XLA stores; without a loop it would compute a token's key again for each
    of the token's features.

    Args:
        key: pair of u32[].
        tokens: their addresses.
        layers: number of layers.
    """

    def one(place: Array) -> prng.Key:
        layer, site = place // SITES, place % SITES
        return prng.fold(prng.fold(prng.fold(prng.fold(key, layer), site), tokens.example), tokens.position)

    flat = jax.lax.map(one, jnp.arange((layers + 1) * SITES))
    return tuple(x.reshape(layers + 1, SITES, *x.shape[1:]) for x in flat)


def drop(x: Float[Array, "G X L D"], noise: Noise | None, site: int) -> Float[Array, "G X L D"]:
    """x with hidden dropout, or x itself without noise."""
    return drop_at(x, noise, site, 0, None if noise is None else noise.hidden)


def drop_at(
    x: Float[Array, "*place D"], noise: Noise | None, site: int, first: int, rate: Rate | None
) -> Float[Array, "*place D"]:
    """x with dropout, or x itself without noise.

    Args:
        x: activations of tokens.
        noise: dropout of the layer.
        site: number of the site.
        first: number of x's first feature, part of a bit's address.
        rate: dropout rate.
    """
    if noise is None or rate is None:
        return x
    a, b = noise.at(site)
    return prng.dropout(x, (a[..., None], b[..., None]), first + jnp.arange(x.shape[-1]), rate)


def take_rows(x: Shaped[Array, "G R *rest"], row: Int[Array, "G E"]) -> Shaped[Array, "G E *rest"]:
    """The rows of each group with the given numbers."""
    return jax.vmap(lambda rows, index: jnp.take(rows, index, axis=0, mode="clip"))(x, row)


def take_tokens(x: Shaped[Array, "G R L *rest"], first: Int[Array, "G E"]) -> Shaped[Array, "G E 1 *rest"]:
    """The tokens of each group with the given numbers, row * L + column."""
    return take_rows(x.reshape(x.shape[0], -1, *x.shape[3:]), first)[:, :, None]


def noise_at(noise: Noise, first: Int[Array, "G E"]) -> Noise:
    """The Noise of the tokens with the given numbers."""
    keys = tuple(jnp.stack([take_tokens(x, first) for x in word]) for word in noise.keys)
    return dataclasses.replace(noise, keys=keys)


class Dense(nn.Module):
    """x W + b, accumulated in float32 at least."""

    features: int
    site: str
    layer: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*place D"],
        hooks: Hooks,
        noise: Noise | None = None,
        tokens: Tokens | None = None,
    ) -> Float[Array, "*place F"]:
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        site = Site(self.site, self.layer, kernel.astype(self.dtype), bias.astype(self.dtype), noise, tokens)
        x = hooks.enter(site, x)
        y = product(x, hooks.kernel(site, kernel).astype(self.dtype)) + _along(site.bias, x)
        return hooks.linear(site, x, y)


def product(x: Float[Array, "*place D"], kernel: Float[Array, "D F"]) -> Float[Array, "*place F"]:
    """x W, accumulated in float32 at least."""
    flat = x.reshape(-1, x.shape[-1])  # with more axes XLA copies and transposes the gradient for that of the kernel
    y = jnp.matmul(flat, kernel, preferred_element_type=wide(x.dtype)).astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32 at least."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*place D"]) -> Float[Array, "*place D"]:
        scale: Array = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias: Array = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y: Any = normalize(x.astype(wide(self.dtype)), scale, bias, self.epsilon)  # custom_vjp hides its type
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "*place D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*place D"]:
    """x with mean 0 and variance 1 over its last axis, times scale, plus bias (Ba et al. 2016).

    The inner sums of its gradient are written as products: for sums over more than two axes, XLA's CPU kernels are ten
    times slower.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + epsilon)
    y = (x - mean) * inverse * _along(scale, x) + _along(bias, x)
    return y, (x, mean, inverse, scale)


def _normalize_backward(epsilon, saved, g):
    del epsilon
    x, mean, inverse, scale = saved
    product = functools.partial(jnp.einsum, precision="highest")
    standard, scaled = (x - mean) * inverse, g * _along(scale, g)
    along_ones = product("...d,d->...", g, scale)[..., None] / x.shape[-1]
    along_x = product("...d,...d->...", scaled, standard)[..., None] / x.shape[-1]
    dx = inverse * (scaled - along_ones - standard * along_x)
    return dx, product("...d,...d->d", g, standard), jnp.sum(g, axis=tuple(range(g.ndim - 1)))


normalize.defvjp(_normalize_forward, _normalize_backward)


def _along(vector: Float[Array, " F"], x: Float[Array, "*place D"]) -> Float[Array, "*ones F"]:
    """A vector in the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Embedding(nn.Module):
    """Rows of a table."""

    rows: int
    width: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: Int[Array, "*place"]) -> Float[Array, "*place D"]:
        table = self.param("embedding", nn.initializers.normal(self.stddev), (self.rows, self.width))
        return jnp.take(table, ids, axis=0, mode="clip").astype(self.dtype)


def wide(dtype: Any) -> jnp.dtype:
    """The dtype of sums, means and exponentials: float32, or float64 if the computation uses it."""
    return jnp.promote_types(dtype, jnp.float32)


@jax.custom_vjp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x Phi(x), exact (Hendrycks & Gimpel 2016).

    Its derivative Phi(x) + x phi(x) is computed in the forward pass, which has erf, and stored in place of x: this
    needs the same memory, and the backward pass is one product.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    wider = x.astype(wide(x.dtype))
    cdf = 0.5 * (1.0 + jax.lax.erf(wider * math.sqrt(0.5)))
    pdf = jnp.exp(-0.5 * jnp.square(wider)) * (1.0 / math.sqrt(2.0 * math.pi))
    return (wider * cdf).astype(x.dtype), (cdf + wider * pdf).astype(x.dtype)


gelu.defvjp(_gelu_forward, lambda derivative, g: (g * derivative,))

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@jax.custom_vjp
def weigh(
    scores: Float[Array, "*b Q L"],
    v: Float[Array, "*b L K"],
    keep: Bool[Array, "*b Q L"] | None,
    rate: Rate | None,
) -> Float[Array, "*b Q K"]:
    """Values weighted by the softmax of scores, with dropout.

    Its gradient's sum over the L keys is the product of y with the gradient of y, a sum over the K features (Dao et al.
    2022, FlashAttention, appendix B.4): it includes dropout, and no array of scores is reduced.

    Args:
        scores: of queries and keys.
        v: values.
        keep: the dropout mask, or None without dropout.
        rate: dropout rate, or None.
    """
    return _weigh_forward(scores, v, keep, rate)[0]


def _weigh_forward(scores, v, keep, rate):
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    y = jnp.matmul(prng.thin(probabilities, keep, rate), v, preferred_element_type=wide(v.dtype)).astype(v.dtype)
    return y, (probabilities, v, keep, rate, y)


def _weigh_backward(saved, g):
    probabilities, v, keep, rate, y = saved
    thinned = prng.thin(probabilities, keep, rate)
    dv = jnp.matmul(jnp.swapaxes(thinned, -1, -2), g, preferred_element_type=wide(v.dtype)).astype(v.dtype)
    to_weights = jnp.matmul(g, jnp.swapaxes(v, -1, -2), preferred_element_type=wide(v.dtype))
    inner = jnp.sum(g.astype(wide(g.dtype)) * y.astype(wide(y.dtype)), axis=-1, keepdims=True)
    return thinned * to_weights - probabilities * inner, dv, None, None


weigh.defvjp(_weigh_forward, _weigh_backward)


def segment_mean(x: Float[Array, "G X L"], tokens: Tokens) -> Float[Array, "G X L"]:
    """The mean of x over the tokens of each token's own segment."""
    same = tokens.segment[..., :, None] == tokens.segment[..., None, :]
    own = jnp.where(same, x.astype(wide(x.dtype))[..., None, :], 0.0)
    return (jnp.sum(own, axis=-1) / jnp.sum(same, axis=-1)).astype(x.dtype)


def attend(
    q: Float[Array, "G X Q H K"],
    k: Float[Array, "G X M H K"],
    v: Float[Array, "G X M H K"],
    queries: Tokens,
    keys: Tokens,
    noise: Noise | None,
    gate: Float[Array, "G X Q"] | None = None,
) -> Float[Array, "G X Q H K"]:
    """Attention of each token over the keys of its own segment.

    Padding is segment 0 and sees itself, so that no row is empty.

    Args:
        q: queries.
        k: M = P + L keys, of which every segment sees the first P.
        v: their values.
        queries: addresses of the queries.
        keys: addresses of the L last keys.
        noise: dropout of the layer.
        gate: factor of the first P keys and values.
    """
    prefix = k.shape[2] - keys.segment.shape[2]
    visible = queries.segment[:, :, :, None] == keys.segment[:, :, None, :]
    visible = jnp.pad(visible, ((0, 0), (0, 0), (0, 0), (prefix, 0)), constant_values=True)
    q, k, v = (jnp.swapaxes(x, 2, 3) for x in (q, k, v))  # heads first, so that the products transpose nothing large
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=wide(q.dtype))
    scores = scores * (1.0 / math.sqrt(q.shape[-1]))
    if gate is not None:
        gate, gated = gate[:, :, None, :, None], (jnp.arange(k.shape[3]) < prefix)[(None,) * 4]
        scores = jnp.where(gated, scores * gate.astype(scores.dtype), scores)
    scores = jnp.where(visible[:, :, None], scores, jnp.finfo(scores.dtype).min)
    keep = None
    if noise is not None:
        # Prefix keys count down from -1, so that their addresses do not depend on the segment's place in its row.
        before = jnp.broadcast_to(jnp.arange(-prefix, 0), (*keys.position.shape[:2], prefix))
        position = jnp.concatenate([before, keys.position], axis=-1)[:, :, None, None, :]
        feature = position + HEAD_STRIDE * jnp.arange(q.shape[2])[None, None, :, None, None]
        a, b = noise.at(PROBABILITIES)
        key = (a[:, :, None, :, None], b[:, :, None, :, None])
        keep = prng.keep(key, feature, noise.attention)
    rate = None if noise is None else noise.attention
    if gate is None:
        y = weigh(scores, v, keep, rate)
    else:  # the backward pass of `weigh` is right only for weights that add up to one before dropout
        weights = prng.thin(jax.nn.softmax(scores, axis=-1).astype(v.dtype), keep, rate)
        weights = jnp.where(gated, gate * weights, weights)
        y = jnp.matmul(weights, v, preferred_element_type=wide(v.dtype)).astype(v.dtype)
    return jnp.swapaxes(y, 2, 3)
