"""Searches: samplers on a known function and on MRPC, and 16 trials in one command beside 16 commands.

`--part function`: the distance to the best point of a smooth function of two ranges, without a model, over many seeds.
`--part samplers`: learning rate, label smoothing and epochs of a pooler and a head on the frozen encoder, by each
sampler with each of --seeds. `--part lanes`: 16 LoRA trials of few steps, from a cold cache, as `fjt.search --lanes
16` and as 16 `fjt.main`, whose scores have to be the same to the bit. Processor seconds say more than wall time where
the machine does other work as well. What has been measured is in --output/search.json: the same command goes on from
there.
"""

import argparse
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.trial import create_trial

from configs import quickstart, search
from fjt.study import proposals, space
from tests.benchmarks import common

SAMPLED = (
    "The standard error of an accuracy of 72 % on the 408 rows of dev is 2.2 points, so the samplers' best scores are "
    "not resolved. The first ten trials of TPE are random draws, the same as those of the random sampler with its seed."
)
FUNCTION = {"optim.learning_rate": ("log", 1e-6, 1.0, 6), "optim.warmup_fraction": ("float", 0.0, 1.0, 5)}
FUNCTION_SEEDS, FUNCTION_TRIALS = 20, (10, 20, 30, 60)
LANES = 16
HEADS = """
from configs import glue, search


def get_config():
    config = search.get_config(glue.get_config("mrpc,head"))
    config.tune.train_pooler, config.train.select = True, "accuracy"
    config.search.space = (
        {
            "optim.learning_rate": ("log", 1e-5, 1.0, 6),
            "loss.label_smoothing": ("float", 0.0, 0.4, 3),
            "train.epochs": ("int", 2, 5, 2),
        },
    )
    return config
"""
LORA = """
from configs import glue, search


def get_config():
    config = search.get_config(glue.get_config("mrpc,lora"))
    config.train.steps, config.eval.every_epochs = 20, 0
    config.search.space = ({"optim.learning_rate": ("log", 1e-4, 1e-1), "tune.alpha": ("float", 4.0, 32.0)},)
    return config
"""


def main(argv=None):
    args = parse(argv)
    path = Path(args.output) / "search.json"
    record = common.read_json(path) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if args.part == "samplers":
            for seed in args.seeds:
                for sampler in proposals.SAMPLERS:
                    measured = record.setdefault("samplers", {}).setdefault(sampler, {})
                    if str(seed) not in measured:
                        measured[str(seed)] = sample(args, Path(folder), sampler, seed)
                        save(args, path, record)
        if args.part == "function":
            record["function"] = {sampler: distances(sampler) for sampler in proposals.SAMPLERS}
            save(args, path, record)
        if args.part == "lanes" and "lanes" not in record:
            record["lanes"] = compare(args, Path(folder))
            save(args, path, record)
    text = "# Searches\n\n" + table(record) + "\n\n" + footers(record)
    (path.parent / "search.md").write_text(text + "\n")
    print(text)


def save(args, path, record):
    about = record.setdefault("measured", {})
    describe = common.settings if args.part == "function" else common.provenance
    about[args.part] = describe("tests.benchmarks.search", args)
    if args.part == "lanes":
        about[args.part]["weights"] = common.weights(args.tiny)
    common.write_json(path, record)


def given(args, model):
    values = {"model.path": model, "data.source": "files", "data.dir": args.data, "eval.test": False}
    return [f"--config.{key}={value}" for key, value in values.items()]


