"""A directory that is written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import safetensors

from fjt.core.errors import UserError


@contextlib.contextmanager
def replaced(directory: str) -> Iterator[str]:
    """A context with a temporary folder, which replaces the directory at the end.

    Args:
        directory: the directory.

    Raises:
        UserError: the disk is full.
    """
    temporary = f"{directory}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    try:
        yield temporary
    except safetensors.SafetensorError as error:  # it wraps the system's own errors
        raise UserError(
            f"{directory} cannot be written: {error}. The checkpoints are kept; make room, and run the same "
            "command to finish the run."
        ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _open_to_all(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(temporary, directory)


def _open_to_all(folder: str) -> None:
    """Gives the files the mode that the umask allows; safetensors makes its files readable for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for place, _, files in os.walk(folder):
        for name in files:
            os.chmod(os.path.join(place, name), 0o666 & ~mask)
