"""How often the 95 % intervals of `fjt/reports/inference.py` hold what they are about, and how often its tests err.

Studies are simulated in which the answer is known: runs of two methods answer the same examples, with effects of the
seed (in part common to both methods), of the example (the same) and of the pair. Choices between two classes come
from a latent margin, scores of sentence pairs from a slope and noise. On new examples the true value is an integral;
on one dev set it is the mean of some thousands of runs. Of the seeds of a study, a row with fewer takes the first.
Runs fail as well, of both methods or of one: they answer all examples alike, or all but a few.

Passed when the intervals that the code gives hold in 0.93 to 0.97 of the studies to which it gives one, parts of the
variance that are 0 (an interval that is cut at 0 errs on one side) in 0.965 to 0.985, no family of tests errs in
more than 5 % of the studies, no test does of methods of which one sometimes fails, and methods that are known to fail
are seen to fail. Counts of errors may exceed 5 % by as much as chance alone explains in 1 of 40 tables.
"""

import argparse
import dataclasses
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import scipy
import scipy.stats

from fjt.core.errors import UserError
from fjt.reports import inference
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.kinds import bounds_of
from fjt.tasks.regression import REGRESSION
from tests.benchmarks import common
from tests.benchmarks.coverage_table import ALPHA, PARTS, judge, table
from tests.benchmarks.populations import EASY, HARD, SEVERAL, SHAPES, SOURCES

SEEDS = (5, 10, 20)


def collapsed(predicted, label):
    """bool[n]: which of n runs the code calls collapsed."""
    problem = SEVERAL if label.ndim > 1 else REGRESSION if label.dtype.kind == "f" else CLASSIFICATION
    return np.array([problem.collapsed(run, label) for run in predicted])


class Tally:
    """How many studies were given an interval, and in how many of them it held the truth, by (metric, of, n)."""

    def __init__(self, **facts):
        self.facts, self.counts = facts, {}

    def add(self, key, truth, make, *values):
        counts = self.counts.setdefault(key, [0, 0, 0])
        counts[0] += 1
        try:
            interval = make(*values)
        except UserError:
            return
        counts[1] += 1
        counts[2] += bool(interval.low <= truth <= interval.high)

    def rows(self):
        """[{facts, of, n, held: {metric: "held/given/studies"}}]."""
        rows = {}
        for (metric, of, n), (studies, given, held) in self.counts.items():
            row = rows.setdefault((of, n), self.facts | {"of": of, "n": n, "held": {}})
            row["held"][metric] = f"{held}/{given}/{studies}"
        return list(rows.values())


def on_new_examples(name, shape, m, repeats, rng, metrics, seeds=SEEDS, make=inference.crossed_interval):
    """Rows: the interval for new seeds and new examples."""
    tally, truth = Tally(shape=name, m=m), shape.truth()
    for _ in range(repeats):
        source, label, effect = shape.draw_examples(rng, m)
        predicted = shape.draw_runs(rng, max(seeds), label, effect)
        failed = [collapsed(p, label) for p in predicted]
        scores = shape.scores(predicted, label, metrics)
        for metric in metrics:
            tables, bounds = (
                [shape.pseudo_values(metric, p, label) for p in predicted],
                bounds_of(metric),
            )
            for n in seeds:
                (a, b), (x, y), (out, away) = ([v[:n] for v in pair] for pair in (tables, scores[metric], failed))
                true, other = truth[metric]
                tally.add((metric, "level", n), true, make, x, a, out, bounds, source)
                tally.add((metric, "difference", n), true - other, make, x - y, a - b, out | away, None, source)
    return tally.rows()


