"""Real data and real weights: FJT_SHARED names the folder with data/, FJT_MINILM the model's directory."""

import json
import os

import numpy as np
import pytest
import torch
import transformers

from configs import ag_news, glue
from fjt import main
from fjt.core import console
from fjt.core.settings import from_config
from fjt.experiment.prepare import prepare
from fjt.tasks.classification import f1

SHARED, MINILM = os.environ.get("FJT_SHARED", ""), os.environ.get("FJT_MINILM", "")
pytestmark = pytest.mark.skipif(not (SHARED and MINILM), reason="FJT_SHARED and FJT_MINILM are not set")

ROWS = {
    "sst2": (67349, 872, 1821),
    "cola": (8551, 1043, 1063),
    "mrpc": (3668, 408, 1725),
    "rte": (2490, 277, 3000),
    "stsb": (5749, 1500, 1379),
    "wnli": (635, 71, 146),
}


def settings(module, argument, cache, data):
    config = module.get_config(argument) if argument else module.get_config()
    config.model.path = MINILM
    config.data.source = "files"
    config.data.dir = os.path.join(SHARED, "data", data)
    config.cache.dir = str(cache)
    config.mesh.data = 1
    return from_config(config)


def test_no_padding(tmp_path):
    """At least 0.88 of the computed tokens are real on each task, 0.90 on average, in at most three shapes."""
    efficiency = {}
    for task, rows in ROWS.items():
        experiment = prepare(settings(glue, task, tmp_path, "glue"), view=console.Silent())
        assert tuple(len(experiment.splits[name]) for name in ("train", "dev", "test")) == rows
        plan = experiment.plan
        assert len(plan.shapes) <= 3 and len(plan.shape_of) == experiment.steps
        lengths = experiment.examples["train"].lengths
        assert plan.real_tokens == lengths.sum() * experiment.settings.experiment.train.epochs
        area = np.array([s.groups * s.rows * s.row_length for s in plan.shapes])
        efficiency[task] = plan.real_tokens / area[plan.shape_of].sum()
    print({task: round(value, 4) for task, value in efficiency.items()}, np.mean(list(efficiency.values())))
    assert min(efficiency.values()) >= 0.88
    assert np.mean(list(efficiency.values())) >= 0.90


def test_ag_news_is_a_table_with_four_topics(tmp_path):
    experiment = prepare(settings(ag_news, "", tmp_path, "ag_news"), view=console.Silent())
    assert experiment.task.label_names == ("World", "Sports", "Business", "Sci/Tech")
    assert len(experiment.splits["test"]) == 7600
    assert len(experiment.splits["train"]) + len(experiment.splits["dev"]) == 19087


def test_run_on_mrpc_loads_in_pytorch(tmp_path):
    """A short run; its export in PyTorch gives the run's own dev logits, label names and scores."""
    workdir = str(tmp_path / "run")
    code = main.main(
        [
            "fjt",
            "--config=configs/glue.py:mrpc",
            f"--workdir={workdir}",
            f"--config.model.path={MINILM}",
            "--config.data.source=files",
            f"--config.data.dir={os.path.join(SHARED, 'data', 'glue')}",
            f"--config.cache.dir={tmp_path}",
            "--config.train.steps=12",
            "--config.eval.every_steps=12",
            "--noconfig.eval.test",
            "--config.mesh.data=1",
        ]
    )
    assert code == 0
    with open(os.path.join(workdir, "result.json")) as file:
        result = json.load(file)
    with np.load(os.path.join(workdir, "predictions", "dev.npz")) as predictions:
        logits, label = predictions["logits"], predictions["label"]
    assert logits.shape == (408, 2)
    assert result["metrics"]["f1"] == pytest.approx(f1(logits.argmax(-1), label), abs=1e-12)
    assert result["token_efficiency"] > 0.88

    export = os.path.join(workdir, "export")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(export).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    with open(os.path.join(SHARED, "data", "glue", "MRPC", "dev.tsv"), encoding="utf-8-sig") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:65]
    inputs = tokenizer(
        [r[3] for r in rows], [r[4] for r in rows], truncation=True, max_length=128, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(logits[:64], expected, atol=1e-4, rtol=0)
