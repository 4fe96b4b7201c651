"""Which examples a step trains on, and that each token and label lands where it should."""

import dataclasses

import numpy as np
import pytest
import small

from fjt.data import batches, packing

LAYOUTS = [
    dict(),
    dict(row_length=24),
    dict(row_length=100),
    dict(one_a_row=True),
    dict(groups=4),
    dict(groups=3, row_length=40),
    dict(groups=8, one_a_row=True),
]


@pytest.mark.parametrize(("num", "size"), [(100, 16), (96, 16), (5, 16), (1, 1), (33, 32)])
def test_each_example_exactly_once_an_epoch(num, size):
    schedule = batches.Schedule(num, size, 3)
    per = schedule.steps_per_epoch
    assert per == int(np.ceil(num / size))
    for epoch in range(3):
        indices = schedule.batches(epoch * per, (epoch + 1) * per)
        assert sorted(indices[indices >= 0].tolist()) == list(range(num))
        assert (indices[:-1] >= 0).all()  # whole batches, but for the last one
        short = indices[-1]
        assert (short >= 0).sum() == (num - 1) % size + 1
        assert (short[: (short >= 0).sum()] >= 0).all()


def test_a_batch_is_a_function_of_seed_and_step():
    schedule = batches.Schedule(100, 16, 3)
    whole = schedule.batches(0, 30)
    for first, last in ((0, 1), (6, 8), (13, 30), (29, 30)):
        np.testing.assert_array_equal(batches.Schedule(100, 16, 3).batches(first, last), whole[first:last])
    assert not np.array_equal(whole[:7], whole[7:14])  # epochs differ
    assert not np.array_equal(whole[:7], batches.Schedule(100, 16, 4).batches(0, 7))
    assert schedule.batches(5, 5).shape == (0, 16)


def make(layout, num=60, size=20, kind="classification"):
    """(Examples, [(indices, Shape, batch, place)]) of an epoch with a short last batch."""
    examples = small.make_examples(num=num - 7, kind=kind, seed=2)
    schedule = batches.Schedule(len(examples), size, 0)
    indices = schedule.batches(0, schedule.steps_per_epoch)
    one_a_row = layout.get("one_a_row", False)
    plan = packing.plan(batches.lengths_of(examples, indices), width=32, **layout)
    made = []
    for k, chosen in enumerate(indices):
        shape = plan.shapes[plan.shape_of[k]]
        made.append((chosen, shape, *batches.build(examples, chosen, shape, one_a_row)))
    return examples, made


