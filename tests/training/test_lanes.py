"""A lane is the run: its losses are those of the run alone, whatever its place and its neighbours are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from fjt.core import tree
from fjt.core.seeds import make_key
from fjt.data import batches, packing
from fjt.models.families import find_family
from fjt.tasks.kinds import find_problem
from fjt.training import lanes
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import partition

CONFIG, BATCH = dataclasses.replace(small.CONFIG, layers=1), 32  # a lane knows nothing of depth
TOLERANCE = {np.float32: (20, 2e-6), np.float64: (60, 1e-12)}
METHODS = {
    "full": small.tune("full"),
    "head": small.tune("head"),
    "lora": small.tune("lora", rank=3, max_rank=4, dropout=0.2),
    "prefix": small.tune("prefix", prefix_length=3),
    "vera": small.tune("vera", rank=6, sites=("value", "output")),
}
METHODS |= {kind: small.tune("bitfit") for kind in small.KINDS if kind != "classification"}
KIND = {method: small.KINDS.get(method, small.KINDS["classification"]) for method in METHODS}
SOME = [*((method, np.float64) for method in ("lora", "full", "head", "prefix")), ("lora", np.float32)]
SOME += [(kind, np.float64) for kind in METHODS if kind in small.KINDS]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run: its seed, its rate and, for LoRA, its rank and alpha."""

    seed: int
    rate: float = 3e-3
    rank: int = 3
    alpha: float = 16.0


RATES = (3e-3, 1e-4, 2e-3, 0.0, 5e-3, 1e-3, 4e-3, 5e-4)
EIGHT = tuple(Run(seed, rate, 1 + seed % 4, 4.0 * (1 + seed % 4)) for seed, rate in enumerate(RATES))


@functools.cache
def backbone(kind):
    return jax.tree.map(np.asarray, jax.jit(kind.make_model(CONFIG).init)(make_key(0, "init")))


@functools.cache
def draw(methods, kind):
    """key -> the head and the methods' new leaves."""

    @jax.jit
    def function(key):
        base = kind.make_model(CONFIG).init(key)
        added = partition.add_leaves({name: dict(options) for name, options in methods}, key, base, CONFIG)
        old = find_family(CONFIG.family).heads[find_problem(kind.name).head].pretrained  # of the backbone
        new = {name: leaves for name, leaves in base["head"].items() if name not in old}
        return ({"head": new} if new else {}) | ({"adapters": added} if added else {})

    return function


def prepare(method, run, dtype):
    """(Model, trainable, frozen, Hyper, examples, indices) of a run."""
    tune, kind = METHODS[method], KIND[method]
    if method == "lora":
        tune = dataclasses.replace(tune, rank=run.rank, alpha=run.alpha)
    methods, steps = partition.find_methods(tune), TOLERANCE[dtype][0]
    with jax.enable_x64(False):  # the same draws for both types
        drawn = draw(tuple((name, tuple(options.items())) for name, options in methods.items()), kind)
        flat = tree.flatten(backbone(kind)) | tree.flatten(drawn(make_key(run.seed, "init")))
    params = tree.map_names(lambda _, leaf: np.asarray(leaf, dtype), tree.unflatten(flat))
    chosen = partition.trainable_names(params, CONFIG, tune, ())
    model = kind.make_model(
        CONFIG,
        dtype=np.dtype(dtype).name,
        adapt=partition.make_adapt(methods),
        noisy_from=partition.lowest_layer(chosen, CONFIG.layers),
    )
    values = jax.tree.map(lambda x: np.asarray(x, dtype), partition.traced_values(methods))
    rate = run.rate / 20 if method == "full" else run.rate  # trajectories of higher ones drift apart by themselves
    hyper = dataclasses.replace(
        small.make_hyper(rate=rate, seed=run.seed, dtype=dtype, classes=kind.weights), methods=values
    )
    examples = batches.prepend(kind.make_examples(150, 12), partition.prompt_length(methods))
    indices = batches.Schedule(len(examples), BATCH, run.seed).batches(0, steps)
    return model, *tree.split(params, chosen), hyper, examples, indices


