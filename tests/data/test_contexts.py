"""Contexts in windows: what each holds, and the place of each token in the text."""

import itertools

import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.data import contexts, tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB

TOKENIZER = tokenization.load_tokenizer(VOCAB)
LONG = " ".join(np.random.default_rng(0).choice("the dog runs because Birds sing unhappily".split(), 200))


def windows(examples, row):
    """[(token ids, types, places of the slots)] of the windows of a row."""
    found = []
    for window in range(examples.row_offsets[row], examples.row_offsets[row + 1]):
        tokens = slice(examples.offsets[window], examples.offsets[window + 1])
        slots = slice(examples.slot_offsets[window], examples.slot_offsets[window + 1])
        assert examples.slot_token[slots].tolist() == list(range(tokens.stop - tokens.start))
        found.append((examples.token_ids[tokens], examples.type_ids[tokens], examples.slot_chars[slots]))
    return found


def test_a_short_context_is_the_second_text_of_a_pair():
    examples = contexts.tokenize(["Who sings?"], ["Birds sing."], TOKENIZER, 32)
    ((ids, types, chars),) = windows(examples, 0)
    expected = TOKENIZER("Who sings?", "Birds sing.")
    assert ids.tolist() == expected["input_ids"] and types.tolist() == expected["token_type_ids"]
    texts = ["Birds sing."[start:end] for start, end in chars[len(TOKENIZER("Who sings?")["input_ids"]) : -1]]
    assert "".join(texts) == "Birdssing." and chars[0].tolist() == chars[-1].tolist() == [-1, -1]
    assert (chars[1 : len(TOKENIZER("Who sings?")["input_ids"])] == -1).all() and examples.truncated == 0


@pytest.mark.parametrize(("length", "stride"), [(48, 0), (48, 5), (64, 20)])
def test_windows_are_those_of_the_tokenizer_and_hold_the_whole_context(length, stride):
    questions, texts = ["the dog?", "because?"], [LONG, "the dog."]
    examples = contexts.tokenize(questions, texts, TOKENIZER, length, stride)
    expected = TOKENIZER(
        questions, texts, truncation="only_second", max_length=length, stride=stride or length // 3,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    assert np.split(examples.token_ids, examples.offsets[1:-1])[1].tolist() == expected["input_ids"][1]
    assert examples.token_ids.tolist() == list(itertools.chain(*expected["input_ids"]))
    owners = np.repeat(np.arange(2), np.diff(examples.row_offsets))
    assert owners.tolist() == expected["overflow_to_sample_mapping"] and len(owners) > 4
    seen = set()
    for _, _, chars in windows(examples, 0):
        seen |= {tuple(place) for place in chars.tolist() if place[0] >= 0}
    offsets = TOKENIZER(LONG, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert seen == set(offsets)


def test_a_long_question_is_cut_and_counted():
    examples = contexts.tokenize(["the dog " * 5000, "the dog?"], [LONG, LONG], TOKENIZER, 48)
    assert examples.truncated == 1 and examples.lengths.max() == 48
    question = 48 - 3 - 16 - 4
    for _, types, chars in windows(examples, 0):
        assert np.count_nonzero(types == 0) == question + 2 and np.count_nonzero(chars[:, 1] > 0) <= 16 + 4
    assert TOKENIZER.backend_tokenizer.truncation is None


def test_windows_that_share_too_much_are_refused():
    with pytest.raises(
        UserError, match=r"doc_stride=24: .* windows of config\.model\.max_length=32 tokens have no room for"
    ):
        contexts.tokenize(["a"], ["b"], TOKENIZER, 32, 24)
    with pytest.raises(UserError, match=r"doc_stride=None: neighbouring windows share 1 tokens"):
        contexts.tokenize(["a"], ["b"], TOKENIZER, 5)
    assert contexts.tokenize(["a"], ["b"], TOKENIZER, 32, 22).truncated == 0


def test_a_context_without_a_token_has_the_first_slot_alone():
    examples = contexts.tokenize(["the dog?"], ["\u200b \x07"], TOKENIZER, 32)
    ((_, _, chars),) = windows(examples, 0)
    assert (chars == -1).all()


def test_cached_windows_are_the_same(tmp_path):
    split = Split.unlabelled(["0"], ["the dog?"], [LONG])
    one = tokenization.tokenize(split, TOKENIZER, 48, str(tmp_path), stride=5)
    two = tokenization.tokenize(split, TOKENIZER, 48, str(tmp_path), stride=5)
    other = tokenization.tokenize(split, TOKENIZER, 48, str(tmp_path), stride=20)
    pair = tokenization.tokenize(split, TOKENIZER, 48, str(tmp_path))
    for name in ("token_ids", "slot_token", "slot_offsets", "row_offsets", "slot_chars", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one) != len(other) and len(pair) == 1 and pair.truncated == 1
    assert len(list(tmp_path.glob("tokens/*.npz"))) == 3
