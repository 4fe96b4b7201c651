"""Packing examples into rows of static shape, and planning the few shapes that cover a whole schedule."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int8, Int32

Lengths = Int[np.ndarray, "K B"]
Places = Int32[np.ndarray, "K B"]


def pack(lengths: Lengths, row_length: int, one_a_row: bool = False) -> tuple[Places, Places, Int32[np.ndarray, " K"]]:
    """(row of each example, column where it starts, number of rows used per batch), by first-fit decreasing.

    All batches are packed at once, slot by slot.

    Args:
        lengths: tokens of each example of K batches; 0 for an empty slot, whose row is -1.
        row_length: tokens per row.
        one_a_row: whether each example has its own row.  A padded batch is a packed batch with one example per row.
    """
    num, size = lengths.shape
    order = np.argsort(-lengths, axis=1, kind="stable")
    room = np.full((num, size), row_length, np.int32)
    rows, columns = np.full((num, size), -1, np.int32), np.zeros((num, size), np.int32)
    batch = np.arange(num)
    for slot in range(size):
        example = order[:, slot]
        length = lengths[batch, example]
        row = np.full(num, slot) if one_a_row else np.argmax(room >= length[:, None], axis=1)
        real = length > 0
        rows[batch[real], example[real]] = row[real]
        columns[batch[real], example[real]] = (row_length - room[batch, row])[real]
        room[batch, row] -= length
    return rows, columns, rows.max(axis=1, initial=-1) + 1


@dataclasses.dataclass(frozen=True)
class Shape:
    """The static shape of a batch: G groups of R rows of L tokens, with at most E examples and S slots per group.

    Attributes:
        groups: G, data shards x gradient accumulation.
        rows: R, rows per group.
        row_length: L, tokens per row.
        examples: E, examples per group at most.
        slots: S, slots per group at most; 0 where each example has one.
    """

    groups: int
    rows: int
    row_length: int
    examples: int
    slots: int = 0

    @property
    def num_slots(self) -> int:
        """The length of the arrays of slots, which number the examples as well: S, and at least E."""
        return max(self.slots, self.examples)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layout of a schedule of K batches: a few shapes, and the shape of each batch.

    Attributes:
        shapes: the static shapes, one compiled program each.
        shape_of: index into `shapes` for each batch.
        efficiency: real tokens / computed tokens.
        real_tokens: tokens of all examples.
        computed_tokens: tokens of all rows, padding included.
    """

    shapes: tuple[Shape, ...]
    shape_of: Int8[np.ndarray, " K"]
    efficiency: float
    real_tokens: int
    computed_tokens: int


def plan(
    lengths: Lengths,
    *,
    slots: Lengths | None = None,
    groups: int = 1,
    row_length: int = 0,
    grid: int = 8,
    most_shapes: int = 3,
    one_a_row: bool = False,
    width: int = 768,
) -> Plan:
    """The Plan with the fewest operations among row lengths on a grid and at most `most_shapes` row counts.

    Args:
        lengths: tokens of each example; 0 for no example.
        slots: slots of each example; None where each has one.
        groups: groups per batch.
        row_length: tokens per row; 0 searches for the best length.
        grid: step of the search, in tokens.
        most_shapes: largest number of shapes; each one is compiled as its own program.
        one_a_row: whether each example has its own row.
        width: D of the encoder.  With attention, a token costs 1 + L / (6 D) times the operations of its dense layers.
    """
    longest = int(lengths.max())
    shortest_row = -(-longest // grid) * grid
    candidates = [shortest_row] if one_a_row else range(shortest_row, max(2 * shortest_row, 256) + 1, grid)
    layouts = []
    for candidate in [row_length] if row_length else candidates:
        rows, _, needed = pack(lengths, candidate, one_a_row)
        needed = -(-needed // groups) * groups
        counts = _choose_counts(needed, most_shapes)
        shape_of = np.searchsorted(counts, needed)
        computed = int(counts[shape_of].sum()) * candidate
        cost = computed * (1.0 + candidate / (6.0 * width))
        if not layouts or cost < layouts[0][0]:
            layouts = [(cost, candidate, counts, shape_of, rows, computed)]
    _, candidate, counts, shape_of, rows, computed = layouts[0]
    shapes = []
    for i, count in enumerate(counts):
        inside = shape_of == i
        examples = _most_per_group(rows[inside], groups)
        most_slots = 0 if slots is None else _most_per_group(rows[inside], groups, slots[inside])
        shapes.append(Shape(groups, int(count) // groups, candidate, examples, most_slots))
    real = int(lengths.sum())
    return Plan(tuple(shapes), shape_of.astype(np.int8), real / computed, real, computed)


def assign(lengths: Lengths, shapes: Sequence[Shape], one_a_row: bool = False, slots: Lengths | None = None) -> Plan:
    """The Plan that uses the given shapes, each batch in the first shape that it fits into.

    Args:
        lengths: tokens of each example; 0 for empty slots.
        shapes: of one row length, sorted by rows.
        one_a_row: whether each example has its own row.
        slots: slots of each example; None where each has one.

    Raises:
        ValueError: a batch fits into none of the shapes.
    """
    groups, row_length = shapes[0].groups, shapes[0].row_length
    rows, _, needed = pack(lengths, row_length, one_a_row)
    one = range(len(rows))
    examples = np.array([_most_per_group(rows[k : k + 1], groups) for k in one])
    most_slots = examples
    if slots is not None:
        most_slots = np.array([_most_per_group(rows[k : k + 1], groups, slots[k : k + 1]) for k in one])
    fits = np.array(
        [
            (groups * shape.rows >= needed) & (shape.examples >= examples) & (shape.num_slots >= most_slots)
            for shape in shapes
        ]
    )
    if not fits.any(axis=0).all():
        raise ValueError(f"a batch of {needed[~fits.any(axis=0)].max()} rows fits into none of {shapes}")
    shape_of = np.argmax(fits, axis=0)
    real, computed = int(lengths.sum()), sum(groups * shapes[i].rows * row_length for i in shape_of)
    return Plan(tuple(shapes), shape_of.astype(np.int8), real / computed, real, computed)


def _choose_counts(needed: Int[np.ndarray, " K"], most: int) -> Int[np.ndarray, " counts"]:
    """At most `most` row counts, sorted, such that rounding `needed` up to them adds the fewest rows in all."""
    values, times = np.unique(needed, return_counts=True)
    if len(values) <= most:
        return values
    total = np.concatenate([[0], np.cumsum(times)])
    fewest, best = None, values
    for cuts in itertools.combinations(range(len(values) - 1), most - 1):
        ends = np.array([*cuts, len(values) - 1])
        starts = np.concatenate([[0], ends[:-1] + 1])
        rows = int(np.sum(values[ends] * (total[ends + 1] - total[starts])))
        if fewest is None or rows < fewest:
            fewest, best = rows, values[ends]
    return best


def _most_per_group(rows: Places, groups: int, counts: Lengths | int = 1) -> int:
    """The largest number of examples, or sum of their counts, in one group of any batch.  rows: as of `pack`."""
    group = np.where(rows >= 0, rows % groups, -1)
    return max(1, max(int(((group == g) * counts).sum(axis=1).max(initial=0)) for g in range(groups)))
