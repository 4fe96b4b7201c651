"""Every measure against scikit-learn's or scipy's, with weights as of a bootstrap, and where it is undefined."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as skm

from fjt.tasks import measures

KEYS = ("precision", "recall", "f1")


def made(classes, size, exclusive, seed=0, digits=1):
    """(chosen, probabilities, truth, counts): with ties, and two resamples of unequal counts."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, classes)).round(digits)
    if exclusive:
        truth = rng.integers(0, classes, size)[:, None] == np.arange(classes)
        shares = np.exp(logits + truth)
        shares /= shares.sum(axis=1, keepdims=True)
        chosen = shares.argmax(axis=1)[:, None] == np.arange(classes)
    else:
        truth = rng.random((size, classes)) < 0.4
        shares = 1 / (1 + np.exp(-logits - truth))
        chosen = shares >= 0.5
    counts = rng.multinomial(size, np.full(size, 1 / size), 2)
    return chosen, shares, truth, np.concatenate([np.ones((1, size), int), counts])


def names(classes):
    return [f"c{one}" for one in range(classes)]


def reference(chosen, shares, truth, weight, exclusive):
    """The same measures by scikit-learn."""
    classes = truth.shape[1]
    y, z = (truth.argmax(1), chosen.argmax(1)) if exclusive else (truth.astype(int), chosen.astype(int))
    options = {"sample_weight": weight}
    found = {"accuracy" if exclusive else "subset_accuracy": skm.accuracy_score(y, z, **options)}
    for average in ("micro", "macro"):
        scores = skm.precision_recall_fscore_support(y, z, average=average, zero_division=0, **options)
        found |= {f"{average}_{key}": value for key, value in zip(KEYS, scores[:3], strict=True)}
    each = skm.precision_recall_fscore_support(y, z, labels=range(classes), zero_division=0, **options)
    for key, row in zip(KEYS, each[:3], strict=True):
        found |= {f"{key}(c{one})": value for one, value in enumerate(row)}
    if exclusive:
        found["balanced_accuracy"] = skm.balanced_accuracy_score(y, z, **options)
        found["mcc"] = skm.matthews_corrcoef(y, z, **options)
        found["kappa"] = skm.cohen_kappa_score(y, z, **options)
        found["log_loss"] = skm.log_loss(y, shares, labels=range(classes), **options)
        found["brier"] = skm.brier_score_loss(
            y, shares[:, 1] if classes == 2 else shares, labels=range(classes), **options
        )
    else:
        columns = zip(truth.T, shares.T, strict=True)
        found["log_loss"] = np.mean([skm.log_loss(t, p, **options) for t, p in columns])
        found["brier"] = np.mean(
            [skm.brier_score_loss(t, p, **options) for t, p in zip(truth.T, shares.T, strict=True)]
        )
    lines = [1] if exclusive and classes == 2 else range(classes)
    found["roc_auc"] = np.mean([skm.roc_auc_score(truth[:, c], shares[:, c], **options) for c in lines])
    found["pr_auc"] = np.mean([skm.average_precision_score(truth[:, c], shares[:, c], **options) for c in lines])
    return found


