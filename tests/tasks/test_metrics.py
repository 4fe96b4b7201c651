"""Metrics against published examples and hand counts, on whole predictions in float64."""

import functools
import inspect
import json

import numpy as np
import pytest
import sklearn.metrics
import small

from fjt.data.glue import SPLIT_METRICS, TASKS, Task
from fjt.tasks import classification, multilabel, regression
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.kinds import PROBLEMS, find_problem, lower_is_better, register
from fjt.tasks.multilabel import MULTI_LABEL
from fjt.tasks.problem import Problem
from fjt.tasks.regression import REGRESSION

NAN = float("nan")


def table(tp, fn, fp, tn):
    """(predicted, label) with these counts."""
    return np.repeat([1, 0, 1, 0], (tp, fn, fp, tn)), np.repeat([1, 1, 0, 0], (tp, fn, fp, tn))


def test_accuracy_and_f1_by_hand():
    predicted, label = table(tp=6, fn=2, fp=1, tn=3)
    assert classification.accuracy(predicted, label) == 9 / 12
    assert classification.f1(predicted, label) == pytest.approx(2 * 6 / (2 * 6 + 1 + 2), abs=1e-15)
    assert classification.f1(label, predicted) == classification.f1(predicted, label)
    assert classification.f1(1 - predicted, 1 - label) == pytest.approx(
        2 * 3 / (2 * 3 + 1 + 2), abs=1e-15
    )  # of class 1


def test_mcc_of_cats_and_dogs():
    """The worked example of Wikipedia's "Phi coefficient": 6, 2, 1, 3 give 0.478."""
    assert classification.mcc(*table(tp=6, fn=2, fp=1, tn=3)) == pytest.approx(0.478, abs=5e-4)
    tp, fn, fp, tn = 90, 5, 4, 1  # Chicco & Jurman 2020, table 4, use case A1-like: high F1, MCC near chance
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert classification.mcc(*table(tp, fn, fp, tn)) == pytest.approx(expected, abs=1e-12) and expected < 0.14


def test_published_examples_of_scikit_learn():
    assert classification.mcc(np.array([1, 0, 1, 1]), np.array([1, 1, 1, 0])) == pytest.approx(-1 / 3, abs=1e-12)
    predicted, label = np.array([0, 2, 1, 0, 0, 1]), np.array([0, 1, 2, 0, 1, 2])
    assert classification.macro_f1(predicted, label) == pytest.approx(0.8 / 3, abs=1e-12)


def test_published_examples_of_scipy():
    score = regression.pearson(np.array([1, 2, 3, 4, 5, 6, 7.0]), np.array([10, 9, 2.5, 6, 4, 3, 2]))
    assert score == pytest.approx(-0.828503883588428, abs=1e-14)
    score = regression.spearman(np.array([1, 2, 3, 4, 5.0]), np.array([5, 6, 7, 8, 7.0]))  # a tie
    assert score == pytest.approx(0.8207826816681233, abs=1e-14)


def test_correlations_by_hand():
    predicted, label = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    assert regression.pearson(predicted, label) == pytest.approx((1 / 1.0) / np.sqrt(14 / 3 * 2), abs=1e-12)
    assert regression.spearman(predicted, label) == pytest.approx(0.5, abs=1e-15)
    assert regression.spearman(np.exp(predicted), label) == pytest.approx(0.5, abs=1e-15)
    assert regression.mse(np.array([1.0, 2.0]), np.array([0.0, 4.0])) == 2.5


def test_degenerate_predictions_score_zero():
    label = np.array([0, 1, 1, 0])
    assert classification.f1(np.zeros(4, int), label) == 0.0
    assert classification.f1(np.zeros(4, int), np.zeros(4, int)) == 0.0
    assert classification.mcc(np.ones(4, int), label) == 0.0
    for metric in (regression.pearson, regression.spearman):
        assert metric(np.full(4, 0.1, np.float32), np.arange(4.0)) == 0.0
        assert metric(np.arange(4.0), np.ones(4)) == 0.0
        assert metric(np.ones(1), np.ones(1)) == 0.0


def test_sums_are_float64():
    """Scores far from zero, whose squares float32 cannot hold."""
    rng = np.random.default_rng(0)
    label = rng.normal(size=500)
    predicted = (4096 + label + rng.normal(size=500)).astype(np.float32)
    x, y = predicted.astype(np.float64), label.astype(np.float32)
    assert regression.pearson(predicted, y) == pytest.approx(np.corrcoef(x, y.astype(np.float64))[0, 1], abs=1e-12)
    assert regression.mse(predicted, y) == pytest.approx(np.mean((x - y.astype(np.float64)) ** 2), rel=1e-14)


