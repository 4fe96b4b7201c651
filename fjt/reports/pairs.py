"""Two sets of predictions for the same rows: how often they differ, which is right, and differences of scores."""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.stats

from fjt.core.errors import UserError
from fjt.experiment.labelled import Labelled
from fjt.reports import resampling
from fjt.reports.resampling import CONFIDENCE, Estimate

SHARED = "The examples share sources, so that they are not independent."


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two runs on the same rows.

    Attributes:
        churn: share of rows for which their predictions differ, with the interval of Clopper and Pearson (1934); None
            for scores.
        p: two-sided p of McNemar's exact test (1947) that both are right equally often, NaN where it is withheld.
        reason: why it is withheld.
        changed: numbers of the rows for which their predictions differ.
        both_wrong: numbers of those that both have wrong.
        only_first: numbers of the rows that only the first run has right.
        only_second: likewise.
        both: number of rows that both have right.
        neither: number of rows that both have wrong.
        differences: {name: Estimate of the first run's score minus the second's}.
    """

    churn: Estimate | None
    p: float
    reason: str
    changed: np.ndarray
    both_wrong: np.ndarray
    only_first: np.ndarray
    only_second: np.ndarray
    both: int
    neither: int
    differences: dict[str, Estimate]


def compare(one: Labelled, other: Labelled) -> Pair:
    """The Pair of two runs.

    Raises:
        UserError: the runs are of different kinds or labels, or their rows or labels differ.
    """
    _check(one, other)
    problem = one.problem
    first, second = (rows.decoded().values for rows in (one, other))
    same = problem.agree(first, second)
    changed = np.arange(len(one)) if same is None else np.flatnonzero(~same)
    differences = resampling.compare(one.measures(), other.measures(), len(changed), one.cluster)
    right = [problem.right(values, one.label) for values in (first, second)]
    if same is None or right[0] is None or right[1] is None:
        none = np.zeros(0, np.int64)
        return Pair(None, math.nan, "Scores are neither right nor wrong.", none, none, none, none, 0, 0, differences)
    first_alone, second_alone = np.flatnonzero(right[0] & ~right[1]), np.flatnonzero(right[1] & ~right[0])
    shared = SHARED if one.cluster is not None else ""
    return Pair(
        _share(len(changed), len(one), shared),
        math.nan if shared else mcnemar(len(first_alone), len(second_alone)),
        shared,
        changed,
        np.flatnonzero(~same & ~right[0] & ~right[1]),
        first_alone,
        second_alone,
        int((right[0] & right[1]).sum()),
        int((~right[0] & ~right[1]).sum()),
        differences,
    )


def mcnemar(first: int, second: int) -> float:
    """The two-sided exact p that two runs are right equally often: a binomial test of the rows that tell them apart.

    Args:
        first: number of rows that only the first run has right.
        second: number of rows that only the second run has right.
    """
    return float(scipy.stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def _share(count: int, total: int, reason: str) -> Estimate:
    if reason:
        return Estimate(count / total, reason=reason)
    ends = scipy.stats.binomtest(count, total).proportion_ci(CONFIDENCE, "exact")
    return Estimate(count / total, float(ends.low), float(ends.high))


def _check(one: Labelled, other: Labelled) -> None:
    if one.problem.name != other.problem.name or one.task.label_names != other.task.label_names:
        raise UserError(
            "--against: the two runs predict different things (kind or label names). Give runs of one task."
        )
    if one.id != other.id:
        raise UserError("--against: the two runs have predictions of different rows. Evaluate both with --data FILE.")
    if not np.array_equal(_plain(one.label), _plain(other.label)):
        raise UserError(
            "--against: the two runs have different labels for the same rows. Evaluate both with --data FILE."
        )


def _plain(rows: Any) -> np.ndarray:
    return np.asarray(getattr(rows, "values", rows))
