"""The evaluation of one run's predictions: scores with intervals, slices, and the rows that are most wrong."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fjt.experiment.finished import Run
from fjt.experiment.labelled import Labelled
from fjt.reports import resampling
from fjt.reports.pairs import Pair
from fjt.reports.resampling import Estimate

MOST_WRONG = 20  # rows that are listed
MOST_SLICES = 20  # values of a column, the most frequent ones
LEAST_ROWS = 8  # rows of which quarters by length are made
OF_FOLD = ("seed", "selected_step", "params_sha256")  # facts of a result
ABOUT = ("task", "model", "method", *OF_FOLD)


@dataclasses.dataclass(frozen=True)
class Slice:
    """The scores of some of the rows.  by: what they have in common; name: its value."""

    by: str
    name: str
    size: int
    estimates: dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A row that is wrong.

    Attributes:
        row: its number among the labelled rows.
        label: its true label.
        predicted: the prediction.
        confidence: the probability that is on the wrong side, or the error of a score; NaN without either.
    """

    row: int
    label: str
    predicted: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class Fold:
    """The run of a fold on the rows that it was not trained on.  size: their number; values: {name: score}."""

    run: Run
    size: int
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is known of predictions.

    Attributes:
        rows: the labelled rows.
        estimates: {name: Estimate}; names such as f1(label) are of one class.
        slices: their parts.
        wrong: the rows that are most wrong.
        folds: of a cross-validation, its folds in order; [] for one run.
        averaged: names of the scores that are means over folds, not scores of all rows together.
    """

    rows: Labelled
    estimates: dict[str, Estimate]
    slices: list[Slice]
    wrong: list[Wrong]
    folds: list[Fold]
    averaged: list[str]


def evaluate(rows: Labelled, column: str = "", runs: Sequence[Run] = ()) -> Evaluation:
    """The Evaluation of labelled rows.

    Args:
        rows: the rows.
        column: the name of their `group`.
        runs: of a cross-validation, the run of each of their folds.
    """
    measures = rows.measures()
    estimates = resampling.estimate(measures, rows.cluster)
    names = slice_names(rows, estimates)
    slices = [
        Slice(by, name, len(some), {key: found[key] for key in (names[:1] if by == "label" else names)})
        for by, name, chosen in _groups(rows, column)
        for some in [rows.take(chosen)]
        for found in [resampling.estimate(some.measures(own=False), some.cluster)]
    ]
    averaged = [name for name in estimates if runs and name in measures.ranked]
    return Evaluation(rows, estimates, slices, find_wrong(rows), _folds(rows, estimates, averaged, runs), averaged)


def _folds(
    rows: Labelled, estimates: Mapping[str, Estimate], averaged: Sequence[str], runs: Sequence[Run]
) -> list[Fold]:
    """The Folds with the metrics of the task, the share of right rows, and scores that are averaged."""
    names = [name for name in (*rows.task.metrics, "accuracy", *averaged) if name in estimates]
    found = []
    for run, chosen in zip(runs, rows.folds, strict=True):
        values = rows.take(chosen).measures().values()
        found.append(Fold(run, len(chosen), {name: values[name] for name in dict.fromkeys(names)}))
    return found


def slice_names(rows: Labelled, estimates: dict[str, Estimate]) -> list[str]:
    """The scores that slices have: the share of right rows, if there is one, and the task's first metric.

    Slices by label have the first of them alone: most metrics mean nothing for rows of one label.
    """
    shares = [name for name in ("accuracy", "subset_accuracy") if name in estimates]
    first = [name for name in (*rows.task.metrics, *estimates) if name in estimates]
    return list(dict.fromkeys([*shares, *first[:1]]))


def _groups(rows: Labelled, column: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (by, name, numbers of rows) of the slices, without empty ones."""
    if rows.texts is not None and len(rows) >= LEAST_ROWS:
        length = np.array(list(map(len, rows.texts)))
        ends = np.quantile(length, (0.25, 0.5, 0.75))
        quarter = np.searchsorted(ends, length)
        for number in range(4):
            if (chosen := np.flatnonzero(quarter == number)).size:
                low, high = length[chosen].min(), length[chosen].max()
                yield "length", f"{low:,} to {high:,} characters", chosen
    classes = rows.problem.classes(rows.label, rows.task)
    if classes is not None:
        for number in np.argsort(-classes.sum(axis=0), kind="stable")[:MOST_SLICES]:
            if classes[:, number].any():
                yield "label", rows.task.label_names[number], np.flatnonzero(classes[:, number])
    if rows.group is not None:
        values, inverse, counts = np.unique(np.array(rows.group), return_inverse=True, return_counts=True)
        for number in np.argsort(-counts, kind="stable")[:MOST_SLICES]:
            yield column, str(values[number]), np.flatnonzero(inverse == number)


