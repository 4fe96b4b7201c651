"""Every tuning method: it starts from the base model, it learns, its layout does not matter, merged is unmerged."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import operations
import pytest
import small

from fjt.core import prng, seeds, tree
from fjt.core.errors import UserError
from fjt.data import batches, packing
from fjt.models import layers
from fjt.models.encoder import Model
from fjt.tasks.classification import CLASSIFICATION
from fjt.training import checkpoint, placement
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import low_rank, method, partition, prompts

CASES = {
    "head": small.tune("head"),
    "top_k": small.tune("top_k", layers=1),
    "pattern": small.tune("pattern", train=("layer_0/output", "word")),
    "llrd": small.tune("llrd", layer_decay=0.5),
    "mixout": small.tune("mixout"),
    "bitfit": small.tune("bitfit"),
    "layernorm": small.tune("layernorm"),
    "attention_only": small.tune("attention_only"),
    "lora": small.tune("lora", rank=3, dropout=0.2),
    "lora everywhere": small.tune("lora", rank=4, max_rank=6, rank_stabilized=True, sites=(
        "query", "key", "value", "attention_output", "intermediate", "output", "pooler")),
    "lora by site": small.tune("lora", sites=("query", "output", "pooler"), ranks=(2, 5, 1), dropout=0.2),
    "dora": small.tune("dora", rank=3, sites=("query", "output")),
    "vera": small.tune("vera", rank=6, dropout=0.2, sites=("value", "intermediate", "output")),
    "ia3": small.tune("ia3"),
    "houlsby": small.tune("houlsby", reduction=8.0),
    "pfeiffer": small.tune("pfeiffer", reduction=8.0),
    "parallel": small.tune("parallel", reduction=8.0),
    "compacter": small.tune("compacter", reduction=4.0),
    "prefix": small.tune("prefix", prefix_length=3),
    "prefix projected": small.tune("prefix", prefix_length=3, projection=8),
    "prompt": small.tune("prompt", prompt_length=3),
    "p_tuning": small.tune("p_tuning", prompt_length=3, projection=8),
    "lora prefix bitfit": small.tune("lora", "prefix", "bitfit", prefix_length=2, rank=2),
    "unipelt": small.tune("prefix", "lora", "pfeiffer", gating=True, prefix_length=3, rank=2, reduction=8.0),
    "dora ia3": small.tune("dora", "ia3", rank=2, sites=("value", "output")),
    "top_k pfeiffer": small.tune("top_k", "pfeiffer", layers=1, reduction=8.0, adapter_norm=False),
}  # fmt: skip
MERGED = [name for name in CASES if name.split()[0] in ("lora", "dora", "vera", "ia3") and "prefix" not in name]
LIKE_BASE = [*MERGED, "houlsby", "pfeiffer", "parallel", "compacter", "top_k pfeiffer"]
FIRST = ("top_k", "lora", "pfeiffer", "prefix", "prompt")  # one or two from each file of methods
# The others have a model of one layer, which compiles in half the time, unless theirs differ or share something.
DEEP = (*FIRST, "pattern", "llrd", "vera", "compacter", "prefix projected", "top_k pfeiffer")
# Their code is that of other cases as well.
SLOW = ("pattern", "attention_only", "layernorm", "lora everywhere", "lora by site", "houlsby", "parallel",
        "prefix projected", "p_tuning", "lora prefix bitfit", "dora ia3", "top_k pfeiffer")  # fmt: skip
every = pytest.mark.parametrize("case", small.tiers(CASES, *FIRST, slow=SLOW))


def config_of(case):
    return dataclasses.replace(small.CONFIG, layers=2 if case in DEEP else 1)


@functools.cache
def base(case):
    """The parameters of a case's base model."""
    return jax.tree.map(np.asarray, jax.jit(Model(config_of(case), 2).init)(seeds.make_key(0, "init")))


@functools.cache
def prepare(case, shaken=0.0):
    """(Model, parameters, names that train, Hyper, examples) of a case; shaken: how far new leaves are moved."""
    tune, config = CASES[case], config_of(case)
    methods = partition.find_methods(tune)
    partition.check(methods, config, 24)
    added = partition.add_leaves(methods, seeds.make_key(1, "init"), base(case), config)
    rng = np.random.default_rng(0)
    added = jax.tree.map(lambda x: np.float32(x + shaken * rng.normal(size=x.shape)), added)
    params = base(case) | ({"adapters": added} if added else {})
    chosen = partition.trainable_names(params, config, tune, ())
    model = Model(
        config, 2, adapt=partition.make_adapt(methods), noisy_from=partition.lowest_layer(chosen, config.layers)
    )
    hyper = dataclasses.replace(
        small.make_hyper(rate=1e-3),
        methods=partition.traced_values(methods),
        multipliers=partition.multipliers(methods, (), chosen, config.layers),
    )
    return model, params, chosen, hyper, batches.prepend(small.make_examples(48), partition.prompt_length(methods))