def check_batch(examples, indices, shape, batch, places):
    """Every example is found whole through its places, and nothing else is there."""
    tokens = ("token_ids", "segment_ids", "position_ids", "type_ids")
    for name in tokens:
        assert batch[name].shape == (shape.groups, shape.rows, shape.row_length) and batch[name].dtype == np.int32
    claimed = np.zeros(batch["token_ids"].shape, int)
    slots = []
    np.testing.assert_array_equal(places.slots[1], indices[indices >= 0])
    for spot, index in zip(*places.slots, strict=True):
        group, e = divmod(spot, shape.examples)
        slots.append((group, e))
        span = slice(examples.offsets[index], examples.offsets[index + 1])
        length = span.stop - span.start
        row, column = divmod(batch["slot_token"][group, e], shape.row_length)
        where = group, row, slice(column, column + length)
        np.testing.assert_array_equal(batch["token_ids"][where], examples.token_ids[span])
        np.testing.assert_array_equal(batch["type_ids"][where], examples.type_ids[span])
        np.testing.assert_array_equal(batch["position_ids"][where], np.arange(length))
        np.testing.assert_array_equal(batch["segment_ids"][where], np.full(length, e + 1))
        assert batch["example"][group, e] == index and batch["weight"][group, e] == 1.0
        assert batch["slot_example"][group, e] == e and batch["slot_position"][group, e] == 0
        assert batch["label"][group, e] == examples.label[index]
        claimed[where] += 1
    assert claimed.max() == 1
    assert (batch["segment_ids"][claimed == 0] == 0).all() and (batch["token_ids"][claimed == 0] == 0).all()
    assert len(set(slots)) == len(slots) and batch["weight"].sum() == len(slots)
    flat, (spots, rows) = batch["token_ids"].reshape(-1), places.tokens
    np.testing.assert_array_equal(flat[spots], examples.token_ids[rows])
    assert len(set(spots)) == len(spots) == claimed.sum()


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_and_label_lands_where_it_should(layout, kind):
    examples, made = make(layout, kind=kind)
    assert (made[-1][0] < 0).any()
    for one in made:
        check_batch(examples, *one)
        assert one[2]["label"].dtype == examples.label.dtype
        if layout.get("one_a_row"):
            segments = one[2]["segment_ids"]
            assert all(len(set(row[row > 0])) <= 1 for group in segments for row in group)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_lie_where_their_tokens_do(layout):
    """Each token's row is its number in the split; what the program does not read is not there."""
    examples, made = make(layout)
    hidden = np.stack([np.arange(len(examples.token_ids)), examples.token_ids], axis=1).astype(np.float32) + 1
    for indices, shape, batch, places in made:
        found, spots = batches.build(examples, indices, shape, layout.get("one_a_row", False), hidden)
        assert set(found) == set(batch) - {"token_ids", "type_ids"} | {"hidden"}
        np.testing.assert_array_equal(spots.slots, places.slots)
        assert all((found[name] == batch[name]).all() for name in found if name != "hidden")
        real = batch["segment_ids"] > 0
        assert found["hidden"].dtype == np.float32 and not found["hidden"][~real].any()
        np.testing.assert_array_equal(found["hidden"][real][:, 1], batch["token_ids"][real] + 1)
        for spot, index in zip(*places.slots, strict=True):
            group, e = divmod(spot, shape.examples)
            row, column = divmod(batch["slot_token"][group, e], shape.row_length)
            assert found["hidden"][group, row, column, 0] == examples.offsets[index] + 1


