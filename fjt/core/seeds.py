"""Keys, orders and bits of a seed, on the host (numpy): where all randomness of a run starts."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt32

# The constants of `fjt.core.prng`, whose hash `bits` computes on the host.
GOLDEN = np.uint32(0x9E3779B9)
MULTIPLY_1 = np.uint32(0x7FEB352D)
MULTIPLY_2 = np.uint32(0x846CA68B)


def mix(x: Any) -> Any:
    """The hash of u32 arrays, of numpy or jax."""
    x = (x ^ (x >> 16)) * MULTIPLY_1
    x = (x ^ (x >> 15)) * MULTIPLY_2
    return x ^ (x >> 16)


def make_key(seed: int, stream: str) -> UInt32[np.ndarray, "2"]:
    """The key of a named stream of a seed.  A cryptographic hash separates streams and seeds."""
    digest = hashlib.sha256(f"fjt/{stream}/{seed}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def fold(a: Any, b: Any, word: Any) -> tuple[Any, Any]:
    """The two halves of a key with a word folded in: u32 arrays, of numpy or jax."""
    a = mix(a ^ (word * GOLDEN + MULTIPLY_1))
    return a, mix((b + a) ^ word)


def bits(key: UInt32[np.ndarray, "2"], *address: int | Shaped[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """Uniform bits at addresses: the second words of the keys that `prng.fold` makes of them.

    Args:
        key: of a stream.
        address: the words of each address, one of them an array.
    """
    a, b = key[:1], key[1:]
    for word in address:
        a, b = fold(a, b, np.atleast_1d(np.asarray(word)).astype(np.uint32))
    return b


def permutation(seed: int, epoch: int, n: int, stream: str = "data") -> Int[np.ndarray, " n"]:
    """The order of n examples in an epoch.

    It is the sorting order of raw PCG64 output: numpy guarantees these bits, but not those of its shuffles.
    """
    words = [*make_key(seed, stream).tolist(), epoch]
    return np.argsort(np.random.PCG64(np.random.SeedSequence(words)).random_raw(n), kind="stable")
