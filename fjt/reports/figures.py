"""The figures of a study, one task each, and their bytes, which are the same for the same records."""

from fjt.core import drawing  # before anything of Matplotlib

# isort: split
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fjt.reports.archive import Curve, Records
from fjt.reports.cells import Cell, best_of, costs, sign_of, summarize
from fjt.reports.pages import Picture
from fjt.reports.tuning_trials import Trial, make_trials, number
from fjt.tasks.kinds import bounds_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, no yellow
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":", "-.")
MOST_LINES, MOST_NAMES = 9, 24  # cells in one figure
BEST_OF = 6  # runs of a cell; with fewer, the best of n is of 2 at most
WIDTH = 5.4  # inches; on a phone the text is still large enough to read
STYLE = {
    "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.edgecolor": "#666666", "legend.frameon": False, "legend.fontsize": 8, "figure.facecolor": "white",
    "savefig.facecolor": "white",
}  # fmt: skip
RATE = "optim.learning_rate"

Styles = dict[str, dict[str, Any]]  # {cell's name: color, marker and linestyle}


def styles(cells: Iterable[Cell]) -> Styles:
    """The styles of cells: one colour per method, and one marker and kind of line per cell of a method."""
    methods: dict[str, list[Cell]] = {}
    style_of: Styles = {}
    for cell in cells:
        members = methods.setdefault(cell.method, [])
        repetition, colour = divmod(list(methods).index(cell.method), len(COLOURS))
        kind = len(members) + 3 * repetition
        style_of[cell.name] = {
            "color": COLOURS[colour],
            "marker": MARKERS[kind % len(MARKERS)],
            "linestyle": LINES[kind % len(LINES)],
        }
        members.append(cell)
    return style_of


def fewer(cells: Sequence[Cell], metric: str) -> Sequence[Cell]:
    """The cells to draw as lines: all, or the cell with the best mean of each method if there are too many."""
    if len(cells) <= MOST_LINES:
        return cells
    best: dict[str, tuple[float, Cell]] = {}
    for cell in cells:
        score = sign_of(metric) * cell.scores(metric).mean() if len(cell.scored) else -math.inf
        if cell.method not in best or score > best[cell.method][0]:
            best[cell.method] = score, cell
    return [cell for _, cell in best.values()]


def scale(metric: str) -> tuple[int, str]:
    """(factor, label) of an axis of a metric."""
    return (100, f"{metric}, points") if bounds_of(metric) else (1, metric)


def _figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A Figure of a height in inches with one panel per row."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.08))
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    """Adds a legend below the axes, where it covers nothing."""
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.2)


def _cell_legend(
    figure: Figure, cells: Sequence[Cell], style: Styles, label: Callable[[Cell], str], **options: Any
) -> None:
    """Adds a legend of the cells' names, or of the methods if there are many cells.

    Args:
        figure: the figure.
        cells: its cells.
        style: of the cells.
        label: returns the name of a cell.
        options: properties of lines that replace those of the cells' styles.
    """
    if len(cells) > MOST_NAMES:
        cells = list({cell.method: cell for cell in reversed(cells)}.values())[::-1]
        names = [cell.method for cell in cells]
    else:
        names = [label(cell) for cell in cells]
    handles = [
        Line2D([], [], **style[cell.name] | options, markersize=5, label=name)
        for cell, name in zip(cells, names, strict=True)
    ]
    longest = max((len(name) for name in names), default=0)
    _legend(figure, handles, 1 if longest > 44 else 2 if longest > 22 else 3)


