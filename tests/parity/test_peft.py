"""PEFT's adapters and fjt's, in both directions, and their training, on the same weights and texts."""

import dataclasses
import functools

import jax
import numpy as np
import peft
import pytest
import small
import torch
import transformers
from reference import encode, ours

from fjt import losses, prng, tree
from fjt.data import batches, packing
from fjt.interop import adapter as native
from fjt.interop import peft as interop
from fjt.optim import make_optimizer
from fjt.step import init_state, train_step
from fjt.tuning import partition

# PEFT's own calls warn of what torch and it will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]
LAYER = r".*encoder\.layer\.\d+\."
CASES = {
    "lora": (small.tune("lora", rank=4, sites=("query", "output"), dropout=0.0), peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=LAYER + r"(attention\.self\.query|output\.dense)")),
    "lora, rank-stabilised": (small.tune("lora", rank=3, max_rank=5, rank_stabilized=True), peft.LoraConfig(
        r=3, lora_alpha=16, use_rslora=True, target_modules=["query", "value"])),
    "dora": (small.tune("dora", rank=4, sites=("value", "intermediate"), dropout=0.0), peft.LoraConfig(
        r=4, lora_alpha=16, use_dora=True, target_modules=["value", "intermediate.dense"])),
    "ia3": (small.tune("ia3"), peft.IA3Config(
        target_modules=LAYER + r"(attention\.self\.(key|value)|output\.dense)",
        feedforward_modules=LAYER + r"output\.dense")),
    "layernorm": (small.tune("layernorm"), peft.LNTuningConfig(target_modules=".*LayerNorm")),
    "prefix": (small.tune("prefix", prefix_length=5), peft.PrefixTuningConfig(num_virtual_tokens=5)),
    "prefix, projected": (small.tune("prefix", prefix_length=5, projection=16), None),
    "prompt": (small.tune("prompt", prompt_length=5), peft.PromptTuningConfig(num_virtual_tokens=5)),
}  # fmt: skip
THEIRS = [case for case, (_, config) in CASES.items() if config]
TRAINED = ["lora", "dora", "ia3", "prefix", "prompt", "layernorm"]


def adapted(directory, methods):
    """(Model, base parameters) of a directory with methods over it."""
    model, params = ours(directory)
    return dataclasses.replace(model, adapt=partition.make_adapt(methods)), params


def tree_of(params, adapter):
    """The parameters with an Adapter's leaves in their places."""
    return tree.unflatten(tree.flatten(params) | adapter.trained)


def logits(directory, methods, params, split):
    """f32[N, C] of fjt, packed."""
    model, _ = adapted(directory, methods)
    examples, _, _, inputs = encode(directory, split)
    examples = batches.prepend(examples, partition.prompt_length(methods))
    indices = np.arange(len(examples))
    shape = packing.plan(batches.lengths_of(examples, indices[None]), width=64).shapes[0]
    batch, place = batches.build(examples, indices, shape)
    found = np.asarray(jax.jit(model.apply)(params, batch, partition.traced_values(methods))).reshape(-1, 2)[place]
    return found, inputs


def shake(names, params, size=0.05):
    """{name: leaf} of the names, moved at random."""
    rng, flat = np.random.default_rng(0), tree.flatten(params)
    return {name: np.float32(flat[name] + size * rng.normal(size=flat[name].shape)) for name in sorted(names)}


def start(directory, tune):
    """({name: options}, parameters with new leaves, names that train)."""
    methods = partition.find_methods(tune)
    model, params = ours(directory)
    added = partition.add_leaves(methods, prng.make_key(0, "init"), params, model.config)
    params = params | ({"adapters": jax.tree.map(np.asarray, added)} if added else {})
    return methods, params, partition.trainable_names(params, model.config.layers, tune, ()), model.config


def classifier(directory):
    return transformers.BertForSequenceClassification.from_pretrained(directory).eval()


