"""Estimates, intervals and tests of a method's scores, over seeds and examples (numpy and scipy, float64).

A method has n runs that differ in their seed, and each predicts the same m examples of one dev set: scores are f64[n],
a table is f64[n, m].  An Interval estimates one of two quantities and names it: the mean score of new seeds on this
dev set (NEW_SEEDS), or of new seeds on new examples (NEW_EXAMPLES).  Both are about runs that do not collapse:
all runs are a mixture of two kinds, and an interval from a few runs does not cover the mean of such a mixture.
`failed` bool[n] marks runs that collapsed (`Problem.collapsed`) or diverged; a diverged run counts as one that
predicts a constant.  Two
methods are compared by the same functions over differences of scores and of tables, paired by seed.  Pairing helps
more the higher the scores correlate over seeds (`metrics.pearson`).  Higher scores are better; where lower ones are,
pass the negative.

A function raises UserError where intervals were measured not to cover 95 %.  results/statistics/coverage.md has the
other measurements, among them scores whose skewness over seeds is 0.75 (intervals hold) or 2 (they do not, and a few
runs cannot show it).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from fjt.core.errors import UserError

NEW_SEEDS = "new seeds, this dev set; runs that do not collapse"
NEW_EXAMPLES = "new seeds, new examples; runs that do not collapse"
LEAST = 5  # seeds, and seeds of each kind in a crossed table: with fewer, 95 % intervals cover as little as 87 %
LEAST_EXAMPLES, LEAST_WRONG = 100, 2  # examples, and wrong (or right) ones: with fewer, intervals cover 86 %
LEAST_T = 8  # seeds of a t test over new examples: with fewer, it errs in up to 6 % of studies at a level of 5 %
MOST_FLIPS = 32  # seeds of an exact test, in two halves of 2^16 sums
Z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)  # standard errors that 80 % power at 5 % needs

Scores = Float[np.ndarray, " n"]
Table = Float[np.ndarray, "n m"]
Cluster = Int[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
        estimate: the estimate.
        low: lower end.
        high: upper end.
        df: degrees of freedom.
        estimand: the estimated quantity.
        n: number of runs that it is computed from.
        error: standard error of the estimate of a mean, NaN for other quantities.
    """

    estimate: float
    low: float
    high: float
    df: float
    estimand: str
    n: int
    error: float = math.nan


def summarize(scores: ArrayLike, failed: ArrayLike, started: int, finished: int) -> dict[str, float]:
    """{name: value} of all scores, and as `sound_*` of runs that did not fail; NaN where there are too few.

    Args:
        scores: f64[n].
        failed: bool[n].
        started: number of runs that were started, including those without a score.
        finished: number of runs that finished.

    Raises:
        UserError: there is no score.
    """
    scores = np.asarray(scores, np.float64)
    if not len(scores):
        raise UserError(f"None of {started} runs has a score: let one finish before its method is summarized.")
    sound = scores[~np.asarray(failed)]
    values = {"mean": scores.mean(), "sd": _sd(scores), "median": np.median(scores), "best": scores.max()}
    values |= {"worst": scores.min(), "sound_mean": sound.mean() if len(sound) else math.nan, "sound_sd": _sd(sound)}
    counts = {"started": started, "finished": finished, "failed": len(scores) - len(sound)}
    return counts | {name: float(value) for name, value in values.items()}


def seed_interval(scores: ArrayLike, failed: ArrayLike) -> Interval:
    """The Interval of the mean over new seeds on this dev set: Student's t over the runs that did not fail.

    Args:
        scores: f64[n], or differences paired by seed.
        failed: bool[n].

    Raises:
        UserError: fewer than LEAST runs did not fail.
    """
    scores = _sound(scores, failed)
    n = len(scores)
    return _interval(scores.mean(), _sd(scores) / math.sqrt(n), n - 1, NEW_SEEDS, n)


