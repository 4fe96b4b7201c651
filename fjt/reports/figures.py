"""The figures of a study, one task each: matplotlib's Figures, and their bytes, the same for the same records."""

import io
import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fjt.reports import inference
from fjt.reports.cells import best_of, costs, make_trials, number, sign_of, summarize

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, no yellow
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":", "-.")
MOST_LINES, MOST_NAMES = 9, 24  # cells in one figure
WIDTH = 5.4  # inches; a phone shows it without making the text too small
STYLE = {
    "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.edgecolor": "#666666", "legend.frameon": False, "legend.fontsize": 8, "figure.facecolor": "white",
    "savefig.facecolor": "white",
}  # fmt: skip
RATE = "optim.learning_rate"


def styles(cells):
    """{cell's name: {color, marker, linestyle}}: a colour a method, a marker and a kind of line a cell of it."""
    methods, found = {}, {}
    for cell in cells:
        members = methods.setdefault(cell.method, [])
        place, again = list(methods).index(cell.method) % len(COLOURS), list(methods).index(cell.method) // len(COLOURS)
        kind = len(members) + 3 * again
        found[cell.name] = {
            "color": COLOURS[place],
            "marker": MARKERS[kind % len(MARKERS)],
            "linestyle": LINES[kind % len(LINES)],
        }
        members.append(cell)
    return found


def fewer(cells, metric):
    """The cells of which lines can be told apart: all, or, where these are many, of each method the best mean's."""
    if len(cells) <= MOST_LINES:
        return cells
    best = {}
    for cell in cells:
        score = sign_of(metric) * cell.scores(metric).mean() if len(cell.scored) else -math.inf
        if cell.method not in best or score > best[cell.method][0]:
            best[cell.method] = score, cell
    return [cell for _, cell in best.values()]


def scale(metric):
    """(factor, label) of an axis of a metric."""
    return (100, f"{metric}, points") if metric in inference.BOUNDS else (1, metric)


def _figure(height, rows=1, **options):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    return figure, figure.subplots(rows, 1, squeeze=False, **options)[:, 0]


def _legend(figure, handles, columns):
    """Below the axes, so that it covers nothing."""
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.2)


def _cell_legend(figure, cells, style, label, **options):
    """The cells by name; where these are many, the methods.  options: of lines, in place of the cells' own."""
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


