"""What the record of `tests.benchmarks.coverage` says: its criteria and its tables."""

import math

import scipy.stats

from fjt.reports import inference
from tests.benchmarks import common
from tests.benchmarks.populations import Choices, Documents, Scores, Sentences, Several

BAND, BAND_AT_ZERO, ALPHA = (0.93, 0.97), (0.965, 0.985), 0.05
PARTS = ("rows", "columns", "rest")  # of a variance


def shares(rows):
    """[share of the intervals that held] of all entries of rows."""
    return [share(text)[0] for row in rows for text in row["held"].values()]


def share(text):
    """(share of the given intervals that held, share of the studies that were given one) of held/given/studies."""
    held, given, studies = map(int, text.split("/"))
    return (held / given if given else math.nan), given / studies


def judge(record):
    """[(criterion, passed)]."""
    zero = [row for row in record["variance"] if not row["part"]]
    rest = [share(row["held"]["rest"])[0] for row in zero]
    parts = [row for row in record["variance"] if row["part"]]
    checks = []
    for name, found, (low, high) in (
        ("new seeds, new examples", shares(record["new examples"]), BAND),
        ("new seeds, this dev set", shares(record["this dev set"]), BAND),
        ("parts of the variance", shares(parts) + rest, BAND),
        (
            "parts of the variance that are 0",
            [share(row["held"][k])[0] for row in zero for k in PARTS[:2]],
            BAND_AT_ZERO,
        ),
        ("seeds needed for 80 % power", shares(record["seeds needed"]), BAND),
    ):
        words = f"{name}: {len(found)} cases hold in {min(found):.3f} to {max(found):.3f} (from {low} to {high})"
        checks.append((words, low <= min(found) and max(found) <= high))
    worst = max(record["families"], key=lambda row: row["erred"] / row["studies"])
    rate = worst["erred"] / worst["studies"]
    words = f"families of sign-flip tests err in at most {rate:.3f} (at most {ALPHA}): {worst['family']} tests, "
    checks.append((words + f"{worst['n']} seeds, {worst['different']} truly different", rate <= ALPHA))
    checks.append(most_errors("families of t tests over new seeds and examples", record["example families"], "studies"))
    sound = [row for row in record["one-sided"] if row["null"] == "sound"]
    checks.append(most_errors("shown tests of a method that sometimes fails", sound, "shown"))
    most = max(shares(record["fails"]))
    checks.append((f"what is known to fail holds in at most {most:.3f} (below {BAND[0]})", most < BAND[0]))
    return checks


def most_errors(name, rows, of):
    """(criterion, passed): no row errs in more than ALPHA of its tests, chance aside."""
    worst = max(rows, key=lambda row: row["erred"] / row[of] - allowed(row[of], len(rows)))
    rate, most = worst["erred"] / worst[of], allowed(worst[of], len(rows))
    facts = ", ".join(f"{key} {worst[key]}" for key in worst if key not in ("studies", "shown", "erred"))
    return f"{name} err in at most {rate:.3f} (at most {most:.3f}, of {worst[of]}): {facts}", rate <= most


def allowed(count, rows):
    """The share of errors among `count` tests that one of as many rows exceeds with a chance of 1 in 40, each at ALPHA.

    By Bonferroni's inequality: with two standard errors for each row, one of twelve would exceed it in 1 of 4 tables.
    """
    return ALPHA + scipy.stats.norm.isf(0.025 / rows) * math.sqrt(ALPHA * (1 - ALPHA) / count)


