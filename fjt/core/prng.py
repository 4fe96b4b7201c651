"""Random bits with an address: a hash of where a bit is used, not a stream that is consumed in layout order.

A key is u32[2]. Folding a word into it gives an independent key; `uniform_bits` spreads a key over features.
The rounds are multiply and xor-shift on 32 bits with the `lowbias32` constants (C. Wellons, hash-prospector,
bias 0.17). They cost about as much as one multiply-add of the activations that are dropped.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, UInt32

from fjt.core import seeds
from fjt.core.seeds import GOLDEN, MULTIPLY_1, MULTIPLY_2

Array = jax.Array | np.ndarray  # what the functions of jax.numpy take
Rate = Float[Array | np.number, ""]  # of dropout, in [0, 1)
Key = tuple[Array, Array]  # two u32 arrays of one shape: one key for each of their elements


def fold(key: Key, word: ArrayLike) -> Key:
    """The key with a word folded in.

    Args:
        key: pair of u32 arrays.
        word: any integer array; it is broadcast against the key.
    """
    return seeds.fold(*key, jnp.asarray(word).astype(jnp.uint32))


def uniform_bits(key: Key, feature: ArrayLike) -> UInt32[Array, "... F"]:
    """Uniform bits of a key at features.

    The second word of the key enters between the rounds. Keys whose first words agree, or differ by a multiple of the
    step between features, therefore still give unrelated bits.

    Args:
        key: pair of u32[..., 1].
        feature: u32[..., F] or u32[F].
    """
    a, b = key
    feature = jnp.asarray(feature).astype(jnp.uint32)
    x = a + feature.reshape((1,) * (a.ndim - feature.ndim) + feature.shape) * GOLDEN
    x = (x ^ (x >> 16)) * MULTIPLY_1
    x = ((x ^ (x >> 15)) ^ b) * MULTIPLY_2
    return x ^ (x >> 16)


def keep(key: Key, feature: ArrayLike, rate: Rate) -> Bool[Array, "... F"]:
    """The dropout mask: True for entries that dropout with probability `rate` leaves.

    Args:
        key: pair of u32[..., 1].
        feature: u32[..., F] or u32[F].
        rate: traced f32 in [0, 1).
    """
    return uniform_bits(key, feature) >= (rate * 4294967296.0).astype(jnp.uint32)


def thin(x: Float[Array, "*n"], kept: Bool[Array, "*#n"] | None, rate: Rate | None) -> Array:
    """x with entries outside the dropout mask zeroed and the others scaled by 1 / (1 - rate).

    Args:
        x: activations.
        kept: the mask of `keep`, or None for x unchanged.
        rate: traced f32 in [0, 1).
    """
    if kept is None or rate is None:
        return x
    return jnp.where(kept, x * (1.0 / (1.0 - rate)).astype(x.dtype), jnp.zeros((), x.dtype))


def dropout(x: Float[Array, "... F"], key: Key, feature: ArrayLike, rate: Rate) -> Float[Array, "... F"]:
    """x with entries zeroed with probability `rate` and the others scaled by 1 / (1 - rate).

    Args:
        x: activations.
        key: pair of u32[..., 1].
        feature: u32[..., F] or u32[F].
        rate: traced f32 in [0, 1).
    """
    return thin(x, keep(key, feature, rate), rate)
