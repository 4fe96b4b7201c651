"""The sections of a report on each task: tables, figures and their words."""

import math

import numpy as np

from fjt.reports import cells as values
from fjt.reports import figures, inference
from fjt.reports.cells import counts, summarize
from fjt.reports.pages import Footnotes, Picture, Table, Text

NO_LIMIT = "What the examples add is not above the noise of these runs: here seeds limit what is seen, not examples."
HIDDEN = (
    "These steps start from what frozen layers give, which is computed once and kept for all runs, of other methods, "
    "trials and studies too: that pass is in this column alone, not in the operations and training seconds."
)
LANES = "Runs made as lanes of one program: seconds are each one's share of the time that all of them took."
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def names_of(cells):
    """function(cell) -> its name within its task: the method, and axes by the last parts of their keys."""
    keys = {key for cell in cells for key in cell.axes}
    last = [key.rsplit(".", 1)[-1] for key in keys]
    short = {key: key.rsplit(".", 1)[-1] if last.count(key.rsplit(".", 1)[-1]) == 1 else key for key in keys}
    return lambda cell: ", ".join([cell.method, *(f"{short[key]}={value}" for key, value in cell.axes.items())])


def points(metric, value, signed=False):
    """A score for people: a hundredth of the metric where it has bounds."""
    if value is None or math.isnan(value):
        return "-"
    if metric in inference.BOUNDS:
        return f"{100 * value:{'+' if signed else ''}.2f}"
    return f"{value:{'+' if signed else ''}.4g}"


def spread(metric, mean, sd, signed=False):
    """mean ± sd."""
    return f"{points(metric, mean, signed)} ± {points(metric, sd)}"


def limits(metric, interval, notes, signed=False):
    """The ends of an Interval, a dash where it is refused."""
    if isinstance(interval, str):
        return notes.dash(interval)
    return f"{points(metric, interval.low, signed)} to {points(metric, interval.high, signed)}"


def unit(metric):
    """What a metric is called over its numbers."""
    return f"{metric}, points" if metric in inference.BOUNDS else metric


def ended_of_started(cell):
    """ "4/5": runs that finished of those that were started."""
    count = counts(cell.rows)
    return f"{count['finished']}/{count['started']}"


def score_table(cells, metric, name):
    """The Table of what a metric's scores are."""
    notes, rows = Footnotes(), []
    any_failed = any(cell.failed.any() for cell in cells)
    for cell in cells:
        found, row = summarize(cell, metric), [name(cell), ended_of_started(cell)]
        if isinstance(found, str):
            rows.append((*row, notes.dash(found), *["-"] * (5 + 3 * any_failed)))
            continue
        row.append(spread(metric, found["mean"], found["sd"]))
        if any_failed:
            row.append(_without(metric, found["sound_mean"], found["sound_sd"], cell.failed))
        row += [limits(metric, found[key], notes) for key in ("new_seeds", "new_examples")]
        row += [points(metric, found[key]) for key in ("median", "best", "worst")]
        rows.append((*row, *[str(cell.collapsed.sum()), str(cell.constant.sum())] * any_failed))
    columns = (
        "method",
        ">finished/ started",
        f">{unit(metric)}: mean ± sd",
        *[">without those that failed"] * any_failed,
        ">95 %: new seeds, this dev set",
        ">95 %: new seeds, new examples",
        ">median",
        ">best",
        ">worst",
        *[">collapsed", ">diverged"] * any_failed,
    )
    return Table(columns, tuple(rows), tuple(notes.reasons))


def _without(metric, mean, sd, failed, signed=False):
    """A mean ± sd without runs that failed, with its n.  failed: bool[n]."""
    if not failed.any():
        return "the same"
    return "none left" if failed.all() else f"{spread(metric, mean, sd, signed)}, n {np.sum(~failed)}"


def failures(cells):
    """[Text] that names the runs which collapsed or diverged, or says that there are none."""
    collapsed, diverged = [], []
    for cell in cells:
        for i, row in enumerate(cell.scored):
            if cell.collapsed[i]:
                collapsed.append(f"`{row['run']}` (always {_value(cell, cell.predicted[i, 0])})")
        diverged += [f"`{row['run']}` ({row['failed']})" for row in cell.rows if row["state"] == values.DIVERGED]
    found = []
    if collapsed:
        found.append(Text(f"**Collapsed**, one prediction for every example of dev: {'; '.join(collapsed)}."))
    if diverged:
        constants = {
            f"always {_value(cell, cell.predicted[i, 0])}"
            for cell in cells
            for i in range(len(cell.scored))
            if cell.constant[i]
        }
        counted = f"; each counts as predicting dev's most frequent label or mean ({', '.join(sorted(constants))})"
        found.append(Text(f"**Diverged**{counted if constants else ', without a score'}: {'; '.join(diverged)}."))
    return found or [Text("No run collapsed or diverged.")]


def _value(cell, predicted):
    text = cell.problem.describe_label(predicted, cell.facts)
    return f"`{text}`" if cell.facts.label_names else text


