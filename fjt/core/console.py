"""What a person sees while a run goes on: rich progress in a terminal, plain lines when piped."""

import contextlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

CONSOLE = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def say(text):
    """Prints a line."""
    CONSOLE.print(text, markup=False)


def warn(text):
    """Prints a line that should not be missed."""
    CONSOLE.print(f"warning: {text}", style="yellow", markup=False)


def table(title, columns, rows):
    """Prints a table; columns right-aligned when their name starts with `>`."""
    if not CONSOLE.is_terminal:
        say(title)
        rows = [[name.lstrip(">") for name in columns], *[[str(cell) for cell in row] for row in rows]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        for row in rows:
            cells = [
                c.rjust(w) if n.startswith(">") else c.ljust(w) for c, w, n in zip(row, widths, columns, strict=True)
            ]
            say("  " + "  ".join(cells).rstrip())
        return
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for name in columns:
        shown.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    for row in rows:
        shown.add_row(*[str(cell) for cell in row])
    CONSOLE.print(shown)


class Silent:
    """Takes what this module prints, and prints nothing."""

    def say(self, text):
        pass

    def warn(self, text):
        pass

    @contextlib.contextmanager
    def bar(self, label, total, done=0, every=0):
        yield self

    def update(self, done, note=""):
        pass


class Bar:
    """One line of progress."""

    def __init__(self, progress, label, total, done, every):
        self._progress, self._label, self._total, self._every = progress, label, total, every
        self._start, self._first = time.monotonic(), done
        self._task = progress.add_task(label, total=total, completed=done, note="") if progress else None

    def update(self, done, note=""):
        """Moves to `done` of the total; when piped, prints a line each `every` and at the end."""
        if self._progress:
            self._progress.update(self._task, completed=done, note=note)
        elif self._every and (done % self._every == 0 or done == self._total):
            rate = (time.monotonic() - self._start) / max(1, done - self._first)
            left = duration(rate * (self._total - done))
            say(f"{self._label} {done}/{self._total}  {note}{'  ' if note else ''}ETA {left}")


@contextlib.contextmanager
def bar(label, total, done=0, every=0):
    """A Bar for the length of a `with` block; every: how often a piped run prints (0: never)."""
    if not CONSOLE.is_terminal:
        yield Bar(None, label, total, done, every)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        yield Bar(progress, label, total, done, every)


def duration(seconds):
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
