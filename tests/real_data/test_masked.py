"""A real masked language model on real text: FJT_SHARED names the folder with data/ and models/."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from configs import pretrain
from fjt.core import settings
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare

SHARED = os.environ.get("FJT_SHARED", "")
pytestmark = pytest.mark.skipif(not SHARED, reason="FJT_SHARED is not set")
STEPS, RATE = 50, 1e-3


@pytest.fixture(scope="module")
def base():
    script = Path(SHARED) / "models" / "fetch-bert-tiny-mlm"
    return subprocess.run(["bash", str(script)], check=True, capture_output=True, text=True).stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """(the run as it was prepared, its work directory): 50 steps without dropout on a part of WikiText-2."""
    folder = tmp_path_factory.mktemp("masked")
    lines = (Path(SHARED) / "data" / "wikitext2" / "valid.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, chosen in (("train", lines[:450]), ("dev", lines[450:560])):
        (folder / f"{name}.txt").write_text("".join(chosen), encoding="utf-8")
    made = pretrain.get_config()
    made.update_from_flattened_dict({
        "data.files.train": str(folder / "train.txt"), "data.files.dev": str(folder / "dev.txt"), "model.path": base,
        "model.max_length": 64, "train.steps": STEPS, "train.batch_size": 16, "optim.schedule": "constant",
        "optim.learning_rate": RATE, "optim.warmup_fraction": 0.0, "optim.weight_decay": 0.0, "optim.clip_norm": 0.0,
        "model.dropout.hidden": 0.0, "model.dropout.attention": 0.0, "eval.every_steps": 25, "mesh.data": 1,
        "model.dtype": "float32", "cache.dir": str(folder / "cache"), "output.curve": False,
    })  # fmt: skip
    experiment = prepare(settings.from_config(made))
    assert experiment.missing == () and experiment.unused == ()
    workdir.own(str(folder / "run"))
    run(experiment, str(folder / "run"))
    return experiment, folder / "run"


def padded(examples, chosen):
    """PyTorch's inputs of examples: ids and attention mask, and the label of each token, -100 where there is none."""
    import torch

    longest = int(examples.lengths[chosen].max())
    ids, seen = np.zeros((2, len(chosen), longest), np.int64)
    label = np.full((len(chosen), longest), -100, np.int64)
    for row, n in enumerate(chosen):
        count = int(examples.lengths[n])
        ids[row, :count] = examples.token_ids[examples.offsets[n] : examples.offsets[n + 1]]
        seen[row, :count] = 1
        slots = slice(examples.slot_offsets[n], examples.slot_offsets[n + 1])
        label[row, examples.slot_token[slots]] = examples.label[slots]
    return {name: torch.tensor(x) for name, x in (("input_ids", ids), ("attention_mask", seen), ("labels", label))}


def test_logits_and_fifty_steps_are_those_of_pytorch(base, trained):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    experiment, folder = trained
    model = transformers.AutoModelForMaskedLM.from_pretrained(base).eval()  # eval: without dropout
    examples = experiment.examples["dev"]
    inputs = padded(examples, np.arange(32))
    with torch.no_grad():
        expected = model(**inputs).logits[inputs["labels"] >= 0].numpy()
    from tests.parity.reference import packed

    batch, places = packed(examples, experiment.model)
    logits = np.zeros((len(examples.label), experiment.model.config.vocab), np.float32)
    found = np.asarray(experiment.model.apply(experiment.params, batch)).reshape(-1, logits.shape[1])
    logits[places.slots[1]] = found[places.slots[0]]
    np.testing.assert_allclose(logits[: len(expected)], expected, atol=1e-4, rtol=0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, eps=1e-8), []
    assert STEPS > experiment.schedule.steps_per_epoch, "more than one epoch"
    for step in range(STEPS):
        drawn = experiment.of_step(step)
        loss = model(**padded(drawn, np.arange(len(drawn)))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    found = [row["loss"] for row in rows]
    assert len(found) == STEPS and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    np.testing.assert_allclose(found[:10], losses[:10], rtol=1e-4)
    np.testing.assert_allclose(found, losses, rtol=5e-3)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "export").eval()
    with torch.no_grad():
        inputs = padded(examples, np.arange(len(examples)))
        loss = model(**inputs).loss.item()
    result = json.loads((folder / "result.json").read_text())
    assert np.log(result["metrics"]["perplexity"]) == pytest.approx(loss, abs=1e-4)
