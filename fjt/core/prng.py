"""Random bits with an address: a hash of where a bit is used, not a stream that is consumed in layout order.

A key is u32[2]. Folding a word into it gives an independent key; `uniform_bits` spreads a key over features.
The rounds are multiply and xor-shift on 32 bits with the `lowbias32` constants (C. Wellons, hash-prospector,
bias 0.17), about as cheap as one multiply-add of the activations they drop.
"""

import jax.numpy as jnp
import numpy as np

GOLDEN = np.uint32(0x9E3779B9)
MULTIPLY_1 = np.uint32(0x7FEB352D)
MULTIPLY_2 = np.uint32(0x846CA68B)


def _mix(x):
    x = (x ^ (x >> 16)) * MULTIPLY_1
    x = (x ^ (x >> 15)) * MULTIPLY_2
    return x ^ (x >> 16)


def fold(key, word):
    """The key (a pair of u32 arrays) with a word folded in; word: any integer array, broadcast against the key."""
    a, b = key
    word = jnp.asarray(word).astype(jnp.uint32)
    a = _mix(a ^ (word * GOLDEN + MULTIPLY_1))
    return a, _mix(b + a ^ word)


def uniform_bits(key, feature):
    """u32[..., F]: uniform bits of a key (pair of u32[..., 1]) at features u32[..., F].

    The second word of the key enters between the rounds, so keys whose first words agree, or differ by a
    multiple of the step between features, still give unrelated bits.
    """
    a, b = key
    feature = jnp.asarray(feature).astype(jnp.uint32)
    x = a + feature.reshape((1,) * (a.ndim - feature.ndim) + feature.shape) * GOLDEN
    x = (x ^ (x >> 16)) * MULTIPLY_1
    x = ((x ^ (x >> 15)) ^ b) * MULTIPLY_2
    return x ^ (x >> 16)


def keep(key, feature, rate):
    """bool[..., F]: which entries dropout at `rate` leaves.  key, feature: as `uniform_bits` takes them."""
    return uniform_bits(key, feature) >= (rate * 4294967296.0).astype(jnp.uint32)


def thin(x, kept, rate):
    """x with what is not kept zeroed and the rest scaled by 1 / (1 - rate); x itself when kept is None."""
    if kept is None:
        return x
    return jnp.where(kept, x * (1.0 / (1.0 - rate)).astype(x.dtype), jnp.zeros((), x.dtype))


def dropout(x, key, feature, rate):
    """x with entries zeroed at `rate` and the rest scaled by 1 / (1 - rate).

    x: f[..., F]; key: pair of u32[..., 1]; feature: u32[..., F] or u32[F]; rate: traced f32 in [0, 1).
    """
    return thin(x, keep(key, feature, rate), rate)
