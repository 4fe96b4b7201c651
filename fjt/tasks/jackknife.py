"""What each example contributes to a score that is no mean, by the jackknife (numpy and scipy, float64)."""

import numpy as np
import scipy.stats


def of_classes(metric, predicted, label):
    """f64[n, m]: pseudo-values m theta - (m - 1) theta without e of each run's score theta (Tukey 1958).

    Scores without an example are exact, from counts; of accuracy they are each example's own value.

    Args:
        metric: accuracy, f1, macro_f1 or mcc.
        predicted: i[n, m] label ids.
        label: i[m], none missing.
    """
    predicted, label = np.asarray(predicted), np.asarray(label)
    if metric == "accuracy":
        return np.float64(predicted == label)
    return _pseudo(label, *(_counted(metric, *counts) for counts in _count(predicted, label)))


def of_scores(metric, predicted, label):
    """f64[n, m]: as `of_classes`, for scores f[n, m]; exact from sums and ranks.  metric: pearson, spearman or mse."""
    predicted, label = np.asarray(predicted), np.asarray(label)
    if metric == "mse":
        return (np.float64(predicted) - label) ** 2
    sums = _sums(predicted, label) if metric == "pearson" else _ranks(predicted, label)
    return _pseudo(label, *(_correlation(*s) for s in sums))


def of_label_sets(metric, predicted, label):
    """f64[n, m]: as `of_classes`, for sets of labels {0, 1}[n, m, C].

    metric: micro_f1, macro_f1 or subset_accuracy.
    """
    predicted, label = np.asarray(predicted), np.asarray(label)[None]
    if metric == "subset_accuracy":
        return np.float64((predicted == label).all(axis=-1))
    one = np.stack([predicted * label, np.broadcast_to(label, predicted.shape), predicted]).astype(np.int64)
    whole = one.sum(axis=2, keepdims=True)

    def f1(hits, true, guessed):
        if metric == "micro_f1":
            hits, true, guessed = (counts.sum(axis=-1) for counts in (hits, true, guessed))
            return _ratio(2 * hits, true + guessed)
        return _ratio(2 * hits, true + guessed).mean(axis=-1)

    return _pseudo(label[0], f1(*whole), f1(*(whole - one)))


def _pseudo(label, whole, without):
    return len(label) * whole - (len(label) - 1) * without


def _count(predicted, label):
    """i[3, C, n, 1] of hits, labels and predictions of each class, and i[3, C, n, m] of these without each example."""
    classes = np.arange(max(1, predicted.max(), label.max()) + 1)[:, None, None]
    of_label, of_predicted = np.broadcast_arrays(label == classes, predicted == classes)
    one = np.stack([of_label & of_predicted, of_label, of_predicted])
    whole = one.sum(axis=-1, keepdims=True)
    return whole, whole - one


def _counted(metric, hits, true, guessed):
    """f64[n, ...]: the score of such counts; mcc is Gorodkin's (2004), which for two classes is Matthews'."""
    if metric == "mcc":
        m = true.sum(axis=0)
        left, right = (np.float64(m**2 - np.sum(count**2, axis=0)) for count in (true, guessed))
        return _ratio(m * hits.sum(axis=0) - np.sum(true * guessed, axis=0), np.sqrt(left * right))
    f1 = _ratio(2 * hits, true + guessed)
    return f1[1] if metric == "f1" else _ratio(f1.sum(axis=0), (true + guessed > 0).sum(axis=0))


def _sums(predicted, label):
    """Sums f64[n, 1] of xx, xy, yy about the means, and f64[n, m] without e: less by m / (m - 1) times e's own."""
    x, y = np.float64(predicted), np.float64(label)[None]
    x, y = x - x[:, :1], y - y[:, :1]  # a constant is 0 exactly
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    products = x * x, x * y, y * y
    whole = [v.sum(axis=1, keepdims=True) for v in products]
    return whole, [s - y.size / (y.size - 1) * v for s, v in zip(whole, products, strict=True)]


def _ranks(predicted, label):
    """As `_sums`, of ranks about their mean: without e, all others move by a half towards its place.  O(n m^2)."""
    x, y = (scipy.stats.rankdata(v, axis=-1) - (len(label) + 1) / 2 for v in (predicted, label))
    xx, xy, yy = np.empty((3, *x.shape))
    size = 1 + 2**17 // len(y)  # examples at a time, so that all others' ranks without them fit a cache
    for some in (slice(i, i + size) for i in range(0, len(y), size)):
        b = y - np.clip(y - y[some, None], -0.5, 0.5)
        yy[:, some] = np.einsum("ei,ei->e", b, b) - y[some] ** 2
        for i, row in enumerate(x):
            a = row - np.clip(row - row[some, None], -0.5, 0.5)
            xx[i, some] = np.einsum("ei,ei->e", a, a) - row[some] ** 2
            xy[i, some] = np.einsum("ei,ei->e", a, b) - row[some] * y[some]
    return [np.sum(v, axis=-1, keepdims=True) for v in (x * x, x * y, y * y)], [xx, xy, yy]


def _correlation(xx, xy, yy):
    """0.0 where a side is constant, or was before rounding."""
    xx, yy = (np.where(v > 1e-13 * v.max(axis=-1, keepdims=True), v, 0.0) for v in (xx, yy))
    return _ratio(xy, np.sqrt(xx * yy))


def _ratio(a, b):
    """a / b, 0.0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)
