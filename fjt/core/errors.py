"""The error of a user's mistake, the hint that goes into its message, and the exit code of a command."""

import atexit
import contextlib
import difflib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # begins the message of JAX's error where a device has too little memory
BAD_ENVIRONMENT = ("for environment 'JAX_", "for JAX flag jax_")  # where JAX, when it is imported, reads a value there
MEMORY_REMEDY = "In training, a smaller config.train.batch_size or a larger config.train.accumulation needs less."
MOST_ROWS = 20  # a message lists at most this many bad rows


class UserError(Exception):
    """A mistake in the user's input.  Its message names the value, the place and the remedy.  Exit code 2."""


class BadRows(UserError):
    """The mistakes in the rows of a table, in one message.

    Attributes:
        faults: {number of the row: message, which begins with its place}.
    """

    def __init__(self, faults: Mapping[int, str]) -> None:
        self.faults = dict(sorted(faults.items()))
        texts = list(self.faults.values())
        more = [f"and {len(texts) - MOST_ROWS:,} more bad rows."] if len(texts) > MOST_ROWS else []
        lines = [f"{len(texts):,} bad rows:", *texts[:MOST_ROWS], *more]
        super().__init__(texts[0] if len(texts) == 1 else "\n  ".join(lines))


def read_rows(read: Callable[[Item], Read], rows: Iterable[Item]) -> list[Read]:
    """The value of each row.

    Args:
        read: returns the value of a row, or raises UserError.
        rows: the rows.

    Raises:
        BadRows: `read` raised UserError; the message lists all such rows.
    """
    values, faults = [], {}
    for number, row in enumerate(rows):
        try:
            values.append(read(row))
        except UserError as error:
            faults[number] = str(error)
    if faults:
        raise BadRows(faults)
    return values


class Ended(Exception):
    """A command ends early, and not by a mistake of the user.  code: its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return Ended, (str(self), self.code)


def suggest(name: Any, valid: Iterable[Any]) -> str:
    """' Did you mean ...?' with the valid names nearest to `name`, or a list of all of them when none is near."""
    names = sorted({str(value) for value in valid})
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    return f" Valid: {', '.join(names)}."


class _Process:
    """This process.  command: whether it executes a command of fjt, not another program that uses fjt."""

    command = False


def in_command() -> bool:
    """Whether this process executes a command of fjt, and nothing else that has to go on after it."""
    return _Process.command


def exit_code(command: Callable[[], int], place: Callable[[], str], interrupted: str = "", kept: str = "") -> int:
    """The exit code of a command of fjt.  An error of the system or Ctrl-C is one line on stderr.

    So is a user's mistake, unless its message lists bad rows.

    Args:
        command: does the work and returns the exit code.
        place: names the output, for errors of the system that name no file, such as a full disk.
        interrupted: follows "stopped by SIGINT" after Ctrl-C.
        kept: a sentence after an error of the system, about files written before it.

    Returns:
        The code of the command or of Ended; 2 after a mistake or an error of the system, 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # where a pipe was put in the place of a file
            sys.stdout.reconfigure(errors="replace")  # a terminal without the character shows ? in its place
    try:
        with _every_interrupt():
            _check_directory()
            _Process.command = True
            return command()
    except KeyboardInterrupt:
        line, code = f"stopped by SIGINT{interrupted}", 130
    except Ended as ended:
        line, code = str(ended), ended.code
    except Exception as error:
        line, code = explain(error, place, kept), 2
        if not line:
            raise
    finally:
        _Process.command = False
    # Orbax leaves futures behind that failed with the error: at the end of the process each would print a traceback.
    atexit.register(logging.getLogger("asyncio").setLevel, logging.CRITICAL)
    atexit.register(setattr, sys, "unraisablehook", without_closed_loops(sys.unraisablehook))
    with contextlib.suppress(BrokenPipeError):  # of 2>&1 | head: nobody reads it
        print(f"fjt: {line}", file=sys.stderr)
    return code


def explain(error: Exception, place: Callable[[], str], kept: str = "") -> str:
    """The line that tells a user what went wrong, "" for an error of another kind, which is fjt's own.

    Args:
        error: what was raised.
        place: names the output, for errors of the system that name no file, such as a full disk.
        kept: a sentence after an error of the system, about files written before it.
    """
    match error:
        case UserError():
            return str(error)
        case OSError():
            return f"{error.strerror or error}: {error.filename or place()}.{kept}"
        case ValueError() if any(part in str(error) for part in BAD_ENVIRONMENT):
            return f"JAX refuses the environment: {error}. Correct or unset the variable of that name."
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error):
            why = next(iter(str(error).splitlines()), "")
            return f"there is not enough memory{f' ({why:.200})' if why else ''}. {MEMORY_REMEDY}"
    return ""


def without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sys.unraisablehook that is silent where TensorStore, after a failed save, calls an event loop that has ended.

    hook: for all other exceptions.
    """

    def quiet(dropped: Any) -> None:
        if not (dropped.exc_type is RuntimeError and str(dropped.exc_value) == "Event loop is closed"):
            hook(dropped)

    return quiet


def _check_directory() -> None:
    """Raises UserError where the current directory was removed: no relative path would lead anywhere."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current directory was removed. Change to another one, and start again.") from None


@contextlib.contextmanager
def _every_interrupt() -> Iterator[None]:
    """A context in which no Ctrl-C is lost.

    Python drops an exception that is raised inside a callback, and JAX has one in each garbage collection.  A Ctrl-C
    that comes there is raised once more, a moment later.
    """
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            again = signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
            threading.Timer(0.01, *again).start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