def run(case, layout, steps, shaken=0.1, between=lambda step, state: state, step=None):
    """(losses, final TrainState, compiled step) of the pure step under a layout in float64, one shape for all batches.

    It takes `steps` of the STEPS whose batches decide the shape.

    between(step, state) -> what takes the place of the state before a step; step: one that was compiled before.
    """
    model, params, chosen, hyper, examples = prepare(case, shaken)
    with jax.enable_x64(True):
        params, hyper = jax.tree.map(double, (params, hyper))
        return run_in_double(
            dataclasses.replace(model, dtype="float64"), params, chosen, hyper, examples, layout, steps, between, step
        )


def double(x):
    return np.float64(x) if np.asarray(x).dtype == np.float32 else x


def run_in_double(model, params, chosen, hyper, examples, layout, steps, between, step):
    trainable, frozen = tree.split(params, chosen)
    optimizer = make_optimizer(small.ADAMW)
    indices = batches.Schedule(len(examples), layout.batch_size, 0).batches(0, STEPS)
    (shape,) = packing.plan(
        batches.lengths_of(examples, indices),
        groups=layout.groups,
        row_length=layout.row_length,
        one_a_row=layout.one_a_row,
        most_shapes=1,
        width=32,
    ).shapes
    step = step or jax.jit(
        functools.partial(
            train_step,
            model=model,
            loss=CLASSIFICATION.loss,
            optimizer=optimizer,
            accumulation=layout.accumulation,
        )
    )
    # On its device from the start, as a restored state is: otherwise the first step after a restore compiles again.
    state = jax.device_put(init_state(trainable, hyper, optimizer), jax.devices()[0])
    seen, put = [], jnp.asarray
    if layout.groups > layout.accumulation:
        devices = placement.make_mesh(layout.groups // layout.accumulation)
        state, frozen = jax.device_put((state, frozen), placement.replicated(devices))
        put = functools.partial(jax.device_put, device=placement.by_group(devices))
    for k in range(steps):
        batch, _ = batches.build(examples, indices[k], shape, layout.one_a_row)
        state, metrics = step(between(k, state), frozen, jax.tree.map(lambda x: put(double(x)), batch), hyper)
        seen.append(float(metrics["loss"]))
    for name, leaf in tree.flatten(frozen).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[name], err_msg=name)
    return np.array(seen), jax.device_get(state), step


STEPS, SOME = 20, 6
PACKED = small.Layout(row_length=64)
APART = small.Layout(groups=4, accumulation=2, one_a_row=True)  # on two devices


@functools.cache
def sound(case):
    """(losses, final TrainState, compiled step, the TrainState after SOME steps)."""
    seen = {}

    def remember(step, state):
        if step == SOME:
            seen[step] = jax.device_get(state)
        return state

    return *run(case, PACKED, STEPS, between=remember), seen[SOME]


def check(found, reference):
    """Whether losses are those of the reference."""
    np.testing.assert_allclose(found, reference[: len(found)], rtol=1e-12, atol=0)


def logits(case, params=None, model=None, shaken=0.0):
    """f32[E, C] of one packed batch without dropout."""
    own, whole, _, hyper, examples = prepare(case, shaken)
    indices = np.arange(16)
    (shape,) = packing.plan(batches.lengths_of(examples, indices[None]), groups=1, most_shapes=1, width=32).shapes
    batch, places = batches.build(examples, indices, shape)
    found = jax.jit((model or own).apply)(whole if params is None else params, batch, hyper.methods)
    return np.asarray(found).reshape(-1, 2)[places.slots[0]]


@every
def test_learns_and_layout_does_not_matter(case):
    """Dropout on; packed rows of one device against one example a row in two accumulated parts on two devices."""
    reference, state, _, _ = sound(case)
    assert np.isfinite(reference).all() and len(set(reference)) == len(reference)
    found, *_ = run(case, APART, STEPS)
    check(found, reference)
    _, params, chosen, _, _ = prepare(case, 0.1)
    before = tree.flatten(params)
    moved = {name for name, leaf in tree.flatten(state.trainable).items() if (np.asarray(leaf) != before[name]).any()}
    keys = {name for name in chosen if name.endswith("/key/bias")}  # they have no true gradient
    assert chosen - keys <= moved, "all that trains moves"
    assert set(tree.flatten(state.trainable)) == chosen and (len(chosen) < len(before) or case == "llrd")


