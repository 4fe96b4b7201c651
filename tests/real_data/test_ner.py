"""Entities of WNUT-17: FJT_SHARED names the folder with data/, FJT_MINILM the model's directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import common, ner
from tests.benchmarks.multilabel import read_sentences

SHARED, MINILM = os.environ.get("FJT_SHARED", ""), os.environ.get("FJT_MINILM", "")
pytestmark = pytest.mark.skipif(not (SHARED and MINILM), reason="FJT_SHARED and FJT_MINILM are not set")


def entities(rows):
    """{(sentence, first word, last word, type)} of lists of BIO tags without an I- that goes on with nothing."""
    found = set()
    for number, tags in enumerate(rows):
        for at, tag in enumerate(tags):
            if tag.startswith("B-"):
                end = at + 1
                while end < len(tags) and tags[end] == f"I-{tag[2:]}":
                    end += 1
                found.add((number, at, end, tag[2:]))
    return found


def test_every_word_is_predicted_and_the_scores_are_those_of_sets_of_entities(tmp_path):
    """Windows of 24 tokens, so that many sentences have several; weights, so that few steps find some entities."""
    tables = tmp_path / "tables"
    ner.link_files(Path(SHARED) / "data", tables)
    config = {f"data.files.{split}": tables / f"{split}.conll" for split in ("train", "dev")} | {
        "model.path": MINILM, "model.max_length": 24, "train.steps": 30, "eval.every_steps": 30, "data.limit": 960,
        "optim.learning_rate": 5e-4, "optim.warmup_fraction": 0.1, "output.export": False,
        "loss.class_weights": "('balanced',)",
        "cache.dir": tmp_path / "cache", "mesh.data": 1,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "fjt.main", "--config=configs/ner.py", f"--workdir={workdir}"]
    done = subprocess.run([*command, *flags], cwd=common.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read in overlapping windows of 24 tokens" in done.stdout + done.stderr
    result = common.read_json(workdir / "result.json")
    true = [tags for _, tags in read_sentences(tables / "dev.conll")]
    rows = [line.split("\t") for line in (workdir / "predictions" / "dev.tsv").read_text("utf-8").splitlines()]
    predicted = [row[rows[0].index("predicted")].split(" ") for row in rows[1:]]
    assert [len(tags) for tags in predicted] == [len(tags) for tags in true]
    found, wanted = entities(predicted), entities(true)
    assert len(wanted) == 836
    f1 = 2 * len(found & wanted) / (len(found) + len(wanted))
    assert f1 > 0.02 and result["metrics"]["entity_f1"] == pytest.approx(f1, abs=1e-12)
