"""Comparisons of cells with the baseline: differences paired by seed, intervals, tests, numbers of seeds needed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fjt.reports import inference
from fjt.reports.archive import DIVERGED, FINISHED
from fjt.reports.cells import CROSSED, Cell, attempt, cross_validated, partner, sign_of
from fjt.study import plans
from fjt.tasks.kinds import bounds_of

POINT = 0.01  # the difference for which the number of seeds is computed


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A cell compared with the baseline's cell, in the first metric of their task.

    A str in place of an Interval or a number is the reason why there is none.

    Attributes:
        cell: the cell.
        base: the baseline's cell.
        metric: the metric.
        n: number of seeds that both cells have.
        differences: scores of the cell minus scores of the baseline.
        failed: pairs in which either run failed.
        mean: mean difference.
        sd: standard deviation of the differences.
        sound: (mean, sd) of the pairs that did not fail.
        new_seeds: Interval of the mean over new seeds on this dev set.
        new_examples: Interval of the mean over new seeds and new examples.
        correlation: of the scores over seeds; None where a side is constant.
        improvement: of `inference.probability_of_improvement`, over all runs.
        needed: Interval of the number of seeds that find a difference of POINT.
        smallest: the difference that this dev set shows with any number of seeds.
        all_runs: as `new_examples`, over failed runs as well.  It takes part in the adjustment of p-values alone.
        p: p-value of new seeds on this dev set, adjusted over the family.
        p_examples: p-value of new seeds and new examples, adjusted likewise.
    """

    cell: Cell
    base: Cell
    metric: str
    n: int
    differences: Float[np.ndarray, " n"]
    failed: Bool[np.ndarray, " n"]
    mean: float | None
    sd: float | None
    sound: tuple[float | None, float | None]
    new_seeds: inference.Interval | str
    new_examples: inference.Interval | str
    correlation: float | None
    improvement: float | None
    needed: inference.Interval | str
    smallest: float | str
    all_runs: inference.Interval | str
    p: float | str = ""
    p_examples: float | str = ""


def make_comparisons(cells: Sequence[Cell], facts: Mapping[str, Any]) -> tuple[list[Comparison], list[Cell]]:
    """(comparisons of cells with the cells of config.study.baseline, cells without a baseline cell of the same axes).

    Folds of a cross-validation are in neither: each is a part of one experiment.

    Args:
        cells: all cells of the study.
        facts: of its Records.
    """
    comparisons, unpaired, folds = [], [], cross_validated(cells)
    for cell in cells:
        if cell in folds or cell.method == facts["study"]["baseline"] or not cell.metrics:
            continue
        base = partner(cell, cells, facts["study"]["baseline"])
        if base is None:
            unpaired.append(cell)
        else:
            comparisons.append(compare(cell, base, cell.metrics[0]))
    families: dict[str, list[Comparison]] = {}
    for one in comparisons:
        families.setdefault(one.cell.task if facts["study"]["family"] == "task" else "", []).append(one)
    tested: dict[Comparison, Comparison] = {}
    for family in families.values():
        of_seeds, of_both = _adjusted(family, facts)
        for one, p, p_examples in zip(family, of_seeds, of_both, strict=True):
            tested[one] = dataclasses.replace(one, p=p, p_examples=p_examples)
    return [tested[one] for one in comparisons], unpaired


