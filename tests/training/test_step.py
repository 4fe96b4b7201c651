"""The pure step: what is frozen costs and keeps nothing, runs repeat to the bit, one program serves every hyper."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from operations import ROW_LENGTH, ROWS, SLOTS, WIDE, lowered_flops, planned_flops

from configs import quickstart
from fjt.core import console, prng, tree
from fjt.core.errors import UserError
from fjt.core.options import ScratchConfig
from fjt.core.seeds import make_key
from fjt.core.settings import from_config
from fjt.data import batches, packing
from fjt.data.glue import TASKS
from fjt.experiment.hyper_parameters import make_hyper
from fjt.experiment.prepare import prepare
from fjt.models.encoder import Model
from fjt.tasks.classification import CLASSIFICATION
from fjt.training.optim import make_optimizer
from fjt.training.step import SECOND, eval_step, init_state, train_step
from fjt.tuning import partition

MODEL = Model(small.CONFIG, 2)
LAYOUT = small.Layout(row_length=24, batch_size=20, one_a_row=True)  # one shape: 100 examples are five whole batches


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, jax.jit(MODEL.init)(make_key(0, "init")))


def chosen_by(method, layers=None, params=None, model=MODEL):
    abstract = params or jax.eval_shape(model.init, make_key(0, "init"))
    options = small.tune(method, layers=layers)
    return frozenset(partition.trainable_names(abstract, model.config, options, ()))


def make_batch(num=12, row_length=32, seed=0):
    examples = small.make_examples(num=num, seed=seed)
    indices = np.arange(num)
    shape = packing.plan(batches.lengths_of(examples, indices[None]), row_length=row_length, width=32).shapes[0]
    return batches.build(examples, indices, dataclasses.replace(shape, examples=num + 3))[0]


def make_step(optim=small.ADAMW, model=MODEL, **options):
    return functools.partial(
        train_step, model=model, loss=CLASSIFICATION.loss, optimizer=make_optimizer(optim), **options
    )


@pytest.mark.parametrize(("method", "layers"), [("head", None), ("top_k", 1)])
def test_frozen_leaves_keep_their_bits_and_have_no_state(method, layers, params):
    chosen = chosen_by(method, layers, params)
    before = {name: leaf.copy() for name, leaf in tree.flatten(params).items()}
    model = dataclasses.replace(MODEL, noisy_from=partition.lowest_layer(chosen, 2))
    found, state, frozen = small.train(LAYOUT, 5, params=params, chosen=chosen, model=model)
    assert len(set(found)) == 5
    assert set(tree.flatten(state.trainable)) == chosen and not chosen & set(tree.flatten(frozen))
    for name, leaf in tree.flatten(frozen).items():
        np.testing.assert_array_equal(leaf, before[name], strict=True)
    for name, leaf in tree.flatten(state.trainable).items():
        assert np.any(leaf != before[name]), name
    # Adam's two moments of what trains, and its one count.
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state))
    assert shapes == sorted([()] + 2 * [before[name].shape for name in chosen])


def test_the_gradient_s_norm_is_of_trainables(params):
    """Of the head's leaves alone, as the gradient of everything has them."""
    batch, hyper = make_batch(), small.make_hyper(dropout=0.0)
    optimizer = make_optimizer(small.ADAMW)
    trainable, frozen = tree.split(params, chosen_by("head", params=params))
    metrics = jax.jit(make_step())(init_state(trainable, hyper, optimizer), frozen, batch, hyper)[1]

    def mean(params):
        value, weight = CLASSIFICATION.loss(MODEL.apply(params, batch), batch, hyper)
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    loss, gradient = jax.jit(jax.value_and_grad(mean))(params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient["head"]["classifier"]), rtol=1e-5)
    assert optax.tree.norm(gradient) > 1.1 * metrics["grad_norm"]


