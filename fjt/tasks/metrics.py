"""Scores of whole predictions, in float64 on the host (numpy, scikit-learn, scipy; no jax)."""

import numpy as np
import scipy.special
import scipy.stats
import sklearn.metrics


def accuracy(predicted, label):
    """Share of equal entries.  predicted, label: i32[N]."""
    return float(np.mean(predicted == label))


def f1(predicted, label):
    """F1 of class 1, 0.0 when nothing is positive; GLUE's for MRPC and QQP.  predicted, label: i32[N] in {0, 1}."""
    return float(sklearn.metrics.f1_score(label, predicted, zero_division=0.0))


def macro_f1(predicted, label):
    """Unweighted mean over classes of F1.  predicted, label: i32[N]."""
    return float(sklearn.metrics.f1_score(label, predicted, average="macro", zero_division=0.0))


def mcc(predicted, label):
    """Matthews correlation, 0.0 when a margin is empty; GLUE's for CoLA and AX.  predicted, label: i32[N]."""
    return float(sklearn.metrics.matthews_corrcoef(label, predicted))


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


METRICS = {f.__name__: f for f in (accuracy, f1, macro_f1, mcc, pearson, spearman, mse)}
LOWER_IS_BETTER = ("mse",)


def predict(logits, kind):
    """Class ids i64[N] (classification) or scores f64[N] (regression) of logits f[N, C]."""
    return np.float64(logits[:, 0]) if kind == "regression" else np.argmax(logits, axis=-1)


def loss(task, logits, label):
    """Mean over the labelled rows: cross-entropy in nats, or the squared error of a regression; nothing weighed.

    logits: f32[N, C]; label: i32[N] (-1 unlabelled) or f32[N] (NaN unlabelled).
    """
    labelled = ~np.isnan(label) if task.kind == "regression" else label >= 0
    logits, label = np.float64(logits[labelled]), label[labelled]
    if task.kind == "regression":
        return mse(logits[:, 0], label)
    return float(np.mean(scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(len(label)), label]))


def score(task, logits, label, names=None):
    """{metric: value} of the task's metrics, or of those named, over the labelled rows.

    logits: f[N, C]; label: i32[N] (-1 unlabelled) or f32[N] (NaN unlabelled).  Empty when no row is labelled.
    """
    labelled = ~np.isnan(label) if task.kind == "regression" else label >= 0
    if not labelled.any():
        return {}
    predicted = predict(logits[labelled], task.kind)
    return {name: METRICS[name](predicted, label[labelled]) for name in names or task.metrics}
