"""Optimizers step by step against arithmetic, and schedules at their corners."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from fjt.core import options, tree
from fjt.core.errors import UserError
from fjt.training.optim import averaged, clip_factor, decay_mask, make_optimizer
from fjt.training.schedules import average_rates, check_plateau, learning_rates

OPTIMIZERS = options.OPTIONS["optim.name"].choices
SCHEDULES = options.OPTIONS["optim.schedule"].choices
RATES = {"sgd": 0.01, "optax:adagrad": 0.1, "optax:adadelta": 5.0, "optax:sm3": 0.1}  # for a quadratic; 0.02 elsewhere


def optim(**changes):
    return dataclasses.replace(small.ADAMW, **changes)


def hyper(**changes):
    return small.make_hyper(**{"rate": 0.1, "clip": np.inf, "decay": 0.0, **changes})


def params():
    return {
        "encoder": {
            "dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]]), "bias": jnp.array([3.0, -1.0])},
            "norm": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.5, 0.5])},
            "word": {"embedding": jnp.array([[2.0, -3.0]])},
        }
    }


def gradients(k=0):
    return jax.tree.map(lambda x: 0.1 * x + 0.3 * jnp.cos(x + k), params())


def steps(options, hyper, num=1):
    """(parameters after some steps, optimizer state)."""
    transformation, values = make_optimizer(options)(hyper), params()
    state = transformation.init(values)
    for k in range(num):
        grads = gradients(k)
        factor = clip_factor(optax.tree.norm(grads), hyper)
        updates, state = transformation.update(jax.tree.map(lambda g: g * factor, grads), state, values)  # noqa: B023
        values = optax.apply_updates(values, updates)
    return values, state


def adamw(values, grads, rate, decay, clip, b1=0.9, b2=0.999, eps=1e-8):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) after clipping by the global norm, leaf by leaf in float64."""
    moments = {name: (0.0, 0.0) for name in values}
    for k, grad in enumerate(grads, 1):
        norm = np.sqrt(sum(np.sum(g**2) for g in grad.values()))
        for name, g in grad.items():
            g = g * min(1.0, clip / norm)
            m, v = moments[name]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            moments[name] = m, v
            update = (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps)
            if name.endswith(("kernel", "embedding")):
                update = update + decay * values[name]
            values[name] = values[name] - rate * update
    return values


def flat64(values):
    return {name: np.asarray(leaf, np.float64) for name, leaf in tree.flatten(values).items()}


@pytest.mark.parametrize("clip", [np.inf, 0.5])
def test_adamw_by_arithmetic(clip):
    found, _ = steps(optim(), hyper(decay=0.3, clip=clip), num=3)
    expected = adamw(flat64(params()), [flat64(gradients(k)) for k in range(3)], 0.1, 0.3, clip)
    for name, leaf in flat64(found).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, err_msg=name)  # float32 knows 1 - 0.999 to 5e-5


def test_adam_s_first_step_is_the_rate_times_the_sign():
    found, _ = steps(optim(name="adam"), hyper(rate=0.25))
    for name, leaf in flat64(found).items():
        expected = flat64(params())[name] - 0.25 * np.sign(flat64(gradients())[name])
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, err_msg=name)


