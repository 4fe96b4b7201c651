"""Examples a second of fjt and of Hugging Face's Trainer: same task, weights, batch size, type, number of steps.

Each round runs fjt, then the Trainer with fixed padding to 128, dynamic padding and length-grouped batches, and with
dynamic padding in bfloat16, each in a process of its own, no threads restricted; the order rotates from round to
round, the seed is the round's number.
A ratio is taken within a round; the table gives the median over rounds and the range.

On the clock of both: the steps after the first three, batch making, update and logging included, without loading,
tokenization, compilation, evaluation and saving; fjt's first step of each shape, in which XLA still prepares kernels,
is left out as the first three are. The few steps of a grouped run are drawn evenly from a whole epoch's batches. With
--steps 0 both run one whole epoch, and fjt's row shapes are those of a whole epoch's schedule.

fjt compiles in every run, for its cache is new each time. What this does to a run of one epoch is computed: the epoch
at the measured speed, with the measured seconds of compilation.

Both inherit the environment: `export GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as launch/local.sh does, gives large pages
to both. In results/speed/epyc fjt had them, and the Trainer had not; in the others both had.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks import common

WARM = 3  # first steps left out of the clock, as in `trainer`
BFLOAT16 = "dynamic, bfloat16"  # the Trainer's way to more speed on a processor with such units
CONTENDERS = ("fjt", *common.BATCHINGS, BFLOAT16)
KEPT = (
    "examples_per_second",
    "train_seconds",
    "compile_seconds",
    "token_efficiency",
    "flops_per_step",
    "peak_memory_bytes",
    "memory_kind",
    "steps",
    "examples",
)


def main(argv=None):
    args = parse(argv)
    record = common.provenance("tests.benchmarks.speed", args) | {"dtype": args.dtype, "matmul": [], "runs": []}
    output = Path(args.output)
    for number in range(args.rounds):
        record["matmul"].append({library: matmul_rate(library) for library in ("jax", "torch")})
        print(f"round {number}: matrix products {record['matmul'][-1]} GFLOP/s", flush=True)
        every = contenders(args.dtype)
        shift = number % len(every)
        for task in args.tasks:
            for contender in every[shift:] + every[:shift]:
                record["runs"].append(measure(args, number, task, contender))
        common.write_json(output / "runs.json", record)
        (output / "table.md").write_text(table(record))
    print((output / "table.md").read_text())


def contenders(dtype):
    """What runs in a round.  dtype: of both sides."""
    return CONTENDERS if dtype == "float32" else CONTENDERS[:-1]


def matmul_rate(library):
    command = [sys.executable, "-m", "tests.benchmarks.matmul", library]
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]), 1)


def measure(args, number, task, contender):
    """The record of one run, which also says which round, task and contender it is."""
    model, data = Path(args.model).resolve(), Path(args.data).resolve()
    count = len(common.read_glue(data, task, "train")[0])
    with tempfile.TemporaryDirectory() as folder:
        if contender == "fjt":
            path = Path(folder) / "run" / "result.json"
            every = {"train__steps": args.steps, "eval__every_steps": args.steps}
            if not args.steps:
                every = {"train__epochs": 1, "eval__every_epochs": 1}
            every["cache__dir"] = Path(folder) / "cache"
            command = common.fjt_command(task, model, data, path.parent, number, model__dtype=args.dtype, **every)
        else:
            path = Path(folder) / "trainer.json"
            options = ["--epochs", "1", "--max_steps", str(args.steps), "--no-evaluate", "--optim", args.optim]
            options += ["--bf16"] if args.dtype == "bfloat16" or contender == BFLOAT16 else []
            batching = "dynamic" if contender == BFLOAT16 else contender
            command = common.trainer_command(task, model, data, path, number, batching, *options)
        if common.run(command, Path(folder) / "log"):
            sys.exit(f"{task}, {contender}: the run failed, see above")
        found = common.read_json(path)
        if contender == "fjt":
            found["examples_per_second"], found["step_seconds"] = rate(path.parent / "train.jsonl")
    print(f"round {number} {task} {contender}: {found['examples_per_second']:.1f} examples/s", flush=True)
    where = {"round": number, "task": task, "contender": contender, "train_examples": count}
    return where | {key: found[key] for key in KEPT if key in found}


def rate(log):
    """(examples a second of the steps on the clock, seconds of each step) of a train.jsonl."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    seconds = np.diff([0.0, *(row["seconds"] for row in rows)])
    examples = np.diff([0, *(row["examples"] for row in rows)])
    shapes = [row["shape"] for row in rows]
    timed = [k for k, shape in enumerate(shapes) if k >= WARM and shape in shapes[:k]]
    return float(examples[timed].sum() / seconds[timed].sum()), [round(float(s), 5) for s in seconds]