def shape_of(examples, indices):
    rows = np.concatenate(indices)
    lengths, slots = batches.lengths_of(examples, rows), batches.slots_of(examples, rows)
    return packing.plan(lengths, slots=slots, row_length=48, most_shapes=1, width=32).shapes[0]


def make_batch(examples, rows, shape, dtype):
    batch, _ = batches.build(examples, rows, shape)
    return batch | {"weight": batch["weight"].astype(dtype)}


@functools.cache
def parts(method, model):
    return {"model": model, "loss": KIND[method].loss, "optimizer": make_optimizer(small.ADAMW)}


@functools.cache
def alone(method, run, dtype):
    """f64[steps]: the losses of the run by `train_step`, in its own shape."""
    with jax.enable_x64(dtype is np.float64):
        model, trainable, frozen, hyper, examples, indices = prepare(method, run, dtype)
        step, state = _alone_step(method, model), init_state(trainable, hyper, parts(method, model)["optimizer"])
        shape, seen = shape_of(examples, [indices]), []
        for rows in indices:
            state, metrics = step(state, frozen, make_batch(examples, rows, shape, dtype), hyper)
            seen.append(float(metrics["loss"]))
    return np.array(seen)


@functools.cache
def _alone_step(method, model):
    return jax.jit(functools.partial(train_step, **parts(method, model)))


def together(method, runs, dtype, *, steps=None, one_batch=False, step=lanes.lanes_step, failing=()):
    """f64[S, steps]: the losses of runs as lanes.  one_batch: all take the first one's; failing: made NaN at step 5."""
    with jax.enable_x64(dtype is np.float64):
        made = [prepare(method, run, dtype) for run in runs]
        model, examples = made[0][0], made[0][4]
        assert all(other[0] == model for other in made)  # ranks, rates, alphas and seeds: one program
        shared, own = lanes.split_frozen([frozen for _, _, frozen, _, _, _ in made])
        optimizer = parts(method, model)["optimizer"]
        states = [jax.device_get(init_state(trainable, hyper, optimizer)) for _, trainable, _, hyper, _, _ in made]
        all_lanes = lanes.Lanes(
            lanes.stack(states), lanes.stack(own), lanes.stack([m[3] for m in made]), np.ones(len(runs), bool)
        )
        compiled = _together_step(method, model, one_batch, step)
        shape, seen = shape_of(examples, [m[5] for m in made]), []
        for k in range(steps or TOLERANCE[dtype][0]):
            batch = [make_batch(examples, m[5][k], shape, dtype) for m in made]
            all_lanes, metrics = compiled(all_lanes, shared, batch[0] if one_batch else lanes.stack(batch))
            seen.append(np.asarray(metrics["loss"], np.float64))
            for lane in failing if k == 5 else ():
                state = jax.tree.map(
                    lambda x, lane=lane: x.at[lane].set(jnp.nan) if x.dtype == dtype else x, all_lanes.state
                )
                all_lanes = dataclasses.replace(all_lanes, state=state)
    return np.array(seen).T


@functools.cache
def _together_step(method, model, one_batch, step):
    return jax.jit(functools.partial(step, one_batch=one_batch, **parts(method, model)))


def check(found, reference, dtype):
    np.testing.assert_allclose(found, reference, rtol=TOLERANCE[dtype][1], atol=0)


@pytest.mark.parametrize(("method", "dtype"), small.tiers(SOME, ("lora", np.float64)))
def test_each_of_eight_lanes_is_the_run_alone(method, dtype):
    """Of all methods but one, the first and the last lane: each run alone compiles a step of its own.

    Of kinds of problems, which know nothing of lanes, there are two.
    """
    runs = EIGHT[:2] if method in small.KINDS else EIGHT
    found = together(method, runs, dtype)
    for lane in range(8) if (method, dtype) == SOME[0] else (0, -1):
        check(found[lane], alone(method, runs[lane], dtype), dtype)