@pytest.mark.parametrize(("classes", "exclusive"), [(2, True), (4, True), (3, False)])
def test_each_measure_is_scikit_learns_for_rows_and_for_resamples(classes, exclusive):
    *arrays, counts = made(classes, 60, exclusive)
    found = measures.of_classes(*arrays, names(classes), exclusive)
    scores = found.score(counts)
    for number, weight in enumerate(counts):
        wanted = reference(*arrays, weight, exclusive)
        assert scores.keys() - wanted.keys() == {"ece"} and wanted.keys() <= scores.keys()
        assert {name: scores[name][number] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert found.values() == pytest.approx({name: value[0] for name, value in scores.items()}, abs=1e-12)
    assert found.cases.keys() >= scores.keys() and found.bounds.keys() >= scores.keys()


def test_a_resample_is_the_rows_that_it_repeats():
    chosen, shares, truth, counts = made(3, 40, True, seed=1)
    rows = np.repeat(np.arange(40), counts[1])
    whole = measures.of_classes(chosen, shares, truth, names(3), True).score(counts)
    again = measures.of_classes(chosen[rows], shares[rows], truth[rows], names(3), True).values()
    assert {name: value[1] for name, value in whole.items()} == pytest.approx(again, abs=1e-12)


def test_the_calibration_error_by_hand():
    shares = np.array([[0.3, 0.7], [0.28, 0.72], [0.9, 0.1], [0.05, 0.95]])
    truth = np.array([[False, True], [True, False], [True, False], [False, True]])
    found = measures.of_classes(shares > 0.5, shares, truth, names(2), True).values()["ece"]
    # Of 15 bins, 0.7 and 0.72 are in the eleventh (one of two right), 0.9 in the fourteenth, 0.95 in the last.
    assert found == pytest.approx((abs(1.42 - 1) + (1 - 0.9) + (1 - 0.95)) / 4)


def test_a_sure_and_right_run_has_no_calibration_error():
    truth = np.eye(2, dtype=bool)[[0, 1, 1, 0]]
    values = measures.of_classes(truth, truth.astype(float), truth, names(2), True).values()
    assert values["ece"] == 0 and values["log_loss"] == pytest.approx(0, abs=1e-12) and values["mcc"] == 1


def test_one_class_alone_leaves_areas_and_kappa_undefined():
    truth = np.zeros((30, 2), bool)
    truth[:, 0] = True
    shares = np.random.default_rng(0).dirichlet((1, 1), 30)
    found = measures.of_classes(truth, shares, truth, names(2), True)
    values = found.values()
    assert all(math.isnan(values[name]) for name in ("roc_auc", "pr_auc", "kappa"))
    assert values["accuracy"] == 1 and values["mcc"] == 0 and values["f1(c1)"] == 0
    assert found.cases["accuracy"] == 0 and found.cases["roc_auc"] == 0


def test_constant_scores_have_half_the_area():
    shares = np.full((40, 2), 0.5)
    truth = np.stack([np.arange(40) % 4 > 0, np.arange(40) % 4 == 0], axis=1)
    values = measures.of_classes(shares >= [0.6, 0.5], shares, truth, names(2), True).values()
    assert values["roc_auc"] == 0.5 and values["pr_auc"] == pytest.approx(0.25) and values["mcc"] == 0


@pytest.mark.parametrize("targets", [1, 2])
def test_measures_of_scores_are_scikit_learns_and_scipys(targets):
    rng = np.random.default_rng(0)
    label = rng.normal(size=(50, targets)).round(1)
    predicted = (label + rng.normal(size=label.shape)).round(1)
    counts = np.concatenate([np.ones((1, 50), int), rng.multinomial(50, np.full(50, 0.02), 2)])
    scores = measures.of_scores(predicted, label).score(counts)
    for number, weight in enumerate(counts):
        rows = np.repeat(np.arange(50), weight)
        x, y = predicted[rows], label[rows]
        wanted = {
            "mae": skm.mean_absolute_error(y, x),
            "mse": skm.mean_squared_error(y, x),
            "rmse": skm.root_mean_squared_error(y, x),
            "r2": skm.r2_score(y, x),
            "pearson": np.mean([scipy.stats.pearsonr(*pair).statistic for pair in zip(x.T, y.T, strict=True)]),
            "spearman": np.mean([scipy.stats.spearmanr(*pair).statistic for pair in zip(x.T, y.T, strict=True)]),
        }
        assert {name: value[number] for name, value in scores.items()} == pytest.approx(wanted, abs=1e-9)


def test_constant_labels_have_no_r2_and_no_correlation():
    predicted, label = np.arange(20.0)[:, None], np.full((20, 1), 3.3)
    found = measures.of_scores(predicted, label)
    values = found.values()
    assert math.isnan(values["r2"]) and values["pearson"] == 0 and values["spearman"] == 0
    assert found.cases["pearson"] == 0 and found.cases["mae"] == 20
    assert measures.of_scores(label, predicted).values()["pearson"] == 0


def test_measures_of_row_numbers_repeat_rows():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = measures.of_scorers(
        {"share": lambda rows: float(values[rows].mean())}, 5, {"share": (0, 1), "other": (0, 1)}
    )
    assert found.score(np.array([[1, 1, 1, 1, 1], [0, 3, 1, 1, 0]]))["share"].tolist() == [0.6, 0.8]
    assert found.cases == {"share": 2} and found.bounds["share"] == (0, 1)


def test_over_folds_the_scores_of_rows_are_compared_within_a_fold_alone():
    chosen, shares, truth, counts = made(2, 60, True)
    other = [measures.of_classes(chosen[i], shares[i], truth[i], names(2), True) for i in (slice(0, 25), slice(25, 60))]
    scaled = np.where(np.arange(60)[:, None] < 25, shares, shares * [1, 9])  # another scale
    whole = measures.of_classes(chosen, scaled / scaled.sum(axis=1, keepdims=True), truth, names(2), True)
    found = whole.over_folds([(np.arange(25), other[0]), (np.arange(25, 60), other[1])]).score(counts)
    before = whole.score(counts)
    assert whole.over_folds([]).without.keys() == {"ece", "pr_auc"} and whole.without.keys() == {"ece"}
    assert {name for name in found if (found[name] != before[name]).any()} == whole.ranked == {"roc_auc", "pr_auc"}
    for resample, weight in enumerate(counts):
        each = [
            skm.roc_auc_score(truth[i, 1], shares[i, 1], sample_weight=weight[i]) for i in (slice(0, 25), slice(25, 60))
        ]
        assert found["roc_auc"][resample] == pytest.approx(np.mean(each))


def test_no_warning_is_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        *arrays, counts = made(3, 8, True, seed=3)
        measures.of_classes(*arrays, names(3), True).score(counts)
