"""The figures of a search: its history, the scores against each value, and the importance of each option."""

from fjt.core import drawing  # before anything of Matplotlib

# isort: split
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from fjt.reports.figures import COLOURS, WIDTH, scale
from fjt.study.search import Search
from fjt.study.space import Range
from fjt.study.spec import label

FEWEST = 4  # trials of which importances are computed
ACROSS = 2  # panels per row

assert drawing


def _scored(search: Search) -> list[FrozenTrial]:
    return [trial for trial in search.trials if trial.state is TrialState.COMPLETE]


def draw_history(search: Search) -> Figure | None:
    """A Figure of each trial's score and the best so far over the number of the trial, or None without a score."""
    scored = _scored(search)
    if not scored:
        return None
    factor, name = scale(search.metric)
    numbers, scores = [trial.number for trial in scored], factor * np.array([trial.value for trial in scored])
    best = np.minimum.accumulate(scores) if search.lower else np.maximum.accumulate(scores)
    figure = Figure(figsize=(WIDTH, 3.0), layout=ConstrainedLayoutEngine(h_pad=0.08))
    axes = figure.subplots()
    axes.scatter(numbers, scores, s=18, color=COLOURS[0], linewidths=0, label="trial", zorder=3)
    axes.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.3, label="best so far")
    without = [trial.number for trial in search.trials if trial.state is TrialState.PRUNED]
    if without:
        low = np.full(len(without), scores.max() if search.lower else scores.min())
        axes.scatter(without, low, s=20, marker="x", color="#888888", linewidths=1.2, label="without a score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(f"dev {name}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_slices(search: Search) -> Figure | None:
    """A Figure with one panel per axis, of the trials' scores against its values, or None without a score."""
    scored = _scored(search)
    if not scored or not _varied(search):
        return None
    ranges = {axis.key: axis for space in search.plan.spaces for axis in space if isinstance(axis, Range)}
    keys = _varied(search)
    rows = math.ceil(len(keys) / ACROSS)
    figure = Figure(figsize=(WIDTH * 1.3, 2.4 * rows), layout=ConstrainedLayoutEngine(h_pad=0.08))
    panels = figure.subplots(rows, ACROSS, squeeze=False, sharey=True).ravel()
    factor, name = scale(search.metric)
    for axes, key in zip(panels, keys, strict=False):
        shown = [trial for trial in scored if key in search.values[trial.number]]
        values = [search.values[trial.number][key] for trial in shown]
        scores = [factor * (trial.value or 0.0) for trial in shown]
        _slice(axes, values, scores, [trial.number for trial in shown], ranges.get(key))
        axes.set_xlabel(key)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in panels[::ACROSS]:
        axes.set_ylabel(f"dev {name}")
    return figure


def _varied(search: Search) -> list[str]:
    """The config keys that have more than one value in the search."""
    found: dict[str, set[Any]] = {}
    for values in search.values:
        for key, value in values.items():
            found.setdefault(key, set()).add(value)
    return [key for key, several in found.items() if len(several) > 1]


def _slice(
    axes: Axes, values: Sequence[Any], scores: Sequence[float], numbers: Sequence[int], found: Range | None
) -> None:
    """Draws a panel; later trials are darker."""
    places: Sequence[Any] = values
    if found is None:
        names = list(dict.fromkeys(map(label, values)))
        places = [names.index(label(value)) for value in values]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif found.log:
        axes.set_xscale("log")
    axes.scatter(places, scores, s=18, c=numbers, cmap="Blues", vmin=-len(numbers), edgecolors="none", zorder=3)


def importances(search: Search) -> dict[str, float]:
    """{config key: share of the variance of the scores} by fANOVA (Hutter et al. 2014), the largest first.

    {} with several spaces, of which each trial has the options of one; with few trials; and where all scores are equal.
    """
    scored = _scored(search)
    if len(search.plan.spaces) > 1 or len(scored) < FEWEST or len({trial.value for trial in scored}) == 1:
        return {}
    study = optuna.create_study(direction="minimize" if search.lower else "maximize")
    study.add_trials(scored)
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def draw_importances(search: Search) -> Figure | None:
    """A Figure of the options' importances, or None without any."""
    found = importances(search)
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 1.0 + 0.35 * len(found)), layout=ConstrainedLayoutEngine(h_pad=0.08))
    axes = figure.subplots()
    axes.barh(list(found), list(found.values()), color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("importance")
    return figure
