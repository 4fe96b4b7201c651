"""An evaluation's intervals, slices, wrong rows and comparisons, and its page."""

import dataclasses
import functools
import json
import math
import re

import made_study
import numpy as np
import pytest
import scipy.stats
from small import double, tiers

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.ragged import Ragged
from fjt.data import squad
from fjt.data.glue import Task
from fjt.experiment import calibrated
from fjt.experiment.finished import Run
from fjt.experiment.labelled import Labelled
from fjt.reports import evaluation, evaluation_page, pairs, resampling
from fjt.reports.inference import LEAST_EXAMPLES
from fjt.tasks import calibration, measures
from fjt.tasks.kinds import find_problem
from fjt.tasks.measures import UNIT

TASKS = {
    "classification": Task("t", "classification", ("no", "yes"), ("accuracy", "f1")),
    "multi_label": Task("t", "multi_label", ("a", "b", "c"), ("micro_f1",)),
    "regression": Task("t", "regression", (), ("pearson",)),
    "tagging": Task("t", "tagging", ("x", "y"), ("accuracy",)),
    "multiple_choice": Task("t", "multiple_choice", ("0", "1", "2"), ("accuracy",)),
    "question_answering": Task("t", "question_answering", ("answer", "no answer"), ("f1", "exact_match")),
    "multi_regression": Task("t", "multi_regression", ("x", "y"), ("pearson",)),
}


def rows(kind="classification", size=150, seed=0, **values):
    """Labelled rows of which most are right."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99)  # the same rows for each seed
    if kind == "classification":
        label = truth.integers(0, 2, size)
        scores = np.stack([np.zeros(size), 3.0 * label - 1.5 + 1.5 * rng.normal(size=size)], axis=1)
    elif kind == "multi_label":
        label = truth.integers(0, 2, (size, 3)).astype(np.int8)
        scores = 3.0 * label - 1.5 + 1.5 * rng.normal(size=label.shape)
    elif kind == "tagging":
        offsets = np.arange(size + 1) * 2
        label = Ragged(truth.integers(0, 2, 2 * size).astype(np.int32), offsets)
        scores = Ragged(np.eye(2)[label.values] + 0.5 * rng.normal(size=(2 * size, 2)), offsets)
    elif kind == "multiple_choice":
        label = truth.integers(0, 3, size).astype(np.int32)
        raw = 2.0 * np.eye(3)[label] + rng.normal(size=(size, 3))
        scores = Ragged(raw.reshape(-1, 1).astype(np.float32), 3 * np.arange(size + 1))
    elif kind == "question_answering":
        label = made_study.truth("questions", size)
        found = np.where(rng.random(size) < 0.7, label, squad.labels_of([["dark"]] * size))
        scores = np.array([made_study.candidates(one) for one in found], np.dtypes.StringDType())
    else:
        label = truth.normal(size=(size, 2) if kind == "multi_regression" else size).astype(np.float32)
        scores = (label + 0.5 * rng.normal(size=label.shape)).reshape(size, -1)
    texts = tuple("word " * (1 + row % 9) for row in range(size))
    made = Labelled(
        "dev", TASKS[kind], find_problem(kind), tuple(f"r{row}" for row in range(size)), texts, label, scores
    )
    return dataclasses.replace(made, **values)


def run(task="t", **values):
    result = {
        "task": task, "model": "/somewhere/private/minilm", "method": ["lora"], "seed": 3, "selected_step": 40,
        "params_sha256": "b" * 64,
    }  # fmt: skip
    return double(Run, path="runs/x", result=result | values)


@pytest.fixture
def quick(monkeypatch):
    """Few resamples, where an interval's ends do not matter."""
    for name in ("estimate", "compare"):
        monkeypatch.setattr(resampling, name, functools.partial(getattr(resampling, name), resamples=30))


def test_draws_do_not_depend_on_blocks_and_keep_sources_whole(monkeypatch):
    whole = np.concatenate(list(resampling.draw(50)))
    assert whole.shape == (resampling.RESAMPLES, 50) and (whole.sum(axis=1) == 50).all()
    monkeypatch.setattr(resampling, "BLOCK", 333)
    assert (np.concatenate(list(resampling.draw(50))) == whole).all()
    cluster = np.arange(50) // 5
    (counts,) = resampling.draw(50, cluster, 6)
    assert (counts == np.repeat(counts[:, ::5], 5, axis=1)).all()


