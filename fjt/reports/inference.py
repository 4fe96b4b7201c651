"""What runs say of a method: estimates, intervals and tests over seeds and examples (numpy and scipy, float64).

A method has n runs that differ in their seed, and each predicts the same m examples of one dev set: scores are f64[n],
a table is f64[n, m].  Two things can be asked, and every Interval says which: the mean score of new seeds on this dev
set (NEW_SEEDS), and of new seeds on new examples (NEW_EXAMPLES).  Both are asked of runs that do not collapse: over
all runs two kinds are mixed, and no interval from a few runs holds for their mean.  `failed` bool[n] marks runs that
collapsed or diverged; a diverged run counts as one that predicts a constant.  Two methods are compared by the same
functions over differences of scores and of tables, paired by seed (the more the scores go together over seeds, by
`metrics.pearson`, the more that helps).  More is better; where less is, pass the negative.

What is refused is where intervals were seen not to hold; results/statistics/coverage.md has the rest, among it scores
whose skewness over seeds is 0.75 (they hold) or 2 (they do not, and a few runs cannot tell).
"""

import dataclasses
import math

import numpy as np
import scipy.special
import scipy.stats

from fjt.core.errors import UserError

NEW_SEEDS = "new seeds, this dev set; runs that do not collapse"
NEW_EXAMPLES = "new seeds, new examples; runs that do not collapse"
LEAST = 5  # seeds, and of each kind in a crossed table: with fewer, 95 % intervals cover as little as 87 %
LEAST_EXAMPLES, LEAST_WRONG = 100, 2  # of a dev set: with fewer that are wrong (or right), 86 %
BOUNDS = {"accuracy": (0, 1), "f1": (0, 1), "macro_f1": (0, 1), "mcc": (-1, 1), "pearson": (-1, 1), "spearman": (-1, 1)}
MOST_FLIPS = 32  # seeds of an exact test, in two halves of 2^16 sums
Z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)  # standard errors seen at 5 % with 80 % power


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, with degrees of freedom: of what, and from how many runs."""

    estimate: float
    low: float
    high: float
    df: float
    estimand: str
    n: int


def collapsed(predicted):
    """bool[n]: the runs that predict one value for every example.  predicted: [n, m, ...]."""
    return (predicted == predicted[:, :1]).reshape(len(predicted), -1).all(axis=1)


def summarize(scores, failed, started, finished):
    """{name: value} of f64[n] scores, all of them and `sound` those that did not fail; NaN where too few are left.

    started, finished: how many runs; one that was begun and has no score, not even a constant's, is counted here.
    """
    scores = np.float64(scores)
    if not len(scores):
        raise UserError(f"None of {started} runs has a score: let one finish before its method is summarized.")
    sound = scores[~np.asarray(failed)]
    values = {"mean": scores.mean(), "sd": _sd(scores), "median": np.median(scores), "best": scores.max()}
    values |= {"worst": scores.min(), "sound_mean": sound.mean() if len(sound) else math.nan, "sound_sd": _sd(sound)}
    counts = {"started": started, "finished": finished, "failed": len(scores) - len(sound)}
    return counts | {name: float(value) for name, value in values.items()}


def seed_interval(scores, failed):
    """The Interval of the mean over new seeds on this dev set: Student's t over the runs that did not fail.

    scores: f64[n], or differences paired by seed.  Raises UserError where fewer than LEAST runs are left.
    """
    scores = _sound(scores, failed)
    n = len(scores)
    return _interval(scores.mean(), _sd(scores) / math.sqrt(n), n - 1, NEW_SEEDS, n)


def crossed_interval(scores, table, failed, bounds=None, cluster=None):
    """The Interval of the mean over new seeds and new examples: random effects of both, crossed.

    scores: f64[n]; table: f64[n, m], `pseudo_values` of the same runs, or both as differences paired by seed;
    bounds: BOUNDS of the metric, None for differences; cluster: i[m], equal for examples that share a source.  The
    mean's variance is (MS_S + MS_E - MS_SE) / (n m), its degrees of freedom Satterthwaite's (Searle, Casella &
    McCulloch 1992, chapter 4).  The examples' part MS_E - MS_SE counts as 0 where it is below, and the degrees of
    freedom as n - 1 where they are below: new examples never make an interval narrower than seeds alone.  Between
    bounds t is taken on the logit's scale, Fisher's z, for scores near a bound are skewed.  Raises UserError for
    fewer than LEAST runs or LEAST_EXAMPLES, and for a score within LEAST_WRONG examples of a bound.
    """
    scores, table = _sound(scores, failed), _sound(table, failed, cluster)
    n, m = table.shape
    estimate = scores.mean()
    near = bounds and m * np.abs(estimate - np.float64(bounds)).min() < LEAST_WRONG * (bounds[1] - bounds[0])
    if m < LEAST_EXAMPLES or near:
        raise UserError(
            f"A score of {estimate:g} on {m} examples or sources: an interval over new ones needs {LEAST_EXAMPLES}, of "
            f"them {LEAST_WRONG} wrong and {LEAST_WRONG} right. Evaluate on more, or ask about this dev set alone."
        )
    seeds, examples, rest = _mean_squares(table)
    total, df = seeds, n - 1
    if examples > rest:
        total = seeds + examples - rest
        spread = seeds**2 / (n - 1) + examples**2 / (m - 1) + rest**2 / ((n - 1) * (m - 1))
        df = max(n - 1, total**2 / spread)
    return _interval(estimate, math.sqrt(total / (n * m)), df, NEW_EXAMPLES, n, bounds)


def smallest_difference(table, failed, cluster=None):
    """The difference that this dev set shows with 80 % power at any number of seeds: the examples' part alone.

    table: f64[n, m] differences paired by seed.  0.0 where that part is not above the noise of n runs.
    """
    table = _sound(table, failed, cluster)
    _, examples, rest = _mean_squares(table)
    return float(Z * math.sqrt(max(0.0, examples - rest) / table.size))


def seeds_needed(differences, failed, size):
    """The Interval of the seeds with which a paired t test at 5 % sees a difference `size` with 80 % power.

    differences: f64[n] of scores, paired by seed; low and high follow from the chi-square interval of their sd.
    """
    differences = _sound(differences, failed)
    n, sd = len(differences), _sd(differences)
    if not (size > 0 and sd > 0):
        raise UserError(f"Seeds to see {size:g} where differences have sd {sd:g}: both should be above 0.")
    low, high = sd * np.sqrt((n - 1) / scipy.stats.chi2.ppf((0.975, 0.025), n - 1))
    needed = [pairs_needed(size / s) for s in (sd, low, high)]
    return Interval(*needed, n - 1, f"seeds to see a difference of {size:g} with 80 % power", n)


def pairs_needed(effect):
    """The fewest pairs of a two-sided t test at 5 % with 80 % power, where the mean is `effect` sd: noncentral t."""
    for n in range(max(2, math.ceil((Z / effect) ** 2)), 2**62):  # the normal's answer is never above
        limit, shift = scipy.stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
        other = np.nan_to_num(scipy.stats.nct.cdf(-limit, n - 1, shift))  # nan where it is next to nothing
        if scipy.stats.nct.sf(limit, n - 1, shift) + other >= 0.8:
            return n


def _sd(values):
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _sound(values, failed, cluster=None):
    """f64 rows of the runs that did not fail, of which there are enough, and over clusters where these are given.

    A cluster's value is C / m times its sum about the row's mean, plus that: a ratio's residuals (Cochran 1977, 9A).
    """
    sound = np.float64(values)[~np.asarray(failed)]
    if len(sound) < LEAST:
        raise UserError(
            f"{len(sound)} of {len(values)} runs neither collapsed nor diverged, and an interval over seeds needs "
            f"{LEAST}: run more seeds, or quote the scores alone."
        )
    if cluster is None:
        return sound
    order, mean = np.argsort(cluster, kind="stable"), sound.mean(axis=1, keepdims=True)
    _, first = np.unique(np.asarray(cluster)[order], return_index=True)
    return mean + len(first) / len(order) * np.add.reduceat((sound - mean)[:, order], first, axis=1)


def _interval(estimate, error, df, estimand, n, bounds=None):
    if not error > 1e-12 * abs(estimate):  # equal but for rounding
        raise UserError(f"All {n} runs give {estimate:g}, and an interval needs a spread: run more seeds or quote it.")
    half = scipy.special.stdtrit(df, 0.975) * error
    limits = np.float64([estimate - half, estimate + half])
    if bounds:
        middle, reach = np.mean(bounds), np.ptp(bounds) / 2
        place = (estimate - middle) / reach
        limits = middle + reach * np.tanh(np.arctanh(place) + np.float64([-1, 1]) * half / reach / (1 - place**2))
    return Interval(float(estimate), *map(float, limits), float(df), estimand, n)


def _mean_squares(table):
    """Those of rows, columns and the rest of f64[n, m], one value in each cell."""
    n, m = table.shape
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    rest = table - rows - columns + table.mean()
    return m * rows.var(ddof=1), n * columns.var(ddof=1), np.sum(rest**2) / ((n - 1) * (m - 1))


def sign_flip(differences):
    """The two-sided p of the mean of f64[n] differences among all 2^n signs: exact (Fisher 1935, section 21).

    It holds, whatever the scores, where a seed's difference is as likely as its negative: give failed runs too.
    """
    d = np.float64(differences)
    if len(d) > MOST_FLIPS:
        raise UserError(f"An exact test over {len(d)} seeds tries 2^{len(d)} signs: give it at most {MOST_FLIPS}.")
    bits = [np.arange(2 ** len(half))[:, None] >> np.arange(len(half)) & 1 for half in np.array_split(d, 2)]
    first, second = ((1 - 2 * b) @ half for b, half in zip(bits, np.array_split(d, 2), strict=True))
    limit = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # sums that differ by rounding alone are equal
    beyond = len(second) - np.searchsorted(np.sort(second), limit - first)
    return min(1.0, 2 * int(beyond.sum()) / 2 ** len(d))


def holm(p):
    """f64[K] p values of a family, adjusted: at most alpha for those that Holm (1979) rejects at alpha."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    steps = np.float64(p)[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def seeds_of_tests(family, alpha):
    """How many seeds each of a family of sign-flip tests needs, for its least p to pass Holm's first step."""
    return math.ceil(math.log2(2 * family / alpha))


