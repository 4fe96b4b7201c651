"""Evaluation: every example of a split exactly once, packed, its logits brought back in file order."""

import collections.abc
import dataclasses

import jax
import numpy as np

from fjt.data import batches, packing

TOKENS = 8192  # about this many tokens a chunk
VECTORS = 4096  # at most so many vectors a chunk, where an example is one


@dataclasses.dataclass(frozen=True)
class Chunks(collections.abc.Sequence):
    """(batch arrays, indices i64[B], place i64[B]) of each chunk of a split, built when it is asked for.

    indices: i64[K, B]; hidden: as `batches.build` takes it.
    """

    examples: batches.Examples
    indices: np.ndarray
    shape: packing.Shape
    hidden: np.ndarray | None = None

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, k):
        batch, place = batches.build(self.examples, self.indices[k], self.shape, hidden=self.hidden)
        del batch["label"], batch["weight"]
        return batch, self.indices[k], place


@dataclasses.dataclass(frozen=True)
class Packed:
    """A split in chunks of one shape.  chunks: a sequence of (batch arrays, indices i64[B], place i64[B])."""

    shape: packing.Shape
    chunks: collections.abc.Sequence
    size: int


def pack_splits(splits, *, groups, grid, width, tokens=0):
    """{name: Packed} of {name: Examples}, all in one shape, so one program serves them.

    groups: devices; grid: step of row lengths; width: of the encoder; tokens: about so many a chunk, 0: TOKENS.
    """
    chosen = {}
    for name, examples in splits.items():
        size = int(np.clip((tokens or TOKENS) // max(1.0, examples.lengths.mean()), groups, max(groups, len(examples))))
        chosen[name] = batches.chunk(examples.lengths, size)
    widest = max(indices.shape[1] for indices in chosen.values())
    lengths = np.concatenate(
        [_widen(batches.lengths_of(splits[name], indices), widest, 0) for name, indices in chosen.items()]
    )
    shape = packing.plan(lengths, groups=groups, grid=grid, most_shapes=1, width=width).shapes[0]
    return {name: _packed(splits[name], indices, shape) for name, indices in chosen.items()}


def deal_splits(splits, *, groups):
    """{name: Packed} of {name: Examples} for vectors in place of tokens, one an example, all in one shape."""
    longest = max(len(examples) for examples in splits.values())
    shape = packing.Shape(groups, 0, 0, -(-min(longest, VECTORS) // groups))
    dealt = {}
    for name, examples in splits.items():
        order = np.arange(len(examples))
        indices = np.pad(order, (0, -len(order) % (groups * shape.examples)), constant_values=-1)
        dealt[name] = _packed(examples, indices.reshape(-1, groups * shape.examples), shape)
    return dealt


def with_hidden(packed, hidden):
    """Packed with hidden states in its batches, as `batches.build` takes them."""
    return dataclasses.replace(packed, chunks=dataclasses.replace(packed.chunks, hidden=hidden))


def _widen(array, width, value):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)


def _packed(examples, indices, shape):
    return Packed(shape, Chunks(examples, indices, shape), len(examples))


def results(function, params, packed, put, before=lambda: None):
    """Yields (function(params, batch), batch, indices, place) of each chunk, read while the next one is computed.

    put: places a batch on the devices; before: called ahead of each chunk, and may raise to stop.
    """
    pending = None
    for batch, chosen, place in packed.chunks:
        before()
        result = function(params, put(batch)), batch, chosen, place
        if pending is not None:
            yield np.asarray(jax.device_get(pending[0])), *pending[1:]
        pending = result
    yield np.asarray(jax.device_get(pending[0])), *pending[1:]


def evaluate(function, params, packed, put, *, before=lambda: None):
    """Logits f32[N, ...] in file order.

    function(params, batch) -> f[G, E, ...]; put, before: as `results` takes them.
    """
    logits = None
    for values, _, chosen, place in results(function, params, packed, put, before):
        values = values.reshape(-1, *values.shape[2:])
        if logits is None:
            logits = np.full((packed.size, *values.shape[1:]), np.nan, np.float32)
        real = chosen >= 0
        logits[chosen[real]] = values[place[real]]
    return logits
