"""Calibrated probabilities, decision thresholds and abstention, fitted on labelled rows that were not trained on.

All of them are for kinds with `Problem.classes`: one class per row (`exclusive`), or a set of labels.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, suggest
from fjt.data.glue import Task
from fjt.tasks.problem import Predictions, Problem

METHODS = ("temperature", "vector")
LEAST_ROWS = 50  # rows of a fit
LEAST_POSITIVE = 10  # rows of each side of a threshold
FOLDS = 5
COOLEST = 0.01  # least scale: below 0, it would turn predictions around
LEAST_LOSS = 1e-3  # of a fit; rows that are told apart without error have 0 as the limit of ever larger scales
GRID = 1 - np.geomspace(0.5, 0.005, 20)  # confidences at which abstention is tried: fixed before any row is seen
LEVEL = 0.95  # chance that the promise of an abstention holds

Logits = Float[np.ndarray, "N C"]
Shares = Float[np.ndarray, "N C"]
Classes = Bool[np.ndarray, "N C"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a calibrated run decides: logits times `scale` plus `bias`, then thresholds, then abstention.

    Attributes:
        scale: one number for all classes (1 / temperature), or one per class.
        bias: one number per class, or 0.0 for all.
        thresholds: the least probability of the second of two classes, or of each label of a set; () for the most
            probable class, or 0.5.
        confidence: the least probability of a predicted class with which it is given, None without abstention.
    """

    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    thresholds: tuple[float, ...] = ()
    confidence: float | None = None

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Calibration":
        """The Calibration of a record that `dataclasses.asdict` wrote."""
        parts = {name: tuple(map(float, found[name])) for name in ("scale", "bias", "thresholds")}
        return cls(**parts, confidence=found["confidence"])

    def logits(self, logits: Logits) -> Logits:
        """The calibrated logits, f64."""
        return np.asarray(logits, np.float64) * np.array(self.scale) + np.array(self.bias)

    def decode(self, logits: Logits, problem: Problem, task: Task) -> Predictions:
        """The Predictions of logits, with calibrated probabilities and the thresholds."""
        found = problem.decode(self.logits(logits), task)
        if not self.thresholds:
            return found
        given = np.asarray(found.probabilities)
        return problem.from_classes(decide(given, np.array(self.thresholds), problem.exclusive), given, task)

    def answered(self, predicted: Predictions, problem: Problem, task: Task) -> Bool[np.ndarray, " N"]:
        """Whether each row's prediction is given."""
        if self.confidence is None:
            return np.ones(len(predicted.labels), bool)
        return np.asarray(confidence(predicted, problem, task) >= self.confidence)


def shares(logits: Logits, exclusive: bool) -> Shares:
    """The probabilities of logits: of one class among all, or of each label.  exclusive: whether a row has one."""
    return np.asarray(scipy.special.softmax(logits, axis=1) if exclusive else scipy.special.expit(logits))


def decide(probabilities: Shares, thresholds: Float[np.ndarray, " T"], exclusive: bool) -> Classes:
    """The classes whose probability reaches its threshold; of two classes, the second one if it does, else the first.

    Args:
        probabilities: of the classes.
        thresholds: of the second of two classes (T = 1), or of each label.
        exclusive: whether a row has one class.
    """
    if not exclusive:
        return np.asarray(probabilities >= thresholds)
    second = probabilities[:, 1] >= thresholds[0]
    return np.stack([~second, second], axis=1)


def confidence(predicted: Predictions, problem: Problem, task: Task) -> Float[np.ndarray, " N"]:
    """The probability of each row's predicted class."""
    chosen = problem.classes(predicted.values, task)
    assert chosen is not None and isinstance(predicted.probabilities, np.ndarray), "the kind has classes"
    return np.where(chosen, predicted.probabilities, 0.0).sum(axis=1)


def check(truth: Classes, name: str, exclusive: bool) -> None:
    """Raises UserError for too few rows or a single class.

    Args:
        truth: the classes of the rows that are fitted.
        name: of their split.
        exclusive: whether a row has one class.
    """
    if len(truth) < LEAST_ROWS:
        raise UserError(
            f"--split={name} gives {len(truth)} labelled rows to fit (with --risk, half of them), but a calibration "
            f"needs {LEAST_ROWS}. Give a larger split."
        )
    if exclusive and (truth.sum(axis=0) > 0).sum() < 2:
        raise UserError(
            f"All {len(truth)} rows of --split={name} have one label, which tells nothing about probabilities. Give a "
            "split with several."
        )


