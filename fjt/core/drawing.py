"""Matplotlib without the settings of the user: fjt draws figures into files, which no window shows."""

import os
from contextlib import AbstractContextManager
from typing import Any

# Matplotlib cannot be imported while this variable names a backend that it does not know, as some notebooks' kernels
# leave it; a figure in a file needs none.
_backend = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib.style
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend


def style(settings: dict[str, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which figures have Matplotlib's own style, not that of a matplotlibrc, and some more settings."""
    return matplotlib.style.context(["default", settings or {}])
