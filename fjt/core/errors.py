"""The error of a user's mistake, the hint that goes into its message, and the exit code of a command."""

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any


class UserError(Exception):
    """A mistake in the user's input.  Its message names the value, the place and the remedy.  Exit code 2."""


class Ended(Exception):
    """A command ends early, and not by a mistake of the user.  code: its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def suggest(name: Any, valid: Iterable[Any]) -> str:
    """' Did you mean ...?' with the valid names nearest to `name`, or a list of all of them when none is near."""
    names = [str(value) for value in valid]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    return f" Valid: {', '.join(sorted(names))}."


def exit_code(command: Callable[[], int], place: Callable[[], str], interrupted: str = "", kept: str = "") -> int:
    """The exit code of a command of fjt.  A user's mistake, an error of the system or Ctrl-C is one line on stderr.

    Args:
        command: does the work and returns the exit code.
        place: names the output, for errors of the system that name no file, such as a full disk.
        interrupted: follows "stopped by SIGINT" after Ctrl-C.
        kept: a sentence after an error of the system, about files written before it.

    Returns:
        The code of the command or of Ended; 2 after a mistake or an error of the system, 130 after Ctrl-C.
    """
    try:
        return command()
    except KeyboardInterrupt:
        line, code = f"stopped by SIGINT{interrupted}", 130
    except Ended as ended:
        line, code = str(ended), ended.code
    except UserError as error:
        line, code = str(error), 2
    except OSError as error:
        line, code = f"{error.strerror or error}: {error.filename or place()}.{kept}", 2
    print(f"fjt: {line}", file=sys.stderr)
    return code
