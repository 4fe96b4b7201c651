"""Entity types per sentence of WNUT-17: FJT_SHARED names the folder with data/, FJT_MINILM the model's directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import common, multilabel

SHARED, MINILM = os.environ.get("FJT_SHARED", ""), os.environ.get("FJT_MINILM", "")
pytestmark = pytest.mark.skipif(not (SHARED and MINILM), reason="FJT_SHARED and FJT_MINILM are not set")


def test_scores_of_a_short_run_are_those_of_scikit_learn(tmp_path):
    """The threshold is amid the probabilities after a few steps: predicting none or all would prove little."""
    tables = multilabel.write_tables(Path(SHARED) / "data", tmp_path / "tables")
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 3394, "dev": 1009, "test": 1287}
    assert multilabel.count(tables["train"])["person"] == 503
    config = {
        "data.files.train": tmp_path / "tables" / "train.jsonl",
        "data.files.dev": tmp_path / "tables" / "dev.jsonl",
        "data.files.test": tmp_path / "tables" / "test.jsonl",
        "data.limit": 256,
        "model.path": MINILM,
        "model.max_length": 32,
        "train.steps": 8,
        "eval.every_steps": 8,
        "eval.threshold": 0.45,
        "output.export": False,
        "cache.dir": tmp_path / "cache",
        "mesh.data": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    workdir = tmp_path / "run"
    # In a process of its own: another test of this process may have defined the flags of another config.
    command = [sys.executable, "-m", "fjt.main", "--config=configs/classify.py:multi_label", f"--workdir={workdir}"]
    done = subprocess.run([*command, *flags], cwd=common.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = multilabel.score_fjt(workdir, tables, threshold=0.45)
    for split in multilabel.SCORED:
        assert scores[split]["micro_f1"] not in (0.0, multilabel.score_every_label(tables[split])["micro_f1"])
