"""Packing examples into rows of static shape, and planning the few shapes that cover a whole schedule."""

import dataclasses
import itertools

import numpy as np


def pack(lengths, row_length, one_a_row=False):
    """(row, column) i32[K, B] of each example of K batches, and i32[K] rows used: first-fit decreasing.

    lengths: i32[K, B], 0 for a slot without an example (row -1).  All batches are packed at once, slot by slot.
    one_a_row gives each example a row of its own: a padded batch is a packed one with one example a row.
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
    """The static shape of a batch: groups G of rows R of row_length L, at most `examples` E and `slots` S per group.

    slots: 0 where each example has one.
    """

    groups: int
    rows: int
    row_length: int
    examples: int
    slots: int = 0

    @property
    def num_slots(self):
        """S."""
        return self.slots or self.examples


@dataclasses.dataclass(frozen=True)
class Plan:
    """Shapes and, for each batch, which of them it takes (i8[K]).  efficiency: real / computed tokens."""

    shapes: tuple
    shape_of: np.ndarray
    efficiency: float
    real_tokens: int
    computed_tokens: int


def plan(lengths, *, slots=None, groups=1, row_length=0, grid=8, most_shapes=3, one_a_row=False, width=768):
    """The Plan of batches with the fewest operations among row lengths on a grid and `most_shapes` row counts.

    lengths: i32[K, B] in tokens, 0 for no example.  slots: i32[K, B], or None where each example has one.
    row_length: a given one, or 0 to search.  grid: step of the search.
    width: of the encoder; a token costs 1 + L / (6 width) of its dense layers' operations with attention's.
    """
    longest = int(lengths.max())
    shortest_row = -(-longest // grid) * grid
    candidates = [shortest_row] if one_a_row else range(shortest_row, max(2 * shortest_row, 256) + 1, grid)
    best = None
    for candidate in [row_length] if row_length else candidates:
        rows, _, needed = pack(lengths, candidate, one_a_row)
        needed = -(-needed // groups) * groups
        counts = _choose_counts(needed, most_shapes)
        taken = np.searchsorted(counts, needed)
        computed = int(counts[taken].sum()) * candidate
        cost = computed * (1.0 + candidate / (6.0 * width))
        if best is None or cost < best[0]:
            best = cost, candidate, counts, taken, rows, computed
    _, candidate, counts, taken, rows, computed = best
    shapes = []
    for i, count in enumerate(counts):
        inside = taken == i
        examples = _most_per_group(rows[inside], groups)
        most_slots = 0 if slots is None else _most_per_group(rows[inside], groups, slots[inside])
        shapes.append(Shape(groups, int(count) // groups, candidate, examples, most_slots))
    real = int(lengths.sum())
    return Plan(tuple(shapes), taken.astype(np.int8), real / computed, real, computed)


def assign(lengths, shapes, one_a_row=False, slots=None):
    """The Plan of batches in given shapes of one row length, each batch in the first that holds it.

    lengths, slots: as of `plan`; shapes: sorted by rows.  Raises ValueError when a batch fits into none.
    """
    groups, row_length = shapes[0].groups, shapes[0].row_length
    rows, _, needed = pack(lengths, row_length, one_a_row)
    one = range(len(rows))
    examples = np.array([_most_per_group(rows[k : k + 1], groups) for k in one])
    if slots is not None:
        slots = np.array([_most_per_group(rows[k : k + 1], groups, slots[k : k + 1]) for k in one])
    fits = np.array(
        [
            (groups * shape.rows >= needed)
            & (shape.examples >= examples)
            & (shape.num_slots >= (examples if slots is None else slots))
            for shape in shapes
        ]
    )
    if not fits.any(axis=0).all():
        raise ValueError(f"a batch of {needed[~fits.any(axis=0)].max()} rows fits into none of {shapes}")
    taken = np.argmax(fits, axis=0)
    real, computed = int(lengths.sum()), sum(groups * shapes[i].rows * row_length for i in taken)
    return Plan(tuple(shapes), taken.astype(np.int8), real / computed, real, computed)


def _choose_counts(needed, most):
    """The `most` row counts, i64 sorted, that cover `needed` i32[K] with the fewest rows in all."""
    values, times = np.unique(needed, return_counts=True)
    if len(values) <= most:
        return values
    total = np.concatenate([[0], np.cumsum(times)])
    best = None
    for cuts in itertools.combinations(range(len(values) - 1), most - 1):
        ends = np.array([*cuts, len(values) - 1])
        starts = np.concatenate([[0], ends[:-1] + 1])
        rows = int(np.sum(values[ends] * (total[ends + 1] - total[starts])))
        if best is None or rows < best[0]:
            best = rows, ends
    return values[best[1]]


def _most_per_group(rows, groups, counts=1):
    """The most examples, or counts i32[K, B] of them, in a group of any batch.  rows: i32[K, B] from `pack`."""
    group = np.where(rows >= 0, rows % groups, -1)
    return max(1, max(int(((group == g) * counts).sum(axis=1).max(initial=0)) for g in range(groups)))
