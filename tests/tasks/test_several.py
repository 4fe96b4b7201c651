"""Several tasks at once: each task's loss, scores and predictions are its own, whatever the others are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from glue_files import refusal

from fjt.core.options import LossConfig
from fjt.data import several
from fjt.data.glue import NLI, TASKS, Split
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.kinds import bounds_of, find_problem, lower_is_better
from fjt.tasks.problem import Problem
from fjt.tasks.regression import REGRESSION

TASK = several.join({name: TASKS[name] for name in ("rte", "stsb", "mnli")})
PROBLEM = find_problem(TASK.kind)
COLUMNS = {"rte": slice(0, 2), "stsb": slice(2, 3), "mnli": slice(3, 6)}
KIND = {"rte": CLASSIFICATION, "stsb": REGRESSION, "mnli": CLASSIFICATION}


def made(num=60, seed=0):
    """(logits f32[num, 6], label f32[num, 2]) of rows of all tasks in turn."""
    rng = np.random.default_rng(seed)
    number = np.arange(num) % 3
    label = np.select(
        [number == 0, number == 1], [rng.integers(0, 2, num), rng.normal(size=num)], rng.integers(0, 3, num)
    )
    return rng.normal(size=(num, 6)).astype(np.float32), np.stack([number, label], axis=-1).astype(np.float32)


def of_row(logits, label):
    split = Split(tuple(map(str, range(len(label)))), ("a",) * len(label), None, label)
    return PROBLEM.by_row(logits, small.labelled(label), split, TASK)


def own(name, logits, label):
    """(logits, labels) of one task, in the form of its kind."""
    rows = label[:, 0] == list(COLUMNS).index(name)
    return logits[rows, COLUMNS[name]], label[rows, 1].astype(np.float32 if name == "stsb" else np.int32)


def test_the_kind_says_what_the_tasks_are():
    assert TASK.name == "rte+stsb+mnli"
    assert TASK.kind == "rte:classification:2:accuracy+stsb:regression:1:pearson+mnli:classification:3:accuracy"
    assert TASK.label_names[:3] == ("rte.entailment", "rte.not_entailment", "stsb") and len(TASK.label_names) == 6
    assert TASK.metrics == ("mean", "rte.accuracy", "stsb.pearson", "stsb.spearman", "mnli.accuracy")
    assert PROBLEM is find_problem(TASK.kind)
    assert (lower_is_better("stsb.mse"), lower_is_better("rte.accuracy"), lower_is_better("mean")) == (
        True,
        False,
        False,
    )
    assert (bounds_of("stsb.pearson"), bounds_of("mean"), bounds_of("stsb.mse")) == ((-1, 1), (-1, 1), None)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_loss_is_a_tasks_own_where_the_others_have_no_weight(name):
    """Values, weights and gradients, with class weights and smoothing; other tasks' logits get no gradient at all."""
    logits, label = made()
    weights = np.linspace(0.5, 1.5, 6)
    only = [float(one == name) for one in COLUMNS]
    hyper = dataclasses.replace(small.make_hyper(smoothing=0.1), class_weights=np.float32([*weights, *only]))

    def total(logits):
        value, weight = PROBLEM.loss(logits, {"label": jnp.asarray(label)}, hyper)
        return jnp.sum(value) / jnp.sum(weight)

    mine, target = own(name, logits, label)
    alone = dataclasses.replace(hyper, class_weights=np.float32(weights[COLUMNS[name]]))

    def expected(logits):
        value, weight = KIND[name].loss(logits, {"label": jnp.asarray(target)}, alone)
        return jnp.sum(value) / jnp.sum(weight)

    (loss, slope), (reference, part) = jax.value_and_grad(total)(logits), jax.value_and_grad(expected)(mine)
    assert loss == pytest.approx(float(reference), rel=1e-6) and reference > 0.1
    np.testing.assert_allclose(own(name, slope, label)[0], part, rtol=1e-5, atol=1e-8)
    others = np.asarray(slope).copy()
    others[np.flatnonzero(label[:, 0] == list(COLUMNS).index(name)), COLUMNS[name]] = 0
    assert not others.any() and np.abs(part).max() > 1e-3


