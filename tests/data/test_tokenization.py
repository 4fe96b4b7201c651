"""Tokenization with the model's own tokenizer, its cache, and what it refuses."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB
from fjt.data.synthetic import load as load_synthetic


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.load_tokenizer(VOCAB)


def split_of(texts, pairs=None):
    ids = tuple(str(i) for i in range(len(texts)))
    return Split(ids, tuple(texts), None if pairs is None else tuple(pairs), np.arange(len(texts), dtype=np.int32) % 2)


def words(n, tokenizer, word="the"):
    assert len(tokenizer.tokenize(word)) == 1
    return " ".join([word] * n)


def same(one, two):
    assert one.truncated == two.truncated
    for name in ("token_ids", "type_ids", "offsets", "label"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_single_sentences_and_pairs_by_hand(tokenizer):
    the, cls, sep = (tokenizer.convert_tokens_to_ids(t) for t in ("the", "[CLS]", "[SEP]"))
    single = tokenization.tokenize(split_of(["the the", "The"]), tokenizer, 16)
    assert single.token_ids.tolist() == [cls, the, the, sep, cls, the, sep]
    assert single.offsets.tolist() == [0, 4, 7] and not single.type_ids.any()
    assert (single.token_ids.dtype, single.type_ids.dtype, single.offsets.dtype) == (np.int32, np.int8, np.int64)
    pair = tokenization.tokenize(split_of(["the the"], ["the"]), tokenizer, 16)
    assert pair.token_ids.tolist() == [cls, the, the, sep, the, sep]
    assert pair.type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert pair.label.tolist() == [0] and pair.truncated == 0


def test_the_longest_text_is_cut_first(tokenizer):
    texts = [(9, 2), (2, 9), (6, 6), (3, 3)]
    split = split_of([words(a, tokenizer) for a, _ in texts], [words(b, tokenizer) for _, b in texts])
    examples = tokenization.tokenize(split, tokenizer, 11)  # 8 words beside [CLS] and two [SEP]
    kept = []
    for n in range(len(texts)):
        types = examples.type_ids[examples.offsets[n] : examples.offsets[n + 1]]
        kept.append((int((types == 0).sum()) - 2, int((types == 1).sum()) - 1))
    assert kept == [(6, 2), (2, 6), (4, 4), (3, 3)]
    assert examples.truncated == 3


def test_single_texts_are_cut_and_counted(tokenizer):
    split = split_of([words(n, tokenizer) for n in (1, 6, 7, 50)])
    examples = tokenization.tokenize(split, tokenizer, 8)
    assert examples.lengths.tolist() == [3, 8, 8, 8] and examples.truncated == 2
    sep = tokenizer.sep_token_id
    assert all(examples.token_ids[end - 1] == sep for end in examples.offsets[1:])


def test_parts_of_a_large_split_join(tokenizer, monkeypatch):
    split = load_synthetic("paraphrase")["dev"]
    whole = tokenization.tokenize(split, tokenizer, 24)
    done = []
    monkeypatch.setattr(tokenization, "CHUNK", 100)
    same(tokenization.tokenize(split, tokenizer, 24, progress=done.append), whole)
    assert done[:2] == [100, 200] and done[-1] == len(split)


def test_a_length_without_room_for_a_text_is_refused(tokenizer):
    assert tokenization.tokenize(split_of(["the the"]), tokenizer, 3).lengths.tolist() == [3]
    with pytest.raises(UserError, match=r"max_length=3 leaves no room .* adds 3 tokens to each pair\. Give at least 4"):
        tokenization.tokenize(split_of(["the"], ["the"]), tokenizer, 3)


def cache_files(folder):
    return [os.path.join(folder, "tokens", name) for name in os.listdir(os.path.join(folder, "tokens"))]


@pytest.fixture
def cached(tmp_path, tokenizer):
    """(split, the Examples of a miss, the one cache file)."""
    split = split_of([words(n, tokenizer) for n in (1, 6, 9)], ["the", "the the", ""])
    first = tokenization.tokenize(split, tokenizer, 8, str(tmp_path))
    (file,) = cache_files(tmp_path)
    return split, first, file


def refuse(*arguments):
    raise AssertionError("tokenized again")


def test_a_hit_equals_a_miss(cached, tokenizer, tmp_path, monkeypatch):
    split, first, _ = cached
    same(tokenization.tokenize(split, tokenizer, 8), first)
    monkeypatch.setattr(tokenization, "_tokenize", refuse)
    same(tokenization.tokenize(split, tokenizer, 8, str(tmp_path)), first)


def test_labels_are_not_cached(cached, tokenizer, tmp_path, monkeypatch):
    split, _, _ = cached
    monkeypatch.setattr(tokenization, "_tokenize", refuse)
    other = Split(split.id, split.text, split.text_pair, 1 - split.label)
    found = tokenization.tokenize(other, tokenizer, 8, str(tmp_path))
    np.testing.assert_array_equal(found.label, other.label)


def test_what_changes_tokens_misses(cached, tokenizer, tmp_path):
    split, _, _ = cached
    others = [
        (split, tokenizer, 9),
        (Split(split.id, ("the", *split.text[1:]), split.text_pair, split.label), tokenizer, 8),
        (Split(split.id, split.text, None, split.label), tokenizer, 8),
        (Split(split.id, split.text_pair, split.text, split.label), tokenizer, 8),
    ]
    hashes = set()
    for n, (changed, used, max_length) in enumerate(others):
        tokenization.tokenize(changed, used, max_length, str(tmp_path))
        hashes |= set(cache_files(tmp_path))
        assert len(hashes) in (n + 1, n + 2)
    assert len(cache_files(tmp_path)) == 1 + len(others) - (split.text[0] == "the")


JOINED = {
    "a NUL in a text": (["the\0a", "cat"], ["the", "a\0cat"], ["the", "a", "cat"]),
    "a text for its bytes": (["the 1 a"], ["the", "a"], ["the 1 ", "a"]),
    "control characters": (["the\1a"], ["the", "a"], ["the\1", "a"], ["", "the\1a"]),
    "empty texts": (["", "the"], ["the", ""], ["the"], ["", "", "the"]),
}


@pytest.mark.parametrize("case", JOINED)
def test_texts_that_join_to_the_same_bytes_are_cached_apart(case, tokenizer, tmp_path):
    splits = [split_of(texts, pairs) for texts in JOINED[case] for pairs in (None, texts[::-1], [""] * len(texts))]
    for split in splits * 2:  # misses, then hits
        same(tokenization.tokenize(split, tokenizer, 8, str(tmp_path)), tokenization.tokenize(split, tokenizer, 8))
    assert len(cache_files(tmp_path)) == len({(split.text, split.text_pair) for split in splits})


def damage(data):
    """Ways in which a file goes wrong."""
    yield "empty", b""
    yield "cut", data[: len(data) // 2]
    yield "cut by one", data[:-1]
    yield "text", b"not a zip file, nor an array"
    yield "zeros", bytes(len(data))
    for place in range(0, len(data), max(1, len(data) // 150)):
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        yield f"byte {place}", bytes(flipped)


@pytest.mark.parametrize("name", ["token_ids", "type_ids", "offsets"])
def test_a_whole_cache_file_whose_arrays_do_not_fit_is_made_anew(cached, tokenizer, tmp_path, name):
    split, first, file = cached
    arrays = dict(np.load(file))
    np.savez(file, **(arrays | {name: arrays[name][:-1]}))
    same(tokenization.tokenize(split, tokenizer, 8, str(tmp_path)), first)


def test_a_damaged_cache_file_is_made_anew(cached, tokenizer, tmp_path):
    split, first, file = cached
    with open(file, "rb") as f:
        data = f.read()
    wrong = []
    for name, broken in damage(data):
        with open(file, "wb") as f:
            f.write(broken)
        try:
            same(tokenization.tokenize(split, tokenizer, 8, str(tmp_path)), first)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}")
            os.remove(file)
    assert not wrong
    assert cache_files(tmp_path) == [file]


def test_vocabulary_must_fit_the_model(tokenizer):
    size = len(tokenizer)
    tokenization.check_vocabulary(tokenizer, size, "there")
    with pytest.raises(UserError, match=rf"there has ids up to {size - 1}, but the model's vocab_size is {size - 1}"):
        tokenization.check_vocabulary(tokenizer, size - 1, "there")


def test_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"No tokenizer could be read from .*tokenizer\.json or vocab\.txt"):
        tokenization.load_tokenizer(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nthe\n")
    with pytest.raises(UserError, match="sep_token"):
        tokenization.load_tokenizer(str(tmp_path / "vocab.txt"))


def test_the_tokenizer_s_hash_is_of_what_it_does(tokenizer, tmp_path):
    sha = tokenization.tokenizer_sha256(tokenizer)
    tokenizer("the", truncation=True, max_length=4, padding="max_length")
    assert tokenization.tokenizer_sha256(tokenizer) == sha
    assert tokenization.tokenizer_sha256(tokenization.load_tokenizer(VOCAB)) == sha
    lines = Path(VOCAB).read_text(encoding="utf-8").split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join([*lines[:-2], "zzz", ""]))
    assert tokenization.tokenizer_sha256(tokenization.load_tokenizer(str(tmp_path / "vocab.txt"))) != sha


def cut_left(tokenizer):
    tokenizer.truncation_side = "left"


def split_special(tokenizer):
    tokenizer.backend_tokenizer.encode_special_tokens = True


def one_type(tokenizer):
    tokenization.fit_types(tokenizer, 1, "there")


@pytest.mark.parametrize("change", [cut_left, split_special, one_type])
def test_what_a_pipeline_does_not_hold_is_in_the_hash_and_in_the_cache_s_key(change, tokenizer, tmp_path):
    split, other = split_of(["the [SEP] film and"], ["was not good at all"]), tokenization.load_tokenizer(VOCAB)
    change(other)
    assert tokenization.tokenizer_sha256(other) != tokenization.tokenizer_sha256(tokenizer)
    first = tokenization.tokenize(split, tokenizer, 8, str(tmp_path))
    second = tokenization.tokenize(split, other, 8, str(tmp_path))
    same(second, tokenization.tokenize(split, other, 8))
    assert (first.token_ids.tolist(), first.type_ids.tolist()) != (second.token_ids.tolist(), second.type_ids.tolist())


def test_types_are_dropped_only_where_texts_differ_by_them(tokenizer):
    assert tokenization.gives_types(tokenizer) and not tokenization.drops_types(tokenizer)
    one = tokenization.load_tokenizer(VOCAB)
    one_type(one)
    assert tokenization.drops_types(one)
    assert not tokenization.tokenize(split_of(["the"], ["the"]), one, 8).type_ids.any()


def test_data_sha256_is_over_ids_and_labels(tokenizer):
    split = split_of(["the", "the the"])
    examples = {"dev": tokenization.tokenize(split, tokenizer, 8)}
    sha = tokenization.data_sha256(examples, {})
    digest = hashlib.sha256(b"dev")
    for array in (examples["dev"].token_ids, examples["dev"].offsets, examples["dev"].label):
        digest.update(array.tobytes())
    assert sha == digest.hexdigest()
    flipped = Split(split.id, split.text, None, 1 - split.label)
    assert tokenization.data_sha256({"dev": tokenization.tokenize(flipped, tokenizer, 8)}, {}) != sha
    assert tokenization.data_sha256({"test": examples["dev"]}, {}) != sha
    answers = np.array(["a", "b"], np.dtypes.StringDType())
    assert len({sha, *(tokenization.data_sha256(examples, {"dev": rows}) for rows in (answers, answers[::-1]))}) == 3


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    """transformers would make up one of five tokens, and all text would be unknown."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"none of tokenizer\.json, vocab\.txt"):
        tokenization.load_tokenizer(str(tmp_path))


def test_a_vocabulary_that_is_cut_off_is_refused():
    tokenizer = tokenization.load_tokenizer(VOCAB)
    tokenization.check_vocabulary(tokenizer, len(tokenizer), "here")
    with pytest.raises(UserError, match="cut off"):
        tokenization.check_vocabulary(tokenizer, 3 * len(tokenizer), "here")


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "BertweetTokenizer", "TapasTokenizer"])
def test_a_tokenizer_without_a_fast_one_is_refused(name, tmp_path):
    """Whether it is written in Python or needs a package that is not installed: a sentence with the directory."""
    Path(tmp_path / "vocab.txt").write_text(Path(VOCAB).read_text())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{name}", "word_tokenizer_type": "basic"}}')
    with pytest.raises(UserError, match=f"tokenizer.*{tmp_path}"):
        tokenization.load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "Magic"}}', "\0"])
def test_a_damaged_tokenizer_is_refused(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=f"{tmp_path}/tokenizer.json"):
        tokenization.load_tokenizer(str(tmp_path))