def find_wrong(rows: Labelled) -> list[Wrong]:
    """The wrong rows, the most confident first; of scores, those with the greatest error; [] where rows are neither."""
    problem, task = rows.problem, rows.task
    found = rows.decoded()
    columns = problem.columns(rows.scores, task)
    names = (columns if rows.calibration is None else problem.prediction_columns(found, task)).get("predicted")
    if names is None or problem.documents:  # of several tasks, whose predictions are not one column; of masked tokens
        return []
    right, confidence = problem.right(found.values, rows.label), np.full(len(rows), math.nan)
    truth = problem.classes(rows.label, task)
    if right is None:
        distance = np.abs(np.asarray(found.values, np.float64) - rows.label).reshape(len(rows), -1)
        right, confidence = np.zeros(len(rows), bool), distance.mean(axis=1)
    elif truth is not None:
        chosen, shares = problem.classes(found.values, task), np.asarray(found.probabilities)
        assert chosen is not None, "a kind with classes of labels has classes of predictions"
        sides = np.where(chosen, shares, 1 - shares) * (chosen != truth)
        confidence = (sides * chosen if problem.exclusive else sides).max(axis=1)
    wrong = np.flatnonzero(~right)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_WRONG]
    labels = problem.label_column(rows.label, task)
    shown = [f"{name:.6g}" if isinstance(name, float) else str(name) for name in names]
    return [Wrong(int(row), labels[row], shown[row], float(confidence[row])) for row in order]


def record(run: Run, evaluation: Evaluation, other: Run | None, pair: Pair | None) -> dict[str, Any]:
    """The contents of evaluation.json.

    Args:
        run: the run.
        evaluation: of its predictions.
        other: the run that it is compared with, or None.
        pair: of both.
    """
    rows = evaluation.rows
    found: dict[str, Any] = {
        **_about(run, ("task", "model", "method") if evaluation.folds else ABOUT),
        "split": rows.name,
        "examples": len(rows),
        "unit": rows.problem.unit,
        "calibrated": rows.calibration is not None,
        "confidence": resampling.CONFIDENCE,
        "resamples": resampling.RESAMPLES,
        "metrics": _plain(evaluation.estimates),
        "slices": [
            {"by": one.by, "slice": one.name, "examples": one.size, "metrics": _plain(one.estimates)}
            for one in evaluation.slices
        ],
        "wrong": [
            {
                "id": rows.id[one.row],
                "label": one.label,
                "predicted": one.predicted,
                "confidence": None if math.isnan(one.confidence) else one.confidence,
            }
            for one in evaluation.wrong
        ],
    }
    if evaluation.folds:
        found["averaged"] = evaluation.averaged
        found["folds"] = [
            _about(one.run, OF_FOLD) | {"examples": one.size, "metrics": one.values} for one in evaluation.folds
        ]
    if other is not None and pair is not None:
        found["against"] = _about(other) | _pair(rows, pair)
    return found


def _about(run: Run, keys: Sequence[str] = ABOUT) -> dict[str, Any]:
    """What an evaluation says about a run.  keys: of its result."""
    found = {key: run.result[key] for key in keys}
    if "model" in found:
        found["model"] = found["model"].replace("\\", "/").rstrip("/").rpartition("/")[2]
    return found


def _pair(rows: Labelled, pair: Pair) -> dict[str, Any]:
    ids: dict[str, Sequence[str]] = {
        name: [rows.id[row] for row in found]
        for name, found in (
            ("changed", pair.changed),
            ("only_first_right", pair.only_first),
            ("only_second_right", pair.only_second),
        )
    }
    return {
        "churn": _plain({"churn": pair.churn})["churn"] if pair.churn else None,
        "mcnemar_p": None if math.isnan(pair.p) else pair.p,
        "reason": pair.reason,
        "both_right": pair.both,
        "neither_right": pair.neither,
        **ids,
        "differences": _plain(pair.differences),
    }


def _plain(estimates: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    """{name: {value, low, high} or {value, reason}}."""
    return {
        name: {"value": one.value, "reason": one.reason}
        if one.reason
        else {"value": one.value, "low": one.low, "high": one.high}
        for name, one in estimates.items()
    }
