"""The tuning trials of a study's cells: what they tried, how it scored, and which values were chosen."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fjt.reports.archive import FINISHED, Records, Row
from fjt.reports.cells import Cell, sign_of


@dataclasses.dataclass(frozen=True)
class Trial:
    """Values that the tuning runs tried for a cell.

    Attributes:
        values: {key: text}.
        scores: of the runs that finished.
        collapsed: whether each of these runs collapsed on the held-out rows.
        mean: mean score, NaN without one.
        sd: standard deviation, NaN with fewer than two scores.
        rows: all its runs.
        chosen: whether reported runs use its values.
        best: whether it has the fewest failed runs, collapsed ones among them, and, among trials with as few, the best
            mean score of the others (ties share it).
    """

    values: dict[str, str]
    scores: tuple[float, ...]
    collapsed: tuple[bool, ...]
    mean: float
    sd: float
    rows: tuple[Row, ...]
    chosen: bool
    best: bool = False


def make_trials(cell: Cell, study: Records) -> list[Trial]:
    """The trials of a cell, [] for a cell without open keys."""
    keys, column = tuple(cell.open), f"metrics.{cell.selection}"
    reported = {tuple(row[key] for key in keys) for row in cell.rows} if keys else set()
    rows_of: dict[tuple[str, ...], list[Row]] = {}
    for row in study.rows:
        if row["phase"] == "tuning" and row["cell"] == cell.name:
            rows_of.setdefault(tuple(row[key] for key in keys), []).append(row)
    trials = []
    for values, rows in rows_of.items():
        scored = [row for row in rows if row["state"] == FINISHED and row[column] is not None]
        scores = tuple(row[column] for row in scored)
        mean = float(np.mean(scores)) if scores else math.nan
        sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
        collapsed = tuple(_trial_collapsed(row, study) for row in scored)
        chosen = any(all(map(same, others, values)) for others in reported)
        trials.append(Trial(dict(zip(keys, values, strict=True)), scores, collapsed, mean, sd, tuple(rows), chosen))
    ranks = [_rank(trial, cell.selection) if trial.scores else None for trial in trials]
    best = min((rank for rank in ranks if rank), default=None)
    return [
        dataclasses.replace(trial, best=rank is not None and rank == best)
        for trial, rank in zip(trials, ranks, strict=True)
    ]


def _trial_collapsed(row: Row, study: Records) -> bool:
    """Whether a tuning run collapsed.  Records of version 0.1.0 did not say; its scores are then the constant's."""
    if row.get("collapsed") is not None:
        return bool(row["collapsed"])
    constant = study.facts.get("held_out", {}).get(row["cell"], {})
    return bool(constant) and all(abs(row[f"metrics.{name}"] - score) < 1e-9 for name, score in constant.items())


def _rank(trial: Trial, metric: str) -> tuple[int, float, float]:
    """(number of failed runs, mean score of the others, mean score of all): the lower, the better."""
    sound = [score for score, collapsed in zip(trial.scores, trial.collapsed, strict=True) if not collapsed]
    sign = sign_of(metric)
    return len(trial.rows) - len(sound), -sign * float(np.mean(sound)) if sound else math.inf, -sign * trial.mean


def same(one: str | None, other: str | None) -> bool:
    """Whether two texts are the same value: 1 is 1.0."""
    numbers = number(one), number(other)
    return one == other or (numbers[0] is not None and numbers[0] == numbers[1])


def number(value: str | None) -> float | None:
    """The number that a text stands for, or None if it is not a number."""
    try:
        return float(value)  # pyright: ignore[reportArgumentType]  # None is caught
    except (TypeError, ValueError):
        return None


def edges(trials: Sequence[Trial]) -> list[tuple[str, str, str, int]]:
    """(key, value, "lowest" | "highest", number of values tried) of chosen values at the end of their range."""
    chosen = next((trial for trial in trials if trial.chosen), None)
    ends = []
    for key, value in chosen.values.items() if chosen else ():
        numbers = {number(trial.values[key]) for trial in trials}
        tried = sorted(x for x in numbers if x is not None)
        if len(tried) == len(numbers) > 1 and number(value) in (tried[0], tried[-1]):
            ends.append((key, value, "lowest" if number(value) == tried[0] else "highest", len(tried)))
    return ends