def crossed_interval(
    scores: ArrayLike,
    table: ArrayLike,
    failed: ArrayLike,
    bounds: tuple[float, float] | None = None,
    cluster: Cluster | None = None,
) -> Interval:
    """The Interval of the mean over new seeds and new examples: crossed random effects of both.

    The mean's variance is (MS_S + MS_E - MS_SE) / (n m) (Searle, Casella & McCulloch 1992, chapter 4).  Its degrees of
    freedom lie midway between Satterthwaite's and n - 1: Satterthwaite's alone are estimated too high, so that a test
    of 8 seeds errs in 5.3 % of studies at a level of 5 %.  The examples' part MS_E - MS_SE is at least 0 and the
    degrees of freedom at least n - 1, so that new examples never make an interval narrower than seeds alone.  With
    bounds, the t interval is computed on the logit scale, Fisher's z, because scores near a bound are skewed.

    Args:
        scores: f64[n], or differences paired by seed.
        table: f64[n, m], `pseudo_values` of the same runs, or their differences paired by seed.
        failed: bool[n].
        bounds: of the metric (`fjt.tasks.kinds.bounds_of`); None for differences.
        cluster: equal for examples that share a source.

    Raises:
        UserError: fewer than LEAST runs or LEAST_EXAMPLES, or a score within LEAST_WRONG examples of a bound.
    """
    scores, table = _sound(scores, failed), _sound(table, failed, cluster)
    n, m = table.shape
    estimate = scores.mean()
    near = bounds and m * np.abs(estimate - np.asarray(bounds)).min() < LEAST_WRONG * (bounds[1] - bounds[0])
    if m < LEAST_EXAMPLES or near:
        raise UserError(
            f"A score of {estimate:g} on {m} examples or sources: an interval over new ones needs {LEAST_EXAMPLES}, "
            f"of them {LEAST_WRONG} wrong and {LEAST_WRONG} right. Evaluate on more, or report this dev set alone."
        )
    seeds, examples, rest = _mean_squares(table)
    total, df = seeds, n - 1
    if examples > rest:
        total = seeds + examples - rest
        spread = seeds**2 / (n - 1) + examples**2 / (m - 1) + rest**2 / ((n - 1) * (m - 1))
        df = (n - 1 + max(n - 1, total**2 / spread)) / 2
    return _interval(estimate, math.sqrt(total / (n * m)), df, NEW_EXAMPLES, n, bounds)


def smallest_difference(table: ArrayLike, failed: ArrayLike, cluster: Cluster | None = None) -> float:
    """The difference that this dev set shows with 80 % power and any number of seeds.

    It follows from the examples' part of the variance alone, and is 0.0 where that is not above the noise of n runs.

    Args:
        table: f64[n, m] differences paired by seed.
        failed: bool[n].
        cluster: equal for examples that share a source.
    """
    table = _sound(table, failed, cluster)
    _, examples, rest = _mean_squares(table)
    return float(Z * math.sqrt(max(0.0, examples - rest) / table.size))


def seeds_needed(differences: ArrayLike, failed: ArrayLike, size: float) -> Interval:
    """The Interval of the number of seeds with which a paired t test at 5 % finds a difference with 80 % power.

    Its ends follow from the chi-square interval of the differences' sd.

    Args:
        differences: f64[n] of scores, paired by seed.
        failed: bool[n].
        size: the difference to find.
    """
    differences = _sound(differences, failed)
    n, sd = len(differences), _sd(differences)
    if not (size > 0 and sd > 0):
        raise UserError(
            f"The number of seeds to find a difference of {size:g} between scores whose differences have sd {sd:g} is "
            "undefined: both must be above 0."
        )
    low, high = sd * np.sqrt((n - 1) / scipy.stats.chi2.ppf((0.975, 0.025), n - 1))
    estimate, fewest, most = (pairs_needed(size / s) for s in (sd, low, high))
    return Interval(estimate, fewest, most, n - 1, f"seeds to see a difference of {size:g} with 80 % power", n)


def decide(mean: float, sd: float, smallest: float, level: float) -> tuple[int | None, float]:
    """(number of seeds, factor of the number of examples) that show a difference for new seeds and new examples.

    With as many seeds a test at the level has 80 % power (normal quantiles).  The number is None where no number of
    seeds has it on this dev set; the factor is then the least by which the examples must increase.

    Args:
        mean: the difference.
        sd: of differences over seeds.
        smallest: of `smallest_difference`, for this dev set.
        level: of the test.
    """
    of_level = scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(0.8)
    allowed, examples = (mean / of_level) ** 2, (smallest / Z) ** 2  # variances of the mean
    if examples >= allowed:
        return None, float(examples / allowed)
    return math.ceil(sd**2 / (allowed - examples)), 1.0


def pairs_needed(effect: float) -> int:
    """The least number of pairs with which a two-sided t test at 5 % has 80 % power, by the noncentral t distribution.

    Args:
        effect: mean of the differences in units of their sd.
    """
    n = max(2, math.ceil((Z / effect) ** 2))  # the answer for a known sd is never above that for an estimated one
    while True:
        limit, shift = scipy.stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
        other = np.nan_to_num(scipy.stats.nct.cdf(-limit, n - 1, shift))  # nan where it is nearly 0
        if scipy.stats.nct.sf(limit, n - 1, shift) + other >= 0.8:
            return n
        n += 1


