"""The command for the day an accelerator can be had, with tiny shapes on the CPU: `tests/benchmarks/accelerator.py`."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.benchmarks import common
from tests.benchmarks.accelerator_parts import exact, flips, plan, steps, tables, texts

FIRST = (  # of each part; a slow test has the others
    "smoke/quickstart",
    "exact/layouts small float32",
    "exact/flips",
    "speed/fjt*parts of the step",
    "speed/torch*random",
    "lanes/lora, the run alone",
    "lanes/lora, 4 lanes",
    "memory/lora*",
)


def call(folder, *arguments):
    """(exit code, output) of the command with tiny shapes."""
    command = [sys.executable, "-m", "tests.benchmarks.accelerator", "--tiny", "--output", str(folder), *arguments]
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def rows_of(folder):
    """{part: {case: row}}."""
    return {part: json.loads((folder / f"{part}.json").read_text())["rows"] for part in plan.PARTS}


def check(rows):
    """Whether every case passed, or says why it was skipped, and the numbers are those that are promised."""
    for part, found in rows.items():
        assert found, part
        for name, row in found.items():
            assert row["status"] == "passed" or (name.startswith("torch ") and row["status"] == "skipped"), (name, row)
            assert row["status"] == "passed" or row["word"], name
    layouts = rows["exact"]["layouts small float32"]["differences"]
    assert len(layouts) == 3 and max(layouts.values()) <= 2e-6
    variants = rows["exact"]["flips"]["variants"]
    assert set(flips.LAYOUTS) < variants.keys() and all(variants[n]["logit"] <= flips.CLOSE for n in flips.LAYOUTS)
    assert variants["bfloat16"]["logit"] > flips.CLOSE, "bfloat16 must differ, or nothing is compared"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(the folder of a call with the first cases of each part, exit code, output)."""
    folder = tmp_path_factory.mktemp("accelerator")
    return folder, *call(folder, "--cases", *FIRST)


@pytest.mark.thorough
def test_every_part_passes_with_tiny_shapes(done):
    folder, code, text = done
    assert code == 0, text
    rows = rows_of(folder)
    check(rows)
    (step,) = [row for name, row in rows["speed"].items() if name.startswith("fjt ")]
    assert step["flops"] > 0 and step["mfu"] is None and step["parts"]["forward"]["seconds"] > 0
    alone, lanes = (rows["lanes"][f"lora, {name}"] for name in ("the run alone", "4 lanes"))
    assert lanes["bytes"] > alone["bytes"] > 0
    for part in plan.PARTS:
        table = (folder / f"{part}.md").read_text()
        assert all(name in table for name in rows[part]) and "Commit:" in table and "python 3." in table


@pytest.mark.thorough
def test_a_second_call_runs_nothing_again(done):
    folder, _, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, text = call(folder, "--cases", *FIRST)
    assert code == 0 and " ...\n" not in text and "0 left" in text
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_without_time_all_cases_are_left_and_named(tmp_path):
    code, text = call(tmp_path, "--minutes", "0")
    wanted = plan.cases(plan.PARTS, True)
    assert code == 0 and f"0 passed, 0 skipped, 0 failed, {len(wanted)} left" in text
    assert all(f"left: {case.key}\n" in text for case in wanted) and not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_failed_check_is_an_exit_code_and_other_code_is_refused(done, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    record = common.read_json(folder / "exact.json")
    record["rows"]["flips"]["status"] = "failed"
    common.write_json(folder / "exact.json", record)
    code, text = call(folder, "--cases", "exact/flips")
    assert code == 1 and "failed: exact/flips" in text
    common.write_json(folder / "exact.json", record | {"sources": "another"})
    code, text = call(folder, "--parts", "exact", "--minutes", "0")
    assert code == 2 and "Give another --output" in text


@pytest.mark.parametrize(("far", "status"), [(1e-6, "passed"), (3e-6, "failed"), (np.nan, "failed")])
def test_losses_beyond_the_tolerance_fail(monkeypatch, far, status):
    reference = np.linspace(0.7, 0.6, 20)
    found = {"one example per row": reference, "packed": reference * np.r_[np.ones(19), 1 + far]}
    monkeypatch.setattr(exact, "losses", lambda options: found.copy())
    assert exact.run({"dtype": "float32", "tolerance": 2e-6}, {})["status"] == status


def test_operations_of_texts_of_one_length_are_those_of_the_law():
    """Where each row is one text, real tokens are computed tokens: 16 of them with 16 keys each."""
    made = steps.make("tiny", "full", "float32")
    layer = 2 * 32 * (4 * 32 + 2 * 64) * 3  # per token; the only layer is computed for keys and values alone
    lengths, one = np.full(4, 16), np.full(8, 16)
    assert steps.law(made, np.r_[lengths, lengths], 2) == steps.law(made, lengths, 1)
    assert 0 < steps.law(made, one, 1) - steps.law(made, lengths, 1) < 4 * 16 * layer
    assert steps.law(made, np.array([8, 24, 8, 24]), 1) > steps.law(made, lengths, 1), "longer texts have more keys"


def test_peak_rates_are_known_by_name_and_otherwise_unknown():
    assert steps.peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert steps.peak_flops("TPU v5 lite", "bfloat16") == 197e12 and steps.peak_flops("TPU v5 lite", "float32") is None
    assert steps.peak_flops("NVIDIA L40S", "bfloat16") == 362e12 and steps.peak_flops("NVIDIA L40", "bfloat16") is None
    assert steps.peak_flops("cpu", "bfloat16") is None


def test_grouped_batches_have_the_same_texts_with_less_padding():
    _, offsets, _ = texts.draw(64, 32, 500)
    lengths = np.diff(offsets)
    both = [texts.batches(offsets, 8, grouped) for grouped in (False, True)]
    assert [sorted(one.ravel()) for one in both] == [list(range(64))] * 2
    random, grouped = (lengths[one].max(axis=1).sum() for one in both)
    assert grouped < random


def test_the_ratio_is_of_the_same_texts():
    rows = {
        "fjt base 32 x 128 bfloat16, dropout": {"examples_per_second": 300.0},
        "torch base 32 x 128 bfloat16, random": {"examples_per_second": 200.0},
        "torch base 32 x 128 float32, random": {"examples_per_second": 100.0},
    }
    assert [tables.ratio(name, rows) for name in rows] == ["", "1.50", ""]


def test_options_can_be_made_without_ml_collections():
    program = (
        "import sys; sys.modules['ml_collections'] = None\n"
        "from tests.benchmarks.accelerator_parts import stand_ins, store; stand_ins.install()\n"
        "from fjt.core.settings import from_config, make_config\n"
        "config = make_config(); config.model.dtype = 'bfloat16'\n"
        "assert from_config(config).experiment.model.dtype == 'bfloat16' and 'ml_collections' in store.missing()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=common.ROOT, check=True, env=os.environ)


@pytest.mark.slow
def test_the_other_cases_pass_too(done, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "copy")
    code, text = call(folder)
    assert code == 0, text
    rows = rows_of(folder)
    check(rows)
    assert sum(map(len, rows.values())) == len(plan.cases(plan.PARTS, True))
    assert max(rows["exact"]["layouts small float64"]["differences"].values()) <= 1e-12
    assert rows["smoke"]["resume"]["killed_after_step"] and rows["smoke"]["resume"]["checkpoints"]
    assert rows["smoke"]["study"]["runs"] == 8 and len(rows["lanes"]["lora, 2 processes"]["steps"]) == 2
