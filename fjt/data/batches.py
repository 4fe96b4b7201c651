"""Which examples a step trains on and the arrays it receives: both pure functions of (seed, step)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Int8, Int32, Shaped
from numpy.typing import DTypeLike

from fjt.core import seeds
from fjt.data import packing
from fjt.data.packing import Shape

Batch = dict[str, Shaped[np.ndarray, "G ..."]]  # the arrays that a step receives, by name; `build` lists them
Indices = Int[np.ndarray, "*batch"]  # examples by number, -1 for an empty place
Mixture = tuple[tuple[int, int], ...]  # of each task or class: (number of its examples, number of places in an epoch)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A tokenized split, ragged: example n has token_ids[offsets[n] : offsets[n + 1]].

    A slot is a place that the head reads.  Example n has the slots slot_offsets[n] to slot_offsets[n + 1] - 1; without
    these fields, each example has one slot, at its first token.  Row n of the split, such as a long text, has the
    examples row_offsets[n] to row_offsets[n + 1] - 1; without the field, each row is one example.  A part is a sequence
    of an example: its tokens see each other alone, and their positions count from its start; without part_offsets, each
    example is one part.

    Attributes:
        token_ids: ids in the vocabulary.
        type_ids: the text of a pair to which each token belongs, 0 or 1.
        offsets: i64[N + 1], the first token of each example.
        label: one label per slot.
        truncated: number of examples that were cut.
        slot_token: the token of each slot, counted within its example.
        slot_offsets: i64[N + 1], the first slot of each example.
        row_offsets: i64[rows + 1], the first example of each row of the split.
        part_offsets: i64[parts + 1], the first token of each part.
        slot_chars: (start, end) of each slot in the text where answers are found, see `fjt.data.contexts`.
        numbers: of the parts in their split, where these are some of it; None: all of it, counted from 0.
    """

    token_ids: Int32[np.ndarray, " T"]
    type_ids: Int8[np.ndarray, " T"]
    offsets: Int[np.ndarray, " bounds"]
    label: Shaped[np.ndarray, "M ..."]
    truncated: int
    slot_token: Int32[np.ndarray, " M"] = None  # pyright: ignore[reportAssignmentType]  # __post_init__ fills it
    slot_offsets: Int[np.ndarray, " bounds"] = None  # pyright: ignore[reportAssignmentType]
    row_offsets: Int[np.ndarray, " rows_bounds"] = None  # pyright: ignore[reportAssignmentType]
    part_offsets: Int[np.ndarray, " parts_bounds"] = None  # pyright: ignore[reportAssignmentType]
    slot_chars: Int32[np.ndarray, "M 2"] | None = None
    numbers: Int[np.ndarray, " parts"] | None = None

    def __post_init__(self) -> None:
        if self.slot_token is None:
            object.__setattr__(self, "slot_token", np.zeros(len(self.label), np.int32))
            object.__setattr__(self, "slot_offsets", np.arange(len(self.label) + 1))
        if self.row_offsets is None:
            object.__setattr__(self, "row_offsets", np.arange(len(self) + 1))
        if self.part_offsets is None:
            object.__setattr__(self, "part_offsets", self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int32[np.ndarray, " N"]:
        """Tokens of each example."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def row_slots(self) -> Int[np.ndarray, " bounds"]:
        """i64[rows + 1], the first slot of each row of the split."""
        return self.slot_offsets[self.row_offsets]


def take(examples: Examples, chosen: Int[np.ndarray, " n"]) -> Examples:
    """Some of the examples, in the order given, each as a row; `numbers` keeps their places.  chosen: their indices."""
    lengths, counts = lengths_of(examples, chosen), slots_of(examples, chosen)
    tokens = _ranges(examples.offsets[chosen], lengths)
    slots = _ranges(examples.slot_offsets[chosen], counts)
    parts, sizes, _ = _parts(examples, chosen)
    return Examples(
        examples.token_ids[tokens],
        examples.type_ids[tokens],
        _bounds(lengths),
        examples.label[slots],
        0,
        examples.slot_token[slots],
        _bounds(counts),
        part_offsets=_bounds(sizes),
        slot_chars=None if examples.slot_chars is None else examples.slot_chars[slots],
        numbers=_numbers(examples, parts),
    )


def _bounds(sizes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " bounds"]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _numbers(examples: Examples, parts: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    return parts if examples.numbers is None else examples.numbers[parts]


def prepend(examples: Examples, count: int) -> Examples:
    """The Examples with `count` tokens of id 0 and type 0 before each part's own tokens.

    A slot at the first token of a part is at the first of these.
    """
    if not count:
        return examples
    bounds, owner = examples.part_offsets, np.repeat(np.arange(len(examples)), np.diff(examples.slot_offsets))
    starts, slots = np.repeat(bounds[:-1], count), examples.offsets[owner] + examples.slot_token
    offsets = examples.offsets + count * np.searchsorted(bounds[:-1], examples.offsets)
    before, within = np.searchsorted(bounds[:-1], slots), np.searchsorted(bounds[:-1], slots, side="right")
    slots = slots + count * np.where(before < within, before, within)  # at a part's start, and after it
    return dataclasses.replace(
        examples,
        token_ids=np.insert(examples.token_ids, starts, 0),
        type_ids=np.insert(examples.type_ids, starts, 0),
        offsets=offsets,
        slot_token=(slots - offsets[owner]).astype(np.int32),
        part_offsets=bounds + count * np.arange(len(bounds)),
    )


@functools.lru_cache(maxsize=2)  # batches are asked for one by one
def _order(seed: int, epoch: int, num_examples: int) -> Int[np.ndarray, " N"]:
    return seeds.permutation(seed, epoch, num_examples)


@functools.lru_cache(maxsize=2)
def _mixed(seed: int, epoch: int, mixture: Mixture) -> Int[np.ndarray, " N"]:
    """The examples of an epoch of a mixture, each task's in the order of its own passes over them."""
    places = seeds.permutation(seed, epoch, sum(share for _, share in mixture))
    order, first, taken = np.zeros(len(places), np.int64), 0, 0
    for number, (size, share) in enumerate(mixture):
        if not share:
            first += size
            continue
        at = epoch * share + np.arange(share)  # among all examples of the task, pass by pass
        passes = range(int(at[0]) // size, int(at[-1]) // size + 1)
        own = np.concatenate([seeds.permutation(seed, one, size, f"data/{number}") for one in passes])
        order[np.sort(places[taken : taken + share])] = first + own[at - size * passes[0]]
        first, taken = first + size, taken + share
    return order


@functools.lru_cache(maxsize=2)
def _by_class(classes: bytes) -> Int[np.ndarray, " N"]:
    """The examples in the order of their classes."""
    return np.argsort(np.frombuffer(classes, np.int32), kind="stable")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Step k trains on order(epoch)[j B : (j + 1) B], j = k mod steps per epoch; the last one of an epoch is short.

    Attributes:
        num_examples: of an epoch.
        batch_size: B.
        seed: of the orders.
        mixture: the sizes and shares of several tasks or classes; (): each example once per epoch.
        classes: the bytes of i32[N], the class of each example, where the mixture is of classes.
    """

    num_examples: int
    batch_size: int
    seed: int
    mixture: Mixture = ()
    classes: bytes = b""

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch, the short last one included."""
        return -(-self.num_examples // self.batch_size)

    def order(self, epoch: int) -> Int[np.ndarray, " N"]:
        """The order of the examples in an epoch."""
        if self.mixture:
            mixed = _mixed(self.seed, epoch, self.mixture)
            return _by_class(self.classes)[mixed] if self.classes else mixed
        return _order(self.seed, epoch, self.num_examples)

    def batches(self, first: int, last: int) -> Int[np.ndarray, "K B"]:
        """The examples of steps first to last - 1: one row per step, -1 in the empty places of a short batch."""
        indices = np.full((last - first, self.batch_size), -1, np.int64)
        for k in range(first, last):
            epoch, j = divmod(k, self.steps_per_epoch)
            chosen = self.order(epoch)[j * self.batch_size : (j + 1) * self.batch_size]
            indices[k - first, : len(chosen)] = chosen
        return indices


def lengths_of(examples: Examples, indices: Indices) -> Int32[np.ndarray, "*batch"]:
    """The examples' lengths in tokens, 0 where the index is -1."""
    return _counts(examples.offsets, indices)


def slots_of(examples: Examples, indices: Indices) -> Int32[np.ndarray, "*batch"]:
    """The examples' numbers of slots, 0 where the index is -1."""
    return _counts(examples.slot_offsets, indices)


def most_slots(examples: Examples, size: int) -> int:
    """The largest number of slots that `size` examples of a split can have together; 0 where each example has one."""
    counts = np.diff(examples.slot_offsets)
    return 0 if (counts == 1).all() else int(np.sort(counts)[-size:].sum())


def _counts(offsets: Int[np.ndarray, " bounds"], indices: Indices) -> Int32[np.ndarray, "*batch"]:
    real = indices >= 0
    at = np.where(real, indices, 0)
    return np.where(real, offsets[at + 1] - offsets[at], 0).astype(np.int32)


def _ranges(starts: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """For each start and count in turn: start, start + 1, ..., start + count - 1."""
    begin = np.cumsum(counts) - counts
    return np.repeat(starts - begin, counts) + np.arange(counts.sum())


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of the slots and tokens of a batch, in the batch and in the split, example by example.

    Attributes:
        slots: (index in the flattened [G * S], row of the split in file order), each i64[m].
        tokens: (index in the flattened [G * R * L], row of the split in file order), each i64[m]; () in a shape
            without rows.
    """

    slots: tuple[Int[np.ndarray, " slots"], Int[np.ndarray, " slots"]]
    tokens: tuple[Int[np.ndarray, " tokens"], ...]


def build(
    examples: Examples,
    indices: Int[np.ndarray, " B"],
    shape: Shape,
    one_a_row: bool = False,
    hidden: Float[np.ndarray, "rows D"] | None = None,
    own: Sequence[int] | None = None,
    by_slot: Mapping[str, Float[np.ndarray, "M K"]] | None = None,
) -> tuple[Batch, Places]:
    """(batch, Places): the packed arrays of one batch, and the row of the split of each of its slots and tokens.

    The Places are those of all groups.  Row r is in group r mod G, so that an example is in one group and all groups
    are about equally full.

    Args:
        examples: the split.
        indices: the examples of the batch, -1 for an empty place.
        shape: the static shape.
        one_a_row: whether each example has its own row.
        hidden: f[T, D] for the split's tokens, or f[M, D] for its slots where the shape has no rows; None trains on
            the token ids.
        own: the groups that are laid out, in ascending order: G is their number.  None for all.
        by_slot: {name in the batch: array} of other values of the split's slots; None for none.

    Returns:
        batch: token_ids, segment_ids, position_ids, type_ids i32[G, R, L]; example i32[G, S], the parts of the split;
        slot_token (row * L + column), slot_example (the part's number in the group), slot_position (in its example)
        i32[G, S];
        label [G, S, ...]; weight f32[G, S]; [G, S, K] of each of `by_slot`.  `hidden` replaces token_ids and
        type_ids by hidden f[G, R, L, D].  In a shape without rows, examples are dealt to the groups, hidden is
        f[G, S, D], and no array has tokens.

    Raises:
        ValueError: the examples do not fit into the shape.
    """
    chosen = indices[indices >= 0]
    rows, columns = _assign_rows(lengths_of(examples, chosen), shape, one_a_row)
    places = _find_places(examples, chosen, rows, columns, shape)
    if own is None:
        return _lay_out(examples, chosen, rows, columns, places, shape, hidden, by_slot), places
    mine = np.isin(rows % shape.groups, own)
    chosen, columns, part = chosen[mine], columns[mine], dataclasses.replace(shape, groups=len(own))
    rows = rows[mine] // shape.groups * len(own) + np.searchsorted(own, rows[mine] % shape.groups)
    own_places = _find_places(examples, chosen, rows, columns, part)
    return _lay_out(examples, chosen, rows, columns, own_places, part, hidden, by_slot), places


def _find_places(examples, chosen, rows, columns, shape) -> Places:
    """The Places of chosen examples that begin at these columns of these rows."""
    lengths, counts, group = lengths_of(examples, chosen), slots_of(examples, chosen), rows % shape.groups
    _, first_slot = _numbers_in_group(group, counts, shape.groups)
    slots = _ranges(group * shape.num_slots + first_slot, counts), _ranges(examples.slot_offsets[chosen], counts)
    if not shape.rows:
        return Places(slots, ())
    first = group * shape.rows * shape.row_length + rows // shape.groups * shape.row_length + columns
    return Places(slots, (_ranges(first, lengths), _ranges(examples.offsets[chosen], lengths)))


def _lay_out(examples, chosen, rows, columns, places, shape, hidden, by_slot) -> Batch:
    """The arrays of a batch.  See `build`; places: of the chosen examples, see `_find_places`."""
    lengths, counts = lengths_of(examples, chosen), slots_of(examples, chosen)
    parts, sizes, of = _parts(examples, chosen)
    part_group, slots = (rows % shape.groups)[of], places.slots
    number, _ = _numbers_in_group(part_group, np.ones(len(parts), np.int64), shape.groups)
    if number.max(initial=-1) >= shape.num_slots:
        raise ValueError(f"{number.max() + 1} examples of a group do not fit into {shape}")
    to_parts = _make_scatter(part_group * shape.num_slots + number, shape.groups, shape.num_slots)
    slot_position = examples.slot_token[slots[1]]
    to_slots = _make_scatter(slots[0], shape.groups, shape.num_slots)
    among = np.repeat(np.cumsum(lengths) - lengths, counts) + slot_position  # tokens of the batch, one after the other
    slot_part = np.searchsorted(np.cumsum(sizes), among, side="right")
    batch = {
        "example": to_parts(_numbers(examples, parts), np.int32),
        "slot_example": to_slots(number[slot_part], np.int32),
        "slot_position": to_slots(slot_position, np.int32),
        "label": to_slots(examples.label[slots[1]], examples.label.dtype),
        "weight": to_slots(np.ones(len(slot_position)), np.float32),
    }
    batch |= {name: to_slots(values[slots[1]], values.dtype) for name, values in (by_slot or {}).items()}
    if not shape.rows:
        assert hidden is not None, "a shape without rows has no tokens"
        return batch | {"hidden": to_slots(hidden[slots[1]], hidden.dtype)}
    first = rows // shape.groups * shape.row_length + columns
    to_tokens = _make_scatter(places.tokens[0], shape.groups, shape.rows, shape.row_length)
    batch |= {
        "slot_token": to_slots(np.repeat(first, counts) + slot_position, np.int32),
        "position_ids": to_tokens(_ranges(np.zeros(len(parts), np.int64), sizes), np.int32),
        "segment_ids": to_tokens(np.repeat(number + 1, sizes), np.int32),
    }
    return batch | _contents(examples, places.tokens[1], to_tokens, hidden)


def _contents(examples, rows, to_tokens, hidden):
    """The arrays that the model reads at tokens: ids and types, or cached features.  rows: of the split's tokens."""
    if hidden is not None:
        return {"hidden": to_tokens(hidden[rows], hidden.dtype)}
    return {name: to_tokens(getattr(examples, name)[rows], np.int32) for name in ("token_ids", "type_ids")}


def _parts(examples, chosen):
    """(i64[p], i64[p], i64[p]): the parts of chosen examples, their tokens, and which of the examples each is of."""
    first, end = (np.searchsorted(examples.part_offsets, examples.offsets[chosen + i]) for i in (0, 1))
    parts = _ranges(first, end - first)
    sizes = examples.part_offsets[parts + 1] - examples.part_offsets[parts]
    return parts, sizes, np.repeat(np.arange(len(chosen)), end - first)


def _assign_rows(lengths, shape, one_a_row):
    """(row i64[n], column i32[n]) of each example; without rows, the examples are dealt to the groups in turn."""
    if not shape.rows:
        return np.arange(len(lengths)), np.zeros(len(lengths), np.int32)
    rows, columns, used = packing.pack(lengths[None], shape.row_length, one_a_row)
    if used[0] > shape.groups * shape.rows:
        raise ValueError(f"{used[0]} rows do not fit into {shape}")
    return rows[0].astype(np.int64), columns[0]


def _numbers_in_group(group, counts, groups):
    """(i64[n], i64[n]): the number within its group of each example, and of each example's first slot."""
    number, first_slot = np.zeros((2, len(group)), np.int64)
    for g in range(groups):
        inside = group == g
        number[inside] = np.arange(np.count_nonzero(inside))
        first_slot[inside] = np.cumsum(counts[inside]) - counts[inside]
    return number, first_slot


def _make_scatter(places: Int[np.ndarray, " n"], *sizes: int) -> Callable[[np.ndarray, DTypeLike], np.ndarray]:
    """scatter(values [n, ...], dtype): the values at `places` in the flattened array of `sizes`, zeros elsewhere."""

    def scatter(values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
        array = np.zeros((math.prod(sizes), *values.shape[1:]), dtype)
        array[places] = values
        return array.reshape(*sizes, *values.shape[1:])

    return scatter


def chunk(lengths: Int[np.ndarray, " N"], size: int) -> Int[np.ndarray, "K size"]:
    """Every example exactly once, in chunks of similar total length; -1 in empty places.

    The examples, sorted by length, are dealt to the chunks in turn.

    Args:
        lengths: tokens of each example.
        size: examples per chunk.
    """
    num = max(1, -(-len(lengths) // size))
    order = np.argsort(-lengths, kind="stable")
    indices = np.full(num * size, -1, np.int64)
    indices[: len(order)] = order
    return indices.reshape(size, num).T
