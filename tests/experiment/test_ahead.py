"""Steps that are compiled ahead: they are the run's own, and say which batch is the largest that fits."""

import math

import jax
import numpy as np
import pytest
import roberta_files
import small

from fjt import configs
from fjt.core import console, tree
from fjt.core.errors import UserError
from fjt.core.options import MeshConfig
from fjt.core.settings import from_config
from fjt.experiment import ahead, arguments, chips, programs
from fjt.experiment.prepare import prepare
from fjt.training import placement

TINY = {f"model__scratch__{name}": n for name, n in (("layers", 1), ("width", 32), ("heads", 4), ("inner", 64))}
MESHES = [MeshConfig(1), MeshConfig(4), MeshConfig(4, shard_params=True), MeshConfig(2, 2)]


def settings_of(**options):
    return from_config(configs.load("quickstart", TINY | options)[0])


def params_bytes(params):
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "mesh", small.tiers(MESHES, MESHES[2], slow=[*MESHES[:2], MESHES[3]]), ids=["1x1", "4x1", "spread", "2x2"]
)
def test_it_is_the_step_of_the_run(mesh):
    settings = settings_of(mesh__data=mesh.data, mesh__model=mesh.model, mesh__shard_params=mesh.shard_params)
    experiment = prepare(settings, view=console.Silent())
    (stage,), place = experiment.stages, experiment.sharding.put
    state = place(arguments.first_state(experiment, stage, experiment.hyper))
    frozen = place(tree.split(experiment.params, stage.trainable)[1])
    eval_shape = arguments.pack_evaluated(experiment, stage)["dev"].shape
    hyper = placement.put_whole(experiment.hyper, experiment.mesh)
    own = programs.compile_programs(experiment, stage, state, frozen, hyper, eval_shape, {}, console.Silent())
    largest = max(own.train, key=lambda i: stage.shapes[i].rows * stage.shapes[i].row_length)
    text = own.train[largest].as_text()
    case = ahead.Case(settings.experiment.train.batch_size, mesh)
    found = ahead.Ahead(settings, jax.devices(), "", 0).compile(case)
    assert found.fits and found.needed == programs.bytes_of(own.train[largest])
    assert found.sent == ahead.program_text.sent(text) and (mesh.data == 1 or found.sent)
    assert found.flops == pytest.approx(own.flops[largest] / experiment.mesh.size)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_without_weights_and_data_it_sends_the_gradients_of_what_trains(method):
    made = ahead.Ahead(settings_of(tune__method=(method,)), jax.devices(), "2x32x4x64", 16)
    case = ahead.Case(8, MeshConfig(4))
    blueprint, stage, shape = made._plan(case)
    assert (shape.groups, shape.rows, shape.row_length) == (4, 2, 16)
    trained, _ = tree.split(blueprint.params, stage.trainable)
    found = made.compile(case)
    assert set(found.sent) == {("all-reduce", "float32")}
    assert found.sent["all-reduce", "float32"] == params_bytes(trained) + 8  # the loss and its weight
    assert (params_bytes(trained) < 0.2 * params_bytes(blueprint.params)) == (method == "lora")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model directory with random weights."""
    return str(roberta_files.write(tmp_path_factory.mktemp("roberta") / "model"))


@pytest.mark.parametrize("method", ["head", "gradual", "lora", "top_k"])
@pytest.mark.parametrize("reinit", [0, 1])
def test_the_same_names_train_as_in_the_run(checkpoint, method, reinit):
    options = {"model__path": checkpoint, "tune__method": (method,), "model__reinit_layers": reinit}
    settings = settings_of(**options, model__max_length=48, train__epochs=9)
    run = prepare(settings, view=console.Silent()).stages[-1]
    for encoder, padded in ("", 0), (checkpoint, 16):
        _, stage, _ = ahead.Ahead(settings, jax.devices(), encoder, padded)._plan(ahead.Case(32, MeshConfig(1)))
        assert (stage.trainable, stage.groups) == (run.trainable, run.groups)


def test_from_random_weights_all_trains():
    settings = settings_of(tune__method=("head",))
    run = prepare(settings, view=console.Silent())
    _, stage, _ = ahead.Ahead(settings, jax.devices(), "", 0)._plan(ahead.Case(32, MeshConfig(1)))
    assert stage.trainable == run.trainable == set(tree.flatten(run.params))


def test_the_largest_batch_is_no_larger_than_the_data():
    made = Imagined(1e12)
    made._rows = 300
    assert made.largest(ahead.Case(0, MeshConfig(4)), [], lambda one: None).case.batch == 300


class Imagined(ahead.Ahead):
    """A compiler whose programs take `each` bytes per example above `base`."""

    def __init__(self, capacity, base=100.0, each=7.0, bend=0.0):
        self._settings, self._devices, self._capacity, self._rows = settings_of(), jax.devices(), capacity, 0
        self._law = base, each, bend

    def compile(self, case):
        base, each, bend = self._law
        needed = base + each * case.batch + bend * case.batch**2
        fits = needed <= self._capacity
        return ahead.Measured(case, int(fits), 0, needed, 0, self._capacity, 0.0, 0, {}, {}, 0.0)


@pytest.mark.parametrize("capacity", [100.0, 131.9, 132.0, 500.0, 12_345.0])
def test_the_largest_batch_is_found_by_a_line(capacity):
    told, case = [], ahead.Case(0, MeshConfig(4))
    best = Imagined(capacity).largest(case, [], told.append)
    fitting = int((capacity - 100) // 7) // 4 * 4
    assert (best.case.batch if best else 0) == fitting
    assert len(told) <= 6 and (best is None or best in told)


def test_where_memory_is_no_line_the_largest_is_one_that_was_compiled_and_fits():
    told = []
    best = Imagined(50_000.0, bend=0.01).largest(ahead.Case(0, MeshConfig(4)), [], told.append)
    assert best in told and best.fits and best.case.batch > 1000


def test_of_a_device_whose_memory_nobody_knows_no_batch_is_the_largest():
    assert Imagined(math.inf).largest(ahead.Case(0, MeshConfig(4)), [], lambda one: None) is None


@pytest.mark.parametrize(
    ("options", "encoder", "padded", "words"),
    [
        ({}, "12x768x12", 128, ["--encoder=12x768x12", "base, large"]),
        ({}, "12x770x12x3072", 128, ["--encoder=12x770x12x3072", "770"]),
        ({}, "base", 0, ["--padded"]),
        ({}, "base", 513, ["513", "512 positions"]),
        ({"model__adapter": "runs/lora/export"}, "base", 128, ["config.model.adapter"]),
        ({"tune__method": ("lora",)}, "", 16, ["config.model.path is empty"]),
    ],
)
def test_what_cannot_be_compiled_is_refused(options, encoder, padded, words):
    with pytest.raises(UserError) as error:
        ahead.Ahead(settings_of(**options), jax.devices(), encoder, padded).compile(ahead.Case(8, MeshConfig(1)))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("v5e:2x4", "v5e:2x4"),
        ("v5e-8", "v5e:2x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5e-1", "v5e:1x1"),
        ("v6e-16", "v6e:4x4"),
        ("v5p-16", "v5p:2x2x2"),
    ],
)
def test_topologies_have_two_names(given, name):
    assert chips.full_name(given) == name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("v5e:2x3", ["v5e:2x4"]),
        ("v5e-7", ["--topology=v5e-7", "v5e:"]),
        ("v5:2x4", ["v5e:2x4"]),
        ("h100", ["local"]),
        ("", ["local"]),
    ],
)
def test_of_an_unknown_topology_the_nearest_are_named(given, words):
    with pytest.raises(UserError) as error:
        chips.full_name(given)
    assert all(word in str(error.value) for word in words), error.value


def test_a_compiler_s_message_gives_sizes():
    said = "total memory required for HLO temporaries (96.00G) exceeds available HBM (15.75G). See 3.5 and 2x4."
    assert chips.sizes(said) == [96 * 2**30, 15.75 * 2**30]
    assert chips.sizes("Used 17.2GiB of 512M hbm") == [17.2 * 2**30, 512 * 2**20]


def test_of_this_machine_s_devices_no_clock_is_known():
    found = chips.find("local")
    assert len(found.devices) == len(jax.devices()) and np.isnan(found.clock) and found.capacity > 2**30
    assert found.name.startswith("4 ")
