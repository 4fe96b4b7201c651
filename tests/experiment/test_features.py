"""Training from kept hidden states is training from tokens, and what is kept is never what should not be read."""

import dataclasses
import functools
import os
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from fjt.core import console, seeds, tree
from fjt.core.errors import UserError
from fjt.core.options import CacheConfig, EvalConfig, ExecutionConfig, ExperimentConfig, ModelConfig, Settings
from fjt.experiment import features
from fjt.experiment.prepared import Experiment, Stage
from fjt.models.encoder import Model
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.masked_lm import MASKED_LM
from fjt.training import evaluate, placement
from fjt.tuning import partition

CONFIG = dataclasses.replace(small.CONFIG, layers=3)
EXAMPLES = {"train": small.make_examples(60), "dev": small.make_examples(41, seed=1)}
PACKED = small.Layout(row_length=64, batch_size=16)
APART = small.Layout(groups=4, accumulation=2, one_a_row=True, batch_size=16)  # on two devices
TOLERANCE = {np.float32: (20, 2e-6), np.float64: (30, 1e-12)}
# {case: (what it tunes, which of its stages)}
CASES = {
    "head": (small.tune("head"), 0),
    "top_k 2": (small.tune("top_k", layers=2), 0),
    "pattern": (small.tune("pattern", train=("layer_2/intermediate", "layer_1/output_norm")), 0),
    "lora at the pooler": (small.tune("lora", rank=2, dropout=0.2, sites=("pooler",)), 0),
    "gradual, first stage": (small.tune("gradual", stage_epochs=0.0), 0),
    "gradual, second stage": (small.tune("gradual", stage_epochs=0.0), 1),
}
STARTS = (3, 1, 1, 3, 3, 2)