def test_betas_are_not_swapped():
    """After one step the second moment has 0.001 of the squared gradient, the first 0.1 of the gradient."""
    _, state = steps(optim(), hyper())
    (adam,) = [s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    for name, gradient in tree.flatten(gradients()).items():
        np.testing.assert_allclose(tree.flatten(adam.mu)[name], 0.1 * gradient, rtol=1e-5)
        np.testing.assert_allclose(tree.flatten(adam.nu)[name], 0.001 * gradient**2, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_shrinks_kernels_and_embeddings_alone(name):
    """One step with decay against one without: the kernels are nearer to zero, biases and LayerNorm the same bits."""
    options = optim(name=name)
    if name not in (
        "adamw",
        "lion",
        "sgd",
        "lamb",
        "adafactor",
    ):  # a first step may be a sign: coupled decay shows in the second
        plain, decayed = (tree.flatten(steps(options, hyper(decay=d), num=2)[0]) for d in (0.0, 0.5))
    else:
        plain, decayed = (tree.flatten(steps(options, hyper(decay=d))[0]) for d in (0.0, 0.5))
    for leaf, value in tree.flatten(params()).items():
        if leaf.endswith(("bias", "scale")):
            np.testing.assert_array_equal(plain[leaf], decayed[leaf])
        elif name in ("adamw", "lion", "sgd", "adafactor"):
            np.testing.assert_allclose(decayed[leaf] - plain[leaf], -0.1 * 0.5 * value, rtol=1e-4)
        else:
            assert np.any(np.asarray(plain[leaf]) != np.asarray(decayed[leaf]))


def test_decay_mask_of_the_model():
    model = small.Model(small.CONFIG, 2)
    mask = tree.flatten(decay_mask(jax.eval_shape(model.init, np.zeros(2, np.uint32))))
    assert {name.rsplit("/", 1)[1] for name, decays in mask.items() if decays} == {"kernel", "embedding"}
    assert {name.rsplit("/", 1)[1] for name, decays in mask.items() if not decays} == {"bias", "scale"}


def test_sgd_with_momentum_by_arithmetic():
    found, _ = steps(optim(name="sgd", momentum=0.5), hyper(rate=0.2), num=3)
    for name, leaf in flat64(found).items():
        value, velocity = flat64(params())[name], 0.0
        for k in range(3):
            velocity = 0.5 * velocity + flat64(gradients(k))[name]
            value = value - 0.2 * velocity
        np.testing.assert_allclose(leaf, value, rtol=1e-6)


def test_an_optimizer_of_optax_gets_this_run_s_rate_and_decay():
    """The first step of optax's Adagrad by arithmetic: accumulators start at 0.1, and decay is part of the gradient."""
    found, _ = steps(optim(name="optax:adagrad"), hyper(rate=0.2, decay=0.5))
    for name, leaf in flat64(found).items():
        value, gradient = flat64(params())[name], flat64(gradients())[name]
        if name.endswith(("kernel", "embedding")):
            gradient = gradient + 0.5 * value
        expected = value - 0.2 * gradient / np.sqrt(0.1 + gradient**2 + 1e-7)
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=name)


def test_clipping_is_by_the_norm_of_all_leaves():
    norm = np.sqrt(sum(np.sum(g**2) for g in flat64(gradients()).values()))
    below, _ = steps(optim(name="sgd"), hyper(clip=2 * norm))
    never, _ = steps(optim(name="sgd"), hyper(clip=np.inf))
    half, _ = steps(optim(name="sgd"), hyper(clip=norm / 2))
    for name, start in flat64(params()).items():
        np.testing.assert_array_equal(tree.flatten(below)[name], tree.flatten(never)[name])
        whole = flat64(never)[name] - start
        np.testing.assert_allclose(flat64(half)[name] - start, whole / 2, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_does_not_depend_on_hyper(name):
    """Neither the fresh state nor what a step makes of its moments (given the gradients that reach them)."""
    options = optim(name=name)
    some, others = hyper(), hyper(rate=7.0, dropout=0.5, smoothing=0.3)
    first, second = (make_optimizer(options)(h).init(params()) for h in (some, hyper(rate=7.0, decay=0.9)))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    (_, first), (_, second) = (steps(options, h) for h in (some, others))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_trace_serves_every_hyper(name):
    traces = []

    def update(hyper, state, values):
        traces.append(name)
        updates, state = make_optimizer(optim(name=name))(hyper).update(gradients(), state, values)
        return optax.apply_updates(values, updates)

    compiled, state = jax.jit(update), make_optimizer(optim(name=name))(hyper()).init(params())
    one = compiled(hyper(rate=0.1, decay=0.0), state, params())
    two = compiled(hyper(rate=0.2, decay=0.5), state, params())
    assert len(traces) == 1
    assert not np.array_equal(one["encoder"]["dense"]["kernel"], two["encoder"]["dense"]["kernel"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_descends_a_quadratic(name):
    made, rate = make_optimizer(optim(name=name)), RATES.get(name, 0.02)
    scales = jnp.array([1.0, 3.0])

    def loss(values):
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(values))

    @jax.jit
    def step(values, state):
        grads = jax.grad(lambda v: loss(jax.tree.map(lambda x: x * scales.reshape((1,) * (x.ndim - 1) + (-1,)), v)))(
            values
        )
        updates, state = made(hyper(rate=rate)).update(grads, state, values)
        return optax.apply_updates(values, updates), state

    values = params()
    state = made(hyper()).init(values)
    before = float(loss(values))
    for _ in range(60):
        values, state = step(values, state)
    assert float(loss(values)) < 0.8 * before


PEAK, STEPS, WARMUP = 2e-3, 100, 10


def rates(schedule, **changes):
    options = optim(schedule=schedule, learning_rate=PEAK, warmup_fraction=WARMUP / STEPS, power=2.0, cycles=3)
    return learning_rates(dataclasses.replace(options, **changes), STEPS)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_start_at_zero_peak_after_warm_up_and_come_down(schedule):
    found = rates(schedule)
    assert found.dtype == np.float32 and found.shape == (STEPS,)
    risen = np.arange(WARMUP) / WARMUP
    if schedule == "one_cycle":
        risen = 1 - 0.96 * np.cos(np.pi * risen / 2) ** 2  # half a cosine from a 25th
    np.testing.assert_allclose(found[:WARMUP], PEAK * risen, rtol=1e-6)
    assert found[WARMUP] == np.float32(PEAK) == found.max() and found.min() >= 0
    cold = rates(schedule, warmup_fraction=0.0)
    assert cold[0] == np.float32(PEAK) and cold.shape == (STEPS,)


def test_schedules_at_their_ends():
    """Step 100 would be the first at the final rate; step 99 is one of the ninetieth parts before it."""
    left = 1 / 90
    expected = {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 - np.cos(np.pi * left)),
        "polynomial": left**2,
        "exponential": 1e-3 ** (89 / 90),
        "inverse_sqrt": np.sqrt(10 / 99),
        "cosine_restarts": 0.5 * (1 - np.cos(np.pi * 3 * left)),
        "one_cycle": 0.5 * (1 - np.cos(np.pi * left)),
        "wsd": 1 / 20,
    }
    assert set(expected) == set(SCHEDULES)
    for schedule, share in expected.items():
        end = {"final_fraction": 1e-3} if schedule == "exponential" else {}
        np.testing.assert_allclose(rates(schedule, **end)[-1], PEAK * share, rtol=2e-3, err_msg=schedule)
    middle = {"linear": 0.5, "cosine": 0.5, "polynomial": 0.25, "exponential": 1e-3**0.5, "cosine_restarts": 0.5}
    for schedule, share in middle.items():
        end = {"final_fraction": 1e-3} if schedule == "exponential" else {}
        np.testing.assert_allclose(rates(schedule, **end)[WARMUP + 45], PEAK * share, rtol=1e-4, err_msg=schedule)


def test_schedules_end_at_the_final_fraction():
    for schedule in ("linear", "cosine", "polynomial", "exponential", "cosine_restarts"):
        np.testing.assert_allclose(rates(schedule, final_fraction=0.2)[-1], 0.2 * PEAK, rtol=0.05, err_msg=schedule)
        assert rates(schedule, final_fraction=0.2).min() == 0  # the warm-up alone starts from nothing


def test_restarts_come_back_to_the_peak():
    found = rates("cosine_restarts")
    assert [k for k in range(STEPS) if found[k] == np.float32(PEAK)] == [10, 40, 70]
    assert max(found[39], found[69], found[99]) < 0.01 * PEAK


def test_short_runs_have_rates():
    for schedule in SCHEDULES:
        for warmup in (0.0, 0.06, 1.0):
            for num in (0, 1, 2):
                options = optim(schedule=schedule, warmup_fraction=warmup)
                found = learning_rates(options, num)
                assert found.shape == (num,) and np.isfinite(found).all()


def test_multipliers_scale_each_leafs_update():
    """The moments do not see them; decoupled decay is scaled with the rest, as by PyTorch's parameter groups."""
    params = {"a": {"kernel": np.ones((2, 2), np.float32)}, "b": {"kernel": np.ones((2, 2), np.float32)}}
    grads = jax.tree.map(lambda x: np.full_like(x, 0.3), params)

    def updates(multipliers):
        made = dataclasses.replace(small.make_hyper(rate=0.1, decay=0.5), multipliers=multipliers)
        transformation = make_optimizer(small.ADAMW)(made)
        return transformation.update(grads, transformation.init(params), params)[0]

    plain, scaled = updates({}), updates({"a/kernel": np.float32(0), "b/kernel": np.float32(2)})
    np.testing.assert_allclose(plain["a"]["kernel"], -0.1 * (1 + 0.5), rtol=1e-5)
    assert not np.asarray(scaled["a"]["kernel"]).any()
    np.testing.assert_array_equal(scaled["b"]["kernel"], 2 * plain["b"]["kernel"])


def test_groups_count_their_own_steps():
    """Adam's bias correction begins where a leaf begins: the group opened later moves by the whole rate at once."""
    params = {"a": {"kernel": np.zeros(3, np.float32)}, "b": {"kernel": np.zeros(3, np.float32)}}
    made = small.make_hyper(rate=0.1, decay=0.0)
    one = make_optimizer(small.ADAMW, ({"a/kernel"},))(made)
    state = one.init({"a": params["a"]})
    for size in (1.0, 0.5):
        updates, state = one.update({"a": {"kernel": np.full(3, size, np.float32)}}, state, {"a": params["a"]})
    both = make_optimizer(small.ADAMW, ({"a/kernel"}, {"b/kernel"}))(made)
    state = both.init(params) | state
    updates, after = both.update(jax.tree.map(lambda x: np.full_like(x, 0.25), params), state, params)
    m = 0.1 * (0.9**2 * 1.0 + 0.9 * 0.5 + 0.25) / (1 - 0.9**3)
    v = 0.001 * (0.999**2 * 1.0 + 0.999 * 0.25 + 0.0625) / (1 - 0.999**3)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * m / np.sqrt(v), rtol=1e-5)
    np.testing.assert_allclose(updates["b"]["kernel"], -0.1, rtol=1e-5)
    assert [int(x.count) for x in (after["0"][0], after["1"][0])] == [3, 1]


def test_decay_towards_the_start_by_arithmetic():
    """SGD on zero gradients: only the pull acts, and only on what has moved away from the start."""
    options, start = optim(name="adamw", decay_toward="start"), params()
    transformation = make_optimizer(options)(hyper(rate=0.5, decay=0.2))
    state = transformation.init(start)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, start)
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, start), state, moved)
    for name, update in flat64(updates).items():
        pulled = name.endswith(("kernel", "embedding"))
        np.testing.assert_allclose(update, -0.5 * 0.2 * 1.0 if pulled else 0.0, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("toward", [None, "start"])
def test_l1_is_the_proximal_step(toward):
    """Zero gradients: each kernel's distance shrinks by rate x strength, to exactly 0 and no further."""
    made = hyper(rate=0.5)
    made = dataclasses.replace(made, l1=np.float32(1.5))
    transformation, start = make_optimizer(optim(decay_toward=toward))(made), params()
    state = transformation.init(start)
    moved = jax.tree.map(lambda leaf: leaf * 0.25, start)
    after = optax.apply_updates(moved, transformation.update(jax.tree.map(jnp.zeros_like, start), state, moved)[0])
    for name, leaf in flat64(after).items():
        value, center = flat64(moved)[name], flat64(start)[name] if toward else 0.0
        distance = value - center
        shrunk = center + np.sign(distance) * np.maximum(np.abs(distance) - 0.75, 0.0)
        np.testing.assert_allclose(leaf, shrunk if name.endswith(("kernel", "embedding")) else value, atol=1e-6)
    assert np.any(flat64(after)["encoder/dense/kernel"] == (flat64(start)["encoder/dense/kernel"] if toward else 0.0))


@pytest.mark.parametrize("kept", [{"ema": 0.6}, {"swa": 0.5}])
def test_an_average_is_the_weighted_mean_of_the_parameters_after_each_step(kept):
    """By definition: weights 0.6 ** age for ema, equal weights of the last half for swa; optax's debiased ema too."""
    rates = average_rates(options.TrainConfig(**kept), 6)
    values, path = params(), []
    state = make_optimizer(optim())(dataclasses.replace(hyper(), average_rate=rates[0])).init(values)
    for k in range(6):
        transformation = make_optimizer(optim())(dataclasses.replace(hyper(), average_rate=rates[k]))
        updates, state = transformation.update(gradients(k), state, values)
        values = optax.apply_updates(values, updates)
        path.append(flat64(values))
    weights = 0.6 ** np.arange(5.0, -1, -1) if "ema" in kept else np.array([0, 0, 0, 1, 1, 1.0])
    for name, leaf in flat64(averaged(state)).items():
        expected = sum(w * step[name] for w, step in zip(weights / weights.sum(), path, strict=True))
        np.testing.assert_allclose(leaf, expected, rtol=2e-6, err_msg=name)
    if "ema" in kept:
        reference = optax.ema(0.6, debias=True)
        state = reference.init(params())
        for step in path:
            out, state = reference.update(tree.unflatten(step), state)
        np.testing.assert_allclose(flat64(out)["encoder/dense/kernel"], expected_of(path, weights), rtol=2e-6)


def expected_of(path, weights):
    """The weighted mean of one kernel along a path."""
    return sum(w * step["encoder/dense/kernel"] for w, step in zip(weights / weights.sum(), path, strict=True))


def test_an_optimizer_keeps_no_average_unless_it_is_asked_to():
    assert averaged(make_optimizer(optim())(hyper()).init(params())) is None
    assert average_rates(options.TrainConfig(), 5) is None
    groups = ({"encoder/dense/kernel"}, set(tree.flatten(params())) - {"encoder/dense/kernel"})
    asked = dataclasses.replace(hyper(), average_rate=np.float32(0.5))
    state = make_optimizer(optim(), groups)(asked).init(params())
    assert tree.flatten(averaged(state)).keys() == tree.flatten(params()).keys()


def test_a_plateau_that_never_ends_is_refused():
    """Of four evaluations the second can lower the rate at the earliest; the last one has no step after it."""

    def check(evaluations, labelled, optim, **others):
        check_plateau(options.ExperimentConfig(optim=options.OptimConfig(**optim), **others), evaluations, labelled)

    for patience in (1, 2):
        check(4, True, dict(plateau_patience=patience))
    check(1, False, {})
    late, staged = options.TrainConfig(patience=3), options.TuneConfig(stage_patience=2)
    check(9, True, dict(plateau_patience=2), train=late, tune=staged)
    for given, evaluations, labelled, words in (
        (dict(plateau_patience=3), 4, True, "plateau_patience=3 never acts: of the 4 .* at least 5"),
        (dict(plateau_patience=1), 4, False, "plateau_patience=1 counts scores on dev, which has no"),
        (dict(plateau_factor=0.1), 4, True, "plateau_factor=0.1 acts after .*: give both"),
    ):
        with pytest.raises(UserError, match=words):
            check(evaluations, labelled, given)
    for others in (dict(train=late), dict(tune=staged)):
        with pytest.raises(UserError, match=r"plateau_patience=3 never acts: .* Give at most 2"):
            check(9, True, dict(plateau_patience=3), **others)


def test_the_late_schedules_at_their_corners():
    falling = rates("wsd", decay_fraction=0.25)
    assert falling[0] == 0 and np.all(falling[10:76] == falling.max()) and falling[76] < falling[75]
    np.testing.assert_allclose(falling[-1], falling.max() / 25, rtol=1e-5)  # it would be 0 after the last step
    one = rates("one_cycle", warmup_fraction=0.3)
    np.testing.assert_allclose(one[[0, 15, 30]] / one.max(), [0.04, 0.52, 1.0], rtol=1e-5)
    assert one.argmax() == 30 and one[-1] < 0.001 * one.max()


def test_the_head_is_pulled_towards_zero_even_from_the_start():
    made, leaves = (
        hyper(rate=0.5, decay=0.2),
        {"head": {"kernel": jnp.array([[2.0]])}, "encoder": {"kernel": jnp.array([[2.0]])}},
    )
    transformation = make_optimizer(optim(decay_toward="start"))(made)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, leaves)
    state = transformation.init(leaves)
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, leaves), state, moved)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5 * 0.2 * 3.0, rtol=1e-6)
    np.testing.assert_allclose(updates["encoder"]["kernel"], -0.5 * 0.2 * 1.0, rtol=1e-6)