def _sd(values: Scores) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _sound(values: ArrayLike, failed: ArrayLike, cluster: Cluster | None = None) -> Float[np.ndarray, "n ..."]:
    """f64 rows of the runs that did not fail, with one column per cluster where clusters are given.

    A cluster's value is the row's mean plus C / m times the cluster's sum of deviations from that mean: the residuals
    of a ratio (Cochran 1977, 9A).

    Raises:
        UserError: fewer than LEAST runs did not fail.
    """
    failed = np.asarray(failed)
    sound = np.asarray(values, np.float64)[~failed]
    if len(sound) < LEAST:
        raise UserError(
            f"{len(sound)} of {len(failed)} runs neither collapsed nor diverged, but an interval over seeds needs "
            f"{LEAST}: run more seeds, or quote the scores alone."
        )
    if cluster is None:
        return sound
    order, mean = np.argsort(cluster, kind="stable"), sound.mean(axis=1, keepdims=True)
    _, first = np.unique(np.asarray(cluster)[order], return_index=True)
    return mean + len(first) / len(order) * np.add.reduceat((sound - mean)[:, order], first, axis=1)


def _interval(
    estimate: float, error: float, df: float, estimand: str, n: int, bounds: tuple[float, float] | None = None
) -> Interval:
    """The t Interval of an estimate with standard error `error`, on Fisher's scale between bounds."""
    if not error > 1e-12 * abs(estimate):  # equal except for rounding
        raise UserError(
            f"All {n} runs score {estimate:g}, but an interval needs scores that differ: run more seeds, or quote the "
            "score alone."
        )
    half = scipy.special.stdtrit(df, 0.975) * error
    low, high = estimate - half, estimate + half
    if bounds:
        middle, reach = np.mean(bounds), np.ptp(bounds) / 2
        scaled = (estimate - middle) / reach
        signs = np.array([-1.0, 1.0])
        low, high = middle + reach * np.tanh(np.arctanh(scaled) + signs * half / reach / (1 - scaled**2))
    return Interval(float(estimate), float(low), float(high), float(df), estimand, n, float(error))


def t_test(interval: Interval) -> float:
    """The two-sided p of a mean difference of 0, by Student's t with the error and df of an Interval of the mean.

    It is about the Interval's estimand, and assumes what the Interval assumes.
    """
    return float(2 * scipy.stats.t.sf(abs(interval.estimate) / interval.error, interval.df))


def most_failures(n: int) -> float:
    """The upper end of the one-sided 95 % interval of the chance of a failure, of which n runs show none."""
    return 1 - 0.05 ** (1 / n)


def _mean_squares(table: Table) -> tuple[float, float, float]:
    """Mean squares of the rows, the columns and the rest of a table with one value per cell."""
    n, m = table.shape
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    rest = table - rows - columns + table.mean()
    return m * rows.var(ddof=1), n * columns.var(ddof=1), np.sum(rest**2) / ((n - 1) * (m - 1))


def sign_flip(differences: ArrayLike) -> float:
    """The exact two-sided p of the mean difference among all 2^n assignments of signs (Fisher 1935, section 21).

    Its null is symmetry: a seed is as likely to put one method ahead as to put the other ahead by the same amount.
    Means that are equal because one method is usually a little better and sometimes fails are not symmetric; there it
    errs in up to half of all studies (results/statistics/coverage.md).

    Args:
        differences: f64[n], paired by seed.

    Raises:
        UserError: more than MOST_FLIPS differences.
    """
    d = np.asarray(differences, np.float64)
    if len(d) > MOST_FLIPS:
        raise UserError(f"An exact test over {len(d)} seeds tries 2^{len(d)} signs: use at most {MOST_FLIPS} seeds.")
    bits = [np.arange(2 ** len(half))[:, None] >> np.arange(len(half)) & 1 for half in np.array_split(d, 2)]
    first, second = ((1 - 2 * b) @ half for b, half in zip(bits, np.array_split(d, 2), strict=True))
    limit = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # sums that differ by rounding alone are equal
    beyond = len(second) - np.searchsorted(np.sort(second), limit - first)
    return min(1.0, 2 * int(beyond.sum()) / 2 ** len(d))


def holm(p: ArrayLike) -> Float[np.ndarray, " K"]:
    """The p-values of a family, adjusted: at most alpha for hypotheses that Holm's (1979) method rejects at alpha."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def seeds_of_tests(family: int, alpha: float) -> int:
    """Number of seeds with which the least p of each of `family` sign-flip tests can pass Holm's first step."""
    return math.ceil(math.log2(2 * family / alpha))


