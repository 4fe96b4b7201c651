"""Several slots per example: each lands with its label, and its logits do not depend on the layout."""

import dataclasses

import jax
import numpy as np
import pytest
import small

from fjt.core import seeds
from fjt.data import batches, packing
from fjt.models.encoder import Model
from fjt.training import evaluate
from fjt.training.step import eval_step

MODEL = Model(small.CONFIG, 3, one_slot=False)


def make_slots(num=40):
    """Examples with one to three slots each, at tokens of their own, labelled by their number in the split."""
    examples = small.make_examples(num=num)
    rng = np.random.default_rng(1)
    tokens = [np.sort(rng.choice(n, rng.integers(1, 4), replace=False)) for n in examples.lengths]
    offsets = np.concatenate([[0], np.cumsum([len(chosen) for chosen in tokens])])
    return dataclasses.replace(
        examples,
        label=np.arange(offsets[-1], dtype=np.int32),
        slot_token=np.concatenate(tokens).astype(np.int32),
        slot_offsets=offsets,
    )


EXAMPLES = make_slots()


@pytest.mark.parametrize("groups", [1, 2])
def test_every_slot_lands_with_its_token_and_label(groups):
    indices = batches.Schedule(len(EXAMPLES), 12, 0).batches(0, 4)  # the last one is short
    lengths, slots = batches.lengths_of(EXAMPLES, indices), batches.slots_of(EXAMPLES, indices)
    plan = packing.plan(lengths, slots=slots, groups=groups, width=32)
    for chosen, number in zip(indices, plan.shape_of, strict=True):
        shape = plan.shapes[number]
        batch, places = batches.build(EXAMPLES, chosen, shape)
        spots, rows = places.slots
        expected = [s for e in chosen[chosen >= 0] for s in range(*EXAMPLES.slot_offsets[e : e + 2])]
        assert rows.tolist() == expected and len(set(spots)) == len(spots)
        assert batch["weight"].shape == (groups, shape.num_slots) and batch["weight"].sum() == len(rows)
        np.testing.assert_array_equal(batch["label"].reshape(-1)[spots], rows)
        owner = np.searchsorted(EXAMPLES.slot_offsets, rows, side="right") - 1
        group = spots // shape.num_slots
        np.testing.assert_array_equal(batch["example"][group, batch["slot_example"].reshape(-1)[spots]], owner)
        np.testing.assert_array_equal(batch["slot_position"].reshape(-1)[spots], EXAMPLES.slot_token[rows])
        token_ids = batch["token_ids"].reshape(groups, -1)[group, batch["slot_token"].reshape(-1)[spots]]
        np.testing.assert_array_equal(
            token_ids, EXAMPLES.token_ids[EXAMPLES.offsets[owner] + EXAMPLES.slot_token[rows]]
        )


def logits_of(one_a_row):
    """f32[M, 3] of all slots in file order; each example alone in its row, or packed."""
    params = jax.jit(MODEL.init)(seeds.make_key(0, "init"))
    if not one_a_row:
        packed = evaluate.pack_splits({"dev": EXAMPLES}, groups=1, grid=8, width=32, one_slot=False)["dev"]
        function = jax.jit(lambda params, batch: eval_step(params, batch, model=MODEL, reduce=small.whole))
        return evaluate.evaluate(function, params, packed, lambda batch: batch)
    shape = packing.Shape(1, len(EXAMPLES), 24, len(EXAMPLES), len(EXAMPLES.slot_token))
    batch, places = batches.build(EXAMPLES, np.arange(len(EXAMPLES)), shape, one_a_row=True)
    return np.asarray(MODEL.apply(params, batch)).reshape(-1, 3)[places.slots[0]]


def test_logits_of_slots_do_not_depend_on_the_layout():
    found, expected = logits_of(False), logits_of(True)
    assert found.shape == (len(EXAMPLES.slot_token), 3)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    first = EXAMPLES.slot_offsets[np.flatnonzero(np.diff(EXAMPLES.slot_offsets) > 1)[0]]
    assert np.abs(found[first] - found[first + 1]).max() > 1e-3  # slots of one example are read at their own tokens
