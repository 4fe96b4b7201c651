"""JSON files that are there whole or not at all, and logs that are cut to a step."""

import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from fjt.core import records


def test_json_comes_back_plain(tmp_path):
    path = tmp_path / "a.json"
    records.write_json(path, {"b": np.float32(0.5), "a": (np.int64(3), np.bool_(True)), "n": np.array(2), "s": None})
    assert records.read_json(path) == {"b": 0.5, "a": [3, True], "n": 2, "s": None}
    assert list(records.read_json(path)) == ["b", "a", "n", "s"]  # in the order given
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_not_finite_becomes_null_not_broken_json(tmp_path):
    path = tmp_path / "a.json"
    records.write_json(path, {"x": float("nan"), "y": [np.float32("inf"), -np.inf], "z": {"w": 1.0}})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"x": None, "y": [None, None], "z": {"w": 1.0}}


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    records.write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"x": 2, "y": object()})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write_json(path, {"x": 3})
    assert records.read_json(path) == {"x": 1}


def test_log_is_cut_to_the_step_it_is_opened_at(tmp_path):
    path = str(tmp_path / "train.jsonl")
    log = records.Log(path, 0)
    for step in (1, 2, 3, 4):
        log.write({"step": step, "loss": np.float32(step) / 2})
    log.close()
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')  # a kill cut this one off
    assert [row["step"] for row in records.read_lines(path)] == [1, 2, 3, 4]
    log = records.Log(path, 2)
    log.write({"step": 3, "loss": float("nan")})
    log.close()
    assert records.read_lines(path) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": None},
    ]
    records.Log(path, 0).close()
    assert records.read_lines(path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_named_when_the_log_is_closed_too(tmp_path):
    log = records.Log(tmp_path / "train.jsonl", 0)
    log._file.close()
    log._file = open("/dev/full", "a", encoding="utf-8")
    for write in (lambda: log.write({"step": 1}), log.close):
        with pytest.raises(OSError, match="No space left") as full:
            write()
        assert full.value.filename == str(tmp_path / "train.jsonl")


def test_log_rows_are_readable_while_it_is_open(tmp_path):
    log = records.Log(str(tmp_path / "train.jsonl"), 0)
    log.write({"step": 1})
    assert records.read_lines(tmp_path / "train.jsonl") == [{"step": 1}]
    log.close()


def test_versions_name_what_a_result_depends_on():
    versions = records.versions()
    assert {"fjt", "python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers"} <= set(versions)
    assert all(versions[name] for name in versions if name != "fjt")
    assert records.processor()


def commit_of(package, monkeypatch, **variables):
    """What fjt records as its version when its package lies in this folder."""
    monkeypatch.setattr(records, "__file__", str(package / "core" / "records.py"))
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    records.commit.cache_clear()
    try:
        return records.commit()
    finally:
        records.commit.cache_clear()


def make_repository(folder, *files):
    """A repository with these files committed, and the hash of its commit."""
    folder.mkdir(exist_ok=True)
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
        subprocess.run([*git, "add", "-f", name], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """place(*parts) makes the package's file in a folder and returns the package."""

    def place(*parts):
        found = tmp_path.joinpath(*parts, "fjt")
        (found / "core").mkdir(parents=True, exist_ok=True)
        (found / "core" / "records.py").write_text("")
        return found

    return place


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_version_is_that_of_fjt_s_own_checkout(tmp_path, monkeypatch, package):
    own = make_repository(tmp_path / "fjt", "fjt/core/records.py")
    assert commit_of(package("fjt"), monkeypatch) == own
    other = make_repository(tmp_path / "other", "a.py", "vendored/fjt/core/records.py")
    assert commit_of(package("fjt"), monkeypatch, GIT_DIR=tmp_path / "other/.git") == own  # as within a hook
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "fjt/fjt/core/records.py").write_text("changed")
    assert commit_of(tmp_path / "fjt/fjt", monkeypatch) == f"{own}+changes"
    installed = records._version("fjt")
    for parts in (("other",), ("other", ".venv/lib/site-packages"), ("other", "vendored"), ("nothing",)):
        assert commit_of(package(*parts), monkeypatch) == installed != other, parts
    assert pathlib.Path(records.__file__).name == "records.py"
