"""Exports of whole runs in PyTorch: the logits of AutoModelForSequenceClassification and AutoTokenizer are the run's.

Nothing of the base model's files but its weights and vocabulary may show: its config.json and tokenizer_config.json
have entries that would change the function or the labels.
"""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import write_bert, write_roberta

from fjt.data.synthetic import load
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from tests import configured

LENGTH = 14  # some texts are longer
KINDS = {
    "score": ("regression", lambda i: f"{i % 7 / 3}", ["score"], "regression"),
    "two": ("classification", lambda i: "ny"[i % 2], ["n", "y"], "single_label_classification"),
    "three": ("classification", lambda i: "cab"[i % 3], ["a", "b", "c"], "single_label_classification"),
    "several": ("multi_label", lambda i: "u,v,w"[: 2 * (i % 3) + 1], ["u", "v", "w"], "multi_label_classification"),
    "scores": ("multi_regression", lambda i: {"u": i % 7 / 3, "v": i % 5}, ["u", "v"], "regression"),
}
ODD = {
    "num_labels": 5, "id2label": {str(i): f"L{i}" for i in range(5)}, "label2id": {f"L{i}": i for i in range(5)},
    "problem_type": "regression", "architectures": ["BertForMaskedLM"], "_name_or_path": "elsewhere",
    "torch_dtype": "float16", "pad_token_id": 3, "return_dict": False, "output_hidden_states": True,
}  # fmt: skip
BERT = {"type": "bert", "config": {}, "tokenizer": {}, "types": 2}
BASES = {
    "plain": BERT,
    "odd config": BERT | {"config": ODD},
    "no types": BERT | {"tokenizer": {"model_input_names": ["input_ids", "attention_mask"]}},
    "one type": BERT | {"types": 1},
    "cut and padded on the left": BERT | {"tokenizer": {"truncation_side": "left", "padding_side": "left"}},
    "another class and length": BERT | {
        "tokenizer": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 7},
        "config": {"num_labels": 1},
    },
    "roberta": {"type": "roberta", "config": {"num_labels": 4}, "tokenizer": {"truncation_side": "left"}, "types": 1},
}  # fmt: skip
# (kind, pairs, base, method): every kind of labels with texts and pairs, every base with pairs.
RUNS = [
    ("score", False, "odd config", "full"), ("score", True, "one type", "lora"),
    ("two", False, "cut and padded on the left", "lora"), ("two", True, "no types", "full"),
    ("three", False, "another class and length", "full"), ("three", True, "odd config", "full"),
    ("several", False, "odd config", "bitfit"), ("several", True, "cut and padded on the left", "full"),
    ("two", True, "another class and length", "lora"), ("three", True, "roberta", "full"),
    ("two", True, "plain", "layernorm"), ("scores", False, "one type", "bitfit"),
]  # fmt: skip


def write_base(folder, about):
    """A model directory whose files have further entries."""
    folder.mkdir()
    torch.manual_seed(3)
    write = {"bert": write_bert, "roberta": write_roberta}[about["type"]]
    config = write(folder)
    config.type_vocab_size = about["types"]
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        model.embeddings.token_type_embeddings.weight.normal_(0, 1)
    model.save_pretrained(folder)
    for name in ("config", "tokenizer"):
        file = folder / ("config.json" if name == "config" else "tokenizer_config.json")
        entries = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(entries | about[name]))


def write_table(file, kind, pairs):
    """A table of 16 rows, some longer than LENGTH; (texts, second texts or None)."""
    split = load("paraphrase")["dev"]
    texts = [text * (1 + 2 * (i % 5 == 0)) for i, text in enumerate(split.text[:16])]
    others = [text * (1 + 2 * (i % 3 == 0)) for i, text in enumerate(split.text_pair[:16])] if pairs else None
    rows = [
        {"text": text, "label": KINDS[kind][1](i)} | ({"other": others[i]} if pairs else {})
        for i, text in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts, others


def train(tmp_path, kind, pairs, base, method):
    """(work directory, texts, second texts) of a run of two steps."""
    write_base(tmp_path / "base", BASES[base])
    texts, others = write_table(tmp_path / "rows.jsonl", kind, pairs)
    settings = configured.build(
        task="table", data__source="files",
        data__kind=KINDS[kind][0], data__columns__text_pair="other" if pairs else "",
        data__files__train=str(tmp_path / "rows.jsonl"), data__files__dev=str(tmp_path / "rows.jsonl"),
        model__path=str(tmp_path / "base"), model__max_length=LENGTH, model__dtype="float32", train__batch_size=8,
        train__steps=2, train__epochs=None, optim__learning_rate=1e-2, optim__warmup_fraction=0.0,
        tune__method=(method,), cache__dir=str(tmp_path / "cache"), output__curve=False,
    )  # fmt: skip
    folder = str(tmp_path / "run")
    workdir.own(folder)
    run(prepare(settings), folder)
    return tmp_path / "run", texts, others


def torch_logits(model, folder, texts, others):
    """The logits of PyTorch for texts that its tokenizer cuts at its own length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, others, truncation=True, padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == LENGTH
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


@pytest.mark.parametrize(("kind", "pairs", "base", "method"), RUNS)
def test_an_export_computes_in_pytorch_what_the_run_computed(kind, pairs, base, method, tmp_path):
    found, texts, others = train(tmp_path, kind, pairs, base, method)
    with np.load(found / "predictions" / "dev.npz") as arrays:
        expected = arrays["logits"]
    merged = found / "export" / "merged"
    folder = merged if merged.exists() else found / "export"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    _, _, names, problem = KINDS[kind]
    assert (model.config.num_labels, model.config.problem_type) == (len(names), problem)
    assert model.config.id2label == dict(enumerate(names))
    np.testing.assert_allclose(torch_logits(model, folder, texts, others), expected, atol=1e-4, rtol=0)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the texts matter


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("base", "method"), [("no types", "prompt"), ("one type", "lora"), ("plain", "prefix")])
def test_an_adapter_computes_in_peft_what_the_run_computed(base, method, tmp_path):
    found, texts, others = train(tmp_path, "three", True, base, method)
    with np.load(found / "predictions" / "dev.npz") as arrays:
        expected = arrays["logits"]
    labels = dict(enumerate(KINDS["three"][2]))
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", id2label=labels, num_labels=3, torch_dtype="float32"
    )
    folder = found / "export" / "adapter"
    model = peft.PeftModel.from_pretrained(bare, folder)
    np.testing.assert_allclose(torch_logits(model, folder, texts, others), expected, atol=1e-4, rtol=0)
