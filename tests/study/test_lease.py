"""A lease is held by one, passes on when its holder is gone, and says so to a holder that wakes too late."""

import concurrent.futures
import json
import multiprocessing
import os
import signal
import time

import pytest

from fjt.study import lease


def test_one_holder_at_a_time(tmp_path):
    first = lease.claim(tmp_path)
    assert first and lease.claim(tmp_path) is None
    first.check()
    first.release()
    again = lease.claim(tmp_path)
    assert again
    again.release()
    assert os.listdir(tmp_path) == []


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    for i in range(20):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            held = [x for x in pool.map(lease.claim, [tmp_path / str(i)] * 8) if x]
        assert len(held) == 1
        held[0].release()


def _hold(folder, told):
    held = lease.claim(folder)
    told.send(held is not None)
    time.sleep(60)


def test_a_killed_holder_s_lease_passes_on_at_once(tmp_path):
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=_hold, args=(tmp_path, there))
    process.start()
    assert here.recv() and lease.claim(tmp_path) is None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    held = lease.claim(tmp_path)
    assert held
    held.release()


def as_of_another_machine(folder, number, age):
    """Makes a lease look as if another machine held it, silent for `age` seconds."""
    path = folder / f"lease.{number}"
    path.write_text(json.dumps({"host": "elsewhere", "process": os.getpid(), "started": 0}))
    os.utime(path, (time.time() - age,) * 2)


def test_on_another_machine_silence_tells(tmp_path):
    sleeper = lease.claim(tmp_path)
    as_of_another_machine(tmp_path, 1, lease.EXPIRY - 30)
    assert lease.claim(tmp_path) is None
    as_of_another_machine(tmp_path, 1, lease.EXPIRY + 1)
    held = lease.claim(tmp_path)
    held.check()
    with pytest.raises(lease.Lost):
        sleeper.check()
    held.release()
    with pytest.raises(lease.Lost):  # as well when the one that took over is done
        sleeper.check()
    held = lease.claim(tmp_path)  # under the number that the sleeper had
    with pytest.raises(lease.Lost):
        sleeper.check()
    sleeper.release()
    held.check()
    held.release()


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "PULSE", 0.01)
    held = lease.claim(tmp_path)
    os.utime(tmp_path / "lease.1", (time.time() - lease.EXPIRY - 1,) * 2)
    deadline = time.monotonic() + 10
    while (silent := time.time() - os.stat(tmp_path / "lease.1").st_mtime) > 60 and time.monotonic() < deadline:
        time.sleep(0.01)
    held.release()
    assert silent < 60
