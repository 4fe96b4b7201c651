"""Calibration: known temperatures come back, thresholds are the best ones, bounds hold as often as they say."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics as skm

from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.tasks import calibration
from fjt.tasks.calibration import Calibration
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.multilabel import MULTI_LABEL

TWO = Task("two", "classification", ("no", "yes"), ())
SETS = Task("sets", "multi_label", ("a", "b", "c"), ())


def drawn(classes, size, exclusive, seed=0):
    """(logits, truth): labels are drawn from the probabilities of the logits."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(size, classes))
    if not exclusive:
        return logits, rng.random(logits.shape) < scipy.special.expit(logits)
    label = (scipy.special.softmax(logits, axis=1).cumsum(axis=1) < rng.random((size, 1))).sum(axis=1)
    return logits, label[:, None] == np.arange(classes)


@pytest.mark.parametrize(("classes", "exclusive"), [(2, True), (5, True), (3, False)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_comes_back(classes, exclusive, temperature):
    logits, truth = drawn(classes, 20_000, exclusive)
    found = calibration.fit("temperature", temperature * logits, truth, exclusive)
    assert 1 / found.scale[0] == pytest.approx(temperature, rel=0.05) and found.bias == (0.0,)


def test_known_scales_and_biases_of_labels_come_back():
    logits, truth = drawn(3, 20_000, False)
    scale, bias = np.array([0.5, 1.0, 2.0]), np.array([0.3, -0.5, 0.0])
    found = calibration.fit("vector", (logits - bias) / scale, truth, False)
    assert found.scale == pytest.approx(scale, rel=0.08) and found.bias == pytest.approx(bias, abs=0.08)


def test_vector_scaling_moves_the_share_of_a_class_to_its_true_share():
    logits, truth = drawn(3, 5_000, True)
    moved = logits + np.array([2.0, 0.0, -1.0])
    found = calibration.fit("vector", moved, truth, True)
    shares = scipy.special.softmax(found.logits(moved), axis=1)
    assert shares.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=1e-3)  # a condition of the minimum


def test_rows_that_are_told_apart_without_error_are_refused():
    truth = np.eye(2, dtype=bool)[np.arange(100) % 2]
    with pytest.raises(UserError, match="no minimum"):
        calibration.fit("temperature", 8.0 * truth, truth, True)


@pytest.mark.parametrize("target", list(calibration.TARGETS))
def test_a_threshold_is_the_best_of_all(target):
    logits, truth = drawn(2, 60, True, seed=4)
    share = scipy.special.softmax(logits, axis=1).round(2)
    share[:, 0] = 1 - share[:, 1]
    (found,) = calibration.tune(target, share, truth, True)
    score = {
        "f1": skm.f1_score,
        "macro_f1": lambda y, z: skm.f1_score(y, z, average="macro"),
        "balanced_accuracy": skm.balanced_accuracy_score,
        "youden": lambda y, z: skm.recall_score(y, z) + skm.recall_score(y, z, pos_label=0) - 1,
    }[target]
    every = [score(truth[:, 1], share[:, 1] >= one) for one in [*np.unique(share[:, 1]), 2.0]]
    assert score(truth[:, 1], share[:, 1] >= found) == pytest.approx(max(every), abs=1e-12)


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    share = np.array([0.1, 0.2, 0.7, 0.9])
    truth = np.array([False, False, True, True])
    assert calibration._best(calibration._f1, share, truth) == pytest.approx(0.45)


def test_each_label_of_a_set_has_its_threshold():
    logits, truth = drawn(3, 400, False)
    shares = scipy.special.expit(logits)
    found = calibration.tune("f1", shares, truth, False)
    assert len(found) == 3
    fitted = Calibration(thresholds=found)
    predicted = fitted.decode(logits, MULTI_LABEL, SETS)
    assert (np.asarray(predicted.values) == (shares >= np.array(found))).all()
    assert predicted.labels[0] == tuple(np.array(SETS.label_names)[shares[0] >= found])


@pytest.mark.parametrize(
    ("method", "target", "classes", "rare", "message"),
    [
        ("platt", "", 2, 50, "temperature"),
        ("temperature", "accuracy", 2, 50, "balanced_accuracy"),
        ("temperature", "f1", 3, 30, "between two classes"),
        ("temperature", "f1", 2, 9, "9 of 100 rows have"),
        ("vector", "", 2, 9, "9 of 100 rows have"),
    ],
)
def test_what_cannot_be_fitted_is_said(method, target, classes, rare, message):
    label = np.where(np.arange(100) < rare, classes - 1, np.arange(100) % (classes - 1))
    truth = label[:, None] == np.arange(classes)
    task = Task("t", "classification", tuple("abc"[:classes]), ())
    with pytest.raises(UserError, match=message):
        calibration.check_options(method, target, truth, task, True)


def test_one_class_and_few_rows_are_refused():
    one = np.eye(2, dtype=bool)[np.zeros(100, int)]
    for truth, message in ((one, "have one label"), (np.eye(2, dtype=bool)[np.arange(49) % 2], "needs 50")):
        with pytest.raises(UserError, match=message):
            calibration.check(truth, "dev", True)
    calibration.check(one, "dev", False)


def test_the_bound_is_clopper_and_pearsons():
    found = calibration.upper_bound(np.array([0, 3, 5, 0]), np.array([59, 100, 5, 0]), 0.05)
    exact = scipy.stats.binomtest(3, 100).proportion_ci(0.90, "exact").high  # two-sided 90 %: one-sided 95 %
    assert found == pytest.approx([1 - 0.05 ** (1 / 59), exact, 1, 1])
    assert found[0] <= 0.05 < 1 - 0.05 ** (1 / 58)


def test_abstention_takes_the_least_confidence_with_the_bound():
    confident = np.repeat([0.55, 0.75, 0.95], [200, 200, 400])
    right = np.ones(800, bool)
    right[:80], right[200:220] = False, False
    found = calibration.abstain(0.1, confident, right)
    assert found.answered == 600 and found.wrong == 20 and 0.55 < found.confidence <= 0.75
    assert found.bound <= 0.1 and found.rows == 800
    fitted = Calibration(confidence=0.9)
    predicted = CLASSIFICATION.decode(np.array([[0.0, 1.0], [0.0, 9.0]]), TWO)
    assert fitted.answered(predicted, CLASSIFICATION, TWO).tolist() == [False, True]
    with pytest.raises(UserError, match="lowest bound is"):
        calibration.abstain(0.001, confident, right)
    for risk in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match="between 0 and 1"):
            calibration.abstain(risk, confident, right)


