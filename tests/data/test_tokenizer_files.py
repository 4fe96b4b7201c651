"""Each file of a tokenizer that is damaged, or of another form, is named before anything reads it."""

import json
import pathlib
import shutil

import pytest

from fjt.core.errors import UserError
from fjt.data import tokenization, tokenizer_files
from fjt.data.tokenization import load_tokenizer

VOCAB = pathlib.Path(tokenization.__file__).with_name("vocab.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory with every file that a BERT's tokenizer may have."""
    folder = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer(str(VOCAB)).save_pretrained(folder)
    shutil.copy(VOCAB, folder / "vocab.txt")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("truncation_side", "middle"),
        ("truncation_side", None),
        ("padding_side", ["left"]),
        ("model_input_names", "input_ids"),
        ("model_input_names", [1]),
        ("do_lower_case", "yes"),
        ("do_lower_case", 1),
        ("strip_accents", {}),
        ("tokenize_chinese_chars", "no"),
        ("tokenizer_class", ["BertTokenizer"]),
        ("auto_map", {"AutoTokenizer": ["own.Own", None]}),
        ("model_max_length", "512"),
        ("model_max_length", -1),
        ("cls_token", 5),
        ("sep_token", ["[SEP]"]),
        ("pad_token", True),
        ("never_split", 3),
        ("added_tokens_decoder", [1]),
    ],
)
def test_a_value_of_another_type_names_the_file_and_the_key(whole, tmp_path, key, value):
    folder = shutil.copytree(whole, tmp_path / "m")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {key: value}))
    with pytest.raises(UserError, match=rf"m/tokenizer_config\.json: {key}="):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"model": null}'),
        ("tokenizer.json", b'{"model": {"type": "WordPiece", "vocab": {}}}'),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}, "added_tokens": ["a"]}'),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b"\xff\xfe{}"),
        ("tokenizer_config.json", b"null"),
        ("tokenizer_config.json", b'{"a": '),
        ("special_tokens_map.json", b'["[CLS]"]'),
        ("special_tokens_map.json", b'{"cls_token": 1}'),
        ("added_tokens.json", b'{"x": "1"}'),
        ("vocab.json", b'{"x": -1}'),
        ("vocab.txt", b"\xff\x00" * 50),
        ("vocab.txt", b"[PAD]\n\x00\n"),
        ("merges.txt", b"a \xe9\n"),
    ],
)
def test_a_damaged_file_is_named(whole, tmp_path, file, data):
    folder = shutil.copytree(whole, tmp_path / "m")
    (folder / file).write_bytes(data)
    with pytest.raises(UserError, match=rf"m/{file}"):
        load_tokenizer(str(folder))


def test_a_vocabulary_alone_is_checked_as_well(tmp_path):
    (tmp_path / "own.txt").write_bytes(VOCAB.read_bytes() + b"\x00\n")
    with pytest.raises(UserError, match=r"own\.txt is not a vocabulary: it holds NUL"):
        load_tokenizer(str(tmp_path / "own.txt"))


def test_a_whole_directory_is_read_and_unknown_keys_are_listed(whole, tmp_path):
    assert len(load_tokenizer(str(whole))) == len(load_tokenizer(str(VOCAB)))
    assert tokenizer_files.unread_keys(str(whole)) == ""
    folder = shutil.copytree(whole, tmp_path / "m")
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left", "sp_model_kwargs": {}, "none": null}')
    assert tokenizer_files.unread_keys(str(folder)).endswith("keys that fjt does not read: sp_model_kwargs")
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "type": "Unheard"}}')
    with pytest.raises(UserError, match="No tokenizer could be read from"):
        load_tokenizer(str(folder))


def test_a_tokenizer_without_special_tokens_or_with_random_tokens_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "m")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    pipeline = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(pipeline | {"post_processor": None}))
    with pytest.raises(UserError, match=r"adds no \[CLS\]"):
        load_tokenizer(str(folder))
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "ab"])}
    bpe = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "unk_token": "[UNK]", "dropout": 0.1}
    (folder / "tokenizer.json").write_text(json.dumps(pipeline | {"model": bpe}))
    with pytest.raises(UserError, match=r"model\.dropout=0\.1"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text(json.dumps(pipeline | {"model": bpe | {"dropout": None}}))
    load_tokenizer(str(folder))
