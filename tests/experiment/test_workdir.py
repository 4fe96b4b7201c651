"""A work directory is held by one process, and free as soon as that process is gone."""

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

import pytest

from fjt.core.errors import UserError
from fjt.experiment.workdir import InUse, lock


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
    with pytest.raises(UserError, match=r"cannot be locked: No locks available\. Give a folder"), lock(tmp_path):
        pass
