"""A work directory is fjt's own, held by one process, and free as soon as that process is gone."""

import concurrent.futures
import errno
import fcntl
import multiprocessing
import os
import platform
import re
import signal
import threading
import time

import made_study
import pytest

from fjt.core import records
from fjt.core.errors import UserError
from fjt.experiment.workdir import REPETITION, RUN, STUDY, InUse, lock, own


def held_at_once(folder, barrier):
    """Whether this thread got the lock, which it holds until all threads have tried."""
    barrier.wait()
    try:
        with lock(folder):
            barrier.wait()
            return True
    except InUse:
        barrier.wait()
        return False


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    barrier = threading.Barrier(8)
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(held_at_once, [folder] * 8, [barrier] * 8)) == 1
        with lock(folder):
            pass  # free again


def hold(folder, told):
    with lock(folder):
        told.send(True)
        time.sleep(60)


def test_a_killed_holder_s_lock_passes_on_at_once(tmp_path):
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=hold, args=(tmp_path, there))
    process.start()
    assert here.recv()
    holder = rf"in use by another process \({process.pid} on {re.escape(platform.node())}\)"
    with pytest.raises(InUse, match=holder), lock(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"cannot be locked: No locks available\. Give"), lock(tmp_path):
        pass


def tree(folder):
    """{path: bytes} of all files below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checkpoints_only(folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.pt").write_text("precious")


FOREIGN = {
    "a file": lambda folder: (folder / "notes.txt").write_text("precious"),
    "a folder of a name that fjt uses": checkpoints_only,
    "a hidden file": lambda folder: (folder / ".git").write_text("gitdir: elsewhere"),
    "a model": lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
    "a damaged config": lambda folder: (folder / "config.json").write_text('{"config": {'),
    "a plan of others": lambda folder: (folder / "plan.json").write_text('{"runs": []}'),
    "a marker alone": lambda folder: (folder / ".fjt").write_text("mine"),
    "a lock alone": lambda folder: (folder / ".lock").write_text("mine"),
    "a lock of bytes": lambda folder: (folder / ".lock").write_bytes(b"\xff"),
    "another marker": lambda folder: (folder / ".fjt").write_text("mine") and (folder / "a").write_text("precious"),
}


@pytest.mark.parametrize("kind", [RUN, STUDY, REPETITION])
@pytest.mark.parametrize("content", FOREIGN)
def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path, content, kind):
    FOREIGN[content](tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"is not empty and is not .* of fjt: it has .*Give a new folder"):
        own(str(tmp_path), kind)
    with pytest.raises(UserError, match="Give a new folder"), lock(str(tmp_path), kind=kind):
        pass
    assert tree(tmp_path) == before


def test_a_folder_with_the_marker_may_have_other_files_and_is_of_one_kind(tmp_path):
    own(str(tmp_path / "new" / "run"))
    folder = tmp_path / "new" / "run"
    own(str(folder), REPETITION)  # still empty
    own(str(folder), RUN)
    (folder / "notes.txt").write_text("mine")
    own(str(folder), RUN)
    for kind in (STUDY, REPETITION):
        with pytest.raises(UserError, match="is the work directory of a run"):
            own(str(folder), kind)


def test_a_new_folder_lies_in_no_run_and_may_lie_in_a_study(tmp_path):
    own(str(tmp_path / "run"))
    own(str(tmp_path / "study"), STUDY)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for place in ("run/new", "run/checkpoints/9", "link/export/new"):
        for kind in (RUN, STUDY, REPETITION):
            with pytest.raises(UserError, match=r"is within .*run, the work directory of a run\. Give a new folder"):
                own(str(tmp_path / place), kind)
    own(str(tmp_path / "study" / "runs" / "seed=0"))
    assert os.listdir(tmp_path / "run") == [".fjt"]


def test_folders_of_versions_without_a_marker_are_known_by_their_records(tmp_path):
    made_study.write_run(tmp_path / "run", "runs", "choices", "full", made_study.BEGUN, {})
    made_study.MadeStudy(tmp_path).finish()
    own(str(tmp_path / "run"), RUN)
    own(str(tmp_path), STUDY)
    with pytest.raises(UserError, match="is the folder of a study"):
        own(str(tmp_path), RUN)


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "export", "predictions", "tensorboard", "data", "export/merged", "predictions/submission", ".lock"],
)
def test_a_link_that_leads_out_of_a_run_is_refused(tmp_path, name):
    own(str(tmp_path / "run"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=f"{name} in it is a symbolic link"):
        own(str(tmp_path / "run"))
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="a symbolic link to nothing"):
        own(str(tmp_path / "link"))
    (tmp_path / "other").mkdir()
    own(str(tmp_path / "link"))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes").write_text("")
    (tmp_path / "project" / "data").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is not empty and is not"):  # of others: no remedy would make it a run
        own(str(tmp_path / "project"))
    own(str(tmp_path / "link"))  # the whole folder may be a link


def test_a_file_is_not_a_work_directory(tmp_path):
    (tmp_path / "a").write_text("precious")
    with pytest.raises(UserError, match="is a file"):
        own(str(tmp_path / "a"))
    with pytest.raises(UserError, match="cannot be created: Not a directory"):
        own(str(tmp_path / "a" / "b"))


def test_a_run_that_is_refused_leaves_no_new_folder(tmp_path):
    with pytest.raises(records.Damaged), lock(str(tmp_path / "new")):
        raise records.Damaged("refused")
    assert os.listdir(tmp_path) == []