@functools.cache
def base(seed=0):
    """Parameters, drawn so that no leaf is zero."""
    with jax.enable_x64(False):
        params = jax.jit(Model(CONFIG, 2).init)(seeds.make_key(seed, "init"))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(x + 0.05 * rng.normal(size=x.shape)), params)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a run of a case needs: its Model without a start, parameters, names that train, the lowest layer, Hyper."""

    model: Model
    params: dict
    chosen: frozenset
    layer: int
    hyper: object


def prepare(case, dtype):
    tune, number = CASES[case]
    methods = partition.find_methods(tune)
    added = partition.add_leaves(methods, seeds.make_key(1, "init"), base(), CONFIG)
    params = jax.tree.map(lambda x: np.asarray(x, dtype), base() | ({"adapters": added} if added else {}))
    trainable = frozenset(partition.trainable_names(params, CONFIG, tune, ()))
    chosen = partition.stages(methods, trainable, (), 3, 100, 10)[number][1]
    layer = partition.lowest_layer(chosen, 3)
    model = Model(CONFIG, 2, np.dtype(dtype).name, noisy_from=layer, adapt=partition.make_adapt(methods))
    values = jax.tree.map(dtype, partition.traced_values(methods))
    return Case(model, params, chosen, layer, dataclasses.replace(small.make_hyper(dtype=dtype), methods=values))


def states_of(case, folder, *, examples=None, devices=1, check=lambda: None, view=None, layer=None, compiled=None):
    """hidden.States of a case."""
    cache = small.double(CacheConfig, dir=str(folder))
    device_mesh = placement.make_mesh(devices)
    experiment = small.double(
        Experiment,
        settings=small.double(Settings, execution=small.double(ExecutionConfig, cache=cache)),
        examples=examples or EXAMPLES,
        params=case.params,
        sharding=placement.Layout(device_mesh),
        hyper=case.hyper,
    )
    model = dataclasses.replace(case.model, start=case.layer if layer is None else layer)
    stage = small.double(Stage, model=model)
    return features.States(experiment, stage, check, {} if compiled is None else compiled, view or console.Silent())


def train(case, dtype, layout, steps, kept=None):
    """f64[steps]: the losses of a run from tokens, or from what is kept."""
    model = case.model if kept is None else dataclasses.replace(case.model, start=case.layer)
    put = functools.partial(
        jax.device_put, device=placement.by_group(placement.make_mesh(layout.groups // layout.accumulation))
    )
    return small.train(
        layout,
        steps,
        model=model,
        examples=EXAMPLES["train"],
        hyper=case.hyper,
        chosen=case.chosen,
        mesh=put,
        params=case.params,
        dtype=dtype,
        hidden=kept,
        most_shapes=1,
    )[0]


@functools.cache
def from_tokens(case, dtype, steps):
    with jax.enable_x64(dtype is np.float64):
        return train(prepare(case, dtype), dtype, PACKED, steps)


def check(found, reference, dtype):
    """Whether losses are those of the reference."""
    np.testing.assert_allclose(found, reference[: len(found)], rtol=TOLERANCE[dtype][1], atol=0)


LAYERS = ("head", "top_k 2", "lora at the pooler", "gradual, second stage")  # the others start where these do
DOUBLE = [(name, np.float64) for name in LAYERS]
SINGLE = [("top_k 2", np.float32)]


@pytest.mark.parametrize(
    ("name", "dtype"), small.tiers([*DOUBLE, *SINGLE], ("top_k 2", np.float64), ("head", np.float64))
)
def test_from_hidden_states_is_from_tokens(name, dtype, tmp_path):
    """Dropout on above; tokens in packed rows, hidden states one a row, in two accumulated parts on two devices."""
    steps = TOLERANCE[dtype][0]
    reference = from_tokens(name, dtype, steps)
    assert len(set(reference)) == steps
    with jax.enable_x64(dtype is np.float64):
        case = prepare(name, dtype)
        states = states_of(case, tmp_path)
        states.prepare(["train"])
        assert states["train"].dtype == dtype
        found = train(case, dtype, APART, steps, states["train"])
    check(found, reference, dtype)


def test_the_cases_start_where_they_should():
    assert tuple(prepare(name, np.float32).layer for name in CASES) == STARTS


@pytest.mark.parametrize("name", small.tiers(["head", "top_k 2"], "head"))
def test_evaluation_and_packed_rows(name, tmp_path):
    """Logits of dev, and losses in the layout of the reference."""
    case = prepare(name, np.float32)
    states = states_of(case, tmp_path)
    assert states.prepare(["train", "dev"]) > 0
    check(train(case, np.float32, PACKED, 5, states["train"]), from_tokens(name, np.float32, 20), np.float32)
    whole = evaluate.pack_splits(EXAMPLES, groups=1, grid=8, width=32)["dev"]
    kept = evaluate.deal_splits(EXAMPLES, groups=1)["dev"] if name == "head" else whole
    model = dataclasses.replace(case.model, start=case.layer)
    above = partition.split_below(case.params, case.layer, 3)[1]
    assert ("embeddings" in above.get("encoder", {}), "layer_0" in above.get("encoder", {})) == (False, False)
    expected = evaluate.evaluate(jax.jit(case.model.apply), case.params, whole, jax.device_put)
    found = evaluate.evaluate(jax.jit(model.apply), above, evaluate.with_hidden(kept, states["dev"]), jax.device_put)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(expected, axis=0).min() > 0.1


# Mutants: what lies in the store is not what the tokens and the weights give, and the same check rejects it.


def shifted(case, folder, monkeypatch):
    """Each example gets its neighbour's."""
    states = states_of(case, folder)
    states.prepare(["train"])
    by = 1 if case.layer == 3 else EXAMPLES["train"].lengths[0]
    return np.roll(states["train"], by, axis=0)


def stale(case, folder, monkeypatch):
    """Kept under other weights, whose hash does not enter."""
    monkeypatch.setattr(features.tree, "sha256", lambda params: "")
    states_of(dataclasses.replace(case, params=base(1)), folder).prepare(["train"])
    states = states_of(case, folder)
    assert states.prepare(["train"]) == 0
    return states["train"]


