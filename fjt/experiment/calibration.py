"""The calibration of a run, read from its folder and applied to its logits."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.records import Form
from fjt.data.glue import Task
from fjt.tasks.calibration import Calibration
from fjt.tasks.problem import Predictions, Problem, Scores

RECORD = "calibration.json"  # in the run's work directory
FORM: Form = {"scale": list, "bias": list, "thresholds": list, "params_sha256": str}


def read(folder: str, params_sha256: str) -> Calibration:
    """The Calibration of a run.

    Args:
        folder: the run's work directory.
        params_sha256: of its weights.

    Raises:
        UserError: it has no calibration, or that of other weights.
    """
    path = os.path.join(folder, RECORD)
    remedy = f"Fit one: python -m fjt.calibrate --run {folder}"
    if not os.path.exists(path):
        raise UserError(f"The run in {folder} has no calibration. {remedy}")
    found = records.read_json(path, FORM, remedy)
    if found["params_sha256"] != params_sha256:
        raise UserError(f"{path} is of other weights than the run's. {remedy}")
    return Calibration.read(found)


def fitted_on(folder: str) -> str:
    """The split on whose rows the calibration of a run was fitted.  folder: the run's work directory."""
    return str(records.read_json(os.path.join(folder, RECORD)).get("split", ""))


def columns(fitted: Calibration, logits: Scores, problem: Problem, task: Task) -> dict[str, Any]:
    """{column: values} of a table of predictions, as `Problem.columns`; where a run abstains, the prediction is ""."""
    predicted = fitted.decode(logits, problem, task)
    found: dict[str, Any] = dict(problem.prediction_columns(predicted, task))
    labels, abstains = _given(fitted, predicted, found.pop("predicted"), problem, task)
    return {"predicted": labels} | ({} if abstains is None else {"abstains": abstains}) | found


def values(fitted: Calibration, logits: Scores, problem: Problem, task: Task) -> dict[str, Any]:
    """{labels, probabilities} of logits as `Run.predict` returns them, and `abstains` for a run that can abstain."""
    predicted = fitted.decode(logits, problem, task)
    labels, abstains = _given(fitted, predicted, predicted.labels, problem, task)
    found = {"labels": labels, "probabilities": predicted.probabilities}
    return found | ({} if abstains is None else {"abstains": abstains})


def _given(
    fitted: Calibration,
    predicted: Predictions,
    labels: Sequence[Any] | np.ndarray,
    problem: Problem,
    task: Task,
) -> tuple[Sequence[Any] | np.ndarray, list[bool] | None]:
    """(labels, "" in place of one on which the run abstains; whether it does, None for one that never abstains)."""
    if fitted.confidence is None:
        return labels, None
    answered = fitted.answered(predicted, problem, task)
    return [label if given else "" for label, given in zip(labels, answered, strict=True)], (~answered).tolist()