def fit(method: str, logits: Logits, truth: Classes, exclusive: bool) -> Calibration:
    """The Calibration with the least log loss on these rows (Guo et al. 2017), by L-BFGS from the uncalibrated one.

    Args:
        method: "temperature", one scale for all classes; or "vector", a scale and a bias for each.
        logits: of the rows.
        truth: their classes.
        exclusive: whether a row has one class.

    Raises:
        UserError: the rows are told apart without error, so that the log loss has no minimum.
    """
    logits, classes = np.asarray(logits, np.float64), truth.shape[1]
    size = 1 if method == "temperature" else classes

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = parameters[:size], parameters[size:] if size > 1 else 0.0
        scaled = logits * scale + bias
        each = scipy.special.logsumexp(scaled, axis=1) if exclusive else np.logaddexp(0.0, scaled)
        total = np.asarray(each).sum()
        slope = (shares(scaled, exclusive) - truth) / len(truth)
        of_scale = (slope * logits).sum(axis=0)
        gradient = of_scale.sum(keepdims=True) if size == 1 else np.concatenate([of_scale, slope.sum(axis=0)])
        return float((total - (scaled * truth).sum()) / len(truth)), gradient

    start = np.ones(1) if size == 1 else np.concatenate([np.ones(classes), np.zeros(classes)])
    bounds = [(COOLEST, None)] * size + [(None, None)] * (len(start) - size)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
    if not np.isfinite(found.x).all() or found.fun < LEAST_LOSS:
        raise UserError(
            "The rows are predicted so well that their log loss has no minimum: probabilities would all become 0 or 1. "
            "Calibrate on more rows, or on rows that are harder."
        )
    if size == 1:
        return Calibration((float(found.x[0]),))
    return Calibration(tuple(found.x[:size].tolist()), tuple(found.x[size:].tolist()))


# Scores of counts of one label, for thresholds: arrays of hits, predicted, true and all rows.
def _f1(hits: np.ndarray, found: np.ndarray, true: float, total: float) -> np.ndarray:
    del total
    return 2 * hits / np.maximum(found + true, 1)


def _macro_f1(hits: np.ndarray, found: np.ndarray, true: float, total: float) -> np.ndarray:
    rest = total - true - found + hits
    return (_f1(hits, found, true, total) + 2 * rest / np.maximum(2 * total - found - true, 1)) / 2


def _balanced(hits: np.ndarray, found: np.ndarray, true: float, total: float) -> np.ndarray:
    return (hits / true + (total - true - found + hits) / (total - true)) / 2


def _youden(hits: np.ndarray, found: np.ndarray, true: float, total: float) -> np.ndarray:
    return 2 * _balanced(hits, found, true, total) - 1  # sensitivity + specificity - 1: the same threshold is best


TARGETS: dict[str, Callable[..., np.ndarray]] = {
    "f1": _f1, "macro_f1": _macro_f1, "balanced_accuracy": _balanced, "youden": _youden,
}  # fmt: skip


def check_options(method: str, target: str, truth: Classes, task: Task, exclusive: bool) -> None:
    """Nothing where a method and a target can be fitted on rows.

    Args:
        method: a name in METHODS.
        target: a name in TARGETS, "" for no thresholds.
        truth: the classes.
        task: names the labels.
        exclusive: whether a row has one class.

    Raises:
        UserError: a name is unknown, thresholds are asked for of more than two classes, or a label has too few rows.
    """
    if method not in METHODS:
        raise UserError(f"--method={method!r} is unknown.{suggest(method, METHODS)}")
    if target and target not in TARGETS:
        raise UserError(f"--threshold={target!r} is unknown.{suggest(target, TARGETS)}")
    if target and exclusive and truth.shape[1] != 2:
        raise UserError(
            f"--threshold={target}: a threshold decides between two classes, and {task.name} has {truth.shape[1]}. "
            "Leave the option out; the most probable class is predicted."
        )
    asked = f"--threshold={target}" if target else f"--method={method}"
    columns = [1] if exclusive and truth.shape[1] == 2 else range(truth.shape[1])
    for column in columns if target or method != METHODS[0] else ():
        count = int(truth[:, column].sum())
        if min(count, len(truth) - count) < LEAST_POSITIVE:
            raise UserError(
                f"{asked} fits each label, and {count} of {len(truth)} rows have {task.label_names[column]!r}: it "
                f"needs {LEAST_POSITIVE} with it and {LEAST_POSITIVE} without. Give a larger split, or leave the "
                "option out."
            )