def test_a_loss_is_the_mean_of_all_examples_by_the_weights_of_their_tasks():
    logits, label = made()
    weights = {"rte": 2.0, "stsb": 0.5, "mnli": 1.0}
    hyper = dataclasses.replace(small.make_hyper(), class_weights=np.float32([*np.ones(6), *weights.values()]))
    value, weight = PROBLEM.loss(jnp.asarray(logits), {"label": jnp.asarray(label)}, hyper)
    sums = []
    for name, factor in weights.items():
        mine, target = own(name, logits, label)
        ones = dataclasses.replace(hyper, class_weights=np.ones(mine.shape[1], np.float32))
        v, w = KIND[name].loss(jnp.asarray(mine), {"label": jnp.asarray(target)}, ones)
        sums.append((factor * float(v.sum()), factor * float(w.sum())))
    np.testing.assert_allclose([value.sum(), weight.sum()], np.sum(sums, axis=0), rtol=1e-6)


def test_scores_are_those_of_the_tasks_alone_and_their_mean():
    logits, label = made()
    label[::7, 1] = [(-1, np.nan, -1)[int(n)] for n in label[::7, 0]]  # rows without a label
    found = PROBLEM.score(of_row(logits, label), label, TASK)
    assert list(found) == list(TASK.metrics)
    for name, problem in KIND.items():
        mine, target = own(name, logits, label)
        task = dataclasses.replace(TASKS[name], metrics=tuple(m.partition(".")[2] for m in found if m.startswith(name)))
        for metric, value in problem.score(mine, target, task).items():
            assert found[f"{name}.{metric}"] == value
    chosen = [found[name] for name in ("rte.accuracy", "stsb.pearson", "mnli.accuracy")]
    assert found["mean"] == pytest.approx(np.mean(chosen))
    alone = {name: own(name, logits, label) for name in KIND}
    losses = [KIND[name].dev_loss(one, small.labelled(target), TASKS[name]) for name, (one, target) in alone.items()]
    counts = [KIND[name].is_labelled(target).sum() for name, (_, target) in alone.items()]
    expected = np.average(losses, weights=counts)
    assert PROBLEM.dev_loss(logits, small.labelled(label), TASK) == pytest.approx(expected)


def test_a_split_that_some_tasks_lack_has_no_mean():
    logits, label = made()
    rows = label[:, 0] < 2
    found = PROBLEM.score(of_row(logits[rows], label[rows]), label[rows], TASK)
    assert list(found) == ["rte.accuracy", "stsb.pearson", "stsb.spearman"]
    rows = label[:, 0] == 2
    assert list(PROBLEM.score(of_row(logits[rows], label[rows]), label[rows], TASK, ("mcc",))) == ["mnli.mcc"]


def test_pseudo_values_are_those_of_the_task_alone_and_of_the_mean_those_of_every_row():
    logits, label = made(90)
    runs = [PROBLEM.decode(of_row(made(90, seed)[0], label), TASK).values for seed in (1, 2)]
    for metric in ("rte.accuracy", "stsb.pearson", "mnli.macro_f1"):
        name, _, short = metric.partition(".")
        target, rows = own(name, logits, label)[1], label[:, 0] == list(COLUMNS).index(name)
        alone = KIND[name].pseudo_values(short, [values[rows, 1].astype(target.dtype) for values in runs], target)
        np.testing.assert_array_equal(PROBLEM.pseudo_values(metric, runs, label), alone)
        np.testing.assert_array_equal(PROBLEM.scored(metric, label), rows)
    one_by_one = Problem.pseudo_values(PROBLEM, "mean", runs, label)
    np.testing.assert_allclose(PROBLEM.pseudo_values("mean", runs, label), one_by_one, atol=1e-9)
    assert PROBLEM.scored("mean", label).all()


def test_new_texts_are_predicted_in_all_tasks():
    logits, label = made()
    known, new = PROBLEM.decode(of_row(logits, label), TASK), PROBLEM.decode(logits, TASK)
    assert known.labels == new.labels and set(new.labels[0]) == set(COLUMNS)
    assert np.isnan(new.values[:, 1]).all() and not np.isnan(known.values).any()
    np.testing.assert_allclose(new.probabilities[:, :2].sum(axis=1), 1)
    assert np.isnan(new.probabilities[:, 2]).all()
    for number, name in enumerate(COLUMNS):
        predicted = KIND[name].decode(logits[:, COLUMNS[name]], TASKS[name])
        assert [row[name] for row in new.labels] == list(predicted.labels)
        rows = label[:, 0] == number
        np.testing.assert_array_equal(known.values[rows, 1], predicted.values[rows])
    columns = PROBLEM.columns(of_row(logits, label), TASK)
    assert list(columns)[:3] == ["rte.predicted", "rte.probability", "rte.p(entailment)"]
    assert columns.keys() == PROBLEM.columns(logits, TASK).keys()


