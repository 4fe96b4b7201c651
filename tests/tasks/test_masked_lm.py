"""Masked language modelling as a Problem: loss, what is read of logits, metrics, statistics, decoding."""

import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest
import scipy.special
import small

from fjt.core import seeds
from fjt.core.errors import UserError
from fjt.core.options import LossConfig, MaskConfig
from fjt.core.ragged import Ragged
from fjt.data import documents, tokenization
from fjt.data.glue import Split, Task
from fjt.data.synthetic import VOCAB
from fjt.tasks.masked_lm import BEST, FIRST, MASKED_LM

TOKENIZER = tokenization.load_tokenizer(VOCAB)
TASK = Task("t", "masked_lm", (), MASKED_LM.table_metrics)
WORDS = [w for w in TOKENIZER.get_vocab() if w.isalpha() and len(w) > 2][:40]
TEXTS = (" ".join([*WORDS[:20], *("abc", "bcd") * 4]), "​", WORDS[3], " ".join(WORDS[:11]))
SPLIT = Split.unlabelled(map(str, range(4)), TEXTS)
KEY = seeds.make_key(0, "test")


def drawn(**options):
    texts = documents.tokenize(TEXTS, TOKENIZER, 20)
    return MASKED_LM.draw(texts, TOKENIZER, MaskConfig(**options), KEY)


def read(logits, label):
    found = MASKED_LM.reduce(logits[None], {"label": np.asarray(label, np.int32)[None]})
    return np.asarray(found)[0]


def random(count, vocab=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (count, vocab)).astype(np.float32), rng.integers(0, vocab, count)


def test_what_is_read_of_logits():
    logits, label = random(40)
    logits[0], label[0] = 0.0, 7  # all alike: nothing is predicted
    label[1] = np.argmax(logits[1])
    found, shares = read(logits, label), scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    at = np.arange(40)
    np.testing.assert_allclose(found[:, 0], shares[at, label], atol=1e-5)
    others = shares.copy()
    others[at, label] = -np.inf
    np.testing.assert_allclose(found[:, 1], others.max(axis=1), atol=1e-5)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :BEST]
    assert found[1:, FIRST : FIRST + BEST].astype(int).tolist() == best[1:].tolist()
    np.testing.assert_allclose(found[1:, FIRST + BEST :], shares[at[1:, None], best[1:]], atol=1e-5)
    values = Ragged(found, np.array([0, 40]))
    hits = np.argmax(logits[1:], axis=-1) == label[1:]
    assert MASKED_LM.decode(values, TASK).values.values.shape == (40, 2)
    predicted, true = MASKED_LM.decode(values, TASK).values, Ragged(label.astype(np.int32), values.offsets)
    assert MASKED_LM.metrics["accuracy"](predicted, true) == hits.sum() / 40 and 1 <= hits.sum() < 39
    expected = np.exp(-shares[at, label].mean())
    assert MASKED_LM.metrics["perplexity"](predicted, true) == pytest.approx(expected, rel=1e-5)


def test_the_loss_counts_real_slots_alone():
    logits, label = random(6)
    label = np.where(np.arange(6) == 2, -1, label).astype(np.int32)
    value, weight = MASKED_LM.loss(logits[None], {"label": label[None]}, small.make_hyper(classes=0))
    shares = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = np.where(label < 0, 0, -shares[np.arange(6), label])
    np.testing.assert_allclose(np.asarray(value)[0], expected, atol=1e-5)
    assert np.asarray(weight)[0].tolist() == [1, 1, 0, 1, 1, 1]
    examples = dataclasses.replace(drawn(), label=label, slot_token=np.zeros(6, np.int32))
    assert MASKED_LM.dev_loss(read(logits, label), examples, TASK) == pytest.approx(expected.sum() / 5, rel=1e-5)


def test_labels_are_the_true_tokens_of_each_document():
    examples = drawn(whole_words=True)
    split = MASKED_LM.label_rows(SPLIT, examples)
    used = examples.label >= 0
    lengths = [int(used[a:b].sum()) for a, b in itertools.pairwise(examples.row_slots)]
    assert split.label.lengths.tolist() == lengths and lengths[1:] == [0, 1, 2] and 2 <= lengths[0] < len(used) - 3
    assert MASKED_LM.is_labelled(split.label).tolist() == [True, False, True, True]
    assert MASKED_LM.label_column(split.label, MASKED_LM.name_labels(TASK, TOKENIZER))[2] == WORDS[3]
    rows = MASKED_LM.by_row(np.arange(len(examples.label), dtype=np.float32)[:, None], examples, split, TASK)
    assert rows.values[:, 0].tolist() == np.flatnonzero(used).tolist() and rows.lengths.tolist() == lengths


def test_slots_of_new_texts_are_their_masks():
    texts = (f"{WORDS[0]} [MASK] {WORDS[1]} [MASK]", WORDS[2], f"[MASK] {WORDS[3]}")
    made = MASKED_LM.pick_slots(documents.tokenize(texts, TOKENIZER, 20), TOKENIZER)
    assert made.slot_token.tolist() == [2, 4, 1] and np.diff(made.row_slots).tolist() == [2, 0, 1]


