"""Python's seed of hashes decides the order of sets: labels, ids, fingerprints and hashes do not depend on it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LABELS = """
import json
from fjt.core.errors import suggest
from fjt.data.labels import Cell
from fjt.tasks.kinds import find_problem
sets = ("10", "9", "nan", "8"), ("b", "a", "nan", "c"), (1, 1.5, "inf", -3), ("x", "y", "z", "xy", "yz")
found = {
    f"{kind} {i}": list(find_problem(kind).find_labels([Cell(value, f"t:{n}", True) for n, value in enumerate(values)]))
    for kind in ("classification", "multi_label") for i, values in enumerate(sets)
}
found["suggest"] = [suggest(name, {"abc", "abd", "abe", "abf"}) for name in ("ab", "zzz")]
"""
RUNS = """
from configs import quickstart
from fjt.core.console import Silent
from fjt.core.settings import fingerprint, from_config
from fjt.experiment import programs
from fjt.experiment.prepare import prepare
from fjt.study.planner import word_of
for method in METHODS:
    config = quickstart.get_config()
    config.tune.method, config.data.limit, config.train.epochs, config.mesh.data = (method,), 64, 3, 1
    if method != "full": config.tune.train_pooler = True
    for key in ("layers", "width", "heads", "inner"):
        config.model.scratch[key] = {"layers": 2, "width": 16, "heads": 2, "inner": 16}[key]
    made = prepare(from_config(config), view=Silent())
    found[method] = [
        fingerprint(made.settings.experiment, made.contents), list(made.task.label_names),
        sorted(map(word_of, programs.program_keys(made, [made.plan.shape_of]))), sorted(made.trainable),
    ]
"""


def outputs_of(script):
    """What the script prints under three seeds of hashes, at the same time."""
    script += "\nprint(json.dumps(found, sort_keys=True))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        for seed in ("0", "1", "2")
    ]  # fmt: skip
    texts = [process.communicate(timeout=600)[0] for process in started]
    assert all(process.returncode == 0 and text for process, text in zip(started, texts, strict=True))
    return texts


@pytest.mark.thorough
def test_labels_fingerprints_and_programs_do_not_depend_on_the_seed_of_hashes():
    """Of a method with several stages: full tuning is its last."""
    assert len(set(outputs_of(f"{LABELS}\nMETHODS = ('gradual',)\n{RUNS}"))) == 1
