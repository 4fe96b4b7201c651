"""A directory is written whole or not at all, and what others put into it stays."""

import errno
import os
import shutil

import pytest
import safetensors
import tokenizers

from fjt.core import files
from fjt.core.errors import UserError
from fjt.interop.directory import replaced


def write(folder, text):
    (folder / "inner").mkdir(exist_ok=True)
    (folder / "a").write_text(text)
    (folder / "inner" / "b").write_text(text)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_it_appears_at_the_end_and_a_leftover_is_gone(tmp_path):
    (tmp_path / files.temporary_name()).mkdir()
    with replaced(str(tmp_path / "new")) as folder:
        write(type(tmp_path)(folder), "1")
        assert not (tmp_path / "new").exists()
    assert os.listdir(tmp_path) == ["new"]
    assert tree(tmp_path / "new") == {"a": "1", "inner/b": "1"}


def test_files_of_others_stay(tmp_path):
    (tmp_path / "old").mkdir()
    write(tmp_path / "old", "1")
    (tmp_path / "old" / "notes").write_text("precious")
    (tmp_path / "old" / "inner" / "notes").write_text("precious")
    with replaced(str(tmp_path / "old")) as folder:
        write(type(tmp_path)(folder), "2")
    assert tree(tmp_path / "old") == {"a": "2", "inner/b": "2", "notes": "precious", "inner/notes": "precious"}
    assert os.listdir(tmp_path) == ["old"]


def test_a_tokenizer_without_room_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"new cannot be written: No space left on device"):
        with replaced(str(tmp_path / "new")):
            tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save("/dev/full")


FAILURES = (
    (OSError(errno.ENOSPC, "No space left on device"), OSError),
    (safetensors.SafetensorError("I/O error"), UserError),
    (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), UserError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (ValueError("a fault of fjt"), ValueError),
)


@pytest.mark.parametrize(("error", "kind"), FAILURES)
def test_a_failure_leaves_nothing_and_names_the_directory(tmp_path, error, kind):
    with pytest.raises(kind) as raised, replaced(str(tmp_path / "new")):
        raise error
    assert os.listdir(tmp_path) == []
    if kind is UserError:
        assert str(raised.value).startswith(f"{tmp_path / 'new'} cannot be written: ")
    if kind is OSError:
        assert raised.value.filename == str(tmp_path / "new")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as raised, replaced(str(tmp_path / "file" / "new")):
        pass
    assert raised.value.filename == str(tmp_path / "file" / "new")
