"""Regression with several targets: reading, loss, scores, and what each example contributes to them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import small
from glue_files import load_own, refusal, write

from fjt.data.glue import Task
from fjt.tasks.multi_regression import MULTI_REGRESSION
from fjt.tasks.regression import REGRESSION

TASK = Task("table", "multi_regression", ("anger", "joy"), MULTI_REGRESSION.table_metrics)
NAMED = {"data__columns__labels": ("anger", "joy")}


def test_the_loss_is_the_mean_over_the_targets():
    logits, label = jnp.float32([[[1.0, 2.0], [0.0, -1.0]]]), jnp.float32([[[0.0, 4.0], [0.0, 1.0]]])
    value, weight = MULTI_REGRESSION.loss(logits, {"label": label}, None)
    np.testing.assert_allclose(value, [[(1 + 4) / 2, (0 + 4) / 2]])
    np.testing.assert_array_equal(weight, [[1, 1]])
    examples = small.labelled(np.asarray(label[0]))
    assert MULTI_REGRESSION.dev_loss(np.asarray(logits[0]), examples, TASK) == pytest.approx(2.25)


@pytest.mark.parametrize("metric", MULTI_REGRESSION.metrics)
def test_scores_are_means_over_targets_and_examples_are_left_out_one_by_one(metric):
    rng = np.random.default_rng(0)
    label, runs = rng.normal(size=(9, 2)), [rng.normal(size=(9, 2)) for _ in range(2)]
    each = [REGRESSION.metrics[metric](runs[0][:, c], label[:, c]) for c in (0, 1)]
    assert MULTI_REGRESSION.metrics[metric](runs[0], label) == pytest.approx(np.mean(each))
    score, keep = MULTI_REGRESSION.metrics[metric], [np.arange(9) != row for row in range(9)]
    expected = [[9 * score(run, label) - 8 * score(run[rows], label[rows]) for rows in keep] for run in runs]
    np.testing.assert_allclose(MULTI_REGRESSION.pseudo_values(metric, runs, label), expected, atol=1e-9)


def test_columns_of_scores_are_read(tmp_path):
    train = write(tmp_path / "train.csv", "text,anger,joy", "a,1,2.5", "b,0,-1")
    rows = [{"text": "c", "label": {"joy": 3, "anger": 0.5}}, {"text": "d", "label": {"anger": 1, "joy": 2}}]
    dev = write(tmp_path / "dev.csv", "text,joy,anger", "c,3,0.5")
    task, splits = load_own(train, dev, write(tmp_path / "test.csv", "text", "d"), "multi_regression", **NAMED)
    assert task.label_names == ("anger", "joy")
    assert splits["train"].label.tolist() == [[1, 2.5], [0, -1]] and splits["dev"].label.tolist() == [[0.5, 3]]
    assert MULTI_REGRESSION.is_labelled(splits["test"].label).tolist() == [False]
    file = write(tmp_path / "rows.jsonl", *map(json.dumps, rows))
    _, splits = load_own(file, file, kind="multi_regression")
    assert splits["dev"].label.tolist() == [[3, 0.5], [2, 1]]
    assert MULTI_REGRESSION.describe_label(np.float32([3, 0.5]), TASK) == "anger 3, joy 0.5"
    columns = MULTI_REGRESSION.columns(np.float32([[1, 2]]), TASK)
    assert columns["predicted"] == [[1.0, 2.0]] and columns["predicted(joy)"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("lines", "flags", "words"),
    [
        (("text,anger,joy", "a,1,2", "b,,1"), NAMED, ["rows.csv:3", "''", "not a finite score"]),
        (("text,anger,joy", "a,1,x"), NAMED, ["rows.csv:2", "'x'", "not a finite score"]),
        (("text,label", "a,1"), {}, ["config.data.columns.labels is empty"]),
    ],
)
def test_what_is_no_score_is_refused(lines, flags, words, tmp_path):
    file = write(tmp_path / "rows.csv", *lines)
    refusal(*words, call=lambda: load_own(file, file, kind="multi_regression", **flags))


def test_a_row_without_one_of_the_targets_is_refused(tmp_path):
    rows = [{"text": "c", "label": {"joy": 3, "anger": 1}}, {"text": "c", "label": {"joy": 3}}]
    file = write(tmp_path / "rows.jsonl", *map(json.dumps, rows))
    refusal("rows.jsonl:2", "a score for each of", call=lambda: load_own(file, file, kind="multi_regression"))


def test_runs_that_repeat_themselves_have_collapsed():
    label = np.random.default_rng(0).normal(size=(50, 2))
    assert MULTI_REGRESSION.collapsed(MULTI_REGRESSION.constant(label), label)
    one = MULTI_REGRESSION.constant(label).copy()
    one[:, 1] = label[:, 1]
    assert not MULTI_REGRESSION.collapsed(one, label)
    assert MULTI_REGRESSION.same_for_all(one, label)[:, 1].tolist() == label[:, 1].tolist()
