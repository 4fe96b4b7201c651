"""Settings of every test: four simulated CPU devices, no silent broadcasting, warnings are errors, no network."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
sys.path.insert(0, os.path.dirname(__file__))

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
