"""The sections of a report on each task: tables, figures and their texts."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fjt.core.markdown import code, escape
from fjt.reports import cells as values
from fjt.reports import figures
from fjt.reports.archive import Records
from fjt.reports.cells import Cell, counts, summarize
from fjt.reports.comparisons import Comparison
from fjt.reports.inference import Interval
from fjt.reports.pages import Block, Footnotes, Picture, Table, Text
from fjt.tasks.kinds import bounds_of

NO_LIMIT = (
    "The variance due to examples is not above the noise of these runs: the number of seeds limits the resolution, not "
    "the number of examples."
)
HIDDEN = (
    "These steps start from the frozen layers' output, which is computed once and cached for all runs, including those "
    "of other methods, trials and studies. The time of that pass is in this column only; the operations and training "
    "seconds do not include it."
)
LANES = "These runs were lanes of one program: each one's seconds are its share of the program's time."
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))

Name = Callable[[Cell], str]  # the name of a cell within its task


def names_of(cells: Iterable[Cell]) -> Name:
    """A function of a cell that returns its name: the method, and axes by the last parts of their keys."""
    keys = {key for cell in cells for key in cell.axes}
    last = [key.rsplit(".", 1)[-1] for key in keys]
    short = {key: key.rsplit(".", 1)[-1] if last.count(key.rsplit(".", 1)[-1]) == 1 else key for key in keys}
    return lambda cell: ", ".join([cell.method, *(f"{short[key]}={value}" for key, value in cell.axes.items())])


def points(metric: str, value: float | None, signed: bool = False) -> str:
    """A score as printed: in hundredths if the metric has bounds, a dash if it is missing."""
    if value is None or math.isnan(value):
        return "-"
    if bounds_of(metric):
        return f"{100 * value:{'+' if signed else ''}.2f}"
    return f"{value:{'+' if signed else ''}.4g}"


def spread(metric: str, mean: float | None, sd: float | None, signed: bool = False) -> str:
    """The text mean ± sd."""
    return f"{points(metric, mean, signed)} ± {points(metric, sd)}"


def limits(metric: str, interval: Interval | str, notes: Footnotes, signed: bool = False) -> str:
    """The ends of an Interval, or a dash with the reason why there is none."""
    if isinstance(interval, str):
        return notes.dash(interval)
    return f"{points(metric, interval.low, signed)} to {points(metric, interval.high, signed)}"


def unit(metric: str) -> str:
    """The name of a metric in the head of a column of its scores."""
    return f"{metric}, points" if bounds_of(metric) else metric


def ended_of_started(cell: Cell) -> str:
    """ "4/5": numbers of runs that finished and that were started."""
    count = counts(cell.rows)
    return f"{count['finished']}/{count['started']}"


def score_table(cells: Sequence[Cell], metric: str, name: Name) -> Table:
    """The Table of the scores in a metric."""
    notes, rows = Footnotes(), []
    any_failed = any(cell.failed.any() for cell in cells)
    for cell in cells:
        summary, row = summarize(cell, metric), [name(cell), ended_of_started(cell)]
        if isinstance(summary, str):
            rows.append((*row, notes.dash(summary), *["-"] * (5 + 3 * any_failed)))
            continue
        row.append(spread(metric, summary["mean"], summary["sd"]))
        if any_failed:
            row.append(_without(metric, summary["sound_mean"], summary["sound_sd"], cell.failed))
        row += [limits(metric, summary[key], notes) for key in ("new_seeds", "new_examples")]
        row += [points(metric, summary[key]) for key in ("median", "best", "worst")]
        rows.append((*row, *[str(cell.collapsed.sum()), str(cell.constant.sum())] * any_failed))
    columns = (
        "method",
        ">finished/ started",
        f">{unit(metric)}: mean ± sd",
        *[">without failed runs"] * any_failed,
        ">95 %: new seeds, this dev set",
        ">95 %: new seeds, new examples",
        ">median",
        ">best",
        ">worst",
        *[">collapsed", ">diverged"] * any_failed,
    )
    return Table(columns, tuple(rows), tuple(notes.reasons))


def _without(metric: str, mean: float | None, sd: float | None, failed: np.ndarray, signed: bool = False) -> str:
    """A mean ± sd without failed runs, with its n.  failed: bool[n]."""
    if not failed.any():
        return "the same"
    return "none left" if failed.all() else f"{spread(metric, mean, sd, signed)}, n {np.sum(~failed)}"


def failures(cells: Iterable[Cell]) -> list[Text]:
    """The texts that name the collapsed and diverged runs, or one that says that there are none."""
    collapsed, diverged = [], []
    for cell in cells:
        for i, row in enumerate(cell.scored):
            if cell.collapsed[i]:
                collapsed.append(f"`{row['run']}` (always {_value(cell, cell.predicted[i, 0])})")
        diverged += [
            f"`{row['run']}` ({escape(row['failed'])})" for row in cell.rows if row["state"] == values.DIVERGED
        ]
    texts = []
    if collapsed:
        texts.append(Text(f"**Collapsed**, one prediction for every example of dev: {'; '.join(collapsed)}."))
    if diverged:
        constants = {
            f"always {_value(cell, cell.predicted[i, 0])}"
            for cell in cells
            for i in range(len(cell.scored))
            if cell.constant[i]
        }
        counted = f"; each counts as predicting dev's most frequent label or mean ({', '.join(sorted(constants))})"
        texts.append(Text(f"**Diverged**{counted if constants else ', without a score'}: {'; '.join(diverged)}."))
    return texts or [Text("No run collapsed or diverged.")]


def _value(cell: Cell, predicted: Any) -> str:
    text = cell.problem.describe_label(predicted, cell.facts)
    return code(text) if cell.facts.label_names else text


def cost_table(cells: Sequence[Cell], name: Name) -> Table:
    """The Table of the chosen values, the numbers of parameters and the costs."""
    notes = Footnotes()
    rows = [(name(cell), *_cost_row(cell, cells, notes)) for cell in cells]
    return Table(
        (
            "method",
            ">n",
            "values",
            ">trainable parameters",
            ">added parameters",
            ">steps",
            ">GFLOP of all steps",
            ">of `full`",
            ">Adam's moments",
            ">training seconds: median (lowest to highest)",
            ">seconds for hidden states, all runs",
            ">looks at dev per run",
        ),
        tuple(rows),
        tuple(notes.reasons),
    )


def _cost_row(cell: Cell, cells: Sequence[Cell], notes: Footnotes) -> tuple[str, ...]:
    """The columns of `cost_table` for a cell, except its name."""
    cost = values.costs(cell, values.partner(cell, cells, "full"))
    if not cost:
        return ("0", *["-"] * 10)
    median, low, high = cost["seconds"]
    return (
        str(cost["n"]),
        _chosen(cell),
        f"{cost['trained']:,}",
        f"{cost['added']:,}",
        " or ".join(f"{steps:,}" for steps in cost["steps"]),
        f"{cost['flops'] / 1e9:,.1f}",
        "-" if cost["of_full"] is None else f"{cost['of_full']:.1%}",
        "-" if cost["optimizer_bytes"] is None else size(cost["optimizer_bytes"]),
        f"{median:,.1f} ({low:,.1f} to {high:,.1f})" + (notes.mark(LANES) if cost["lanes"] > 1 else ""),
        _hidden(cell, cost, notes),
        " or ".join(str(looks) for looks in cost["looks"]),
    )


def _hidden(cell: Cell, cost: dict[str, Any], notes: Footnotes) -> str:
    """Seconds for computing the cached hidden states, a dash if steps start from tokens."""
    cached = any((row.get("start_layer") or 0) > 0 for row in cell.rows)
    return f"{cost['hidden']:,.1f}{notes.mark(HIDDEN)}" if cached or cost["hidden"] else "-"


def size(count: int) -> str:
    """A number of bytes as printed."""
    factor, name = next(((factor, name) for factor, name in SIZES if count >= factor), (1, "bytes"))
    return f"{count / factor:,.1f} {name}" if factor > 1 else f"{count} {name}"


def short_value(text: str) -> str:
    """The text of a value as printed: numbers without trailing zeros."""
    value = values.number(text)
    return escape(text) if value is None else f"{value:g}"


def _chosen(cell: Cell) -> str:
    row = next(row for row in cell.rows if row["state"] == values.FINISHED)
    texts = [f"{key.rsplit('.', 1)[-1]} {short_value(row[key])} (chosen)" for key in cell.open]
    if "optim.learning_rate" not in cell.open:
        texts.append(f"learning_rate {short_value(row['optim.learning_rate'])} (not chosen)")
    return ", ".join(texts)


def trial_table(cells: Sequence[Cell], metric: str, study: Records, name: Name) -> tuple[Table | None, list[str]]:
    """(Table of the cells' trials, warnings), or (None, []) for cells without trials."""
    rows, edges, warnings, tried = [], [], [], {}
    for cell in cells:
        trials = values.make_trials(cell, study)
        tried[name(cell)], ends = len(trials), values.edges(trials)
        for trial in trials:
            scores = trial.scores
            rows.append(
                (
                    name(cell),
                    ", ".join(f"{key.rsplit('.', 1)[-1]}={short_value(v)}" for key, v in trial.values.items()),
                    f"{len(scores)}/{counts(trial.rows)['started']}",
                    spread(metric, trial.mean, trial.sd),
                    ", ".join(points(metric, score) for score in scores) or "-",
                    ", ".join(["chosen", *(f"{end} {key.rsplit('.', 1)[-1]}" for key, _, end, _ in ends)])
                    if trial.chosen
                    else "",
                )
            )
        chosen = [trial for trial in trials if trial.chosen]
        if len(chosen) > 1 or any(not trial.best for trial in chosen):
            warnings.append(f"{cell.task}: not all reported runs of {name(cell)} use the trial with the best score.")
        edges += [f"{name(cell)} ({key} {short_value(value)}, the {end} of {n})" for key, value, end, n in ends]
    if not rows:
        return None, []
    if edges:
        warnings.append(
            f"{cells[0].task}: some chosen values are at the end of the range that was tried, so better values may lie "
            f"outside it: {'; '.join(edges)}."
        )
    if len(set(tried.values())) > 1:
        numbers = "; ".join(f"{count or 'none'} for {cell}" for cell, count in tried.items())
        warnings.append(
            f"{cells[0].task}: the methods had unequal numbers of trials, which favours methods with more: {numbers}."
        )
    columns = ("method", "tried", ">finished/ started", f">held-out {unit(metric)}: mean ± sd", "each run", "chosen")
    return Table(columns, tuple(rows)), warnings


def comparison_table(comparisons: Sequence[Comparison], metric: str, name: Name) -> Table:
    """The Table of Comparisons of one task."""
    notes, rows = Footnotes(), []
    any_failed = any(one.failed.any() for one in comparisons)
    for one in comparisons:
        rows.append(
            (
                name(one.cell),
                name(one.base),
                str(one.n),
                spread(metric, one.mean, one.sd, signed=True),
                *[_without(metric, *one.sound, one.failed, signed=True)] * any_failed,
                limits(metric, one.new_seeds, notes, signed=True),
                limits(metric, one.new_examples, notes, signed=True),
                *(notes.dash(p) if isinstance(p, str) else p_value(p) for p in (one.p, one.p_examples)),
                "-" if one.improvement is None else f"{one.improvement:.2f}",
                "-" if one.correlation is None else f"{one.correlation:+.2f}",
                _needed(one, notes),
                _smallest(one, notes),
            )
        )
    return Table(
        (
            "method",
            "minus",
            ">n",
            f">{unit(metric)}: mean ± sd of differences",
            *[">without failed runs"] * any_failed,
            ">95 %: new seeds, this dev set",
            ">95 %: new seeds, new examples",
            ">p, adjusted: new seeds, this dev set",
            ">p, adjusted: new seeds, new examples",
            ">probability of improvement",
            ">correlation over seeds",
            ">seeds to see 1 point (95 %)",
            ">this dev set resolves",
        ),
        tuple(rows),
        tuple(notes.reasons),
    )


def _needed(one: Comparison, notes: Footnotes) -> str:
    needed = one.needed
    if isinstance(needed, str):
        return notes.dash(needed)
    return f"{needed.estimate:,.0f} ({needed.low:,.0f} to {needed.high:,.0f})"


def _smallest(one: Comparison, notes: Footnotes) -> str:
    if isinstance(one.smallest, str):
        return notes.dash(one.smallest)
    return points(one.metric, one.smallest) if one.smallest else notes.dash(NO_LIMIT)


def p_value(p: float) -> str:
    """A p-value as printed."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def parts_table(cells: Iterable[Cell], metric: str, name: Name) -> Table | None:
    """The Table of the spread due to each of two crossed seeds, or None without crossed seeds."""
    notes, rows = Footnotes(), []
    for cell in cells:
        if not cell.crossed:
            continue
        parts = values.variance_parts(cell, metric)
        if isinstance(parts, str):
            rows.append((name(cell), str(len(cell.scored)), notes.dash(parts), "-", "-"))
            continue
        for part, interval in parts.items():
            ends = (points(metric, math.sqrt(end)) for end in (interval.low, interval.high))
            rows.append(
                (
                    name(cell),
                    str(len(cell.scored)),
                    part,
                    points(metric, math.sqrt(interval.estimate)),
                    " to ".join(ends),
                )
            )
    columns = ("method", ">n", "varied seed", f">{unit(metric)}: sd", ">95 %")
    return Table(columns, tuple(rows), tuple(notes.reasons)) if rows else None


def overview(cells: Sequence[Cell], name: Name) -> Table:
    """The Table of mean ± sd and n of all cells by task, in each task's first metric."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        summary = summarize(cell, cell.metrics[0]) if cell.metrics else ""
        score = "-" if isinstance(summary, str) else spread(cell.metrics[0], summary["mean"], summary["sd"])
        rows.setdefault(name(cell), {})[cell.task] = f"{score} ({ended_of_started(cell)})"
    metric = {cell.task: unit(cell.metrics[0]) if cell.metrics else "" for cell in cells}
    columns = ("method", *(f">{task}: {metric[task]}" for task in tasks))
    return Table(columns, tuple((row, *(scores.get(task, "") for task in tasks)) for row, scores in rows.items()))


def picture(draw: Callable[[], Figure | None], name: str, caption: str) -> list[Block]:
    """The Picture of a function's Figure in a list, or [] if the function returns None."""
    rendered = figures.render(draw, name)
    return [Picture(name, caption, *rendered)] if rendered else []
