"""Columns of a training file that have one value, or that alone predict the label."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fjt.core.options import ExperimentConfig
from fjt.data import labels, tables
from fjt.data.glue import Task
from fjt.experiment.findings import NOTICE, SERIOUS, WARNING, Finding

MOST_ROWS = 20_000  # rows of a larger file that are drawn
TELLING = (0.5, 0.9)  # part of the error of a constant that a column removes: it is told, and it leaks
FOLDS = 5
DEPTH = 4  # of the tree that reads a column of numbers


@dataclasses.dataclass(frozen=True)
class _File:
    """A training file.  label: its column of labels, "" for none.  read: the columns that the model reads."""

    path: str
    header: bool
    label: str
    read: tuple[str, ...]
    drop_short: bool = False


def _file_of(experiment: ExperimentConfig, task: Task) -> _File | None:
    """The training file of a task; None where the data come from no table."""
    data = experiment.data
    if data.source != "files":
        return None
    if data.files.train:
        columns = data.columns
        label = "" if columns.labels else columns.label
        read = tuple(map(str, filter(None, (columns.text, columns.text_pair, *columns.choices))))
        return _File(data.files.train, data.header, label, read)
    for table in task.tables:
        path = os.path.join(data.dir, table.path)
        if table.split == "train" and os.path.isfile(path):
            return _File(
                path, table.header, table.label, tuple(filter(None, (table.text, table.text_pair))), table.drop_short
            )
    return None


def find(
    experiment: ExperimentConfig, task: Task, scores: bool, whole: bool
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """([{column, values, read, explained}], findings) of the columns of a task's training file, without the label.

    `values` is the number of distinct values.  `explained` is the part of the error of a constant prediction that the
    column alone removes, on rows that it was not learned from: of labels (accuracy - base) / (1 - base), which is
    Goodman and Kruskal's lambda; of scores R squared.  A column is learned as the best value for each of its values,
    and, if it has numbers, by a tree of depth DEPTH.

    Args:
        experiment: the options of this task alone.
        task: the task.
        scores: whether labels are numbers to predict, not names.
        whole: whether a label is of a whole text, so that a column can predict it.
    """
    file = _file_of(experiment, task)
    names = tables.column_names(file.path, file.header) if file else []
    names = [name for name in names if names.count(name) == 1]  # a run may leave two of one name unread
    if not file or not names or file.label not in (*names, ""):
        return [], []
    rows = tables.read(
        file.path,
        {name: name for name in names},
        header=file.header,
        optional=names,
        drop_short=file.drop_short,
    )
    chosen = np.sort(np.random.Generator(np.random.PCG64(0)).permutation(len(rows.lines))[:MOST_ROWS])
    columns = {name: [_text(values[row]) for row in chosen] for name, values in rows.values.items()}
    label = columns.pop(file.label, None)
    target = _target(label, scores) if whole and label is not None else None
    described, found = [], []
    for name, values in columns.items():
        one = {"column": name, "values": len(set(values)), "read": name in file.read}
        one["explained"] = None if target is None or one["values"] < 2 else _explained(values, target, scores)
        described.append(one)
        found += _findings(one, len(values))
    return described, found


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _target(label: Sequence[str], scores: bool) -> np.ndarray | None:
    """The labels as ids or scores; None where some are missing or no numbers."""
    try:
        if not scores:
            return np.unique(np.array(label, object).astype(str), return_inverse=True)[1]
        return np.array([float(value) for value in label])
    except ValueError:
        return None


def _findings(one: dict[str, Any], rows: int) -> Iterator[Finding]:
    name, told = one["column"], one["explained"]
    if one["values"] == 1 and rows > 1:
        yield Finding(
            finding=f"constant column {name:.{labels.LABELS_IN_MESSAGES}}",
            severity=WARNING if one["read"] else NOTICE,
            split="train",
            count=rows,
            share=1.0,
            examples=(),
            action="Leave it out of config.data.columns: it says nothing."
            if one["read"]
            else "Nothing: it is not read.",
        )
    if told is not None and told >= TELLING[0]:
        serious = SERIOUS if one["read"] and told >= TELLING[1] else WARNING
        yield Finding(
            finding=f"column {name:.{labels.LABELS_IN_MESSAGES}} alone predicts the label",
            severity=serious,
            split="train",
            count=rows,
            share=told,
            examples=({"values": one["values"], "explained": told},),
            action="Is it known before the label is? If not, keep it out of the texts."
            if one["read"]
            else "The model does not read it. Keep it out of the texts.",
        )


def _explained(values: Sequence[str], target: np.ndarray, scores: bool) -> float:
    """The better of the two predictions of `find`, at least 0."""
    fold = np.random.Generator(np.random.PCG64(1)).permutation(len(target)) % FOLDS
    codes = np.unique(np.array(values, object).astype(str), return_inverse=True)[1]
    predictions = [_by_value(codes, target, fold, scores)]
    try:
        numbers = np.array([float(value) for value in values])
        if np.isfinite(numbers).all() and len(np.unique(numbers)) > 2:
            predictions.append(_by_tree(numbers, target, fold, scores))
    except ValueError:
        pass
    base = _by_value(np.zeros(len(target), int), target, fold, scores)

    def error(predicted: np.ndarray) -> float:
        return float(np.mean((predicted - target) ** 2) if scores else np.mean(predicted != target))

    worst = error(base)
    return max(0.0, 1 - min(map(error, predictions)) / worst) if worst else 0.0


def _by_value(codes: np.ndarray, target: np.ndarray, fold: np.ndarray, scores: bool) -> np.ndarray:
    """For each row, the mean score or most frequent label of the rows of other folds with its code."""
    predicted = np.zeros(len(target))
    for number in range(FOLDS):
        rest, own = fold != number, fold == number
        if not rest.any():
            continue
        if scores:
            count = np.bincount(codes[rest], minlength=codes.max() + 1)
            total = np.bincount(codes[rest], target[rest], minlength=codes.max() + 1)
            best = np.where(count > 0, total / np.maximum(count, 1), target[rest].mean())
        else:
            order = np.bincount(target[rest])
            best = np.full(codes.max() + 1, order.argmax())
            pairs, count = np.unique(np.stack([codes[rest], target[rest]]), axis=1, return_counts=True)
            ascending = np.argsort(count, kind="stable")
            best[pairs[0, ascending]] = pairs[1, ascending]  # the most frequent label of a code comes last
        predicted[own] = best[codes[own]]
    return predicted


def _by_tree(numbers: np.ndarray, target: np.ndarray, fold: np.ndarray, scores: bool) -> np.ndarray:
    """For each row, the prediction of a tree that was learned from the rows of other folds."""
    import sklearn.tree

    predicted = np.zeros(len(target))
    for number in range(FOLDS):
        rest, own = fold != number, fold == number
        if not (rest.any() and own.any()):
            continue
        kind = sklearn.tree.DecisionTreeRegressor if scores else sklearn.tree.DecisionTreeClassifier
        tree = kind(max_depth=DEPTH, random_state=0).fit(numbers[rest, None], target[rest])
        predicted[own] = tree.predict(numbers[own, None])
    return predicted
