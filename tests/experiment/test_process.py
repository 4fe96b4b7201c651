"""A run's own state of JAX: what the environment or a notebook has set changes no number, and is there afterwards."""

import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.experiment import finished, workdir
from fjt.experiment.process import JAX_OPTIONS, QUIET, undisturbed
from fjt.training import placement

OTHER = {"default_prng_impl": "rbg", "numpy_dtype_promotion": "strict"}  # the others are switched


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("name", JAX_OPTIONS)
def test_options_of_jax_have_one_value_in_a_run(name, everywhere):
    """everywhere: set by jax.config.update, or the environment; otherwise by a context of the program around a run."""
    key, other = f"jax_{name}", OTHER.get(name, not JAX_OPTIONS[name])
    before = getattr(jax.config, key)
    try:
        if everywhere:
            jax.config.update(key, other)
        with contextlib.nullcontext() if everywhere else getattr(jax, name)(other):
            with undisturbed():
                assert getattr(jax.config, key) == JAX_OPTIONS[name]
            assert getattr(jax.config, key) == other
    finally:
        jax.config.update(key, before)


def test_numbers_of_64_bits_do_not_reach_a_run():
    with jax.enable_x64(True):
        with undisturbed():
            assert jnp.asarray(np.float64(1)).dtype == np.float32
        assert jnp.asarray(np.float64(1)).dtype == np.float64


def test_an_export_is_checked_under_a_run_s_own_options(monkeypatch, tmp_path):
    found = []

    def check_output(output, option):
        found.append(jax.config.jax_numpy_dtype_promotion)
        raise UserError("enough")

    monkeypatch.setattr(workdir, "check_output", check_output)
    with jax.numpy_dtype_promotion("strict"), pytest.raises(UserError, match="enough"):
        small.double(finished.Run).export(tmp_path / "new")
    assert found == ["standard"]


def test_a_variable_that_jax_refuses_leaves_nothing_changed():
    program = """
import logging, os
os.environ["JAX_ENABLE_X64"] = "perhaps"
from fjt.experiment.process import QUIET, undisturbed
before = dict(os.environ), logging.getLogger("absl").level
try:
    with undisturbed():
        pass
except ValueError as error:
    print(error)
assert before == (dict(os.environ), logging.getLogger("absl").level)
"""
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "JAX_ENABLE_X64" in done.stdout, done.stderr


@pytest.mark.parametrize("flags", ["--xla_no_such_flag=1", "--xla_force_host_platform_device_count=many", "hello"])
def test_flags_that_xla_refuses_are_a_sentence(monkeypatch, flags):
    """XLA itself ends the process."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(UserError, match=rf"XLA_FLAGS={flags}: .*\. Correct or unset the variable"):
        placement.find_devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert placement.find_devices()
    monkeypatch.setattr(placement, "FLAGS_TIMEOUT", 0.001)  # of a machine that is too busy to try them
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --xla_cpu_enable_fast_min_max=false")
    assert placement.find_devices()
    monkeypatch.setattr(placement.sys, "executable", None)  # of a program that embeds Python
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert placement.find_devices()
