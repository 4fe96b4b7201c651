"""Leases: several processes, on one machine or on several that share a folder, divide work without doing any twice."""

import contextlib
import json
import os
import re
import secrets
import socket
import threading

EXPIRY = 120.0  # seconds without a sign of life after which a holder is taken for dead
PULSE = 15.0  # seconds between two signs of life


class Lost(Exception):
    """A lease was taken over by another process, for its holder gave no sign of life in time."""


class Lease:
    """One holder's claim to the work in a folder, kept alive by a thread until it is released.

    The claim is a file `lease.N` that only one process can have created.  Who finds the holder of N dead creates
    `lease.N+1`, which again only one can, so a claim passes on at most once and needs no lock that crosses machines.
    """

    def __init__(self, path, words):
        self._path, self._words = path, words
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self):
        while not self._over.wait(PULSE):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def check(self):
        """Raises Lost when another process has taken over."""
        if not self._stands():
            raise Lost(f"{self._path} was taken over by another process")

    def _stands(self):
        folder, name = os.path.split(self._path)
        try:
            with open(self._path, encoding="utf-8") as file:
                return json.load(file) == self._words and f"lease.{_newest(folder)}" == name
        except FileNotFoundError:
            return False

    def release(self):
        """Ends the claim; the work may be claimed anew."""
        self._over.set()
        self._thread.join()
        if self._stands():
            os.remove(self._path)


def claim(folder):
    """A Lease of the work in a folder, None while another process that lives holds it."""
    os.makedirs(folder, exist_ok=True)
    newest = _newest(folder)
    if newest and not _dead(os.path.join(folder, f"lease.{newest}"), folder):
        return None
    path, written = os.path.join(folder, f"lease.{newest + 1}"), _own(folder, "claim")
    words = {"host": socket.gethostname(), "process": os.getpid(), "started": _started(os.getpid())}
    words["token"] = secrets.token_hex(8)
    with open(written, "w", encoding="utf-8") as file:
        json.dump(words, file)
    try:
        os.link(written, path)  # with its words in it, or not at all
    except FileExistsError:
        return None
    finally:
        os.remove(written)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, f"lease.{newest}"))
    return Lease(path, words)


def _newest(folder):
    found = [re.fullmatch(r"lease\.(\d+)", name) for name in os.listdir(folder)]
    return max((int(match.group(1)) for match in found if match), default=0)


def _started(process):
    """The tick at which a process of this machine started, for numbers are used again; None when it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(rest[18])


def _dead(path, folder):
    """Whether a lease's holder is gone: known at once on its own machine, after EXPIRY elsewhere."""
    try:
        with open(path, encoding="utf-8") as file:
            holder = json.load(file)
        age = _now(folder) - os.stat(path).st_mtime
    except FileNotFoundError:
        return True  # released just now
    if holder["host"] == socket.gethostname() and os.path.exists("/proc/self/stat"):
        return _started(holder["process"]) != holder["started"]
    return age > EXPIRY


def _now(folder):
    """The time of the folder's own clock, which is not this machine's on a network file system."""
    path = _own(folder, "clock")
    with open(path, "w", encoding="utf-8"):
        pass
    now = os.stat(path).st_mtime
    os.remove(path)
    return now


def _own(folder, name):
    """A path that no other process or thread uses."""
    return os.path.join(folder, f".{name}-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}")
