"""Multi-label classification: any number of labels per example, a sigmoid and binary cross-entropy for each."""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from fjt.core.errors import UserError, read_rows
from fjt.core.options import LossConfig
from fjt.core.prng import Array
from fjt.data.batches import Examples
from fjt.data.glue import Task
from fjt.data.labels import Cell
from fjt.tasks import jackknife
from fjt.tasks.classification import class_rows, confidence_factor, f1_of_counts, of_classes, sort_labels, weigh
from fjt.tasks.measures import Measures
from fjt.tasks.problem import Labels, Logits, Predictions, Problem

Sets = Int[np.ndarray, "N C"]  # 1 for each label of an example's set, else 0


SEPARATOR = ","  # between the labels of a cell of text
YES, NO = ("1", "true", "yes"), ("0", "false", "no")  # cells where each label has its own column


def micro_f1(predicted: Sets, label: Sets) -> float:
    """F1 of all labels of all examples together, 0.0 when nothing is positive."""
    counts = (sets.sum().reshape(1) for sets in (predicted & label, predicted, label))
    return float(f1_of_counts(*counts)[0])


def macro_f1(predicted: Sets, label: Sets) -> float:
    """Unweighted mean over labels of F1, 0.0 for a label that never occurs."""
    return float(np.mean(f1_of_counts((predicted & label).sum(0), predicted.sum(0), label.sum(0))))


def subset_accuracy(predicted: Sets, label: Sets) -> float:
    """Share of examples whose whole set of labels is predicted."""
    return float(np.mean((predicted == label).all(axis=-1)))


