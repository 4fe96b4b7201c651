"""The sections of a report on each task: tables, figures and their texts."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fjt.core.markdown import code, escape
from fjt.reports import cells as values
from fjt.reports import figures, inference
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
MOST_CLASSES = 12  # a table of classes, or a list of their counts, has at most as many
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
    for dev in {cell.dev: cell for cell in cells if cell.dev}.values():
        rows.append((always(dev), "", _constant(dev, metric), *[""] * (5 + 3 * any_failed)))
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
    return Table(columns, tuple(rows), tuple(notes.reasons), (">median", ">best", ">worst"))


def _without(metric: str, mean: float | None, sd: float | None, failed: np.ndarray, signed: bool = False) -> str:
    """A mean ± sd without failed runs, with its n.  failed: bool[n]."""
    if not failed.any():
        return "the same"
    return "none left" if failed.all() else f"{spread(metric, mean, sd, signed)}, n {np.sum(~failed)}"


def data_text(cells: Sequence[Cell]) -> str:
    """ "408 dev examples: 129 not_equivalent, 279 equivalent", of the dev sets of a task."""
    texts = []
    for cell in {cell.dev: cell for cell in cells if cell.dev}.values():
        support, _ = values.class_counts(cell)
        text = f"{len(cell.truth):,} dev examples"
        if 0 < len(support) <= MOST_CLASSES:
            named = zip(support, cell.facts.label_names, strict=True)
            text += ": " + ", ".join(f"{count:,} `{label}`" for count, label in named)
        elif len(support):
            text += f" of {len(support)} classes"
        if cell.cluster is not None:
            text += f", from {len(np.unique(cell.cluster)):,} sources"
        texts.append(text)
    return " or ".join(texts) or "no dev examples"


def class_table(cells: Sequence[Cell], name: Name) -> Table | None:
    """The Table of each class's scores and predicted counts, None for tasks without classes or with too many."""
    classes = len(cells[0].facts.label_names)
    if not 0 < classes <= MOST_CLASSES:
        return None
    rows, notes = [], Footnotes()
    for cell in (cell for cell in cells if len(cell.scored)):
        support, predicted = values.class_counts(cell)
        scores = values.class_scores(cell)
        for label, title in enumerate(cell.facts.label_names):
            counts_ = predicted[:, label]
            found = [_class_score(score[:, label], cell, notes) for score in scores.values()]
            span = f"{counts_.mean():,.1f} ({counts_.min():,} to {counts_.max():,})"
            rows.append((name(cell), f"`{title}`", *found, f"{support[label]:,}", span, str(np.sum(counts_ == 0))))
    columns = ("method", "class", ">precision", ">recall", ">F1", ">support", ">predicted", ">runs that never do")
    return Table(columns, tuple(rows), tuple(notes.reasons)) if rows else None


def _class_score(scores: np.ndarray, cell: Cell, notes: Footnotes) -> str:
    """ "84.1 (82.0 to 86.2)": the mean of a class's scores over all runs, with the 95 % interval for new seeds."""
    mean = f"{100 * scores.mean():.1f}"
    interval = values.CROSSED if cell.crossed else values.attempt(inference.seed_interval, scores, cell.failed)
    if isinstance(interval, str):
        return f"{mean}{notes.mark(interval)}"
    return f"{mean} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _constant(cell: Cell, metric: str) -> str:
    """The score of a constant on the dev set of a cell, as printed; "-" for a metric that a report does not call."""
    if metric not in cell.problem.metrics:
        return "-"
    return points(metric, cell.problem.constant_scores(cell.truth, [metric])[metric])


def always(cell: Cell) -> str:
    """The name of the row of a constant."""
    constant = cell.problem.constant(cell.truth)[0]
    return f"always {_value(cell, constant)}" if cell.facts.label_names else "always the mean"


