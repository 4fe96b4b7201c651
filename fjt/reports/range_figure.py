"""The figure of a learning-rate range test."""

from fjt.core import drawing  # before anything of Matplotlib

# isort: split
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fjt.experiment.range_test import Point
from fjt.reports.figures import COLOURS, WIDTH

assert drawing


def draw(points: Sequence[Point], suggestion: float | None) -> Figure:
    """A Figure of the loss and its average over the learning rate, with a line at the suggestion.

    Args:
        points: of the test.
        suggestion: a learning rate, or None, which the legend says.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout=ConstrainedLayoutEngine(h_pad=0.08))
    axes = figure.subplots()
    rates, smoothed = [point.learning_rate for point in points], [point.smoothed for point in points]
    axes.plot(rates, [point.loss for point in points], color="#bbbbbb", linewidth=0.8, label="loss of the batch")
    axes.plot(rates, smoothed, color=COLOURS[0], linewidth=1.6, label="smoothed")
    if suggestion is None:
        axes.plot([], [], " ", label="no suggestion: the smoothed loss never falls")
    else:
        axes.axvline(suggestion, color=COLOURS[1], linestyle="--", linewidth=1.2, label=f"suggestion, {suggestion:g}")
    lowest, highest = min(smoothed), max(smoothed[: len(smoothed) // 2])
    axes.set_ylim(min(lowest, *(point.loss for point in points)) * 0.95, 2 * highest - lowest)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
