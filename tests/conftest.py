"""Settings of every test: four simulated CPU devices, no silent broadcasting, types are checked, no network."""

import gc
import importlib.metadata
import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs here are tiny and many: compiling them is what costs, so LLVM's optimisation is left out (5 times faster).
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag ends the process; later ones lack it
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
sys.path.insert(0, os.path.dirname(__file__))

import hypothesis
import jax
import jaxtyping
import pytest
import typed

jaxtyping.install_import_hook(
    typed.MODULES, "typed.checked"
)  # types and shapes are checked at each call of fjt's functions

jax.config.update("jax_numpy_rank_promotion", "raise")

# A deadline would fail what is right on a busy machine.
hypothesis.settings.register_profile("fjt", deadline=None)
hypothesis.settings.load_profile("fjt")


@pytest.fixture(autouse=True)
def seed():
    """The checker looks at one random item of each list: the same one whenever the test runs."""
    random.seed(0)


SLOWEST = ("tuning", "end_to_end", "training", "experiment", "study", "models")  # folders of tests


def pytest_collection_modifyitems(items):
    """The slowest folders come first, so that the workers end together."""
    items.sort(key=lambda item: SLOWEST.index(item.path.parent.name) if item.path.parent.name in SLOWEST else 9)


def pytest_collection_finish():
    """What the imports made stays: collections need not look through it again (a twentieth of the suite's time)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # tracing makes many objects and few that are garbage
