"""Texts with choices: read, as tokens, and in batches, where each choice is a part that sees itself alone."""

import itertools

import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.data import batches, choices, packing, tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB

TOKENIZER = tokenization.load_tokenizer(VOCAB)


def test_each_choice_is_the_second_text_of_a_pair():
    texts, rows = ["the dog", "birds"], [("runs.", "sing because"), ("a", "the dog runs", "sing")]
    examples = choices.tokenize(texts, rows, TOKENIZER, 16)
    pairs = [(text, choice) for text, row in zip(texts, rows, strict=True) for choice in row]
    parts = np.split(examples.token_ids, examples.part_offsets[1:-1])
    types = np.split(examples.type_ids, examples.part_offsets[1:-1])
    assert len(parts) == 5 and len(examples) == 2 and examples.truncated == 0
    for part, kinds, pair in zip(parts, types, pairs, strict=True):
        expected = TOKENIZER(*pair)
        assert part.tolist() == expected["input_ids"] and kinds.tolist() == expected["token_type_ids"]
    owner = np.repeat([0, 1], np.diff(examples.slot_offsets))
    assert owner.tolist() == [0, 0, 1, 1, 1]
    assert (examples.offsets[owner] + examples.slot_token).tolist() == examples.part_offsets[:-1].tolist()


def test_long_texts_are_cut_and_counted():
    examples = choices.tokenize(["the dog " * 30, "a"], [("runs", "sing")] * 2, TOKENIZER, 12)
    assert examples.truncated == 1 and np.diff(examples.part_offsets).max() == 12
    assert TOKENIZER.backend_tokenizer.truncation is None


@pytest.mark.parametrize(
    ("values", "prefix", "found"),
    [
        (["runs", "sings"], "", ("runs", "sings")),
        ([["runs", "sings", "eats"]], "It", ("It runs", "It sings", "It eats")),
        ([np.array(["runs", "sings"])], "", ("runs", "sings")),
    ],
)
def test_choices_are_columns_or_a_list(values, prefix, found):
    assert choices.read(values, "f:1", prefix) == found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["runs", None], r"f:1: choice 1 \(counted from 0\) is missing"),
        (["runs", " "], r"f:1, choice 1: the text is empty"),
        ([["runs", 3]], r"f:1, choice 1: 3 is not text"),
        (["runs"], r"f:1: 1 choices; a row needs 2 or more"),
        ([[]], r"f:1: 0 choices"),
        ([None], r"f:1: 1 choices"),
    ],
)
def test_other_choices_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        choices.read(values, "f:1")


@pytest.mark.parametrize("prompt", [0, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_parts_of_a_batch(prompt, groups):
    """Each part is a segment of its own with positions from 0, and its slot is at its first token."""
    bare = small.make_choices(12)
    examples = batches.prepend(bare, prompt)
    chosen = np.random.default_rng(0).permutation(12)
    lengths, slots = batches.lengths_of(examples, chosen[None]), batches.slots_of(examples, chosen[None])
    (shape,) = packing.plan(lengths, slots=slots, groups=groups, most_shapes=1, width=32).shapes
    batch, places = batches.build(examples, chosen, shape)
    seen = []
    for g, s in np.argwhere(batch["weight"] > 0):
        row, column = divmod(int(batch["slot_token"][g, s]), shape.row_length)
        number = batch["slot_example"][g, s]
        part = batch["example"][g, number]
        tokens = examples.token_ids[examples.part_offsets[part] : examples.part_offsets[part + 1]]
        here = np.s_[g, row, column : column + len(tokens)]
        assert batch["position_ids"][here].tolist() == list(range(len(tokens)))
        assert (batch["segment_ids"][here] == number + 1).all()
        assert np.count_nonzero(batch["segment_ids"][g] == number + 1) == len(tokens)
        assert batch["token_ids"][here].tolist() == tokens.tolist()
        own = bare.token_ids[bare.part_offsets[part] : bare.part_offsets[part + 1]]
        assert tokens.tolist() == [0] * prompt + own.tolist()
        seen.append(part)
    assert sorted(seen) == list(range(len(examples.part_offsets) - 1))
    assert batch["label"].reshape(-1, 2)[places.slots[0]].tolist() == examples.label[places.slots[1]].tolist()
    for g in range(groups):  # the choices of an example are neighbours, in one group
        number = batch["label"][g, :, 1][batch["weight"][g] > 0]
        assert all(b in (0, a + 1) for a, b in itertools.pairwise(number)) and number[0] == 0


def test_cached_choices_are_the_same(tmp_path):
    split = Split.unlabelled(["0"], ["the dog"], choices=[("runs", "sings")])
    words = Split.unlabelled(["0"], ["the dog"], words=[("runs", "sings")])
    one = tokenization.tokenize(split, TOKENIZER, 16, str(tmp_path))
    two = tokenization.tokenize(split, TOKENIZER, 16, str(tmp_path))
    other = tokenization.tokenize(words, TOKENIZER, 16, str(tmp_path))
    for name in ("token_ids", "slot_token", "slot_offsets", "row_offsets", "part_offsets", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(other.token_ids) < len(one.token_ids) and len(list(tmp_path.glob("tokens/*.npz"))) == 2