@pytest.mark.parametrize("case", CASES)
def test_ours_in_theirs(case, reference, tmp_path):
    directory, _, texts = reference
    methods, params, chosen, config = start(directory, CASES[case][0])
    adapter = native.Adapter(methods, shake(chosen, params), directory, "", "")
    interop.write(tmp_path, adapter, config)
    loaded = peft.PeftModel.from_pretrained(classifier(directory), tmp_path).eval()
    for split in texts:
        found, inputs = logits(directory, methods, tree_of(params, adapter), split)
        with torch.no_grad():
            expected = loaded(**inputs).logits.numpy()
            bare = classifier(directory)(**inputs).logits.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert np.abs(expected - bare).max() > 1e-2  # the adapter matters
    back = interop.read(tmp_path, config)
    again, _ = logits(directory, back.methods, tree_of(ours(directory)[1], back), texts[1])
    np.testing.assert_allclose(again, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", THEIRS)
def test_theirs_in_ours(case, reference, tmp_path):
    directory, _, texts = reference
    torch.manual_seed(1)
    wrapped = wrap(directory, case)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path)
    model, params = ours(directory)
    adapter = interop.read(tmp_path, model.config)
    assert adapter.base == directory and set(adapter.methods) == set(CASES[case][0].method)
    for split in texts:
        found, inputs = logits(directory, adapter.methods, tree_of(params, adapter), split)
        with torch.no_grad():
            np.testing.assert_allclose(found, wrapped(**inputs).logits.numpy(), atol=1e-4, rtol=0)


def wrap(directory, case):
    config = dataclasses.replace(CASES[case][1], task_type="SEQ_CLS")
    return peft.get_peft_model(classifier(directory), config).eval()  # eval: without dropout, also in training


@pytest.mark.parametrize("case", TRAINED)
def test_twenty_steps(case, reference, tmp_path):
    """From one start, dropout off: the losses stay within 1e-3 of PEFT's."""
    directory, _, texts = reference
    split, steps, rate = texts[1], 20, 1e-3
    torch.manual_seed(2)
    trained = wrap(directory, case)
    trained.save_pretrained(tmp_path)
    model, params = ours(directory)
    adapter = interop.read(tmp_path, model.config)
    methods, params, chosen = adapter.methods, tree_of(params, adapter), set(adapter.trained)
    assert sum(p.numel() for p in trained.parameters() if p.requires_grad) == sum(params_of(chosen, params))
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    examples, _, _, inputs = encode(directory, split)
    indices = batches.Schedule(len(examples), 8, 3).batches(0, steps)
    labels, expected = torch.tensor(split.label, dtype=torch.long), []
    for chosen_rows in indices:
        rows = torch.tensor(chosen_rows)
        optimizer.zero_grad()
        loss = trained(**{n: x[rows] for n, x in inputs.items()}, labels=labels[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in trained.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        expected.append(loss.item())
    found = train(directory, methods, params, chosen, batches.prepend(examples, partition.prompt_length(methods)),
                  indices, rate)  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert np.ptp(expected) > 0.05


def params_of(chosen, params):
    return [leaf.size for name, leaf in tree.flatten(params).items() if name in chosen]


def train(directory, methods, params, chosen, examples, indices, rate):
    """Losses of the pure step without dropout and decay."""
    model, _ = adapted(directory, methods)
    hyper = dataclasses.replace(small.make_hyper(rate=rate, dropout=0.0, decay=0.0), methods={
        name: values | ({"dropout": np.float32(0)} if "dropout" in values else {})
        for name, values in partition.traced_values(methods).items()
    })  # fmt: skip
    optimizer = make_optimizer(small.ADAMW)
    trainable, frozen = tree.split(params, chosen)
    (shape,) = packing.plan(batches.lengths_of(examples, indices), most_shapes=1, width=64).shapes
    step = jax.jit(
        functools.partial(train_step, model=model, loss=losses.LOSSES["classification"], optimizer=optimizer)
    )
    state, seen = init_state(trainable, hyper, optimizer), []
    for rows in indices:
        batch, _ = batches.build(examples, rows, shape)
        state, metrics = step(state, frozen, batch, hyper)
        seen.append(float(metrics["loss"]))
    return seen