def failures(cells: Sequence[Cell]) -> list[Text]:
    """The texts that name the collapsed and diverged runs, or one that says that there are none."""
    collapsed, diverged = [], []
    for cell in cells:
        for i, row in enumerate(cell.scored):
            if cell.collapsed[i]:
                collapsed.append(f"`{row['run']}` ({_answers(cell, i)})")
        diverged += [
            f"`{row['run']}` ({escape(row['failed'])})" for row in cell.rows if row["state"] == values.DIVERGED
        ]
    texts = []
    if collapsed:
        texts.append(Text(f"**Collapsed**, (nearly) one prediction for every example of dev: {'; '.join(collapsed)}."))
    if diverged:
        constants = {
            f"always {_value(cell, cell.predicted[i, 0])}"
            for cell in cells
            for i in range(len(cell.scored))
            if cell.constant[i]
        }
        counted = f"; each counts as predicting dev's most frequent label or mean ({', '.join(sorted(constants))})"
        texts.append(Text(f"**Diverged**{counted if constants else ', without a score'}: {'; '.join(diverged)}."))
    return texts or [Text(text) for text in failure_texts(cells, names_of(cells))]


def failure_texts(cells: Sequence[Cell], name: Name) -> list[str]:
    """The sentences about runs that collapsed, diverged or never predict a class, or one that says that none did."""
    texts = []
    for kind, runs_of in (("Collapsed", lambda cell: cell.collapsed), ("Diverged", lambda cell: cell.constant)):
        failed = [(name(cell), int(runs_of(cell).sum()), len(cell.scored)) for cell in cells if runs_of(cell).any()]
        if failed:
            texts.append(f"**{kind}**: {', '.join(f'{cell} in {count} of {n} runs' for cell, count, n in failed)}.")
    texts += never_predicted(cells, name)
    return texts or ["No run collapsed or diverged."]


