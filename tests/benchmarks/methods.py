"""Dev scores of every tuning method on the same weights and data, each at its recipe, over several seeds.

Trains `configs/methods.py:TASK,METHOD` seed by seed, one process at a time. A run that has ended is a line of
runs.jsonl in --output, the record that is committed: the same command goes on from there, on any day. One command a
core may work on one record, each with its share of the tasks. table.md is made from the record. An unfinished run's
folder is kept under --workdir and is resumed.

The first methods have --seeds; the others one seed on the last task, which shows that they learn. A method whose mean
is below that of the head alone is marked. The published scores beside them are of another model, for their order.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

from fjt.core import records
from tests.benchmarks import common

COMPARED = ("full", "head", "top_k", "bitfit", "lora", "dora", "ia3", "pfeiffer", "houlsby", "prefix")
SHOWN = (
    "llrd",
    "gradual",
    "mixout",
    "pattern",
    "layernorm",
    "attention_only",
    "vera",
    "parallel",
    "compacter",
    "prompt",
    "p_tuning",
    "mam",
    "unipelt",
)
# Theirs, not measured here.
SOURCE = "Mao et al. 2022 (UniPELT), table 1, with r = 8 for LoRA, 10 for the prefix and 48 for the adapter"
PUBLISHED = {
    "mrpc": {"full": 90.94, "prefix": 91.29, "lora": 90.03, "pfeiffer": 89.86},
    "stsb": {"full": 89.76, "prefix": 87.19, "lora": 85.65, "pfeiffer": 88.63},
}
COST = "results/cost/cost.json"
# Of prompt.jsonl, whose runs were made by `fjt.main --config configs/methods.py:stsb,prompt` and what each row says.
BELOW = (
    "Prompt tuning is below the head because tokens from the vocabulary, put before the text, spoil what the frozen "
    "encoder gives, whether they learn or not, and few epochs do not teach them better. STS-B, seed 0, Pearson after "
    "each epoch (`prompt.jsonl`; runs of fewer epochs were planned so, or stopped there):"
)
KEPT = (
    "metrics", "steps", "epochs", "trainable_params", "added_params", "head_params", "pooler_params", "total_params",
    "flops_per_step", "train_seconds", "failed",
)  # fmt: skip


def main(argv=None):
    args = parse(argv)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    if not args.tables:
        train_all(args, wanted(args), output / "runs.jsonl")
    rows = load(output / "runs.jsonl")
    (output / "table.md").write_text(table(rows, common.provenance("tests.benchmarks.methods", args), output))
    print((output / "table.md").read_text())


def wanted(args):
    """[(seed, task, method)]: seed by seed, so that a record cut short compares all methods; one seed of SHOWN."""
    runs = [(seed, task, method) for seed in args.seeds for method in COMPARED for task in args.tasks]
    once = [(args.seeds[0], args.tasks[-1], method) for method in SHOWN]
    first = len(COMPARED) * len(args.tasks)
    return [run for run in [*runs[:first], *once, *runs[first:]] if run[2] in args.methods]


def train_all(args, runs, record):
    waiting = [run for run in runs if run not in {key(row) for row in load(record)}]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs ended", flush=True)
    begun = time.time()
    for done, (seed, task, method) in enumerate(waiting, start=1):
        folder = (Path(args.workdir) / task / method / f"seed={seed}").resolve()
        code = common.run(command(args, seed, task, method, folder), folder.with_name(f"seed={seed}.log"))
        found = folder / "result.json"
        if code not in (0, 3) or not found.exists():
            print(f"{task} {method} seed {seed}: exit {code}, not recorded", flush=True)
            continue
        result = common.read_json(found)
        row = {"task": task, "method": method, "seed": seed} | {name: result.get(name) for name in KEPT}
        row["recipe"] = recipe(common.read_json(folder / "config.json")["config"])
        row |= {"cores": records.cores(), "commit": records.commit()[:8]}
        with open(record, "a") as file:
            file.write(json.dumps(row) + "\n")
        words = " ".join(f"{name} {100 * value:.1f}" for name, value in (row["metrics"] or {}).items())
        left = (time.time() - begun) / done * (len(waiting) - done) / 60
        print(f"{task} {method} seed {seed}: {words}; {done}/{len(waiting)}, about {left:.0f} min left", flush=True)


def command(args, seed, task, method, folder):
    values = {"model.path": Path(args.model).resolve(), "data.source": "files", "data.dir": Path(args.data).resolve()}
    values |= {"seed": seed, "model.dtype": "float32"}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    if args.steps:
        flags.append(f"--config.train.steps={args.steps}")
    config = f"configs/methods.py:{task},{method}"
    return [sys.executable, "-m", "fjt.main", "--config", config, "--workdir", str(folder), *flags]


def recipe(config):
    """{option: value} of what a method's recipe decided in a run, from its resolved config."""
    given = {name: config["optim"][name] for name in ("learning_rate", "weight_decay")}
    return given | {
        name: value
        for name, value in config["tune"].items()
        if name not in ("method", "train_pooler") and value not in (None, [], 0, False)
    }


