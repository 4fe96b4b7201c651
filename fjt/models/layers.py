"""The building blocks of an encoder: hooked dense layers, LayerNorm, GELU, segment attention, addressed dropout."""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjt.core import prng


@dataclasses.dataclass(frozen=True)
class Site:
    """A dense layer as a hook sees it: its name and layer, kernel f[D, F], bias f[F], its tokens and their Noise.

    noise: None without dropout; tokens: None in the head, which reads one vector per slot.
    """

    name: str
    layer: int
    kernel: jax.Array
    bias: jax.Array
    noise: "Noise | None"
    tokens: "Tokens | None"


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Where a tuning method enters the encoder; each hook's default changes nothing.

    kernel(site, kernel) -> kernel: what a dense layer multiplies with, f32[D, F] before it is cast.
    enter(site, x) -> x: what a dense layer reads, f[..., D].
    linear(site, x, y) -> y: what it gives for x, f[..., F].
    key_value(layer, k, v) -> (k, v): f[G, R, L, H, K]; keys put before the L own ones are seen by every segment.
    key_gate(layer, h, tokens) -> f[G, R, L], what those keys and their values are multiplied by for a query, or None.
    block(name, layer, h, residual, norm, tokens) -> h: a sublayer's output before `norm(h + residual)`.
    embed(words, batch) -> words: word embeddings f[G, R, L, D] before positions and types are added.
    first_position: the position of an example's first token.
    every_token: whether the last layer is computed for every token, not for first ones alone.
    """

    kernel: Callable = lambda site, kernel: kernel
    enter: Callable = lambda site, x: x
    linear: Callable = lambda site, x, y: y
    key_value: Callable = lambda layer, k, v: (k, v)
    key_gate: Callable = lambda layer, h, tokens: None
    block: Callable = lambda name, layer, h, residual, norm, tokens: h
    embed: Callable = lambda words, batch: words
    first_position: int = 0
    every_token: bool = False


def compose(*hooks):
    """The Hooks that enter one after the other at each place."""
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
        embed=lambda words, batch: two.embed(one.embed(words, batch), batch),
        first_position=one.first_position + two.first_position,
        every_token=one.every_token or two.every_token,
    )


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The addresses of tokens, i32[G, X, L] each: segment (0 is padding), position in the example, data set row."""

    segment: jax.Array
    position: jax.Array
    example: jax.Array

    def arrays(self):
        """(segment, position, example)."""
        return self.segment, self.position, self.example


# Sites of dropout in a layer; a number is part of a bit's address, so it never changes. The embeddings are layer -1.
EMBEDDINGS, PROBABILITIES, ATTENTION_OUTPUT, OUTPUT, METHODS = range(5)
SITES = 5
HEAD_STRIDE = 1 << 20  # between the features of one head's probabilities and the next one's


@dataclasses.dataclass(frozen=True)
class Noise:
    """Dropout of one layer: keys (pair of u32[SITES, G, X, L], one of each token at each site), and traced rates.

    whole: the key (pair of u32[]) of what is drawn once for the layer.
    """

    keys: tuple
    whole: tuple
    hidden: jax.Array
    attention: jax.Array

    def at(self, site):
        """Key pair u32[G, X, L] of a site's tokens."""
        return self.keys[0][site], self.keys[1][site]


def token_keys(key, tokens, layers):
    """Pair of u32[layers + 1, SITES, G, R, L]: the keys of all tokens at all sites of all layers, from -1 on.

    Made in a loop, which XLA stores: written without one, it computes a token's key again for each of its features.
    """

    def one(place):
        layer, site = place // SITES, place % SITES
        return prng.fold(prng.fold(prng.fold(prng.fold(key, layer), site), tokens.example), tokens.position)

    flat = jax.lax.map(one, jnp.arange((layers + 1) * SITES))
    return tuple(x.reshape(layers + 1, SITES, *x.shape[1:]) for x in flat)


def drop(x, noise, site):
    """x f[G, X, L, D] with hidden dropout, or x itself when noise is None."""
    return drop_at(x, noise, site, 0, None if noise is None else noise.hidden)


def drop_at(x, noise, site, first, rate):
    """x f[G, X, L, D] with dropout at rate f[], its features numbered from `first`; x itself when noise is None."""
    if noise is None:
        return x
    a, b = noise.at(site)
    return prng.dropout(x, (a[..., None], b[..., None]), first + jnp.arange(x.shape[-1]), rate)


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


class Dense(nn.Module):
    """x W + b, accumulated in float32 at least.  x: f[..., D] -> f[..., F]."""

    features: int
    site: str
    layer: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, hooks, noise=None, tokens=None):
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        site = Site(self.site, self.layer, kernel.astype(self.dtype), bias.astype(self.dtype), noise, tokens)
        x = hooks.enter(site, x)
        y = product(x, hooks.kernel(site, kernel).astype(self.dtype)) + _along(site.bias, x)
        return hooks.linear(site, x, y)