def never_predicted(cells: Sequence[Cell], name: Name) -> list[str]:
    """The sentences about classes of dev that runs never predict, runs that failed aside."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        support, predicted = values.class_counts(cell)
        sound = predicted[~cell.failed]
        for label, runs in enumerate((sound == 0).sum(axis=0)):
            if runs and support[label]:
                title = f"`{cell.facts.label_names[label]}` ({support[label]:,} of dev)"
                found.setdefault(title, []).append(f"{name(cell)} in {runs} of {len(sound)} runs")
    return [f"**Never predicted**: {label} by {', '.join(cells_)}." for label, cells_ in found.items()]


def _answers(cell: Cell, run: int) -> str:
    """ "always `no`", or "`no` for 118 of 120", of a run of a cell that collapsed."""
    predicted = cell.predicted[run]
    most = cell.problem.constant(predicted)[0]
    count, text = int(np.sum((predicted == most).reshape(len(predicted), -1).all(axis=1))), _value(cell, most)
    if count == len(predicted):
        return f"always {text}"
    return f"{text} for {count:,} of {len(predicted):,}" if cell.facts.label_names else f"nearly always {text}"


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
        (">n", ">added parameters", ">Adam's moments", ">seconds for hidden states, all runs", ">looks at dev per run"),
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


def trial_table(cells: Sequence[Cell], study: Records, name: Name) -> tuple[Table | None, list[str]]:
    """(Table of the cells' trials, warnings), or (None, []) for cells without trials."""
    metric, task = cells[0].selection, cells[0].task
    trials_of = {cell: values.make_trials(cell, study) for cell in cells}
    rows = [_trial_row(cell, trial, trials, name) for cell, trials in trials_of.items() for trial in trials]
    if not rows:
        return None, []
    constants = {
        study.facts.get("held_out", {}).get(cell.name, {}).get(metric) for cell, trials in trials_of.items() if trials
    } - {None}
    rows += [("a constant", "", "", points(metric, constant), "", "") for constant in sorted(constants)]
    columns = ("method", "tried", ">finished/ started", f">held-out {unit(metric)}: mean ± sd", "each run", "chosen")
    warnings = [
        *(_choice_warning(cell, trials, name) for cell, trials in trials_of.items()),
        _constant_warning(trials_of, study, name),
    ]
    edges = [
        f"{name(cell)} ({key} {short_value(value)}, the {end} of {n})"
        for cell, trials in trials_of.items()
        for key, value, end, n in values.edges(trials)
    ]
    if edges:
        warnings.append(
            f"{task}: some chosen values are at the end of the range that was tried, so better values may lie "
            f"outside it: {'; '.join(edges)}."
        )
    if len({len(trials) for trials in trials_of.values()}) > 1:
        numbers = "; ".join(f"{len(trials) or 'none'} for {name(cell)}" for cell, trials in trials_of.items())
        warnings.append(
            f"{task}: the methods had unequal numbers of trials, which favours methods with more: {numbers}."
        )
    return Table(columns, tuple(rows)), [warning for warning in warnings if warning]


def _trial_row(cell: Cell, trial: values.Trial, trials: Sequence[values.Trial], name: Name) -> tuple[str, ...]:
    """The columns of `trial_table` for a trial of a cell."""
    metric = cell.selection
    marks = ["chosen", *(f"{end} {key.rsplit('.', 1)[-1]}" for key, _, end, _ in values.edges(trials))] * trial.chosen
    runs = zip(trial.scores, trial.collapsed, strict=True)
    return (
        name(cell),
        ", ".join(f"{key.rsplit('.', 1)[-1]}={short_value(v)}" for key, v in trial.values.items()),
        f"{len(trial.scores)}/{counts(trial.rows)['started']}",
        spread(metric, trial.mean, trial.sd),
        ", ".join(points(metric, score) + " (collapsed)" * collapsed for score, collapsed in runs) or "-",
        ", ".join(marks),
    )


def _choice_warning(cell: Cell, trials: Sequence[values.Trial], name: Name) -> str:
    """The warning about a chosen trial that is not the best or has a collapsed run, "" for neither."""
    chosen = [trial for trial in trials if trial.chosen]
    if any(any(trial.collapsed) for trial in chosen):
        return (
            f"{cell.task}: the chosen trial of {name(cell)} collapsed: its predictions for the held-out rows are "
            "(nearly) all the same, so its score does not say that these values are good."
        )
    if len(chosen) > 1 or any(not trial.best for trial in chosen):
        return f"{cell.task}: not all reported runs of {name(cell)} use the trial with the best score."
    return ""


def _constant_warning(trials_of: dict[Cell, list[values.Trial]], study: Records, name: Name) -> str:
    """The warning about cells none of whose trials exceeds a constant, "" for none."""
    below = []
    for cell, trials in trials_of.items():
        constant = study.facts.get("held_out", {}).get(cell.name, {}).get(cell.selection)
        sign, means = values.sign_of(cell.selection), [trial.mean for trial in trials if trial.scores]
        if constant is not None and means and all(sign * mean <= sign * constant for mean in means):
            below.append(name(cell))
    if not below:
        return ""
    metric = next(iter(trials_of)).selection
    return (
        f"{next(iter(trials_of)).task}: on the held-out rows no trial of these methods has a higher {metric} than a "
        f"constant, so their choice is one among scores that say little: {', '.join(below)}."
    )


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
        (
            ">probability of improvement",
            ">correlation over seeds",
            ">seeds to see 1 point (95 %)",
            ">this dev set resolves",
        ),
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
    constants = {cell.task: _constant(cell, cell.metrics[0]) for cell in cells if cell.dev and cell.metrics}
    rows["a constant"] = constants
    metric = {cell.task: unit(cell.metrics[0]) if cell.metrics else "" for cell in cells}
    columns = ("method", *(f">{task}: {metric[task]}" for task in tasks))
    return Table(columns, tuple((row, *(scores.get(task, "") for task in tasks)) for row, scores in rows.items()))


def picture(draw: Callable[[], Figure | None], name: str, caption: str) -> list[Block]:
    """The Picture of a function's Figure in a list, or [] if the function returns None."""
    rendered = figures.render(draw, name)
    return [Picture(name, caption, *rendered)] if rendered else []
