"""A directory that is written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import safetensors

from fjt.core import files
from fjt.core.errors import UserError


@contextlib.contextmanager
def replaced(directory: str) -> Iterator[str]:
    """A context with a temporary folder, which becomes the directory at the end.

    Where the directory exists already, as after a kill, its files are replaced one by one, and other files in it stay.

    Args:
        directory: the directory.

    Raises:
        UserError: the disk is full.
    """
    folder = os.path.dirname(os.path.abspath(directory))
    files.remove_leftovers(folder)
    with files.naming(directory):
        temporary, descriptor = _create(folder)
    try:
        with files.naming(directory):
            yield temporary
        _open_to_all(temporary)
        with files.naming(directory):
            _move(temporary, directory)
    except Exception as error:
        # These wrap the system's own errors; that of a tokenizer is a plain Exception.
        if not isinstance(error, safetensors.SafetensorError | shutil.Error) and "(os error " not in str(error):
            raise
        reason = error.args[0][0][2].partition(": '")[0] if isinstance(error, shutil.Error) else error
        raise UserError(
            f"{directory} cannot be written: {reason}. The checkpoints of a run are kept; make room, and give the same "
            "command again."
        ) from None
    finally:
        os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def _create(folder: str) -> tuple[str, int]:
    """(path, descriptor) of a new temporary folder that is locked."""
    while True:
        path = os.path.join(folder, files.temporary_name())
        os.makedirs(path)
        with contextlib.suppress(FileNotFoundError):  # another process may take it for a leftover
            descriptor = os.open(path, os.O_RDONLY)
            if files.keep(descriptor, path):
                return path, descriptor
            os.close(descriptor)


def _move(source: str, target: str) -> None:
    """Moves a folder to a place where there is none, or else its files one by one: what others put there stays."""
    if not os.path.lexists(target):
        os.rename(source, target)
        return
    for name in os.listdir(source):
        path, place = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(path):
            _move(path, place)
        else:
            os.replace(path, place)


def _open_to_all(folder: str) -> None:
    """Gives the files the mode that the umask allows; safetensors makes its files readable for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for place, _, names in os.walk(folder):
        for name in names:
            os.chmod(os.path.join(place, name), 0o666 & ~mask)
