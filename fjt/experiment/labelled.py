"""Predictions with their labels: those that a finished run has stored of a split, or of a new labelled file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.ragged import Ragged
from fjt.core.records import Damaged
from fjt.data import reading, tables
from fjt.data import rows as file_rows
from fjt.data.glue import Split, Task
from fjt.experiment import new_texts, run_records
from fjt.experiment.loaded_run import Run
from fjt.experiment.new_texts import Source
from fjt.tasks import own_metrics
from fjt.tasks.calibration import Calibration
from fjt.tasks.measures import Measures
from fjt.tasks.problem import Predictions, Problem, Rows, Scores

if TYPE_CHECKING:
    from jaxtyping import Int

PART = 8192  # texts that are labelled at a time
GROUP = "group"  # the role of the column by which rows are grouped


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """The labelled rows of a split or a file with what a run predicts.

    Attributes:
        name: of the split, or of the file.
        task: the task, with the way to decode.
        problem: its kind.
        id: identifiers.
        texts: both texts of each row as one, None where the run has kept none.
        label: labels, none missing.
        scores: of the rows.
        cluster: the number of each row's source, or None.
        group: the value of each row in the column by which rows are grouped, or None.
        fold: the number of the fold whose run predicts each row, or None where one run predicts all.
        calibration: by which the scores are decoded, or None.
    """

    name: str
    task: Task
    problem: Problem
    id: tuple[str, ...]
    texts: tuple[str, ...] | None
    label: Rows
    scores: Scores
    cluster: "Int[np.ndarray, ' N'] | None" = None
    group: tuple[str, ...] | None = None
    fold: "Int[np.ndarray, ' N'] | None" = None
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: np.ndarray) -> "Labelled":
        """Some of the rows.  rows: their numbers, or a mask."""
        chosen = np.arange(len(self))[rows]

        def pick(values: Any) -> Any:
            return None if values is None else tuple(values[row] for row in chosen)

        picked: dict[str, Any] = {name: pick(getattr(self, name)) for name in ("id", "texts", "group")}
        for name in ("cluster", "fold"):
            picked[name] = None if getattr(self, name) is None else getattr(self, name)[chosen]
        return dataclasses.replace(self, label=self.label[chosen], scores=self.scores[chosen], **picked)

    @property
    def folds(self) -> "list[Int[np.ndarray, ' n']]":
        """The numbers of the rows of each fold, [] where one run predicts all rows."""
        return [] if self.fold is None else [np.flatnonzero(self.fold == one) for one in np.unique(self.fold)]

    def decoded(self) -> Predictions:
        """The predictions of the rows."""
        if self.calibration is None:
            return self.problem.decode(self.scores, self.task)
        return self.calibration.decode(self.scores, self.problem, self.task)

    def measures(self, own: bool = True) -> Measures:
        """The Measures of the rows, of several folds as `Measures.over_folds`.  own: with the user's own metrics."""
        predicted, metrics = self.decoded(), self.task.own_metrics
        found = self.problem.measures(predicted, self.label, self.task)
        if self.folds and found.ranked:
            parts = [(rows, dataclasses.replace(self.take(rows), fold=None)) for rows in self.folds]
            found = found.over_folds([(rows, part.measures(own=False)) for rows, part in parts])
        if not own or not metrics:
            return found
        return found.joined(own_metrics.measures(metrics, predicted.values, self.label))


def stored(run: Run, split: str, group: str = "") -> Labelled:
    """The Labelled rows of a split, from the run's own files.

    Args:
        run: a finished run; its model is not needed.
        split: name of the split.
        group: a column of predictions/<split>.tsv, or "".

    Raises:
        UserError: the run has no such split, none of its rows has a label, or a file is damaged.
    """
    known = sorted(
        name.removesuffix(".npz") for name in os.listdir(os.path.join(run.path, "predictions")) if name.endswith(".npz")
    )
    if split not in known:
        raise UserError(f"--split={split}: {run.path} has predictions of {', '.join(known)}. Give one of them.")
    arrays = run_records.read_predictions(run.path, split)
    texts, groups = _stored_texts(run, split, len(arrays["id"]), group)
    task = _task(run)
    cluster = None
    if "cluster" in arrays:
        cluster = np.unique(arrays["cluster"], return_inverse=True)[1]
    rows = Labelled(
        split, task, run.problem, tuple(map(str, arrays["id"])), texts, arrays["label"], arrays["logits"], cluster,
        groups,
    )  # fmt: skip
    return _checked(rows, f"--split={split}: no row of it in {run.path}")


def _task(run: Run) -> Task:
    """The task with the metrics that the run has recorded, the user's own as they were then."""
    found = []
    for name in run.config.get("eval", {}).get("metrics", ()):
        try:
            metric = own_metrics.load(name)
        except UserError as error:
            console.warn(f"{name} is left out: {error}")
            continue
        if run.contents.get(f"metric {name}", metric.sha256) == metric.sha256:
            found.append(metric)
        else:
            console.warn(f"{name} is left out: its source has changed since the run in {run.path}")
    return dataclasses.replace(run.task, metrics=tuple(run.result["metrics"]), own_metrics=tuple(found))


