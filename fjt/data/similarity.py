"""Nearly equal texts: MinHash signatures, candidates by locality-sensitive hashing, and their exact Jaccard similarity.

The method is that of Broder 1997 ("On the resemblance and containment of documents") with the banding of Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.  It is deterministic.
"""

import functools
import re
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt32, UInt64

from fjt.core.ragged import Ragged
from fjt.data.cleaning import Key

THRESHOLD = 0.8  # Jaccard similarity of the pairs of neighbouring words from which two texts are nearly equal
BANDS, ROWS = 20, 5  # a pair of similarity 0.8 is a candidate with probability 1 - (1 - 0.8 ** 5) ** 20 = 0.9996
WINDOW = 50  # rows before it that a row is compared with in a bucket
SURE = 0.6  # estimated similarity below which a candidate is dropped: five standard errors below THRESHOLD
CHUNK = 1 << 16  # candidates that are estimated at once
ODD = np.uint64(0x9E3779B97F4A7C15)
# Characters of scripts without blanks between words are words of their own.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+")


def shingles_of(texts: Sequence[str]) -> Ragged:
    """The shingles of each text: hashes of its pairs of neighbouring words, or of its only word.

    Case, punctuation and blanks do not count.  A shingle may come twice.
    """
    hash_of: dict[str, int] = {}
    words: list[int] = []
    counts = np.zeros(len(texts), np.int64)
    for number, text in enumerate(texts):
        found = _WORD.findall(text.lower())
        counts[number] = len(found)
        for word in found:
            if word not in hash_of:
                hash_of[word] = zlib.crc32(word.encode())
            words.append(hash_of[word])
    first = np.array(words, np.uint64)
    second = np.roll(first, -1)
    last = np.cumsum(counts)[counts > 0] - 1
    second[last] = 0
    kept = np.ones(len(first), bool)
    kept[last] = counts[counts > 0] == 1
    values = first * ODD + second
    values ^= values >> np.uint64(32)
    offsets = np.concatenate([[0], np.cumsum(np.where(counts > 1, counts - 1, counts))])
    return Ragged(values[kept], offsets)


def find_pairs(keys: Sequence[Key]) -> Int[np.ndarray, "P 2"]:
    """The pairs of rows (i, j), i < j, whose texts are nearly equal and not equal, sorted by j and then by i.

    Of rows with several texts, each text is nearly equal to the text at its place.  Of equal rows, the first alone is
    compared.  In a bucket of more than WINDOW rows that look alike, pairs that are farther apart may be missed.

    Args:
        keys: of the rows.
    """
    first: dict[Key, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    texts = {text: number for number, text in enumerate(dict.fromkeys(text for key in first for text in key))}
    shingles = shingles_of(list(texts))
    numbers, sizes, bounds = [[texts[text] for text in key] for key in first], shingles.lengths, shingles.offsets
    filled = [at for at, row in enumerate(numbers) if any(sizes[number] for number in row)]
    if not filled:
        return np.zeros((0, 2), np.int64)
    signatures = _signatures(shingles)
    candidates = _candidates(np.stack([signatures[numbers[at]].min(axis=0) for at in filled]))

    @functools.cache
    def set_of(text: int) -> set[int]:
        return set(shingles.values[bounds[text] : bounds[text + 1]].tolist())

    def similar(one: int, other: int) -> bool:
        a, b = set_of(one), set_of(other)
        if min(len(a), len(b)) < THRESHOLD * max(len(a), len(b)):
            return False
        shared = len(a & b)
        return shared >= THRESHOLD * (len(a) + len(b) - shared)

    rows, found = list(first.values()), []
    for a, b in candidates.tolist():
        one, other = numbers[filled[a]], numbers[filled[b]]
        if len(one) == len(other) and all(similar(*pair) for pair in zip(one, other, strict=True)):
            found.append((rows[filled[a]], rows[filled[b]]))
    return np.array(sorted(found, key=lambda pair: pair[::-1]), np.int64).reshape(-1, 2)


def _signatures(shingles: Ragged) -> UInt32[np.ndarray, "n H"]:
    """The MinHash signature of each text, by multiply-shift hashing (Dietzfelbinger et al. 1997).

    That of a text without shingles has the highest values, which those of a row's other texts are below.
    """
    filled, generator = shingles.lengths > 0, np.random.Generator(np.random.PCG64(0))
    found = np.full((len(shingles), BANDS * ROWS), np.iinfo(np.uint32).max, np.uint32)
    values, starts = shingles.values, shingles.offsets[:-1][filled]
    for number in range(found.shape[1]):
        factor, shift = generator.integers(0, 2**64 - 1, 2, dtype=np.uint64)
        hashed = ((factor | np.uint64(1)) * values + shift) >> np.uint64(32)
        found[filled, number] = np.minimum.reduceat(hashed.astype(np.uint32), starts)
    return found


def _candidates(signatures: UInt32[np.ndarray, "n H"]) -> Int[np.ndarray, "P 2"]:
    """The pairs of rows, i < j, whose signatures agree in a band and are similar enough as a whole."""
    size, found = len(signatures), np.zeros(0, np.int64)
    for band in range(BANDS):
        bucket = _buckets(signatures[:, band * ROWS : (band + 1) * ROWS])
        order = np.argsort(bucket, kind="stable")
        pairs = [found]
        for step in range(1, min(WINDOW + 1, size)):
            same = bucket[order[step:]] == bucket[order[:-step]]
            if not same.any():
                break
            pairs.append(order[:-step][same] * size + order[step:][same])
        found = np.unique(np.concatenate(pairs))
    kept = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(found), CHUNK):
        chosen = np.stack(np.divmod(found[start : start + CHUNK], size), axis=-1)
        alike = (signatures[chosen[:, 0]] == signatures[chosen[:, 1]]).mean(axis=1)
        kept.append(chosen[alike >= SURE])
    return np.concatenate(kept)


def _buckets(band: UInt32[np.ndarray, "n rows"]) -> UInt64[np.ndarray, " n"]:
    """A hash of the values of a band of each signature."""
    bucket = np.zeros(len(band), np.uint64)
    for column in band.T:
        bucket = bucket * ODD + column
    return bucket ^ (bucket >> np.uint64(32))