def a_layer_too_low(case, folder, monkeypatch):
    states = states_of(case, folder, layer=case.layer - 1)
    states.prepare(["train"])
    kept, split = states["train"], EXAMPLES["train"]
    return kept if kept.shape[0] == split.offsets[-1] and case.layer < 3 else kept[split.offsets[:-1]]


@pytest.mark.parametrize("name", ["head", "top_k 2"])
@pytest.mark.parametrize("mutant", [shifted, stale, a_layer_too_low])
def test_mutants_are_rejected(mutant, name, tmp_path, monkeypatch):
    case = prepare(name, np.float32)
    kept = mutant(case, tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(train(case, np.float32, PACKED, 2, kept), from_tokens(name, np.float32, 20), np.float32)


# The store.


def files(folder):
    return sorted(os.listdir(folder / "hidden"))


def kept(case, folder, split="dev", **options):
    """(array, whether it had to be made)."""
    states = states_of(case, folder, **options)
    made = states.prepare([split]) > 0
    return np.array(states[split]), made


def with_leaf(params, name, change):
    flat = tree.flatten(params)
    return tree.unflatten(flat | {name: change(flat[name])})


def test_kept_for_whoever_has_the_same(tmp_path):
    """Another process' run, another seed of what trains, other rates: nothing is made again, and bits are the same."""
    case = prepare("top_k 2", np.float32)
    first, made = kept(case, tmp_path)
    assert made and first.shape == (EXAMPLES["dev"].offsets[-1], 32) and len(files(tmp_path)) == 1
    params = with_leaf(case.params, "head/classifier/kernel", lambda x: x + 1)
    params = with_leaf(params, "encoder/layer_1/query/kernel", lambda x: x + 1)
    again, made = kept(dataclasses.replace(case, params=params, hyper=small.make_hyper(rate=1.0)), tmp_path)
    assert not made and (again == first).all()
    os.remove(tmp_path / "hidden" / files(tmp_path)[0])
    again, made = kept(case, tmp_path)
    assert made and (again == first).all()


OTHERS = {
    "weights": lambda case: dict(
        case=dataclasses.replace(case, params=with_leaf(case.params, "encoder/layer_0/key/bias", lambda x: x + 1e-6))
    ),
    "tokens": lambda case: dict(examples=EXAMPLES | {"dev": small.make_examples(41, seed=2)}),
    "types": lambda case: dict(
        examples=EXAMPLES | {"dev": dataclasses.replace(EXAMPLES["dev"], type_ids=1 - EXAMPLES["dev"].type_ids)}
    ),
    "layer": lambda case: dict(layer=2),
    "dtype": lambda case: dict(
        case=dataclasses.replace(case, model=dataclasses.replace(case.model, dtype="bfloat16"))
    ),
    "devices": lambda case: dict(devices=2),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_fingerprint(name, tmp_path):
    case = prepare("top_k 2", np.float32)
    first, _ = kept(case, tmp_path)
    found, made = kept(**(dict(case=case, folder=tmp_path) | OTHERS[name](case)))
    assert made and len(files(tmp_path)) == 2
    if name == "devices":  # another layout: the same but for rounding
        np.testing.assert_allclose(found, first, atol=1e-5)
    else:
        assert found.shape != first.shape or (found != first).any()


def test_precision_cores_and_flags_enter(tmp_path, monkeypatch):
    case = prepare("top_k 2", np.float32)
    kept(case, tmp_path)
    with jax.default_matmul_precision("highest"):
        assert kept(case, tmp_path)[1]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert kept(case, tmp_path)[1] and len(files(tmp_path)) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(99), raising=False)  # as of a pinned process
    assert kept(case, tmp_path)[1] and len(files(tmp_path)) == 4


@pytest.mark.parametrize("name", ["head", "top_k 2"])
def test_bfloat16_keeps_its_bits(name, tmp_path):
    case = prepare(name, np.float32)
    case = dataclasses.replace(case, model=dataclasses.replace(case.model, dtype="bfloat16"))
    found, made = kept(case, tmp_path)
    assert made and found.dtype == jnp.bfloat16 and np.load(tmp_path / "hidden" / files(tmp_path)[0]).dtype == np.uint16
    packed = evaluate.pack_splits(EXAMPLES, groups=1, grid=8, width=32)["dev"]
    batch, places = packed.chunks[0]
    model = dataclasses.replace(case.model, start=case.layer)
    values = np.asarray(jax.jit(model.hidden)(case.params, batch))
    spots, rows = places.slots if name == "head" else places.tokens
    assert len(rows) > 10
    np.testing.assert_array_equal(found[rows], values.reshape(-1, 32)[spots])


def flipped(data, place):
    """Bytes with one bit of the byte at a place changed."""
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a bit of the first value": lambda data: flipped(data, 131),
    "a bit of the last value": lambda data: flipped(data, len(data) - 5),
    "a bit of the header": lambda data: flipped(data, 20),
    "a bit of the checksum": lambda data: flipped(data, len(data) - 1),
    "a half of zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "zeros": lambda data: bytes(len(data)),
    "without a checksum": lambda data: data[:-4],
    "longer": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(damage, tmp_path):
    case = prepare("top_k 2", np.float32)
    first, _ = kept(case, tmp_path)
    path = tmp_path / "hidden" / files(tmp_path)[0]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    again, made = kept(case, tmp_path)
    assert made and (again == first).all() and files(tmp_path) == [path.name]


@pytest.mark.parametrize("content", ["another shape", "another type", "no array"])
def test_what_is_whole_and_another_array_is_not_read(content, tmp_path):
    case = prepare("top_k 2", np.float32)
    first, _ = kept(case, tmp_path)
    path = tmp_path / "hidden" / files(tmp_path)[0]
    with open(path, "w+b") as file:
        if content == "no array":
            file.write(b"x" * 300)
        else:
            np.save(file, first[:-1] if content == "another shape" else first.view(np.int32))
        features.files.add_checksum(file)
    again, made = kept(case, tmp_path)
    assert made and (again == first).all() and files(tmp_path) == [path.name]


class Halt(Exception):
    pass


def test_a_stopped_run_leaves_nothing(tmp_path, monkeypatch):
    """One that was killed leaves a file, which the next one removes."""
    monkeypatch.setattr(features, "CPU_TOKENS", 100)
    case, calls = prepare("top_k 2", np.float32), []

    def check():
        calls.append(len(list((tmp_path / "hidden").glob("*.tmp"))))
        if len(calls) == 3:
            raise Halt

    with pytest.raises(Halt):
        kept(case, tmp_path, check=check)
    assert calls[-1] == 1 and files(tmp_path) == []
    (tmp_path / "hidden" / "theirs.tmp").touch()
    (tmp_path / "hidden" / features.files.temporary_name()).touch()
    kept(case, tmp_path)
    assert len(files(tmp_path)) == 2 and "theirs.tmp" in files(tmp_path)


def test_two_at_once(tmp_path, monkeypatch):
    """A second run makes the same while a first one is at it: both have it, and it lies there once."""
    monkeypatch.setattr(features, "CPU_TOKENS", 100)
    case, found = prepare("top_k 2", np.float32), []

    def check():
        if not found:
            found.append(None)
            found[0] = kept(case, tmp_path)

    first, made = kept(case, tmp_path, check=check)
    assert made and found[0][1] and (first == found[0][0]).all() and len(files(tmp_path)) == 1


def test_a_full_disk_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"hidden states of dev, .* MiB, cannot be written into .*--config.cache.dir"):
        kept(prepare("top_k 2", np.float32), tmp_path)
    assert files(tmp_path) == []