def shares(size, wrong):
    """Measures of one share."""
    right = np.arange(size) >= wrong
    return measures.of_scorers({"share": lambda chosen: float(right[chosen].mean())}, size, {"share": UNIT})


def test_an_interval_is_that_of_a_proportion_on_fishers_scale():
    found = resampling.estimate(shares(400, 80), resamples=4000)["share"]
    error = math.sqrt(0.8 * 0.2 / 399)
    shift = scipy.stats.t.ppf(0.975, 79) * error * 2 / (1 - 0.6**2)
    ends = [0.5 + 0.5 * math.tanh(math.atanh(0.6) + sign * shift) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(ends, abs=0.003) and found.value == 0.8 and not found.reason


def test_intervals_of_a_share_hold_in_95_of_100_samples():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        found = resampling.estimate(shares(150, rng.binomial(150, 0.2)), resamples=100)["share"]
        held += found.low <= 0.8 <= found.high
    assert 183 <= held <= 198  # 190 are expected, with a standard deviation of 3.1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (shares(LEAST_EXAMPLES - 1, 40), "99 examples; an interval needs 100"),
        (shares(200, 9), "decided by 9 rows"),
        (shares(200, 0), "decided by 0 rows"),
    ],
)
def test_an_interval_that_would_not_hold_is_left_out(made, reason):
    found = resampling.estimate(made)["share"]
    assert reason in found.reason and math.isnan(found.low) and not math.isnan(found.value)


@pytest.mark.usefixtures("quick")
def test_degenerate_predictions_have_reasons_and_no_intervals():
    all_one = rows(label=np.zeros(150, int))
    found = resampling.estimate(all_one.measures())
    assert math.isnan(found["roc_auc"].value) and found["roc_auc"].reason
    assert math.isnan(found["kappa"].value) or found["kappa"].reason
    constant = resampling.estimate(rows(scores=np.tile([0.0, 1.0], (150, 1))).measures())
    assert constant["mcc"].value == 0 and constant["roc_auc"].value == 0.5 and constant["roc_auc"].reason
    assert constant["accuracy"].reason == ""
    flat = resampling.estimate(rows("regression", scores=np.zeros((150, 1))).measures())
    assert flat["pearson"].reason and flat["mae"].reason == ""
    assert resampling.estimate(rows().measures())["ece"].reason == measures.BIASED


def test_the_scores_of_a_class_need_rows_of_the_class():
    """Of 60 and 49 of 400 rows, with a third of each predicted as the other class."""
    for rare, reason in ((60, ""), (49, "49 rows of the class; an interval needs 50")):
        label = (np.arange(400) < rare).astype(int)
        wrong = np.arange(400) % 3 == 0
        made = rows(size=400, label=label, scores=np.eye(2)[np.where(wrong, 1 - label, label)])
        found = resampling.estimate(made.measures(), resamples=30)
        assert all(reason in found[f"{key}(yes)"].reason for key in ("recall", "f1")), found["recall(yes)"]
        assert bool(reason) == bool(found["recall(yes)"].reason) and not found["recall(no)"].reason
        assert not found["balanced_accuracy"].reason


def test_sources_are_resampled_and_too_few_of_them_give_none():
    few = resampling.estimate(rows().measures(), np.arange(150) % 20)["accuracy"]
    assert "20 sources" in few.reason
    twice = rows(size=300)
    twice = twice.take(np.repeat(np.arange(150), 2))  # each row twice: 150 sources
    alone = resampling.estimate(twice.measures())["accuracy"]
    together = resampling.estimate(twice.measures(), np.repeat(np.arange(150), 2))["accuracy"]
    assert together.high - together.low == pytest.approx(math.sqrt(2) * (alone.high - alone.low), rel=0.1)


def test_mcnemar_by_hand():
    assert pairs.mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)
    assert pairs.mcnemar(0, 0) == 1 and pairs.mcnemar(5, 5) == 1


