"""Each cell of a study beside its baseline's: differences paired by seed, intervals, tests, seeds to see more."""

import dataclasses

import numpy as np

from fjt.reports import inference
from fjt.reports.archive import DIVERGED, FINISHED
from fjt.reports.cells import CROSSED, Cell, attempt, partner, sign_of
from fjt.study import plans

POINT = 0.01  # the difference that the number of seeds is asked for


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A cell beside its baseline's cell, in their task's first metric.

    n: seeds that both have; differences: f64[n], cell minus baseline; failed: bool[n], of either side; mean, sd: of
    the differences; sound: (mean, sd) of those that did not fail; correlation: of the scores over seeds, None where
    a side is constant; improvement: of `statistics.probability_of_improvement`, over all runs.
    new_seeds, new_examples, needed: Intervals; smallest, p: float; a str in their place says why there is none.
    """

    cell: Cell
    base: Cell
    metric: str
    n: int
    differences: np.ndarray
    failed: np.ndarray
    mean: float | None
    sd: float | None
    sound: tuple
    new_seeds: inference.Interval | str
    new_examples: inference.Interval | str
    correlation: float | None
    improvement: float | None
    needed: inference.Interval | str
    smallest: float | str
    p: float | str = ""


def make_comparisons(cells, facts):
    """([Comparison] of all cells with those of config.study.baseline, [cells that no baseline's cell agrees with])."""
    found, alone = [], []
    for cell in cells:
        if cell.method == facts["study"]["baseline"] or not cell.metrics:
            continue
        base = partner(cell, cells, facts["study"]["baseline"])
        if base is None:
            alone.append(cell)
        else:
            found.append(compare(cell, base, cell.metrics[0]))
    families = {}
    for one in found:
        families.setdefault(one.cell.task if facts["study"]["family"] == "task" else "", []).append(one)
    p = {
        one: value for family in families.values() for one, value in zip(family, _adjusted(family, facts), strict=True)
    }
    return [dataclasses.replace(one, p=p[one]) for one in found], alone


def compare(cell, base, metric):
    """The Comparison of two cells, without its p."""
    place = {seeds: i for i, seeds in enumerate(base.seeds)}
    pairs = [(i, place[seeds]) for i, seeds in enumerate(cell.seeds) if seeds in place]
    mine, theirs = (list(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    a, b = cell.scores(metric)[mine], base.scores(metric)[theirs]
    differences, failed = a - b, cell.failed[mine] | base.failed[theirs]
    n, sign, sound = len(differences), sign_of(metric), differences[~failed]
    common = {
        "cell": cell,
        "base": base,
        "metric": metric,
        "n": n,
        "differences": differences,
        "failed": failed,
        "mean": _mean(differences),
        "sd": _sd(differences),
        "sound": (_mean(sound), _sd(sound)),
        "correlation": float(np.corrcoef(a, b)[0, 1]) if n > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 else None,
        "improvement": inference.probability_of_improvement(sign * cell.scores(metric), sign * base.scores(metric))
        if n
        else None,
    }
    if cell.crossed or base.crossed:
        return Comparison(**common, new_seeds=CROSSED, new_examples=CROSSED, needed=CROSSED, smallest=CROSSED)
    if not n:
        none = f"No seed has ended in both {cell.name} and {base.name}."
        return Comparison(**common, new_seeds=none, new_examples=none, needed=none, smallest=none)
    other = "The two are scored on different rows, so nothing can be said of new ones."
    tables = None
    if cell.dev == base.dev:
        tables = cell.pseudo_values(metric)[mine] - base.pseudo_values(metric)[theirs]
    return Comparison(
        **common,
        new_seeds=attempt(inference.seed_interval, differences, failed),
        new_examples=other
        if tables is None
        else attempt(inference.crossed_interval, differences, tables, failed, None, cell.cluster),
        needed=attempt(inference.seeds_needed, differences, failed, POINT)
        if metric in inference.BOUNDS
        else f"{metric} has no points: seeds are asked for a hundredth of a score between bounds.",
        smallest=other if tables is None else attempt(inference.smallest_difference, tables, failed, cell.cluster),
    )


def _mean(values):
    return float(values.mean()) if len(values) else None


def _sd(values):
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _adjusted(family, facts):
    """[p, or why there is none] of a family of Comparisons, by sign flips over all runs and Holm's adjustment."""
    rows = [row for one in family for cell in (one.cell, one.base) for row in cell.rows]
    waiting = len({row["run"] for row in rows if row["state"] not in (FINISHED, DIVERGED)})
    if waiting:
        return [f"{waiting} runs of these comparisons have not ended, and a test is made once, at the end."] * len(
            family
        )
    changed = plans.changed(facts["study"], facts["declared"])
    reasons = [changed or _no_test(one, facts["planned_seeds"]) for one in family]
    if all(reasons):
        return reasons
    # What is not tested stays in the family, as a tie that no test rejects: the others do not gain by its absence.
    tie = np.zeros(max(one.n for one, no in zip(family, reasons, strict=True) if not no))
    differences = [tie if no else one.differences for one, no in zip(family, reasons, strict=True)]
    p = attempt(inference.sign_flip_family, differences, facts["study"]["alpha"])
    values = [p] * len(family) if isinstance(p, str) else [float(x) for x in p]
    return [reason or value for reason, value in zip(reasons, values, strict=True)]


def _no_test(one, planned):
    """Why a Comparison has no p, "" where it has one.  planned: {cell: seeds}."""
    if one.cell.crossed or one.base.crossed:
        return CROSSED
    if not one.n:
        return f"No seed has a score in both {one.cell.name} and {one.base.name}."
    mine, theirs = (planned.get(cell.name, 0) for cell in (one.cell, one.base))
    if one.n == mine == theirs:
        return ""
    each = f"{mine} were planned of each cell"
    if mine != theirs:
        each = f"{mine} were planned of {one.cell.name} and {theirs} of {one.base.name}"
    return (
        f"{one.n} seeds are in both cells, and {each}: who stops or goes on after a look may do so when p is small, so "
        "there is none."
    )