def cost_table(cells, name):
    """The Table of what was chosen, what trains and what it takes."""
    notes, rows = Footnotes(), []
    for cell in cells:
        cost = values.costs(cell, values.partner(cell, cells, "full"))
        if not cost:
            rows.append((name(cell), "0", *["-"] * 10))
            continue
        low, high = cost["seconds"][1:]
        rows.append(
            (
                name(cell),
                str(cost["n"]),
                _chosen(cell),
                f"{cost['trained']:,}",
                f"{cost['added']:,}",
                " or ".join(f"{steps:,}" for steps in cost["steps"]),
                f"{cost['flops'] / 1e9:,.1f}",
                "-" if cost["of_full"] is None else f"{cost['of_full']:.1%}",
                "-" if cost["optimizer_bytes"] is None else size(cost["optimizer_bytes"]),
                f"{cost['seconds'][0]:,.1f} ({low:,.1f} to {high:,.1f})"
                + (notes.mark(LANES) if cost["lanes"] > 1 else ""),
                _hidden(cell, cost, notes),
                " or ".join(str(looks) for looks in cost["looks"]),
            )
        )
    return Table(
        (
            "method",
            ">n",
            "values",
            ">parameters that train",
            ">of these added",
            ">steps",
            ">GFLOP of all steps",
            ">of `full`",
            ">Adam's moments",
            ">training seconds: median (lowest to highest)",
            ">seconds for hidden states, all runs",
            ">looks at dev a run",
        ),
        tuple(rows),
        tuple(notes.reasons),
    )


def _hidden(cell, cost, notes):
    """Seconds for hidden states: a dash where steps start from tokens."""
    kept = any((row.get("start_layer") or 0) > 0 for row in cell.rows)
    return f"{cost['hidden']:,.1f}{notes.mark(HIDDEN)}" if kept or cost["hidden"] else "-"


def size(count):
    """Bytes for people."""
    factor, name = next(((factor, name) for factor, name in SIZES if count >= factor), (1, "bytes"))
    return f"{count / factor:,.1f} {name}" if factor > 1 else f"{count} {name}"


def short_value(text):
    """A value's text for people: numbers without digits that say nothing."""
    value = values.number(text)
    return text if value is None else f"{value:g}"


def _chosen(cell):
    row = next(row for row in cell.rows if row["state"] == values.FINISHED)
    found = [f"{key.rsplit('.', 1)[-1]} {short_value(row[key])} (chosen)" for key in cell.open]
    if "optim.learning_rate" not in cell.open:
        found.append(f"learning_rate {short_value(row['optim.learning_rate'])} (not chosen)")
    return ", ".join(found)


def trial_table(cells, metric, found, name):
    """(Table of the trials of cells, [warnings]); (None, []) where nothing was chosen."""
    rows, edges, warnings, tried = [], [], [], {}
    for cell in cells:
        trials = values.make_trials(cell, found)
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
        taken = [trial for trial in trials if trial.chosen]
        if len(taken) > 1 or any(not trial.best for trial in taken):
            warnings.append(f"{cell.task}: not all reported runs of {name(cell)} took the trial that scored best.")
        edges += [f"{name(cell)} ({key} {short_value(value)}, the {end} of {n})" for key, value, end, n in ends]
    if not rows:
        return None, []
    if edges:
        warnings.append(
            f"{cells[0].task}: what was chosen lies at the end of what was tried, and a better value may lie beyond: "
            f"{'; '.join(edges)}."
        )
    if len(set(tried.values())) > 1:
        numbers = "; ".join(f"{count or 'none'} for {cell}" for cell, count in tried.items())
        warnings.append(f"{cells[0].task}: the methods had unequal numbers of trials, and more find more: {numbers}.")
    columns = ("method", "tried", ">finished/ started", f">held-out {unit(metric)}: mean ± sd", "each run", "chosen")
    return Table(columns, tuple(rows)), warnings


def comparison_table(comparisons, metric, name):
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
                notes.dash(one.p) if isinstance(one.p, str) else p_value(one.p),
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
            *[">without those that failed"] * any_failed,
            ">95 %: new seeds, this dev set",
            ">95 %: new seeds, new examples",
            ">p, adjusted",
            ">probability of improvement",
            ">correlation over seeds",
            ">seeds to see 1 point (95 %)",
            ">this dev set resolves",
        ),
        tuple(rows),
        tuple(notes.reasons),
    )


def _needed(one, notes):
    needed = one.needed
    if isinstance(needed, str):
        return notes.dash(needed)
    return f"{needed.estimate:,.0f} ({needed.low:,.0f} to {needed.high:,.0f})"


def _smallest(one, notes):
    if isinstance(one.smallest, str):
        return notes.dash(one.smallest)
    return points(one.metric, one.smallest) if one.smallest else notes.dash(NO_LIMIT)


def p_value(p):
    """A p for people."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def parts_table(cells, metric, name):
    """The Table of what each of two crossed seeds changes, None where none are crossed."""
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
    columns = ("method", ">n", "what changes", f">{unit(metric)}: sd", ">95 %")
    return Table(columns, tuple(rows), tuple(notes.reasons)) if rows else None


def overview(cells, name):
    """The Table of mean ± sd and n of all cells by task, in each task's first metric."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    rows = {}
    for cell in cells:
        found = summarize(cell, cell.metrics[0]) if cell.metrics else ""
        score = "-" if isinstance(found, str) else spread(cell.metrics[0], found["mean"], found["sd"])
        rows.setdefault(name(cell), {})[cell.task] = f"{score} ({ended_of_started(cell)})"
    metric = {cell.task: unit(cell.metrics[0]) if cell.metrics else "" for cell in cells}
    columns = ("method", *(f">{task}: {metric[task]}" for task in tasks))
    return Table(columns, tuple((row, *(scores.get(task, "") for task in tasks)) for row, scores in rows.items()))


def picture(draw, name, caption):
    """[Picture] of what a function draws, [] where it draws nothing."""
    drawn = figures.render(draw, name)
    return [Picture(name, caption, *drawn)] if drawn else []