def distances(sampler):
    """The median over seeds of the distance that is left after each of FUNCTION_TRIALS trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = search.get_config(quickstart.get_config())
    config.search.space = (FUNCTION,)
    spaces, left = space.read(config)[0], []
    for seed in range(FUNCTION_SEEDS):
        ended = []
        for number in range(proposals.count(sampler, spaces, max(FUNCTION_TRIALS))):
            parameters, distributions = proposals.propose(sampler, seed, spaces, number, ended, True)
            value = distance(space.values_of(parameters, spaces))
            ended.append(create_trial(params=parameters, distributions=distributions, value=value))
        left.append([min(trial.value for trial in ended[:trials]) for trials in FUNCTION_TRIALS])
    return [statistics.median(column) for column in zip(*left, strict=True)]


def distance(values):
    """0 at a rate of 1e-3 and a warm-up of 0.3, and quadratic around it."""
    rate = (math.log10(values["optim.learning_rate"]) + 3) / 6
    return math.hypot(rate, values["optim.warmup_fraction"] - 0.3)


def sample(args, folder, sampler, seed):
    """{best score so far after each trial, processor seconds} of one search."""
    (folder / "heads.py").write_text(HEADS)
    workdir = folder / f"{sampler}-{seed}"
    command = [sys.executable, "-m", "fjt.search", folder / "heads.py", "--workdir", workdir]
    command += [f"--trials={args.trials}", f"--sampler={sampler}", f"--seed={seed}", *given(args, args.model)]
    seconds = timed([command], folder / "log", {})
    rows = common.read_json(workdir / "search.json")["trials"]
    scores = [None if row["score"] is None else row["score"] for row in rows]
    print(sampler, seed, scores, flush=True)
    return {"scores": scores, **seconds}


def compare(args, folder):
    """Wall time and processor seconds of 16 trials in one command, and of 16 commands, each from an empty cache."""
    (folder / "lora.py").write_text(LORA)
    workdir = folder / "together"
    command = [sys.executable, "-m", "fjt.search", folder / "lora.py", "--workdir", workdir, "--sampler=random"]
    command += [f"--trials={LANES}", f"--lanes={LANES}", *given(args, args.tiny)]
    together = timed([command], folder / "log", {"FJT_CACHE": str(folder / "cache-1")})
    rows = common.read_json(workdir / "search.json")["trials"]
    commands = []
    for row in rows:
        options = row["values"] | {"train.steps": 20, "eval.every_epochs": 0, "eval.official_dev": False}
        options |= {f"output.{name}": False for name in ("export", "tables", "curve", "checkpoints")}
        options |= {"log.tensorboard": False}
        commands.append(
            [sys.executable, "-m", "fjt.main", "--config", "configs/glue.py:mrpc,lora", "--workdir"]
            + [folder / f"alone-{row['trial']}", *given(args, args.tiny)]
            + [f"--config.{key}={value}" for key, value in options.items()]
        )
    alone = timed(commands, folder / "log", {"FJT_CACHE": str(folder / "cache-2")})
    same = 0
    for row in rows:
        one, other = (
            common.read_json(path / "result.json")
            for path in (workdir / f"trials/{row['trial']:04d}", folder / f"alone-{row['trial']}")
        )
        same += one["params_sha256"] == other["params_sha256"] and one["metrics"] == other["metrics"]
    return {"trials": len(rows), "same_bits": same, "together": together, "alone": alone}


def timed(commands, log, environment):
    """{wall time, processor seconds} of commands, one after another."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    os.environ.update(environment)
    for command in commands:
        if common.run(list(map(str, command)), log):
            raise SystemExit(1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(time.perf_counter() - start, 1), "processor_seconds": round(used, 1)}


def best_so_far(scores):
    """The best score after each trial; a trial without one counts as 0."""
    found = []
    for score in scores:
        found.append(max([score or 0.0, *found[-1:]]))
    return found


def table(record):
    parts = []
    if "function" in record:
        rows = [(sampler, *(f"{one:.4f}" for one in left)) for sampler, left in record["function"].items()]
        header = ("sampler", *(f"distance left after {trials} trials" for trials in FUNCTION_TRIALS))
        parts += ["## A known function", common.markdown(header, rows)]
        parts.append(
            f"Medians over {FUNCTION_SEEDS} seeds of the distance to the best point of a bowl over two ranges, each of "
            "length 1. The grid has 30 points. No model is trained: real scores are noisy, and less smooth."
        )
    if "samplers" in record or "lanes" in record:
        parts.append("## MRPC")
    if "samplers" in record:
        most = min(len(one["scores"]) for seeds in record["samplers"].values() for one in seeds.values())
        ends = (most // 3, 2 * most // 3, most)
        rows = []
        for sampler, seeds in record["samplers"].items():
            curves = [best_so_far(one["scores"]) for one in seeds.values()]
            means = [f"{100 * statistics.fmean(curve[end - 1] for curve in curves):.2f}" for end in ends]
            lost = sum(score is None for one in seeds.values() for score in one["scores"])
            rows.append((sampler, len(curves), *means, lost))
        header = ("sampler", "seeds", *(f"best accuracy of {end} trials" for end in ends), "trials without a score")
        parts.append(common.markdown(header, rows))
        parts.append(SAMPLED)
    if "lanes" in record:
        lanes = record["lanes"]
        rows = [
            (name, lanes[key]["wall_seconds"], lanes[key]["processor_seconds"])
            for name, key in (("one search", "together"), ("one command per trial", "alone"))
        ]
        share = [lanes["together"][key] / lanes["alone"][key] for key in ("wall_seconds", "processor_seconds")]
        rows.append(("ratio", *(f"{one:.2f}" for one in share)))
        header = (f"{lanes['trials']} trials from a cold cache", "wall, s", "processor, s")
        parts.append(common.markdown(header, rows))
        parts.append(
            f"{lanes['same_bits']} of {lanes['trials']} trials have the weights and scores of the run alone. "
            "Other work of the machine counts in the wall times."
        )
    return "\n\n".join(parts)


def footers(record):
    return "\n\n".join(f"`{part}`:\n\n{common.footer(about)}" for part, about in record.get("measured", {}).items())


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, choices=("function", "samplers", "lanes"))
    parser.add_argument("--model", help="the directory of the encoder of the samplers' part")
    parser.add_argument("--tiny", help="the directory of the encoder of the lanes' part")
    parser.add_argument("--data", help="of both: GLUE in its official layout")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trials", type=int, default=24, help="of each search of the samplers' part")
    parser.add_argument("--output", default="results/toolbox")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
