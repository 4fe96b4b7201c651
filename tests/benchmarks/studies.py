"""What a study saves, on real weights and data: hidden states kept, and programs, data and weights shared.

Three comparisons, each in one go on the same machine: 40 runs of the head on MRPC as one study against runs from
tokens one after another (some of them timed, and scaled); an epoch with its evaluation of the highest layers, with and
without hidden states kept, start-up taken off; eight LoRA runs on CoLA as one study against eight commands.
Writes studies.json and studies.md under --output.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from tests.benchmarks import common

CONFIG = "tests/benchmarks/study_config.py"
GOALS = {"head": 20.0, "top_k 1": 2.0, "top_k 2": 1.45, "lora": 2.0}
EPOCHS = 2  # between the two lengths of a run whose difference is an epoch's time


def main(argv=None):
    args = parse(argv)
    folder = Path(args.workdir).resolve()
    parts = {"head": head, "top_k": top_k, "lora": lora}
    path = Path(args.output) / "studies.json"
    rows = common.read_json(path)["rows"] if path.exists() else {}
    for name in args.parts:
        rows |= parts[name](args, folder / name)
        common.write_json(path, common.provenance("tests.benchmarks.studies", args) | {"rows": rows})
    (path.parent / "studies.md").write_text(table(common.read_json(path)))
    print(table(common.read_json(path)))


def places(args, folder):
    """Flags of data, weights and a cache of the part's own, so that nothing is there when it begins."""
    values = {"model.path": Path(args.model).resolve(), "data.source": "files", "data.dir": Path(args.data).resolve()}
    values |= {"cache.dir": folder / "cache", "model.dtype": "float32"}
    return [f"--config.{key}={value}" for key, value in values.items()]


def timed(program, config, workdir, *flags):
    """Seconds of a command from start to end."""
    if workdir.exists():
        raise SystemExit(f"{workdir} is there already; give another --workdir.")
    command = [sys.executable, "-m", program, "--config", config, "--workdir", str(workdir), *flags]
    start = time.perf_counter()
    if common.run(command, workdir.with_name(f"{workdir.name}.log")):
        raise SystemExit(f"{workdir} failed")
    seconds = time.perf_counter() - start
    print(f"{workdir.name}: {seconds:.1f} s", flush=True)
    return seconds


QUIET = (
    "--noconfig.output.export",
    "--noconfig.output.curve",
    "--noconfig.output.tables",
    "--noconfig.log.tensorboard",
)


def head(args, folder):
    """40 runs of the head as one study, nothing cached before, against some of them alone from tokens, scaled."""
    flags = places(args, folder)
    study = timed("fjt.sweep", f"{CONFIG}:head", folder / "study", *flags)
    once = ("--config.eval.every_epochs=0", *QUIET)
    alone = [
        timed(
            "fjt.main",
            "configs/methods.py:mrpc,head",
            folder / f"alone{seed}",
            *flags,
            *once,
            f"--config.seed={seed}",
            "--noconfig.cache.hidden",
        )
        for seed in range(args.alone)
    ]
    trained = [common.read_json(folder / f"alone{seed}" / "result.json")["train_seconds"] for seed in range(args.alone)]
    result = {
        "study_seconds": study,
        "alone_seconds": alone,
        "alone_train_seconds": trained,
        "runs": 40,
        "ratio": 40 * statistics.fmean(alone) / study,
        "train_ratio": 40 * statistics.fmean(trained) / study,
    }
    return {"head": result}


def top_k(args, folder):
    """An epoch's training and evaluation: the difference of runs that are EPOCHS epochs apart, start-up alike."""
    rows = {}
    for layers in (1, 2):
        flags = [*places(args, folder), f"--config.tune.layers={layers}", "--config.eval.every_epochs=1", *QUIET]
        each = {}
        for kept in (True, False):
            own = f"--config.cache.hidden={kept}"
            name = f"{layers}-{'kept' if kept else 'tokens'}"
            if kept:  # the files are made by a run that is not timed
                timed(
                    "fjt.main",
                    "configs/methods.py:mrpc,top_k",
                    folder / f"{name}-first",
                    *flags,
                    own,
                    "--config.train.epochs=1",
                )
            short, long = (
                timed(
                    "fjt.main",
                    "configs/methods.py:mrpc,top_k",
                    folder / f"{name}-{epochs}",
                    *flags,
                    own,
                    f"--config.train.epochs={epochs}",
                )
                for epochs in (1, 1 + EPOCHS)
            )
            each["kept" if kept else "tokens"] = (long - short) / EPOCHS
        rows[f"top_k {layers}"] = {
            "kept_seconds": each["kept"],
            "tokens_seconds": each["tokens"],
            "ratio": each["tokens"] / each["kept"],
        }
    return rows


