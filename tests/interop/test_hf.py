"""Exported directories: what their config.json and tokenizer files say, read back by fjt and by transformers."""

import dataclasses
import json

import numpy as np
import outside_family
import pytest
import roberta_files
import small
import transformers

from fjt.core.errors import UserError
from fjt.data import tokenization
from fjt.data.glue import Split, Task
from fjt.data.synthetic import VOCAB
from fjt.interop import hf
from fjt.models import config_json, families
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig

UNUSUAL = EncoderConfig(
    family="bert", layers=3, width=24, heads=6, inner=40, vocab=77, positions=19, types=3, epsilon=1e-7,
    activation="relu", stddev=0.3, dropout_hidden=0.2, dropout_attention=0.3, dropout_classifier=0.4,
)  # fmt: skip
TASKS = {
    "regression": Task("t", "regression", (), ("spearman",)),
    "two classes": Task("t", "classification", ("no", "yes"), ("accuracy",)),
    "three classes": Task("t", "classification", ("c", "a", "b"), ("accuracy",)),
    "several labels": Task("t", "multi_label", ("x", "y", "z", "w"), ("micro_f1",)),
}
TYPES = {
    "regression": "regression", "two classes": "single_label_classification",
    "three classes": "single_label_classification", "several labels": "multi_label_classification",
}  # fmt: skip
TEXTS = ("the film was long and the actors were good", "good", "the [SEP] film")
PAIRS = ("the actors were bad and the story was slow", "the film was not good", "[CLS] bad [PAD]")


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert"])
def test_every_entry_of_a_config_returns(family, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    monkeypatch.setattr(config_json, "FAMILIES", families.FAMILIES)
    outside_family.register_distilbert()
    changes = {
        "bert": {},
        "roberta": {"first_position": 6},
        "xlm-roberta": {"first_position": 2, "types": 1},
        "distilbert": {"types": 0, "epsilon": 1e-12},
    }
    config = dataclasses.replace(UNUSUAL, family=family, **changes[family])
    raw = json.loads(json.dumps(find_family(family).describe(config)))
    assert config_json.parse_config(raw, "config.json") == config


@pytest.mark.parametrize("kind", TASKS)
def test_transformers_reads_the_run_s_labels(kind, tmp_path):
    task, tokenizer = TASKS[kind], tokenization.load_tokenizer(VOCAB)
    (tmp_path / "config.json").write_text(json.dumps(hf.describe(small.CONFIG, task, tokenizer)))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    names = task.label_names or ("score",)
    assert (config.num_labels, config.problem_type) == (len(names), TYPES[kind])
    assert config.id2label == dict(enumerate(names)) and config.label2id == {n: i for i, n in enumerate(names)}


def bert(change, folder):
    """A BERT tokenizer with other entries in its tokenizer_config.json."""
    tokenization.load_tokenizer(VOCAB).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def roberta(change, folder):
    """A RoBERTa tokenizer with other entries in its tokenizer_config.json."""
    roberta_files.write_byte_level(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"} | change))


def unigram(change, folder):
    """An XLM-R tokenizer with other entries in its tokenizer_config.json."""
    roberta_files.write_unigram(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


TOKENIZERS = {
    "BERT": (bert, {}, 2),
    "cut on the left": (bert, {"truncation_side": "left"}, 2),
    "padded on the left": (bert, {"padding_side": "left"}, 2),
    "a model of one type": (bert, {}, 1),
    "a model without types": (bert, {}, 0),
    "no types": (bert, {"model_input_names": ["input_ids", "attention_mask"]}, 2),
    "mask alone": (bert, {"model_input_names": ["input_ids"], "truncation_side": "left"}, 2),
    "DistilBERT's class": (bert, {"tokenizer_class": "DistilBertTokenizer"}, 2),
    "the general class": (bert, {"tokenizer_class": "PreTrainedTokenizerFast"}, 2),
    "another length": (bert, {"model_max_length": 5}, 2),
    "special tokens of texts split": (bert, {"split_special_tokens": True}, 2),
    "cased": (bert, {"do_lower_case": False}, 2),
    "RoBERTa": (roberta, {}, 2),
    "RoBERTa, with a space before and cut on the left": (
        roberta,
        {"add_prefix_space": True, "truncation_side": "left"},
        2,
    ),
    "XLM-R": (unigram, {}, 2),
    "XLM-R, cut on the left": (unigram, {"truncation_side": "left"}, 2),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_an_exported_tokenizer_gives_the_run_s_tokens_types_and_cuts(case, tmp_path):
    write, change, types = TOKENIZERS[case]
    for name in ("base", "export"):
        (tmp_path / name).mkdir()
    write(change, tmp_path / "base")
    files = tuple(group for family in families.FAMILIES.values() for group in family.tokenizer)
    tokenizer = tokenization.load_tokenizer(str(tmp_path / "base"), files)
    tokenization.fit_types(tokenizer, types, "base")
    hf.save_tokenizer(str(tmp_path / "export"), tokenizer, 9)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    for pairs in (None, PAIRS):
        found = theirs(list(TEXTS), None if pairs is None else list(pairs), truncation=True, padding=True)
        ours = tokenization.tokenize(Split(("0", "1", "2"), TEXTS, pairs, np.zeros(3, np.int32)), tokenizer, 9)
        assert ours.truncated and ours.lengths.max() == 9
        for e in range(len(TEXTS)):
            own, length = slice(ours.offsets[e], ours.offsets[e + 1]), sum(found["attention_mask"][e])
            assert found["input_ids"][e][:length] == ours.token_ids[own].tolist()
            assert found.get("token_type_ids", [[0] * 9] * 3)[e][:length] == ours.type_ids[own].tolist()
    assert tokenization.tokenizer_sha256(theirs) == tokenization.tokenizer_sha256(tokenizer)


def test_types_beyond_the_model_s_are_refused(tmp_path):
    tokenizer = tokenization.load_tokenizer(VOCAB)
    bert({}, tmp_path)
    file = tmp_path / "tokenizer.json"
    pipeline = json.loads(file.read_text())
    for part in pipeline["post_processor"]["pair"][3:]:
        next(iter(part.values()))["type_id"] = 4
    file.write_text(json.dumps(pipeline))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), model_input_names=["token_type_ids"])
    with pytest.raises(UserError, match="gives the token type 4, but the model's type_vocab_size is 4"):
        tokenization.fit_types(tokenizer, 4, "there")
    tokenization.fit_types(tokenizer, 5, "there")
