"""Tags of words against PyTorch's token classification: logits, loss, gradients, and the exports of whole runs."""

import dataclasses

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import FILES, check_gradients, packed

from fjt.core import seeds
from fjt.core.ragged import Ragged
from fjt.data import conll, tokenization, windows
from fjt.data.synthetic import load
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.experiment.run_records import read_predictions
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.tasks.tagging import TAGGING
from tests import configured

NONE, LENGTH = -100, 24
SENTENCES = [text.split() for text in load("paraphrase")["dev"].text[:24]]
TAGS = [["O" if len(word) % 3 else "B-odd" for word in words] for words in SENTENCES]


def torch_inputs(tokenizer, sentences, labels=None):
    """PyTorch's inputs with the label of a word at its first token, and bool[N, L] of the first tokens."""
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    first = np.zeros(inputs["input_ids"].shape, bool)
    for row in range(len(sentences)):
        owners = inputs.word_ids(row)
        first[row] = [owner is not None and owner not in owners[:at] for at, owner in enumerate(owners)]
    if labels is not None:
        inputs["labels"] = torch.full(first.shape, NONE, dtype=torch.long)
        inputs["labels"][torch.tensor(first)] = torch.tensor(labels, dtype=torch.long)
    return inputs, first


@pytest.fixture(params=["bert", "roberta", "xlm-roberta"])
def tagger(request, tmp_path):
    """(directory, PyTorch model, fjt's Model and parameters) of three tags."""
    torch.manual_seed(0)
    config = RANDOM[request.param](tmp_path)
    config.num_labels = 3
    theirs = transformers.AutoModelForTokenClassification.from_config(config).eval()
    with torch.no_grad():
        theirs.classifier.weight.normal_(0, 0.5)
    theirs.save_pretrained(tmp_path)
    checkpoint = pretrained.read_checkpoint(str(tmp_path))
    model = Model(checkpoint.config, 3, one_slot=False, head="token")
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, str(tmp_path), keep_head="token")
    assert loaded.missing == () and loaded.unused == ()
    return str(tmp_path), theirs, model, loaded.params


def test_logits_loss_and_gradients(tagger):
    directory, theirs, model, params = tagger
    tokenizer = tokenization.load_tokenizer(directory, FILES)
    examples = windows.tokenize(SENTENCES, tokenizer, 64)
    label = np.random.default_rng(0).integers(0, 3, len(examples.slot_token)).astype(np.int32)
    label[3:9] = -1
    examples = dataclasses.replace(examples, label=label)
    batch, places = packed(examples, model)
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(directory, add_prefix_space=True)
    inputs, first = torch_inputs(theirs_tokenizer, SENTENCES, np.where(label < 0, NONE, label))
    expected = theirs(**inputs)
    found = np.asarray(model.apply(params, batch)).reshape(-1, 3)[places.slots[0]]
    np.testing.assert_allclose(found, expected.logits.detach().numpy()[first], atol=1e-4, rtol=0)
    expected.loss.backward()
    check_gradients(TAGGING, model, params, batch, theirs, expected.loss.item(), classes=3)


def train(folder, write, method):
    """(work directory, Ragged logits of dev) of a run of two steps; the sentences are one per window."""
    (folder / "base").mkdir()
    torch.manual_seed(3)
    transformers.AutoModel.from_config(write(folder / "base")).save_pretrained(folder / "base")
    file = folder / "rows.conll"
    file.write_text(conll.text(zip(*row, strict=True) for row in zip(SENTENCES, TAGS, strict=True)))
    settings = configured.build(
        task="table", data__source="files", data__kind="entities", data__columns__text="0",
        data__columns__label="1", data__files__train=str(file), data__files__dev=str(file),
        model__path=str(folder / "base"), model__max_length=LENGTH, model__dtype="float32", train__batch_size=8,
        train__steps=2, train__epochs=None, optim__learning_rate=1e-2, optim__warmup_fraction=0.0,
        tune__method=(method,), cache__dir=str(folder / "cache"), output__curve=False,
    )  # fmt: skip
    workdir.own(str(folder / "run"))
    run(prepare(settings), str(folder / "run"))
    logits = read_predictions(str(folder / "run"), "dev")["logits"]
    assert isinstance(logits, Ragged) and logits.lengths.tolist() == list(map(len, SENTENCES))
    return folder / "run", logits


def torch_logits(model, folder):
    inputs, first = torch_inputs(transformers.AutoTokenizer.from_pretrained(folder), SENTENCES)
    assert inputs["input_ids"].shape[1] <= LENGTH, "one window each"
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()[first]


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_bert, "lora"), (write_roberta, "bitfit")])
def test_an_export_computes_in_pytorch_what_the_run_computed(write, method, tmp_path):
    found, expected = train(tmp_path, write, method)
    folder = found / "export" / "merged" if method == "lora" else found / "export"
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "O", 1: "B-odd", 2: "I-odd"}
    np.testing.assert_allclose(torch_logits(model, folder), expected.values, atol=1e-4, rtol=0)
    assert np.ptp(expected.values, axis=0).max() > 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_adapter_computes_in_peft_what_the_run_computed(method, tmp_path):
    found, expected = train(tmp_path, write_bert, method)
    folder = found / "export" / "adapter"
    bare = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "base", id2label={0: "O", 1: "B-odd", 2: "I-odd"}, num_labels=3, torch_dtype="float32"
    )
    model = peft.PeftModel.from_pretrained(bare, folder)
    assert type(model).__name__ == "PeftModelForTokenClassification"
    np.testing.assert_allclose(torch_logits(model, folder), expected.values, atol=1e-4, rtol=0)
