"""The calibration of a finished run: fitted on labelled rows, and stored with the run and its export."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fjt.core import records
from fjt.core.errors import UserError
from fjt.experiment.calibration import RECORD
from fjt.experiment.labelled import Labelled
from fjt.experiment.loaded_run import Run
from fjt.models.config_entries import CALIBRATION
from fjt.tasks import calibration, measures
from fjt.tasks.calibration import FOLDS, Calibration
from fjt.tasks.problem import Scores

FITTED = ("scale", "bias", "thresholds", "confidence")  # of the record, the part that the export has too
SHOWN = ("ece", "log_loss", "brier", "accuracy", "subset_accuracy", "balanced_accuracy", "micro_f1", "macro_f1")


def fit(rows: Labelled, method: str, target: str, risk: float | None) -> dict[str, Any]:
    """The record of a calibration: {method, target, scale, bias, thresholds, confidence, rows, before, after, ...}.

    `before` and `after` are scores of the rows; those after are of rows that had no part in their own fit (FOLDS
    folds), and what is recorded is fitted on all of them.  With a risk, it is fitted on one half of the rows, and the
    abstention on the other half.

    Args:
        rows: which the run was not trained on.
        method: see `calibration.fit`.
        target: the score that thresholds are tuned for, "" for none.
        risk: the error rate among given predictions, None without abstention.

    Raises:
        UserError: the kind has no probabilities, or the rows do not suffice.
    """
    problem, task = rows.problem, rows.task
    truth = problem.classes(rows.label, task)
    if truth is None:
        raise UserError(f"The run predicts {problem.name}, without probabilities of classes: nothing to calibrate.")
    exclusive, half = problem.exclusive, np.zeros(len(rows), np.int64)
    if risk is not None:
        _check_risk(rows)
        half = calibration.parts(len(rows), 2)
    fitting = half == 0
    calibration.check(truth[fitting], rows.name, exclusive)
    calibration.check_options(method, target, truth[fitting], task, exclusive)
    whole = _fit(rows.scores[fitting], truth[fitting], method, target, exclusive)
    fold = calibration.parts(int(fitting.sum()), FOLDS, None if rows.cluster is None else rows.cluster[fitting])
    _check_folds(truth[fitting], fold, rows.name, target, exclusive)
    own, shown = rows.take(fitting), {}
    crossed = [
        (_fit(own.scores[fold != one], truth[fitting][fold != one], method, target, exclusive), fold == one)
        for one in range(FOLDS)
        if (fold == one).any()
    ]
    for name, fits in (("before", [(Calibration(), fold >= 0)]), ("after", crossed)):
        shown[name] = _scores(own, truth[fitting], fits)
    record: dict[str, Any] = {"method": method, "target": target, "split": rows.name, "rows": len(own)}
    abstention = {}
    if risk is not None:
        others = rows.take(half == 1)
        found = whole.decode(others.scores, problem, task)
        right = problem.right(found.values, others.label)
        assert right is not None, "classes are right or wrong"
        chosen = calibration.abstain(risk, calibration.confidence(found, problem, task), right)
        whole = dataclasses.replace(whole, confidence=chosen.confidence)
        abstention = {"abstention": dataclasses.asdict(chosen)}
    return record | dataclasses.asdict(whole) | shown | abstention


def _check_folds(truth: calibration.Classes, fold: np.ndarray, name: str, target: str, exclusive: bool) -> None:
    """Raises UserError if the rows outside a fold lack a class or, for thresholds, have nothing else."""
    for one in range(FOLDS):
        count = truth[fold != one].sum(axis=0)
        lacking = (count > 0).sum() < 2 if exclusive else bool(target) and (count == 0) | (count == (fold != one).sum())
        if np.any(lacking):
            raise UserError(
                f"--split={name}: nearly all rows of a label share a few sources, so that none is left when the scores "
                "after the calibration are measured on these sources. Give a larger split."
            )


def _check_risk(rows: Labelled) -> None:
    if not rows.problem.exclusive:
        raise UserError(
            "--risk bounds the error rate of single labels; this run predicts sets of labels. Leave it out."
        )
    if rows.cluster is not None:
        raise UserError(
            f"--risk: the rows of {rows.name} share {len(np.unique(rows.cluster))} sources, and its bound holds for "
            "independent rows alone. Leave it out."
        )


def _fit(logits: Scores, truth: calibration.Classes, method: str, target: str, exclusive: bool) -> Calibration:
    found = calibration.fit(method, logits, truth, exclusive)
    if not target:
        return found
    scaled = found.logits(logits)
    return dataclasses.replace(
        found,
        thresholds=calibration.tune(target, calibration.shares(scaled, exclusive), truth, exclusive),
    )


def _scores(rows: Labelled, truth: calibration.Classes, fits: Sequence[tuple[Calibration, Any]]) -> dict[str, float]:
    """{name: score} of rows, each decoded by the fit of its part.

    The calibration error is that of the probabilities of the most probable labels, whatever thresholds decide.

    Args:
        rows: the rows.
        truth: their classes.
        fits: (fit, which rows are decoded by it).
    """
    problem, task = rows.problem, rows.task
    shares, chosen, likely = np.zeros(truth.shape), np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    for one, part in fits:
        found = one.decode(rows.scores[part], problem, task)
        plain = dataclasses.replace(one, thresholds=()).decode(rows.scores[part], problem, task)
        shares[part] = np.asarray(found.probabilities)
        chosen[part], likely[part] = (problem.classes(decoded.values, task) for decoded in (found, plain))
    values, of_likely = (
        measures.of_classes(decided, shares, truth, task.label_names, problem.exclusive).values()
        for decided in (chosen, likely)
    )
    values["ece"] = of_likely["ece"]
    second = f"f1({task.label_names[1]})" if truth.shape[1] == 2 else ""
    return {name: values[name] for name in (*SHOWN, second) if name in values}


def write(run: Run, record: Mapping[str, Any]) -> list[str]:
    """Writes the record into the run's folder, and what was fitted into its export; returns the paths of both."""
    path = os.path.join(run.path, RECORD)
    records.write_json(path, {**record, "params_sha256": run.result["params_sha256"]})
    export = os.path.join(run.model_directory() or run.path, "config.json")
    if not run.model_directory() or not os.path.exists(export):
        return [path]
    fitted = {"method": record["method"], **{name: record[name] for name in FITTED}}
    records.write_json(export, records.read_json(export) | {CALIBRATION: fitted})
    return [path, export]