# When.


def choose(name, epochs=3.0, frozen_dropout=False, problem=CLASSIFICATION, **cache):
    """Choices for a case whose stages last so many epochs each."""
    case = prepare(name, np.float32)
    tune, _ = CASES[name]
    methods = partition.find_methods(tune)
    trainable = frozenset(partition.trainable_names(case.params, CONFIG, tune, ()))
    steps = round(8 * epochs) * (5 if "gradual" in methods else 1)
    plans = partition.stages(methods, trainable, (), 3, steps, 8)
    ends = [*(first for first, _, _ in plans[1:]), steps]
    stages = [
        small.double(Stage, first=first, last=last, trainable=names)
        for (first, names, _), last in zip(plans, ends, strict=True)
    ]
    made = small.double(
        Settings,
        experiment=small.double(
            ExperimentConfig,
            model=small.double(ModelConfig, frozen_dropout=frozen_dropout),
            eval=small.double(EvalConfig, test=False, official_dev=True),
        ),
        execution=small.double(ExecutionConfig, cache=CacheConfig(**cache)),
    )
    return features.choose(made, problem, case.model, EXAMPLES, stages, 8)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("head", {}, ""),
        ("top_k 2", {}, ""),
        ("top_k 2", {"epochs": 1.5}, "too few epochs .*1.5"),
        ("top_k 2", {"epochs": 1.5, "hidden": True}, ""),
        ("top_k 2", {"hidden": False}, "config.cache.hidden=False"),
        ("top_k 2", {"frozen_dropout": True}, "frozen_dropout"),
        ("top_k 2", {"hidden_gib": 1e-4}, "config.cache.hidden_gib=0.0001"),
        ("head", {"hidden_gib": 1e-4}, ""),  # a vector an example
        ("head", {"problem": MASKED_LM}, "masked_lm draws other tokens in each epoch"),
        ("full", {"hidden": True}, "encoder/embeddings/.* trains"),
        ("lora", {"hidden": True}, "adapters/lora/layer_0/.* trains"),
    ],
)
def test_where_it_is_used(name, options, reason, monkeypatch):
    for other in ("full", "lora"):
        monkeypatch.setitem(CASES, other, (small.tune(other, rank=2 if other == "lora" else None), 0))
    (choice,) = choose(name, **options)
    assert bool(choice.reason) == bool(reason)
    assert re.search(reason, choice.reason)