def compare(cell: Cell, base: Cell, metric: str) -> Comparison:
    """The Comparison of two cells in a metric, without its p."""
    place = {seeds: i for i, seeds in enumerate(base.seeds)}
    pairs = [(i, place[seeds]) for i, seeds in enumerate(cell.seeds) if seeds in place]
    rows, base_rows = [i for i, _ in pairs], [i for _, i in pairs]
    a, b = cell.scores(metric)[rows], base.scores(metric)[base_rows]
    differences, failed = a - b, cell.failed[rows] | base.failed[base_rows]
    n, sign, sound = len(differences), sign_of(metric), differences[~failed]
    common: dict[str, Any] = {
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
        return _without_estimates(common, CROSSED)
    if not n:
        reason = f"No seed has ended in both {cell.name} and {base.name}."
        return _without_estimates(common, reason)
    new_examples = smallest = all_runs = (
        "The two cells are scored on different rows, so there is no estimate for new examples."
    )
    if cell.dev == base.dev:
        tables = attempt(lambda: _paired(cell, rows, base, base_rows, metric))
        if isinstance(tables, str):
            new_examples = smallest = all_runs = tables
        else:
            sources = cell.sources(metric)
            new_examples = attempt(inference.crossed_interval, differences, tables, failed, None, sources)
            all_runs = attempt(inference.crossed_interval, differences, tables, failed & False, None, sources)
            smallest = attempt(inference.smallest_difference, tables, failed, sources)
    needed = f"{metric} has no bounds, and a point is a hundredth of a score between bounds."
    if bounds_of(metric):
        needed = attempt(inference.seeds_needed, differences, failed, POINT)
    new_seeds = attempt(inference.seed_interval, differences, failed)
    return Comparison(
        **common, new_seeds=new_seeds, new_examples=new_examples, needed=needed, smallest=smallest, all_runs=all_runs
    )


def _without_estimates(common: dict[str, Any], reason: str) -> Comparison:
    names = ("new_seeds", "new_examples", "needed", "smallest", "all_runs")
    return Comparison(**common, **dict.fromkeys(names, reason))


def _paired(
    cell: Cell, rows: Sequence[int], base: Cell, base_rows: Sequence[int], metric: str
) -> Float[np.ndarray, "n m"]:
    """The differences of the pseudo-values of paired runs."""
    return cell.pseudo_values(metric)[rows] - base.pseudo_values(metric)[base_rows]


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _sd(values: Float[np.ndarray, " n"]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _adjusted(family: Sequence[Comparison], facts: Mapping[str, Any]) -> tuple[list[float | str], list[float | str]]:
    """(p of new seeds on this dev set, p of new seeds and new examples) of each Comparison, or reasons for none.

    The first is an exact test by sign flips, the second Student's t of `crossed_interval`.  Each is adjusted over the
    family by Holm's method.  No comparison leaves the family, because that would lower the p of the others: one that
    cannot be tested stays as a tie, which no test rejects, and one with failed runs with its p over all runs, which
    is not valid and not shown.
    """
    rows = [row for one in family for cell in (one.cell, one.base) for row in cell.rows]
    waiting = len({row["run"] for row in rows if row["state"] not in (FINISHED, DIVERGED)})
    if waiting:
        reason = f"{waiting} runs of these comparisons have not ended; the tests are computed once, when all have."
        return [reason for _ in family], [reason for _ in family]
    changed = plans.changed(facts["study"], facts["declared"])
    reasons = [changed or _no_test(one, facts["planned_seeds"]) for one in family]
    if all(reasons):
        return [*reasons], [*reasons]
    tie = np.zeros(max(one.n for one, reason in zip(family, reasons, strict=True) if not reason))
    differences = [tie if reason else one.differences for one, reason in zip(family, reasons, strict=True)]
    intervals = [reason or one.all_runs for one, reason in zip(family, reasons, strict=True)]
    ties_as_none = [None if isinstance(interval, str) else interval for interval in intervals]
    p = attempt(inference.sign_flip_family, differences, facts["study"]["alpha"])
    p_examples = p if isinstance(p, str) else attempt(inference.t_family, ties_as_none)
    hidden = [reason or _failures(one) for one, reason in zip(family, reasons, strict=True)]
    no_interval = [
        why or (interval if isinstance(interval, str) else "") for why, interval in zip(hidden, intervals, strict=True)
    ]
    return _shown(p, hidden), _shown(p_examples, no_interval)


def _shown(p: Float[np.ndarray, " K"] | str, hidden: Sequence[str]) -> list[float | str]:
    """The p of each Comparison, or the reason why it is not shown.  hidden: reasons, "" for none."""
    values = [p] * len(hidden) if isinstance(p, str) else [float(x) for x in p]
    return [why or value for why, value in zip(hidden, values, strict=True)]


def _failures(one: Comparison) -> str:
    """The reason why a Comparison with failed runs has no p, or ""."""
    if not one.failed.any():
        return ""
    return (
        f"In {one.failed.sum()} of {one.n} pairs a run collapsed or diverged. A method that is often a little ahead "
        "and sometimes fails can have the same mean as another, and then these tests err too often: there is no p."
    )


def _no_test(one: Comparison, planned: Mapping[str, int]) -> str:
    """The reason why a Comparison has no p, or "".  planned: {cell: number of seeds}."""
    if one.cell.crossed or one.base.crossed:
        return CROSSED
    if not one.n:
        return f"No seed has a score in both {one.cell.name} and {one.base.name}."
    of_cell, of_base = (planned.get(cell.name, 0) for cell in (one.cell, one.base))
    if one.n == of_cell == of_base:
        return ""
    plan = f"{of_cell} were planned of each cell"
    if of_cell != of_base:
        plan = f"{of_cell} were planned of {one.cell.name} and {of_base} of {one.base.name}"
    return (
        f"{one.n} seeds are in both cells, and {plan}. Stopping or adding seeds after a look at the scores can favour "
        "a small p, so none is reported."
    )