def _stored_texts(
    run: Run, split: str, count: int, group: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """(texts, values of the column `group`) of predictions/<split>.tsv; None where there are none."""
    path = os.path.join(run.path, "predictions", f"{split}.tsv")
    if not os.path.exists(path):
        if group:
            raise UserError(f"--slice={group}: {path} does not exist (config.output.tables). Give --data FILE.")
        return None, None
    columns = {"text": "text", "text_pair": "text_pair"} | ({GROUP: group} if group else {})
    remedy = "--slice names a column of it; those of another file are read with --data FILE."
    rows = tables.read(path, columns, optional=("text_pair",), remedy=remedy)
    if len(rows.lines) != count:
        raise Damaged(f"{path} is damaged ({len(rows.lines)} rows for {count} predictions). Restore the file.")
    values = rows.values
    pairs = zip(values["text"], values.get("text_pair", [""] * count), strict=True)
    return tuple(f"{one} | {two}" if two else str(one) for one, two in pairs), _groups(values)


def _groups(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    return tuple(str(value) for value in values[GROUP]) if GROUP in values else None


def predicted(run: Run, source: Source, label: str = "", group: str = "") -> Labelled:
    """The Labelled rows of a file, which the run's model labels.

    Args:
        run: a finished run.
        source: the file and the columns of its texts.
        label: the column of the labels, "" for that of the run's own table.
        group: a column by which rows are grouped, or "".

    Raises:
        UserError: the file cannot be read, or a row has no label.
    """
    if run.problem.documents:
        raise UserError(f"--data={source.path}: masks of new documents are drawn in training. Evaluate --split=dev.")
    if source.has_lines or not os.path.isfile(source.path):
        raise UserError(f"--data={source.path} should be a file with a column of labels ({' '.join(tables.READ)}).")
    rows = tables.read(
        source.path,
        new_texts.columns(run, source) | _label_columns(run, label) | ({GROUP: group} if group else {}),
        header=source.header,
        optional=("text_pair",) if run.singles and not source.text_pair else (),
        remedy="Name it with --{role}=COLUMN (of a slice: --slice=COLUMN).",
    )
    if not rows.lines and not rows.faults:
        raise UserError(f"--data={source.path} has no rows.")
    groups = _groups(rows.values)
    rows.values.pop(GROUP, None)
    split = reading.split(rows, run.problem, _codes(run, rows), True)
    scores = predict(run, split)
    texts = tuple(f"{one} | {two}" if two else one for one, two in zip(split.text, _second(split), strict=True))
    cluster = None if split.cluster is None else np.unique(np.array(split.cluster), return_inverse=True)[1]
    found = Labelled(
        os.path.basename(source.path), _task(run), run.problem, split.id, texts, split.label, scores, cluster, groups
    )
    return _checked(found, f"--data={source.path}: no row")


def _second(split: Split) -> tuple[str | None, ...]:
    """The second text of each row, or its choices."""
    if split.choices is not None:
        return tuple(" / ".join(row) for row in split.choices)
    return split.text_pair or (None,) * len(split)


def _label_columns(run: Run, label: str) -> dict[str, str]:
    """{role: column} of the labels."""
    own = run.config["data"]["columns"]
    if own["labels"] and not label:
        return {f"{reading.LABEL_COLUMNS}{name}": str(name) for name in own["labels"]}
    return {"label": label or own["label"]}


def _codes(run: Run, rows: file_rows.Rows) -> tuple[str, ...]:
    """The spelling of each label in a file: its name, or its id where no label is written by name."""
    names = run.label_names
    ids = tuple(map(str, range(len(names))))
    if run.problem.exclusive and "label" in rows.values:
        given = {str(value) for value in rows.values["label"]}
        if given and not given & set(names) and given <= set(ids):
            return ids
    return names


def predict(run: Run, split: Split, view: console.View = console) -> Scores:
    """The scores of a split, labelled in parts.  view: where progress is shown."""
    parts = []
    with view.bar("labelling", len(split), every=PART if len(split) > PART else 0) as bar:
        for start in range(0, len(split), PART):
            rows = range(start, min(start + PART, len(split)))
            parts.append(run.label(split.take(rows), start)["logits"])
            bar.update(rows.stop)
    if isinstance(parts[0], Ragged):
        return Ragged.of([row for part in parts for row in part], parts[0].dtype)
    return np.concatenate(parts)


def _checked(rows: Labelled, what: str) -> Labelled:
    """The rows that have a label.  Raises UserError where none has, or scores are not finite."""
    labelled = rows.problem.is_labelled(rows.label)
    if not labelled.any():
        raise UserError(f"{what} has a label, so that there is nothing to compare predictions with.")
    values = rows.scores.values if isinstance(rows.scores, Ragged) else rows.scores
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{rows.name}: some predicted scores are not finite; scores of others would mean nothing.")
    return rows if labelled.all() else rows.take(labelled)
