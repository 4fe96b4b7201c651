"""What a run changes in its process, and changes back: a notebook or a program goes on after it as before."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A context in which libraries are quiet and JAX may be configured.

    Afterwards Python's path, absl's log level, JAX's configuration and the variables of QUIET are as before.
    """
    log, path = logging.getLogger("absl"), list(sys.path)
    level, added = log.level, [name for name in QUIET if name not in os.environ]
    os.environ.update({name: QUIET[name] for name in added})
    log.setLevel(logging.CRITICAL)
    import jax

    options = dict(jax.config.values)
    try:
        yield
    finally:
        for name, value in options.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        log.setLevel(level)
        sys.path[:] = path
        for name in added:
            os.environ.pop(name, None)
