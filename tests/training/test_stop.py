"""Signals are noted, acted on between two steps, and a second one ends the process whatever it computes."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from fjt.core import console
from fjt.core.errors import UserError
from fjt.training.checkpoint import NotFinite
from fjt.training.stop import Stop, Stopped

# A second of compilation, as far as signals are concerned: a call of C that lets no handler of Python run.
BUSY = """
import hashlib, threading
from fjt.training.stop import Stop
with Stop() as stop:
    threading.Timer(0.5, print, ["ready"], {{"flush": True}}).start()  # when the call has begun
    while not stop.wanted():
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
print("stopped", stop.wanted(), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_its_handler_put_back(number):
    outside = signal.signal(number, before := signal.default_int_handler)  # under nohup the tests ignore some
    try:
        with pytest.raises(Stopped, match=f"stopped by {number.name}; the same command goes on") as stopped:
            with Stop() as stop:
                assert stop.wanted() is None
                signal.raise_signal(number)
                assert stop.wanted() == number
                stop.check()
        assert stopped.value.code == 128 + number and signal.getsignal(number) is before
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(number, outside)


def test_a_run_leaves_no_thread(monkeypatch):
    """However late its own one ends."""
    watch, before = Stop._watch, threading.enumerate()

    def watch_long(self, pipe):
        watch(self, pipe)
        time.sleep(0.2)

    monkeypatch.setattr(Stop, "_watch", watch_long)
    with Stop():
        assert threading.enumerate() != before
    assert threading.enumerate() == before


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.wanted() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_leaves_is_noted(monkeypatch):
    monkeypatch.setattr(console.CONSOLE, "lost", "the reader of this output has left")
    with pytest.raises(Stopped, match=r"SIGPIPE \(the reader of this output has left\)") as stopped, Stop() as stop:
        stop.check()
    assert stopped.value.code == 141


@pytest.mark.parametrize(
    ("error", "raised"), [(None, Stopped), (NotFinite("the loss is nan"), Stopped), (UserError("no"), UserError)]
)
def test_a_signal_that_nothing_acted_on_is_not_lost(error, raised):
    """It came after the last step, and the study would go on to its next run.  A mistake is still told."""
    with pytest.raises(raised), Stop():
        signal.raise_signal(signal.SIGTERM)
        if error:
            raise error


def test_a_thread_without_signals_of_its_own_can_train():
    found = []

    def train():
        with Stop() as stop:
            found.append(stop.wanted())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.thorough
def test_a_second_signal_ends_a_process_that_compiles():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(rounds=10**9)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    for wanted, patience in ((None, 2), (128 + signal.SIGTERM, 60)):  # seconds
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() == wanted
    assert "stopping at the next step" in process.communicate()[1]


ALONE = """
from fjt.core import errors
from fjt.training import processes, stop
preempted = []
errors.in_command = processes.is_main = lambda: True
processes.count = lambda: 2
processes.agree_to_stop = lambda number: None
processes.is_preempted = lambda: bool(preempted)
with stop.Stop() as one, one.at_once():
    preempted.append(True)
    raise RuntimeError("another process was lost")
"""


def test_a_process_whose_others_ended_at_a_signal_ends_likewise():
    """Not by the error that their end brings, though that comes first."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM and "nothing to save" in done.stderr, done.stderr


def test_a_stop_can_be_sent_to_another_process():
    for number in (signal.SIGINT, signal.SIGTERM):
        sent = pickle.loads(pickle.dumps(Stopped(number)))
        assert (type(sent), sent.number, sent.code, str(sent)) == (Stopped, number, 128 + number, str(Stopped(number)))


def test_looking_for_a_stop_starts_no_device():
    """The driver of a study on other machines would take the memory of an accelerator of its own."""
    program = """
import jax._src.xla_bridge as bridge
from fjt.training.stop import Stop
with Stop() as stop:
    assert stop.wanted() is None
print("started:", list(bridge._backends))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "started: []\n"
