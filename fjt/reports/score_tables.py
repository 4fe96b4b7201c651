"""The tables of a task's scores: of methods, of classes, against the baseline, by seed, and of all tasks."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from fjt.core.markdown import code
from fjt.reports import cells as values
from fjt.reports import inference
from fjt.reports.cells import Cell, summarize
from fjt.reports.comparisons import Comparison
from fjt.reports.failures import always
from fjt.reports.formatting import Name, ended_of_started, limits, p_value, points, spread, unit
from fjt.reports.pages import Footnotes, Table

NO_LIMIT = (
    "The variance due to examples is not above the noise of these runs: the number of seeds limits the resolution, not "
    "the number of examples."
)
MOST_CLASSES = 12  # a table of classes, or a list of their counts, has at most as many


def data_text(cells: Sequence[Cell]) -> str:
    """ "408 dev examples: 129 not_equivalent, 279 equivalent", of the dev sets of a task."""
    texts = []
    for cell in {cell.dev: cell for cell in cells if cell.dev}.values():
        classes = values.classes_of(cell)
        text = f"{len(cell.truth):,} dev {cell.problem.unit}s"
        if 0 < len(classes.names) <= MOST_CLASSES:
            named = zip(classes.support, classes.names, strict=True)
            text += ": " + ", ".join(f"{count:,} {code(label)}" for count, label in named)
        elif classes.names:
            text += f" of {len(classes.names)} classes"
        if cell.cluster is not None:
            text += f", from {len(np.unique(cell.cluster)):,} sources"
        texts.append(text)
    return " or ".join(texts) or "no dev examples"


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
        row += [limits(metric, summary[key], notes) for key in ("new_examples", "new_seeds")]
        row += [points(metric, summary[key]) for key in ("median", "best", "worst")]
        rows.append((*row, *[str(cell.collapsed.sum()), str(cell.constant.sum())] * any_failed))
    devs = {cell.dev: cell for cell in cells if cell.dev}.values()
    constants = {(always(dev), _constant(dev, metric)): None for dev in devs}
    rows += [(name, "", score, *[""] * (5 + 3 * any_failed)) for name, score in constants]
    columns = (
        "method",
        ">finished/ started",
        f">{unit(metric)}: mean ± sd",
        *[">without failed runs"] * any_failed,
        ">95 %: new seeds, new examples",
        ">95 %: new seeds, this dev set",
        ">median",
        ">best",
        ">worst",
        *[">collapsed", ">diverged"] * any_failed,
    )
    return Table(columns, tuple(rows), tuple(notes.reasons), (">median", ">best", ">worst"))


def _constant(cell: Cell, metric: str) -> str:
    """The score of a constant on the dev set of a cell, as printed; "-" for a metric that a report does not call."""
    if metric not in cell.problem.metrics:
        return "-"
    return points(metric, cell.problem.constant_scores(cell.truth, [metric])[metric])


def class_table(cells: Sequence[Cell], name: Name) -> Table | None:
    """The Table of each class's scores and predicted counts, None for tasks without classes or with too many."""
    rows, notes = [], Footnotes()
    for cell in (cell for cell in cells if len(cell.scored)):
        classes = values.classes_of(cell)
        if len(classes.names) > MOST_CLASSES:
            return None
        for label, title in enumerate(classes.names):
            counts_ = classes.predicted[:, label]
            found = [_class_score(score[:, label], cell, notes) for score in classes.scores.values()]
            span = f"{counts_.mean():,.1f} ({counts_.min():,} to {counts_.max():,})"
            rows.append(
                (name(cell), code(title), *found, f"{classes.support[label]:,}", span, str(np.sum(counts_ == 0)))
            )
    columns = ("method", "class", ">precision", ">recall", ">F1", ">support", ">predicted", ">runs that never do")
    return Table(columns, tuple(rows), tuple(notes.reasons)) if rows else None


def _class_score(scores: np.ndarray, cell: Cell, notes: Footnotes) -> str:
    """ "84.1 (82.0 to 86.2)": the mean of a class's scores over all runs, with the 95 % interval for new seeds."""
    mean = f"{100 * scores.mean():.1f}"
    interval = values.CROSSED if cell.crossed else values.attempt(inference.seed_interval, scores, cell.failed)
    if isinstance(interval, str):
        return f"{mean}{notes.mark(interval)}"
    return f"{mean} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


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
                limits(metric, one.new_examples, notes, signed=True),
                limits(metric, one.new_seeds, notes, signed=True),
                *(notes.dash(p) if isinstance(p, str) else p_value(p) for p in (one.p_examples, one.p)),
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
            ">95 %: new seeds, new examples",
            ">95 %: new seeds, this dev set",
            ">p, adjusted: new seeds, new examples",
            ">p, adjusted: new seeds, this dev set",
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


def _without(metric: str, mean: float | None, sd: float | None, failed: np.ndarray, signed: bool = False) -> str:
    """A mean ± sd without failed runs, with its n.  failed: bool[n]."""
    if not failed.any():
        return "the same"
    return "none left" if failed.all() else f"{spread(metric, mean, sd, signed)}, n {np.sum(~failed)}"


def _needed(one: Comparison, notes: Footnotes) -> str:
    needed = one.needed
    if isinstance(needed, str):
        return notes.dash(needed)
    return f"{needed.estimate:,.0f} ({needed.low:,.0f} to {needed.high:,.0f})"


def _smallest(one: Comparison, notes: Footnotes) -> str:
    if isinstance(one.smallest, str):
        return notes.dash(one.smallest)
    return points(one.metric, one.smallest) if one.smallest else notes.dash(NO_LIMIT)


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
