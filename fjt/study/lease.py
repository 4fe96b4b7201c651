"""Leases: several processes, on one machine or on several that share a folder, divide work and do none of it twice."""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
from typing import Any

EXPIRY = 120.0  # seconds without a sign of life after which a holder counts as dead
PULSE = 15.0  # seconds between two signs of life


class Lost(Exception):
    """Another process took the lease over, because its holder gave no sign of life in time."""


class Lease:
    """One holder's claim to the work in a folder, kept alive by a thread until it is released.

    The claim is a file `lease.N` that only one process can have created.  A process that finds the holder of N dead
    creates `lease.N+1`, which again only one process can.  A claim is therefore passed on at most once, without a lock
    that works across machines.

    Args:
        path: the file.
        holder: its contents, different for every claim.
    """

    def __init__(self, path: str, holder: dict[str, Any]):
        self._path, self._holder = path, holder
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while not self._released.wait(PULSE):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def check(self) -> None:
        """Raises Lost when another process has taken over."""
        if not self._is_valid():
            raise Lost(f"{self._path} was taken over by another process")

    def _is_valid(self) -> bool:
        folder, name = os.path.split(self._path)
        try:
            with open(self._path, encoding="utf-8") as file:
                return json.load(file) == self._holder and f"lease.{_newest(folder)}" == name
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Ends the claim, so that the work can be claimed again."""
        self._released.set()
        self._thread.join()
        if self._is_valid():
            os.remove(self._path)


def claim(folder: str) -> Lease | None:
    """A Lease of the work in a folder, or None while another live process holds it."""
    os.makedirs(folder, exist_ok=True)
    newest = _newest(folder)
    if newest and not _dead(os.path.join(folder, f"lease.{newest}"), folder):
        return None
    path, temporary = os.path.join(folder, f"lease.{newest + 1}"), _unique_path(folder, "claim")
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "token": secrets.token_hex(8),
    }
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(holder, file)
    try:
        os.link(temporary, path)  # the file appears with its contents, or not at all
    except FileExistsError:
        return None
    finally:
        os.remove(temporary)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, f"lease.{newest}"))
    return Lease(path, holder)


def _newest(folder: str) -> int:
    """The highest N of the files lease.N, 0 without one."""
    matches = [re.fullmatch(r"lease\.(\d+)", name) for name in os.listdir(folder)]
    return max((int(match.group(1)) for match in matches if match), default=0)


def _started(process: int) -> int | None:
    """The clock tick at which a process of this machine started, or None when it is gone.

    The process id alone does not identify a process, because ids are used again.
    """
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(rest[18])


def _dead(path: str, folder: str) -> bool:
    """Whether a lease's holder is gone: known at once on its own machine, after EXPIRY on others."""
    try:
        with open(path, encoding="utf-8") as file:
            holder = json.load(file)
        age = _now(folder) - os.stat(path).st_mtime
    except FileNotFoundError:
        return True  # released just now
    if holder["host"] == socket.gethostname() and os.path.exists("/proc/self/stat"):
        return _started(holder["process"]) != holder["started"]
    return age > EXPIRY


def _now(folder: str) -> float:
    """The time of the file system's clock, which on a network file system differs from this machine's clock."""
    path = _unique_path(folder, "clock")
    with open(path, "w", encoding="utf-8"):
        pass
    now = os.stat(path).st_mtime
    os.remove(path)
    return now


def _unique_path(folder: str, name: str) -> str:
    """A path that no other process or thread uses."""
    return os.path.join(folder, f".{name}-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}")
