"""How often the 95 % intervals of `fjt/reports/resampling.py` hold: of one run's scores, and of differences of two.

Rows are drawn from a population whose scores are known: a logit has a normal distribution in each class, and is the
exact log odds times a factor (1: calibrated; 2: too sure).  Of a pair of runs, the second sees the first one's logits
with noise.  Sets have three such labels; rows that share a source share a shift of their logits; sentences have numbers
of entities that are true, found and both; scores are a line with noise.  The true scores are those of 1,000,000 rows.
In a cross-validation, linear discriminants are trained on each sample, and the true score is the mean of these models'.
Passed when all intervals that the code gives hold in 0.91 to 0.985 of the samples to which it gives one; a score to
which it gives an interval in fewer than MOST_SHOWN of the samples is not counted, because these samples are a
selection.  The bootstrap of the calibration error, which the code does not give, is measured too.

The number of samples makes the band a test of the intervals and not of chance: an interval that holds with probability
0.95 leaves the band with a probability of 0.0052 in 250 samples and of 5e-8 in 1,000 (exact binomial).  One of 282
independent looks leaves it with a probability of 0.77 in 250 samples and of 1.5e-5 in 1,000.

python -m tests.benchmarks.intervals [--samples 1000] [--seed 1] [--shapes NAME ...]
"""

import argparse
import concurrent.futures
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import scipy

from fjt.reports import resampling
from fjt.tasks import measures
from tests.benchmarks import common

RESAMPLES = 200  # not a thousand, to save time; fewer can only make the intervals hold less often
BAND, MOST_SHOWN, TRUE_ROWS = (0.91, 0.985), 0.9, 1_000_000
TESTED = 50_000  # new rows for the models of a cross-validation, as many for each
GIVEN = ("score", "difference", "folds")  # kinds of intervals that the code gives


def classes(size, rng, number, share, distance, factor, per_source=0):
    """(measures of a run, of another run, number of rows that they predict differently, sources or None).

    Args:
        size: number of rows.
        rng: the generator.
        number: of classes.
        share: of the last class.
        distance: of the classes, in standard deviations.
        factor: of the logits.
        per_source: number of rows that share a source, 0 for none.
    """
    prior = np.r_[np.full(number - 1, (1 - share) / (number - 1)), share]
    label = rng.choice(number, size, p=prior)
    truth = label[:, None] == np.arange(number)
    seen, cluster = distance * truth + rng.normal(size=(size, number)), None
    if per_source:
        cluster = np.arange(size) // per_source
        seen += rng.normal(size=(cluster[-1] + 1, number))[cluster]
    runs = []
    for noise in (0.0, 0.6):
        view = seen + noise * rng.normal(size=seen.shape)
        logits = factor * (distance / (1 + noise**2) * view + np.log(prior))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        chosen = logits.argmax(axis=1)[:, None] == np.arange(number)
        names = [str(one) for one in range(number)]
        runs.append((chosen, measures.of_classes(chosen, odds / odds.sum(1, keepdims=True), truth, names, True)))
    (one, first), (other, second) = runs
    return first, second, int((one != other).any(axis=1).sum()), cluster


def sets(size, rng):
    """As `classes`, of sets of labels."""
    share = np.array([0.2, 0.3, 0.5])
    truth = rng.random((size, 3)) < share
    seen, runs = 1.5 * truth + rng.normal(size=truth.shape), []
    for noise in (0.0, 0.6):
        view = seen + noise * rng.normal(size=seen.shape)
        logits = 1.5 * (1.5 / (1 + noise**2) * (view - 0.75) + np.log(share / (1 - share)))
        chosen = logits >= 0
        runs.append((chosen, measures.of_classes(chosen, 1 / (1 + np.exp(-logits)), truth, ["0", "1", "2"], False)))
    (one, first), (other, second) = runs
    return first, second, int((one != other).any(axis=1).sum()), None


def sentences(size, rng):
    """As `classes`, of a function of row numbers: F1 of the entities of sentences."""
    true, runs = rng.poisson(1.0, size), []
    for chance in (0.7, 0.65):
        hits = rng.binomial(true, chance)
        found = hits + rng.poisson(0.3, size)

        def f1(rows, hits=hits, found=found):
            return float(2 * hits[rows].sum() / (true[rows].sum() + found[rows].sum()))

        runs.append((hits, measures.of_scorers({"entity_f1": f1}, size, {"entity_f1": measures.UNIT})))
    (one, first), (other, second) = runs
    return first, second, int((one != other).sum()), None


def scores(size, rng):
    """As `classes`, of scores."""
    label = rng.normal(size=(size, 1))
    runs = [0.8 * label + noise * rng.normal(size=(size, 1)) for noise in (0.6, 0.7)]
    return *(measures.of_scores(run, label) for run in runs), size, None


