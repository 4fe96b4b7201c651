"""Waiting for a server: no longer than said."""

import threading

from fjt.core.errors import UserError


class Unreachable(UserError):
    """A server that is needed does not answer."""


def within(seconds, function):
    """function() when it ends in time; else raises TimeoutError.  Its own exceptions pass through.

    In a thread: no timeout of a socket covers the look-up of the host's name, which alone can take minutes.
    """
    result, error = [], []

    def call():
        try:
            result.append(function())
        except Exception as exception:
            error.append(exception)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if error:
        raise error[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds} s")
    return result[0]
