"""Which examples a step trains on and the arrays it receives: both pure functions of (seed, step)."""

import dataclasses
import functools

import numpy as np

from fjt import prng
from fjt.data import packing


@dataclasses.dataclass(frozen=True)
class Examples:
    """A tokenized split, ragged: example n is token_ids[offsets[n]:offsets[n + 1]].

    token_ids: i32[T]; type_ids: i8[T]; offsets: i64[N + 1]; label: i32[N] or f32[N]; truncated: examples cut.
    """

    token_ids: np.ndarray
    type_ids: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    truncated: int

    def __len__(self):
        return len(self.label)

    @property
    def lengths(self):
        return np.diff(self.offsets).astype(np.int32)


def prepend(examples, count):
    """Examples with `count` tokens of id 0 and type 0 before each one's own."""
    if not count:
        return examples
    starts = np.repeat(examples.offsets[:-1], count)
    offsets = examples.offsets + count * np.arange(len(examples.offsets))
    return dataclasses.replace(
        examples,
        token_ids=np.insert(examples.token_ids, starts, 0),
        type_ids=np.insert(examples.type_ids, starts, 0),
        offsets=offsets,
    )


@functools.lru_cache(maxsize=2)  # batches are asked for one by one
def _order(seed, epoch, num_examples):
    return prng.permutation(seed, epoch, num_examples)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Step k trains on permutation(seed, epoch)[j B : (j + 1) B], j = k mod steps per epoch; the last one is short."""

    num_examples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self):
        return -(-self.num_examples // self.batch_size)

    def order(self, epoch):
        """i64[N]: the order of the examples in an epoch."""
        return _order(self.seed, epoch, self.num_examples)

    def batches(self, first, last):
        """i64[last - first, B]: the examples of steps first to last - 1, -1 in the empty slots of short ones."""
        indices = np.full((last - first, self.batch_size), -1, np.int64)
        for k in range(first, last):
            epoch, j = divmod(k, self.steps_per_epoch)
            chosen = self.order(epoch)[j * self.batch_size : (j + 1) * self.batch_size]
            indices[k - first, : len(chosen)] = chosen
        return indices


def lengths_of(examples, indices):
    """i32 of the shape of indices: the examples' lengths, 0 where the index is -1."""
    return np.where(indices >= 0, examples.lengths[indices], 0).astype(np.int32)


def build(examples, indices, shape, one_a_row=False):
    """The packed arrays of one batch, and where each example's result lies.

    indices: i64[B], -1 for empty slots; shape: packing.Shape.  Gives (batch, place): batch a dict of token_ids,
    segment_ids, position_ids, type_ids i32[G, R, L], first, example i32[G, E], label [G, E], weight f32[G, E];
    place i64[B]: the example's index in the flattened [G * E], -1 for empty slots.
    Row r goes to group r mod G, so an example lies in one group and groups are evenly full.
    """
    lengths = lengths_of(examples, indices)
    rows, columns, used = packing.pack(lengths[None], shape.row_length, one_a_row)
    rows, columns = rows[0], columns[0]
    if used[0] > shape.groups * shape.rows:
        raise ValueError(f"{used[0]} rows do not fit into {shape}")
    tokens = {
        name: np.zeros((shape.groups, shape.rows, shape.row_length), np.int32)
        for name in ("token_ids", "segment_ids", "position_ids", "type_ids")
    }
    slots = (shape.groups, shape.examples)
    first, example = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    label, weight = np.zeros(slots, examples.label.dtype), np.zeros(slots, np.float32)
    place = np.full(len(indices), -1, np.int64)
    filled = np.zeros(shape.groups, np.int64)
    for slot, index in enumerate(indices):
        if index < 0:
            continue
        group, row = rows[slot] % shape.groups, rows[slot] // shape.groups
        e = filled[group]
        filled[group] += 1
        span = slice(examples.offsets[index], examples.offsets[index + 1])
        where = group, row, slice(columns[slot], columns[slot] + lengths[slot])
        tokens["token_ids"][where] = examples.token_ids[span]
        tokens["type_ids"][where] = examples.type_ids[span]
        tokens["position_ids"][where] = np.arange(lengths[slot])
        tokens["segment_ids"][where] = e + 1
        first[group, e] = row * shape.row_length + columns[slot]
        example[group, e], label[group, e], weight[group, e] = index, examples.label[index], 1.0
        place[slot] = group * shape.examples + e
    return tokens | {"first": first, "example": example, "label": label, "weight": weight}, place


def chunk(lengths, size):
    """i64[K, size]: every example exactly once, in chunks of like total length; -1 in empty slots.

    lengths: i32[N].  The sorted examples are dealt out one to each chunk in turn.
    """
    num = max(1, -(-len(lengths) // size))
    order = np.argsort(-lengths, kind="stable")
    indices = np.full(num * size, -1, np.int64)
    indices[: len(order)] = order
    return indices.reshape(size, num).T