def law(lowest, trained):
    """The law: forward whole, backward only above the lowest trainable layer, weight gradients where they train.

    A matrix product of n tokens with a kernel [D, F] costs 2nDF forward, the same again for its input's gradient
    and for its kernel's.  In the last layer all tokens have keys and values, but only first tokens a query and a
    feed-forward layer.  lowest: -1 when the embeddings train; trained: the layers that do.
    """
    width, inner, tokens = WIDE.width, WIDE.inner, ROWS * ROW_LENGTH
    total = 0.0
    for i in range(WIDE.layers):
        queries = SLOTS if i == WIDE.layers - 1 else tokens
        keys_values, query = 2 * tokens * 2 * width**2, 2 * queries * width**2
        rest = 2 * queries * (width**2 + 2 * width * inner)
        attention = 2 * 2 * queries * ROW_LENGTH * width
        total += keys_values + query + rest + attention
        if i >= lowest:  # the gradient that goes down through the layer
            total += rest + 2 * attention + (keys_values + query if i > lowest else 0)
        if i in trained:  # its kernels' gradients
            total += keys_values + query + rest
    return total + 3 * 2 * SLOTS * width**2


CASES = {
    "full": (-1, (0, 1, 2, 3)),
    "top_k 3": (1, (1, 2, 3)),
    "top_k 1": (3, (3,)),
    "top_k 0": (4, ()),
    "head": (4, ()),
}


def chosen_in(case):
    method, _, layers = case.partition(" ")
    return chosen_by(method, int(layers) if layers else None, model=Model(WIDE, 2))


@pytest.mark.parametrize("case", CASES)
def test_operations_follow_the_law(case):
    found, expected = lowered_flops(chosen_in(case)), law(*CASES[case])
    assert abs(found / expected - 1) < 0.1
    planned = planned_flops(chosen_in(case))
    assert abs(found / planned - 1) < 0.1


@pytest.mark.parametrize("case", ["top_k 3", "top_k 1", "top_k 0"])
def test_nothing_below_the_start_is_computed(case):
    """From hidden states a step costs what the law says of the layers above, and no leaf below is needed."""
    start, whole = CASES[case][0], planned_flops(chosen_in(case))
    found, planned = lowered_flops(chosen_in(case), start=start), planned_flops(chosen_in(case), start=start)
    assert abs(found - planned) < 0.1 * planned + 0.01 * whole and planned < 0.95 * whole  # a head's is Adam's, mostly


def test_a_masked_update_is_not_freezing():
    """The mutant: every gradient is made, and what should stay is masked out of the update."""
    everything, chosen = chosen_in("full"), chosen_in("top_k 1")

    def masked(state, frozen, batch, hyper):
        new, metrics = make_step(model=Model(WIDE, 2))(state, frozen, batch, hyper)
        trainable = {
            name: leaf if name in chosen else tree.flatten(state.trainable)[name]
            for name, leaf in tree.flatten(new.trainable).items()
        }
        return dataclasses.replace(new, trainable=tree.unflatten(trainable)), metrics

    assert lowered_flops(everything, masked) > 1.5 * law(*CASES["top_k 1"])


def test_frozen_layers_have_no_dropout(params):
    batch, key = make_batch(), tuple(jnp.asarray(make_key(0, "dropout")))
    loud = dataclasses.replace(small.make_hyper(dropout=0.5), dropout_classifier=np.float32(0))

    def logits(noisy_from, key):
        model = dataclasses.replace(MODEL, noisy_from=noisy_from)
        return np.asarray(jax.jit(lambda params: model.apply(params, batch, {}, loud, key))(params))

    quiet = logits(-1, None)
    np.testing.assert_array_equal(logits(2, key), quiet)
    noisy = [logits(lowest, key) for lowest in (-1, 0, 1)]
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(noisy, [*noisy[1:], quiet], strict=True))


