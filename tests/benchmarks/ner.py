"""Entities of WNUT-17: F1 of whole entities and examples a second, of fjt and of Hugging Face's Trainer.

    python -m tests.benchmarks.ner --model DIR --data DIR --output results/ner

Both sides train on the same sentences with the same recipe: batches of 32, learning rate 2e-4 decaying linearly to
zero, no warm-up, no weight decay, clipping at 1.0, the checkpoint's dropout, at most 128 tokens, float32, the last
step's weights, tags on a word's first token.  They differ in their random numbers: the head's initial weights, the
order of the examples and the dropout.  The Trainer pads each batch to its longest sentence, and has the fused AdamW.

seqeval scores both sides with the same call against the tags in the data set's files.  The command stops when fjt's own
scores differ from seqeval's on the same predictions.  The sides take turns, and each seed has another side first.  A
ratio of speeds is taken within a seed; on the clock is what `tests.benchmarks.speed` has on it.  Runs are made one at a
time, and the work directory keeps finished runs: the same command goes on from there.  It needs seqeval.
"""

import argparse
import sys
from pathlib import Path

from tests.benchmarks import common, sides
from tests.benchmarks.multilabel import FILES, SCORED, read_sentences
from tests.benchmarks.speed import rate

METRICS = {"entity_f1": "f1_score", "entity_precision": "precision_score", "entity_recall": "recall_score"}


def score(tags, predicted):
    """Of seqeval, in its default mode, which is conlleval's.  tags, predicted: a list of tags per sentence."""
    import seqeval.metrics

    return {name: float(getattr(seqeval.metrics, function)(tags, predicted)) for name, function in METRICS.items()}


def score_fjt(workdir, tags):
    """The record of a finished run.

    Raises:
        AssertionError: fjt's scores are not seqeval's.
    """
    result, found = common.read_json(workdir / "result.json"), {}
    for split in SCORED:
        with open(workdir / "predictions" / f"{split}.tsv", encoding="utf-8") as file:
            header, *rows = (line.rstrip("\n").split("\t") for line in file)
        predicted = [row[header.index("predicted")].split(" ") for row in rows]
        found[split] = score(tags[split], predicted)
        for name, value in found[split].items():
            ours = result["splits"][split][name]
            assert abs(ours - value) < 1e-12, f"{workdir}: {split} {name} is {ours} by fjt and {value} by seqeval"
    speed, _ = rate(workdir / "train.jsonl")
    return found | {"examples_per_second": speed, "compile_seconds": result["compile_seconds"]}


def score_trainer(workdir, tags):
    """The record of a Trainer run."""
    record = common.read_json(workdir / "record.json")
    speed = {"examples_per_second": record["examples_per_second"]}
    return {split: score(tags[split], record["predicted"][split]) for split in SCORED} | speed


def link_files(data, folder):
    """The files of WNUT-17 under names that say what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, file in FILES.items():
        link = folder / f"{split}.conll"
        if not link.exists():
            link.symlink_to((Path(data) / "wnut17" / file).resolve())


def fjt_command(args, seed, tables, workdir):
    config = common.RECIPE | {f"data.files.{split}": tables / f"{split}.conll" for split in FILES}
    config |= {"model.path": Path(args.model).resolve(), "seed": seed, "tune.method": "full"}
    config |= {"optim.learning_rate": args.learning_rate, "train.epochs": args.epochs}
    config |= {"eval.every_epochs": args.epochs, "eval.test": True, "cache.dir": workdir.parent / "cache"}
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    return [sys.executable, "-m", "fjt.main", "--config", "configs/ner.py", "--workdir", str(workdir), *flags]


def trainer_command(args, seed, tables, workdir):
    return common.tables_command("tests.benchmarks.ner_trainer", args, seed, tables, workdir / sides.LAST["trainer"])


def main(argv=None):
    args = parse(argv)
    workdir, output = Path(args.workdir).resolve(), Path(args.output)
    tables = workdir / "tables"
    link_files(args.data, tables)
    tags = {split: [tags for _, tags in read_sentences(tables / f"{split}.conll")] for split in FILES}
    commands = {
        "fjt": lambda seed, run: fjt_command(args, seed, tables, run),
        "trainer": lambda seed, run: trainer_command(args, seed, tables, run),
    }
    scores = {"fjt": lambda run: score_fjt(run, tags), "trainer": lambda run: score_trainer(run, tags)}
    runs = sides.take_turns(args.seeds, workdir, commands, scores, show)
    counts = {split: {"sentences": len(rows), "entities": sum(begins(rows))} for split, rows in tags.items()}
    record = {"runs": runs, "data": counts, **common.provenance("tests.benchmarks.ner", args)}
    common.write_json(output / "records.json", record)
    (output / "table.md").write_text(table(record))
    print((output / "table.md").read_text())


def begins(rows):
    """The number of entities of each sentence.  rows: tags of the scheme BIO."""
    return [sum(tag.startswith("B-") for tag in row) for row in rows]


def show(run):
    scores = ", ".join(f"{split} entity F1 {100 * run[split]['entity_f1']:.1f}" for split in SCORED)
    print(f"seed {run['seed']} {run['side']}: {scores}, {run['examples_per_second']:.1f} examples/s", flush=True)


def table(record):
    """table.md: the scores of both sides, then their speed."""
    runs = record["runs"]
    counts = "; ".join(
        f"{split} {found['sentences']:,} sentences with {found['entities']:,} entities"
        for split, found in record["data"].items()
    )
    parts = [
        "# Entities of WNUT-17, fjt and Hugging Face's Trainer, the same recipe",
        f"{counts}. Points by seqeval, mean ± standard deviation over the seeds; fjt's own scores are equal to these. "
        "The last two columns list the seeds one by one.",
        sides.scores_table(runs, SCORED, METRICS),
        sides.speed_table(runs),
        common.footer(record),
    ]
    return "\n\n".join(parts) + "\n"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="the folder that holds wnut17/wnut17train.conll")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--workdir", default="runs/ner", help="where files and runs are kept")
    parser.add_argument("--output", default="results/ner", help="where records.json and table.md are")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