def test_rows_agree_by_their_own_tasks():
    """Where one of the tasks has scores, there is no share of rows that agree."""
    _, label = made()
    changed = label.copy()
    changed[[0, 5], 1] += 1  # of rte and of mnli
    assert PROBLEM.agree(label, changed) is None and PROBLEM.right(changed, label) is None
    classes = find_problem(several.join({name: TASKS[name] for name in ("rte", "mnli")}).kind)
    one, other = (rows[label[:, 0] != 1] / np.float32([2, 1]) for rows in (label, changed))  # mnli is the second task
    assert np.flatnonzero(~classes.agree(one, other)).tolist() == [0, 3]


def test_constants_collapse_and_classes_are_told_task_by_task():
    logits, label = made()
    constant = PROBLEM.constant(label)
    for name in COLUMNS:
        rows = label[:, 0] == list(COLUMNS).index(name)
        np.testing.assert_allclose(constant[rows, 1], KIND[name].constant(own(name, logits, label)[1]))
    assert PROBLEM.collapsed(constant, label)
    mixed = label.astype(np.float64)
    assert not PROBLEM.collapsed(mixed, label)
    mixed[label[:, 0] == 2] = constant[label[:, 0] == 2]  # one of the tasks
    assert PROBLEM.collapsed(mixed, label)
    rows = PROBLEM.per_class(label, label, TASK)
    assert [row["label"] for row in rows] == [n for n in TASK.label_names if n != "stsb"]
    assert {row["f1"] for row in rows} == {1.0}
    counts = PROBLEM.count_labels(label, TASK)
    assert counts.sum() == 60 and counts[2] == 20 and PROBLEM.sizes(label) == (20, 20, 20)
    assert PROBLEM.describe_label(label[1], TASK).startswith("stsb: ")
    assert PROBLEM.label_column(label, TASK)[0] in TASKS["rte"].label_names
    assert PROBLEM.member(TASK, "mnli")[1] == slice(3, 6) and PROBLEM.member(TASK, "mnli")[0].label_names == NLI
    mixed[label[:, 0] == 2] = 2, 0  # a task whose labels are all one has not collapsed
    single = np.where(label[:, :1] == 2, [2, 0], label).astype(np.float32)
    assert not PROBLEM.collapsed(mixed, single)
    parts = list(PROBLEM.collapsed_parts(constant, label, TASK))
    assert [name for name, *_ in parts] == list(COLUMNS) and parts[1][1] is REGRESSION


def test_weights_of_classes_and_tasks():
    label = made()[1]
    no_score = find_problem("rte:classification:2:accuracy+mnli:classification:3:accuracy")
    task = several.join({name: TASKS[name] for name in ("rte", "mnli")})
    rows = label[label[:, 0] != 1]
    rows[:, 0] //= 2

    def weights(problem, rows, task, **options):
        return problem.label_weights(LossConfig(**options), rows, task).tolist()

    assert weights(PROBLEM, label, TASK) == [1.0] * 9
    assert weights(no_score, rows, task, class_weights=(1, 2, 3, 4, 5), task_weights=(0, 2)) == [1, 2, 3, 4, 5, 0, 2]
    balanced = weights(no_score, rows, task, class_weights=("balanced",))
    counts = np.bincount(rows[rows[:, 0] == 0, 1].astype(int))
    np.testing.assert_allclose(balanced[:2], 20 / (2 * counts))
    refusal("5 numbers", "one per label of the class", call=lambda: weights(no_score, rows, task, class_weights=(1, 2)))
    assert weights(PROBLEM, label, TASK, class_weights=(1, 2, 3, 4, 5), label_smoothing=0.1)[:6] == [1, 2, 1, 3, 4, 5]
    refusal("2 numbers", "one per task", call=lambda: weights(no_score, rows, task, task_weights=(1, 2, 3)))
    refusal("not all 0", call=lambda: weights(no_score, rows, task, task_weights=(0, 0)))


def test_kinds_that_cannot_be_trained_together_are_refused():
    refusal(
        "ner is of the kind entities",
        "run of its own",
        call=lambda: find_problem("ner:entities:5:f1+rte:classification:2:accuracy"),
    )
