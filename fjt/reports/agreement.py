"""How far the seeds of a cell agree, example by example: churn, consistency, the examples on which they agree least."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core.markdown import code
from fjt.reports.cells import Cell
from fjt.reports.formatting import Name
from fjt.reports.pages import Footnotes, Table
from fjt.tasks.problem import Problem

MOST_EXAMPLES = 20  # that a page lists
ALIKE = "Of these runs, {} collapsed: they agree because each gives (nearly) one answer to every example."
LONGEST = 60  # characters of a label that a page shows


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How n runs agree on each of m examples.

    Attributes:
        runs: n.
        consistency: share of the n (n - 1) / 2 pairs of runs that predict the same for an example. 1 minus its mean is
            the churn (Milani Fard et al. 2016), the mean share of examples for which two runs differ.
        right: share of the runs that are right about an example.
    """

    runs: int
    consistency: Float[np.ndarray, " m"]
    right: Float[np.ndarray, " m"]


def agreement(problem: Problem, runs: Sequence[Any], truth: Any) -> Agreement | None:
    """The Agreement of runs; None for scores, or with fewer than two runs.

    Args:
        problem: the kind.
        runs: [m, ...] decoded predictions of each run, for the same examples.
        truth: [m, ...] their labels.
    """
    pairs = [problem.agree(one, two) for i, one in enumerate(runs) for two in runs[:i]]
    same = [pair for pair in pairs if pair is not None]
    if not same:
        return None
    right = [found for run in runs if (found := problem.right(run, truth)) is not None]
    return Agreement(len(runs), np.mean(same, axis=0), np.mean(right, axis=0))


@functools.cache
def agreement_of(cell: Cell) -> Agreement | None:
    """The Agreement of a cell's finished runs; those that diverged have predicted nothing.  See `agreement`."""
    if not cell.dev:
        return None
    runs = [run for run, constant in zip(cell.predicted, cell.constant, strict=True) if not constant]
    return agreement(cell.problem, runs, cell.truth)


def agreement_table(cells: Sequence[Cell], name: Name) -> Table | None:
    """The Table of how often the runs of a cell predict the same; None for scores, or without two finished runs."""
    rows, notes = [], Footnotes()
    for cell in cells:
        if found := agreement_of(cell):
            mark = notes.mark(ALIKE.format(cell.collapsed.sum())) if cell.collapsed.any() else ""
            churn, same = 1 - found.consistency.mean(), (found.consistency == 1).mean()
            rows.append((name(cell), f"{found.runs}{mark}", f"{100 * churn:.2f}", f"{100 * same:.2f}"))
    columns = ("method", ">n", ">predictions that differ between two seeds, %", ">predictions that all seeds share, %")
    return Table(columns, tuple(rows), tuple(notes.reasons)) if rows else None


def least_table(cells: Sequence[Cell]) -> Table | None:
    """The Table of the examples on which the seeds of a task's cells agree least; None where all agree.

    Shares are means over the cells, each of which counts once; a cell whose runs all collapsed or diverged is left out.
    """
    rows = []
    for dev in dict.fromkeys(cell.dev for cell in cells):
        members = [cell for cell in cells if cell.dev == dev]
        found = [each for cell in members if not cell.failed.all() and (each := agreement_of(cell))]
        if not found:
            continue
        consistency, right = (
            np.mean([getattr(each, part) for each in found], axis=0) for part in ("consistency", "right")
        )
        chosen = np.argsort(consistency, kind="stable")[:MOST_EXAMPLES]
        labels = members[0].problem.label_column(members[0].truth[chosen], members[0].facts)
        rows += [
            (consistency[i], members[0].ids[i], label, right[i])
            for i, label in zip(chosen, labels, strict=True)
            if consistency[i] < 1
        ]
    rows = sorted(rows, key=lambda row: row[0])[:MOST_EXAMPLES]
    columns = ("example", "label", ">pairs of seeds that agree, %", ">runs that are right, %")
    shown = [
        (code(str(name)), code(_short(label)), f"{100 * same:.1f}", f"{100 * right:.1f}")
        for same, name, label, right in rows
    ]
    return Table(columns, tuple(shown)) if shown else None


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 3]}..."
