"""Regression: one score per example, squared error."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats

from fjt.core.errors import UserError
from fjt.data.glue import Cell, Task
from fjt.tasks import jackknife
from fjt.tasks.problem import Predictions, Problem

FLAT = 1e-3  # of the labels' range: scores predicted within less are one value but for rounding


def pearson(predicted, label):
    """Pearson correlation, 0.0 when either side is constant.  predicted, label: f[N]."""
    return _correlation(scipy.stats.pearsonr, predicted, label)


def spearman(predicted, label):
    """Spearman rank correlation (ties share their mean rank), 0.0 when either side is constant.  f[N]."""
    return _correlation(scipy.stats.spearmanr, predicted, label)


def mse(predicted, label):
    """Mean squared error.  predicted, label: f[N]."""
    return float(np.mean((np.float64(predicted) - np.float64(label)) ** 2))


def _correlation(function, predicted, label):
    predicted, label = np.float64(predicted), np.float64(label)
    if len(label) < 2 or np.ptp(predicted) == 0 or np.ptp(label) == 0:
        return 0.0
    return float(function(predicted, label).statistic)


def squared_error(logits, label, hyper):
    """(value, weight) of each slot: (logit - label)^2 and 1.  logits: f[..., 1]; label: f32[...]."""
    del hyper
    value = jnp.square(logits[..., 0].astype(jnp.promote_types(logits.dtype, jnp.float32)) - label)
    return value, jnp.ones_like(value)


class Regression(Problem):
    """One score per example.  Labels are f32[N], NaN where a row has none; metrics compare scores f64[N]."""

    name = "regression"
    metrics = {f.__name__: f for f in (pearson, spearman, mse)}
    table_metrics = ("pearson", "spearman", "mse")
    lower_is_better = ("mse",)
    bounds = {"pearson": (-1, 1), "spearman": (-1, 1)}
    hub_type = "regression"

    def num_outputs(self, task: Task) -> int:
        return 1

    def find_labels(self, cells: Sequence[Cell]) -> tuple[str, ...]:
        return ()

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> np.ndarray:
        return np.array([self._read(cell) for cell in cells], np.float32)

    def _read(self, cell: Cell) -> float:
        if not cell.text and not cell.required:
            return math.nan
        try:
            score = float(cell.text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise UserError(f"{cell.place}: {cell.value!r} stands where a score belongs. Correct or remove the row.")
        return score

    def is_labelled(self, label: np.ndarray) -> np.ndarray:
        return ~np.isnan(label)

    def describe_label(self, label: Any, task: Task) -> str:
        return f"{label:g}"

    def label_weights(self, loss: Any, label: np.ndarray, task: Task) -> np.ndarray:
        if loss.class_weights or loss.label_smoothing:
            raise UserError(
                f"config.loss: {task.name} is a regression, which has no class_weights and no label_smoothing."
            )
        return np.ones(1)

    def loss(self, logits, batch, hyper):
        return squared_error(logits, batch["label"], hyper)

    def decode(self, logits: np.ndarray, task: Task) -> Predictions:
        scores = np.float64(logits[:, 0])
        return Predictions(scores, scores, None)

    def dev_loss(self, logits: np.ndarray, label: np.ndarray) -> float:
        labelled = self.is_labelled(label)
        return mse(logits[labelled][:, 0], label[labelled])

    def pseudo_values(self, metric: str, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        return jackknife.of_scores(metric, predicted, label)

    def constant(self, label: np.ndarray) -> np.ndarray:
        return np.full(len(label), label.mean())

    def same_for_all(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        if np.ptp(predicted) > FLAT * np.ptp(label):
            return predicted
        return np.full_like(predicted, predicted.mean())

    def columns(self, logits: np.ndarray, task: Task) -> dict[str, Sequence[Any]]:
        return {"predicted": self.decode(logits, task).values}

    def label_column(self, label: np.ndarray, task: Task) -> list[str]:
        return ["" if np.isnan(x) else f"{x:g}" for x in label]


REGRESSION = Regression()
