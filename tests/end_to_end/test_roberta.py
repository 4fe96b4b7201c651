"""Families of encoders from a directory to predictions and exports: RoBERTa, and a family from outside the package."""

import json
import shutil

import pytest
import roberta_files
import safetensors.numpy
from outside_family import DISTILBERT, register_distilbert
from process import predicts_as_it_was, tiny

from fjt.data.synthetic import VOCAB
from fjt.models import families


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A directory with a small pretrained RoBERTa."""
    return roberta_files.write(tmp_path_factory.mktemp("roberta") / "model")


def run(launch, even, base, workdir, method, **options):
    options = dict(tune__method=method, model__path=base, optim__learning_rate=1e-3, train__epochs=1) | options
    hook = options.pop("hook", None)
    return launch(*tiny(even, **options), "--workdir", workdir, hook=hook)


def check_run(workdir, texts):
    """The result of a run whose predictions can be made again from its export."""
    result = json.loads((workdir / "result.json").read_text())
    predicts_as_it_was(workdir, texts)
    return result


def test_a_roberta_is_tuned_in_full(roberta, even, launch, texts, tmp_path):
    done = run(launch, even, roberta, tmp_path / "run", "full")
    assert done.code == 0, done.text
    result = check_run(tmp_path / "run", texts)
    assert result["pooler_params"] == 0 and result["head_params"] == 32 * 32 + 32 + 32 * 2 + 2
    export = tmp_path / "run" / "export"
    assert json.loads((export / "config.json").read_text())["architectures"] == ["RobertaForSequenceClassification"]
    tensors = safetensors.numpy.load_file(export / "model.safetensors")
    assert {"classifier.dense.weight", "classifier.out_proj.bias", "roberta.embeddings.LayerNorm.weight"} <= set(
        tensors
    )
    assert not any("pooler" in name for name in tensors)
    again = launch(*tiny(even, model__path=tmp_path / "run", model__keep_head=True), "--plan")
    assert again.code == 0, again.text


ADAPTERS = [
    ("lora", "peft", "base_model.model.classifier.out_proj.weight"),
    ("pfeiffer", "adapterhub", "roberta.encoder.layer.0.output.adapters.fjt.adapter_down.0.weight"),
    ("prompt", "peft", "prompt_embeddings"),
]


@pytest.mark.parametrize(
    ("method", "form", "tensor"), [ADAPTERS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in ADAPTERS[1:])]
)
def test_a_roberta_s_adapters(method, form, tensor, roberta, even, launch, texts, tmp_path):
    done = run(launch, even, roberta, tmp_path / "run", method, model__max_length=24)
    assert done.code == 0, done.text
    check_run(tmp_path / "run", texts)
    made = launch("--run", tmp_path / "run", "--format", form, "--output", tmp_path / "out", program="fjt.export")
    assert made.code == 0, made.text
    (file,) = (tmp_path / "out").glob("adapter*.safetensors")
    assert tensor in safetensors.numpy.load_file(file)
    about = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    if form == "peft":
        assert about["modules_to_save"] == ["classifier"]
    else:
        assert about["model_class"] == "RobertaForSequenceClassification"
        head = safetensors.numpy.load_file(tmp_path / "out" / "model_head.safetensors")
        assert set(head) == {
            f"classifier.{part}.{leaf}" for part in ("dense", "out_proj") for leaf in ("weight", "bias")
        }
    on = dict(model__path=roberta, model__adapter=tmp_path / "out", tune__method=method, model__max_length=24)
    again = launch(*tiny(even, model__keep_head=True, **on), "--plan")
    assert again.code == 0, again.text


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), {}, ["vocab.json without merges.txt"]),
        (lambda folder: (folder / "merges.txt").write_text("#version: 0.2\n"), {}, ["vocabulary without merges"]),
        (lambda folder: None, {"tune__train_pooler": True}, ["roberta has no pretrained pooler"]),
        (lambda folder: None, {"model__max_length": 65}, ["64 positions"]),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps(roberta_files.config("distilroberta"))),
            {},
            ["model_type 'distilroberta' is not supported, only bert, roberta, xlm-roberta", "roberta"],
        ),
    ],
    ids=["no merges", "empty merges", "no pooler", "too long", "unknown family"],
)
def test_a_roberta_that_cannot_run(change, options, words, roberta, even, launch, tmp_path):
    folder = shutil.copytree(roberta, tmp_path / "model")
    change(folder)
    done = run(launch, even, folder, tmp_path / "run", "lora", **options)
    assert done.code == 2 and "Traceback" not in done.text, done.text
    for word in words:
        assert word in done.text, done.text


def test_a_family_from_outside_trains_predicts_and_exports(even, launch, tmp_path, monkeypatch):
    """Nothing of the package is touched: a file registers the family, the directory's config.json names it."""
    monkeypatch.setitem(families.FAMILIES, DISTILBERT.name, DISTILBERT)
    with open(VOCAB, encoding="utf-8") as file:
        vocab = len(file.read().splitlines())
    raw = {
        "model_type": "distilbert", "vocab_size": vocab, "n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 64,
        "max_position_embeddings": 40,
    }  # fmt: skip

    def write_tokenizer(folder):
        shutil.copy(VOCAB, folder / "vocab.txt")

    base = roberta_files.write(tmp_path / "base", raw, write_tokenizer)
    refused = run(launch, even, base, tmp_path / "run", "lora")
    assert refused.code == 2 and "'distilbert' is not supported" in refused.text  # not known yet
    done = run(launch, even, base, tmp_path / "run", "lora", hook=register_distilbert)
    assert done.code == 0, done.text
    export = tmp_path / "run" / "export"
    config = json.loads((export / "merged" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"] and config["dim"] == 32
    tensors = safetensors.numpy.load_file(export / "merged" / "model.safetensors")
    assert {"distilbert.transformer.layer.1.ffn.lin2.weight", "pre_classifier.weight", "classifier.bias"} <= set(
        tensors
    )
    saved = json.loads((export / "adapter" / "adapter_config.json").read_text())["modules_to_save"]
    assert saved == ["classifier", "pre_classifier"]
    (tmp_path / "new.txt").write_text("a text\nanother one\n")
    arguments = ("--run", tmp_path / "run", "--input", tmp_path / "new.txt", "--output", tmp_path / "out.jsonl")
    done = launch(*arguments, program="fjt.predict", hook=register_distilbert)
    assert done.code == 0, done.text
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
