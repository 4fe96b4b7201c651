"""Beside a folder of precious files no command changes what fjt did not write, and no kill loses a run."""

import functools
import json
import os
import shutil
import signal

import pytest
from process import outcome, tiny

from fjt.experiment import workdir
from fjt.training import checkpoint

pytestmark = pytest.mark.thorough

NAMES = ("export", "tensorboard", "checkpoints", "predictions", "groups", "runs", "report", ".hidden")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def precious(tmp_path):
    """A folder of somebody, with the names that fjt uses."""
    for name in NAMES:
        (tmp_path / "precious" / name).mkdir(parents=True)
        (tmp_path / "precious" / name / "a.txt").write_text("precious")
    return tmp_path / "precious"


def test_no_command_writes_into_a_folder_of_others(even, finished, launch, precious):
    before = tree(precious)
    for program, arguments in (
        ("fjt.main", [*tiny(even), "--workdir", precious]),
        ("fjt.main", [*tiny(even), "--workdir", precious / "export"]),
        ("fjt.reproduce", [finished[0], "--workdir", precious]),
        ("fjt.sweep", ["--config", "configs/quickstart_sweep.py", "--workdir", precious]),
        ("fjt.export", ["--run", finished[0], "--format", "hf", "--output", precious]),
    ):
        done = launch(*arguments, program=program)
        assert done.code == 2 and "Traceback" not in done.text, done.text
        assert tree(precious) == before, program


@pytest.mark.parametrize(("is_run", "words"), [(True, "is a symbolic link"), (False, "is not empty and is not")])
def test_a_link_to_a_folder_of_others_is_not_followed(even, launch, precious, tmp_path, is_run, words):
    before = tree(precious)
    (tmp_path / "run").mkdir()
    if is_run:
        workdir.own(str(tmp_path / "run"))
    for name in ("checkpoints", "tensorboard", "export", "predictions"):
        (tmp_path / "run" / name).symlink_to(precious / name)
    done = launch(*tiny(even, output__checkpoints=False), "--workdir", tmp_path / "run")
    assert done.code == 2 and words in done.text, done.text
    assert tree(precious) == before


def test_a_finished_run_is_not_repeated_into(finished, launch, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    before = tree(tmp_path / "run")
    for place in (tmp_path / "run", tmp_path / "run" / "export", tmp_path / "run" / "new"):
        done = launch(finished[0], "--workdir", place, program="fjt.reproduce")
        assert done.code == 2 and "Give a new folder" in done.text, done.text
        done = launch(tmp_path / "run", "--workdir", place, program="fjt.reproduce")
        assert done.code == 2, done.text
    assert tree(tmp_path / "run") == before


def kill_in_clean_up(count, inside):
    """SIGKILL when the folder of checkpoint `count` is to be removed: before it, or when half of it is gone."""
    remove = shutil.rmtree

    def removed(path, *arguments, **options):
        nonlocal count
        if os.path.basename(os.path.dirname(path)) == "checkpoints" and os.path.exists(
            os.path.join(os.path.dirname(os.path.dirname(path)), "result.json")
        ):
            count -= 1
            if count == 0:
                if inside:
                    remove(os.path.join(path, "state"))
                os.kill(os.getpid(), signal.SIGKILL)
        return remove(path, *arguments, **options)

    checkpoint.shutil.rmtree = removed


@pytest.mark.slow
def test_a_kill_in_the_last_clean_up_loses_nothing(even, launch, tmp_path):
    arguments = tiny(even, output__checkpoints=False)
    whole = launch(*arguments, "--workdir", tmp_path / "whole")
    assert whole.code == 0 and not (tmp_path / "whole" / "checkpoints").exists(), whole.text
    for count, inside in ((1, True), (2, False)):
        workdir = tmp_path / f"{count}{inside}"
        killed = launch(*arguments, "--workdir", workdir, hook=functools.partial(kill_in_clean_up, count, inside))
        assert killed.code == -signal.SIGKILL, killed.text
        assert (workdir / "DONE").exists() and (workdir / "checkpoints").exists()
        again = launch(*arguments, "--workdir", workdir)
        assert again.code == 0 and "is already finished" in again.text, again.text
        assert not (workdir / "checkpoints").exists() and not (workdir / "checkpoints-unreadable").exists()
        assert outcome(workdir) == outcome(tmp_path / "whole")
        assert json.loads((workdir / "result.json").read_text())["failed"] is None
