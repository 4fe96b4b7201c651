"""Keys and orders of a seed, on the host (numpy): where all randomness of a run starts."""

import hashlib

import numpy as np


def make_key(seed, stream):
    """u32[2] for a named stream of a seed; streams and seeds are separated by a cryptographic hash."""
    digest = hashlib.sha256(f"fjt/{stream}/{seed}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def permutation(seed, epoch, n):
    """i64[n]: the order of n examples in an epoch.

    The sorting order of raw PCG64 output, whose bits numpy guarantees; its shuffles it does not.
    """
    words = [*make_key(seed, "data").tolist(), epoch]
    return np.argsort(np.random.PCG64(np.random.SeedSequence(words)).random_raw(n), kind="stable")