def tune(target: str, probabilities: Shares, truth: Classes, exclusive: bool) -> tuple[float, ...]:
    """The thresholds with the best score on these rows: of the second of two classes, or of each label.

    A threshold is the middle between two neighbouring probabilities; of equally good ones, the one nearest to 0.5.

    Args:
        target: a name in TARGETS.
        probabilities: of the classes.
        truth: the classes.
        exclusive: whether a row has one class.
    """
    columns = [1] if exclusive else range(truth.shape[1])
    return tuple(_best(TARGETS[target], probabilities[:, column], truth[:, column]) for column in columns)


def _best(score: Callable[..., np.ndarray], share: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"]) -> float:
    values, group = np.unique(share, return_inverse=True)
    found = np.bincount(group)[::-1].cumsum()[::-1]  # rows from each value on
    hits = np.bincount(group, truth)[::-1].cumsum()[::-1]
    thresholds = np.append((values + np.append(0.0, values[:-1])) / 2, (values[-1] + 1) / 2)
    scores = score(np.append(hits, 0.0), np.append(found, 0.0), float(truth.sum()), float(len(truth)))
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])


@dataclasses.dataclass(frozen=True)
class Abstention:
    """The least confidence with which the error rate of given predictions is bounded.

    Attributes:
        risk: the bound that was asked for.
        confidence: the least confidence.
        bound: the upper bound of the error rate there.
        answered: number of rows that reach it.
        wrong: number of wrong ones among them.
        rows: number of rows of the test.
    """

    risk: float
    confidence: float
    bound: float
    answered: int
    wrong: int
    rows: int


def abstain(risk: float, confident: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"]) -> Abstention:
    """The least confidence of GRID at which the error rate of given predictions is at most `risk`.

    At each confidence, the rows that reach it are a sample of new examples that reach it, so that Clopper and Pearson's
    upper bound (1934) of their error rate holds with its chance.  GRID is fixed, and the bound's chance of failure is
    1 - LEVEL divided by its size (Bonferroni), so that all bounds hold together with a chance of at least LEVEL,
    whichever is then chosen.  The chance is over the draw of these rows, which must be independent, drawn like the new
    examples, and other rows than those that confidences were fitted on.

    Args:
        risk: the error rate.
        confident: the confidence of each row's prediction.
        right: whether it is right.

    Raises:
        UserError: the risk is not between 0 and 1, or no confidence has so low a bound.
    """
    if not 0 < risk < 1:
        raise UserError(f"--risk={risk:g} should be an error rate between 0 and 1, such as 0.05.")
    chance = (1 - LEVEL) / len(GRID)
    answered = np.array([int((confident >= least).sum()) for least in GRID])
    wrong = np.array([int((confident >= least)[~right].sum()) for least in GRID])
    bounds = upper_bound(wrong, answered, chance)
    allowed = np.flatnonzero(bounds <= risk)
    if not len(allowed):
        best = int(np.argmin(bounds))
        raise UserError(
            f"--risk={risk:g}: no confidence bounds the error rate so low on {len(right)} rows; the lowest bound is "
            f"{bounds[best]:.3f}, from confidence {GRID[best]:.3f} on ({wrong[best]} of {answered[best]} wrong; with "
            f"none wrong, {math.ceil(math.log(chance) / math.log(1 - risk))} rows are needed). Give more rows, or a "
            "higher risk."
        )
    first = int(allowed[0])
    return Abstention(
        risk, float(GRID[first]), float(bounds[first]), int(answered[first]), int(wrong[first]), len(right)
    )


def upper_bound(
    wrong: Int[np.ndarray, " G"], answered: Int[np.ndarray, " G"], chance: float
) -> Float[np.ndarray, " G"]:
    """Clopper and Pearson's upper bound of an error rate, one-sided; 1 where all or none of the rows count.

    Args:
        wrong: number of wrong rows.
        answered: number of rows.
        chance: that the bound fails.
    """
    open_ = wrong < answered
    found = scipy.stats.beta.isf(chance, wrong + 1, np.where(open_, answered - wrong, 1))
    return np.where(open_, found, 1.0)


def parts(size: int, number: int, cluster: Int[np.ndarray, " N"] | None = None) -> Int[np.ndarray, " N"]:
    """The part of each row, of several equal ones, by a fixed draw; rows that share a source are in one part.

    Args:
        size: number of rows.
        number: number of parts.
        cluster: the number of each row's source, or None.
    """
    unit = np.arange(size) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    return (np.random.default_rng(0).permutation(int(unit.max()) + 1) % number)[unit]