@every
def test_resume_is_exact(case, tmp_path):
    """Saved and restored before the third step: three steps later the whole state has the same bits, so all others."""
    reference, _, step, after = sound(case)

    def again(step, state):
        if step != 2:
            return state
        with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(step, state, [checkpoint.HostState()])
            checkpoints.wait()
            here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)
            return checkpoints.restore(lambda *_: shapes)[1]

    found, state, _ = run(case, PACKED, SOME, between=again, step=step)
    np.testing.assert_array_equal(found, reference[:SOME])
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


@every
def test_frozen_has_no_optimizer_state(case):
    _, state, _, _ = sound(case)
    trained = tree.count(state.trainable)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) <= 2 * trained + 3


@every
def test_operations_follow_the_law(case):
    """A wider model, whose products outweigh the rest; the law of a depth is in test_step.py."""
    tune, config = CASES[case], dataclasses.replace(operations.WIDE, layers=config_of(case).layers)
    methods = partition.find_methods(tune)
    model = Model(config, 2, adapt=partition.make_adapt(methods))
    params = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    added = partition.abstract_leaves(methods, params, config)
    params = params | ({"adapters": added} if added else {})
    chosen = partition.trainable_names(params, config, tune, ())
    values = partition.traced_values(methods)
    found = operations.lowered_flops(chosen, model=model, params=params, methods=values, config=config)
    assert abs(found / operations.planned_flops(chosen, params, config=config) - 1) < 0.05


@pytest.mark.parametrize("case", LIKE_BASE)
def test_starts_as_the_base_model(case):
    bare = logits(case, base(case), Model(config_of(case), 2))
    np.testing.assert_allclose(logits(case), bare, atol=1e-6)
    assert np.abs(logits(case, shaken=0.1) - bare).max() > 1e-3


@pytest.mark.parametrize("case", MERGED)
def test_merged_gives_the_same_logits(case):
    _, params, _, _, _ = prepare(case, 0.1)
    config = config_of(case)
    whole = partition.merged(partition.find_methods(CASES[case]), params, config)
    assert set(whole) == {"encoder", "head"}
    np.testing.assert_allclose(logits(case, whole, Model(config, 2)), logits(case, shaken=0.1), atol=1e-5)


def test_what_cannot_be_merged_says_so():
    _, params, _, _, _ = prepare("pfeiffer")
    with pytest.raises(UserError, match="pfeiffer cannot be merged"):
        partition.merged(partition.find_methods(CASES["pfeiffer"]), params, small.CONFIG)
    gated = partition.find_methods(small.tune("lora", gating=True))
    assert not partition.can_merge(gated) and partition.can_merge(gated | {"lora": gated["lora"] | {"gating": False}})
    leaves = partition.add_leaves(gated, seeds.make_key(1, "init"), base("lora"), small.CONFIG)
    with pytest.raises(UserError, match="Gated LoRA cannot be merged"):
        partition.merged(gated, base("lora") | {"adapters": jax.tree.map(np.asarray, leaves)}, small.CONFIG)


def test_a_gate_is_the_mean_over_the_tokens_of_its_example():
    """By hand: two examples of 2 and 3 tokens in a row of 6."""
    segment = np.int32([[[1, 1, 2, 2, 2, 0]]])
    tokens = layers.Tokens(segment, segment, segment)
    x = np.float32(np.arange(12).reshape(1, 1, 6, 2)) / 10
    leaf = {"kernel": np.float32([[0.5], [-1.0]]), "bias": np.float32([0.2])}
    each = 1 / (1 + np.exp(-(x[0, 0] @ np.float64([0.5, -1.0]) + 0.2)))
    wanted = [each[:2].mean()] * 2 + [each[2:5].mean()] * 3 + [each[5]]
    np.testing.assert_allclose(method.gate(leaf, x, tokens)[0, 0], wanted, rtol=1e-6)


