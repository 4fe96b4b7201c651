"""Files that are whole or not there, what a kill leaves, and paths as users write them."""

import errno
import fcntl
import os
import threading

import pytest

from fjt.core import files, records
from fjt.core.errors import UserError
from fjt.interop.directory import replaced


def leftover(folder, name=None):
    """The path of an incomplete file, as a killed process leaves it."""
    path = folder / (name or files.temporary_name())
    path.write_bytes(b"half")
    return path


WRITERS = {
    "text": lambda path: records.replace(path, "text"),
    "json": lambda path: records.write_json(path, {"a": 1}),
    "npz": lambda path: records.write_npz(path, {"a": [1, 2]}),
    "bytes": lambda path: files.write(path, b"bytes"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_the_old_one_alone(tmp_path, monkeypatch, kind):
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        WRITERS[kind](path)
    assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a"] and path.read_text() == "old"


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.written(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_is_named_by_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        files.write(tmp_path / "no" / "a", b"")
    assert error.value.filename == str(tmp_path / "no" / "a")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_next_write_removes_what_killed_ones_left_and_nothing_else(tmp_path, kind):
    killed = leftover(tmp_path)
    (tmp_path / files.temporary_name()).mkdir()
    others = [leftover(tmp_path, name) for name in ("a.tmp", "a.npz.tmp", ".fjt-1.tmp", f"x{files.temporary_name()}")]
    held = leftover(tmp_path)
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as its running writer does
        WRITERS[kind](tmp_path / "a")
        assert sorted(os.listdir(tmp_path)) == sorted(["a", held.name, *(path.name for path in others)])
    assert not killed.exists()
    WRITERS[kind](tmp_path / "a")
    assert not held.exists()


def test_a_link_with_the_name_of_a_leftover_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a").write_text("precious")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / files.temporary_name()).symlink_to(precious)
    files.remove_leftovers(tmp_path / "x")
    assert (precious / "a").read_text() == "precious"


def write_folder(path):
    with replaced(path) as folder:
        files.write(os.path.join(folder, "a"), b"whole")


@pytest.mark.parametrize("kind", [*WRITERS, "folder"])
def test_a_writer_that_is_taken_for_a_leftover_starts_again(tmp_path, monkeypatch, kind):
    """Another process locks the new file between its creation and its lock, and removes it a moment later."""
    keep, taken = files.keep, []

    def late(descriptor, path):
        if not taken:
            taken.append(other := os.open(path, os.O_RDONLY))
            fcntl.flock(other, fcntl.LOCK_EX)
            threading.Timer(
                0.05, lambda: (os.rmdir if kind == "folder" else os.remove)(path) or os.close(other)
            ).start()
        return keep(descriptor, path)

    monkeypatch.setattr(files, "keep", late)
    (WRITERS | {"folder": write_folder})[kind](tmp_path / "a")
    assert taken and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~", "/home/me"),
        ("~/runs/a", "/home/me/runs/a"),
        ("a/~/b", "a/~/b"),
        ("./~", "./~"),
        ("C:/a", "C:/a"),
        ("a:b", "a:b"),
        ("run=1,2", "run=1,2"),
    ],
)
def test_a_home_is_expanded_and_other_paths_are_as_they_are(monkeypatch, given, path):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.local_path(given, "--workdir") == path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "--x is empty"),
        ("gs://bucket/run", "--x=gs://bucket/run: fjt reads and writes files of this machine only"),
        ("s3://bucket", "this machine only"),
        ("https://host/a.csv", "this machine only"),
        ("file:///tmp/a", "this machine only"),
        ("~nobody-has-this-name/a", "no home directory"),
        ("a\nb", r"control character"),
        ("a\0b", r"control character"),
        ("a\x1b[31m", r"control character"),
        (5, "--x=5 is not a path"),
        (None, "--x=None is not a path"),
        (["a"], r"--x=\['a'\] is not a path"),
    ],
)
def test_paths_that_no_file_has_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        files.local_path(given, "--x")


def test_a_path_of_bytes_is_that_path():
    assert files.local_path(b"runs/caf\xc3\xa9", "--x") == "runs/caf\u00e9"


def test_a_folder_is_inside_itself_and_links_are_followed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for path, inside in (("a", True), ("a/b", True), ("a/new/c", True), ("link/b", True), ("ab", False), ("", False)):
        assert files.is_inside(tmp_path / path, tmp_path / "a") == inside
