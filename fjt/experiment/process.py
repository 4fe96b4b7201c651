"""What a run changes in its process, and changes back: a notebook or a program goes on after it as before."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

# JAX's options that change the numbers of a run or the programs that can be compiled, by the names of their contexts,
# with JAX's own defaults.  JAX_ENABLE_X64=1 or a notebook's jax.config would otherwise lead to other bits under the
# same fingerprint.
JAX_OPTIONS = {
    "enable_x64": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "enable_custom_prng": False,
    "numpy_dtype_promotion": "standard",
    "softmax_custom_jvp": False,
    "disable_jit": False,
    "debug_nans": False,  # fjt has its own check, which records the run as failed
    "debug_infs": False,
}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A context in which libraries are quiet, and JAX has the options of JAX_OPTIONS and may be configured.

    Afterwards Python's path, absl's log level, JAX's configuration and the variables of QUIET are as before.

    Raises:
        ValueError: JAX refuses one of its variables in the environment.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_put_back, list(sys.path), logging.getLogger("absl").level)
        for name in [name for name in QUIET if name not in os.environ]:
            os.environ[name] = QUIET[name]
            stack.callback(os.environ.pop, name, None)
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        import jax

        stack.callback(_put_back_options, dict(jax.config.values))
        for name, value in JAX_OPTIONS.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def _put_back(path: list[str], level: int) -> None:
    """Gives Python its path and absl its log level."""
    sys.path[:] = path
    logging.getLogger("absl").setLevel(level)


def _put_back_options(options: dict[str, Any]) -> None:
    """Gives JAX its configuration."""
    import jax

    for name, value in options.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)
