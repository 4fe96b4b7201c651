"""Which examples a step trains on and the arrays it receives: both pure functions of (seed, step)."""

import dataclasses
import functools

import numpy as np

from fjt.core import seeds
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
    return seeds.permutation(seed, epoch, num_examples)


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
    real = indices >= 0
    at = np.where(real, indices, 0)
    return np.where(real, examples.offsets[at + 1] - examples.offsets[at], 0).astype(np.int32)


def build(examples, indices, shape, one_a_row=False, hidden=None):
    """The packed arrays of one batch, and where each example's result lies.

    indices: i64[B], -1 for empty slots; shape: packing.Shape.  Gives (batch, place): batch a dict of token_ids,
    segment_ids, position_ids, type_ids i32[G, R, L], first, example i32[G, E], label [G, E], weight f32[G, E];
    place i64[B]: the example's index in the flattened [G * E], -1 for empty slots.
    Row r goes to group r mod G, so an example lies in one group and groups are evenly full.
    hidden: f[T, D], of each token what stands as hidden f[G, R, L, D] in place of token_ids and type_ids; or f[N, D],
    a vector an example: the shape then has no rows, examples are dealt to the groups, and hidden is f[G, E, D].
    """
    real = np.flatnonzero(indices >= 0)
    chosen, lengths = indices[real], lengths_of(examples, indices[real])
    if shape.rows:
        rows, columns, used = packing.pack(lengths[None], shape.row_length, one_a_row)
        rows, columns = rows[0].astype(np.int64), columns[0]
        if used[0] > shape.groups * shape.rows:
            raise ValueError(f"{used[0]} rows do not fit into {shape}")
    else:
        rows = np.arange(len(real))
    group = rows % shape.groups
    slot = np.zeros(len(real), np.int64)
    for g in range(shape.groups):
        inside = group == g
        slot[inside] = np.arange(np.count_nonzero(inside))

    def spread(values, dtype):
        array = np.zeros((shape.groups, shape.examples, *values.shape[1:]), dtype)
        array[group, slot] = values
        return array

    batch = {
        "example": spread(chosen, np.int32),
        "label": spread(examples.label[chosen], examples.label.dtype),
        "weight": spread(np.ones(len(real)), np.float32),
    }
    place = np.full(len(indices), -1, np.int64)
    place[real] = group * shape.examples + slot
    if not shape.rows:
        return batch | {"hidden": spread(hidden[chosen], hidden.dtype)}, place

    first = rows // shape.groups * shape.row_length + columns
    begin = np.cumsum(lengths) - lengths
    position = np.arange(lengths.sum()) - np.repeat(begin, lengths)
    source = np.repeat(examples.offsets[chosen], lengths) + position
    target = np.repeat(group * shape.rows * shape.row_length + first, lengths) + position

    def lay(values, dtype):
        array = np.zeros((shape.groups * shape.rows * shape.row_length, *values.shape[1:]), dtype)
        array[target] = values
        return array.reshape(shape.groups, shape.rows, shape.row_length, *values.shape[1:])

    batch |= {
        "first": spread(first, np.int32),
        "position_ids": lay(position, np.int32),
        "segment_ids": lay(np.repeat(slot + 1, lengths), np.int32),
    }
    if hidden is not None:
        return batch | {"hidden": lay(hidden[source], hidden.dtype)}, place
    token_ids, type_ids = lay(examples.token_ids[source], np.int32), lay(examples.type_ids[source], np.int32)
    return batch | {"token_ids": token_ids, "type_ids": type_ids}, place


def chunk(lengths, size):
    """i64[K, size]: every example exactly once, in chunks of like total length; -1 in empty slots.

    lengths: i32[N].  The sorted examples are dealt out one to each chunk in turn.
    """
    num = max(1, -(-len(lengths) // size))
    order = np.argsort(-lengths, kind="stable")
    indices = np.full(num * size, -1, np.int64)
    indices[: len(order)] = order
    return indices.reshape(size, num).T
