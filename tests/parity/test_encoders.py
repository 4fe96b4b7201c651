"""The encoder, its gradients and its training against PyTorch `transformers`, on the same weights and texts.

With FJT_MINILM=DIR (and FJT_SHARED=DIR for real sentences) on real weights too; random small models always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import torch
import transformers
from conftest import RANDOM
from reference import encode, ours

from fjt.core import tree
from fjt.data import batches
from fjt.models import torch_names
from fjt.models.encoder import Model
from fjt.models.layers import Hooks
from fjt.tasks.kinds import find_problem


def test_hidden_states_and_logits(reference):
    directory, torch_model, texts = reference
    model, params = ours(directory)
    for split in texts:
        examples, batch, place, inputs = encode(directory, split)
        with torch.no_grad():
            expected = torch_model(**inputs, output_hidden_states=True)
        seen = {}

        def capture(site, layer, h, residual, norm, tokens, seen=seen):
            if site == "output":
                seen[layer] = np.asarray(norm(h + residual))
            return h

        captured = Model(model.config, 2, adapt=lambda adapters, values: Hooks(block=capture))
        logits = np.asarray(captured.apply(params, batch)).reshape(-1, 2)[place]
        np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4, rtol=0)
        assert np.ptp(logits) > 0.1
        for layer in range(model.config.layers):
            hidden = expected.hidden_states[layer + 1].numpy()
            for e in range(len(examples)):
                slot = np.unravel_index(place[e], batch["slot_token"].shape)
                if layer == model.config.layers - 1:
                    np.testing.assert_allclose(seen[layer][slot][0], hidden[e, 0], atol=1e-4, rtol=0)
                else:
                    where = np.argwhere(batch["segment_ids"] == slot[1] + 1)
                    mine = np.stack([seen[layer][tuple(w)] for w in where])
                    np.testing.assert_allclose(mine, hidden[e, : len(mine)], atol=1e-4, rtol=0)
                    assert len(mine) == examples.lengths[e]


SETS, SCORES = (np.random.default_rng(0).integers(0, top, (32, 2)).astype(np.float32) for top in (2, 9))
TARGETS = {  # (labels of 32 texts, PyTorch's problem_type)
    "classification": (None, "single_label_classification"),
    "multi_label": (SETS, "multi_label_classification"),
    "multi_regression": (SCORES, "regression"),
}
KINDS = [(name, "classification") for name in (*RANDOM, "minilm")] + [("bert", kind) for kind in list(TARGETS)[1:]]


@pytest.mark.parametrize(("reference", "kind"), KINDS, indirect=["reference"])
def test_loss_and_gradients(reference, kind):
    directory, torch_model, texts = reference
    model, params = ours(directory)
    label, problem_type = TARGETS[kind]
    label = np.int64(texts[1].label) if label is None else label
    _, batch, place, inputs = encode(directory, texts[1])
    values = np.zeros((*batch["label"].shape, *label.shape[1:]), label.dtype)
    values.reshape(-1, *label.shape[1:])[place] = label
    batch["label"] = values if kind != "classification" else batch["label"]
    torch_model.zero_grad()
    torch_model.config.problem_type = problem_type
    theirs = torch_model(**inputs, labels=torch.tensor(label)).loss
    theirs.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in torch_model.named_parameters()}
    hyper = small.make_hyper(dropout=0.0)

    def loss(params):
        value, weight = find_problem(kind).loss(model.apply(params, batch), batch, hyper)
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-4)
    grads = tree.flatten(grads)
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    assert len(grads) == len(expected)
    for name, gradient in grads.items():
        reference_gradient = expected[torch_names.torch_name(name, model.config.family)]
        difference = np.linalg.norm(torch_names.to_torch(name, np.asarray(gradient)) - reference_gradient)
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

    trained = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()  # eval: no dropout
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
        small.Layout(batch_size=8),
        steps,
        model=model,
        examples=examples,
        params=params,
        seed=3,
        rates=rates,
        hyper=small.make_hyper(dropout=0.0, decay=0.1),
        most_shapes=1,
    )
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-3)
    rows = torch.tensor(indices[0])
    with torch.no_grad():
        after = trained(**{n: x[rows] for n, x in inputs.items()}, labels=labels[rows])
    assert abs(after.loss.item() - expected[0]) > 0.05  # the weights have moved: no comparison of constants
