"""Metrics against published examples and hand counts, on whole predictions in float64."""

import numpy as np
import pytest

from fjt.data.glue import SPLIT_METRICS, TASKS, own
from fjt.tasks import metrics

NAN = float("nan")


def table(tp, fn, fp, tn):
    """(predicted, label) with these counts."""
    return np.repeat([1, 0, 1, 0], (tp, fn, fp, tn)), np.repeat([1, 1, 0, 0], (tp, fn, fp, tn))


def test_accuracy_and_f1_by_hand():
    predicted, label = table(tp=6, fn=2, fp=1, tn=3)
    assert metrics.accuracy(predicted, label) == 9 / 12
    assert metrics.f1(predicted, label) == pytest.approx(2 * 6 / (2 * 6 + 1 + 2), abs=1e-15)
    assert metrics.f1(label, predicted) == metrics.f1(predicted, label)
    assert metrics.f1(1 - predicted, 1 - label) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2), abs=1e-15)  # of class 1


def test_mcc_of_cats_and_dogs():
    """The worked example of Wikipedia's "Phi coefficient": 6, 2, 1, 3 give 0.478."""
    assert metrics.mcc(*table(tp=6, fn=2, fp=1, tn=3)) == pytest.approx(0.478, abs=5e-4)
    tp, fn, fp, tn = 90, 5, 4, 1  # Chicco & Jurman 2020, table 4, use case A1-like: high F1, MCC near chance
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.mcc(*table(tp, fn, fp, tn)) == pytest.approx(expected, abs=1e-12) and expected < 0.14


def test_published_examples_of_scikit_learn():
    assert metrics.mcc(np.array([1, 0, 1, 1]), np.array([1, 1, 1, 0])) == pytest.approx(-1 / 3, abs=1e-12)
    predicted, label = np.array([0, 2, 1, 0, 0, 1]), np.array([0, 1, 2, 0, 1, 2])
    assert metrics.macro_f1(predicted, label) == pytest.approx(0.8 / 3, abs=1e-12)


def test_published_examples_of_scipy():
    score = metrics.pearson(np.array([1, 2, 3, 4, 5, 6, 7.0]), np.array([10, 9, 2.5, 6, 4, 3, 2]))
    assert score == pytest.approx(-0.828503883588428, abs=1e-14)
    score = metrics.spearman(np.array([1, 2, 3, 4, 5.0]), np.array([5, 6, 7, 8, 7.0]))  # a tie
    assert score == pytest.approx(0.8207826816681233, abs=1e-14)


def test_correlations_by_hand():
    predicted, label = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    assert metrics.pearson(predicted, label) == pytest.approx((1 / 1.0) / np.sqrt(14 / 3 * 2), abs=1e-12)
    assert metrics.spearman(predicted, label) == pytest.approx(0.5, abs=1e-15)
    assert metrics.spearman(np.exp(predicted), label) == pytest.approx(0.5, abs=1e-15)
    assert metrics.mse(np.array([1.0, 2.0]), np.array([0.0, 4.0])) == 2.5


def test_degenerate_predictions_score_zero():
    label = np.array([0, 1, 1, 0])
    assert metrics.f1(np.zeros(4, int), label) == 0.0
    assert metrics.f1(np.zeros(4, int), np.zeros(4, int)) == 0.0
    assert metrics.mcc(np.ones(4, int), label) == 0.0
    for metric in (metrics.pearson, metrics.spearman):
        assert metric(np.full(4, 0.1, np.float32), np.arange(4.0)) == 0.0
        assert metric(np.arange(4.0), np.ones(4)) == 0.0
        assert metric(np.ones(1), np.ones(1)) == 0.0


def test_sums_are_float64():
    """Scores far from zero, whose squares float32 cannot hold."""
    rng = np.random.default_rng(0)
    label = rng.normal(size=500)
    predicted = (4096 + label + rng.normal(size=500)).astype(np.float32)
    x, y = predicted.astype(np.float64), label.astype(np.float32)
    assert metrics.pearson(predicted, y) == pytest.approx(np.corrcoef(x, y.astype(np.float64))[0, 1], abs=1e-12)
    assert metrics.mse(predicted, y) == pytest.approx(np.mean((x - y.astype(np.float64)) ** 2), rel=1e-14)


def test_score_leaves_unlabelled_rows_out():
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [5.0, 9.0]], np.float32)
    assert metrics.score(TASKS["sst2"], logits, np.array([1, 1, -1, -1], np.int32)) == {"accuracy": 0.5}
    assert metrics.score(TASKS["sst2"], logits, np.full(4, -1, np.int32)) == {}
    assert metrics.score(TASKS["mnli"], logits, np.array([1, 0, 1, 0], np.int32), SPLIT_METRICS["ax"]) == {
        "mcc": pytest.approx(1 / np.sqrt(3))
    }
    scores = np.array([[1.0], [2.0], [4.0], [100.0]], np.float32)
    found = metrics.score(TASKS["stsb"], scores, np.array([1.0, 3.0, 2.0, NAN], np.float32))
    assert found == {"pearson": pytest.approx(1 / np.sqrt(28 / 3)), "spearman": pytest.approx(0.5)}
    assert metrics.score(TASKS["stsb"], scores, np.full(4, NAN, np.float32)) == {}


def test_predict():
    np.testing.assert_array_equal(metrics.predict(np.float32([[1, 3, 2], [5, 0, 0]]), "classification"), [1, 0])
    scores = metrics.predict(np.float32([[1.5], [-2.0]]), "regression")
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, [1.5, -2.0])


def test_every_task_has_metrics_that_exist():
    expected = {
        "cola": {"mcc"}, "sst2": {"accuracy"}, "mrpc": {"f1", "accuracy"}, "stsb": {"pearson", "spearman"},
        "qqp": {"f1", "accuracy"}, "mnli": {"accuracy"}, "qnli": {"accuracy"}, "rte": {"accuracy"},
        "wnli": {"accuracy"}, "ax": {"mcc"},
    }  # fmt: skip  # Wang et al. 2019, table 1
    for name, wanted in expected.items():
        assert set(TASKS[name].metrics) == wanted
    for task in (*TASKS.values(), own("classification", ("a", "b")), own("regression", ())):
        assert set(task.metrics) <= set(metrics.METRICS) and task.metrics[0] != "mse"


def test_loss_by_hand():
    """Cross-entropy of logits (ln 3, 0): -ln 0.75 for class 0, -ln 0.25 for class 1; unlabelled rows do not count."""
    logits = np.float32([[np.log(3), 0.0]] * 3)
    found = metrics.loss(TASKS["rte"], logits, np.array([0, 1, -1], np.int32))
    np.testing.assert_allclose(found, (-np.log(0.75) - np.log(0.25)) / 2, rtol=1e-6)
    scores = metrics.loss(TASKS["stsb"], np.float32([[1.0], [4.0], [9.0]]), np.float32([2.0, 4.0, np.nan]))
    assert scores == 0.5
