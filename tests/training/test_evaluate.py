"""Evaluation: each example exactly once, in file order, the same logits as one example at a time."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small

from fjt.core import seeds
from fjt.data import batches, packing
from fjt.training import evaluate, placement
from fjt.training.step import eval_step

MODEL = small.Model(small.CONFIG, 3)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(seeds.make_key(0, "init"))


@pytest.fixture(scope="module")
def function():
    return jax.jit(functools.partial(eval_step, model=MODEL, reduce=small.whole))


def part(examples, size):
    """The first examples of a split."""
    end = examples.offsets[size]
    return batches.Examples(
        examples.token_ids[:end], examples.type_ids[:end], examples.offsets[: size + 1], examples.label[:size], 0
    )


def identify(params, batch):
    """A stand-in for the model: an example's row in the data set and its first token's id."""
    tokens = batch["token_ids"].reshape(len(batch["slot_token"]), -1)
    first = np.take_along_axis(tokens, batch["slot_token"], axis=1)
    return np.stack([np.take_along_axis(batch["example"], batch["slot_example"], axis=1), first], axis=-1)


def check_order(packed, examples):
    """Every example once, in file order."""
    seen = np.concatenate([places.slots[1] for _, places in packed.chunks])
    assert sorted(seen.tolist()) == list(range(len(examples)))
    logits = evaluate.evaluate(identify, None, packed, lambda batch: batch)
    np.testing.assert_array_equal(logits[:, 0], np.arange(len(examples)))
    np.testing.assert_array_equal(logits[:, 1], examples.token_ids[examples.offsets[:-1]])


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("sizes", [(1,), (2,), (7,), (64,), (500, 1, 33)])
def test_every_example_once_in_file_order(sizes, groups, monkeypatch):
    monkeypatch.setattr(evaluate, "TOKENS", 300)  # several chunks
    examples = small.make_examples(num=max(sizes))
    splits = {f"split{size}": part(examples, size) for size in sizes}
    packed = evaluate.pack_splits(splits, groups=groups, grid=8, width=32)
    assert len({one.shape for one in packed.values()}) == 1
    for name, one in packed.items():
        assert one.num_slots == len(splits[name])
        check_order(one, splits[name])
    assert len(packed[f"split{max(sizes)}"].chunks) > (max(sizes) > 30)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("sizes", [(1,), (7,), (64,), (90, 1, 33)])
def test_every_vector_once_in_file_order(sizes, groups, monkeypatch):
    monkeypatch.setattr(evaluate, "VECTORS", 30)
    examples = small.make_examples(num=max(sizes))
    dealt = evaluate.deal_splits({f"split{size}": part(examples, size) for size in sizes}, groups=groups)
    assert len({one.shape for one in dealt.values()}) == 1
    for size in sizes:
        one = evaluate.with_hidden(dealt[f"split{size}"], np.float32(100 + np.arange(size))[:, None])
        seen = np.concatenate([places.slots[1] for _, places in one.chunks])
        assert sorted(seen.tolist()) == list(range(size)) and len(one.chunks) == -(
            -size // (groups * one.shape.examples)
        )
        logits = evaluate.evaluate(lambda params, batch: batch["hidden"], None, one, lambda batch: batch)
        np.testing.assert_array_equal(logits[:, 0], 100 + np.arange(size))


def test_the_check_rejects_a_lost_tail_and_another_order():
    examples = small.make_examples(num=40)
    packed = evaluate.pack_splits({"dev": examples}, groups=1, grid=8, width=32)["dev"]
    ((batch, places),) = packed.chunks
    spots, rows = places.slots
    swapped = rows.copy()
    swapped[[0, 1]] = swapped[[1, 0]]

    class Mutated(evaluate.Chunks):
        slots = spots, rows

        def __iter__(self):
            yield batch, dataclasses.replace(places, slots=self.slots)

    for mutant in ((spots[:-1], rows[:-1]), (spots, swapped)):
        chunks = Mutated(examples, packed.chunks.indices, packed.shape)
        Mutated.slots = mutant
        with pytest.raises(AssertionError):
            check_order(dataclasses.replace(packed, chunks=chunks), examples)


def test_no_labels_reach_the_evaluation():
    packed = evaluate.pack_splits({"dev": small.make_examples(num=5)}, groups=1, grid=8, width=32)["dev"]
    assert not {"label", "weight"} & set(packed.chunks[0][0])


def test_a_chunk_that_cannot_be_built_is_no_end():
    examples = dataclasses.replace(small.make_examples(num=5), numbers=np.arange(2))
    packed = evaluate.pack_splits({"dev": examples}, groups=1, grid=8, width=32)["dev"]
    with pytest.raises(IndexError):
        list(packed.chunks)


def alone(function, params, examples, n):
    """f[C]: the logits of one example, alone in its row."""
    shape = packing.Shape(1, 1, 24, 1)
    batch, _ = batches.build(examples, np.array([n]), shape)
    return np.asarray(function(params, {k: v for k, v in batch.items() if k not in ("label", "weight")}))[0, 0]


def test_logits_equal_those_of_one_example_at_a_time(params, function, monkeypatch):
    monkeypatch.setattr(evaluate, "TOKENS", 400)
    examples = small.make_examples(num=61)
    packed = evaluate.pack_splits({"dev": examples}, groups=1, grid=8, width=32)["dev"]
    assert len(packed.chunks) > 1
    logits = evaluate.evaluate(function, params, packed, lambda batch: batch)
    expected = np.stack([alone(function, params, examples, n) for n in range(len(examples))])
    assert logits.dtype == np.float32 and np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-6)


def test_logits_on_four_devices(params, function):
    examples = small.make_examples(num=61)
    device_mesh = placement.make_mesh(4)
    packed = evaluate.pack_splits({"dev": examples}, groups=4, grid=8, width=32)["dev"]
    whole = jax.device_put(params, placement.replicated(device_mesh))
    logits = evaluate.evaluate(function, whole, packed, lambda b: jax.device_put(b, placement.by_group(device_mesh)))
    for n in (0, 17, 60):
        np.testing.assert_allclose(logits[n], alone(function, params, examples, n), atol=2e-6)


def test_evaluation_can_be_stopped(monkeypatch):
    monkeypatch.setattr(evaluate, "TOKENS", 100)
    packed = evaluate.pack_splits({"dev": small.make_examples(num=50)}, groups=1, grid=8, width=32)["dev"]
    calls = []

    def before():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(identify, None, packed, lambda batch: batch, before=before)
    assert len(calls) == 3


def test_a_chunk_of_cached_vectors_is_bounded_by_vectors_not_by_examples(monkeypatch):
    monkeypatch.setattr(evaluate, "VECTORS", 64)
    for examples, per_chunk in (
        (small.make_examples(200), 64),
        (small.make_windows(200, 24), 64 // 14),
    ):  # tokens in the mean
        packed = evaluate.deal_splits({"dev": examples}, groups=1)["dev"]
        assert (packed.chunks.indices >= 0).sum(axis=1).max() == per_chunk
        assert sorted(packed.chunks.indices[packed.chunks.indices >= 0]) == list(range(200))
