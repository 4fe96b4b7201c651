"""Several tasks on one encoder against PyTorch: logits, loss and gradients, and the model of each task."""

import json

import numpy as np
import pytest
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import check_gradients, packed, with_head

import fjt
from configs import multitask
from fjt.core import settings
from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import load
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.experiment.run_records import read_predictions
from fjt.tasks.kinds import find_problem

TEXTS = load("paraphrase")["dev"].text[:24]
PAIRS = tuple(TEXTS[i - 1] if i < 12 else None for i in range(24))
LABEL = np.stack([np.repeat([0, 1], 12), np.where(np.arange(24) < 12, np.arange(24) % 3, np.linspace(-1, 2, 24))], -1)
PROBLEM = find_problem("same:classification:3:accuracy+grade:regression:1:pearson")


def logits_of(model, tokenizer, rows):
    """The logits of rows, one by one: of a pair or of a single text."""
    with torch.no_grad():
        found = [model(**tokenizer(TEXTS[i], PAIRS[i], return_tensors="pt")).logits[0].numpy() for i in rows]
    return np.array(found)


def test_logits_loss_and_gradients(tmp_path):
    torch.manual_seed(0)
    config = RANDOM["bert"](tmp_path)
    config.num_labels = 4
    theirs = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    model, params, tokenizer = with_head(theirs, tmp_path, 4, "sequence")
    split = Split(tuple(map(str, range(24))), TEXTS, PAIRS, LABEL.astype(np.float32))
    examples = tokenization.tokenize(split, tokenizer, 64)
    batch, places = packed(examples, model)
    found = np.zeros((24, 4), np.float32)
    found[places.slots[1]] = np.asarray(model.apply(params, batch)).reshape(-1, 4)[places.slots[0]]
    hub = transformers.AutoTokenizer.from_pretrained(tmp_path)
    np.testing.assert_allclose(found, logits_of(theirs, hub, range(24)), atol=1e-4, rtol=0)
    assert np.ptp(found) > 0.1
    logits = torch.stack([theirs(**hub(TEXTS[i], PAIRS[i], return_tensors="pt")).logits[0] for i in range(24)])
    same = torch.nn.functional.cross_entropy(logits[:12, :3], torch.tensor(LABEL[:12, 1].astype(int)), reduction="sum")
    grade = torch.nn.functional.mse_loss(logits[12:, 3], torch.tensor(LABEL[12:, 1]).float(), reduction="sum")
    loss = (same + grade) / 24
    loss.backward()
    check_gradients(PROBLEM, model, params, batch, theirs, loss.item(), classes=6)


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_roberta, "lora")])
def test_each_task_becomes_a_model_that_computes_the_same_in_pytorch(write, method, tmp_path):
    (tmp_path / "base").mkdir()
    torch.manual_seed(3)
    transformers.AutoModel.from_config(write(tmp_path / "base")).save_pretrained(tmp_path / "base")
    rows = [
        {"text": text, "label": label if i >= 12 else f"l{label:.0f}"} | ({"other": PAIRS[i]} if i < 12 else {})
        for i, (text, label) in enumerate(zip(TEXTS, LABEL[:, 1].tolist(), strict=True))
    ]
    each, tables = (("same", "columns.text_pair", "other"), ("grade", "kind", "regression")), []
    for name, of_task in (("same", rows[:12]), ("grade", rows[12:])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, of_task)))
        tables += [(name, split, str(path)) for split in ("train", "dev")]
    made = multitask.get_config("same+grade")
    made.data.source, made.data.tables, made.data.each = "files", tuple(tables), each
    made.model.path, made.model.max_length, made.model.dtype = str(tmp_path / "base"), 64, "float32"
    made.train.batch_size, made.train.steps, made.tune.method = 8, 2, (method,)
    made.optim.learning_rate, made.optim.warmup_fraction = 1e-2, 0.0
    made.cache.dir, made.output.curve = str(tmp_path / "cache"), False
    workdir.own(str(tmp_path / "run"))
    run(prepare(settings.from_config(made)), str(tmp_path / "run"))
    expected = read_predictions(str(tmp_path / "run"), "dev")["logits"][:, 1:]
    together = tmp_path / "run" / "export" / ("merged" if method == "lora" else "")
    fjt.load_run(tmp_path / "run").export(tmp_path / "only_same", task="same")
    fjt.load_run(tmp_path / "run").export(tmp_path / "only_grade", task="grade")
    for folder, chosen, columns in (
        (together, range(24), slice(0, 4)),
        (tmp_path / "only_same", range(12), slice(0, 3)),
        (tmp_path / "only_grade", range(12, 24), slice(3, 4)),
    ):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        found = logits_of(model.eval(), transformers.AutoTokenizer.from_pretrained(folder), chosen)
        np.testing.assert_allclose(found, expected[chosen.start : chosen.stop, columns], atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1e-2
