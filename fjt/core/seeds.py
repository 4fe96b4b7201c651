"""Keys and orders of a seed, on the host (numpy): where all randomness of a run starts."""

import hashlib

import numpy as np
from jaxtyping import Int, UInt32


def make_key(seed: int, stream: str) -> UInt32[np.ndarray, "2"]:
    """The key of a named stream of a seed.  A cryptographic hash separates streams and seeds."""
    digest = hashlib.sha256(f"fjt/{stream}/{seed}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def permutation(seed: int, epoch: int, n: int) -> Int[np.ndarray, " n"]:
    """The order of n examples in an epoch.

    It is the sorting order of raw PCG64 output: numpy guarantees these bits, but not those of its shuffles.
    """
    words = [*make_key(seed, "data").tolist(), epoch]
    return np.argsort(np.random.PCG64(np.random.SeedSequence(words)).random_raw(n), kind="stable")