def test_sizes():
    """Tokens or examples of train and dev, 32 features of four bytes; of stages, all together."""
    tokens, examples = (sum(x) for x in zip(*((len(e.token_ids), len(e)) for e in EXAMPLES.values()), strict=True))
    assert choose("top_k 2")[0].size == 128 * tokens and choose("head")[0].size == 128 * examples
    found = choose("gradual, first stage")
    assert [one.layer for one in found] == [3, 2, 1, 0, -1]
    assert [bool(one.reason) for one in found] == [False, False, False, True, True]
    found = choose("gradual, first stage", hidden_gib=(128 * (examples + tokens) + 1) / 2**30)
    assert not found[1].reason and "with those of the stages before" in found[2].reason


def test_runs_share_the_lowered_program_where_its_text_is_the_same(tmp_path):
    """Seeds and rates do not enter it; a method's values are constants of it, and parameters of another type others."""
    case, compiled = prepare("lora at the pooler", np.float32), {}
    for other in (case, dataclasses.replace(case, hyper=dataclasses.replace(case.hyper, learning_rate=np.float32(1)))):
        states_of(other, tmp_path, compiled=compiled)
        assert len(compiled) == 1
    values = jax.tree.map(lambda x: 2 * x, case.hyper.methods)
    states_of(
        dataclasses.replace(case, hyper=dataclasses.replace(case.hyper, methods=values)), tmp_path, compiled=compiled
    )
    assert len(compiled) == 2