def sign_flip_family(differences, alpha=0.05):
    """f64[K]: the sign-flip p of each of K rows f64[n] of differences, adjusted by Holm's over all of them.

    Raises UserError where a row has so few seeds that no outcome of it could be rejected at the first step.
    """
    family, fewest = len(differences), min(len(d) for d in differences)
    needed = seeds_of_tests(family, alpha)
    if fewest < needed:
        raise UserError(
            f"{fewest} seeds in a family of {family} tests: no p is below {2 / 2**fewest:.2g}, and Holm's first step "
            f"at {alpha:g} takes {alpha / family:.2g}. Run {needed} seeds, or compare fewer methods."
        )
    return holm([sign_flip(d) for d in differences])


def probability_of_improvement(scores, others):
    """The share of all pairs in which the first, of f64[n] and f64[k], is more, ties as half: Mann-Whitney's U / nk."""
    above = np.float64(scores)[:, None] - np.float64(others)
    return float(np.mean(above > 0) + np.mean(above == 0) / 2)


def expected_best(scores, n):
    """The expected best score of n runs, unbiased, from N >= 2n: sum_i x_(i) C(i - 1, n - 1) / C(N, n)."""
    ordered = np.sort(np.float64(scores))
    if not 1 <= n <= len(ordered) / 2:
        raise UserError(f"The best of {n} out of {len(ordered)} runs: n should be from 1 to {len(ordered) // 2}.")
    return float(ordered @ [math.comb(i, n - 1) / math.comb(len(ordered), n) for i in range(len(ordered))])