def fits(counts, seed):
    rng = np.random.default_rng(seed)
    values = np.log(rng.dirichlet(np.ones(3), sum(counts))[:, :2])
    return Ragged(values, np.concatenate([[0], np.cumsum(counts)]))


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
def test_statistics_are_those_of_documents_left_out(metric):
    counts = [3, 1, 5, 2]
    runs = [fits(counts, seed) for seed in range(2)]
    label = Ragged(np.arange(11, dtype=np.int32), runs[0].offsets)
    function, scorer = MASKED_LM.metrics[metric], MASKED_LM.scorer(metric, runs[0], label)
    assert scorer(np.array([0, 2, 2])) == pytest.approx(function(runs[0][[0, 2, 2]], label), rel=1e-12)
    found = MASKED_LM.pseudo_values(metric, runs, label)
    for run, values in zip(runs, found, strict=True):
        without = [function(run[[i for i in range(4) if i != left]], label) for left in range(4)]
        np.testing.assert_allclose(values, 4 * function(run, label) - 3 * np.array(without), rtol=1e-9)


def test_the_constant_has_the_frequencies_of_the_tokens():
    label = Ragged(np.array([5, 5, 5, 9, 9, 2], np.int32), np.array([0, 2, 6]))
    found = MASKED_LM.constant(label)
    np.testing.assert_allclose(np.exp(found.values[:, 0]), [0.5, 0.5, 0.5, 1 / 3, 1 / 3, 1 / 6], rtol=1e-6)
    assert MASKED_LM.metrics["accuracy"](found, label) == 0.5
    entropy = -(0.5 * np.log(0.5) + np.log(1 / 3) / 3 + np.log(1 / 6) / 6)
    assert MASKED_LM.metrics["perplexity"](found, label) == pytest.approx(np.exp(entropy))
    assert MASKED_LM.metrics["accuracy"](MASKED_LM.constant(label[[0]]), label) == 1.0
    tied = Ragged(np.array([5, 5, 9, 9, 2], np.int32), np.array([0, 5]))
    assert MASKED_LM.metrics["accuracy"](MASKED_LM.constant(tied), tied) == pytest.approx(0.4)
    perfect = MASKED_LM.perfect(label)
    assert MASKED_LM.metrics["accuracy"](perfect, label) == 1.0 and perfect.offsets is label.offsets


def test_candidates_of_each_mask():
    logits, _ = random(3, vocab=len(TOKENIZER))
    logits[1, 20] = 30.0
    rows = Ragged(read(logits, [0, 0, 0]), np.array([0, 2, 2, 3]))
    task = MASKED_LM.name_labels(TASK, TOKENIZER)
    predicted = MASKED_LM.decode(rows, task)
    token = TOKENIZER.convert_ids_to_tokens(20)
    assert predicted.labels[0][1] == token and list(map(len, predicted.labels)) == [2, 0, 1]
    (candidates,) = MASKED_LM.details(rows, predicted, SPLIT, task).values()
    assert candidates[0][1][0] == [token, 1.0] and candidates[1] == [] and len(candidates[2][0]) == BEST
    assert MASKED_LM.columns(rows, TASK)["predicted"][0][1] == "[20]", "an id without a name"


def test_options_that_do_not_fit():
    hint = "are shares of the same tokens"
    with pytest.raises(UserError, match=rf"config.mask.replaced=0.8 and config.mask.random=0.3 {hint}"):
        drawn(random=0.3)
    with pytest.raises(UserError, match=r"config.loss.label_smoothing=0.1: t \(masked_lm\) has no label_smoothing"):
        MASKED_LM.check_loss(LossConfig(label_smoothing=0.1), TASK)
    without = types.SimpleNamespace(mask_token_id=None)
    with pytest.raises(UserError, match="has no mask_token"):
        MASKED_LM.pick_slots(drawn(), without)
    with pytest.raises(UserError, match=r"No text has a mask, \[MASK\]"):
        MASKED_LM.pick_slots(documents.tokenize(["the"], TOKENIZER, 20), TOKENIZER)


def test_each_option_of_masks_matters():
    plain = drawn()
    for options in ({"rate": 0.5}, {"whole_words": True}, {"replaced": 0.2}, {"replaced": 0.1, "random": 0.9}):
        other = drawn(**options)
        assert other.token_ids.tolist() != plain.token_ids.tolist() or other.label.tolist() != plain.label.tolist()
    assert drawn(rate=0.15, replaced=0.8, random=0.1, whole_words=False).token_ids.tolist() == plain.token_ids.tolist()


def test_the_head_is_tied_to_the_table_of_words():
    kind = small.KINDS["masked_lm"]
    model = kind.make_model(small.CONFIG)
    params = jax.tree.map(np.asarray, jax.jit(model.init)(KEY))
    assert set(params["head"]) == {"transform", "norm", "decoder"} and set(params["head"]["decoder"]) == {"bias"}
    assert params["head"]["decoder"]["bias"].shape == (small.CONFIG.vocab,)