def spread(values, digits):
    """'median (lowest..highest)'."""
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}..{high})"


def table(record):
    """Markdown: ratios and rates by task, then where fjt stands against the machine."""
    runs, tasks = {}, {}
    for run in record["runs"]:
        runs[run["task"], run["contender"], run["round"]] = run
        tasks.setdefault(run["task"], set()).add(run["round"])
    theirs = contenders(record["dtype"])[1:]
    peak = {library: max(found[library] for found in record["matmul"]) for library in ("jax", "torch")}
    ratios, rates, epochs, costs = [], [], [], []
    for task, rounds in tasks.items():
        speed = {c: [runs[task, c, r]["examples_per_second"] for r in sorted(rounds)] for c in ("fjt", *theirs)}
        quotients = {c: [a / b for a, b in zip(speed["fjt"], speed[c], strict=True)] for c in theirs}
        ratios.append([task, *(spread(quotients[c], 2) for c in theirs), len(rounds)])
        rates.append([task, *(spread(speed[c], 1) for c in ("fjt", *theirs))])
        ours = [runs[task, "fjt", r] for r in sorted(rounds)]
        count = ours[0]["train_examples"]
        shares = [1 / (1 + run["compile_seconds"] * run["examples_per_second"] / count) for run in ours]
        epochs.append([task, count, *(spread(np.multiply(quotients[c], shares), 2) for c in theirs)])
        memory = [runs[task, c, r]["peak_memory_bytes"] for c in theirs for r in rounds]
        size = common.RECIPE["train.batch_size"]
        achieved = [run["flops_per_step"] * run["examples_per_second"] / size / 1e9 for run in ours]
        costs.append(
            [
                task,
                f"{statistics.median(run['compile_seconds'] for run in ours):.1f}",
                f"{statistics.median(run['token_efficiency'] for run in ours):.3f}",
                f"{statistics.median(run['flops_per_step'] for run in ours) / 1e9:.1f}",
                spread(achieved, 0),
                f"{100 * statistics.median(achieved) / peak['jax']:.0f} %",
                f"{max(run['peak_memory_bytes'] for run in ours) / 2**20:.0f} ({ours[0]['memory_kind']})",
                f"{max(memory) / 2**20:.0f}",
            ]
        )
    batchings = ["fixed to 128" if c == "fixed" else c for c in theirs]
    return (
        "\n\n".join(
            [
                "# Examples a second, fjt and Hugging Face's Trainer",
                f"Median over rounds (lowest..highest). {record['dtype']}, batch 32; full fine-tuning.",
                "fjt / Trainer, ratio of examples a second within a round, by the Trainer's batching:",
                common.markdown(["task", *batchings, "rounds"], ratios),
                "The same for a run of one epoch, with fjt's compilation on the clock (computed):",
                common.markdown(["task", "examples", *batchings], epochs),
                "Examples a second:",
                common.markdown(["task", "fjt", *(f"Trainer {name}" for name in batchings)], rates),
                f"The machine's float32 matrix products (2048 x 2048, best): {peak['jax']:.0f} GFLOP/s by JAX, "
                f"{peak['torch']:.0f} by PyTorch. Where fjt stands:",
                common.markdown(
                    [
                        "task",
                        "compile s",
                        "token efficiency",
                        "GFLOP a step",
                        "GFLOP/s",
                        "of JAX's products",
                        "peak MiB, fjt",
                        "peak MiB, Trainer (RSS)",
                    ],
                    costs,
                ),
                "On the clock: steps from the fourth on with batch making, update and logging (fjt: without the first "
                "step of each shape), without loading, tokenization, compilation, evaluation and saving.",
                common.footer(record),
            ]
        )
        + "\n"
    )


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout: <data>/MRPC/train.tsv")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "cola", "sst2"], choices=sorted(common.GLUE))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="of each run; 0: one whole epoch")
    parser.add_argument(
        "--optim",
        default="adamw_torch_fused",
        choices=("adamw_torch", "adamw_torch_fused"),
        help="the Trainer's AdamW; fused is what it takes by itself, and the faster one",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of computation on both sides; weights stay float32 (bfloat16 is the Trainer's bf16=True)",
    )
    parser.add_argument("--output", default="results/speed", help="where runs.json and table.md go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
