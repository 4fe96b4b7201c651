"""Documents of plain texts and their blocks."""

import json

import numpy as np
import pytest
import tokenizers
import transformers

from fjt.core.errors import UserError
from fjt.data import documents, tables, tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB

TOKENIZER = tokenization.load_tokenizer(VOCAB)
SPECIAL = set(TOKENIZER.all_special_ids)
WORDS = [w for w in TOKENIZER.get_vocab() if w.isalpha() and len(w) > 2][:40]


def test_empty_lines_end_a_document():
    lines = ["\n", " one two\n", "three\n", " \t\n", "\n", "four\n", "\n"]
    assert list(documents.read(lines)) == [(2, " one two\nthree"), (6, "four")]
    assert list(documents.read(["last"])) == [(1, "last")] and list(documents.read(["\n"])) == []


def test_a_file_of_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("﻿one\ntwo\n\nthree\n", encoding="utf-8")
    rows = tables.read(str(path), {"text": "text"})
    assert rows.values == {"text": ["one\ntwo", "three"]} and rows.place(1) == f"{path}:4" and rows.numbers == [0, 1]
    with pytest.raises(UserError, match=r"a.txt:1: no column 'label'; there are: text"):
        tables.read(str(path), {"text": "text", "label": "label"})
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"a.txt:1: byte 4 of the line \(0xe9\) is not UTF-8"):
        tables.read(str(path), {"text": "text"})


def test_every_token_is_in_one_block_and_can_be_masked_once():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, n)) for n in (3, 50, 1, 200, 18)]
    made = documents.tokenize(texts, TOKENIZER, 20)
    assert made.lengths.max() == 20 and made.row_offsets[-1] == len(made) == len(made.slot_offsets) - 1
    for row, text in enumerate(texts):
        whole = TOKENIZER.encode(text, add_special_tokens=False)
        found, words = [], []
        for block in range(made.row_offsets[row], made.row_offsets[row + 1]):
            tokens = made.token_ids[made.offsets[block] : made.offsets[block + 1]]
            slots = slice(made.slot_offsets[block], made.slot_offsets[block + 1])
            assert tokens[0] == TOKENIZER.cls_token_id and tokens[-1] == TOKENIZER.sep_token_id
            assert made.slot_token[slots].tolist() == list(range(1, len(tokens) - 1))
            found += tokens[1:-1].tolist()
            words += made.label[slots].tolist()
        assert found == whole
        assert words == TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).word_ids


def test_pieces_of_a_word_have_its_number():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "ball", "."]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]"
    )
    made = documents.tokenize(["playings ball.", "play [MASK] zzz balls"], tokenizer, 32)
    assert made.slot_token.tolist() == [1, 2, 3, 4, 5, 1, 4, 5], "neither the mask nor the unknown word"
    assert made.label.tolist() == [0, 0, 0, 1, 2, 0, 3, 3]


def test_texts_without_a_token_have_no_block_and_others_perhaps_no_slot():
    made = documents.tokenize(["​", WORDS[0], "[MASK] [UNK]"], TOKENIZER, 20)
    assert made.row_offsets.tolist() == [0, 0, 1, 2] and np.diff(made.row_slots)[[0, 2]].tolist() == [0, 0]
    nothing = documents.tokenize(["​"], TOKENIZER, 20)
    assert len(nothing) == 0 and len(nothing.token_ids) == len(nothing.slot_token) == 0


def test_a_document_of_a_million_characters():
    text = " ".join(WORDS * 5000)
    assert len(text) > 1e6
    made = documents.tokenize([text], TOKENIZER, 128)
    assert made.row_offsets.tolist() == [0, len(made)] and len(made.slot_token) == len(made.token_ids) - 2 * len(made)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert made.token_ids[~np.isin(made.token_ids, list(SPECIAL))].tolist() == ids


def test_blocks_are_cached_with_their_words(tmp_path):
    split = Split.unlabelled(("0", "1"), (" ".join(WORDS), WORDS[0]))
    first, again = (tokenization.tokenize(split, TOKENIZER, 16, str(tmp_path), documents=True) for _ in range(2))
    for name in ("token_ids", "offsets", "label", "slot_token", "slot_offsets", "row_offsets"):
        assert getattr(first, name).tolist() == getattr(again, name).tolist(), name
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    whole = tokenization.tokenize(split, TOKENIZER, 16, str(tmp_path))
    assert len(whole) == 2 < len(first), "not the tokens of a text that is cut"
    assert json.loads(TOKENIZER.backend_tokenizer.to_str())["truncation"] is None