def draw_scores(cells, metric, style, label):
    """A Figure of each cell's runs as dots, with its mean and both intervals; None without a score.

    label: function(cell) -> its name for people.
    """
    cells = [cell for cell in cells if len(cell.scored)]
    if not cells:
        return None
    figure, (axes,) = _figure(1.1 + 0.42 * len(cells))
    factor, name = scale(metric)
    shown = set()
    for y, cell in enumerate(cells):
        found, scores, colour = summarize(cell, metric), factor * cell.scores(metric), style[cell.name]["color"]
        spread = y - 0.08 - (0.22 * np.linspace(0, 1, len(scores)) if len(scores) > 1 else np.array([0.11]))
        sound = ~cell.failed
        axes.scatter(scores[sound], spread[sound], s=16, color=colour, alpha=0.85, linewidths=0, zorder=3)
        if cell.failed.any():
            axes.scatter(scores[cell.failed], spread[cell.failed], s=20, marker="x", color=colour, linewidths=1.2)
            shown.add("failed")
        low = y + 0.16
        for key, width, alpha in (("new_seeds", 5.0, 0.4), ("new_examples", 1.4, 1.0)):
            if not isinstance(found[key], str):
                ends = [factor * found[key].low, factor * found[key].high]
                axes.plot(ends, [low, low], color=colour, linewidth=width, alpha=alpha, solid_capstyle="butt", zorder=2)
                shown.add(key)
        axes.plot([factor * found["mean"]] * 2, [low - 0.13, low + 0.13], color="#222222", linewidth=1.4, zorder=4)
    axes.set_yticks(range(len(cells)), [label(cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(name)
    grey = "#666666"
    handles = [
        Line2D([], [], color=grey, marker="o", markersize=4, linestyle="", label="a seed's run"),
        Line2D([], [], color="#222222", marker="|", markersize=9, linestyle="", label="mean of all runs"),
    ]
    extra = {
        "failed": Line2D([], [], color=grey, marker="x", markersize=4, linestyle="", label="collapsed or diverged"),
        "new_seeds": Line2D([], [], color=grey, linewidth=5, alpha=0.4, label="95 %: new seeds, this dev set"),
        "new_examples": Line2D([], [], color=grey, linewidth=1.4, label="95 %: new seeds, new examples"),
    }
    _legend(figure, [*handles, *(line for key, line in extra.items() if key in shown)], 2)
    return figure


def draw_costs(cells, metric, style, label):
    """A Figure of the mean score against trained parameters and against training seconds; None below two cells.

    The line is the Pareto front: no cell has a better mean for less.
    """
    known = [(cell, costs(cell, None)) for cell in cells if len(cell.scored)]
    known = [(cell, cost) for cell, cost in known if cost]
    if len(known) < 2:
        return None
    figure, panels = _figure(5.4 + 0.16 * min(len(known), MOST_NAMES) / 2, 2)
    factor, name = scale(metric)
    for axes, what, text in zip(
        panels,
        ("trained", "seconds"),
        ("parameters that train", "training seconds (median), hidden states shared"),
        strict=True,
    ):
        points = []
        for cell, cost in known:
            found, look = summarize(cell, metric), style[cell.name] | {"linestyle": ""}
            x = cost["seconds"][0] + cost["hidden"] / cost["n"] if what == "seconds" else cost[what]
            y, sd = factor * found["mean"], factor * np.nan_to_num(found["sd"])
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
    _cell_legend(figure, [cell for cell, _ in known], style, label, linestyle="")
    return figure


def pareto(points, sign):
    """[(x, y)] of those points that none with less or equal x beats in y, by x; sign: -1 where less y is better."""
    front = []
    for x, y in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def _bands(curves, numbers):
    """(steps, mean, lowest, highest) over some rows of a curve."""
    rows, steps, values = curves
    chosen = np.isin(rows, numbers)
    at = np.unique(steps[chosen])
    groups = [values[chosen & (steps == step)] for step in at]
    return at, *(np.array([function(group) for group in groups]) for function in (np.mean, np.min, np.max))


def draw_curves(cells, metric, style, label, found):
    """A Figure of training loss over steps, and of the held-out score on the way of the chosen trials; or None.

    Lines are means over seeds, bands go from the lowest to the highest.
    """
    place = {row["run"]: i for i, row in enumerate(found.rows)}
    factor, name = scale(metric)
    reported = {cell: [place[row["run"]] for row in cell.rows] for cell in cells}
    chosen = {
        cell: [place[row["run"]] for trial in make_trials(cell, found) if trial.chosen for row in trial.rows]
        for cell in cells
    }
    panels = [("train", reported, "training loss", 1), ("held_out", chosen, f"held-out {name}", factor)]
    panels = [
        panel
        for panel in panels
        if any(len(_bands(found.curves[panel[0]], numbers)[0]) > 1 for numbers in panel[1].values())
    ]
    if not panels:
        return None
    figure, axes_ = _figure(0.6 + 2.5 * len(panels) + 0.16 * min(len(cells), MOST_NAMES) / 2, len(panels))
    drawn = {}
    for axes, (curve, numbers, text, factor) in zip(axes_, panels, strict=True):
        for i, (cell, members) in enumerate(numbers.items()):
            steps, mean, low, high = _bands(found.curves[curve], members)
            if len(steps):
                look = style[cell.name]
                axes.fill_between(
                    steps,
                    factor * low,
                    factor * high,
                    color=look["color"],
                    alpha=0.14 if len(cells) < 6 else 0.07,
                    linewidth=0,
                )
                every = max(1, len(steps) // 6)  # of long lines; not all cells at the same steps
                marks = (i * every // len(numbers), every)
                axes.plot(steps, factor * mean, **look, linewidth=1.3, markersize=4, markevery=marks)
                drawn[cell] = None
        axes.set_xlabel("step")
        axes.set_ylabel(text)
        if curve == "train":
            axes.set_ylim(bottom=0)
    _cell_legend(figure, list(drawn), style, label)
    return figure


def draw_rates(cells, metric, style, label, found):
    """A Figure of trials' held-out scores against their learning rates, or None where no rate was chosen.

    Of trials with one rate that differ in more, the line takes the best.
    """
    factor, name = scale(metric)
    lines = {}
    for cell in cells:
        points = {}
        for trial in make_trials(cell, found):
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


def draw_best(cells, metric, style, label):
    """A Figure of the expected best dev score of n independent runs, or None where no cell has four."""
    factor, name = scale(metric)
    known = {cell: best_of(cell, metric) for cell in cells if not cell.crossed}
    known = {cell: found for cell, found in known.items() if len(found) > 1}
    if not known:
        return None
    figure, (axes,) = _figure(2.9 + 0.16 * min(len(known), MOST_NAMES) / 2)
    for cell, found in known.items():
        values = [factor * value for value in found.values()]
        axes.plot(list(found), values, **style[cell.name], markersize=4, linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("n runs, of which the best on dev is taken")
    axes.set_ylabel(f"expected {name}")
    _cell_legend(figure, list(known), style, label)
    return figure


def render(draw, name):
    """(SVG text, PNG bytes) of what a function draws, None where it draws nothing; name: what the SVG's ids hang on."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = draw()
        if figure is None:
            return None
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        return svg.getvalue(), png.getvalue()