def test_a_pair_counts_churn_and_who_is_right():
    scores = np.stack([np.zeros(150), np.where(np.arange(150) < 30, -1.0, 1.0)], axis=1)
    label = np.where(np.arange(150) < 20, 0, 1)
    one = rows(label=label, scores=scores)
    other = rows(label=label, scores=np.tile([0.0, 1.0], (150, 1)))
    found = pairs.compare(one, other)
    assert found.churn.value == 30 / 150 and 0.13 < found.churn.low < 0.15 < 0.27 < found.churn.high < 0.28
    assert (len(found.only_first), len(found.only_second), found.both, found.neither) == (20, 10, 120, 0)
    assert found.p == pytest.approx(scipy.stats.binomtest(20, 30).pvalue)
    accuracy = found.differences["accuracy"]
    error = math.sqrt((30 / 150 - (10 / 150) ** 2) / 149)  # of the mean of +1 (20 times), -1 (10 times) and 0
    assert accuracy.value == pytest.approx(10 / 150) and accuracy.high - accuracy.low == pytest.approx(
        2 * scipy.stats.t.ppf(0.975, 19) * error, rel=0.1
    )
    assert found.changed.tolist() == [*range(30)]
    again = pairs.compare(one, one)
    assert again.churn.value == 0 and again.p == 1 and "0 rows" in again.differences["accuracy"].reason
    shared = pairs.compare(
        dataclasses.replace(one, cluster=np.arange(150)), dataclasses.replace(other, cluster=np.arange(150))
    )
    assert math.isnan(shared.p) and shared.reason == pairs.SHARED


def test_runs_of_other_rows_labels_or_classes_are_not_compared():
    one = rows()
    for other, message in (
        (rows("regression"), "different things"),
        (rows(id=one.id[::-1]), "different rows"),
        (rows(label=1 - one.label), "different labels"),
    ):
        with pytest.raises(UserError, match=message):
            pairs.compare(one, other)
    assert pairs.compare(rows("regression"), rows("regression", seed=1)).churn is None


@pytest.mark.usefixtures("quick")
def test_slices_are_parts_of_the_rows():
    group = tuple("even" if row % 2 == 0 else "odd" for row in range(150))
    found = evaluation.evaluate(rows(group=group), "parity")
    sizes = {by: sum(one.size for one in found.slices if one.by == by) for by in ("length", "label", "parity")}
    assert sizes == {"length": 150, "label": 150, "parity": 150}
    odd = next(one for one in found.slices if one.name == "odd")
    whole = rows()
    right = whole.scores.argmax(axis=1) == whole.label
    assert odd.estimates["accuracy"].value == pytest.approx(right[1::2].mean())
    assert "75 examples" in odd.estimates["accuracy"].reason


def test_the_most_confidently_wrong_come_first():
    made = rows()
    share = np.exp(made.scores) / np.exp(made.scores).sum(axis=1, keepdims=True)
    wrong = np.flatnonzero(share.argmax(axis=1) != made.label)
    found = evaluation.find_wrong(made)
    assert [one.row for one in found] == sorted(wrong, key=lambda row: -share[row].max())[: evaluation.MOST_WRONG]
    assert found[0].label != found[0].predicted and found[0].confidence == pytest.approx(share[found[0].row].max())
    scores = evaluation.find_wrong(rows("regression"))
    assert scores[0].confidence == max(one.confidence for one in scores)
    assert math.isnan(evaluation.find_wrong(rows("tagging"))[0].confidence)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", tiers(list(TASKS), "classification", "regression", "question_answering"))