def broken(seed, abstain):
    """Whether the error rate of given predictions exceeds the risk; it is 12 % at every confidence, the risk 10 %."""
    rng = np.random.default_rng(seed)
    confident, right = rng.uniform(0.5, 1, 400), rng.random(400) < 0.88
    try:
        abstain(0.1, confident, right)
    except UserError:
        return False
    return True


def test_the_promise_fails_in_at_most_one_of_twenty_samples(monkeypatch):
    assert np.mean([broken(seed, calibration.abstain) for seed in range(300)]) <= 0.05
    monkeypatch.setattr(calibration, "upper_bound", lambda wrong, answered, _: wrong / np.maximum(answered, 1))
    assert np.mean([broken(seed, calibration.abstain) for seed in range(100)]) > 0.5  # a bound that is no bound


def test_parts_are_equal_and_keep_sources_together():
    found = calibration.parts(100, 5)
    assert np.bincount(found).tolist() == [20] * 5 and (found == calibration.parts(100, 5)).all()
    cluster = np.arange(100) // 4
    found = calibration.parts(100, 5, cluster)
    assert all(len(set(found[cluster == one])) == 1 for one in range(25))


def test_a_threshold_decides_and_the_probability_is_of_the_decision():
    fitted = Calibration((2.0,), (0.0,), (0.9,))
    logits = np.array([[0.0, 1.0], [0.0, 2.0]])
    found = fitted.decode(logits, CLASSIFICATION, TWO)
    assert found.labels == ["no", "yes"]
    share = scipy.special.expit([2.0, 4.0])
    columns = CLASSIFICATION.prediction_columns(found, TWO)
    assert columns["probability"] == pytest.approx([1 - share[0], share[1]])
    assert Calibration.read({"scale": [2], "bias": [0], "thresholds": [0.9], "confidence": None}) == fitted


def test_no_scale_of_a_vector_turns_its_label_around():
    """Of two labels whose logits are nearly opposite, the scales are hardly told apart."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    margin = 2.0 * label - 1.0 + rng.normal(size=400)
    logits = np.stack([-margin, margin + 0.05 * rng.normal(size=400)], axis=1)
    found = calibration.fit("vector", logits, np.eye(2, dtype=bool)[label], True)
    assert min(found.scale) >= calibration.COOLEST
