"""The main tables of a report as CSV, with all digits: of cells, of comparisons, of examples."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from fjt.reports import cells
from fjt.reports.agreement import agreement_of
from fjt.reports.cells import Cell, counts, summarize
from fjt.reports.comparisons import Comparison
from fjt.reports.inference import Interval

P = ("p", "p_examples", "smallest")


def of_cells(study_cells: Iterable[Cell]) -> str:
    """A CSV of the numbers of each cell in each metric, with all digits."""
    rows = []
    for cell in study_cells:
        for metric in cell.metrics:
            values = summarize(cell, metric)
            count = counts(cell.rows)
            row: dict[str, Any] = {"cell": cell.name, "task": cell.task, "method": cell.method, "metric": metric}
            row |= {key: count[key] for key in ("started", "finished", "diverged")}
            row |= {"collapsed": int(cell.collapsed.sum()), "scored": len(cell.scored)}
            if not isinstance(values, str):
                names = ("mean", "sd", "median", "best", "worst", "sound_mean", "sound_sd")
                row |= {key: values[key] for key in names}
                row |= _ends("new_seeds", values["new_seeds"]) | _ends("new_examples", values["new_examples"])
            cost = cells.costs(cell, None)
            row |= {key: cost.get(key) for key in ("trained", "added", "total", "flops", "optimizer_bytes")}
            row |= {"median_seconds": cost["seconds"][0]} if cost else {}
            rows.append(row)
    return _csv(rows)


def of_comparisons(comparisons: Iterable[Comparison]) -> str:
    """A CSV of the numbers of each comparison, with all digits."""
    rows = []
    for one in comparisons:
        row: dict[str, Any] = {"cell": one.cell.name, "baseline": one.base.name, "metric": one.metric, "n": one.n}
        row |= {"mean": one.mean, "sd": one.sd, "correlation": one.correlation, "improvement": one.improvement}
        row |= {key: None if isinstance(getattr(one, key), str) else getattr(one, key) for key in P}
        for key in ("new_seeds", "new_examples", "needed"):
            row |= _ends(key, getattr(one, key))
        rows.append(row)
    return _csv(rows)


def of_examples(study_cells: Iterable[Cell]) -> dict[str, str]:
    """{name of a dev set: CSV of how far the seeds of each of its cells agree on each example, and how many are right}.

    See `agreement.Agreement`.  A dev set has a CSV if some cell has two finished runs that predict no scores.
    """
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for cell in study_cells:
        if not (found := agreement_of(cell)):
            continue
        if cell.dev not in rows_of:
            labels = cell.problem.label_column(cell.truth, cell.facts)
            rows_of[cell.dev] = [
                {"id": name, "label": label} for name, label in zip(cell.ids.tolist(), labels, strict=True)
            ]
        for row, same, right in zip(rows_of[cell.dev], found.consistency.tolist(), found.right.tolist(), strict=True):
            row |= {f"{cell.name} consistency": same, f"{cell.name} right": right}
    return {dev: _csv(rows) for dev, rows in rows_of.items()}


def _ends(name: str, interval: Interval | str) -> dict[str, Any]:
    """The columns of an Interval, with None where there is none."""
    parts = dataclasses.asdict(interval) if isinstance(interval, Interval) else {}
    return {f"{name}_{part}": parts.get(part) for part in ("estimate", "low", "high", "df")}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _text(value: Any) -> Any:
    """A value as the CSV writer gets it: floats with all digits, "" for None and NaN."""
    if value is None or value != value:
        return ""
    return repr(value) if isinstance(value, float) else value