def test_what_lies_in_empty_slots_and_padding_does_not_matter(params):
    """The same bits whatever tokens, types, positions stand in padding, and whatever labels in empty slots."""
    batch, hyper = make_batch(), small.make_hyper()
    padding, empty = batch["segment_ids"] == 0, batch["weight"] == 0
    assert padding.any() and empty.any()
    junk = batch | {
        "token_ids": np.where(padding, 77, batch["token_ids"]),
        "type_ids": np.where(padding, 1, batch["type_ids"]),
        "position_ids": np.where(padding, 5, batch["position_ids"]),
        "label": np.where(empty, 1, batch["label"]).astype(np.int32),
    }
    step = jax.jit(make_step())
    state = init_state(params, hyper, make_optimizer(small.ADAMW))
    (one, clean), (two, other) = step(state, {}, batch, hyper), step(state, {}, junk, hyper)
    assert clean["loss"] == other["loss"]
    assert tree.sha256(one.trainable["head"]) == tree.sha256(two.trainable["head"])
    evaluate = jax.jit(functools.partial(eval_step, model=MODEL, reduce=small.whole))
    real = batch["weight"] > 0
    np.testing.assert_array_equal(evaluate(params, batch)[real], evaluate(params, junk)[real])


def test_the_same_run_twice_gives_the_same_bits(params):
    (first, one, _), (second, two, _) = (small.train(LAYOUT, 8, params=params) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert tree.sha256(one.trainable) == tree.sha256(two.trainable)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    assert int(one.step) == 8


def test_one_program_serves_every_hyper(params):
    """Three rates, decays, clippings, dropout rates, smoothings, weights and seeds: traced and compiled once."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return make_step()(*arguments)

    step, batch = jax.jit(counted), make_batch()
    state = init_state(params, small.make_hyper(), make_optimizer(small.ADAMW))
    hypers = [small.make_hyper()]
    for change in ({"rate": 3e-3}, {"decay": 0.7}, {"clip": 0.01}, {"dropout": 0.3}, {"smoothing": 0.2}, {"seed": 5}):
        hypers.append(small.make_hyper(**change))
    hypers.append(dataclasses.replace(hypers[0], class_weights=np.float32([0.2, 3.0])))
    hypers.append(small.make_hyper(rate=0.0, decay=0.0, clip=np.inf, dropout=0.0))
    ends = {tree.sha256(step(state, {}, batch, hyper)[0].trainable) for hyper in hypers}
    assert len(ends) == len(hypers) and tree.sha256(params) in ends  # each acts; at rate 0 nothing moves
    assert len(traces) == 1 and step._cache_size() == 1


def test_dropout_is_another_at_each_step(params):
    """The step's number is folded into the key: the same batch and weights give other losses."""
    batch, hyper = make_batch(), small.make_hyper(rate=0.0)
    step, found = jax.jit(make_step()), []
    state = init_state(params, hyper, make_optimizer(small.ADAMW))
    for _ in range(4):
        state, metrics = step(state, {}, batch, hyper)
        found.append(float(metrics["loss"]))
    assert len(set(found)) == 4
    again = step(dataclasses.replace(state, step=jnp.uint32(2)), {}, batch, hyper)[1]["loss"]
    assert float(again) == found[2]


# One seed for each source of randomness.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """prepare(**seeds) -> Experiment: the quickstart's, small, from a checkpoint without a head."""
    import json

    import safetensors.numpy

    from fjt.data import tokenization
    from fjt.data.synthetic import VOCAB
    from fjt.models import config_json, families, torch_names

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenization.load_tokenizer(VOCAB)
    tokenizer.save_pretrained(folder)
    scratch = ScratchConfig(layers=1, width=16, heads=2, inner=16, vocab="")
    raw = families.scratch_config(scratch, len(tokenizer), 64)
    (folder / "config.json").write_text(json.dumps(raw))
    encoder = jax.jit(Model(config_json.parse_config(raw, ""), 2).init)(make_key(9, "init"))["encoder"]
    tensors = {
        torch_names.torch_name(name, "bert"): torch_names.to_torch(name, np.asarray(leaf))
        for name, leaf in tree.flatten({"encoder": encoder}).items()
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")

    @functools.cache
    def prepare_seeds(**seeds):
        config = quickstart.get_config()
        config.model.path, config.cache.dir, config.data.limit = str(folder), str(folder / "cache"), 50
        config.mesh.data = 1
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in seeds.items()})
        return prepare(from_config(config), view=console.Silent())

    return prepare_seeds


