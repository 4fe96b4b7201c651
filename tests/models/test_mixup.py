"""Mixup: who is mixed with whom, by which share, and what becomes of logits and loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import small

from fjt.core.seeds import make_key
from fjt.models import mixup
from fjt.models.encoder import Model
from fjt.tasks.classification import CLASSIFICATION

KEY = jnp.uint32(3), jnp.uint32(4)


def pair(example, alpha=1.0, key=KEY):
    """{example: (its partner, its own share)} of groups of examples, -1 in empty places."""
    example = np.array(example, np.int32)
    batch = {"example": np.maximum(example, 0), "weight": np.float32(example >= 0)}
    made = mixup.pair(batch, key, np.float32(alpha))
    partner, share = np.asarray(made["partner"]), np.asarray(made["share"])
    assert (partner[example < 0] == np.arange(example.size).reshape(example.shape)[example < 0]).all()
    partners = example.reshape(-1)[partner]
    return {
        int(e): (int(p), float(s)) for e, p, s in zip(example.flat, partners.flat, share.flat, strict=True) if e >= 0
    }


def test_partners_form_one_ring_wherever_the_examples_are():
    found = pair([[5, 9, 2, -1], [7, 0, -1, -1]])
    assert found == pair([[0, 2], [-1, 5], [7, 9]]) and found != pair([[0, 2], [-1, 5], [7, 9]], key=KEY[::-1])
    seen, one = [], 0
    for _ in found:
        seen.append(one)
        one = found[one][0]
    assert sorted(seen) == [0, 2, 5, 7, 9] and one == 0


def test_shares_are_of_the_beta_distribution():
    example = np.arange(4000).reshape(4, 1000)
    for alpha in (0.3, 2.0):
        shares = np.array([share for _, share in pair(example, alpha).values()])
        assert abs(shares.mean() - 0.5) < 0.02
        np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.05)
    assert {share for _, share in pair(example[:1], 0.0).values()} == {1.0}


def test_the_head_reads_vectors_between_two_examples_and_the_loss_is_between_theirs():
    states = np.random.default_rng(0).normal(size=(2, 3, small.CONFIG.width)).astype(np.float32)
    model = Model(small.CONFIG, 2, start=small.CONFIG.layers)
    head = {"head": Model(small.CONFIG, 2).init(make_key(0, "init"))["head"]}
    plain = {
        "hidden": states, "example": np.arange(6, dtype=np.int32).reshape(2, 3), "weight": np.ones((2, 3), np.float32),
        "label": np.array([[0, 1, 1], [0, 0, 1]], np.int32),
    }  # fmt: skip
    batch = mixup.pair(plain, KEY, np.float32(1.0))
    share, partner = np.asarray(batch["share"])[..., None], np.asarray(batch["partner"])
    mixed = share * states + (1 - share) * states.reshape(6, -1)[partner]
    logits = jax.jit(model.apply)(head, batch)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(head, plain | {"hidden": mixed}), rtol=1e-5, atol=1e-6)

    hyper = dataclasses.replace(small.make_hyper(), class_weights=np.float32([1.0, 3.0]))
    found = mixup.between(CLASSIFICATION.loss)(logits, batch, hyper)
    own = CLASSIFICATION.loss(logits, plain, hyper)
    other = CLASSIFICATION.loss(logits, plain | {"label": plain["label"].reshape(-1)[partner]}, hyper)
    for one, a, b in zip(found, own, other, strict=True):
        np.testing.assert_allclose(one, share[..., 0] * a + (1 - share[..., 0]) * b, rtol=1e-6)
