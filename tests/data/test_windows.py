"""Long texts in windows: every word once, in order, where it has the most context; short texts are one window."""

import json

import numpy as np
import pytest
import roberta_files
from hypothesis import given
from hypothesis import strategies as st

from fjt.data import tokenization, windows
from fjt.data.synthetic import VOCAB
from fjt.interop import hf
from fjt.models.roberta import ROBERTA

TOKENIZER = tokenization.load_tokenizer(str(VOCAB))
WORDS = ("the", "dog", "runs", "unseenword", "birds", "\x01", ".")


@given(st.integers(1, 90), st.integers(4, 30))
def test_windows_cover_a_text_and_are_full(count, room):
    starts = windows.starts_of(count, room)
    covered = {token for start in starts for token in range(start, min(start + room, count))}
    assert covered == set(range(count)) and starts[0] == 0
    assert len(starts) == 1 or (starts[-1] == count - room and (np.diff(starts) > 0).all())


@given(st.integers(1, 90), st.integers(4, 30))
def test_a_token_is_in_the_window_with_most_context(count, room):
    starts = windows.starts_of(count, room)
    found = windows.window_of(np.arange(count), starts, room, count)
    for token, window in enumerate(found):
        seen = []
        for start in starts:
            inside = start <= token < start + room
            before = token - start if start else count  # the beginning of the text takes no context away
            after = start + room - 1 - token if start + room < count else count
            seen.append(min(before, after) if inside else -1)
        assert seen[window] == max(seen) >= 0
    assert (np.diff(found) >= 0).all()


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), min_size=1, max_size=4))
def test_every_word_has_one_slot_at_its_first_token(texts):
    examples = windows.tokenize(texts, TOKENIZER, 12)
    assert (examples.lengths <= 12).all() and (np.diff(examples.slot_offsets) > 0).all()
    assert len(examples.slot_token) == sum(map(len, texts)) == len(examples.label)
    owner = np.repeat(np.arange(len(examples)), np.diff(examples.slot_offsets))
    first = examples.token_ids[examples.offsets[owner] + examples.slot_token]
    words = [word for text in texts for word in text]
    for word, token in zip(words, first, strict=True):
        pieces = TOKENIZER.backend_tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids
        assert token == (pieces[0] if pieces else TOKENIZER.cls_token_id)
    starts, ends = examples.token_ids[examples.offsets[:-1]], examples.token_ids[examples.offsets[1:] - 1]
    assert set(starts) == {TOKENIZER.cls_token_id} and set(ends) == {TOKENIZER.sep_token_id}


def test_short_texts_are_what_the_tokenizer_makes_of_them():
    texts = [["the", "dog", "runs", "."], ["birds"]]
    examples = windows.tokenize(texts, TOKENIZER, 64)
    assert examples.row_offsets.tolist() == [0, 1, 2]
    for row, words in enumerate(texts):
        expected = TOKENIZER.backend_tokenizer.encode(words, is_pretokenized=True).ids
        assert examples.token_ids[examples.offsets[row] : examples.offsets[row + 1]].tolist() == expected


def test_a_document_of_three_thousand_words_is_read_in_windows():
    text = [f"{word}" for word in ("the", "dog", "runs") for _ in range(1000)]
    examples = windows.tokenize([text], TOKENIZER, 128)
    assert (
        examples.row_offsets.tolist() == [0, len(examples)]
        and len(examples) > 3000 / 126
        and len(examples.slot_token) == 3000
    )
    first = np.array([TOKENIZER.backend_tokenizer.encode([word], is_pretokenized=True).ids[1] for word in text])
    owner = np.repeat(np.arange(len(examples)), np.diff(examples.slot_offsets))
    np.testing.assert_array_equal(examples.token_ids[examples.offsets[owner] + examples.slot_token], first)


@pytest.mark.parametrize("room", [1, 3])
def test_windows_of_few_tokens_go_on(room):
    assert windows.starts_of(5, room).tolist() == list(range(0, 6 - room, max(1, room)))[:5] or room == 3


def test_a_byte_level_tokenizer_of_words_is_the_exported_one(tmp_path):
    """Words with blanks and special tokens in them too: PyTorch gives an export's users the same tokens."""
    import transformers

    roberta_files.write_byte_level(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(roberta_files.config()))
    tokenizer = tokenization.load_tokenizer(str(tmp_path), ROBERTA.tokenizer)
    hf.save_tokenizer(str(tmp_path / "export"), tokenizer, 32, words=True)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    words = ["hello", "<mask>", " good", "a<mask>b", "</s>", "x"]
    ids = windows.tokenize([words], tokenizer, 32).token_ids.tolist()
    assert ids == exported(words, is_split_into_words=True)["input_ids"]
    assert ids == windows.tokenize([words], exported, 32).token_ids.tolist()
    assert not tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space, "the run's own is as it was"


def test_a_long_text_takes_time_and_memory_in_proportion():
    count, room = 400_000, 100
    starts = windows.starts_of(count, room)
    found = windows.window_of(np.arange(count), starts, room, count)
    assert (starts[found] <= np.arange(count)).all() and (np.arange(count) < starts[found] + room).all()


def test_each_token_of_a_word_can_have_a_slot():
    rng = np.random.default_rng(5)
    texts = [[str(word) for word in rng.choice(["abc", "the", "bcda"], n)] for n in (3, 40, 1)] + [["​", "abc"]]
    first, every = (windows.tokenize(texts, TOKENIZER, 14, every=every) for every in (False, True))
    assert first.token_ids.tolist() == every.token_ids.tolist()
    assert first.row_offsets.tolist() == every.row_offsets.tolist() and first.row_offsets[2] > 2
    for row, words in enumerate(texts):
        slots = slice(every.row_slots[row], every.row_slots[row + 1])
        numbers = every.label[slots].tolist()
        assert first.label[first.row_slots[row] : first.row_slots[row + 1]].tolist() == list(range(len(words)))
        assert numbers == sorted(numbers) and set(numbers) == set(range(len(words)))
    for window in range(len(every)):
        one, all_ = (
            dict.fromkeys(made.slot_token[made.slot_offsets[window] : made.slot_offsets[window + 1]].tolist())
            for made in (first, every)
        )
        assert one.keys() <= all_.keys()
    spelled = windows.tokenize([["abc", "the"]], TOKENIZER, 14, every=True)
    pieces = TOKENIZER.backend_tokenizer.encode(["abc", "the"], is_pretokenized=True, add_special_tokens=False)
    assert spelled.label.tolist() == pieces.word_ids and spelled.slot_token.tolist() == [
        1 + at for at in range(len(pieces.ids))
    ]
    assert len(pieces.ids) > 2
