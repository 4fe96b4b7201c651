"""The tables of a task's costs and of the trials that chose its values, with the warnings about these choices."""

from collections.abc import Sequence
from typing import Any

from fjt.reports import cells as values
from fjt.reports import tuning_trials
from fjt.reports.archive import Records
from fjt.reports.cells import Cell, counts
from fjt.reports.formatting import Name, points, short_value, size, spread, unit
from fjt.reports.pages import Footnotes, Table
from fjt.reports.tuning_trials import Trial

HIDDEN = (
    "These steps start from the frozen layers' output, which is computed once and cached, also for other methods, "
    "trials and studies. {:,.1f} seconds for it are shared equally among these runs; the operations do not include it."
)
LANES = "These runs were lanes of one program: each one's seconds are its share of the program's time."


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
            ">looks at dev per run",
        ),
        tuple(rows),
        tuple(notes.reasons),
        (">n", ">added parameters", ">Adam's moments", ">looks at dev per run"),
    )


def _cost_row(cell: Cell, cells: Sequence[Cell], notes: Footnotes) -> tuple[str, ...]:
    """The columns of `cost_table` for a cell, except its name."""
    cost = values.costs(cell, values.partner(cell, cells, "full"))
    if not cost:
        return ("0", *["-"] * 9)
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
        f"{median:,.1f} ({low:,.1f} to {high:,.1f})" + _how_timed(cell, cost, notes),
        " or ".join(str(looks) for looks in cost["looks"]),
    )


def _how_timed(cell: Cell, cost: dict[str, Any], notes: Footnotes) -> str:
    """The marks of the footnotes about a cell's training seconds."""
    marks = notes.mark(LANES) if cost["lanes"] > 1 else ""
    cached = any((row.get("start_layer") or 0) > 0 for row in cell.rows)
    return marks + (notes.mark(HIDDEN.format(cost["hidden"])) if cached or cost["hidden"] else "")


def _chosen(cell: Cell) -> str:
    row = next(row for row in cell.rows if row["state"] == values.FINISHED)
    texts = [f"{key.rsplit('.', 1)[-1]} {short_value(row[key])} (chosen)" for key in cell.open]
    if "optim.learning_rate" not in cell.open:
        texts.append(f"learning_rate {short_value(row['optim.learning_rate'])} (not tuned)")
    return ", ".join(texts)


def trial_table(cells: Sequence[Cell], study: Records, name: Name) -> tuple[Table | None, list[str]]:
    """(Table of the cells' trials, warnings), or (None, []) for cells without trials."""
    metric, task = cells[0].selection, cells[0].task
    trials_of = {cell: tuning_trials.make_trials(cell, study) for cell in cells}
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
        for key, value, end, n in tuning_trials.edges(trials)
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


def _trial_row(cell: Cell, trial: Trial, trials: Sequence[Trial], name: Name) -> tuple[str, ...]:
    """The columns of `trial_table` for a trial of a cell."""
    metric = cell.selection
    ends = [f"{end} {key.rsplit('.', 1)[-1]}" for key, _, end, _ in tuning_trials.edges(trials)]
    marks = ["chosen", *ends] * trial.chosen
    runs = zip(trial.scores, trial.collapsed, strict=True)
    return (
        name(cell),
        ", ".join(f"{key.rsplit('.', 1)[-1]}={short_value(v)}" for key, v in trial.values.items()),
        f"{len(trial.scores)}/{counts(trial.rows)['started']}",
        spread(metric, trial.mean, trial.sd),
        ", ".join(points(metric, score) + " (collapsed)" * collapsed for score, collapsed in runs) or "-",
        ", ".join(marks),
    )


def _choice_warning(cell: Cell, trials: Sequence[Trial], name: Name) -> str:
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


def _constant_warning(trials_of: dict[Cell, list[Trial]], study: Records, name: Name) -> str:
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
