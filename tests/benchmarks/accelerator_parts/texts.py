"""Random texts that both libraries train on, and their batches (numpy only)."""

import numpy as np

BATCHES = 8  # taken in turn
SHAPES = {  # layers, width, heads, inner width, vocabulary
    "tiny": (1, 32, 2, 64, 500),
    "base": (12, 768, 12, 3072, 30522),
    "large": (24, 1024, 16, 4096, 30522),
}
POSITIONS = 512


def draw(count: int, longest: int, vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(token ids i32[T], offsets i64[count + 1], labels i32[count]) of texts of longest / 8 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(2, longest // 8), longest + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return rng.integers(5, vocab, offsets[-1]).astype(np.int32), offsets, rng.integers(0, 2, count).astype(np.int32)


def batches(offsets: np.ndarray, size: int, grouped: bool = False, seed: int = 0) -> np.ndarray:
    """i64[K, size]: the texts of each batch, at random, or texts of similar length together."""
    count = len(offsets) - 1
    order = np.argsort(np.diff(offsets), kind="stable") if grouped else np.random.default_rng(seed).permutation(count)
    return np.random.default_rng(seed + 1).permutation(order[: count // size * size].reshape(-1, size), axis=0)
