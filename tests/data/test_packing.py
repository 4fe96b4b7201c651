"""Packing loses, splits and overlaps nothing, and the planner's choices are the cheapest ones."""

import itertools

import numpy as np
import pytest

from fjt.data import packing


def draw(num=40, size=16, longest=60, seed=0, empty=0.2):
    """Random lengths with some empty slots."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, (num, size)).astype(np.int32)
    return np.where(rng.random(lengths.shape) < empty, 0, lengths).astype(np.int32)


def check_pack(lengths, rows, columns, used, row_length):
    """Every example lies whole in one row, no two share a token, empty slots lie nowhere, no row is skipped."""
    for k in range(len(lengths)):
        taken = np.zeros((used[k], row_length), int)
        for e, length in enumerate(lengths[k]):
            if length == 0:
                assert rows[k, e] == -1
                continue
            assert 0 <= rows[k, e] < used[k] and 0 <= columns[k, e] <= row_length - length
            taken[rows[k, e], columns[k, e] : columns[k, e] + length] += 1
        assert taken.max(initial=0) <= 1 and taken.sum() == lengths[k].sum()
        assert taken.any(axis=1).all()
        assert (np.diff(taken, axis=1) <= 0).all()  # filled from the left, without holes


@pytest.mark.parametrize("row_length", [60, 64, 200])
@pytest.mark.parametrize("one_a_row", [False, True])
def test_every_example_lies_whole_in_one_row(row_length, one_a_row):
    for seed in range(3):
        lengths = draw(seed=seed)
        rows, columns, used = packing.pack(lengths, row_length, one_a_row)
        check_pack(lengths, rows, columns, used, row_length)
        if one_a_row:
            assert (used == (lengths > 0).sum(axis=1)).all() and (columns == 0).all()


def test_the_check_rejects_overlap_and_loss():
    lengths = draw()
    rows, columns, used = packing.pack(lengths, 64)
    shifted, lost = columns.copy(), rows.copy()
    shifted[3, np.argmax(columns[3])] -= 1
    lost[3, np.argmax(lengths[3])] = -1
    for mutant in ((rows, shifted), (lost, columns)):
        with pytest.raises(AssertionError):
            check_pack(lengths, *mutant, used, 64)


def test_first_fit_decreasing_by_hand():
    rows, columns, used = packing.pack(np.array([[3, 6, 0, 5, 2, 4]], np.int32), 10)
    # 6 5 4 3 2: row 0 holds 6 and 4, row 1 holds 5, 3 and 2.
    assert rows.tolist() == [[1, 0, -1, 1, 1, 0]] and used.tolist() == [2]
    assert columns.tolist() == [[5, 0, 0, 0, 8, 6]]


def test_a_batch_is_packed_alike_alone_and_among_others():
    lengths = draw()
    rows, columns, used = packing.pack(lengths, 64)
    for k in (0, 7, 39):
        alone = packing.pack(lengths[k : k + 1], 64)
        assert np.array_equal(alone[0][0], rows[k]) and np.array_equal(alone[1][0], columns[k])
        assert alone[2][0] == used[k]


def test_counts_equal_a_search_of_all():
    rng = np.random.default_rng(0)
    for _ in range(30):
        needed = rng.integers(1, 12, rng.integers(1, 40))
        for most in (1, 2, 3):
            counts = packing._choose_counts(needed, most)
            values = np.unique(needed)
            fewest = min(
                sum(min(c for c in (*chosen, values[-1]) if c >= n) for n in needed)
                for size in range(most)
                for chosen in itertools.combinations(values[:-1], size)
            )
            assert len(counts) <= most and (np.diff(counts) > 0).all() and counts[-1] == values[-1]
            assert counts[np.searchsorted(counts, needed)].sum() == fewest


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("one_a_row", [False, True])
def test_plan_covers_every_batch_and_counts_its_tokens(groups, one_a_row):
    lengths = draw()
    plan = packing.plan(lengths, groups=groups, one_a_row=one_a_row, width=32)
    assert 1 <= len(plan.shapes) <= 3 and plan.shape_of.shape == (len(lengths),)
    (row_length,) = {shape.row_length for shape in plan.shapes}
    assert row_length % 8 == 0 and row_length >= lengths.max()
    rows, _, used = packing.pack(lengths, row_length, one_a_row)
    computed = 0
    for k, taken in enumerate(plan.shape_of):
        shape = plan.shapes[taken]
        assert used[k] <= shape.groups * shape.rows and shape.groups == groups
        per_group = np.bincount(rows[k][rows[k] >= 0] % groups, minlength=groups)
        assert per_group.max() <= shape.examples
        computed += shape.groups * shape.rows * shape.row_length
    assert plan.computed_tokens == computed and plan.real_tokens == lengths.sum()
    assert plan.efficiency == pytest.approx(lengths.sum() / computed, abs=1e-15)


def test_plan_s_row_length_is_the_cheapest_of_the_grid():
    lengths, width = draw(num=20), 16
    plan = packing.plan(lengths, width=width)

    def cost(row_length):
        needed = packing.pack(lengths, row_length)[2]
        counts = packing._choose_counts(needed, 3)
        computed = counts[np.searchsorted(counts, needed)].sum() * row_length
        return computed * (1 + row_length / (6 * width))

    costs = {row_length: cost(row_length) for row_length in range(64, 257, 8)}
    assert plan.shapes[0].row_length == min(costs, key=costs.get)
    assert costs[plan.shapes[0].row_length] < 0.9 * max(costs.values())


def test_plan_obeys_a_given_row_length_and_one_shape():
    plan = packing.plan(draw(), row_length=77, most_shapes=1)
    assert [shape.row_length for shape in plan.shapes] == [77]
    assert packing.plan(draw(), grid=128).shapes[0].row_length % 128 == 0
    padded = packing.plan(draw(), one_a_row=True)
    assert padded.shapes[0].row_length == 64  # the longest, up to the grid


def test_packing_beats_padding():
    lengths = draw(size=32, empty=0.0)
    assert packing.plan(lengths, width=384).efficiency > 0.9
    assert packing.plan(lengths, one_a_row=True, width=384).efficiency < 0.6


@pytest.mark.parametrize("groups", [1, 4])
def test_a_part_of_the_batches_in_the_shapes_of_all(groups):
    """The batches of one run take shapes planned over those of several, each the smallest that holds it."""
    lengths = draw(num=60, size=48)
    whole = packing.plan(lengths, groups=groups)
    assert len(whole.shapes) > 1
    part = packing.assign(lengths[20:40], whole.shapes)
    assert part.shapes == whole.shapes and (part.shape_of <= whole.shape_of[20:40]).all()
    rows, _, used = packing.pack(lengths[20:40], whole.shapes[0].row_length)
    for k, number in enumerate(part.shape_of):
        per_group = np.bincount(rows[k][rows[k] >= 0] % groups, minlength=groups)
        holds = [groups * s.rows >= used[k] and s.examples >= per_group.max() for s in whole.shapes]
        assert number == holds.index(True)
    assert part.real_tokens == lengths[20:40].sum() and part.efficiency == part.real_tokens / part.computed_tokens
    with pytest.raises(ValueError, match="fits into none"):
        packing.assign(np.full((1, 64), 60, np.int32), whole.shapes[:1])
