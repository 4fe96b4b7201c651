"""Intervals of one run's scores over new examples: a bootstrap of examples, or of the sources that they share.

The standard error is that of RESAMPLES resamples; the interval is Student's t with as many degrees of freedom as there
are rows of the rarer kind, less one, on Fisher's scale for a score between two bounds, as in `inference`, and on the
logarithm's for one that is positive.  How often such intervals hold was measured
(results/toolbox/intervals.md); where they do not, there is none, and a reason.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from fjt.core import console
from fjt.reports.inference import LEAST_EXAMPLES
from fjt.tasks.measures import ANY, Counts, Measures

RESAMPLES = 1000
CONFIDENCE = 0.95
LEAST_CASES = 10  # rows of the rarer kind that decides a score: with fewer, the interval of a share may hold in 80 %
LEAST_SUPPORT = 50  # rows of a class: with 40, the intervals of its recall and F1 were too wide, and held in 99 %
BLOCK = 1 << 21  # counts of rows in memory

Cluster = Int[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two, with its interval.

    Attributes:
        value: NaN where it is undefined.
        low: lower end, NaN without an interval.
        high: upper end.
        reason: why there is no interval, "" where there is one.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def estimate(measures: Measures, cluster: Cluster | None = None, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """{name: Estimate} of Measures.

    Args:
        measures: of the rows of a split.
        cluster: equal for rows that share a source; None where each row is a source of its own.
        resamples: number of resamples.
    """
    return _estimates(measures.values(), measures.bounds, _reasons(measures, cluster), [measures], cluster, resamples)


def compare(
    one: Measures, other: Measures, changed: int, cluster: Cluster | None = None, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """{name: Estimate of one minus the other}, paired: both have the same rows in each resample.

    Args:
        one: Measures of one run.
        other: of another run, for the same rows.
        changed: number of rows for which their predictions differ.
        cluster: see `estimate`.
        resamples: number of resamples.
    """
    first, second = one.values(), other.values()
    reasons = _reasons(one, cluster) | _reasons(other, cluster)
    if changed < LEAST_CASES:
        few = f"The runs predict another class for {changed} rows; an interval needs {LEAST_CASES}."
        reasons = {name: few for name in first if name not in one.smooth} | reasons
    values = {name: first[name] - second[name] for name in first if name in second}
    return _estimates(values, {}, reasons, [one, other], cluster, resamples)


def _estimates(
    values: dict[str, float],
    bounds: Mapping[str, tuple[float, float]],
    reasons: dict[str, str],
    measures: list[Measures],
    cluster: Cluster | None,
    resamples: int,
) -> dict[str, Estimate]:
    """The Estimates of values, where `reasons` leaves any; of two Measures, their difference is resampled."""
    wanted = [name for name in values if name not in reasons]
    found = _resample(measures, wanted, cluster, resamples) if wanted else {}
    estimates = {}
    for name, value in values.items():
        if not math.isfinite(value):
            estimates[name] = Estimate(math.nan, reason=reasons.get(name, "It is undefined for these rows."))
        elif name in reasons:
            estimates[name] = Estimate(value, reason=reasons[name])
        elif not np.isfinite(found[name]).all():
            estimates[name] = Estimate(value, reason="It is undefined for some of the resamples.")
        else:
            cases = min(one.cases[name] for one in measures)
            estimates[name] = _interval(value, found[name], bounds.get(name, ANY), measures[0].size, cases)
    return estimates


def _reasons(measures: Measures, cluster: Cluster | None) -> dict[str, str]:
    """{name: why it has no interval}."""
    units = measures.size if cluster is None else len(np.unique(cluster))
    if units < LEAST_EXAMPLES:
        what = "examples" if cluster is None else "sources, which the examples share"
        return dict.fromkeys(measures.cases, f"There are {units} {what}; an interval needs {LEAST_EXAMPLES}.")
    few = {
        name: f"It is decided by {cases} rows of the rarer kind (such as wrong ones); an interval needs {LEAST_CASES}."
        for name, cases in measures.cases.items()
        if cases < LEAST_CASES
    }
    few |= {
        name: f"There are {rows} rows of the class; an interval needs {LEAST_SUPPORT}."
        for name, rows in measures.support.items()
        if rows < LEAST_SUPPORT
    }
    return few | dict(measures.without)


def _resample(
    measures: list[Measures], names: list[str], cluster: Cluster | None, resamples: int
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """{name: values of the resamples}, of two Measures their differences."""
    size, parts, done = measures[0].size, [], 0
    with console.bar("resampling", resamples) as bar:
        for counts in draw(size, cluster, resamples):
            found = [one.score(counts) for one in measures]
            parts.append({name: found[0][name] - (found[1][name] if found[1:] else 0.0) for name in names})
            done += len(counts)
            bar.update(done)
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def draw(size: int, cluster: Cluster | None = None, resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Yields blocks i64[B, N] of how often each resample has each row.  The seed is fixed: a report is always the same.

    Args:
        size: number of rows, N.
        cluster: see `estimate`.
        resamples: number of resamples.
    """
    unit = np.arange(size) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    number, rng = int(unit.max()) + 1, np.random.default_rng(0)
    block = max(1, BLOCK // size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        chosen = rng.integers(number, size=(rows, number)) + number * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * number).reshape(rows, number)[:, unit]


def _interval(value: float, found: np.ndarray, bounds: tuple[float, float], size: int, cases: int) -> Estimate:
    """The Estimate of a value with an interval between its bounds."""
    error = float(found.std(ddof=1)) * math.sqrt(size / (size - 1))
    if not error > 1e-12 * abs(value):
        return Estimate(value, reason="All resamples score the same.")
    half, (low, high) = float(scipy.special.stdtrit(cases - 1, (1 + CONFIDENCE) / 2)) * error, bounds
    if math.isinf(low):
        return Estimate(value, value - half, value + half)
    if math.isinf(high):
        factor = math.exp(half / (value - low))
        return Estimate(value, low + (value - low) / factor, low + (value - low) * factor)
    middle, reach = (low + high) / 2, (high - low) / 2
    scaled = (value - middle) / reach
    shift = half / reach / (1 - scaled**2)
    low, high = (middle + reach * math.tanh(math.atanh(scaled) + sign * shift) for sign in (-1, 1))
    return Estimate(value, low, high)
