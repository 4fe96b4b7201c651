"""Regression: one score per example, squared error."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, read_rows
from fjt.core.prng import Array
from fjt.data.batches import Examples
from fjt.data.glue import Task
from fjt.data.labels import Cell
from fjt.tasks import jackknife, measures
from fjt.tasks.measures import Measures
from fjt.tasks.problem import Labels, Logits, Predictions, Problem

Scores = Float[np.ndarray, " N"]


# Float32 ends at 3.4e38. The squared errors of a batch are summed in it, and so are the squares of its gradient, which
# is twice the error times that of the score. 1e15 leaves room for 3e8 examples and for a gradient of the score of 9e3.
LARGEST = 1e15
FLAT = 1e-3  # share of the labels' range; predicted scores within a smaller range are equal except for rounding
NEARLY = 1e-2  # share of the labels' range; the middle nine tenths of predicted scores span more unless it collapsed


def pearson(predicted: Scores, label: Scores) -> float:
    """Pearson correlation, 0.0 when either side is constant."""
    import scipy.stats  # here, because it takes a second, which a prediction can do without

    return _correlation(scipy.stats.pearsonr, predicted, label)


def spearman(predicted: Scores, label: Scores) -> float:
    """Spearman rank correlation (ties share their mean rank), 0.0 when either side is constant."""
    import scipy.stats

    return _correlation(scipy.stats.spearmanr, predicted, label)


def mse(predicted: Scores, label: Scores) -> float:
    """Mean squared error."""
    return float(np.mean((np.float64(predicted) - np.float64(label)) ** 2))


def _correlation(function: Callable[..., Any], predicted: Scores, label: Scores) -> float:
    predicted, label = np.asarray(predicted, np.float64), np.asarray(label, np.float64)
    if len(label) < 2 or np.ptp(predicted) == 0 or np.ptp(label) == 0:
        return 0.0
    return float(function(predicted, label).statistic)


def squared_error(
    logits: Float[Array, "*slots 1"], label: Float[Array, "*slots"], hyper: Any
) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
    """(value, weight) of each slot: (logit - label)^2 and 1."""
    del hyper
    value = jnp.square(logits[..., 0].astype(jnp.promote_types(logits.dtype, jnp.float32)) - label)
    return value, jnp.ones_like(value)


def read_score(cell: Cell) -> float:
    """The score in a cell, NaN where it may be missing.  Raises UserError for another value."""
    text = cell.text
    if not text and not cell.required:
        return math.nan
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{cell.place}: {cell.value!r} is not a finite score. Correct or remove the row.")
    if abs(score) > LARGEST:
        raise UserError(
            f"{cell.place}: the score {cell.value!r} is too large: its squared error and gradient are float32, so "
            f"scores end at {LARGEST:.0e}. Give scores in another unit, or correct the row."
        )
    return score


class Regression(Problem):
    """One score per example.  Labels are f32[N], NaN where a row has none; metrics compare scores f64[N]."""

    name = "regression"
    loss_options = ("r_drop", "mixup")
    distill_options = ("weight", "hidden")
    metrics = {f.__name__: f for f in (pearson, spearman, mse)}
    table_metrics = ("pearson", "spearman", "mse")
    lower_is_better = ("mse",)
    bounds = {"pearson": (-1, 1), "spearman": (-1, 1)}
    hub_type = "regression"

    def num_outputs(self, task: Task) -> int:
        return 1

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        return {}

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        return np.array(read_rows(read_score, cells), np.float32)

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return ~np.isnan(label)

    def describe_label(self, label: Any, task: Task) -> str:
        return f"{label:g}"

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        return np.zeros(0, int)

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        return squared_error(logits, batch["label"], hyper)

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        return jnp.mean(jnp.square(one - other), axis=-1)  # of normal distributions with variance 1

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        return jnp.mean(jnp.square(logits - teacher), axis=-1)

    def mean_logits(self, parts: Sequence[Logits]) -> Logits:
        return np.mean(parts, axis=0)

    def decode(self, logits: Logits, task: Task) -> Predictions:
        scores = np.asarray(logits[:, 0], np.float64)
        return Predictions(scores, scores, None)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        labelled = self.is_labelled(examples.label)
        return mse(logits[labelled][:, 0], examples.label[labelled])

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        return jackknife.of_scores(metric, np.stack([*predicted]), label)

    def measures(self, predicted: Predictions, label: Labels, task: Task) -> Measures:
        return measures.of_scores(predicted.values[:, None], label[:, None])

    def constant(self, label: Labels) -> Labels:
        return np.full(len(label), label.mean())

    def collapsed(self, predicted: Labels, label: Labels) -> bool:
        """Whether the middle nine tenths of the scores span at most NEARLY of the labels' range."""
        low, high = np.quantile(predicted, (0.05, 0.95))
        return bool(high - low <= NEARLY * np.ptp(label))

    def same_for_all(self, predicted: Labels, label: Labels) -> Labels:
        if np.ptp(predicted) > FLAT * np.ptp(label):
            return predicted
        return np.full_like(predicted, predicted.mean())

    def columns(self, logits: Logits, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        return {"predicted": self.decode(logits, task).values}

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return ["" if np.isnan(x) else f"{x:g}" for x in label]


REGRESSION = Regression()