def test_random_leaves_that_stay_fixed_are_each_lane_s_own():
    found = together("vera", EIGHT[:2], np.float32)
    check(found[1], alone("vera", EIGHT[1], np.float32), np.float32)


def test_place_and_neighbours_do_not_matter():
    """Another order, other neighbours, and neighbours that fail."""
    together_ = functools.partial(together, "lora", dtype=np.float64, steps=12)
    reference = together_(EIGHT)
    check(together_(EIGHT[::-1])[::-1], reference, np.float64)
    others = tuple(dataclasses.replace(run, seed=run.seed + 10, rate=2 * run.rate) for run in EIGHT[:4])
    check(together_((*others, *EIGHT[4:]))[4:], reference[4:], np.float64)
    with_failed = together_(EIGHT, failing=(2, 5))
    assert np.isnan(with_failed[[2, 5], -1]).all()
    whole = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(with_failed[whole], reference[whole])


def test_one_batch_for_all_is_a_batch_for_each():
    runs = [dataclasses.replace(run, seed=0) for run in EIGHT]
    one, each = (together("lora", runs, np.float64, steps=12, one_batch=shared) for shared in (True, False))
    check(one, each, np.float64)


def leak_noise(all_lanes, shared, batch, **options):
    """Mutant: dropout of the first lane for all."""
    keys = jnp.broadcast_to(all_lanes.hyper.dropout_key[:1], all_lanes.hyper.dropout_key.shape)
    hyper = dataclasses.replace(all_lanes.hyper, dropout_key=keys)
    return lanes.lanes_step(dataclasses.replace(all_lanes, hyper=hyper), shared, batch, **options)


def leak_state(all_lanes, shared, batch, **options):
    """Mutant: after each step a lane's parameters hold a millionth of its neighbour's."""
    new, metrics = lanes.lanes_step(all_lanes, shared, batch, **options)
    trainable = jax.tree.map(lambda x: x + 1e-6 * jnp.roll(x, 1, axis=0), new.state.trainable)
    return dataclasses.replace(new, state=dataclasses.replace(new.state, trainable=trainable)), metrics


@pytest.mark.parametrize("mutant", [leak_noise, leak_state])
def test_lanes_that_leak_are_rejected(mutant):
    found = together("lora", EIGHT, np.float64, step=mutant)
    with pytest.raises(AssertionError):
        for lane, run in enumerate(EIGHT[:3]):
            check(found[lane], alone("lora", run, np.float64), np.float64)


def test_a_lane_that_is_not_active_stays_as_it_is():
    model, trainable, frozen, hyper, examples, indices = prepare("lora", EIGHT[0], np.float32)
    state = jax.device_get(init_state(trainable, hyper, parts("lora", model)["optimizer"]))
    shared, own = lanes.split_frozen([frozen] * 2)
    both = lanes.Lanes(lanes.stack([state] * 2), lanes.stack(own), lanes.stack([hyper] * 2), np.array([True, False]))
    batch = make_batch(examples, indices[0], shape_of(examples, [indices]), np.float32)
    new, _ = jax.jit(functools.partial(lanes.lanes_step, one_batch=True, **parts("lora", model)))(both, shared, batch)
    jax.tree.map(np.testing.assert_array_equal, lanes.take(new.state, 1), state)
    assert int(lanes.take(new.state, 0).step) == 1
    dropped = lanes.drop(jax.tree.map(jnp.asarray, new), 0)
    assert dropped.active.tolist() == [False, False] and not any(
        leaf.any() for leaf in jax.tree.leaves(lanes.take(dropped.state, 0))
    )


def test_a_frozen_leaf_that_differs_is_refused():
    frozen = [{"encoder": {"x": np.ones(2)}}, {"encoder": {"x": np.zeros(2)}}]
    with pytest.raises(ValueError, match="encoder/x is frozen and differs"):
        lanes.split_frozen(frozen)
