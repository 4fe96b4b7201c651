"""Stopping at a signal: noted when it comes, acted on between two steps."""

import os
import signal
from types import FrameType
from typing import Any

from fjt.core.errors import Ended
from fjt.training import placement


class Stopped(Ended):
    """The run was stopped by a signal after its state was saved.  The exit code is 128 + signal."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; the same command goes on from here", 128 + number)


class Stop:
    """A context that notes SIGINT and SIGTERM: the loop then stops at the next step.  A second one exits at once."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._number is not None:
            raise SystemExit(128 + number)
        self._number = number
        os.write(2, b"\nfjt: stopping at the next step, after saving; once more stops at once\n")

    def wanted(self) -> int | None:
        """The signal at which all processes stop now, or None."""
        return placement.agree_to_stop(self._number)

    def check(self) -> None:
        """Raises Stopped if a stop is wanted."""
        number = self.wanted()
        if number is not None:
            raise Stopped(number)
