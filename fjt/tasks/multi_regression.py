"""Regression with several targets: C scores per example, the mean of their squared errors."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, read_rows
from fjt.core.options import LossConfig
from fjt.core.prng import Array
from fjt.data.batches import Examples
from fjt.data.glue import Task
from fjt.data.labels import Cell
from fjt.tasks import jackknife, measures, regression
from fjt.tasks.measures import Measures
from fjt.tasks.problem import Labels, Logits, Predictions, Problem
from fjt.tasks.regression import REGRESSION

Table = Float[np.ndarray, "N C"]


def _mean(metric: Callable[[np.ndarray, np.ndarray], float], predicted: Table, label: Table) -> float:
    """The mean of a metric over the targets."""
    return float(np.mean([metric(*columns) for columns in zip(predicted.T, label.T, strict=True)]))


class MultiRegression(Problem):
    """Scores for several targets.  Labels are f32[N, C], NaN in rows without a label; metrics are means over targets.

    A cell is a dict {target: score}, one column per target (config.data.columns.labels).
    """

    name = "multi_regression"
    loss_options = ("r_drop", "mixup")
    distill_options = ("weight", "hidden")
    metrics = {name: functools.partial(_mean, metric) for name, metric in REGRESSION.metrics.items()}
    table_metrics = REGRESSION.table_metrics
    lower_is_better = REGRESSION.lower_is_better
    bounds = REGRESSION.bounds
    hub_type = "regression"

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        if not (cells and isinstance(cells[0].value, dict)):
            raise UserError("config.data.columns.labels is empty; name the columns of the targets, one per target.")
        return dict.fromkeys((Cell(name, cells[0].place, True).text for name in cells[0].value), cells[0].place)

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        rows = read_rows(lambda cell: self._read(cell, codes), cells)
        return np.array(rows, np.float32).reshape(len(cells), len(codes))

    def _read(self, cell: Cell, codes: Sequence[str]) -> list[float]:
        if cell.value is None and not cell.required:  # a test set without these columns
            return [math.nan] * len(codes)
        if not isinstance(cell.value, dict) or cell.value.keys() != set(codes):
            raise UserError(f"{cell.place}: the row should have a score for each of {', '.join(codes)}.")
        scores = [regression.read_score(Cell(cell.value[name], cell.place, cell.required)) for name in codes]
        return [math.nan] * len(codes) if any(map(math.isnan, scores)) else scores

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return np.asarray(~np.isnan(label).any(axis=-1))

    def describe_label(self, label: Any, task: Task) -> str:
        return ", ".join(f"{name} {score:g}" for name, score in zip(task.label_names, label, strict=True))

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        return np.zeros(0, int)

    def label_weights(self, loss: LossConfig, label: Labels, task: Task) -> Float[np.ndarray, " C"]:
        del loss, label
        return np.ones(len(task.label_names))

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        del hyper
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        value = jnp.mean(jnp.square(logits - batch["label"]), axis=-1)
        return value, jnp.ones_like(value)

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        return REGRESSION.divergence(one, other)

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        return REGRESSION.soft_loss(logits, teacher, hyper)

    def mean_logits(self, parts: Sequence[Logits]) -> Logits:
        return REGRESSION.mean_logits(parts)

    def decode(self, logits: Logits, task: Task) -> Predictions:
        scores = np.asarray(logits, np.float64)
        return Predictions(scores, scores, None)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        labelled = self.is_labelled(examples.label)
        return self.metrics["mse"](logits[labelled], examples.label[labelled])

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        runs = np.stack([*predicted])
        return np.mean([jackknife.of_scores(metric, runs[..., c], label[:, c]) for c in range(label.shape[1])], axis=0)

    def measures(self, predicted: Predictions, label: Labels, task: Task) -> Measures:
        return measures.of_scores(predicted.values, label)

    def constant(self, label: Labels) -> Labels:
        return np.broadcast_to(label.mean(axis=0), label.shape)

    def collapsed(self, predicted: Labels, label: Labels) -> bool:
        return all(REGRESSION.collapsed(*columns) for columns in zip(predicted.T, label.T, strict=True))

    def same_for_all(self, predicted: Labels, label: Labels) -> Labels:
        columns = zip(predicted.T, label.T, strict=True)
        return np.stack([REGRESSION.same_for_all(*column) for column in columns], axis=1)

    def columns(self, logits: Logits, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        scores = self.decode(logits, task).values
        each = {f"predicted({name})": column for name, column in zip(task.label_names, scores.T, strict=True)}
        return {"predicted": scores.round(6).tolist()} | each

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return ["" if np.isnan(row).any() else self.describe_label(row, task) for row in label]


MULTI_REGRESSION = MultiRegression()
