"""The contribution of each example to a score that is not a mean, by the jackknife (numpy and scipy, float64)."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from numpy.typing import ArrayLike

Predicted = Shaped[np.ndarray, "n m"]  # class ids or scores
Label = Shaped[np.ndarray, " m"]
Sums = Iterable[Float[np.ndarray, "..."]]  # of xx, xy and yy: [n or 1, m or 1], yy of all examples without the n


def of_classes(metric: str, predicted: ArrayLike, label: ArrayLike) -> Float[np.ndarray, "n m"]:
    """The pseudo-values m theta - (m - 1) theta without e, for each run's score theta and example e (Tukey 1958).

    For accuracy these are the values of the single examples.  Scores without an example are exact, from counts.

    Args:
        metric: accuracy, f1, f1_accuracy, macro_f1 or mcc.
        predicted: [n, m] label ids.
        label: [m], none missing.
    """
    predicted, label = np.asarray(predicted), np.asarray(label)
    if metric == "accuracy":
        return (predicted == label).astype(np.float64)
    if metric == "f1_accuracy":
        return (of_classes("f1", predicted, label) + of_classes("accuracy", predicted, label)) / 2
    return _pseudo(label, *(_score(metric, *counts) for counts in _count(predicted, label)))


def of_scores(metric: str, predicted: ArrayLike, label: ArrayLike) -> Float[np.ndarray, "n m"]:
    """As `of_classes`, for scores; exact from sums and ranks.

    Args:
        metric: pearson, spearman or mse.
        predicted: [n, m] scores.
        label: [m], none missing.
    """
    predicted, label = np.asarray(predicted), np.asarray(label)
    if metric == "mse":
        return (predicted.astype(np.float64) - label) ** 2
    sums = _sums(predicted, label) if metric == "pearson" else _ranks(predicted, label)
    return _pseudo(label, *(_correlation(*s) for s in sums))


def of_label_sets(metric: str, predicted: ArrayLike, label: ArrayLike) -> Float[np.ndarray, "n m"]:
    """As `of_classes`, for sets of labels.

    Args:
        metric: micro_f1, macro_f1 or subset_accuracy.
        predicted: {0, 1}[n, m, C].
        label: {0, 1}[m, C], none missing.
    """
    predicted, label = np.asarray(predicted), np.asarray(label)[None]
    if metric == "subset_accuracy":
        return (predicted == label).all(axis=-1).astype(np.float64)
    one = np.stack([predicted * label, np.broadcast_to(label, predicted.shape), predicted]).astype(np.int64)
    total = one.sum(axis=2, keepdims=True)

    def f1(hits: np.ndarray, true: np.ndarray, guessed: np.ndarray) -> np.ndarray:
        if metric == "micro_f1":
            hits, true, guessed = (counts.sum(axis=-1) for counts in (hits, true, guessed))
            return _ratio(2 * hits, true + guessed)
        return _ratio(2 * hits, true + guessed).mean(axis=-1)

    return _pseudo(label[0], f1(*total), f1(*(total - one)))


def of_counts(
    counts: Real[np.ndarray, "n N K C"], score: Callable[[np.ndarray], Float[np.ndarray, "..."]]
) -> Float[np.ndarray, "n N"]:
    """As `of_classes`, for a score that is a function of sums over units.

    Args:
        counts: of each unit, of n runs.
        score: of counts [..., K, C].
    """
    total = counts.sum(axis=1, keepdims=True)
    return _pseudo(counts[0], score(total), score(total - counts))


def _pseudo(label: np.ndarray, theta: np.ndarray, without: np.ndarray) -> np.ndarray:
    return len(label) * theta - (len(label) - 1) * without


def _count(predicted: Predicted, label: Label) -> tuple[Int[np.ndarray, "3 C n 1"], Int[np.ndarray, "3 C n m"]]:
    """(hits, labels and predictions of each class over all examples, the same counts without each example)."""
    classes = np.arange(max(1, predicted.max(), label.max()) + 1)[:, None, None]
    of_label, of_predicted = np.broadcast_arrays(label == classes, predicted == classes)
    one = np.stack([of_label & of_predicted, of_label, of_predicted])
    total = one.sum(axis=-1, keepdims=True)
    return total, total - one


def _score(metric: str, hits: np.ndarray, true: np.ndarray, guessed: np.ndarray) -> Float[np.ndarray, "n ..."]:
    """The score of counts i[C, n, ...].  mcc is Gorodkin's (2004), which for two classes is Matthews'."""
    if metric == "mcc":
        m = true.sum(axis=0)
        left, right = ((m**2 - np.sum(count**2, axis=0)).astype(np.float64) for count in (true, guessed))
        return _ratio(m * hits.sum(axis=0) - np.sum(true * guessed, axis=0), np.sqrt(left * right))
    f1 = _ratio(2 * hits, true + guessed)
    return f1[1] if metric == "f1" else _ratio(f1.sum(axis=0), (true + guessed > 0).sum(axis=0))


def _sums(predicted: Predicted, label: Label) -> tuple[Sums, Sums]:
    """Sums f64[n, 1] of xx, xy, yy about the means, and f64[n, m] without e: less by m / (m - 1) times e's product."""
    x, y = predicted.astype(np.float64), label.astype(np.float64)[None]
    x, y = x - x[:, :1], y - y[:, :1]  # a constant is 0 exactly
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    products = x * x, x * y, y * y
    total = [v.sum(axis=1, keepdims=True) for v in products]
    return total, [s - y.size / (y.size - 1) * v for s, v in zip(total, products, strict=True)]


def _ranks(predicted: Predicted, label: Label) -> tuple[Sums, Sums]:
    """The sums of `_sums` for ranks about their mean.  Without e, all others move by a half towards e.  O(n m^2)."""
    import scipy.stats

    x, y = (scipy.stats.rankdata(v, axis=-1) - (len(label) + 1) / 2 for v in (predicted, label))
    xx, xy, yy = (np.empty(x.shape) for _ in range(3))
    size = 1 + 2**17 // len(y)  # examples at a time, so that all others' ranks without them fit a cache
    for some in (slice(i, i + size) for i in range(0, len(y), size)):
        b = y - np.clip(y - y[some, None], -0.5, 0.5)
        yy[:, some] = np.einsum("ei,ei->e", b, b) - y[some] ** 2
        for i, row in enumerate(x):
            a = row - np.clip(row - row[some, None], -0.5, 0.5)
            xx[i, some] = np.einsum("ei,ei->e", a, a) - row[some] ** 2
            xy[i, some] = np.einsum("ei,ei->e", a, b) - row[some] * y[some]
    return [np.sum(v, axis=-1, keepdims=True) for v in (x * x, x * y, y * y)], [xx, xy, yy]


def _correlation(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """xy / sqrt(xx yy), 0.0 where a side is constant except for rounding."""
    xx, yy = (np.where(v > 1e-13 * v.max(axis=-1, keepdims=True), v, 0.0) for v in (xx, yy))
    return _ratio(xy, np.sqrt(xx * yy))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, 0.0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)
