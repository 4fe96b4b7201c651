"""Files that are written whole or not at all, and paths in the form in which users give them."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

from fjt.core.errors import UserError

Path = str | os.PathLike[str]

# An incomplete file or folder.  Its writer holds a lock on it, which the system releases when the process ends.
TEMPORARY = re.compile(r"\.fjt-[0-9a-f]{16}\.tmp")

CHECKSUM = struct.Struct("<I")  # crc32
READ = 1 << 24  # bytes that are read at once


def local_path(given: Any, option: str) -> str:
    """A path on this machine, with ~ expanded.

    Args:
        given: the path as the user gave it.
        option: the option or argument that has it, for messages.

    Raises:
        UserError: it is not a path, is empty, names a remote store or the home of an unknown user, or has control
            characters.
    """
    if not isinstance(given, str | bytes | os.PathLike):
        raise UserError(f"{option}={given!r:.80} is not a path. Give one as text or as a pathlib.Path.")
    text = os.fsdecode(given)
    if not text:
        raise UserError(f"{option} is empty; give a path.")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UserError(f"{option}={text!r} has a control character, such as a line break. Give another path.")
    if re.match(r"[A-Za-z][\w+.-]*://", text):
        raise UserError(
            f"{option}={text}: fjt reads and writes files of this machine only. Copy or mount them, and give that path."
        )
    path = os.path.expanduser(text)
    if path.startswith("~") and not os.path.lexists(path):
        raise UserError(f"{option}={text}: this user has no home directory here. Give an absolute path.")
    return path


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies below it, after symbolic links are followed."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which an OSError without a file's name, such as that of a full disk, gets this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            pass  # of a library, with a text of its own
        elif error.filename is None or TEMPORARY.fullmatch(os.path.basename(os.fsdecode(error.filename))):
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A context with an open binary file that replaces `path` at the end, or is removed after an exception.

    Raises:
        OSError: it cannot be written; its `filename` is `path`.
    """
    folder = os.path.dirname(os.fspath(path)) or "."
    remove_leftovers(folder)
    with naming(path):
        temporary, file = _create(folder)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise


def write(path: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old file or the complete new one."""
    with written(path) as file:
        file.write(content)


def _create(folder: str) -> tuple[str, IO[bytes]]:
    """(path, open file) of a new temporary file that is locked."""
    while True:
        path = os.path.join(folder, temporary_name())
        file = open(path, "x+b")
        if keep(file.fileno(), path):
            return path, file
        file.close()


def temporary_name() -> str:
    """A new name of the form TEMPORARY."""
    return f".fjt-{secrets.token_hex(8)}.tmp"


def keep(descriptor: int, path: Path) -> bool:
    """Whether a new temporary file or folder still exists after this process has locked it.

    Another process may have removed it as a leftover before the lock.
    """
    with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever removed
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.path.exists(path)


def hold(descriptor: int) -> bool:
    """Whether this process now holds the lock on an open file or folder.

    False where another process holds it, and on a file system without locks, where nothing is ever removed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders of processes that were killed; those of running ones are locked."""
    try:
        names = [name for name in os.listdir(folder) if TEMPORARY.fullmatch(name)]
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            is_folder = os.path.isdir(path)
            descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW)
            try:
                if hold(descriptor):
                    shutil.rmtree(path) if is_folder else os.remove(path)
            finally:
                os.close(descriptor)


def add_checksum(file: IO[bytes]) -> None:
    """Adds to a file the checksum of its bytes."""
    file.flush()
    file.seek(0)
    checksum = _checksum(file, os.fstat(file.fileno()).st_size)
    file.seek(0, os.SEEK_END)
    file.write(checksum)


def has_checksum(file: IO[bytes]) -> bool:
    """Whether a file ends with the checksum of the bytes before."""
    size = os.fstat(file.fileno()).st_size - CHECKSUM.size
    return size > 0 and _checksum(file, size) == file.read()


def _checksum(file: IO[bytes], size: int) -> bytes:
    """The checksum of the next `size` bytes."""
    value = 0
    while size:
        part = file.read(min(size, READ))
        if not part:
            break
        value, size = zlib.crc32(part, value), size - len(part)
    return CHECKSUM.pack(value)