def variance_parts(table):
    """Intervals of the variance that the rows' seed brings, that the columns' seed brings, and of the rest.

    table: f64[a, b] scores; row i had the i-th seed of one kind (init), column j the j-th of another (data order).
    The rest has the chi-square interval, the others the modified large-sample one, cut at 0 (Ting et al. 1990;
    Burdick & Graybill 1992, section 3.3).  Raises UserError where a or b is below LEAST.
    """
    table = np.float64(table)
    a, b = table.shape
    if min(a, b) < LEAST:
        raise UserError(f"{a} x {b} seeds: parts of the variance need {LEAST} of each kind; run more of the fewer.")
    rows, columns, rest = _mean_squares(table)
    df = (a - 1) * (b - 1)
    low, high = df * rest / scipy.stats.chi2.ppf((0.975, 0.025), df)
    return (
        _part(rows, a - 1, rest, df, b, "variance over rows' seeds"),
        _part(columns, b - 1, rest, df, a, "variance over columns' seeds"),
        Interval(float(rest), float(low), float(high), df, "variance of the rest", a * b),
    )


def _part(square, df, rest, rest_df, size, estimand):
    """The Interval of (square - rest) / size, of mean squares with these degrees of freedom."""
    limits = []
    for tail, sign in ((0.025, -1), (0.975, 1)):
        f = scipy.stats.f.isf(tail, df, rest_df)
        own = 1 - df / scipy.stats.chi2.isf(tail, df)  # G_1, then -H_1
        other = rest_df / scipy.stats.chi2.isf(1 - tail, rest_df) - 1  # H_2, then -G_2
        cross = ((f - 1) ** 2 - (own * f) ** 2 - other**2) / f
        spread = (own * square) ** 2 + (other * rest) ** 2 + cross * square * rest
        limits.append(max(0.0, float(square - rest + sign * math.sqrt(max(0.0, spread))) / size))
    return Interval(max(0.0, float(square - rest) / size), *limits, df, estimand, df + 1)
