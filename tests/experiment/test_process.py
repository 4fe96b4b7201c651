"""A run's own state of JAX: what the environment or a notebook has set changes no number, and is there afterwards."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.experiment.process import JAX_OPTIONS, undisturbed
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


@pytest.mark.parametrize("flags", ["--xla_no_such_flag=1", "--xla_force_host_platform_device_count=many", "hello"])
def test_flags_that_xla_refuses_are_a_sentence(monkeypatch, flags):
    """XLA itself ends the process."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(UserError, match=rf"XLA_FLAGS={flags}: .*\. Correct or unset the variable"):
        placement.find_devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert placement.find_devices()
