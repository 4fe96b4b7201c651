"""The error of a user's mistake, and the hint that goes into its message."""

import difflib


class UserError(Exception):
    """A mistake in what the user gave; its message names the value, the place and the remedy. Exit code 2."""


def suggest(name, valid):
    """' Did you mean ...?' for the valid names nearest to `name`, or a list of all when none is near."""
    near = difflib.get_close_matches(str(name), [str(v) for v in valid], n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    return f" Valid: {', '.join(sorted(str(v) for v in valid))}."
