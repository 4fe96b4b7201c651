"""Answers of SQuAD 1.1: exact match, F1 and examples a second, of fjt and of Hugging Face's Trainer.

    python -m tests.benchmarks.squad --model DIR --data DIR --output results/squad

Both sides train on the same questions, every 60th of train-v1.1.json by default, and answer every 10th of
dev-v1.1.json, with the same recipe: batches of 16 windows of at most 384 tokens that share 128, learning rate 2e-4
decaying linearly to zero, no warm-up, no weight decay, clipping at 1.0, the checkpoint's dropout, float32, the last
step's weights.  They differ in their random numbers, and in two ways of Hugging Face's script: the Trainer pads each
batch to its longest window, and its softmax is over the padding as well; its best answer is sought among the 20 best
starts and the 20 best ends, fjt's among all spans of at most 30 tokens.

The answers of both sides are scored here, by the official rules in another implementation than fjt's; the command stops
when fjt's own scores differ.  The sides take turns, and each seed has another side first.  A ratio of speeds is taken
within a seed.  The work directory keeps finished runs: the same command goes on from there.
"""

import argparse
import json
import re
import string
import sys
from pathlib import Path

from tests.benchmarks import common, sides
from tests.benchmarks.speed import rate

FILES = {"train": "train-v1.1.json", "dev": "dev-v1.1.json"}
METRICS = ("f1", "exact_match")
WINDOW = {"max_length": 384, "doc_stride": 128}
BATCH = 16


def write_slice(source, target, every):
    """Writes every n-th question of a file in the same layout."""
    data, number = json.loads(Path(source).read_text(encoding="utf-8")), 0
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            chosen = []
            for question in paragraph["qas"]:
                chosen += [question] if number % every == 0 else []
                number += 1
            paragraph["qas"] = chosen
        article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(data), encoding="utf-8")


def read_questions(path):
    """[(id, question, context, answers as (text, start))] of a file."""
    return [
        (q["id"], q["question"], p["context"], [(a["text"], a["answer_start"]) for a in q["answers"]])
        for article in json.loads(Path(path).read_text(encoding="utf-8"))["data"]
        for p in article["paragraphs"]
        for q in p["qas"]
    ]


def words(text):
    """The words of an answer that count."""
    text = "".join(" " if character.isspace() else character for character in text.lower())
    text = "".join(character for character in text if character not in string.punctuation)
    return [word for word in re.sub(r"\b(?:a|an|the)\b", " ", text).split(" ") if word]


def score_one(predicted, true):
    """(F1, exact match) of one answer."""
    found, wanted = words(predicted), words(true)
    left, common_words = list(wanted), 0
    for word in found:
        if word in left:
            left.remove(word)
            common_words += 1
    if not found or not wanted:
        return float(found == wanted), float(found == wanted)
    precision, recall = common_words / len(found), common_words / len(wanted)
    f1 = 2 * precision * recall / (precision + recall) if common_words else 0.0
    return f1, float(found == wanted)


def score(questions, answers):
    """{metric: mean over the questions of the best over their answers}.  answers: {id: text}.

    As in version 2.0's evaluation, an answer of signs and articles alone is none.
    """
    found = []
    for name, _, _, true in questions:
        texts = [text for text, _ in true if words(text)] or [""]
        found.append([score_one(answers[name], text) for text in texts])
    return {metric: sum(max(one[i] for one in each) for each in found) / len(found) for i, metric in enumerate(METRICS)}


def score_fjt(workdir, questions):
    """The record of a finished run.

    Raises:
        AssertionError: fjt's scores are not those of `score`.
    """
    result = common.read_json(workdir / "result.json")
    found = score(questions, common.read_json(workdir / "predictions" / "dev.json"))
    for name, value in found.items():
        ours = result["metrics"][name]
        assert abs(ours - value) < 1e-12, f"{workdir}: {name} is {ours} by fjt and {value} here"
    speed, _ = rate(workdir / "train.jsonl")
    return {"dev": found, "examples_per_second": speed, "compile_seconds": result["compile_seconds"]}


def score_trainer(workdir, questions):
    """The record of a Trainer run."""
    record = common.read_json(workdir / sides.LAST["trainer"])
    return {"dev": score(questions, record["answers"]), "examples_per_second": record["examples_per_second"]}


def fjt_command(args, seed, tables, workdir):
    config = common.RECIPE | {f"data.files.{split}": tables / f"{split}.json" for split in FILES}
    config |= {f"model.{name}": value for name, value in WINDOW.items()} | {"train.batch_size": BATCH}
    config |= {"model.path": Path(args.model).resolve(), "seed": seed, "tune.method": "full"}
    config |= {"optim.learning_rate": args.learning_rate, "train.epochs": args.epochs}
    config |= {"eval.every_epochs": args.epochs, "cache.dir": workdir.parent / "cache"}
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    return [sys.executable, "-m", "fjt.main", "--config", "configs/squad.py", "--workdir", str(workdir), *flags]


def trainer_command(args, seed, tables, workdir):
    output = workdir / sides.LAST["trainer"]
    return common.tables_command(
        "tests.benchmarks.squad_trainer", args, seed, tables, output, batch_size=BATCH, max_length=WINDOW["max_length"]
    )


def main(argv=None):
    args = parse(argv)
    workdir, output = Path(args.workdir).resolve(), Path(args.output)
    tables = workdir / "tables"
    for split, every in (("train", args.train_every), ("dev", args.dev_every)):
        write_slice(Path(args.data) / "squad" / FILES[split], tables / f"{split}.json", every)
    questions = {split: read_questions(tables / f"{split}.json") for split in FILES}
    commands = {
        "fjt": lambda seed, run: fjt_command(args, seed, tables, run),
        "trainer": lambda seed, run: trainer_command(args, seed, tables, run),
    }
    dev = questions["dev"]
    scores = {"fjt": lambda run: score_fjt(run, dev), "trainer": lambda run: score_trainer(run, dev)}
    runs = sides.take_turns(args.seeds, workdir, commands, scores, show)
    counts = {split: len(rows) for split, rows in questions.items()}
    record = {"runs": runs, "questions": counts, **common.provenance("tests.benchmarks.squad", args)}
    common.write_json(output / "records.json", record)
    (output / "table.md").write_text(table(record))
    print((output / "table.md").read_text())


def show(run):
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in run["dev"].items())
    print(f"seed {run['seed']} {run['side']}: {scores}, {run['examples_per_second']:.1f} examples/s", flush=True)


def table(record):
    """table.md: the scores of both sides, then their speed."""
    counts = record["questions"]
    parts = [
        "# Answers of SQuAD 1.1, fjt and Hugging Face's Trainer, the same recipe",
        f"Trained on {counts['train']:,} questions, scored on {counts['dev']:,} of dev. Points, mean ± standard "
        "deviation over the seeds; fjt's own scores are equal to these. The last two columns list the seeds.",
        sides.scores_table(record["runs"], ("dev",), METRICS),
        sides.speed_table(record["runs"]),
        common.footer(record),
    ]
    return "\n\n".join(parts) + "\n"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="the folder that holds squad/train-v1.1.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--train_every", type=int, default=60, help="train on one question in so many")
    parser.add_argument("--dev_every", type=int, default=10, help="answer one question of dev in so many")
    parser.add_argument("--workdir", default="runs/squad", help="where files and runs are kept")
    parser.add_argument("--output", default="results/squad", help="where records.json and table.md are")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