def test_mixout_puts_pretrained_entries_back():
    """A kernel of W0 + 1: its entries are W0, or W0 + 1 / (1 - rate), at the rate; other steps mix other ones."""
    adapt = partition.make_adapt(partition.find_methods(CASES["mixout"]))
    old, none = np.zeros((200, 300), np.float32), np.zeros((1, 1, 1), np.int32)
    leaves = {"mixout": {"layer_0": {"query": {"kernel": old}}}}

    def mixed(step):
        key = prng.fold((jnp.uint32(1), jnp.uint32(2)), step)
        noise = layers.Noise(key, key, np.float32(0), np.float32(0))
        site = layers.Site("query", 0, old, old[0], noise, layers.Tokens(none, none, none))
        return np.asarray(adapt(leaves, {"mixout": {"rate": np.float32(0.7)}}).kernel(site, old + 1))

    found = mixed(0)
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.3], rtol=1e-6)
    assert abs(np.mean(found > 0) - 0.3) < 0.01 and abs(found.mean(0) - 1).max() < 1
    assert np.mean(found == mixed(1)) < 0.7
    np.testing.assert_array_equal(found, mixed(0))


def test_each_site_has_its_own_size():
    """Rank 2, 5 and 1: the parameters that PEFT would count, and what trains is counted by."""
    _, params, _, _, _ = prepare("lora by site")
    leaves = params["adapters"]["lora"]
    assert [leaves["layer_0"][site]["a"].shape for site in ("query", "output")] == [(32, 2), (64, 5)]
    assert leaves["pooler"]["a"].shape == (32, 1)
    assert tree.count(leaves) == 2 * 64 + 5 * 96 + 64


def test_a_rank_is_a_prefix_of_a_higher_one():
    """Rank 3 of at most 8 is rank 3: the same losses, and what lies above has not moved."""
    alone, *_ = run_lora(rank=3)
    masked, state, _ = run_lora(rank=3, max_rank=8)
    check(masked, alone)
    leaf = state.trainable["adapters"]["lora"]["layer_0"]["query"]
    assert leaf["a"].shape == (32, 8) and not np.asarray(leaf["b"][3:]).any() and np.asarray(leaf["b"][:3]).any()
    assert np.abs(run_lora(rank=8)[0] - alone).max() > 1e-4
    kept = partition.find_methods(small.tune("lora", rank=3, max_rank=8))
    added = 2 * 3 * (32 + 32)  # query and value of one layer
    assert partition.count(kept, {"adapters": state.trainable["adapters"]}) == added
    assert partition.count(kept, state.trainable) == added + tree.count(state.trainable["head"])


def run_lora(**options):
    name = str(options)
    CASES[name] = small.tune("lora", **options)
    try:
        return run(name, PACKED, 4, shaken=0.0)
    finally:
        del CASES[name]


# Mutants, each rejected by the check above.


def dropout_by_place(monkeypatch):
    """The noise on what LoRA reads addressed by the place in the batch."""

    def thinned(site, x, values):
        place = jnp.arange(x.size // x.shape[-1], dtype=jnp.uint32).reshape(*x.shape[:-1], 1)
        return prng.dropout(x, (place, place), jnp.arange(x.shape[-1]), values["dropout"])

    monkeypatch.setattr(low_rank, "_with_dropout", thinned)


def prompt_by_column(monkeypatch):
    """Learned tokens at the first columns of a row in place of an example's."""

    def hooks(leaves, values, options):
        def embed(words, batch):
            column = jnp.broadcast_to(jnp.arange(words.shape[2]), words.shape[:3])
            learned = jnp.take(leaves["embedding"], jnp.minimum(column, 2), axis=0)
            return jnp.where((column < 3)[..., None], learned, words)

        return layers.Hooks(embed=embed)

    replace_hooks(monkeypatch, "prompt", hooks)


def prefix_of_the_first_example(monkeypatch):
    """Keys and values that stand in the row, so that one segment sees them."""

    def hooks(leaves, values, options):
        def key_value(layer, k, v):
            found = prompts.prefixes(leaves, k.shape[3])[f"layer_{layer}"]
            return k.at[:, :, :3].set(found["key"]), v.at[:, :, :3].set(found["value"])

        return layers.Hooks(key_value=key_value)

    replace_hooks(monkeypatch, "prefix", hooks)


def replace_hooks(monkeypatch, name, hooks):
    changed = dataclasses.replace(partition.METHODS[name], hooks=hooks)
    monkeypatch.setitem(partition.METHODS, name, changed)


@pytest.mark.parametrize(
    ("mutant", "case"),
    [(dropout_by_place, "lora"), (prompt_by_column, "prompt"), (prefix_of_the_first_example, "prefix")],
)
def test_mutants_are_rejected(mutant, case, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(run(case, APART, 2)[0], run(case, PACKED, 2)[0])