def on_this_dev_set(name, shape, m, repeats, rng, metrics, mixed=False, sets=10, runs=2000):
    """Rows: the interval for new seeds, on dev sets of each of which `runs` runs are all there are.

    mixed: what the code does not offer, an interval for the mean over all runs, collapsed ones among them.
    """
    tally = Tally(shape=name, m=m)
    for _ in range(sets):
        _, label, effect = shape.draw_examples(rng, m)
        parts, failed = [], []
        for _ in range(runs // 500):
            predicted = shape.draw_runs(rng, 500, label, effect)
            failed.append([collapsed(p, label) & (not mixed) for p in predicted])
            parts.append(shape.scores(predicted, label, metrics))
        out, away = np.concatenate(failed, axis=1)
        for metric in metrics:
            x, y = np.concatenate([part[metric] for part in parts], axis=1)
            for of, values, gone in (("level", x, out), ("difference", x - y, out | away)):
                true = values[~gone].mean()
                for _ in range(repeats // sets):
                    some = rng.choice(runs, max(SEEDS), replace=False)
                    for n in SEEDS:
                        tally.add((metric, of, n), true, inference.seed_interval, values[some[:n]], gone[some[:n]])
    return tally.rows()


def on_skewed_seeds(skewness, repeats, rng):
    """Rows: the interval for new seeds, over scores that fall to one side as a gamma of this skewness does."""
    tally, shape = Tally(shape=f"skewness {skewness:g} over seeds", m=None), 4 / skewness**2
    for _ in range(repeats):
        scores = -rng.gamma(shape, size=max(SEEDS))
        for n in SEEDS:
            tally.add(("any score", "level", n), -shape, inference.seed_interval, scores[:n], np.zeros(n, bool))
    return tally.rows()


def variance(repeats, rng):
    """Rows: the parts of the variance, two of them `part` times the rest."""
    rows = []
    for a, b in ((5, 5), (10, 5), (10, 10)):
        for part in (0.0, 0.25, 1.0, 4.0):
            tally = Tally(shape=f"{a} x {b} seeds", part=part)
            for _ in range(repeats):
                table = rng.normal(size=(a, b)) + math.sqrt(part) * (rng.normal(size=(a, 1)) + rng.normal(size=b))
                found = inference.variance_parts(table)
                for name, true, interval in zip(PARTS, (part, part, 1), found, strict=True):
                    tally.add((name, "variance", f"{a} x {b}"), true, lambda interval: interval, interval)
            rows += tally.rows()
    return rows


def seeds_needed(repeats, rng):
    """Rows: the range of seeds that a paired t test needs."""
    tally, make = Tally(shape="seeds for 80 % power", m=None), inference.seeds_needed
    for effect in (0.2, 0.5):
        true = inference.pairs_needed(effect)
        for _ in range(repeats):
            differences = rng.normal(size=max(SEEDS))
            for n in SEEDS:
                key = f"difference of {effect} sd", "seeds", n
                tally.add(key, true, make, differences[:n], np.zeros(n, bool), effect)
    return tally.rows()


def families(repeats, rng, m=277):
    """[{family, n, different, studies, erred}]: in how many a method equal to the baseline was called different.

    All are compared with one baseline over the same seeds; one run in twenty collapses and takes part; scores are
    shares of m examples, so that they tie.
    """
    rows = []
    for family, n in ((1, 6), (4, 8), (4, 10), (10, 9), (10, 20)):
        for different in sorted({0, family // 2, family - 1}):
            erred = 0
            for _ in range(repeats):
                scores = 0.85 + 0.01 * (rng.normal(size=n) + rng.normal(size=(family + 1, n)))
                scores[1 : different + 1] += 0.02
                scores[rng.random(scores.shape) < 0.05] = 0.5
                scores = np.round(scores * m) / m
                p = inference.sign_flip_family(scores[1:] - scores[0], ALPHA)
                erred += bool(np.any(p[different:] <= ALPHA))
            rows.append({"family": family, "n": n, "different": different, "studies": repeats, "erred": erred})
    return rows


def example_families(repeats, rng, m=200):
    """[{family, n, share, studies, erred}]: as `families`, of tests over new seeds and new examples.

    Effects of seeds and of examples are normal, and no method differs.  share: the seeds' share of a mean's variance.
    """
    rows = []
    for family, n in ((1, 8), (1, 12), (4, 8), (10, 9), (21, 12)):
        for share_of_seeds in (0.3, 0.8):
            erred, studies = 0, repeats * (10 if family < 10 else 4)
            for _ in range(studies):
                seeds = math.sqrt(share_of_seeds * n) * rng.normal(size=(family + 1, n, 1))
                examples = math.sqrt((1 - share_of_seeds) * m) * rng.normal(size=(family + 1, 1, m))
                tables = seeds + examples + 0.3 * math.sqrt(m) * rng.normal(size=(family + 1, n, m))
                found = [
                    inference.crossed_interval(table.mean(axis=1), table, np.zeros(n, bool))
                    for table in tables[1:] - tables[0]
                ]
                erred += bool(np.any(inference.t_family(found) <= ALPHA))
            rows.append({"family": family, "n": n, "share": share_of_seeds, "studies": studies, "erred": erred})
    return rows


def one_sided(repeats, rng):
    """[{null, rate, points, n, studies, shown, erred}]: one method fails in a share of its runs by some points.

    Null "sound": the methods are equal but for these runs.  The code knows the failed runs and shows a p only where
    there is none.  Null "mean": the method that fails is better otherwise, so that the means are equal; `erred` are
    then the studies in which a p of all runs, which the code does not show, would call the methods different.
    """
    rows = []
    for rate, depth in ((0.05, 30), (0.05, 15), (0.1, 30), (0.1, 15)):
        for n in (8, 12, 20):
            for null in ("sound", "mean"):
                studies = shown = erred = 0
                while shown < (40 * repeats if null == "sound" else repeats):
                    studies += 1
                    failed = rng.random(n) < rate
                    d = rng.normal(size=n) - rng.normal(size=n) - depth * failed
                    d += rate * depth * (null == "mean")
                    if null == "sound" and failed.any():
                        continue
                    shown += 1
                    erred += inference.sign_flip(d) <= ALPHA
                facts = {"null": null, "rate": rate, "points": depth, "n": n}
                rows.append(facts | {"studies": studies, "shown": shown, "erred": int(erred)})
    return rows


def independent(scores, table, failed, bounds, source):
    """What is wrong: all n m values as if they were independent."""
    half = 1.96 * table.std(ddof=1) / math.sqrt(table.size)
    return inference.Interval(scores.mean(), scores.mean() - half, scores.mean() + half, math.inf, "", len(scores))


def without_sources(scores, table, failed, bounds, source):
    return inference.crossed_interval(scores, table, failed, bounds)


def with_few_seeds():
    """{n: the least coverage of t with `crossed_interval`'s degrees of freedom, over all shares of the seeds' part}.

    By integration, for normal effects and endless examples: why LEAST is what it is.
    """
    found = {}
    for n in (2, 3, 4, *SEEDS):
        square = scipy.stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1) / (n - 1)
        part = np.linspace(0.01, 1, 100)[:, None]
        total = part * square + 1 - part
        df = (n - 1) * (1 + (total / (part * square)) ** 2) / 2
        half = scipy.stats.t.ppf(0.975, df) * np.sqrt(total)
        found[n] = float((2 * scipy.stats.norm.cdf(half) - 1).mean(axis=1).min())
    return found


def measure_shapes(names, repeats, rng):
    """(rows of new examples, of this dev set) of shapes.  Of 5 seeds twice as many studies: t is nearest the band."""
    new, this, start = [], [], time.perf_counter()
    for name in names:
        shape, sizes = SHAPES[name]
        for m in sizes:
            quick = tuple(metric for metric in shape.metrics if metric != "spearman")
            new += on_new_examples(name, shape, m, 2 * repeats, rng, quick, SEEDS[:1])
            new += on_new_examples(name, shape, m, repeats, rng, quick, SEEDS[1:])
            if "spearman" in shape.metrics:  # its work grows with the square of m
                new += on_new_examples(name, shape, m, repeats if m < 1000 else repeats // 2, rng, ("spearman",))
            this += on_this_dev_set(name, shape, m, 2 * repeats, rng, shape.metrics)
            print(f"{name}, {m} examples: {time.perf_counter() - start:.0f} s", flush=True)
    return new, this


def measure(repeats):
    """{part of the record: rows}."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    new, this = measure_shapes(SHAPES, repeats, rng)
    for skewness in (0.5, 0.75):
        this += on_skewed_seeds(skewness, 2 * repeats, rng)
    one, few = ("accuracy",), repeats // 2
    fails = on_new_examples("all n m values as if independent", HARD, 277, few, rng, one, make=independent)
    fails += on_new_examples("sources left out", SOURCES, 1000, few, rng, one, make=without_sources)
    for rate in (0.05, 0.1):
        shape, name = dataclasses.replace(EASY, collapse=rate), f"mean over all runs, {rate:.0%} of them collapsed"
        fails += on_this_dev_set(name, shape, 277, few, rng, ("mcc",), mixed=True)
    for rate in (0.05, 0.1):
        shape = dataclasses.replace(EASY, collapse=rate, odd=1)
        name = f"mean over all runs, {rate:.0%} of them say one thing but once"
        fails += on_this_dev_set(name, shape, 277, few, rng, ("mcc",), mixed=True)
    fails += on_skewed_seeds(2.0, repeats, rng)
    found = {"new examples": new, "this dev set": this, "fails": [row for row in fails if row["of"] == "level"]}
    near = dataclasses.replace(EASY, margins=(2.326, 2.38))
    found["near a bound"] = on_new_examples("accuracy 0.99", near, 277, few, rng, one)
    found |= {"variance": variance(2 * repeats, rng), "seeds needed": seeds_needed(repeats, rng)}
    found |= {"families": families(repeats, rng), "few seeds": with_few_seeds()}
    found |= {"example families": example_families(2 * repeats, rng), "one-sided": one_sided(repeats, rng)}
    print(f"all: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main(argv=None):
    args = parse(argv)
    start = time.process_time()
    versions = {name: version for name, version in common.versions().items() if name in ("python", "numpy")}
    output, command = Path(args.output), f"python -m tests.benchmarks.coverage --repeats {args.repeats}"
    facts = {"versions": versions | {"scipy": scipy.__version__}, "device": common.device()}
    if args.shapes:  # their rows anew, in the record of all
        record, command = common.read_json(output / "coverage.json"), f"{command} --shapes {shlex.join(args.shapes)}"
        rows = measure_shapes(args.shapes, args.repeats, np.random.default_rng(0))
        for part, found in zip(("new examples", "this dev set"), rows, strict=True):
            record[part] = [row for row in record[part] if row["shape"] not in args.shapes] + found
        record["later"] = [*record.get("later", []), {"command": command} | facts]
    else:
        record = {"command": command} | facts | measure(args.repeats)
        record["seconds"] = time.process_time() - start
    common.write_json(output / "coverage.json", record)
    (output / "coverage.md").write_text(table(record))
    print((output / "coverage.md").read_text())
    sys.exit(any(not passed for _, passed in judge(record)))


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=2000, help="studies of a case, a multiple of 10; of some twice or half as many"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="measure these alone, and keep the other rows")
    parser.add_argument("--output", default="results/statistics", help="where coverage.json and coverage.md are")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
