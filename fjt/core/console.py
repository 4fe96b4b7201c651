"""Output for a person while a run goes on: rich progress in a terminal, plain lines when piped."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class _Console(Console):
    """A Console that falls silent when its output cannot be written any more.

    lost: why, "" while it can be: a pipe whose reader has left (rich itself would end the process), a full disk.
    """

    lost = ""

    def on_broken_pipe(self) -> None:
        self.fall_silent("the reader of this output has left")

    def fall_silent(self, why: str) -> None:
        self.lost, self.quiet = why, True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())  # what is still buffered goes there at the end
        os.close(silence)


# It prints to sys.stdout as it is at each line, in notebooks too.  Names of files and labels are shown as they are:
# "[v2]" is not markup, ":bug:" is not a picture.
CONSOLE = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def lost() -> str:
    """Why the output of this process cannot be written any more; "" while it can."""
    return CONSOLE.lost


def _print(*parts: Any, **options: Any) -> None:
    try:
        try:
            CONSOLE.print(*parts, **options)
        except UnicodeEncodeError:  # in a program of the user's: commands have set this at their start
            sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
            CONSOLE.print("", end="")  # it has kept the text
    except OSError as error:
        CONSOLE.fall_silent(f"this output cannot be written: {error.strerror}")


@runtime_checkable
class View(Protocol):
    """The output of a run.  This module is one; `Silent` and a study's workers are others."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def bar(
        self, label: str, total: int, done: int = 0, every: int = 0
    ) -> contextlib.AbstractContextManager["BarView"]: ...


@runtime_checkable
class BarView(Protocol):
    """A progress bar."""

    def update(self, done: int, note: str = "") -> None: ...


def say(text: str) -> None:
    """Prints a line."""
    _print(text)


def warn(text: str) -> None:
    """Prints a warning, in yellow."""
    _print(f"warning: {text}", style="yellow")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table.  A column whose name starts with `>` is right-aligned."""
    names = [column.lstrip(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    texts = [[str(cell) for cell in row] for row in rows]
    if not CONSOLE.is_terminal:
        say(title)
        lines = [names, *texts]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            say("  " + "  ".join(cells).rstrip())
        return
    layout = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for name, is_right in zip(names, right, strict=True):
        layout.add_column(name, justify="right" if is_right else "left")
    for row in texts:
        layout.add_row(*row)
    _print(layout)


class Silent:
    """A View that prints nothing."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def bar(self, label: str, total: int, done: int = 0, every: int = 0) -> Iterator[BarView]:
        yield self

    def update(self, done: int, note: str = "") -> None:
        pass


class Bar:
    """One line of progress."""

    def __init__(self, progress: Progress | None, label: str, total: int, done: int, every: int) -> None:
        self._progress, self._label, self._total, self._every = progress, label, total, every
        self._start, self._first = time.monotonic(), done
        self._task = progress.add_task(label, total=total, completed=done, note="") if progress else None

    def update(self, done: int, note: str = "") -> None:
        """Moves to `done` of the total; when piped, prints one line per `every` units and one at the end."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif self._every and (done % self._every == 0 or done == self._total):
            seconds_per_unit = (time.monotonic() - self._start) / max(1, done - self._first)
            left = duration(seconds_per_unit * (self._total - done))
            say(f"{self._label} {done}/{self._total}  {note}{'  ' if note else ''}ETA {left}")


@contextlib.contextmanager
def bar(label: str, total: int, done: int = 0, every: int = 0) -> Iterator[Bar]:
    """A Bar for the duration of a `with` block.

    Args:
        label: text before the bar.
        total: number of units at the end.
        done: number of units at the start.
        every: units between two lines of a piped run; 0 prints none.
    """
    if not CONSOLE.is_terminal:
        yield Bar(None, label, total, done, every)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        yield Bar(progress, label, total, done, every)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
