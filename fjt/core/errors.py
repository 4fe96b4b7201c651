"""The error of a user's mistake, and the hint that goes into its message."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake in the user's input.  Its message names the value, the place and the remedy.  Exit code 2."""


def suggest(name: Any, valid: Iterable[Any]) -> str:
    """' Did you mean ...?' with the valid names nearest to `name`, or a list of all of them when none is near."""
    names = [str(value) for value in valid]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    return f" Valid: {', '.join(sorted(names))}."
