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
    """(batch arrays, batches.Places) of each chunk of a split, built when it is asked for.

    indices: i64[K, B]; hidden: as `batches.build` takes it.
    """

    examples: batches.Examples
    indices: np.ndarray
    shape: packing.Shape
    hidden: np.ndarray | None = None

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, k):
        batch, places = batches.build(self.examples, self.indices[k], self.shape, hidden=self.hidden)
        del batch["label"], batch["weight"]
        return batch, places


@dataclasses.dataclass(frozen=True)
class Packed:
    """A split in chunks of one shape.  chunks: a sequence of (batch arrays, batches.Places)."""

    shape: packing.Shape
    chunks: collections.abc.Sequence
    num_slots: int


def pack_splits(splits, *, groups, grid, width, tokens=0, one_slot=True):
    """{name: Packed} of {name: Examples}, all in one shape, so one program serves them.

    groups: devices; grid: step of row lengths; width: of the encoder; tokens: about so many
    per chunk, 0: TOKENS.  one_slot: whether each example has one slot.
    """
    chosen = {}
    for name, examples in splits.items():
        size = int(np.clip((tokens or TOKENS) // max(1.0, examples.lengths.mean()), groups, max(groups, len(examples))))
        chosen[name] = batches.chunk(examples.lengths, size)
    widest = max(indices.shape[1] for indices in chosen.values())
    chunks = [(splits[name], _widen(indices, widest, -1)) for name, indices in chosen.items()]
    lengths = np.concatenate([batches.lengths_of(examples, indices) for examples, indices in chunks])
    slots = np.concatenate([batches.slots_of(examples, indices) for examples, indices in chunks])
    shape = packing.plan(
        lengths, slots=None if one_slot else slots, groups=groups, grid=grid, most_shapes=1, width=width
    ).shapes[0]
    return {name: _packed(splits[name], indices, shape) for name, indices in chosen.items()}


def deal_splits(splits, *, groups):
    """{name: Packed} of {name: Examples} for one vector per slot in place of tokens, all in one shape."""
    longest = max(len(examples) for examples in splits.values())
    size = -(-min(longest, VECTORS) // groups)
    shape = packing.Shape(groups, 0, 0, size, max(batches.most_slots(examples, size) for examples in splits.values()))
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
    return Packed(shape, Chunks(examples, indices, shape), len(examples.slot_token))


def results(function, params, packed, put, of="slots", before=lambda: None):
    """Yields (rows i64[m], values [m, ...]) of each chunk: slots or tokens of the split by their rows in file order.

    A chunk is read while the next one is computed.

    Args:
        function: (params, batch) -> array with leading axes [G, S], or [G, R, L] of tokens.
        put: places a batch on the devices.
        of: "slots" or "tokens", the name of a field of batches.Places.
        before: called ahead of each chunk, and may raise to stop.
    """

    def read(values, places):
        in_batch, in_split = getattr(places, of)
        values = np.asarray(jax.device_get(values))
        return in_split, values.reshape(-1, *values.shape[2 if of == "slots" else 3 :])[in_batch]

    pending = None
    for batch, places in packed.chunks:
        before()
        result = function(params, put(batch)), places
        if pending is not None:
            yield read(*pending)
        pending = result
    yield read(*pending)


def evaluate(function, params, packed, put, *, before=lambda: None):
    """f32[M, ...]: the results of all slots of a split, in file order.

    function(params, batch) -> f[G, S, ...]; put, before: as of `results`.
    """
    logits = None
    for rows, values in results(function, params, packed, put, before=before):
        if logits is None:
            logits = np.full((packed.num_slots, *values.shape[1:]), np.nan, np.float32)
        logits[rows] = values
    return logits
