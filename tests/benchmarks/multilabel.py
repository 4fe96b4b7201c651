"""Entity types per sentence of WNUT-17: F1 of fjt, of Hugging Face's Trainer, and of scikit-learn on fjt's predictions.

    python -m tests.benchmarks.multilabel --model DIR --data DIR --output results/multilabel

Each sentence is an example, and its label is the set of entity types that occur in it; the set may be empty. Both sides
train on the same tables with the same recipe: batches of 32, learning rate 2e-4 decaying linearly to zero, no warm-up,
no weight decay, clipping at 1.0, the checkpoint's dropout, at most 128 tokens, float32, the last step's weights, and a
label is predicted from a probability of 0.5. They differ in their random numbers: the head's initial weights, the order
of the examples and the dropout.

scikit-learn scores the predictions of both sides with the same call against labels read from the data set itself. The
command stops when fjt's own scores differ from scikit-learn's on the same predictions in any bit. Runs are made one at
a time, and the work directory keeps finished runs: the same command goes on from there.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import scipy.special
import sklearn.metrics
import sklearn.preprocessing

from tests.benchmarks import common
from tests.benchmarks.quality import differ

TYPES = ("corporation", "creative-work", "group", "location", "person", "product")  # sorted, as fjt orders labels
FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
SCORED = ("dev", "test")
SIDES = ("fjt", "trainer")
THRESHOLD = 0.5


def read_sentences(path):
    """[(words, tags)] of a file with one 'word TAB tag' per line and blank lines between sentences."""
    sentences, words, tags = [], [], []
    for line in [*Path(path).read_text(encoding="utf-8").split("\n"), ""]:
        if line.strip():
            word, tag = line.split("\t")
            words.append(word)
            tags.append(tag)
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


def example(words, tags):
    """The row of a sentence: its text, and the sorted list of its entity types, which may be empty."""
    return {"text": " ".join(words), "label": sorted({tag.split("-", 1)[1] for tag in tags if tag != "O"})}


def write_tables(data, folder):
    """{split: rows} of WNUT-17, each split written to <folder>/<split>.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {}
    for split, file in FILES.items():
        rows = tables[split] = [example(*sentence) for sentence in read_sentences(Path(data) / "wnut17" / file)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return tables


def indicators(rows):
    """{0, 1}[N, 6]: the labels of rows, one column per entity type."""
    return sklearn.preprocessing.MultiLabelBinarizer(classes=TYPES).fit_transform([row["label"] for row in rows])


def score(label, chosen):
    """F1 by scikit-learn: micro, macro and of each label.  label, chosen: {0, 1}[N, 6]."""

    def f1(average):
        return sklearn.metrics.f1_score(label, chosen, average=average, zero_division=0.0)

    return {
        "micro_f1": float(f1("micro")),
        "macro_f1": float(f1("macro")),
        "f1": dict(zip(TYPES, f1(None).tolist(), strict=True)),
    }


def choose(logits, threshold=THRESHOLD):
    """{0, 1}[N, 6]: the labels whose probability reaches the threshold."""
    return (scipy.special.expit(np.float64(logits)) >= threshold).astype(int)


def score_fjt(workdir, tables, threshold=THRESHOLD):
    """{split: scores} of a finished run.

    Raises:
        AssertionError: fjt's labels or scores are not those of scikit-learn.
    """
    found, own = {}, common.read_json(workdir / "result.json")["splits"]
    for split in SCORED:
        label = indicators(tables[split])
        with np.load(workdir / "predictions" / f"{split}.npz") as arrays:
            assert tuple(arrays["label_names"]) == TYPES, arrays["label_names"]
            assert np.array_equal(arrays["label"], label), f"{workdir}: other labels in {split} than the data set's"
            found[split] = score(label, choose(arrays["logits"], threshold))
        for name in ("micro_f1", "macro_f1"):
            ours, theirs = own[split][name], found[split][name]
            assert ours == theirs, f"{workdir}: {split} {name} is {ours} by fjt and {theirs} by scikit-learn"
    return found


def score_trainer(workdir, tables):
    """{split: scores} of a Trainer run's logits."""
    with np.load(workdir / "logits.npz") as logits:
        return {split: score(indicators(tables[split]), choose(logits[split])) for split in SCORED}


def score_every_label(rows):
    """The scores of predicting all six labels for each row."""
    label = indicators(rows)
    return score(label, np.ones_like(label))


def fjt_command(args, seed, tables, workdir):
    config = common.RECIPE | {
        "data.files.train": tables / "train.jsonl", "data.files.dev": tables / "dev.jsonl",
        "data.files.test": tables / "test.jsonl", "model.path": Path(args.model).resolve(), "seed": seed,
        "tune.method": "full", "optim.learning_rate": args.learning_rate, "train.epochs": args.epochs,
        "eval.every_epochs": args.epochs, "eval.test": True, "eval.threshold": THRESHOLD,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    door = [sys.executable, "-m", "fjt.main", "--config", "configs/classify.py:multi_label"]
    return [*door, "--workdir", str(workdir), *flags]


def trainer_command(args, seed, tables, workdir):
    return common.tables_command("tests.benchmarks.multilabel_trainer", args, seed, tables, workdir / "logits.npz")


def main(argv=None):
    args = parse(argv)
    workdir, output = Path(args.workdir).resolve(), Path(args.output)
    tables = write_tables(args.data, workdir / "tables")
    commands, scores = (fjt_command, trainer_command), (score_fjt, score_trainer)
    last, runs = ("DONE", "logits.npz"), []
    for seed in args.seeds:
        for side, command, score_run, file in zip(SIDES, commands, scores, last, strict=True):
            run = workdir / f"seed={seed}" / side
            if side in args.sides and not (run / file).exists():
                if code := common.run(command(args, seed, workdir / "tables", run), run.with_name(f"{side}.log")):
                    sys.exit(code)
            if (run / file).exists():
                runs.append({"side": side, "seed": seed, **score_run(run, tables)})
                show(runs[-1])
    if len(runs) < len(SIDES) * len(args.seeds):
        sys.exit(f"{len(runs)} runs are finished; the table needs both sides of each seed.")
    record = {
        "runs": runs,
        "sentences": {split: count(rows) for split, rows in tables.items()},
        "every_label": {split: score_every_label(tables[split]) for split in SCORED},
        **common.provenance("tests.benchmarks.multilabel", args),
    }
    common.write_json(output / "records.json", record)
    (output / "table.md").write_text(table(record))
    print((output / "table.md").read_text())


def show(run):
    scores = (f"{split} {name} {100 * run[split][name]:.1f}" for split in SCORED for name in ("micro_f1", "macro_f1"))
    print(f"seed {run['seed']} {run['side']}: {', '.join(scores)}", flush=True)


def count(rows):
    """{what: number of sentences}: all of them, those without any label, and those of each label."""
    label = indicators(rows)
    empty = int((label.sum(axis=1) == 0).sum())
    return {"all": len(rows), "none": empty} | dict(zip(TYPES, label.sum(axis=0).tolist(), strict=True))


def table(record):
    """table.md: the scores of both sides, then each label's F1 with the number of its sentences."""
    rows, each = [], []
    for split in SCORED:
        floor = record["every_label"][split]
        for name in ("micro_f1", "macro_f1"):
            sides = [points(record["runs"], side, split, name) for side in SIDES]
            found = differ(*sides)
            scores = [spread(values) for values in sides]
            values = [f"{found['difference']:+.1f}", f"{found['pooled_se']:.1f}", f"{100 * floor[name]:.1f}"]
            seeds = ["; ".join(f"{value:.1f}" for value in side) for side in sides]
            rows.append([f"{split} {name}", *scores, *values, *seeds])
    sentences = record["sentences"]
    for what in ("all", "none", *TYPES):
        scores = ["", ""] * len(SCORED)
        if what in TYPES:
            found = [(split, side) for split in SCORED for side in SIDES]
            scores = [
                spread([100 * run[split]["f1"][what] for run in record["runs"] if run["side"] == side])
                for split, side in found
            ]
        each.append([what, *(sentences[split][what] for split in FILES), *scores])
    return "\n".join(
        [
            "# Entity types per sentence of WNUT-17, fjt and Hugging Face's Trainer, the same recipe",
            "",
            "F1 in points by scikit-learn, mean ± standard deviation over the seeds; fjt's own scores are equal to "
            "these in every bit. The last two columns list the seeds one by one.",
            "",
            common.markdown(
                ["", "fjt", "Trainer", "difference", "pooled SE", "every label always", "fjt by seed",
                 "Trainer by seed"], rows),
            "",
            "Number of sentences with each label (none: without any entity), and the F1 of each label:",
            "",
            common.markdown(
                ["label", *FILES, *(f"{split}: {side}" for split in SCORED for side in ("fjt", "Trainer"))], each),
            "",
            common.footer(record),
            "",
        ]
    )  # fmt: skip


def points(runs, side, split, name):
    return [100 * run[split][name] for run in runs if run["side"] == side]


def spread(values):
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="the folder that holds wnut17/wnut17train.conll")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--workdir", default="runs/multilabel", help="where tables and runs are kept")
    parser.add_argument("--output", default="results/multilabel", help="where records.json and table.md are")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES, help="which to run now; none: tables")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
