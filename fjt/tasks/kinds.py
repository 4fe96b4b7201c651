"""The kinds of problems by name.  A new kind is one file and one line here, or a call of `register` from outside."""

from collections.abc import Mapping

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.data import several
from fjt.data.glue import Task
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.entities import ENTITIES
from fjt.tasks.masked_lm import MASKED_LM
from fjt.tasks.multi_regression import MULTI_REGRESSION
from fjt.tasks.multilabel import MULTI_LABEL
from fjt.tasks.multiple_choice import MULTIPLE_CHOICE
from fjt.tasks.problem import Problem
from fjt.tasks.question_answering import QUESTION_ANSWERING
from fjt.tasks.regression import REGRESSION
from fjt.tasks.several import SeveralTasks, make
from fjt.tasks.tagging import TAGGING

PROBLEMS: dict[str, Problem] = {}


def register(problem: Problem) -> None:
    """Makes a Problem known under its name to this process.

    Raises:
        TypeError: it is no instance, or lacks a name, metrics, or a metric that it lists for tables.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"{problem!r} is not an instance of a subclass of Problem.")
    for name in ("name", "metrics", "table_metrics"):
        if not getattr(problem, name, None):
            raise TypeError(f"{type(problem).__name__} has no {name!r}.")
    if other := set(problem.table_metrics) - set(problem.metrics):
        raise TypeError(f"{type(problem).__name__}: {min(other)!r} is among table_metrics, and not in metrics.")
    PROBLEMS[problem.name] = problem


for _problem in (
    CLASSIFICATION, REGRESSION, MULTI_LABEL, MULTI_REGRESSION, TAGGING, ENTITIES, QUESTION_ANSWERING, MULTIPLE_CHOICE,
    MASKED_LM,
):  # fmt: skip
    register(_problem)


def find_problem(kind: str) -> Problem:
    """The Problem with a kind's name (`Task.kind`, config.data.kind).  Raises UserError for an unknown name."""
    if several.is_several(kind):
        return make(kind, find_problem)
    if kind not in PROBLEMS:
        raise UserError(f"config.data.kind={kind!r} is unknown.{suggest(kind, list(PROBLEMS))}")
    return PROBLEMS[kind]


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric, or of the loss, is better."""
    return metric == "loss" or any(_of_kind(metric) in problem.lower_is_better for problem in PROBLEMS.values())


def bounds_of(metric: str) -> tuple[float, float] | None:
    """(lowest, highest) value of a metric, or None where it lacks either bound."""
    name = _of_kind(metric)
    return next((one.bounds[name] for one in (*PROBLEMS.values(), SeveralTasks) if name in one.bounds), None)


def _of_kind(metric: str) -> str:
    """The name that a metric of one of several tasks, such as "rte.accuracy", has in its kind."""
    return metric.rpartition(".")[2]


def task_of_record(arrays: Mapping[str, np.ndarray], name: str = "") -> Task:
    """The Task of recorded predictions: kind, label names and how they are decoded.

    Args:
        arrays: of predictions/<split>.npz, or of one dev set of a committed study.
        name: of the task.
    """
    if "kind" in arrays:
        kind = str(arrays["kind"])
    else:  # files of version 0.1.0 did not say; it had scores as floats and label ids as integers
        kind = REGRESSION.name if arrays["label"].dtype.kind == "f" else CLASSIFICATION.name
    threshold = float(arrays["threshold"]) if "threshold" in arrays else 0.5
    constrained = bool(arrays.get("constrained", False))
    names = tuple(map(str, arrays["label_names"]))
    length = int(arrays.get("answer_length", Task.answer_length))
    return Task(name, kind, names, (), threshold=threshold, constrained=constrained, answer_length=length)