def key(row):
    return row["seed"], row["task"], row["method"]


def load(record):
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def table(rows, record, output):
    """table.md of the runs that have ended, diverged ones counted."""
    lines, times = ["# Every method at its recipe, dev, points", ""], step_times()
    for task in dict.fromkeys(row["task"] for row in rows):
        names = common.GLUE[task][3].metrics
        header = [
            task,
            *names,
            "runs",
            "parameters that train",
            "of these added",
            "epochs",
            "FLOPs a step / full",
            "step time / full",
            "bert-base, published",
            "rate, decay, options",
        ]
        here = [row for row in rows if row["task"] == task]
        full = next((row["flops_per_step"] for row in here if row["method"] == "full" and not row["failed"]), math.nan)
        scores = {method: score(here, method, names[0]) for method in (*COMPARED, *SHOWN)}
        cells = []
        for method in scores:
            found = [row for row in here if row["method"] == method]
            if not found:
                continue
            mark = " (below head)" if scores[method] < scores["head"] else ""
            ended = [row for row in found if not row["failed"]]
            facts = ["-"] * 4
            if ended:
                one = ended[0]
                facts = [
                    f"{one['trainable_params']:,}",
                    f"{one['added_params']:,}",
                    f"{one['epochs']:.0f}",
                    f"{one['flops_per_step'] / full:.2f}",
                ]
            facts.append(f"{times[method]:.2f}" if method in times else "-")
            cells.append(
                [
                    method + mark,
                    *(spread(found, name) for name in names),
                    f"{len(ended)} of {len(found)}",
                    *facts,
                    f"{PUBLISHED[task][method]:.1f}" if method in PUBLISHED.get(task, {}) else "",
                    stated(found[0]["recipe"]),
                ]
            )
        lines += [common.markdown(header, cells), ""]
    lines += [
        "Batches of 32, AdamW to zero with a warm-up of 0.06, clipping at 1; rate, decay and options as each run "
        "resolved them. Mean ± standard deviation over the runs that finished, of those that were started. Step times "
        f"are those of {COST}, where the methods take steps in turn, for these runs were made beside other work. "
        f"Published: best dev score, F1 of MRPC and Spearman of STS-B, {SOURCE}.",
        "",
        BELOW,
        "",
        below(output),
        "",
    ]
    return "\n".join([*lines, common.footer(record), ""])


def below(output):
    """The table of what was tried with prompts."""
    rows = load(output / "prompt.jsonl")
    return common.markdown(
        ["what", "epochs planned", "Pearson by epoch"],
        [[row["what"], row["epochs"], ", ".join(f"{value:.3f}" for value in row["pearson"])] for row in rows],
    )


def stated(recipe):
    """A recipe for a cell of the table."""
    options = [
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in recipe.items()
    ]
    return ", ".join([f"{recipe['learning_rate']:g}", f"{recipe['weight_decay']:g}", *options[2:]])


def step_times():
    """{method: time of a step over that of full tuning} of MiniLM's shape, as tests.benchmarks.cost measured it."""
    rows = common.read_json(Path(COST))["rows"] if Path(COST).exists() else []
    return {row["method"]: row["seconds_ratio"] for row in rows if row["shape"] == "minilm"}


def score(rows, method, metric):
    """The mean, in points; nan without a finished run."""
    values = [100 * row["metrics"][metric] for row in rows if row["method"] == method and not row["failed"]]
    return statistics.fmean(values) if values else math.nan


def spread(rows, metric):
    values = [100 * row["metrics"][metric] for row in rows if not row["failed"]]
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout: <data>/MRPC/train.tsv")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb"], choices=sorted(common.GLUE))
    parser.add_argument("--methods", nargs="+", default=[*COMPARED, *SHOWN], choices=[*COMPARED, *SHOWN])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=0, help="a trial of so many steps; 0: the recipe decides")
    parser.add_argument("--workdir", default="runs/methods", help="where unfinished runs are kept")
    parser.add_argument("--output", default="results/methods", help="where runs.jsonl and the table are")
    parser.add_argument("--tables", action="store_true", help="train nothing, make table.md again")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