def draw_scores(cells: Sequence[Cell], metric: str, style: Styles, label: Callable[[Cell], str]) -> Figure | None:
    """A Figure of each cell's runs as dots, with its mean and both intervals; None without a score.

    Args:
        cells: of one task.
        metric: the metric.
        style: of the cells.
        label: returns the name of a cell.
    """
    cells = [cell for cell in cells if len(cell.scored)]
    if not cells:
        return None
    figure, (axes,) = _figure(1.1 + 0.42 * len(cells))
    factor, name = scale(metric)
    shown = set()
    for y, cell in enumerate(cells):
        summary, scores, colour = _numbers(cell, metric), factor * cell.scores(metric), style[cell.name]["color"]
        spread = y - 0.08 - (0.22 * np.linspace(0, 1, len(scores)) if len(scores) > 1 else np.array([0.11]))
        sound = ~cell.failed
        axes.scatter(scores[sound], spread[sound], s=16, color=colour, alpha=0.85, linewidths=0, zorder=3)
        if cell.failed.any():
            axes.scatter(scores[cell.failed], spread[cell.failed], s=20, marker="x", color=colour, linewidths=1.2)
            shown.add("failed")
        low = y + 0.16
        for key, width, alpha in (("new_seeds", 5.0, 0.4), ("new_examples", 1.4, 1.0)):
            if not isinstance(summary[key], str):
                ends = [factor * summary[key].low, factor * summary[key].high]
                axes.plot(ends, [low, low], color=colour, linewidth=width, alpha=alpha, solid_capstyle="butt", zorder=2)
                shown.add(key)
        axes.plot([factor * summary["mean"]] * 2, [low - 0.13, low + 0.13], color="#222222", linewidth=1.4, zorder=4)
    axes.set_yticks(range(len(cells)), [label(cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(name)
    _score_legend(figure, shown)
    return figure


def _numbers(cell: Cell, metric: str) -> dict[str, Any]:
    """The summary of a cell with scores."""
    summary = summarize(cell, metric)
    assert not isinstance(summary, str)
    return summary


def _score_legend(figure: Figure, shown: set[str]) -> None:
    """Adds the legend of `draw_scores`.  shown: the parts that the figure has besides runs and means."""
    grey = "#666666"
    handles = [
        Line2D([], [], color=grey, marker="o", markersize=4, linestyle="", label="one run"),
        Line2D([], [], color="#222222", marker="|", markersize=9, linestyle="", label="mean of all runs"),
    ]
    extra = {
        "failed": Line2D([], [], color=grey, marker="x", markersize=4, linestyle="", label="collapsed or diverged"),
        "new_seeds": Line2D([], [], color=grey, linewidth=5, alpha=0.4, label="95 %: new seeds, this dev set"),
        "new_examples": Line2D([], [], color=grey, linewidth=1.4, label="95 %: new seeds, new examples"),
    }
    _legend(figure, [*handles, *(line for key, line in extra.items() if key in shown)], 2)


def draw_costs(cells: Sequence[Cell], metric: str, style: Styles, label: Callable[[Cell], str]) -> Figure | None:
    """A Figure of the mean score against trainable parameters and training seconds; None with fewer than two cells.

    The line is the Pareto front: no cell has a better mean at a lower cost.
    """
    cost_of = {cell: costs(cell, None) for cell in cells if len(cell.scored)}
    cost_of = {cell: cost for cell, cost in cost_of.items() if cost}
    if len(cost_of) < 2:
        return None
    figure, panels = _figure(5.4 + 0.16 * min(len(cost_of), MOST_NAMES) / 2, 2)
    factor, name = scale(metric)
    texts = {"trained": "trainable parameters", "seconds": "training seconds (median), hidden states shared"}
    for axes, (key, text) in zip(panels, texts.items(), strict=True):
        points = []
        for cell, cost in cost_of.items():
            summary = _numbers(cell, metric)
            look: dict[str, Any] = style[cell.name] | {"linestyle": ""}
            x = cost["seconds"][0] if key == "seconds" else cost[key]
            y, sd = factor * summary["mean"], factor * np.nan_to_num(summary["sd"])
            axes.errorbar(x, y, sd, **look, markersize=6, elinewidth=1, capsize=2, zorder=3)
            points.append((x, y))
        front = pareto(points, sign_of(metric))
        front.append((max(x for x, _ in points), front[-1][1]))
        axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, linestyle="--", drawstyle="steps-post")
        axes.set_xlabel(text)
        axes.set_ylabel(f"{name}: mean ± sd")
        xs = [x for x, _ in points]
        if min(xs) > 0 and max(xs) > 8 * min(xs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(xs) < 1000 * min(xs) else (1,)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08, y=0.1)
    _cell_legend(figure, list(cost_of), style, label, linestyle="")
    return figure


def pareto(points: Iterable[tuple[float, float]], sign: int) -> list[tuple[float, float]]:
    """The points (x, y) that have a better y than all points with at most their x, sorted by x.

    Args:
        points: (cost, score).
        sign: 1, or -1 if a lower y is better.
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def _bands(curve: Curve, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, lowest, highest) of a curve over some of its rows."""
    rows, steps, values = curve
    chosen = np.isin(rows, numbers)
    unique_steps = np.unique(steps[chosen])
    groups = [values[chosen & (steps == step)] for step in unique_steps]
    mean, low, high = (np.array([function(group) for group in groups]) for function in (np.mean, np.min, np.max))
    return unique_steps, mean, low, high


def draw_curves(
    cells: Sequence[Cell], metric: str, style: Styles, label: Callable[[Cell], str], study: Records
) -> Figure | None:
    """A Figure of training loss and of the chosen trials' held-out score over steps, or None without curves.

    Lines are means over seeds; bands go from the lowest to the highest.
    """
    index_of = {row["run"]: i for i, row in enumerate(study.rows)}
    factor, name = scale(metric)
    reported = {cell: [index_of[row["run"]] for row in cell.rows] for cell in cells}
    chosen = {cell: [index_of[run] for run in _chosen_runs(cell, study)] for cell in cells}
    panels = [("train", reported, "training loss", 1), ("held_out", chosen, f"held-out {name}", factor)]
    panels = [
        panel
        for panel in panels
        if any(len(_bands(study.curves[panel[0]], numbers)[0]) > 1 for numbers in panel[1].values())
    ]
    if not panels:
        return None
    figure, axes_list = _figure(0.6 + 2.5 * len(panels) + 0.16 * min(len(cells), MOST_NAMES) / 2, len(panels))
    drawn = {}
    alpha = 0.14 if len(cells) < 6 else 0.07
    for axes, (curve, numbers, text, factor) in zip(axes_list, panels, strict=True):
        for i, (cell, members) in enumerate(numbers.items()):
            steps, mean, low, high = _bands(study.curves[curve], members)
            if len(steps):
                look = style[cell.name]
                axes.fill_between(steps, factor * low, factor * high, color=look["color"], alpha=alpha, linewidth=0)
                every = max(1, len(steps) // 6)  # steps between markers, which differ between cells
                marks = (i * every // len(numbers), every)
                axes.plot(steps, factor * mean, **look, linewidth=1.3, markersize=4, markevery=marks)
                drawn[cell] = None
        axes.set_xlabel("step")
        axes.set_ylabel(text)
        if curve == "train":
            axes.set_ylim(bottom=0)
    _cell_legend(figure, list(drawn), style, label)
    return figure


def _chosen_runs(cell: Cell, study: Records) -> list[str]:
    """Names of the tuning runs of a cell's chosen trials."""
    return [row["run"] for trial in make_trials(cell, study) if trial.chosen for row in trial.rows]


def draw_rates(
    cells: Sequence[Cell], metric: str, style: Styles, label: Callable[[Cell], str], study: Records
) -> Figure | None:
    """A Figure of trials' held-out scores against their learning rates, or None if no learning rate was chosen.

    The line shows the best of several trials with the same learning rate.
    """
    factor, name = scale(metric)
    lines: dict[Cell, dict[float, list[Trial]]] = {}
    for cell in cells:
        points: dict[float, list[Trial]] = {}
        for trial in make_trials(cell, study):
            rate = number(trial.values.get(RATE))
            if rate and trial.scores:
                points.setdefault(rate, []).append(trial)
        if len(points) > 1:
            lines[cell] = points
    if not lines:
        return None
    figure, (axes,) = _figure(3.1 + 0.16 * min(len(lines), MOST_NAMES) / 2)
    for cell, points in lines.items():
        look = style[cell.name]
        rates, sign = sorted(points), sign_of(metric)
        best = [max(sign * trial.mean for trial in points[rate]) * sign * factor for rate in rates]
        axes.plot(rates, best, **look, linewidth=1.2, markersize=5, zorder=3)
        for rate in rates:
            each = np.concatenate([trial.scores for trial in points[rate]]) * factor
            axes.scatter([rate] * len(each), each, s=8, color=look["color"], alpha=0.5, linewidths=0)
            for trial in points[rate]:
                if trial.chosen:
                    ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": ""}
                    axes.plot(rate, trial.mean * factor, **ring, color=look["color"])
    axes.set_xscale("log")
    tried = sorted({rate for points in lines.values() for rate in points})
    if len(tried) < 8:
        axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"held-out {name}")
    _cell_legend(figure, list(lines), style, label)
    return figure


def draw_best(cells: Sequence[Cell], metric: str, style: Styles, label: Callable[[Cell], str]) -> Figure | None:
    """A Figure of the expected best dev score of n independent runs, or None if no cell has BEST_OF runs."""
    factor, name = scale(metric)
    curve_of = {cell: best_of(cell, metric) for cell in cells if not cell.crossed}
    curve_of = {cell: curve for cell, curve in curve_of.items() if len(cell.scored) >= BEST_OF}
    if not curve_of:
        return None
    figure, (axes,) = _figure(2.9 + 0.16 * min(len(curve_of), MOST_NAMES) / 2)
    for cell, curve in curve_of.items():
        values = [factor * value for value in curve.values()]
        axes.plot(list(curve), values, **style[cell.name], markersize=4, linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of runs n, the best of which on dev is reported")
    axes.set_ylabel(f"expected {name}")
    _cell_legend(figure, list(curve_of), style, label)
    return figure


def picture(draw: Callable[[], Figure | None], name: str, caption: str) -> list[Picture]:
    """The Picture of the Figure that `draw` returns in a list, [] if it returns None.

    Args:
        draw: returns the Figure.
        name: of its files; it also decides the ids in the SVG.
        caption: its caption.
    """
    with drawing.style(STYLE | {"svg.hashsalt": name}):
        figure = draw()
        if figure is None:
            return []
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        return [Picture(name, caption, svg.getvalue(), png.getvalue())]