def score(name, logits, label, names=None):
    """The scores of a task by name."""
    return find_problem(TASKS[name].kind).score(logits, label, TASKS[name], names)


def test_score_leaves_unlabelled_rows_out():
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [5.0, 9.0]], np.float32)
    assert score("sst2", logits, np.array([1, 1, -1, -1], np.int32)) == {"accuracy": 0.5}
    assert score("sst2", logits, np.full(4, -1, np.int32)) == {}
    assert score("mnli", logits, np.array([1, 0, 1, 0], np.int32), SPLIT_METRICS["ax"]) == {
        "mcc": pytest.approx(1 / np.sqrt(3))
    }
    scores = np.array([[1.0], [2.0], [4.0], [100.0]], np.float32)
    found = score("stsb", scores, np.array([1.0, 3.0, 2.0, NAN], np.float32))
    assert found == {"pearson": pytest.approx(1 / np.sqrt(28 / 3)), "spearman": pytest.approx(0.5)}
    assert score("stsb", scores, np.full(4, NAN, np.float32)) == {}


def test_decode():
    predicted = find_problem("classification").decode(np.float32([[1, 3, 2], [5, 0, 0]]), TASKS["mnli"])
    np.testing.assert_array_equal(predicted.values, [1, 0])
    assert predicted.labels == ["neutral", "entailment"]
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1)
    predicted = find_problem("regression").decode(np.float32([[1.5], [-2.0]]), TASKS["stsb"])
    assert predicted.values.dtype == np.float64 and predicted.probabilities is None
    np.testing.assert_array_equal(predicted.values, [1.5, -2.0])


