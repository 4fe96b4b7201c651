"""Eight devices in any layout give the losses of one, and send no more than the layout asks for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.core.options import ExecutionConfig, MeshConfig, Settings
from fjt.experiment import prepare
from fjt.models import blocks
from fjt.training import placement

SCRIPT = Path(__file__).parent / "eight_devices.py"
NAMES = [f"{mesh}{spread}" for mesh in ("8x1", "4x2", "2x4") for spread in ("", "-spread")]
SCALARS = 1024  # bytes: the loss, its weight, and the sums that make the norm of the gradient


def run_eight(output, *part):
    """What a process with eight devices writes."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "PYTHONPATH": str(SCRIPT.parent.parent),
    }
    command = [sys.executable, SCRIPT, output, *part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run_eight(tmp_path_factory.mktemp("eight") / "record.json")


@pytest.mark.slow
def test_a_run_goes_on_in_any_layout(tmp_path):
    record = run_eight(tmp_path / "restarts.json", "restarts")
    assert len(record) == 17  # four by four, and the spread one in its own
    for name, found in record.items():
        saved, resumed = name.split(" to ")
        assert found["bits"] and len(set(found["losses"])) == 20, name
        if saved == resumed:
            assert found["losses"] == found["undisturbed"], name
        np.testing.assert_allclose(found["losses"], found["undisturbed"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "name", "tolerance", "steps"),
    [(f"{method}/float64", name, 1e-12, 60) for method in ("full", "lora") for name in NAMES]
    + [("full/float32", name, 2e-6, 20) for name in ("8x1", "8x1-spread", "2x4")],
)
def test_losses_are_those_of_one_device(record, kind, name, tolerance, steps):
    found, reference = record["losses"][f"{kind}/{name}"], record["losses"][f"{kind}/1x1"]
    assert len(found) == steps and len(set(reference)) == steps and np.isfinite(reference).all()
    np.testing.assert_allclose(found, reference, rtol=tolerance)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_data_parallelism_reduces_what_trains_once_and_sends_nothing_else(record, method):
    trained, _ = record["bytes"][method]
    sent = record["sent"][f"{method}/8x1"]
    assert set(sent) == {"all-reduce"} and trained <= sent["all-reduce"] <= trained + SCALARS


def test_spread_parameters_are_gathered_once_and_their_gradients_reduced_once(record):
    trained, whole = record["bytes"]["full"]
    sent = record["sent"]["full/8x1-spread"]
    assert set(sent) <= {"all-reduce", "all-gather", "reduce-scatter"}
    reduced = sent["all-reduce"] + sent.get("reduce-scatter", 0)
    assert whole - SCALARS <= sent["all-gather"] <= whole and trained <= reduced <= trained + SCALARS


def test_without_constraints_xla_would_send_activations(record):
    """The mutant of the test above: sharded arguments and results alone."""
    free = record["sent"]["full/8x1-spread/free"]
    assert "all-to-all" in free and free["all-gather"] > 3 * record["bytes"]["full"][1]


def test_devices_that_share_a_layer_gather_no_parameters(record):
    """A rule with a wrong axis gives the same numbers, and is seen by what it sends."""
    _, whole = record["bytes"]["full"]
    assert set(record["sent"]["full/2x4"]) == {"all-reduce"}
    assert record["sent"]["full/2x4/wrong"].get("all-gather", 0) > whole


def test_where_parameters_are_stored():
    mesh = placement.make_mesh(2, 2)
    whole, both = placement.Layout(placement.make_mesh(4)), placement.Layout(mesh, blocks.SHARDING, True)
    spread = placement.Layout(placement.make_mesh(4), blocks.SHARDING, True)
    assert whole.is_whole and placement.Layout(placement.make_mesh(1), blocks.SHARDING, True).is_whole
    assert not both.is_whole and not spread.is_whole
    expected = {
        "encoder/layer_0/query/kernel": ((32, 32), ("data", "model")),
        "opt_state/0/mu/encoder/layer_1/output/kernel": ((64, 32), ("model", "data")),
        "encoder/layer_0/intermediate/bias": ((64,), ("model",)),
        "encoder/layer_0/output/bias": ((32,), ("data",)),
        "adapters/lora/layer_0/query/a": ((32, 8), ("data",)),
        "encoder/layer_0/value/kernel": ((32, 31), ("data", None)),  # the axis `model` does not divide it
        "head/classifier/bias": ((3,), (None,)),
        "step": ((), ()),
    }
    for name, (shape, axes) in expected.items():
        sharding = both.stored(name, shape)
        wanted = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        assert sharding.is_equivalent_to(wanted, len(shape)), (name, sharding.spec)
        assert "data" not in both.in_use(name, shape).spec


def test_a_mesh_that_is_not_there_is_refused():
    for data, model in ((8, 1), (3, 2), (0, 8)):
        with pytest.raises(UserError, match=rf"config.mesh.data={data}, .model={model}: there are 4 cpu devices"):
            placement.make_mesh(data, model)
    assert placement.make_mesh(0, 2).shape == {"data": 2, "model": 2}


def test_a_mesh_that_does_not_divide_the_heads_is_refused():
    settings = small.double(Settings, execution=small.double(ExecutionConfig, mesh=MeshConfig(1, 3)))
    with pytest.raises(
        UserError, match=r"config.mesh.model=3 does not divide the 4 attention heads .* Valid: 1, 2, 4\."
    ):
        prepare.share(settings, small.CONFIG)
    shared = small.double(Settings, execution=small.double(ExecutionConfig, mesh=MeshConfig(0, 2, True)))
    layout = prepare.share(shared, small.CONFIG)
    assert layout.mesh.shape == {"data": 2, "model": 2} and layout.spread and layout.rules == blocks.SHARDING
