"""Names of cells, scores, intervals, p-values and sizes as a report prints them."""

import math
from collections.abc import Callable, Iterable

from fjt.core.markdown import code, escape
from fjt.reports import tuning_trials
from fjt.reports.archive import Records
from fjt.reports.cells import Cell, counts
from fjt.reports.inference import Interval
from fjt.reports.pages import Footnotes
from fjt.tasks.kinds import bounds_of

SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))

Name = Callable[[Cell], str]  # the name of a cell within its task


def names_of(cells: Iterable[Cell]) -> Name:
    """A function of a cell that returns its name: the method, and axes by the last parts of their keys."""
    keys = {key for cell in cells for key in cell.axes}
    last = [key.rsplit(".", 1)[-1] for key in keys]
    short = {key: key.rsplit(".", 1)[-1] if last.count(key.rsplit(".", 1)[-1]) == 1 else key for key in keys}
    return lambda cell: ", ".join([cell.method, *(f"{short[key]}={value}" for key, value in cell.axes.items())])


def title(cells: Iterable[Cell], study: Records) -> str:
    """The name of a task as a reader knows it: its files, or the name of the data set."""
    cells = list(cells)
    facts = study.facts.get("runs", {})
    files = {" and ".join(map(code, facts.get(cell.name, {}).get("files", []))): None for cell in cells}
    return ", ".join(text for text in files if text) or cells[0].task


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


def p_value(p: float) -> str:
    """A p-value as printed."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def size(count: int) -> str:
    """A number of bytes as printed."""
    factor, name = next(((factor, name) for factor, name in SIZES if count >= factor), (1, "bytes"))
    return f"{count / factor:,.1f} {name}" if factor > 1 else f"{count} {name}"


def short_value(text: str) -> str:
    """The text of a value as printed: numbers without trailing zeros."""
    value = tuning_trials.number(text)
    return escape(text) if value is None else f"{value:g}"