def cross_validated(size, rng, folds, share, distance, width):
    """(measures of the pooled predictions of each fold's model, of the same models for TESTED new rows).

    The models are linear discriminants, trained on the rows of the other folds.  See `classes` for the arguments.

    Args:
        size: number of rows.
        rng: the generator.
        folds: their number; each has the same share of each class.
        share: of the second class.
        distance: of the two classes.
        width: number of features; the first one tells the classes apart, the others are noise.
    """

    def rows(number):
        label = (rng.random(number) < share).astype(np.int64)
        seen = rng.normal(size=(number, width))
        seen[:, 0] += distance * label
        return seen, label

    seen, label = rows(size)
    fold = np.empty(size, np.int64)
    fold[np.lexsort((rng.random(size), label))] = np.arange(size) % folds
    logit, new = np.empty(size), []
    for one in range(folds):
        x, y, fresh = seen[fold != one], label[fold != one], rows(TESTED // folds)
        means = np.stack([x[y == 0].mean(axis=0), x[y == 1].mean(axis=0)])
        slope = np.linalg.solve(np.cov((x - means[y]).T), means[1] - means[0])
        offset = np.log(y.mean() / (1 - y.mean())) - slope @ means.mean(axis=0)
        logit[fold == one] = seen[fold == one] @ slope + offset
        new.append((fresh[0] @ slope + offset, fresh[1]))
    tested = [np.concatenate(parts) for parts in zip(*new, strict=True)]
    return _of_folds(logit, label, fold), _of_folds(*tested, np.repeat(np.arange(folds), TESTED // folds))


def _of_folds(logit, label, fold):
    """The Measures of two classes, over folds."""
    second = 1 / (1 + np.exp(-logit))
    parts = (
        np.stack([logit < 0, logit >= 0], 1),
        np.stack([1 - second, second], 1),
        np.stack([label == 0, label == 1], 1),
    )

    def of(rows):
        return measures.of_classes(*(part[rows] for part in parts), ["0", "1"], True)

    return of(np.arange(len(label))).over_folds(
        [(np.flatnonzero(fold == one), of(fold == one)) for one in np.unique(fold)]
    )


SHAPES = {  # {name: (number of rows, how they are drawn, its arguments)}
    "balanced, 100 rows": (100, classes, 2, 0.5, 1.2, 1.0),
    "balanced, 600 rows": (600, classes, 2, 0.5, 2.0, 1.0),
    "30 %, too sure, 400 rows": (400, classes, 2, 0.3, 1.5, 2.0),
    "10 %, 400 rows": (400, classes, 2, 0.1, 1.5, 1.0),
    "5 %, too sure, 800 rows": (800, classes, 2, 0.05, 1.5, 2.0),
    "three classes, 400 rows": (400, classes, 3, 0.2, 1.5, 1.5),
    "scores, 200 rows": (200, scores),
    "120 sources of 3 rows": (360, classes, 2, 0.4, 1.5, 1.0, 3),
    "sets of labels, 300 rows": (300, sets),
    "sentences, 300 rows": (300, sentences),
    "5 folds of 400 rows": (400, cross_validated, 5, 0.3, 1.5, 20),
    "10 folds of 250 rows": (250, cross_validated, 10, 0.5, 1.0, 10),
}


def measure(name, shape, samples, rng):
    """Rows {shape, of, measure, held: "held/given/samples"}; of the calibration error, of its percentile interval."""
    size, draw, *arguments = shape
    if draw is cross_validated:
        return measure_folds(name, size, arguments, samples, rng)
    first, second, *_ = draw(TRUE_ROWS, rng, *arguments)
    truth = {"score": first.values()}
    truth["difference"] = {key: value - second.values()[key] for key, value in truth["score"].items()}
    counts = {(of, key): [0, 0] for of, values in truth.items() for key in values} | {("percentile", "ece"): [0, 0]}
    for _ in range(samples):
        one, other, changed, cluster = draw(size, rng, *arguments)
        found = {
            "score": resampling.estimate(one, cluster, resamples=RESAMPLES),
            "difference": resampling.compare(one, other, changed, cluster, resamples=RESAMPLES),
        }
        for of, estimates in found.items():
            for key, estimate in estimates.items():
                counts[of, key][0] += not estimate.reason
                counts[of, key][1] += bool(estimate.low <= truth[of][key] <= estimate.high)
        if "ece" in one.cases:
            values = np.concatenate(
                [one.score(block)["ece"] for block in resampling.draw(one.size, cluster, RESAMPLES)]
            )
            low, high = np.quantile(values, (0.025, 0.975))
            counts["percentile", "ece"][0] += 1
            counts["percentile", "ece"][1] += bool(low <= truth["score"]["ece"] <= high)
    return [
        {"shape": name, "of": of, "measure": key, "held": f"{held}/{given}/{samples}"}
        for (of, key), (given, held) in counts.items()
        if given
    ]


def measure_folds(name, size, arguments, samples, rng):
    """As `measure`, of pooled predictions: `folds` are intervals about the models of a sample, which the code gives.

    `other training rows` says how often they hold the mean score of the models of all samples instead.
    """
    found = []
    for _ in range(samples):
        pooled, new = cross_validated(size, rng, *arguments)
        found.append((resampling.estimate(pooled, resamples=RESAMPLES), new.values()))
    rows = []
    for key in found[0][1]:
        mean = np.mean([truth[key] for _, truth in found])
        given = [(estimates[key], truth[key]) for estimates, truth in found if not estimates[key].reason]
        for of, held in (
            ("folds", sum(bool(one.low <= truth <= one.high) for one, truth in given)),
            ("other training rows", sum(bool(one.low <= mean <= one.high) for one, _ in given)),
        ):
            if given:
                rows.append({"shape": name, "of": of, "measure": key, "held": f"{held}/{len(given)}/{samples}"})
    return rows


def shares(rows, rare=False):
    """[(row, share of the intervals that held)] of the rows that count; rare: of those given in too few samples."""
    found = []
    for row in rows:
        held, given, samples = map(int, row["held"].split("/"))
        if row["of"] in GIVEN and (given < MOST_SHOWN * samples) == rare:
            found.append((row, held / given))
    return found


def misses(rows):
    """The shares of all samples in which an interval was given and did not hold."""
    counts = [map(int, row["held"].split("/")) for row in rows if row["of"] in GIVEN]
    return [(given - held) / samples for held, given, samples in counts]


def table(record):
    """intervals.md."""
    low, high = ends(record)
    rare = sorted(share for _, share in shares(record["rows"], rare=True))
    missed = max(misses(record["rows"]))
    errors = ", ".join(f"{row['held']} ({row['shape']})" for row in record["rows"] if row["of"] == "percentile")
    cells = []
    for row in record["rows"]:
        held, given, samples = map(int, row["held"].split("/"))
        cells.append([row["shape"], row["of"], row["measure"], f"{held / given:.3f}", f"{given / samples:.2f}"])
    return "\n".join(
        [
            "# How often the intervals of `fjt.evaluate` hold",
            "",
            f"{len(shares(record['rows']))} intervals at 95 % hold in {low:.3f} to {high:.3f} of the samples (from "
            f"{BAND[0]} to {BAND[1]}: {'passed' if passed(record) else 'FAILED'}). Of these, each was given in at "
            f"least {MOST_SHOWN:.0%} of the samples.",
            "",
            f"The other {len(rare)} were given in fewer samples, because too few rows decide a score, or two runs "
            "differ in too few. These samples are a selection by what came out: their intervals hold in "
            f"{rare[0]:.3f} to {rare[-1]:.3f} of them. Of all samples, at most {missed:.3f} had any one interval that "
            "does not hold.",
            "",
            "The percentile bootstrap of the calibration error, which is not given because of this, held in these of "
            f"the samples (held/given/samples): {errors}.",
            "",
            "Intervals of a cross-validation are about the models that it trained (`folds`). How often they hold the "
            "mean score of models trained on other rows, which the code does not claim, is `other training rows`.",
            "",
            common.markdown(["rows", "of", "measure", "held", "given"], cells),
            "",
            f"Command: `{record['command']}`"
            + "".join(f", later `{one['command']}`" for one in record.get("later", []))
            + f". {record['device']}, "
            + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
            + ".",
            "",
        ]
    )


def ends(record):
    """(least, greatest) share of the intervals that held."""
    found = [share for _, share in shares(record["rows"])]
    return min(found), max(found)


def passed(record):
    low, high = ends(record)
    return BAND[0] <= low and high <= BAND[1]


def _measure(name, samples, seed):
    """`measure`, in a process of its own."""
    return measure(name, SHAPES[name], samples, np.random.default_rng(seed))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="of the samples")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="measure these alone, and keep the other rows")
    parser.add_argument("--output", default="results/toolbox", help="where intervals.json and intervals.md are")
    args = parser.parse_args(argv)
    rows, start = [], time.perf_counter()
    names = args.shapes or list(SHAPES)
    with concurrent.futures.ProcessPoolExecutor(args.processes) as pool:
        seeds = [[args.seed, list(SHAPES).index(name)] for name in names]
        for name, found in zip(names, pool.map(_measure, names, [args.samples] * len(names), seeds), strict=True):
            rows += found
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    versions = {name: version for name, version in common.versions().items() if name in ("python", "numpy")}
    command = f"python -m tests.benchmarks.intervals --samples {args.samples} --seed {args.seed}"
    facts = {"versions": versions | {"scipy": scipy.__version__}, "device": common.device()}
    output = Path(args.output)
    if args.shapes:  # their rows anew, in the record of all
        record, command = common.read_json(output / "intervals.json"), f"{command} --shapes {shlex.join(args.shapes)}"
        record["rows"] = [row for row in record["rows"] if row["shape"] not in args.shapes] + rows
        record["later"] = [*record.get("later", []), {"command": command} | facts]
    else:
        record = {"command": command} | facts | {"rows": rows}
    output.mkdir(parents=True, exist_ok=True)
    common.write_json(output / "intervals.json", record)
    (output / "intervals.md").write_text(table(record))
    print((output / "intervals.md").read_text())
    sys.exit(not passed(record))


if __name__ == "__main__":
    main()
