"""A masked language model on WikiText-2, and whether adapting it to the texts of a task helps to tune it.

    python -m tests.benchmarks.masked_lm --model DIR --data DIR --output results/masked_lm

The curve: the model goes on with its pre-training on WikiText-2's validation texts, and is scored on the test texts,
at the same masks, before training and after each epoch.

Adapt, then tune: the model reads 17,087 descriptions of AG News as texts alone, and dev is 2,000 others.  A study then
tunes the model and what it has become, on the same few examples with the same seeds, and scores both on these 2,000.

Runs are made one at a time, and the work directory keeps finished runs: the same command goes on from there.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import numpy as np

from tests.benchmarks import common

HELD_OUT = 2_000  # of the descriptions, the last ones of a fixed permutation


def pretrain(args, workdir, **config):
    """The work directory of a finished run of configs/pretrain.py.  config: keys, dots written as two underscores."""
    config = {key.replace("__", "."): value for key, value in config.items()}
    config |= {
        "model.path": Path(args.model).resolve(),
        "cache.dir": workdir.parent / "cache",
        "log.tensorboard": False,
    }
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    command = [sys.executable, "-m", "fjt.main", "--config", "configs/pretrain.py", "--workdir", str(workdir), *flags]
    if not (workdir / "DONE").exists() and common.run(command, workdir.parent / f"{workdir.name}.log"):
        raise SystemExit(f"{workdir} has failed")
    return workdir


def curve(args, folder):
    """[{epoch, loss, perplexity, accuracy}] on the test texts, from before training on."""
    texts = Path(args.data).resolve() / "wikitext2"
    given = {"data__files__train": texts / "valid.txt", "data__files__dev": texts / "test.txt"}
    given |= {"optim__learning_rate": args.learning_rate}
    start = pretrain(args, folder / "untrained", train__steps=0, **given)
    trained = pretrain(args, folder / "wikitext2", train__epochs=args.epochs, eval__every_epochs=1, **given)
    metrics = common.read_json(start / "result.json")["metrics"]
    rows = [{"epoch": 0, "loss": math.log(metrics["perplexity"]), **metrics}]
    for number, line in enumerate((trained / "eval.jsonl").read_text().splitlines(), 1):
        row = json.loads(line)
        rows.append({"epoch": number} | {name: row[name] for name in ("loss", "perplexity", "accuracy")})
    return rows


def split_descriptions(data, folder):
    """Writes train.jsonl and dev.jsonl of the descriptions, which share none."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = (Path(data) / "ag_news" / "train_subset_description.jsonl").read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng(0).permutation(len(rows))
    for name, chosen in (("train", order[:-HELD_OUT]), ("dev", order[-HELD_OUT:])):
        text = "".join(rows[i] + "\n" for i in np.sort(chosen))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def compare(args, folder):
    """{"perplexity": of the model and of the adapted one on dev, "accuracy": {model: of each seed}}."""
    tables = folder / "tables"
    split_descriptions(args.data, tables)
    files = {f"data__files__{name}": tables / f"{name}.jsonl" for name in ("train", "dev")}
    files |= {"optim__learning_rate": args.learning_rate}
    runs = {"base": pretrain(args, folder / "unadapted", train__steps=0, **files)}
    runs["adapted"] = pretrain(args, folder / "adapted", train__epochs=args.adapting, eval__every_epochs=1, **files)
    models = [str(Path(args.model).resolve()), str(runs["adapted"])]
    config = {f"data.files.{name}": tables / f"{name}.jsonl" for name in ("train", "dev")}
    config |= {"data.limit": args.examples, "train.epochs": args.tuning, "cache.dir": folder / "cache"}
    config |= {"study.seeds": args.seeds, "optim.learning_rate": 1e-3}
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    study = folder / "study"
    command = [sys.executable, "-m", "fjt.sweep", "--config", f"configs/adapted.py:{','.join(models)}"]
    if common.run([*command, "--workdir", str(study), *flags], folder / "study.log"):
        raise SystemExit(f"{study} has failed")
    with open(study / "report" / "runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    of = {name: Path(model).name for name, model in zip(runs, models, strict=True)}
    scores = {
        name: {row["seed"]: float(row["metrics.accuracy"]) for row in rows if Path(row["model.path"]).name == model}
        for name, model in of.items()
    }
    assert all(len(found) == args.seeds for found in scores.values()), scores
    perplexity = {name: common.read_json(run / "result.json")["metrics"]["perplexity"] for name, run in runs.items()}
    return {"perplexity": perplexity, "accuracy": scores}


def main(argv=None):
    args = parse(argv)
    folder, output = Path(args.workdir).resolve(), Path(args.output)
    record = {"curve": curve(args, folder), "adapted": compare(args, folder)}
    record |= {"arguments": {name: getattr(args, name) for name in ("examples", "tuning", "seeds")}}
    record |= common.provenance("tests.benchmarks.masked_lm", args)
    common.write_json(output / "records.json", record)
    (output / "table.md").write_text(table(record))
    print((output / "table.md").read_text())


def table(record):
    """table.md: the curve, then the scores of both models."""
    args, adapted = record["arguments"], record["adapted"]
    lines = [
        "# Masked language modelling on WikiText-2, and tuning after adaptation",
        "",
        "WikiText-2's test texts, the same masks in each row; training on its validation texts. BERT splits the raw "
        "files' `<unk>` into four tokens, which are soon learned: the figures are no one else's.",
        "",
        "| epochs | loss | perplexity | accuracy |",
        "| --: | --: | --: | --: |",
        *(
            f"| {row['epoch']} | {row['loss']:.3f} | {row['perplexity']:.1f} | {100 * row['accuracy']:.1f} |"
            for row in record["curve"]
        ),
        "",
        f"AG News: {args['examples']} labelled examples, {args['tuning']} epochs, {args['seeds']} seeds, accuracy on "
        f"{HELD_OUT:,} descriptions that neither training has seen (mean ± standard deviation), and their perplexity.",
        "",
        "| starts from | perplexity | accuracy | seeds |",
        "| :-- | --: | --: | :-- |",
    ]
    seeds = sorted(adapted["accuracy"]["base"], key=int)
    for name, scores in adapted["accuracy"].items():
        points = 100 * np.array([scores[seed] for seed in seeds])
        lines.append(
            f"| {name} | {adapted['perplexity'][name]:.1f} | {points.mean():.1f} ± {points.std(ddof=1):.1f} | "
            f"{', '.join(f'{x:.1f}' for x in points)} |"
        )
    difference = 100 * np.array([adapted["accuracy"]["adapted"][s] - adapted["accuracy"]["base"][s] for s in seeds])
    error = difference.std(ddof=1) / math.sqrt(len(seeds))
    lines += [
        "",
        f"Adapted minus base, paired by seed: {difference.mean():+.1f} points, standard error {error:.1f}.",
        "",
        common.footer(record),
    ]
    return "\n".join(lines) + "\n"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory with a masked language model")
    parser.add_argument("--data", required=True, help="the folder that holds wikitext2/ and ag_news/")
    parser.add_argument("--epochs", type=int, default=10, help="on WikiText-2")
    parser.add_argument("--adapting", type=int, default=5, help="epochs on the descriptions")
    parser.add_argument("--tuning", type=int, default=10, help="epochs of tuning")
    parser.add_argument("--examples", type=int, default=500, help="labelled ones")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of masked language modelling")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/masked_lm", help="where files and runs are kept")
    parser.add_argument("--output", default="results/masked_lm", help="where records.json and table.md are")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