def facts(run):
    """What each seed decides, by name."""
    hyper = run.hyper
    return {
        "encoder": tree.sha256(run.params["encoder"]),
        "head": tree.sha256(run.params["head"]),
        "order": run.schedule.batches(0, 6).tolist(),
        "noise": hyper.dropout_key.tolist(),
        "data": run.contents["data"],
    }


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("seeds__init", {"head"}),
        ("seeds__data", {"order"}),
        ("seeds__dropout", {"noise"}),
        ("seed", {"head", "order", "noise"}),
        ("seeds__subset", {"data"}),
    ],
)
def test_each_seed_changes_its_own_source_alone(key, changed, prepared):
    base, other = facts(prepared()), facts(prepared(**{key: 1}))
    assert {name for name in base if base[name] != other[name]} == changed
    assert prepared(**{key: 1}).fingerprint != prepared().fingerprint


def test_the_order_s_seed_keeps_each_epoch_s_examples(prepared):
    for run in (prepared(), prepared(seeds__data=1)):
        epoch = run.schedule.batches(0, run.schedule.steps_per_epoch)
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(50))


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"class_weights": ("balanced",)}])
def test_a_regression_has_no_classes_to_smooth_or_weigh(options):
    config = quickstart.get_config()
    config.loss.update(options)
    with pytest.raises(UserError, match=r"stsb \(regression\) has no"):
        make_hyper(from_config(config).experiment, TASKS["stsb"], np.zeros(3, np.float32), {})


def test_r_drop_by_its_definition(params):
    """The loss of a step from two forward passes; without dropout both are the same, and the loss is the plain one."""
    batch, weights = make_batch(), np.float32([1.0, 3.0])
    for rate in (0.0, 0.3):
        hyper = dataclasses.replace(small.make_hyper(dropout=rate), class_weights=weights, r_drop=np.float32(5.0))
        state = init_state(params, hyper, make_optimizer(small.ADAMW))
        found = jax.jit(make_step(divergence=CLASSIFICATION.divergence))(state, {}, batch, hyper)[1]["loss"]
        key = prng.fold((jnp.asarray(hyper.dropout_key[0]), jnp.asarray(hyper.dropout_key[1])), np.uint32(0))
        apply = jax.jit(MODEL.apply)
        passes = [apply(params, batch, None, hyper, k) for k in (key, prng.fold(key, SECOND))]
        (one, weight), (other, _) = (CLASSIFICATION.loss(logits, batch, hyper) for logits in passes)
        p, q = (np.asarray(jax.nn.softmax(logits), np.float64) for logits in passes)
        apart = ((p - q) * np.log(p / q)).sum(-1)
        total = np.sum(((one + other) / 2 + 5.0 / 4 * weight * apart) * batch["weight"])
        np.testing.assert_allclose(found, total / np.sum(weight * batch["weight"]), rtol=1e-5)
        assert (np.abs(apart).max() > 1e-4) == (rate > 0)


def test_dropout_factors_by_layer(params):
    """Factors of 1 change nothing; 0 in the second layer leaves that of the first, which noisy_from=1 turns off."""
    batch, key = make_batch(), (jnp.uint32(3), jnp.uint32(4))
    model, plain = dataclasses.replace(MODEL, noisy_from=1), small.make_hyper(dropout=0.3)

    def logits(*factors):
        return np.asarray(
            model.apply(params, batch, None, dataclasses.replace(plain, layer_dropout=np.float32(factors)), key)
        )

    reference = np.asarray(model.apply(params, batch, None, plain, key))
    np.testing.assert_allclose(logits(0.0, 1.0), reference, rtol=1e-6)
    quiet = np.asarray(dataclasses.replace(MODEL, noisy_from=2).apply(params, batch, None, plain, key))
    np.testing.assert_allclose(logits(1.0, 0.0), quiet, atol=1e-5)
    assert np.abs(quiet - reference).max() > 1e-3 and np.abs(logits(1.0, 0.5) - reference).max() > 1e-3
