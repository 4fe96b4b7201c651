"""The encoder, its gradients and its training against PyTorch `transformers`, on the same weights and texts.

With FJT_MINILM=DIR (and FJT_SHARED=DIR for real sentences) on real weights too; a random small BERT always.
"""

import csv
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import torch
import transformers

from fjt import losses, prng, tree
from fjt.data import batches, packing, tokenize
from fjt.data.synthetic import VOCAB
from fjt.data.synthetic import load as load_synthetic
from fjt.data.tasks import Split
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.models.layers import Hooks

MINILM = os.environ.get("FJT_MINILM", "")
SHARED = os.environ.get("FJT_SHARED", "")


def real_texts():
    """32 SST-2 sentences and 32 MRPC pairs as they stand in the files."""

    def column(path, *columns):
        with open(os.path.join(SHARED, "data", "glue", path), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:33]
        return [tuple(row[c] for row in rows) for c in columns]

    (single,) = column("SST-2/dev.tsv", 0)
    first, second = column("MRPC/dev.tsv", 3, 4)
    label = np.arange(32, dtype=np.int32) % 2
    return [Split((), single, None, label), Split((), first, second, label)]


@pytest.fixture(scope="module", params=["random", "minilm"])
def reference(request, tmp_path_factory):
    """(directory, PyTorch model, texts)."""
    torch.manual_seed(0)
    if request.param == "minilm":
        if not (MINILM and SHARED):
            pytest.skip("FJT_MINILM and FJT_SHARED name real weights and data; not set here")
        texts = real_texts()
        model = transformers.BertForSequenceClassification.from_pretrained(MINILM, num_labels=2)
        folder = tmp_path_factory.mktemp("minilm")
        transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    else:
        tokenizer = tokenize.load_tokenizer(VOCAB)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=64, initializer_range=0.1,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
        folder = tmp_path_factory.mktemp("random")
        tokenizer.save_pretrained(folder)
        texts = []
        for name in ("sentiment", "paraphrase"):
            split = load_synthetic(name)["dev"]
            pair = None if split.text_pair is None else split.text_pair[:32]
            texts.append(Split(split.id[:32], split.text[:32], pair, split.label[:32]))
    with torch.no_grad():  # a trained pooler and a head of some size, so that logits are not all near zero
        model.bert.pooler.dense.bias.normal_(0, 0.1)
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return str(folder), model.eval(), texts


def ours(directory, dtype="float32"):
    """(Model, base parameters) as fjt reads a directory, its classifier included."""
    checkpoint = pretrained.read_checkpoint(directory)
    model = Model(checkpoint.config, 2, dtype=dtype)
    abstract = jax.eval_shape(model.init, prng.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, directory, keep_head=True)
    assert loaded.missing == () and loaded.unused == ()
    return model, loaded.params


def encode(directory, split, row_length=0):
    """(Examples, packed batch, place, PyTorch inputs) of a split of 32."""
    tokenizer = tokenize.load_tokenizer(directory)
    examples = tokenize.tokenize(split, tokenizer, 64)
    indices = np.arange(len(examples))[None]
    shape = packing.plan(batches.lengths_of(examples, indices), row_length=row_length, width=64).shapes[0]
    batch, place = batches.build(examples, indices[0], shape)
    pair = None if split.text_pair is None else list(split.text_pair)
    inputs = tokenizer(
        list(split.text), pair, truncation="longest_first", max_length=64, padding=True, return_tensors="pt"
    )
    return examples, batch, place, inputs


def test_hidden_states_and_logits(reference):
    directory, torch_model, texts = reference
    model, params = ours(directory)
    for split in texts:
        examples, batch, place, inputs = encode(directory, split)
        with torch.no_grad():
            expected = torch_model(**inputs, output_hidden_states=True)
        seen = {}

        def capture(site, layer, h, residual, norm, seen=seen):
            if site == "output":
                seen[layer] = np.asarray(norm(h + residual))
            return h

        captured = Model(model.config, 2, adapt=lambda adapters, hyper, noise: Hooks(block=capture))
        logits = np.asarray(captured.apply(params, batch)).reshape(-1, 2)[place]
        np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4, rtol=0)
        assert np.ptp(logits) > 0.1
        for layer in range(model.config.layers):
            hidden = expected.hidden_states[layer + 1].numpy()
            for e in range(len(examples)):
                slot = np.unravel_index(place[e], batch["first"].shape)
                if layer == model.config.layers - 1:
                    np.testing.assert_allclose(seen[layer][slot][0], hidden[e, 0], atol=1e-4, rtol=0)
                else:
                    where = np.argwhere(batch["segment_ids"] == slot[1] + 1)
                    mine = np.stack([seen[layer][tuple(w)] for w in where])
                    np.testing.assert_allclose(mine, hidden[e, : len(mine)], atol=1e-4, rtol=0)
                    assert len(mine) == examples.lengths[e]


def test_gradients(reference):
    directory, torch_model, texts = reference
    model, params = ours(directory)
    _, batch, _, inputs = encode(directory, texts[1])
    torch_model.zero_grad()
    torch_model(**inputs, labels=torch.tensor(texts[1].label, dtype=torch.long)).loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in torch_model.named_parameters()}
    hyper = small.make_hyper(dropout=0.0)

    def loss(params):
        value, weight = losses.cross_entropy(model.apply(params, batch), batch["label"], hyper)
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    grads = tree.flatten(jax.jit(jax.grad(loss))(params))
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    assert len(grads) == len(expected)
    for name, gradient in grads.items():
        reference_gradient = expected[pretrained.torch_name(name, "bert")]
        difference = np.linalg.norm(pretrained.to_torch(name, np.asarray(gradient)) - reference_gradient)
        assert difference <= 1e-3 * np.linalg.norm(reference_gradient) + 1e-7 * whole, name


def test_thirty_adamw_steps(reference):
    """Warm-up, decay without biases and LayerNorm, clipping: the losses stay within 1e-3 of PyTorch's."""
    directory, _, texts = reference
    model, params = ours(directory)
    steps, rates = 30, np.concatenate([np.arange(5) / 5, np.linspace(1, 0, 26)[:-1]]) * 2e-4
    split = texts[1]
    examples, _, _, _ = encode(directory, split)
    schedule = batches.Schedule(len(examples), 8, 3)
    indices = schedule.batches(0, steps)

    trained = transformers.BertForSequenceClassification.from_pretrained(directory).eval()  # eval: no dropout
    plain = [p for n, p in trained.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in trained.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=1.0, eps=1e-8
    )
    _, _, _, inputs = encode(directory, split)
    labels = torch.tensor(split.label, dtype=torch.long)
    expected = []
    for k in range(steps):
        rows = torch.tensor(indices[k])
        optimizer.zero_grad()
        loss = trained(**{n: x[rows] for n, x in inputs.items()}, labels=labels[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rates[k]
        optimizer.step()
        expected.append(loss.item())

    seen, _, _ = small.train(
        small.Layout(batch_size=8), steps, model=model, examples=examples, params=params, seed=3, rates=rates,
        hyper=small.make_hyper(dropout=0.0, decay=0.1),
    )  # fmt: skip
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-3)
    rows = torch.tensor(indices[0])
    with torch.no_grad():
        after = trained(**{n: x[rows] for n, x in inputs.items()}, labels=labels[rows])
    assert abs(after.loss.item() - expected[0]) > 0.05  # the weights have moved: no comparison of constants
