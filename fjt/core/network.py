"""Waiting for a server, up to a time limit."""

import threading
from collections.abc import Callable
from typing import TypeVar

from fjt.core.errors import UserError

Result = TypeVar("Result")


class Unreachable(UserError):
    """A server that is needed does not answer."""


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """The result of function().

    It is called in a thread, because no timeout of a socket covers the look-up of the host's name, which alone can
    take minutes.

    Raises:
        TimeoutError: the function has not ended after `seconds`.
        Exception: any exception of the function.
    """
    results, errors = [], []

    def call() -> None:
        try:
            results.append(function())
        except Exception as exception:
            errors.append(exception)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds} s")
    return results[0]