def table(record):
    """coverage.md."""
    lines = ["# How often 95 % intervals hold", ""]
    for name, words in (("new examples", "new seeds, new examples"), ("this dev set", "new seeds, this dev set")):
        for metrics in (
            Choices.metrics,
            Scores.metrics,
            Sentences.metrics,
            Documents.metrics,
            Several.metrics,
            ("any score",),
        ):
            held = {}
            for row in record[name]:  # rows of one study's metrics, apart or together
                if set(row["held"]) <= set(metrics):
                    key = row["shape"], row["m"] or "", row["of"], row["n"]
                    held[key] = held.get(key, {}) | row["held"]
            cells = [[*key, *cells_of(entry, metrics)] for key, entry in held.items()]
            lines += [common.markdown([words, "m", "of", "n", *metrics], cells), ""] if cells else []
    lines += [
        "A small number is the share of studies that were given an interval, where that is not all of them: the others "
        f"had fewer than {inference.LEAST} runs that did not collapse, equal scores or a score at its bound.",
        "",
    ]
    cells = [[row["shape"], f"{row['part']:g}", *cells_of(row["held"], PARTS)] for row in record["variance"]]
    lines += [common.markdown(["variance", "part / rest", "rows' part", "columns' part", "rest"], cells), ""]
    cells = [[row["n"], *cells_of(row["held"], row["held"])] for row in record["seeds needed"]]
    lines += [common.markdown(["seeds for 80 % power, n", *record["seeds needed"][0]["held"]], cells), ""]
    cells = [[*list(row.values())[:3], f"{row['erred'] / row['studies']:.3f}"] for row in record["families"]]
    lines += [common.markdown(["tests of a family", "seeds", "truly different", "families that err"], cells), ""]
    cells = [[*list(row.values())[:3], f"{row['erred'] / row['studies']:.3f}"] for row in record["example families"]]
    lines += [common.markdown(["t tests of a family", "seeds", "seeds' share of the variance", "err"], cells), ""]
    lines += [
        "One method fails in some runs, by 30 or 15 points where seeds differ by 1. A p is shown only where no run "
        "failed, and its null is that the methods are equal but for such runs. The last column is not offered: methods "
        "whose means are equal because the one that fails is better otherwise, and a p over all runs.",
        "",
    ]
    pairs = {}
    for row in record["one-sided"]:
        pairs.setdefault((row["rate"], row["points"], row["n"]), {})[row["null"]] = row
    cells = [
        [f"{rate:.0%} of runs fail by {points}", n, *errors_of(**rows)] for (rate, points, n), rows in pairs.items()
    ]
    head = ["one method fails", "seeds", "p shown", "shown p errs", "a p of all runs would err, equal means"]
    lines += [common.markdown(head, cells), ""]
    lines += ["What is known to fail. It is not offered, but for skewed seeds, of which a few runs give no sign:", ""]
    cells = [[row["shape"], row["n"], *cells_of(row["held"], row["held"])] for row in record["fails"]]
    lines += [common.markdown(["level", "n", "holds"], cells), ""]
    lines += [
        "Near a bound, not judged (accuracy 0.99, 277 examples, 3 of them wrong in the mean; studies with fewer than "
        f"{inference.LEAST_WRONG} are refused the interval of a level):",
        "",
    ]
    cells = [[row["of"], row["n"], *cells_of(row["held"], row["held"])] for row in record["near a bound"]]
    lines += [common.markdown(["new seeds, new examples", "n", "holds"], cells), ""]
    lines += ["The least that t with these intervals' degrees of freedom holds, normal effects, by integration:", ""]
    lines += [common.markdown(["n", "holds"], [[n, f"{least:.3f}"] for n, least in record["few seeds"].items()]), ""]
    checks = judge(record)
    lines += [f"Verdict: {'passed' if all(ok for _, ok in checks) else 'FAILED'}", ""]
    lines += [*(f"- {'passed' if ok else 'FAILED'}: {words}" for words, ok in checks), ""]
    found = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    facts = [f"- Command: `{record['command']}`", f"- Versions: {found}", f"- Device: {record['device']}"]
    for later in record.get("later", []):
        about = ", ".join(f"{name} {version}" for name, version in later["versions"].items())
        facts.append(f"- Later: `{later['command']}`; {about}; {later['device']}")
    return "\n".join([*lines, *facts, f"- Time: {record['seconds']:.0f} s of one core", ""])


def errors_of(sound, mean):
    """[share of studies with a p, share of these that err, share of studies with equal means that would err]."""
    shares_ = sound["shown"] / sound["studies"], sound["erred"] / sound["shown"], mean["erred"] / mean["studies"]
    return [f"{share_:.3f}" for share_ in shares_]


def cells_of(held, metrics):
    cells = []
    for metric in metrics:
        hold, given = share(held[metric]) if metric in held else (None, 1)
        cells.append("" if hold is None else f"{hold:.3f}" + (f" <sub>{given:.2f}</sub>" if given < 1 else ""))
    return cells
