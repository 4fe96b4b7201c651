"""Evaluation: every example of a split exactly once, packed, its logits brought back in file order."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from fjt.data import batches, packing
from fjt.training import placement

Batch = dict[str, Any]  # the arrays of a chunk, on the host or on the devices
TOKENS = 8192  # about this many tokens per chunk
VECTORS = 4096  # at most this many vectors per chunk, where an example is one


@dataclasses.dataclass(frozen=True)
class Chunks(Sequence):
    """(batch arrays, places) of each chunk of a split, built when it is asked for.

    Attributes:
        examples: the split.
        indices: the examples of each chunk, -1 for no example.
        shape: of all chunks.
        hidden: cached features, see `batches.build`; None to start from tokens.
        labels: whether batches have labels.
        own: the groups that this process lays out, see `batches.build`.
    """

    examples: batches.Examples
    indices: Int[np.ndarray, "K B"]
    shape: packing.Shape
    hidden: np.ndarray | None = None
    labels: bool = False
    own: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Batch, batches.Places]]:
        return (self[k] for k in range(len(self)))  # by Sequence, an IndexError in one would pass for the end

    def __getitem__(self, k: int) -> tuple[Batch, batches.Places]:
        batch, places = batches.build(self.examples, self.indices[k], self.shape, hidden=self.hidden, own=self.own)
        for name in ("weight",) if self.labels else ("label", "weight"):
            del batch[name]
        return batch, places


@dataclasses.dataclass(frozen=True)
class Packed:
    """A split in chunks of one shape.

    Attributes:
        shape: of all chunks.
        chunks: batch arrays and places.
        num_slots: number of slots of the split.
    """

    shape: packing.Shape
    chunks: Chunks
    num_slots: int


def pack_splits(
    splits: Mapping[str, batches.Examples],
    *,
    groups: int,
    grid: int,
    width: int,
    tokens: int = 0,
    one_slot: bool = True,
    labels: bool = False,
    own: Sequence[int] | None = None,
) -> dict[str, Packed]:
    """{name: Packed} of splits, all in one shape, so that one program serves them.

    Args:
        splits: {name: Examples}.
        groups: number of devices.
        grid: row lengths are multiples of this number.
        width: of the encoder.
        tokens: about this many tokens per chunk; 0 for TOKENS.
        one_slot: whether each example has exactly one slot.
        labels: whether batches have labels, which `Problem.reduce` may need.
        own: the groups that this process lays out, see `batches.build`.
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
    return {name: _packed(splits[name], indices, shape, own, labels) for name, indices in chosen.items()}


def deal_splits(
    splits: Mapping[str, batches.Examples], *, groups: int, own: Sequence[int] | None = None
) -> dict[str, Packed]:
    """{name: Packed} of splits with one cached vector per slot instead of tokens, all in one shape.

    Args:
        splits: {name: Examples}.
        groups: number of devices.
        own: the groups that this process lays out, see `batches.build`.
    """
    longest = max(len(examples) for examples in splits.values())
    each = max(len(examples.slot_token) // len(examples) for examples in splits.values())  # vectors of an example
    size = -(-min(longest, max(1, VECTORS // max(1, each))) // groups)
    slots = max(batches.most_slots(examples, size) for examples in splits.values())
    shape = packing.Shape(groups=groups, rows=0, row_length=0, examples=size, slots=slots)
    dealt = {}
    for name, examples in splits.items():
        order = np.arange(len(examples))
        indices = np.pad(order, (0, -len(order) % (groups * shape.examples)), constant_values=-1)
        indices = indices.reshape(-1, groups * shape.examples)
        dealt[name] = _packed(examples, indices, shape, own)
    return dealt


def first(packed: Packed, chunks: int | None) -> Packed:
    """The Packed with its first chunks alone; chunks: their number, None for all."""
    return dataclasses.replace(
        packed, chunks=dataclasses.replace(packed.chunks, indices=packed.chunks.indices[:chunks])
    )


def with_hidden(packed: Packed, hidden: np.ndarray | None) -> Packed:
    """The Packed with cached features in its batches, see `batches.build`."""
    return dataclasses.replace(packed, chunks=dataclasses.replace(packed.chunks, hidden=hidden))


def _widen(array: np.ndarray, width: int, value: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)


def _packed(
    examples: batches.Examples,
    indices: np.ndarray,
    shape: packing.Shape,
    own: Sequence[int] | None,
    labels: bool = False,
) -> Packed:
    return Packed(shape, Chunks(examples, indices, shape, labels=labels, own=own), len(examples.slot_token))


def results(
    function: Callable[[Any, Batch], Any],
    params: Any,
    packed: Packed,
    put: Callable[[Batch], Batch],
    of: str = "slots",
    before: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Int[np.ndarray, " m"], Shaped[np.ndarray, "m ..."]]]:
    """Yields (rows, values) of each chunk: slots or tokens of the split by their rows in file order.

    A chunk is read while the next one is computed.

    Args:
        function: (params, batch) -> array with leading axes [G, S], or [G, R, L] of tokens.
        params: of the function, on the devices.
        packed: the split.
        put: puts a batch on the devices.
        of: "slots" or "tokens", the name of a field of batches.Places.
        before: called before each chunk, and may raise to stop.
    """

    def read(values: Any, places: batches.Places) -> tuple[np.ndarray, np.ndarray]:
        in_batch, in_split = getattr(places, of)
        values = np.asarray(placement.fetch(values))
        return in_split, values.reshape(-1, *values.shape[2 if of == "slots" else 3 :])[in_batch]

    pending = None
    for batch, places in packed.chunks:
        before()
        result = function(params, put(batch)), places
        if pending is not None:
            yield read(*pending)
        pending = result
    if pending is not None:
        yield read(*pending)


def evaluate(
    function: Callable[[Any, Batch], Any],
    params: Any,
    packed: Packed,
    put: Callable[[Batch], Batch],
    *,
    before: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "M ..."]:
    """The results of all slots of a split, float32 in file order.

    Args:
        function: (params, batch) -> f[G, S, ...].
        params: of the function, on the devices.
        packed: the split.
        put: puts a batch on the devices.
        before: called before each chunk, and may raise to stop.
    """
    logits = None
    for rows, values in results(function, params, packed, put, before=before):
        if logits is None:
            logits = np.full((packed.num_slots, *values.shape[1:]), np.nan, np.float32)
        logits[rows] = values
    assert logits is not None, "a split has at least one chunk"
    return logits