def binary_cross_entropy(
    logits: Float[Array, "*slots C"], label: Shaped[Array, "*slots C"], hyper: Any
) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
    """(value, weight) of each slot: the mean over labels of smoothed, label-weighted binary cross-entropy, and 1.

    The mean over slots is PyTorch's BCEWithLogitsLoss(weight=class_weights).  Label smoothing s moves each target by
    s / 2 towards the other side.

    Args:
        logits: of the slots.
        label: 0 or 1 for each label.
        hyper: Hyper with label_smoothing f32[], class_weights f32[C] and focal f32[] or None.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    target = label.astype(logits.dtype) * (1.0 - hyper.label_smoothing) + hyper.label_smoothing / 2
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    both = (target, 1.0 - target)
    if hyper.focal is not None:
        both = (target * confidence_factor(yes, hyper.focal), (1.0 - target) * confidence_factor(no, hyper.focal))
    terms = -(both[0] * yes + both[1] * no)
    value = jnp.einsum("...c,c->...", terms, hyper.class_weights) / logits.shape[-1]
    return value, jnp.ones_like(value)


class MultiLabel(Problem):
    """A set of labels per example.  Labels are i8[N, C] of 0 and 1, -1 in rows without a label.

    A cell contains a list of names, text with commas between names, or, where each label has its own column, a dict
    {name: cell}.  An empty list or text is the empty set; a missing value means that the row has no label.
    """

    name = "multi_label"
    decode_options = ("threshold",)
    loss_options = ("label_smoothing", "class_weights", "focal", "r_drop", "mixup")
    distill_options = ("weight", "temperature", "hidden")
    metrics = {f.__name__: f for f in (micro_f1, macro_f1, subset_accuracy)}
    table_metrics = ("micro_f1", "macro_f1", "subset_accuracy")
    bounds = dict.fromkeys(table_metrics, (0, 1))
    hub_type = "multi_label_classification"

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        if cells and isinstance(cells[0].value, dict):
            return dict.fromkeys((Cell(name, cells[0].place, True).text for name in cells[0].value), cells[0].place)
        return sort_labels(cells, lambda cell: self._names(cell) or ())

    def _names(self, cell: Cell) -> dict[str, bool] | None:
        """{name in a cell: True}, None for a missing value.  Raises UserError for a value that is not a name."""
        value = cell.value
        if isinstance(value, str) and value.strip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise UserError(f"{cell.place}: {value!r:.80} is not a list of labels. Correct the row.") from None
        if isinstance(value, str):
            value = [name for name in value.split(SEPARATOR) if name.strip()]
        if not isinstance(value, list | tuple | np.ndarray):
            if value is None or value != value:  # NaN is a missing value too
                return None
            value = [value]
        names = {}
        for each in (Cell(name, cell.place, cell.required) for name in value):
            if isinstance(each.value, list | tuple | np.ndarray | dict) or not each.text:
                fault = f"{each.value!r:.80} is not the name of a label"
                raise UserError(f"{cell.place}: {fault}. Write a list of names, or [] for none.")
            names[each.text] = True
        return names

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        if not codes:
            raise UserError(
                "No row of the training file has a label, so there is nothing to learn. Check "
                "config.data.columns.label, or give config.data.columns.labels, one column per label."
            )
        if joined := [code for code in codes if SEPARATOR in code]:
            raise UserError(
                f"The name of the label {joined[0]!r:.80} has a {SEPARATOR!r}, which separates labels in tables of "
                "predictions. Rename the label in every row, or its column, and in config.data.label_names."
            )
        ids = {code: number for number, code in enumerate(codes)}
        answered = cells and isinstance(cells[0].value, dict)
        read = functools.partial(self._answered, codes=codes) if answered else self._names
        rows = read_rows(lambda cell: self._read(cell, read(cell), ids), cells)
        return np.array(rows, np.int8).reshape(len(cells), len(codes))

    def _read(self, cell: Cell, names: Mapping[str, bool] | None, ids: Mapping[str, int]) -> np.ndarray:
        """One row of labels.  names: {name in the cell: whether it is in the set}, or None."""
        row = np.zeros(len(ids), np.int8)
        if names is None:
            if cell.required:
                raise cell.missing()
            return row - 1
        for name, chosen in names.items():
            if name not in ids:
                raise cell.unknown(name, ids)
            row[ids[name]] = chosen
        return row

    def _answered(self, cell: Cell, codes: Sequence[str]) -> dict[str, bool] | None:
        """{name: whether its column says yes} of a dict, None if a column has no answer.  Raises UserError."""
        if not isinstance(cell.value, dict):
            raise UserError(f"{cell.place}: {cell.value!r:.80} is not an object as in the first row. Correct the row.")
        answers = {}
        for name, value in cell.value.items():
            answer = Cell(value, cell.place, cell.required).text.lower()
            if answer and answer not in (*YES, *NO):
                raise UserError(f"{cell.place}: {value!r} in the column {name!r} should be 0 or 1.")
            name = Cell(name, cell.place, True).text
            if name in answers:
                raise UserError(f"{cell.place}: two keys are the label {name!r}. Correct the row.")
            answers[name] = answer
        lacking = [code for code in codes if code not in answers]
        if lacking and answers.keys() <= set(codes):  # for other names, the caller has a better message
            raise UserError(f"{cell.place}: the row has no key {lacking[0]!r}. Give every row all labels, each 0 or 1.")
        return {name: answer in YES for name, answer in answers.items()} if all(answers.values()) else None

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return np.asarray((label >= 0).all(axis=-1))

    def describe_label(self, label: Any, task: Task) -> str:
        return self.label_column(np.asarray(label)[None], task)[0] or "no label"

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        return (label > 0).sum(axis=0)

    def label_weights(self, loss: LossConfig, label: Labels, task: Task) -> Float[np.ndarray, " C"]:
        return weigh(loss.class_weights, (label > 0).sum(axis=0))

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        return binary_cross_entropy(logits, batch["label"], hyper)

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        return jnp.mean((jax.nn.sigmoid(one) - jax.nn.sigmoid(other)) * (one - other), axis=-1)

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        own, other = logits / hyper.temperature, teacher / hyper.temperature
        terms = jnp.zeros_like(own)
        for sign in (1, -1):  # Kullback-Leibler divergence of yes and no
            log_p, log_q = jax.nn.log_sigmoid(sign * other), jax.nn.log_sigmoid(sign * own)
            terms += jnp.exp(log_p) * (log_p - log_q)
        return hyper.temperature**2 * jnp.einsum("...c,c->...", terms, hyper.class_weights) / logits.shape[-1]

    def decode(self, logits: Logits, task: Task) -> Predictions:
        probabilities = scipy.special.expit(np.asarray(logits, np.float64))
        return self.from_classes(probabilities >= task.threshold, probabilities, task)

    def classes(self, label: Labels, task: Task) -> Bool[np.ndarray, "N C"]:
        return np.asarray(label > 0)

    def from_classes(
        self, chosen: Bool[np.ndarray, "N C"], probabilities: Float[np.ndarray, "N C"], task: Task
    ) -> Predictions:
        labels = [tuple(task.label_names[i] for i in np.flatnonzero(row)) for row in chosen]
        return Predictions(chosen.astype(np.int8), labels, probabilities)

    def measures(self, predicted: Predictions, label: Labels, task: Task) -> Measures:
        return of_classes(self, predicted, label, task)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        labelled = self.is_labelled(examples.label)
        logits, label = np.asarray(logits[labelled], np.float64), examples.label[labelled]
        return float(np.mean(np.logaddexp(0.0, logits) - logits * label))

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        return jackknife.of_label_sets(metric, np.stack([*predicted]), label)

    def per_class(self, predicted: Labels, label: Labels, task: Task) -> list[dict[str, Any]]:
        counts = (sets.sum(axis=0, dtype=np.int64) for sets in (predicted & label, predicted, label))
        return class_rows(task.label_names, *counts)

    def constant(self, label: Labels) -> Labels:
        sets, counts = np.unique(label, axis=0, return_counts=True)
        return np.repeat(sets[counts.argmax()][None], len(label), axis=0)

    def columns(self, logits: Logits, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        return self.prediction_columns(self.decode(logits, task), task)

    def prediction_columns(self, predicted: Predictions, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        names = [SEPARATOR.join(names) for names in predicted.labels]
        return {"predicted": names} | self.probability_columns(predicted, task)

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return [SEPARATOR.join(task.label_names[i] for i in np.flatnonzero(row > 0)) for row in label]


MULTI_LABEL = MultiLabel()