def test_the_page_and_the_record_are_whole_and_need_no_other_file(kind, tmp_path):
    one, other = rows(kind), rows(kind, seed=1)
    found, pair = evaluation.evaluate(one), pairs.compare(one, other)
    evaluation_page.write(str(tmp_path), run(), found, run(), pair)
    page = (tmp_path / evaluation_page.PAGE).read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:)|@import|url\((?!#)""", page.replace("xlink:href", "href"))
    assert page.count("<svg") == {"classification": 4, "multi_label": 3, "regression": 1, "multi_regression": 1}.get(
        kind, 0
    )
    assert ("<code>ece</code> is" in page) == ("ece" in found.estimates)
    assert ("<code>macro_</code> is" in page) == any(name.startswith("macro_") for name in found.estimates)
    record = json.loads((tmp_path / evaluation_page.RECORD).read_text())
    assert record["examples"] == 150 and record["metrics"].keys() == found.estimates.keys()
    assert record["model"] == "minilm" and "private" not in json.dumps(record) and "private" not in page
    name = next(name for name, estimate in found.estimates.items() if not estimate.reason)
    assert record["metrics"][name]["low"] == found.estimates[name].low
    assert record["against"]["differences"].keys() == pair.differences.keys()
    assert all(("reason" in entry) != ("low" in entry) for entry in record["metrics"].values())
    assert records.plain(evaluation.record(run(), found, None, None)).keys() == record.keys() - {"against"}


@pytest.mark.usefixtures("quick")
def test_two_runs_may_be_wrong_in_different_ways(tmp_path):
    """Three choices, 200 rows: of the last two, the runs choose different wrong ones."""
    label = np.zeros(200, np.int32)
    chosen = np.zeros((2, 200), np.int32)
    chosen[:, -2:] = [[1, 2], [2, 1]]
    one, other = (
        rows("multiple_choice", 200, label=label, scores=Ragged(np.eye(3)[each].reshape(-1, 1), 3 * np.arange(201)))
        for each in chosen
    )
    pair = pairs.compare(one, other)
    assert pair.changed.tolist() == [198, 199] and not len(pair.only_first) and pair.neither == 2
    evaluation_page.write(str(tmp_path), run(), evaluation.evaluate(one), run(), pair)
    assert json.loads((tmp_path / evaluation_page.RECORD).read_text())["against"]["changed"] == [*one.id[-2:]]
    page = (tmp_path / evaluation_page.PAGE).read_text()
    assert "Both are wrong, in different ways: 2" in page and "Only this run is right:" not in page


def test_answers_that_differ_may_both_be_right():
    """Articles do not count in an answer: of three rows that differ, one is wrong twice, one once, one never."""
    label = squad.labels_of([[["cat"]]] * 120)
    firsts = ("cat", "cat", "cow"), ("the cat", "dog", "a dog")
    answers = (squad.labels_of([[text]] for text in (*each, *["cat"] * 117)) for each in firsts)
    scores = (np.array([made_study.candidates(one) for one in each], np.dtypes.StringDType()) for each in answers)
    one, other = (rows("question_answering", 120, label=label, scores=each) for each in scores)
    pair = pairs.compare(one, other)
    assert pair.changed.tolist() == [0, 1, 2] and pair.both_wrong.tolist() == [2]
    assert pair.only_first.tolist() == [1] and not len(pair.only_second) and (pair.both, pair.neither) == (118, 1)


@pytest.mark.usefixtures("quick")
def test_texts_and_labels_of_users_are_shown_as_they_are(tmp_path):
    texts = ("<script>alert(1)</script> **x**",) * 150
    evaluation_page.write(str(tmp_path), run(task="<b>"), evaluation.evaluate(rows(texts=texts)), None, None)
    page = (tmp_path / evaluation_page.PAGE).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>" not in page


def test_a_calibration_of_a_half_and_its_bound_of_the_other_half():
    made = rows(size=600)
    found = calibrated.fit(made, "temperature", "", 0.2)
    assert found["rows"] == 300 and found["abstention"]["rows"] == 300 and found["abstention"]["bound"] <= 0.2
    assert found["confidence"] == found["abstention"]["confidence"]
    alone = calibrated.fit(made.take(calibration.parts(600, 2) == 0), "temperature", "", None)
    assert found["scale"] == alone["scale"] and alone["confidence"] is None
    for other, risk, message in (
        (dataclasses.replace(made, cluster=np.arange(600)), 0.2, "share 600 sources"),
        (rows("multi_label", size=600), 0.2, "sets of labels"),
        (rows("regression"), None, "nothing to calibrate"),
        (dataclasses.replace(made, cluster=made.label), None, "share a few sources"),
    ):
        with pytest.raises(UserError, match=message):
            calibrated.fit(other, "temperature", "", risk)


def test_a_threshold_leaves_the_calibration_error_as_it_is():
    made = rows(size=300)
    found = [calibrated.fit(made, "temperature", target, None)["after"] for target in ("", "f1")]
    assert found[0]["ece"] == found[1]["ece"] and found[0]["macro_f1"] != found[1]["macro_f1"]


def test_the_scores_after_a_calibration_are_of_rows_outside_their_fit():
    made = rows(size=100, scores=np.random.default_rng(5).normal(size=(100, 2)))  # nothing to learn
    found = calibrated.fit(made, "vector", "f1", None)
    truth = made.problem.classes(made.label, made.task)
    whole = calibration.Calibration.read(found).decode(made.scores, made.problem, made.task)
    own = measures.of_classes(
        made.problem.classes(whole.values, made.task), whole.probabilities, truth, made.task.label_names, True
    ).values()
    assert own["log_loss"] < found["before"]["log_loss"] and own["log_loss"] < found["after"]["log_loss"]
