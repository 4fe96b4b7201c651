"""Stopping at a signal: noted when it comes, acted on between two steps."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from fjt.core import console, errors
from fjt.core.errors import Ended
from fjt.training import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_SEVERAL = (signal.SIGINT, signal.SIGHUP)  # JAX notes SIGTERM for all processes of a run
AT_ONCE = "\nfjt: stopped by {}; there was nothing to save, and the same command goes on from here\n"
LOOK = 0.5  # seconds between two looks for a signal that another process has received
NOTE = b"\nfjt: stopping at the next step, after saving; once more stops at once\n"


class Stopped(Ended):
    """A signal came; the state of the run is saved, or the run has ended.  The exit code is 128 + signal."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        why = f" ({console.lost()})" if number == signal.SIGPIPE else ""
        super().__init__(f"stopped by {name}{why}; the same command goes on from here", 128 + number)
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return Stopped, (self.number,)


class Stop:
    """A context that notes SIGINT, SIGTERM and SIGHUP: the loop then stops at the next step.

    Leaving it raises Stopped for a signal that came after the last step, such as while the result is written.

    Output that cannot be written any more counts as SIGPIPE.  A second signal ends the process at once, and so does
    the first one within `at_once`, in a command.  Python's own handlers wait for the compiler, so a thread watches the
    signals as they arrive.  With several processes all end that are within `at_once`, process 0 last.
    Outside the main thread, where Python cannot set handlers, signals keep the meaning that they had.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._watcher: threading.Thread | None = None
        self._idle = False

    def __enter__(self) -> "Stop":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS if processes.count() == 1 else OF_SEVERAL:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # which nohup ignores
                self._before[number] = signal.signal(number, self._note)
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._pipe is not None and self._watcher is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # ends the thread
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._watcher.join()  # a program that trains in Python sees no thread of a run afterwards
        if kind is None or issubclass(kind, Ended):  # the run has ended or failed: a study would go on to the next
            self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._number = self._number or number

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A context with nothing to save, such as compilation.  Raises Stopped for a signal that came before."""
        self._idle = errors.in_command()  # of several too: none takes a step while one compiles
        try:
            self.check()
            yield
            if self._idle:
                processes.any_of(False)  # all leave together: one that waits for another has nothing to save either
        except Exception as error:
            if self._idle and self._watcher and not isinstance(error, Ended) and processes.is_preempted():
                self._watcher.join()  # the others have ended, which failed here; the thread ends this process, too
            raise
        finally:
            self._idle = False

    def wanted(self) -> int | None:
        """The signal at which all processes stop now, or None."""
        return processes.agree_to_stop(self._number or (signal.SIGPIPE if console.lost() else None))

    def check(self) -> None:
        """Raises Stopped if a stop is wanted."""
        number = self.wanted()
        if number is not None:
            raise Stopped(number)

    def _watch(self, pipe: int) -> None:
        """Ends the process at the second signal that comes through a pipe, or at the first one within `at_once`."""
        several, received = processes.count() > 1, []
        while True:
            if several and self._idle and processes.is_preempted():
                _end(received[0] if received else signal.SIGTERM)
            if several and not select.select([pipe], [], [], LOOK)[0]:
                continue
            byte = os.read(pipe, 1)
            if not byte:
                break
            if byte[0] in self._before:
                received.append(byte[0])
                if len(received) == 2:
                    os._exit(128 + byte[0])
                if self._idle and not several:
                    _end(byte[0])
                if self._idle:
                    processes.forward()
                else:
                    _tell(NOTE)
        os.close(pipe)


def _end(number: int) -> NoReturn:
    """Ends this process at a signal that found nothing to save."""
    if processes.is_main():
        _tell(AT_ONCE.format(signal.Signals(number).name).encode())
        if processes.count() > 1:
            time.sleep(2 * LOOK)  # without process 0 the others would fail instead
    os._exit(128 + number)


def _tell(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(2, line)
