"""Dev scores of fjt and of Hugging Face's Trainer on the same weights, data and recipe, over several seeds.

Runs both sides for each seed and task, one process at a time. A finished run is a row of runs.csv in --output, the
record that is committed: the same command goes on from there, on any day, and repeats what failed. table.md and
table.csv are made from it. An unfinished run's folder is kept under --workdir.
Recipe of both: batch 32, rate 1e-4 linear to zero, no warm-up, no weight decay, clip 1.0, max length 128, float32,
the last step's weights. The Trainer pads dynamically. A task's score is the mean of its metrics, in points.

Passed when every run finished; the mean over tasks of fjt - Trainer is at least -1.0 point; no task is lower by more
than 3 pooled standard errors; and fjt is above a constant prediction by more than 3 standard deviations on each task.
"""

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from fjt.core import records
from tests.benchmarks import common
from tests.scores import METRICS

SIDES = ("fjt", "trainer")


def main(argv=None):
    args = parse(argv)
    output = Path(args.output)
    same_experiment(args, output / "settings.json")
    runs = [(seed, task, side) for seed in args.seeds for task in args.tasks for side in SIDES]
    train_all(args, [run for run in runs if run[2] in args.sides], output / "runs.csv")
    found = load(output / "runs.csv")
    scores = {run: found.get(run) for run in runs}
    constants = {task: constant_scores(args.data, task) for task in args.tasks}
    write(output, scores, constants, common.provenance("tests.benchmarks.quality", args))
    print((output / "table.md").read_text())


def same_experiment(args, path):
    """Ends the program when the recorded runs are of another recipe or other weights."""
    wanted = {"weights": common.weights(args.model), "epochs": args.epochs, "steps": args.steps}
    wanted |= {key: str(value) for key, value in common.RECIPE.items()}
    if path.exists() and (found := common.read_json(path)) != wanted:
        keys = ", ".join(key for key in wanted if found.get(key) != wanted[key])
        sys.exit(f"{path.parent} holds runs with another {keys}; give another --output.")
    common.write_json(path, wanted)


def train_all(args, runs, record):
    waiting = [run for run in runs if run not in load(record)]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs finished", flush=True)
    begun = time.time()
    for done, (seed, task, side) in enumerate(waiting, start=1):
        folder = (Path(args.workdir) / task / f"seed={seed}" / side).resolve()
        start = time.time()
        code = common.run(command(args, seed, task, side, folder), folder.with_name(f"{side}.log"))
        words = "failed"
        if not code:
            found = common.read_json(folder / ("result.json" if side == "fjt" else "trainer.json"))
            scores = {name: found["metrics"][name] for name in common.GLUE[task][3].metrics}
            append(record, (task, seed, side), scores)
            words = " ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
        left = (time.time() - begun) / done * (len(waiting) - done) / 60
        print(
            f"{task} seed {seed} {side}: {words} (exit {code}, {time.time() - start:.0f} s); "
            f"{done}/{len(waiting)}, about {left:.0f} min left",
            flush=True,
        )


def command(args, seed, task, side, folder):
    model, data = Path(args.model).resolve(), Path(args.data).resolve()
    if side == "fjt":
        length = {"train__steps": args.steps} if args.steps else {"train__epochs": args.epochs}
        return common.fjt_command(task, model, data, folder, seed, **length)
    length = ["--epochs", str(args.epochs), "--max_steps", str(args.steps)]
    return common.trainer_command(task, model, data, folder / "trainer.json", seed, "dynamic", *length)


def append(record, run, scores):
    """Adds a run's rows to runs.csv in one write, so that two commands may work on one record."""
    text = "" if record.exists() else "task,seed,side,metric,value,cores,commit\n"
    cores, commit = records.cores(), records.commit()[:8]
    for name, value in scores.items():
        text += ",".join(map(str, (*run, name, value, cores, commit))) + "\n"
    with open(record, "a") as file:
        file.write(text)


def load(record):
    """{(seed, task, side): {metric: value}} of the finished runs."""
    found = {}
    if record.exists():
        with open(record, newline="") as file:
            for row in csv.DictReader(file):
                run = int(row["seed"]), row["task"], row["side"]
                found.setdefault(run, {})[row["metric"]] = float(row["value"])
    return found


def constant_scores(data, task):
    """{metric: score} on dev of the training set's most frequent class, or of its mean."""
    facts = common.GLUE[task][3]
    train, dev = (common.read_glue(data, task, split)[2] for split in ("train", "dev"))
    value = train.mean() if facts.kind == "regression" else np.bincount(train).argmax()
    return {name: METRICS[name](np.full_like(dev, value), dev) for name in facts.metrics}


