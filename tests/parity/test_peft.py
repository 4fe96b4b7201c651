"""PEFT's adapters and fjt's, in both directions, and their training, on the same weights and texts."""

import dataclasses

import numpy as np
import peft
import pytest
import small
import torch
import transformers
from reference import FILES, encode, ours

from fjt.data import batches, tokenization
from fjt.data.glue import Task
from fjt.interop import hf
from fjt.interop import peft as interop
from fjt.tuning import partition
from tests import adapted

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
    "lora, rank by site": (small.tune("lora", sites=("query", "output"), ranks=(2, 5), dropout=0.0), peft.LoraConfig(
        r=5, lora_alpha=16, target_modules=LAYER + r"(attention\.self\.query|output\.dense)",
        rank_pattern={LAYER + r"output\.dense": 3})),
    "dora": (small.tune("dora", rank=4, sites=("value", "intermediate"), dropout=0.0), peft.LoraConfig(
        r=4, lora_alpha=16, use_dora=True, target_modules=["value", "intermediate.dense"])),
    "vera": (small.tune("vera", rank=12, sites=("value", "intermediate", "output")), peft.VeraConfig(
        r=12, target_modules=LAYER + r"(attention\.self\.value|intermediate\.dense|\d+\.output\.dense)")),
    "ia3": (small.tune("ia3"), peft.IA3Config(
        target_modules=LAYER + r"(attention\.self\.(key|value)|output\.dense)",
        feedforward_modules=LAYER + r"output\.dense")),
    "layernorm": (small.tune("layernorm"), peft.LNTuningConfig(target_modules=".*LayerNorm")),
    "prefix": (small.tune("prefix", prefix_length=5), peft.PrefixTuningConfig(num_virtual_tokens=5)),
    "prefix, projected": (small.tune("prefix", prefix_length=5, projection=16), None),
    "prompt": (small.tune("prompt", prompt_length=5), peft.PromptTuningConfig(num_virtual_tokens=5)),
    "p_tuning": (small.tune("p_tuning", prompt_length=5, projection=16), peft.PromptEncoderConfig(
        num_virtual_tokens=5, encoder_hidden_size=16)),
}  # fmt: skip
SAVED = {"p_tuning": "prompt"}  # a saved one is its prompt
THEIRS = [case for case, (_, config) in CASES.items() if config]
TRAINED = ["lora", "dora", "vera", "ia3", "prefix", "prompt", "layernorm"]


def classifier(directory):
    return transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()


def examples_of(directory, split):
    """(Examples, PyTorch's inputs) of a split."""
    examples, _, _, inputs = encode(directory, split)
    return examples, inputs


def pairs(cases, roberta, minilm=("lora", "prefix")):
    """Marks a test to run all cases on a BERT, and those named on a RoBERTa and on MiniLM.

    On MiniLM `tests.benchmarks.conformance`, whose record is committed, compares every method.
    """
    by_model = {"bert": cases, "roberta": roberta, "minilm": [case for case in minilm if case in cases]}
    found = [(model, case) for model, chosen in by_model.items() for case in chosen]
    return pytest.mark.parametrize(("reference", "case"), found, indirect=["reference"])


@pairs(CASES, roberta=CASES)
def test_ours_in_theirs(case, reference, tmp_path):
    directory, _, texts = reference
    model, base = ours(directory)
    adapter = adapted.shaken(CASES[case][0], model, base, directory)
    interop.write(tmp_path, adapter, model.config)
    loaded = peft.PeftModel.from_pretrained(classifier(directory), tmp_path).eval()
    examples, inputs = examples_of(directory, texts[1])  # pairs, which have both token types
    found = adapted.logits(model, base, adapter, examples)
    with torch.no_grad():
        expected = loaded(**inputs).logits.numpy()
        bare = classifier(directory)(**inputs).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.abs(expected - bare).max() > 1e-2  # the adapter matters
    again = adapted.logits(model, base, interop.read(tmp_path, model.config), examples)
    np.testing.assert_allclose(again, found, atol=1e-5, rtol=0)


@pairs([case for case in CASES if partition.can_merge(partition.find_methods(CASES[case][0]))], roberta=["lora"])
def test_a_merged_model_in_theirs(case, reference, tmp_path):
    """What fjt.export writes as hf, in PyTorch, gives what the adapter gives in fjt."""
    directory, _, texts = reference
    model, base = ours(directory)
    adapter = adapted.shaken(CASES[case][0], model, base, directory)
    examples, inputs = examples_of(directory, texts[1])
    _, params, _ = adapted.over(model, base, adapter, examples)
    merged = partition.merged(adapter.methods, params, model.config)
    task = Task("texts", "classification", ("no", "yes"), ("accuracy",))
    hf.export(tmp_path / "merged", merged, model.config, task, tokenization.load_tokenizer(directory, FILES), 64)
    with torch.no_grad():
        found = classifier(tmp_path / "merged")(**inputs).logits.numpy()
    np.testing.assert_allclose(found, adapted.logits(model, base, adapter, examples), atol=1e-4, rtol=0)


@pairs(THEIRS, roberta=["lora", "prefix"])
def test_theirs_in_ours(case, reference, tmp_path):
    directory, _, texts = reference
    torch.manual_seed(1)
    wrapped = wrap(directory, case)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(adapted.SHAKE * torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path)
    model, base = ours(directory)
    adapter = interop.read(tmp_path, model.config)
    assert adapter.base == directory and set(adapter.methods) == {SAVED.get(case, *CASES[case][0].method)}
    examples, inputs = examples_of(directory, texts[1])
    found = adapted.logits(model, base, adapter, examples)
    with torch.no_grad():
        np.testing.assert_allclose(found, wrapped(**inputs).logits.numpy(), atol=1e-4, rtol=0)


def wrap(directory, case):
    config = dataclasses.replace(CASES[case][1], task_type="SEQ_CLS")
    return peft.get_peft_model(classifier(directory), config).eval()  # eval: without dropout, also in training


@pairs(TRAINED, roberta=["lora", "prefix"], minilm=["lora"])
def test_twenty_steps(case, reference, tmp_path):
    """From one start, dropout off: the losses stay within 1e-3 of PEFT's."""
    directory, _, texts = reference
    split, steps, rate = texts[1], 20, 1e-3
    torch.manual_seed(2)
    trained = wrap(directory, case)
    trained.save_pretrained(tmp_path)
    model, base = ours(directory)
    adapter = interop.read(tmp_path, model.config)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    assert sum(p.numel() for p in parameters) == sum(
        leaf.size for n, leaf in adapter.trained.items() if not partition.is_fixed(n)
    )
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    examples, inputs = examples_of(directory, split)
    indices = batches.Schedule(len(examples), 8, 3).batches(0, steps)
    labels, expected = torch.tensor(split.label, dtype=torch.long), []
    for chosen in indices:
        rows = torch.tensor(chosen)
        optimizer.zero_grad()
        loss = trained(**{n: x[rows] for n, x in inputs.items()}, labels=labels[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        expected.append(loss.item())
    found = adapted.train(model, base, adapter, examples, indices, rate)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert np.ptp(expected) > 0.05