def sign_flip_family(
    differences: Sequence[Scores] | Float[np.ndarray, "K n"], alpha: float = 0.05
) -> Float[np.ndarray, " K"]:
    """The sign-flip p of each row of differences, adjusted over all K rows by Holm's method.

    Args:
        differences: K rows f64[n], paired by seed.
        alpha: level of the tests.

    Raises:
        UserError: a row has so few seeds that no outcome could be rejected at the first step.
    """
    family, fewest = len(differences), min(len(d) for d in differences)
    needed = seeds_of_tests(family, alpha)
    if fewest < needed:
        raise UserError(
            f"{fewest} seeds in a family of {family} tests: no p is below {2 / 2**fewest:.2g}, but Holm's first step "
            f"at {alpha:g} needs {alpha / family:.2g}. Run {needed} seeds, or compare fewer methods."
        )
    return holm([sign_flip(d) for d in differences])


def t_family(intervals: Sequence[Interval | None]) -> Float[np.ndarray, " K"]:
    """The p of `t_test` of each Interval, adjusted over all K of them by Holm's method.

    Args:
        intervals: of mean differences over new seeds and new examples.  None for a tie, which no test rejects.

    Raises:
        UserError: an Interval is of fewer than LEAST_T seeds.
    """
    fewest = min((interval.n for interval in intervals if interval), default=LEAST_T)
    if fewest < LEAST_T:
        raise UserError(
            f"{fewest} seeds: a test over new seeds and new examples needs {LEAST_T}, because with fewer it errs more "
            f"often than its level. Run {LEAST_T} seeds."
        )
    return holm([t_test(interval) if interval else 1.0 for interval in intervals])


def probability_of_improvement(scores: Scores, others: Float[np.ndarray, " k"]) -> float:
    """The share of all n k pairs in which the first score is higher, ties as half: Mann-Whitney's U / (n k)."""
    above = np.asarray(scores, np.float64)[:, None] - np.asarray(others, np.float64)
    return float(np.mean(above > 0) + np.mean(above == 0) / 2)


def expected_best(scores: ArrayLike, n: int) -> float:
    """The expected best score of n runs, unbiased, from N >= 2n scores: sum_i x_(i) C(i - 1, n - 1) / C(N, n)."""
    ordered = np.sort(np.asarray(scores, np.float64))
    if not 1 <= n <= len(ordered) / 2:
        raise UserError(f"The best of {n} out of {len(ordered)} runs: n must be from 1 to {len(ordered) // 2}.")
    return float(ordered @ [math.comb(i, n - 1) / math.comb(len(ordered), n) for i in range(len(ordered))])


def variance_parts(table: ArrayLike) -> tuple[Interval, Interval, Interval]:
    """Intervals of the variance due to the rows' seed, of the variance due to the columns' seed, and of the rest.

    The rest has a chi-square interval; the other two have the modified large-sample interval, cut at 0 (Ting et al.
    1990; Burdick & Graybill 1992, section 3.3).

    Args:
        table: f64[a, b] scores.  Row i has the i-th seed of one kind (init), column j the j-th of another (data order).

    Raises:
        UserError: a or b is below LEAST.
    """
    table = np.asarray(table, np.float64)
    a, b = table.shape
    if min(a, b) < LEAST:
        raise UserError(f"{a} x {b} seeds: parts of the variance need {LEAST} of each kind. Run more seeds.")
    rows, columns, rest = _mean_squares(table)
    df = (a - 1) * (b - 1)
    low, high = df * rest / scipy.stats.chi2.ppf((0.975, 0.025), df)
    return (
        _part(rows, a - 1, rest, df, b, "variance over rows' seeds"),
        _part(columns, b - 1, rest, df, a, "variance over columns' seeds"),
        Interval(float(rest), float(low), float(high), df, "variance of the rest", a * b),
    )


def _part(square: float, df: int, rest: float, rest_df: int, size: int, estimand: str) -> Interval:
    """The Interval of (square - rest) / size, for mean squares with `df` and `rest_df` degrees of freedom."""
    limits = []
    for tail, sign in ((0.025, -1), (0.975, 1)):
        f = scipy.stats.f.isf(tail, df, rest_df)
        g = 1 - df / scipy.stats.chi2.isf(tail, df)  # G_1, then -H_1
        h = rest_df / scipy.stats.chi2.isf(1 - tail, rest_df) - 1  # H_2, then -G_2
        cross = ((f - 1) ** 2 - (g * f) ** 2 - h**2) / f
        spread = (g * square) ** 2 + (h * rest) ** 2 + cross * square * rest
        limits.append(max(0.0, float(square - rest + sign * math.sqrt(max(0.0, spread))) / size))
    low, high = limits
    return Interval(max(0.0, float(square - rest) / size), low, high, df, estimand, df + 1)