@pytest.mark.parametrize("layout", [{}, dict(groups=3, row_length=40)])
def test_what_a_teacher_predicts_is_with_its_slot(layout):
    """Of words, of which an example has several; without rows as well."""
    examples, chosen = small.make_words(num=20), np.array([3, 0, 17, 5, -1])
    teacher = np.random.default_rng(0).normal(size=(len(examples.label), 3)).astype(np.float32)
    slots = batches.slots_of(examples, chosen)
    plan = packing.plan(batches.lengths_of(examples, chosen[None]), width=32, slots=slots[None], **layout)
    dealt = packing.Shape(2, 0, 0, 3, slots=int(slots.sum()))
    for shape, hidden in ((plan.shapes[0], None), (dealt, np.zeros((len(teacher), 4), np.float32))):
        batch, places = batches.build(examples, chosen, shape, False, hidden, by_slot={"teacher": teacher})
        there, rows = places.slots
        assert len(rows) == slots.sum() and batch["teacher"].dtype == np.float32
        np.testing.assert_array_equal(batch["teacher"].reshape(-1, 3)[there], teacher[rows])
        assert not batch["teacher"][batch["weight"] == 0].any()


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_vectors_are_dealt_to_the_groups(groups):
    examples = small.make_examples(num=21, kind="regression")
    vectors = np.float16(np.arange(21)[:, None] + np.array([[1.0, 100.0]]))
    indices = np.array([20, 3, -1, 7, 0, 11, -1, 5, 9])
    shape = packing.Shape(groups, 0, 0, -(-len(indices) // groups))
    batch, places = batches.build(examples, indices, shape, hidden=vectors)
    assert set(batch) == {"hidden", "example", "slot_example", "slot_position", "label", "weight"}
    assert batch["hidden"].shape == (groups, shape.examples, 2) and batch["hidden"].dtype == np.float16
    real = places.slots[0]
    assert len(set(real)) == 7 and batch["weight"].sum() == batch["weight"].reshape(-1)[real].sum() == 7
    for name, values in (("hidden", vectors), ("example", np.arange(21)), ("label", examples.label)):
        flat = batch[name].reshape(groups * shape.examples, -1)
        np.testing.assert_array_equal(np.squeeze(flat[real]), values[indices[indices >= 0]])
    loads = batch["weight"].sum(axis=1)
    assert loads.max() - loads.min() <= 1


def test_the_check_rejects_what_is_misplaced():
    examples, ((indices, shape, batch, places), *_) = make({})
    for name in ("token_ids", "type_ids", "position_ids", "segment_ids", "slot_token", "example", "label", "weight"):
        wrong = batch | {name: batch[name] + 1}
        with pytest.raises(AssertionError):
            check_batch(examples, indices, shape, wrong, places)
    with pytest.raises(AssertionError):
        rolled = np.roll(places.slots[0], 1), places.slots[1]
        check_batch(examples, indices, shape, batch, dataclasses.replace(places, slots=rolled))


def test_groups_share_the_rows_evenly():
    _, made = make(dict(groups=4))
    for indices, _, batch, _ in made:
        rows = (batch["segment_ids"] > 0).any(axis=2).sum(axis=1)
        assert rows.max() - rows.min() <= 1
        assert batch["segment_ids"].max(axis=(1, 2)).sum() == (indices >= 0).sum()


def test_a_shape_that_is_too_small_is_refused():
    examples, ((indices, shape, _, _), *_) = make({})
    with pytest.raises(ValueError, match="do not fit"):
        batches.build(examples, indices, dataclasses.replace(shape, rows=shape.rows - 1))


def test_lengths():
    examples = small.make_examples(num=10)
    assert examples.lengths.sum() == len(examples.token_ids) and len(examples) == 10
    found = batches.lengths_of(examples, np.array([[3, -1], [0, 9]]))
    assert found.tolist() == [[examples.lengths[3], 0], [examples.lengths[0], examples.lengths[9]]]


@pytest.mark.parametrize(("num", "size"), [(1, 1), (1, 8), (7, 8), (8, 8), (9, 8), (100, 16)])
def test_chunks_hold_each_example_once_and_are_alike(num, size):
    lengths = small.make_examples(num=num).lengths
    chunks = batches.chunk(lengths, size)
    assert chunks.shape == (int(np.ceil(num / size)), size)
    assert sorted(chunks[chunks >= 0].tolist()) == list(range(num))
    totals = np.where(chunks >= 0, lengths[chunks], 0).sum(axis=1)
    assert totals.max() - totals.min() <= lengths.max()


def test_examples_without_a_slot_are_packed_with_the_others():
    made = small.make_examples(6)
    slots = {"slot_token": np.int32([1]), "slot_offsets": np.array([0, 0, 0, 1, 1, 1, 1]), "label": np.int32([7])}
    examples, rows = dataclasses.replace(made, **slots), np.arange(6)
    (shape,) = packing.plan(
        made.lengths[None], slots=batches.slots_of(examples, rows[None]), most_shapes=1, width=32
    ).shapes
    batch, _ = batches.build(examples, rows, shape)
    assert shape.slots == 1 and shape.num_slots == 6 and batch["weight"].sum() == 1
    assert batch["example"][0, batch["slot_example"][0, 0]] == 2 and batch["label"][0, 0] == 7
    with pytest.raises(ValueError, match="6 examples of a group do not fit into"):
        batches.build(examples, rows, dataclasses.replace(shape, examples=2))


def test_some_examples_keep_their_numbers_and_parts():
    made = small.make_choices(8, 16)
    chosen = np.array([6, 1, 3])
    some = batches.take(made, chosen)
    assert some.lengths.tolist() == made.lengths[chosen].tolist() and len(some) == 3
    for at, n in enumerate(chosen):
        tokens, whole = (slice(*x.offsets[i : i + 2]) for x, i in ((some, at), (made, n)))
        assert some.token_ids[tokens].tolist() == made.token_ids[whole].tolist()
        slots, all_ = (slice(*x.slot_offsets[i : i + 2]) for x, i in ((some, at), (made, n)))
        assert some.slot_token[slots].tolist() == made.slot_token[all_].tolist()
        assert some.label[slots].tolist() == made.label[all_].tolist()
        parts = np.searchsorted(made.part_offsets, made.offsets[n : n + 2])
        bounds = np.searchsorted(some.part_offsets, some.offsets[at : at + 2])
        assert some.numbers[slice(*bounds)].tolist() == list(range(*parts))
    again = batches.take(some, np.array([2]))
    assert again.numbers.tolist() == some.numbers[-len(again.numbers) :].tolist()