def lora(args, folder):
    """Eight seeds as one study against eight commands, each from nothing but tokens that were cached before."""
    flags = places(args, folder)
    limits = ("--config.data.limit=1000", "--config.train.epochs=3", "--config.eval.every_epochs=0", *QUIET)
    alone = [
        timed(
            "fjt.main",
            "configs/methods.py:cola,lora",
            folder / f"alone{seed}",
            *flags,
            *limits,
            f"--config.seed={seed}",
        )
        for seed in range(8)
    ]
    study = timed("fjt.sweep", f"{CONFIG}:lora", folder / "study", *flags)
    own = folder / "study" / "runs" / "cola" / "lora"
    per_step = {
        "alone": step_seconds([folder / f"alone{seed}" for seed in range(8)]),
        "study": step_seconds([own / f"seed={seed}" for seed in range(8)]),
    }
    result = {"study_seconds": study, "alone_seconds": alone, "ratio": sum(alone) / study}
    return {"lora": result | {f"{name}_step_seconds": value for name, value in per_step.items()}}


def step_seconds(runs):
    """The median over runs of a training step's seconds."""
    results = [common.read_json(run / "result.json") for run in runs]
    return statistics.median(result["train_seconds"] / result["steps"] for result in results)


WORDS = {
    "head": "40 runs of the head on MRPC, five epochs: one study, hidden states made in it, against runs from tokens, "
    "one after another",
    "top_k 1": "an epoch of MRPC and its evaluation, the highest layer trains: hidden states kept against tokens",
    "top_k 2": "the same, two layers",
    "lora": "eight LoRA runs on 1,000 examples of CoLA, three epochs: one study against eight commands",
}


def table(record):
    """studies.md."""
    rows, cells, checks = record["rows"], [], []
    for name, words in WORDS.items():
        if name not in rows:
            continue
        row, goal = rows[name], GOALS[name]
        ours = row.get("study_seconds", row.get("kept_seconds"))
        theirs = row.get("tokens_seconds") or ours * row["ratio"]
        cells.append([words, f"{ours:.1f}", f"{theirs:.1f}", f"{row['ratio']:.1f}", f"{goal:g}"])
        checks.append((f"{name}: {row['ratio']:.2f} times (at least {goal:g})", row["ratio"] >= goal))
    lines = ["# What a study saves", "", common.markdown(["", "seconds", "against", "times", "goal"], cells), ""]
    if "lora" in rows:
        steps = [rows["lora"][f"{name}_step_seconds"] for name in ("study", "alone")]
        ratio = steps[0] / steps[1]
        checks.append((f"a LoRA step of the study takes {ratio:.3f} of one alone (at most 1.05)", ratio <= 1.05))
    if "head" in rows:
        row, alone = rows["head"], rows["head"]["alone_seconds"]
        lines += [
            f"Of the head's runs from tokens {len(alone)} were timed, {min(alone):.1f} to {max(alone):.1f} s each, and "
            "scaled to 40. Their training alone, without start-up, compilation and evaluation, takes "
            f"{row['train_ratio']:.1f} times as long as the whole study.",
            "",
        ]
    lines += [*(f"- {'passed' if ok else 'FAILED'}: {words}" for words, ok in checks), ""]
    return "\n".join([*lines, common.footer(record), ""])


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout")
    parser.add_argument("--parts", nargs="+", default=["head", "top_k", "lora"], choices=["head", "top_k", "lora"])
    parser.add_argument("--alone", type=int, default=4, help="runs of the head from tokens that are timed")
    parser.add_argument("--workdir", default="runs/studies", help="where the runs are")
    parser.add_argument("--output", default="results/studies", help="where the record is")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
