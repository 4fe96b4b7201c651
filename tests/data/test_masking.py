"""Masks of an epoch: which tokens, how many, by what they are replaced, and what a draw depends on."""

import dataclasses

import numpy as np
import pytest

from fjt.core import prng, seeds
from fjt.data import batches, masking
from fjt.data.batches import Examples
from fjt.data.masking import Masking

KEY = seeds.make_key(0, "test")
MASK, ORDINARY = 4, np.arange(10, 200, dtype=np.int32)
MASKING = Masking(MASK, ORDINARY)


def made(counts, seed=0, word=1):
    """Examples with a first and a last special token, and slots at the others; words have up to `word` tokens."""
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts)
    offsets = np.concatenate([[0], np.cumsum(counts + 2)])
    token_ids = rng.integers(10, 200, offsets[-1]).astype(np.int32)
    token_ids[offsets[:-1]], token_ids[offsets[1:] - 1] = 2, 3
    words = [np.repeat(np.arange(n), rng.integers(1, word + 1, n))[:n] for n in counts]
    return Examples(
        token_ids,
        np.zeros(len(token_ids), np.int8),
        offsets,
        np.concatenate(words).astype(np.int32),
        0,
        np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def masked(examples):
    """{example: its slots with a label}."""
    bounds = examples.slot_offsets
    return {
        n: examples.slot_token[bounds[n] : bounds[n + 1]][examples.label[bounds[n] : bounds[n + 1]] >= 0].tolist()
        for n in range(len(examples))
    }


def test_bits_on_the_host_are_those_of_the_devices():
    number, position = np.arange(50), np.arange(50) * 7 % 11
    key = (np.asarray(KEY[0]), np.asarray(KEY[1]))
    expected = prng.fold(prng.fold(prng.fold(key, 3), number), position)[1]
    found = seeds.bits(KEY, 3, number, position)
    assert found.dtype == np.uint32 and found.tolist() == np.asarray(expected).tolist()


def test_an_example_has_its_share_of_slots_and_its_true_tokens_as_labels():
    examples = made([1, 2, 3, 10, 20, 40, 100, 7])
    drawn = masking.draw(examples, MASKING, KEY, 0)
    assert np.diff(drawn.slot_offsets).tolist() == [1, 1, 1, 2, 3, 6, 15, 1]
    for n in range(len(drawn)):
        slots = drawn.slot_token[drawn.slot_offsets[n] : drawn.slot_offsets[n + 1]]
        assert (np.diff(slots) > 0).all() and slots[0] >= 1 and slots[-1] < drawn.lengths[n] - 1
        places = drawn.offsets[n] + slots
        label = drawn.label[drawn.slot_offsets[n] : drawn.slot_offsets[n + 1]]
        assert label.tolist() == examples.token_ids[places].tolist()
    changed = np.flatnonzero(drawn.token_ids != examples.token_ids)
    places = drawn.offsets[np.repeat(np.arange(8), np.diff(drawn.slot_offsets))] + drawn.slot_token
    assert set(changed) <= set(places)
    assert examples.token_ids.tolist() == made([1, 2, 3, 10, 20, 40, 100, 7]).token_ids.tolist(), "left as it was"


def test_eighty_ten_ten():
    examples = made([200] * 600)
    drawn = masking.draw(examples, MASKING, KEY, 2)
    places = drawn.offsets[np.repeat(np.arange(600), np.diff(drawn.slot_offsets))] + drawn.slot_token
    now, count = drawn.token_ids[places], len(places)
    assert count == 600 * 30
    share = {"mask": np.mean(now == MASK), "same": np.mean(now == drawn.label)}
    error = 4 * np.sqrt(0.8 * 0.2 / count)
    assert share["mask"] == pytest.approx(0.8, abs=error)
    assert share["same"] == pytest.approx(0.1 + 0.1 / len(ORDINARY), abs=error)
    other = now[(now != MASK) & (now != drawn.label)]
    assert np.isin(other, ORDINARY).all() and len(np.unique(other)) == len(ORDINARY)
    own = seeds.bits(KEY, 2, masking.TOKEN, np.repeat(np.arange(600), 30), drawn.slot_token)
    random = (now != MASK) & (now != drawn.label)
    assert now[random].tolist() == ORDINARY[own[random] % len(ORDINARY)].tolist(), "drawn apart from its fate"
    counts = np.bincount(drawn.slot_token, minlength=202)[1:201]  # each place as often as others
    assert np.abs(counts - 90).max() < 5.5 * np.sqrt(90)
    only = masking.draw(examples, dataclasses.replace(MASKING, replaced=1.0, random=0.0), KEY, 2)
    assert (only.token_ids[places] == MASK).all() and only.slot_token.tolist() == drawn.slot_token.tolist()


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_draw_depends_on_key_epoch_example_and_position_alone(whole_words):
    examples = made([30, 12, 55, 9, 80, 41], word=3)
    chosen = dataclasses.replace(MASKING, whole_words=whole_words)
    drawn = masking.draw(examples, chosen, KEY, 1)
    rows = np.array([4, 1])
    found = masking.draw(batches.take(examples, rows), chosen, KEY, 1)
    tokens = np.concatenate([np.arange(drawn.offsets[r], drawn.offsets[r + 1]) for r in rows])
    assert found.token_ids.tolist() == drawn.token_ids[tokens].tolist()
    assert masked(found) == {0: masked(drawn)[4], 1: masked(drawn)[1]}
    for key, epoch in ((KEY, 2), (seeds.make_key(1, "test"), 1)):
        other = masking.draw(examples, chosen, key, epoch)
        assert other.slot_offsets.tolist() == drawn.slot_offsets.tolist(), "the shapes stay the same"
        assert other.slot_token.tolist() != drawn.slot_token.tolist()


def in_order(examples, number, count):
    """The tokens of whole words by the rule in words: one word after the other, those that do not fit left out."""
    bounds = slice(examples.slot_offsets[number], examples.slot_offsets[number + 1])
    words, slots = examples.label[bounds], examples.slot_token[bounds]
    first = {word: slots[words == word][0] for word in np.unique(words)}
    drawn = {word: seeds.bits(KEY, 5, masking.CHOICE, np.array([number]), int(at))[0] for word, at in first.items()}
    chosen = []
    for word in sorted(drawn, key=lambda word: drawn[word]):
        if len(chosen) + np.sum(words == word) <= count:
            chosen += slots[words == word].tolist()
    return sorted(chosen)


def test_whole_words_are_masked_or_left():
    examples = made([60, 3, 1, 17, 44, 90, 2, 25], word=5)
    drawn = masking.draw(examples, dataclasses.replace(MASKING, whole_words=True), KEY, 5)
    counts = np.diff(drawn.slot_offsets)
    assert counts.tolist() == masking.counts_of(np.diff(examples.slot_offsets), 0.15).tolist()
    found = masked(drawn)
    assert found == {n: in_order(examples, n, counts[n]) for n in found}
    assert any(len(found[n]) < counts[n] for n in found), "a word of two does not fit into one slot"
    empty = drawn.label < 0
    assert (drawn.slot_token[empty] == 0).all() and empty.any() and not empty.all()


def test_a_word_at_the_end_of_an_example_is_another_than_that_at_the_start_of_the_next():
    examples = made([4, 4], word=1)
    examples = dataclasses.replace(examples, label=np.array([0, 1, 2, 7, 7, 8, 9, 10], np.int32))
    drawn = masking.draw(examples, dataclasses.replace(MASKING, rate=0.25, whole_words=True), KEY, 0)
    assert [len(found) for found in masked(drawn).values()] == [1, 1]