def product(x, kernel):
    """x W, accumulated in float32 at least: f[..., F] of x f[..., D], kernel f[D, F]."""
    flat = x.reshape(-1, x.shape[-1])  # with more axes XLA copies the gradient, transposed, for the kernel's own
    y = jnp.matmul(flat, kernel, preferred_element_type=wide(x.dtype)).astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32 at least."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return normalize(x.astype(wide(self.dtype)), scale, bias, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x, scale, bias, epsilon):
    """x f[..., D] over its last axis with mean 0 and variance 1, times scale f[D], plus bias f[D] (Ba et al. 2016).

    Its gradient's inner sums are products: written as sums of products, over more than two axes, XLA's CPU kernels
    take ten times as long for them.
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


def _along(vector, x):
    """vector f[D] in the rank of x f[..., D]."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Embedding(nn.Module):
    """Rows of a table.  ids: i32[...] -> f[..., D]."""

    rows: int
    width: int
    stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids):
        table = self.param("embedding", nn.initializers.normal(self.stddev), (self.rows, self.width))
        return jnp.take(table, ids, axis=0, mode="clip").astype(self.dtype)


def wide(dtype):
    """The dtype of sums, means and exponentials: float32, or float64 when computing in it."""
    return jnp.promote_types(dtype, jnp.float32)


@jax.custom_vjp
def gelu(x):
    """x Phi(x), exact (Hendrycks & Gimpel 2016).

    Its derivative Phi(x) + x phi(x) is made in the forward pass, where erf is at hand, and kept in the place of
    x: the same memory, and the backward pass is one product.
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
def weigh(scores, v, keep, rate):
    """Values weighed by the dropped-out softmax of scores: f[..., Q, K] of scores f[..., Q, L], v f[..., L, K].

    keep: bool[..., Q, L] with the rate f[] of what it drops, or None and None.
    The gradient's sum over the L keys is the product of y with its own gradient, a sum over the K features
    (Dao et al. 2022, FlashAttention, appendix B.4): dropout is inside it, and no array of scores is reduced.
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


def segment_mean(x, tokens):
    """f[G, X, L] of x f[G, X, L]: the mean over the tokens of each one's own segment."""
    same = tokens.segment[..., :, None] == tokens.segment[..., None, :]
    own = jnp.where(same, x.astype(wide(x.dtype))[..., None, :], 0.0)
    return (jnp.sum(own, axis=-1) / jnp.sum(same, axis=-1)).astype(x.dtype)


def attend(q, k, v, queries, keys, noise, gate=None):
    """Attention of each token over the keys of its own segment: f[G, X, Q, H, K].

    q: f[G, X, Q, H, K]; k, v: f[G, X, P + L, H, K], whose first P keys every segment sees; queries, keys: Tokens
    [G, X, Q] and [G, X, L]; gate: None, or f[G, X, Q] that multiplies the first P keys and values.
    Padding is segment 0 and sees itself, so no row is empty.
    """
    prefix = k.shape[2] - keys.segment.shape[2]
    visible = queries.segment[:, :, :, None] == keys.segment[:, :, None, :]
    visible = jnp.pad(visible, ((0, 0), (0, 0), (0, 0), (prefix, 0)), constant_values=True)
    q, k, v = (jnp.swapaxes(x, 2, 3) for x in (q, k, v))  # heads first: the products below then transpose nothing large
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=wide(q.dtype))
    scores = scores * (1.0 / math.sqrt(q.shape[-1]))
    if gate is not None:
        gate, gated = gate[:, :, None, :, None], (jnp.arange(k.shape[3]) < prefix)[(None,) * 4]
        scores = jnp.where(gated, scores * gate.astype(scores.dtype), scores)
    scores = jnp.where(visible[:, :, None], scores, jnp.finfo(scores.dtype).min)
    keep = None
    if noise is not None:
        # Prefix keys count down from -1: the same address wherever the segment lies in its row.
        before = jnp.broadcast_to(jnp.arange(-prefix, 0), (*keys.position.shape[:2], prefix))
        position = jnp.concatenate([before, keys.position], axis=-1)[:, :, None, None, :]
        feature = position + HEAD_STRIDE * jnp.arange(q.shape[2])[None, None, :, None, None]
        a, b = noise.at(PROBABILITIES)
        key = (a[:, :, None, :, None], b[:, :, None, :, None])
        keep = prng.keep(key, feature, noise.attention)
    rate = None if noise is None else noise.attention
    if gate is None:
        y = weigh(scores, v, keep, rate)
    else:  # weigh's backward pass holds for weights that add up to one before dropout alone
        weights = prng.thin(jax.nn.softmax(scores, axis=-1).astype(v.dtype), keep, rate)
        weights = jnp.where(gated, gate * weights, weights)
        y = jnp.matmul(weights, v, preferred_element_type=wide(v.dtype)).astype(v.dtype)
    return jnp.swapaxes(y, 2, 3)