def compare(scores, constants):
    """Rows, one a metric and one `score` (the mean of the metrics) a task, in points.

    scores: {(seed, task, side): {metric: value} or None}.  constants: {task: {metric: value}}.
    """
    rows = []
    for task, constant in constants.items():
        for name in (*constant, "score"):
            sides = {}
            for side in SIDES:
                found = [run for key, run in scores.items() if key[1:] == (task, side) and run]
                sides[side] = [100 * (statistics.fmean(m.values()) if name == "score" else m[name]) for m in found]
            floor = 100 * (statistics.fmean(constant.values()) if name == "score" else constant[name])
            rows.append({"task": task, "metric": name} | differ(*sides.values()) | {"constant": floor})
    return rows


def differ(ours, theirs):
    """Mean, standard deviation and count of each, the difference of the means and its pooled standard error."""
    row = {}
    for side, values in zip(SIDES, (ours, theirs), strict=True):
        row[f"{side}_mean"] = statistics.fmean(values) if values else float("nan")
        row[f"{side}_sd"] = statistics.stdev(values) if len(values) > 1 else float("nan")
        row[f"{side}_n"] = len(values)
    freedom = len(ours) + len(theirs) - 2
    row["difference"] = row["fjt_mean"] - row["trainer_mean"]
    row["pooled_se"] = float("nan")
    if min(len(ours), len(theirs)) > 1:
        squares = (len(ours) - 1) * row["fjt_sd"] ** 2 + (len(theirs) - 1) * row["trainer_sd"] ** 2
        row["pooled_se"] = (squares / freedom * (1 / len(ours) + 1 / len(theirs))) ** 0.5
    return row


def judge(rows, num_runs, num_finished):
    """[(criterion, passed)] of the rows of `compare`; a spread that is not known (one seed) does not pass."""
    rows = [row for row in rows if row["metric"] == "score"]
    mean = statistics.fmean(row["difference"] for row in rows)
    checks = [
        (f"{num_finished} of {num_runs} runs finished", num_finished == num_runs),
        (f"mean over tasks of fjt - Trainer is {mean:+.2f} points (at least -1.0)", mean >= -1.0),
    ]
    for row in rows:
        errors = row["difference"] / row["pooled_se"] if row["pooled_se"] else float("nan")
        words = f"{row['task']}: fjt - Trainer is {errors:+.1f} pooled standard errors (at least -3)"
        checks.append((words, row["difference"] >= -3 * row["pooled_se"]))
        above = row["fjt_mean"] - row["constant"]
        words = f"{row['task']}: {above:.1f} points above a constant prediction (more than 3 standard deviations)"
        checks.append((words, above > 3 * row["fjt_sd"]))
    return checks


def write(output, scores, constants, record):
    """table.md and table.csv in the folder `output`."""
    rows = compare(scores, constants)
    with open(output / "table.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([f"{v:.4f}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    cells = []
    for row in rows:
        sides = [f"{row[f'{s}_mean']:.2f} ± {row[f'{s}_sd']:.2f} ({row[f'{s}_n']})" for s in SIDES]
        tail = [f"{row['difference']:+.2f}", f"{row['pooled_se']:.2f}", f"{row['constant']:.2f}"]
        cells.append([f"{row['task']} {row['metric']}", *sides, *tail])
    header = ["dev, points", "fjt", "Trainer", "difference", "pooled SE", "constant"]
    finished = sum(run is not None for run in scores.values())
    checks = judge(rows, len(scores), finished)
    verdict = "passed" if all(ok for _, ok in checks) else "FAILED"
    if finished < len(scores):
        verdict = f"none yet, {finished} of {len(scores)} runs are finished"
    lines = ["# fjt and Hugging Face's Trainer, the same recipe", "", "Mean ± standard deviation (seeds).", ""]
    lines += [common.markdown(header, cells), "", f"Verdict: {verdict}"]
    lines += ["", *(f"- {'passed' if ok else 'FAILED'}: {words}" for words, ok in checks), ""]
    (output / "table.md").write_text("\n".join([*lines, common.footer(record), ""]))


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout: <data>/MRPC/train.tsv")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "cola", "stsb"], choices=sorted(common.GLUE))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=0, help="a trial of so many steps; 0: --epochs decides")
    parser.add_argument("--workdir", default="runs/quality", help="where unfinished runs are kept")
    parser.add_argument("--output", default="results/quality", help="where runs.csv and the tables are")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES, help="which to run now; none: tables")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
