"""Choices against PyTorch's multiple choice: logits, loss, gradients, and the exports of whole runs."""

import json

import numpy as np
import pytest
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import check_gradients, packed, with_head

from configs import choice as config
from fjt.core import settings
from fjt.data import tokenization
from fjt.data.glue import Split, Task
from fjt.data.synthetic import load
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.experiment.run_records import read_predictions
from fjt.tasks.multiple_choice import MULTIPLE_CHOICE

TEXTS = load("paraphrase")["dev"].text[:24]
CHOICES = [(TEXTS[i], TEXTS[i - 1], TEXTS[i - 2]) for i in range(24)]
LABEL = np.arange(24) % 3
TASK = Task("t", "multiple_choice", ("0", "1", "2"), ("accuracy",))


def torch_inputs(tokenizer):
    pairs = [(text, choice) for text, row in zip(TEXTS, CHOICES, strict=True) for choice in row]
    first, second = map(list, zip(*pairs, strict=True))
    inputs = tokenizer(first, second, padding=True, return_tensors="pt")
    return {name: array.reshape(len(TEXTS), 3, -1) for name, array in inputs.items()}


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_logits_loss_and_gradients(family, tmp_path):
    torch.manual_seed(0)
    theirs = transformers.AutoModelForMultipleChoice.from_config(RANDOM[family](tmp_path)).eval()
    with torch.no_grad():
        theirs.classifier.weight.normal_(0, 0.5)
    model, params, tokenizer = with_head(theirs, tmp_path, 1, "choice")
    split = Split(tuple(map(str, LABEL)), TEXTS, None, LABEL, choices=tuple(CHOICES))
    examples = MULTIPLE_CHOICE.targets(split, tokenization.tokenize(split, tokenizer, 64), TASK)
    batch, places = packed(examples, model)
    expected = theirs(**torch_inputs(tokenizer), labels=torch.tensor(LABEL))
    found = np.zeros(len(examples.slot_token), np.float32)
    found[places.slots[1]] = np.asarray(model.apply(params, batch)).reshape(-1)[places.slots[0]]
    np.testing.assert_allclose(found.reshape(24, 3), expected.logits.detach().numpy(), atol=1e-4, rtol=0)
    assert np.ptp(found) > 0.1
    expected.loss.backward()
    check_gradients(MULTIPLE_CHOICE, model, params, batch, theirs, expected.loss.item())


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_bert, "lora"), (write_roberta, "bitfit")])
def test_an_export_computes_in_pytorch_what_the_run_computed(write, method, tmp_path):
    (tmp_path / "base").mkdir()
    torch.manual_seed(3)
    transformers.AutoModel.from_config(write(tmp_path / "base")).save_pretrained(tmp_path / "base")
    rows = zip(TEXTS, CHOICES, LABEL.tolist(), strict=True)
    lines = [json.dumps({"text": text, "choices": row, "label": label}) for text, row, label in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    made = config.get_config()
    made.data.files.train = made.data.files.dev = str(tmp_path / "rows.jsonl")
    made.data.columns.text, made.data.columns.text_pair, made.data.columns.choices = "text", "", ("choices",)
    made.model.path, made.model.max_length, made.model.dtype = str(tmp_path / "base"), 64, "float32"
    made.train.batch_size, made.train.steps, made.tune.method = 8, 2, (method,)
    made.optim.learning_rate, made.optim.warmup_fraction = 1e-2, 0.0
    made.cache.dir, made.output.curve = str(tmp_path / "cache"), False
    workdir.own(str(tmp_path / "run"))
    run(prepare(settings.from_config(made)), str(tmp_path / "run"))
    expected = read_predictions(str(tmp_path / "run"), "dev")["logits"].values.reshape(24, 3)
    folder = tmp_path / "run" / "export" / ("merged" if method == "lora" else "")
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(**torch_inputs(transformers.AutoTokenizer.from_pretrained(folder))).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1e-3