def test_sets_of_labels_are_decoded_by_the_threshold():
    problem, logits = find_problem("multi_label"), np.float32([[0.0, -0.1, 3.0], [-1.0, -9.0, -2.0]])
    predicted = problem.decode(logits, Task("table", "multi_label", ("a", "b", "c"), ()))
    np.testing.assert_array_equal(predicted.values, [[1, 0, 1], [0, 0, 0]])  # 0.5 itself counts
    assert predicted.labels == [("a", "c"), ()]
    strict = problem.decode(logits, Task("table", "multi_label", ("a", "b", "c"), (), threshold=0.9))
    assert strict.labels == [("c",), ()]
    np.testing.assert_allclose(predicted.probabilities[0], [0.5, 1 / (1 + np.exp(0.1)), 1 / (1 + np.exp(-3.0))], 1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_f1_has_the_bits_of_scikit_learn(seed):
    """Classes that are missing on one side or on both, and labels that nobody has, among them."""
    rng = np.random.default_rng(seed)
    classes, rows = rng.integers(2, 7), rng.integers(1, 200)
    label, predicted = rng.integers(0, rng.integers(1, classes + 1, 2)[:, None], (2, rows))
    score = functools.partial(sklearn.metrics.f1_score, zero_division=0.0)
    assert classification.macro_f1(predicted, label) == score(label, predicted, average="macro")
    assert classification.f1(predicted % 2, label % 2) == score(label % 2, predicted % 2)
    label, predicted = (rng.random((2, rows, classes)) < rng.random((2, 1, classes)) ** 2).astype(np.int8)
    assert multilabel.micro_f1(predicted, label) == score(label, predicted, average="micro")
    assert multilabel.macro_f1(predicted, label) == score(label, predicted, average="macro")


def test_f1_of_sets_by_hand():
    """Label a: 2 hits, 1 miss; b: 1 hit, 1 false alarm; c never occurs."""
    label = np.int8([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    predicted = np.int8([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert multilabel.micro_f1(predicted, label) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert multilabel.macro_f1(predicted, label) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert multilabel.subset_accuracy(predicted, label) == 2 / 4


def by_hand(names, predicted, label):
    """The rows of `per_class` by counting.  predicted, label: one set of classes per example."""
    rows = []
    for i, name in enumerate(names):
        hits = sum(i in one and i in other for one, other in zip(predicted, label, strict=True))
        found, true = (sum(i in one for one in sets) for sets in (predicted, label))
        p, r = hits / found if found else 0.0, hits / true if true else 0.0
        row = {"label": name, "precision": p, "recall": r, "f1": 2 * p * r / (p + r) if hits else 0.0}
        rows.append(row | {"support": true, "predicted": found})
    return rows


@pytest.mark.parametrize(("classes", "examples"), [(2, 40), (5, 60), (9, 3), (1, 6), (3, 1)])
def test_scores_of_each_class_are_counts(classes, examples):
    """Classes that are never predicted, or never true, among them; one class, and one example."""
    rng = np.random.default_rng(classes)
    names = tuple(f"class {i}" for i in range(classes))
    predicted, label = rng.integers(0, max(1, classes - 1), examples), rng.integers(0, classes, examples)
    task = Task("t", "classification", names, ())
    found = find_problem("classification").per_class(predicted, label.astype(np.int32), task)
    assert found == [pytest.approx(row) for row in by_hand(names, [{i} for i in predicted], [{i} for i in label])]
    sets = (rng.random((2, examples, classes)) < 0.4).astype(np.int8)
    sets[0, :, -1] = 0  # never predicted
    found = find_problem("multi_label").per_class(*sets, Task("t", "multi_label", names, ()))
    predicted, label = ([set(np.flatnonzero(row)) for row in one] for one in sets)
    assert found == [pytest.approx(row) for row in by_hand(names, predicted, label)]
    assert json.loads(json.dumps(found)) == found
    if classes > 1:
        scores = sklearn.metrics.precision_recall_fscore_support(*sets[::-1], average=None, zero_division=0.0)
        assert [list(row.values())[1:5] for row in found] == [pytest.approx(row) for row in zip(*scores, strict=True)]
    assert find_problem("regression").per_class(np.zeros(3), np.zeros(3), Task("t", "regression", (), ())) == []


def test_every_task_has_metrics_that_exist():
    expected = {
        "cola": {"mcc"}, "sst2": {"accuracy"}, "mrpc": {"f1", "accuracy"}, "stsb": {"pearson", "spearman"},
        "qqp": {"f1", "accuracy"}, "mnli": {"accuracy"}, "qnli": {"accuracy"}, "rte": {"accuracy"},
        "wnli": {"accuracy"}, "ax": {"mcc"},
    }  # fmt: skip  # Wang et al. 2019, table 1
    for name, wanted in expected.items():
        assert set(TASKS[name].metrics) - {"f1_accuracy"} == wanted
    for task in TASKS.values():
        assert set(task.metrics) <= set(find_problem(task.kind).metrics)
    for problem in PROBLEMS.values():
        assert set(problem.table_metrics) <= set(problem.metrics) and not lower_is_better(problem.table_metrics[0])


TASK = Task("table", "classification", ("no", "yes"), ("accuracy",))


def test_loss_by_hand():
    """Cross-entropy of logits (ln 3, 0): -ln 0.75 for class 0, -ln 0.25 for class 1; unlabelled rows do not count."""
    logits = np.float32([[np.log(3), 0.0]] * 3)
    found = find_problem("classification").dev_loss(logits, small.labelled(np.array([0, 1, -1], np.int32)), TASK)
    np.testing.assert_allclose(found, (-np.log(0.75) - np.log(0.25)) / 2, rtol=1e-6)
    scores = np.float32([[1.0], [4.0], [9.0]])
    examples = small.labelled(np.float32([2.0, 4.0, np.nan]))
    assert find_problem("regression").dev_loss(scores, examples, TASK) == 0.5
    examples = small.labelled(np.int8([[1, 0], [1, 1], [-1, -1]]))
    found = find_problem("multi_label").dev_loss(logits, examples, TASK)
    expected = (-np.log(0.75) - np.log(0.5) - np.log(0.75) - np.log(0.5)) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "subset_accuracy"])
def test_pseudo_values_of_sets_are_those_of_the_definition(metric):
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 2, (30, 4)), rng.integers(0, 2, (3, 30, 4))
    label[:, 3], predicted[:, :, 3] = 0, 0  # a label that never occurs
    problem = find_problem("multi_label")
    expected = super(type(problem), problem).pseudo_values(metric, predicted, label)
    np.testing.assert_allclose(problem.pseudo_values(metric, predicted, label), expected, atol=1e-12)


def test_the_kind_of_older_records_is_known():
    from fjt.tasks.kinds import task_of_record

    assert task_of_record({"label": np.int32([0]), "label_names": np.array(["a"])}).kind == "classification"
    assert task_of_record({"label": np.float32([0]), "label_names": np.array([], str)}).kind == "regression"


def test_a_kind_that_lacks_a_method_cannot_be_made():
    with pytest.raises(TypeError, match="decode"):
        type("Half", (Problem,), {"name": "half"})()


TWO = np.repeat([0, 1], [64, 36])  # labels of two classes
SIX = np.arange(120) % 6


@pytest.mark.parametrize(
    ("predicted", "label", "wanted"),
    [
        (np.zeros(100, int), TWO, True),
        (np.ones(100, int), TWO, True),  # of the rarer class too
        (np.arange(100) < 3, TWO, True),  # 3 of 100 differ; 36 of 100 labels do
        (np.arange(100) < 4, TWO, False),
        (np.arange(100) < 21, TWO, False),
        (TWO, TWO, False),
        (np.where(np.arange(120) < 9, 5, 2), SIX, True),  # of six classes one, and now and then a second
        (np.where(SIX == 4, 2, SIX), SIX, False),  # never says one of six: told elsewhere, and not a collapse
        (np.zeros(400, int), np.int64(np.arange(400) < 4), True),  # a rare class that is never predicted
        (np.int64(np.arange(400) == 300), np.int64(np.arange(400) < 4), False),
        (np.zeros(50, int), np.zeros(50, int), True),
    ],
)
def test_a_classifier_has_collapsed_when_its_answers_hardly_vary(predicted, label, wanted):
    assert CLASSIFICATION.collapsed(np.int64(predicted), label) is wanted


def test_a_collapsed_classifier_is_wrong_in_nine_of_ten_where_it_does_not_repeat_the_label():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 500)
    for odd in range(60):
        predicted = np.where(np.arange(500) < odd, label, 1)
        if CLASSIFICATION.collapsed(predicted, label):
            assert np.mean(predicted[label != 1] == label[label != 1]) <= 0.1


@pytest.mark.parametrize(
    ("width", "odd", "wanted"), [(0.0, 0, True), (0.04, 0, True), (0.0, 4, True), (0.0, 12, False), (0.2, 0, False)]
)
def test_a_regression_has_collapsed_when_its_scores_hardly_vary(width, odd, wanted):
    """width: of the scores, about the mean of labels from 0 to 5.  odd: number of 100 scores that are far off."""
    label = np.linspace(0, 5, 100)
    predicted = 2.5 + width * np.linspace(-0.5, 0.5, 100)
    predicted[:odd] = 4.9
    assert REGRESSION.collapsed(predicted, label) is wanted


def test_sets_of_labels_have_collapsed_when_they_hardly_vary():
    label = np.eye(4, dtype=np.int8)[np.arange(80) % 4]
    assert MULTI_LABEL.collapsed(np.zeros_like(label), label)
    few = np.zeros_like(label)
    few[:5, 2] = 1
    assert MULTI_LABEL.collapsed(few, label) and not MULTI_LABEL.collapsed(label, label)


def test_the_metric_that_selects_prefers_no_constant():
    """Of MRPC and QQP: always positive has a higher F1 than many a run that has learned something."""
    label = np.repeat([1, 0], [68, 32])
    always, learned = np.ones(100, int), np.where(np.arange(100) % 4 == 0, 1 - label, label)
    f1, both = classification.f1, classification.f1_accuracy
    assert f1(always, label) > f1(learned, label) - 0.02 and both(learned, label) > both(always, label) + 0.02
    assert both(learned, label) == pytest.approx((f1(learned, label) + 0.75) / 2)
    assert [TASKS[name].selects_by for name in ("mrpc", "qqp", "cola", "stsb")] == [
        *("f1_accuracy", "f1_accuracy", "mcc", "pearson")
    ]
    assert TASKS["mrpc"].metrics[0] == "f1"


@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_a_table_lists_the_probabilities_of_up_to_two_hundred_labels(kind):
    """A cell for each row and class would be gigabytes for 10,000 classes; arrays have the logits."""
    for count in (200, 201):
        task = Task("table", kind, tuple(map(str, range(count))), ("accuracy",))
        columns = find_problem(kind).columns(np.eye(count, dtype=np.float32)[:3], task)
        assert sum(name.startswith("p(") for name in columns) == (count if count == 200 else 0)
        assert len(columns["predicted"]) == 3


def test_a_kind_is_registered_whole():
    class Lame(type(CLASSIFICATION)):
        name, table_metrics = "lame", ("acuracy",)

    with pytest.raises(TypeError, match="not an instance"):
        inspect.unwrap(register)(Lame)  # without the checks of types that tests have
    with pytest.raises(TypeError, match="Lame: 'acuracy' is among table_metrics"):
        register(Lame())
    Lame.table_metrics = ()
    with pytest.raises(TypeError, match="Lame has no 'table_metrics'"):
        register(Lame())
    assert "lame" not in PROBLEMS
