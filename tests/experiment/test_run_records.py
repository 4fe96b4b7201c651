"""Damaged records of a run: one sentence with file and remedy, whatever the damage is."""

import json
import pathlib

import made_study
import numpy as np
import pytest

from fjt.core.records import Damaged
from fjt.experiment import run_records

READERS = {
    "config.json": run_records.read_config,
    "env.json": run_records.read_environment,
    "result.json": run_records.read_result,
    "train.jsonl": run_records.read_steps,
    "eval.jsonl": run_records.read_evaluations,
    "predictions/dev.npz": lambda workdir: run_records.read_predictions(workdir, "dev"),
}


@pytest.fixture
def workdir(tmp_path):
    """A finished run."""
    made_study.write_run(tmp_path, "runs", "choices", "full", made_study.predictions("choices", 0.9, 0), {})
    return tmp_path


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\n")


def zeros(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2) + b"\n")


DAMAGES = {
    "cut": half,
    "half zeros": zeros,
    "a line of another form": lambda path: path.write_text("[]\n"),
    "a number": lambda path: path.write_text("7\n"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\n"),
    "deep": lambda path: path.write_text("[" * 100_000 + "\n"),
    "missing": pathlib.Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_every_damage_of_every_record_is_one_sentence(workdir, name, damage):
    assert run_records.find_damage(str(workdir)) == ""
    DAMAGES[damage](workdir / name)
    with pytest.raises(Damaged) as error:
        READERS[name](str(workdir))
    assert str(workdir / name) in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith(f"move {workdir} away and run its command again.")
    if damage != "missing" or name not in ("env.json", "eval.jsonl"):  # not every version and every run has these
        assert run_records.find_damage(str(workdir)) == str(error.value)


def test_a_step_that_is_missing_from_a_run_that_goes_on_is_damage(workdir):
    (workdir / "DONE").unlink()
    log = workdir / "train.jsonl"
    rows = log.read_text().splitlines(keepends=True)
    log.write_text("".join(rows[:-1]))  # as after a kill
    assert run_records.find_damage(str(workdir)) == ""
    log.write_text("".join(rows[1:]))
    assert "train.jsonl is damaged (the row of step 1 is missing)" in run_records.find_damage(str(workdir))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"config": []}),
        ("config.json", {"fingerprint": None}),
        ("result.json", {"metrics": [0.5]}),
        ("result.json", {"metrics": {"accuracy": "0.5"}}),
        ("result.json", {"metrics": {"accuracy": None}}),
        ("result.json", {"metrics": {"accuracy": float("nan")}}),
        ("result.json", {"splits": None}),
        ("result.json", {"splits": {"dev": 0.5}}),
        ("result.json", {"collapsed": "x"}),
        ("result.json", {"train_seconds": "fast"}),
        ("result.json", {"best": {}}),
        ("result.json", {"failed": 1}),
        ("result.json", {"planned_steps": True}),
        ("result.json", {"steps": 3}),  # the log has more
        ("env.json", {"versions": "1.0"}),
        ("env.json", {"devices": "x"}),
        ("eval.jsonl", {"accuracy": "0.5"}),
        ("train.jsonl", {"grad_norm": "x"}),
    ],
)
def test_values_of_another_type_are_damage(workdir, name, change):
    first, *others = (workdir / name).read_text().splitlines() if name.endswith("l") else [(workdir / name).read_text()]
    (workdir / name).write_text("\n".join([json.dumps(json.loads(first) | change), *others, ""]))
    assert "is damaged" in run_records.find_damage(str(workdir))


@pytest.mark.parametrize("name", ["splits", "train_seconds", "grad_norm"])
def test_a_value_that_readers_need_is_damage_where_it_lacks(workdir, name):
    path = workdir / ("train.jsonl" if name == "grad_norm" else "result.json")
    value = json.loads(path.read_text().splitlines()[0] if name == "grad_norm" else path.read_text())
    del value[name]
    path.write_text(json.dumps(value) + "\n")
    assert f"(it has no {name})" in run_records.find_damage(str(workdir))


@pytest.mark.parametrize(
    "change", [{"id": ["a"]}, {"logits": [0.5] * 120}, {"cluster": ["a"]}], ids=lambda change: min(change)
)
def test_arrays_of_another_length_are_damage(workdir, change):
    path = workdir / "predictions" / "dev.npz"
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **{name: np.array(values) for name, values in change.items()}})
    assert "(its arrays do not have one row per example)" in run_records.find_damage(str(workdir))


def test_a_run_on_its_way_is_not_damaged_by_what_it_lacks(workdir):
    (workdir / "DONE").unlink()
    (workdir / "result.json").write_text("{")  # written again when the run goes on
    assert not run_records.ended(str(workdir))
    assert run_records.find_damage(str(workdir)) == ""
    with open(workdir / "train.jsonl", "a") as file:
        file.write('{"step": 41, "lo')  # being written
    for name in ("env.json", "eval.jsonl", "result.json", "train.jsonl", "config.json"):
        assert run_records.find_damage(str(workdir)) == ""
        (workdir / name).unlink()


@pytest.mark.parametrize(
    ("name", "keep", "missing"),
    [("train.jsonl", 0, 1), ("train.jsonl", 7, 8), ("train.jsonl", None, 1), ("eval.jsonl", 0, 10)],
)
def test_a_run_does_not_go_on_without_the_rows_before_its_checkpoint(tmp_path, name, keep, missing):
    for file, steps in (("train.jsonl", range(1, 13)), ("eval.jsonl", (5, 10))):
        (tmp_path / file).write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    run_records.check_resumable(str(tmp_path), 10, 10)
    run_records.check_resumable(str(tmp_path), 12, 5)
    path = tmp_path / name
    if keep is None:
        path.unlink()
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    with pytest.raises(Damaged, match=rf"{name} is (missing|damaged \(the row of step {missing} is missing\))\. .*"):
        run_records.check_resumable(str(tmp_path), 10, 10)
    run_records.check_resumable(str(tmp_path), 0, -1)
