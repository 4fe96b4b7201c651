"""Compiled programs, kept on the disk for the processes that follow; and what else is set in JAX itself."""

import contextlib
import glob
import hashlib
import importlib.metadata
import os
import re
import warnings
from collections.abc import Iterator

import jax

from fjt.core import console, records
from fjt.core.options import ExecutionConfig, Settings
from fjt.experiment.inputs import cache_dir
from fjt.training import placement

KEPT_SECONDS = 0.1  # programs that take longer to compile are kept


def configure_jax(settings: Settings) -> None:
    """Sets JAX's own configuration: the precision of matrix products and the folder of compiled programs.

    Raises:
        UserError: JAX finds no device.
    """
    placement.find_devices()
    jax.config.update("jax_default_matmul_precision", settings.experiment.model.matmul_precision)
    keep_programs(settings.execution)


def keep_programs(execution: ExecutionConfig) -> None:
    """Compiled programs are kept in the cache, unless config.cache.compilation says otherwise.

    Programs for a CPU hold its instructions, and its number of cores decides the order of their sums: one folder
    serves processes that agree in all of that.

    Raises:
        UserError: JAX finds no device.
    """
    if execution.cache.compilation is False:
        jax.config.update("jax_compilation_cache_dir", None)
    elif execution.cache.compilation or not jax.config.values["jax_compilation_cache_dir"]:
        host = (records.processor(), records.instructions(), records.cores(), os.environ.get("XLA_FLAGS"))
        versions = (importlib.metadata.version("jaxlib"), placement.find_devices()[0].platform)
        key = hashlib.sha256(repr((host, versions)).encode()).hexdigest()[:16]
        folder = os.path.join(cache_dir(execution), "compiled", f"jax-{jax.__version__}-{key}")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


@contextlib.contextmanager
def damaged_removed(view: console.View) -> Iterator[None]:
    """A context of compilation in which damaged files of kept programs, which JAX only warns of, are removed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Error (reading|writing) persistent compilation cache entry")
        yield
    for warning in caught:
        found = re.match(r"Error (\w+) persistent compilation cache entry for '(\w+)': (.*)", str(warning.message))
        folder = jax.config.values["jax_compilation_cache_dir"]
        if not found or not folder:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        there = glob.glob(os.path.join(glob.escape(folder), f"{found[2]}-*-cache"))
        if found[1] == "writing" or not there:
            view.warn(f"{folder}: compiled programs cannot be kept: {found[3]}")
            continue
        removed = "it is removed"
        for path in there:
            try:
                os.remove(path)
            except FileNotFoundError:  # another process has removed it
                pass
            except OSError as error:
                removed = f"it cannot be removed ({error.strerror})"
        view.warn(f"{folder}: a kept program was damaged; {removed}, and compiled again")
