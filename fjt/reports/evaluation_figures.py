"""The figures of an evaluation: confusion, ROC and precision-recall curves, reliability, and scores against labels."""

from fjt.core import drawing  # before anything of Matplotlib

# isort: split
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fjt.experiment.labelled import Labelled
from fjt.reports.figures import COLOURS, LINES, MOST_LINES, WIDTH, picture
from fjt.reports.pages import Picture
from fjt.tasks.measures import BINS, confidences

MOST_CLASSES = 20  # of a confusion matrix
NUMBERS = 12  # classes up to which its cells have numbers

Classes = Bool[np.ndarray, "N C"]
Shares = Float[np.ndarray, "N C"]

assert drawing


def draw(rows: Labelled) -> list[Picture]:
    """The Pictures of labelled rows, [] for kinds without classes or scores."""
    problem, task = rows.problem, rows.task
    found = rows.decoded()
    truth, chosen = problem.classes(rows.label, task), problem.classes(found.values, task)
    if truth is None or chosen is None:
        if problem.several or not isinstance(found.values, np.ndarray) or found.values.dtype.kind != "f":
            return []
        return _of_scores(found.values.reshape(len(rows), -1), rows.label.reshape(len(rows), -1), task.label_names)
    shares, names = np.asarray(found.probabilities), task.label_names
    lines = [1] if problem.exclusive and len(names) == 2 else _most_frequent(truth)
    drawn: list[Picture] = []
    if problem.exclusive and len(names) <= MOST_CLASSES:
        drawn += picture(
            lambda: _confusion(truth, chosen, names),
            "confusion",
            "Confusion matrix: of each true label (row), the share predicted as each label (column), and counts.",
        )
    reliability = picture(
        lambda: _reliability(*confidences(chosen, shares, truth, problem.exclusive)),
        "reliability",
        f"Reliability: the share of right predictions in each of {BINS} bins of confidence, and below it how many "
        "there are. A calibrated run is on the diagonal; below it, a run is too sure.",
    )
    if rows.folds:  # curves rank rows by their scores, and those of several models are not on one scale
        return drawn + reliability
    of = f" of {len(lines)} labels, the most frequent ones," if len(lines) < len(names) and len(lines) > 1 else ""
    drawn += picture(
        lambda: _curves(truth, shares, names, lines, roc=True),
        "roc",
        f"ROC curves{of}: the true positive rate against the false positive rate, as the threshold falls.",
    )
    drawn += picture(
        lambda: _curves(truth, shares, names, lines, roc=False),
        "precision-recall",
        f"Precision against recall{of}. The dotted lines are the shares of the labels, which a guess has as precision.",
    )
    return drawn + reliability


def _most_frequent(truth: Classes) -> list[int]:
    return sorted(np.argsort(-truth.sum(axis=0), kind="stable")[:MOST_LINES].tolist())


def _confusion(truth: Classes, chosen: Classes, names: Sequence[str]) -> Figure:
    counts = truth.astype(np.int64).T @ chosen.astype(np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.32 * len(names)
    figure = Figure(figsize=(min(WIDTH, size + 1.2), min(WIDTH, size)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    shown = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    axes.set_xticks(
        range(len(names)), shown, rotation=45 if len(names) > 2 else 0, ha="right" if len(names) > 2 else "center"
    )
    axes.set_yticks(range(len(names)), shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, column in np.ndindex(counts.shape) if len(names) <= NUMBERS else ():
        colour = "white" if shares[row, column] > 0.6 else "#222222"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    return figure


def _curves(truth: Classes, shares: Shares, names: Sequence[str], lines: Sequence[int], roc: bool) -> Figure | None:
    """ROC or precision-recall curves of labels of which there are cases and others; None without such a label."""
    import sklearn.metrics

    lines = [one for one in lines if 0 < truth[:, one].sum() < len(truth)]
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for number, one in enumerate(lines):
        look = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS)], "linewidth": 1.3}
        if roc:
            x, y, _ = sklearn.metrics.roc_curve(truth[:, one], shares[:, one])
            axes.plot(x, y, label=names[one], **look)
        else:
            precision, recall, _ = sklearn.metrics.precision_recall_curve(truth[:, one], shares[:, one])
            axes.step(recall, precision, where="post", label=names[one], **look)
            axes.axhline(truth[:, one].mean(), color=look["color"], linestyle=":", linewidth=0.8)
    if roc:
        axes.plot([0, 1], [0, 1], color="#666666", linestyle=":", linewidth=0.8)
    axes.set_xlabel("false positive rate" if roc else "recall")
    axes.set_ylabel("true positive rate" if roc else "precision")
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside right upper")
    return figure


def _reliability(confidence: Shares, right: Classes) -> Figure:
    confidence, right = confidence.ravel(), right.ravel()
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    mean, share = (np.bincount(bins, v, BINS)[filled] / counts[filled] for v in (confidence, right.astype(np.float64)))
    upper.plot([0, 1], [0, 1], color="#666666", linestyle=":", linewidth=0.8)
    upper.plot(mean, share, color=COLOURS[0], marker="o", markersize=4, linewidth=1.2)
    upper.set_ylabel("share that is right")
    upper.set_ylim(-0.02, 1.02)
    lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS, color=COLOURS[0])
    lower.set_ylabel("number")
    lower.set_xlabel("confidence")
    return figure


def _of_scores(predicted: Shares, label: Shares, names: Sequence[str]) -> list[Picture]:
    """The Picture of predicted scores against labels, one panel per target."""

    def scatter() -> Figure:
        targets = min(label.shape[1], MOST_LINES)
        figure = Figure(figsize=(WIDTH, 3.4 * targets), layout="constrained")
        panels: list[Axes] = list(figure.subplots(targets, 1, squeeze=False)[:, 0])
        for number, axes in enumerate(panels):
            x, y = label[:, number], predicted[:, number]
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axes.plot(ends, ends, color="#666666", linestyle=":", linewidth=0.8)
            axes.scatter(x, y, s=8, color=COLOURS[0], alpha=0.4, linewidths=0)
            axes.set_xlabel(f"label {names[number]}" if names else "label")
            axes.set_ylabel("predicted")
        return figure

    return picture(scatter, "scores", "Predicted scores against labels. A perfect run is on the diagonal.")
