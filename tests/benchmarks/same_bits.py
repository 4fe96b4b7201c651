"""Whether two checkouts compute the same bits: 30 runs and the lanes of a study, compared step by step.

    python -m tests.benchmarks.same_bits record --checkout DIR --output FILE --model MINILM --data GLUE
    python -m tests.benchmarks.same_bits compare BEFORE AFTER --output results/same_bits

`record` runs the commands of a checkout, each in a process of its own, and keeps one row per run: the losses and
gradient norms of every step, the metrics, and a hash of the predicted logits.  Only the command line and the files of
a run's work directory are read, so that checkouts with different modules can be compared.  Metrics that only the second
checkout computes are named in the table.
Both records must come from the same machine with the same number of cores.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.benchmarks import common

METHODS = (
    "full llrd gradual mixout head top_k pattern attention_only bitfit layernorm lora dora vera ia3 houlsby pfeiffer "
    "parallel compacter prefix prompt p_tuning mam unipelt"
).split()
SHORT = {"data.limit": 400, "train.steps": 40, "eval.every_steps": 20, "train.epochs": "None"}
ROOM = {"model.max_length": 40}  # the encoder has 64 positions, and 20 are for what the method puts before the text
OPTIONS = {
    "pattern": {"tune.train": "('encoder/layer_1/',)"},
    "full": {"model.dropout.hidden": 0.1},
    "prefix": ROOM,
    "prompt": ROOM,
    "p_tuning": ROOM,
}


def quickstart_runs(folder):
    """{name: flags} of every method once, over an encoder that the first run trains."""
    runs = {"base": {"config": "configs/quickstart.py", "train.epochs": 1}}
    for method in METHODS:
        keys = SHORT | OPTIONS.get(method, {}) | {"tune.method": method, "model.path": folder / "base"}
        runs[f"quickstart {method}"] = {"config": "configs/quickstart.py", "optim.learning_rate": "None"} | keys
    return runs


def glue_runs(model, data):
    """{name: flags} of runs on real data and weights."""
    short = SHORT | {"model.path": model, "data.source": "files", "data.dir": data, "train.steps": 24}
    short |= {"eval.every_steps": 12, "eval.test": False}
    mrpc, stsb = {"config": "configs/glue.py:mrpc"} | short, {"config": "configs/glue.py:stsb"} | short
    cached = {"train.steps": "None", "train.epochs": 3, "eval.every_steps": "None", "cache.hidden": True}
    return {
        "MRPC full": mrpc | {"tune.method": "full"},
        "MRPC lora": mrpc | {"tune.method": "lora"},
        "MRPC head, cached": mrpc | {"tune.method": "head"} | cached,
        "MRPC top_k, cached": mrpc | {"tune.method": "top_k"} | cached,
        "STS-B full": stsb | {"tune.method": "full"},
        "MRPC accumulation": mrpc | {"tune.method": "lora,bitfit", "train.accumulation": 2},
        "MRPC one example per row": mrpc | {"tune.method": "full", "train.packing": False, "train.steps": 6},
    }


def lanes_flags(folder):
    """Flags of a study whose runs are lanes of vmapped programs: one group per method."""
    return {
        "config": "configs/quickstart_sweep.py", "study.base": "", "study.mode": "vmap", "study.seeds": 2,
        "data.limit": 200, "train.epochs": 2, "model.path": folder / "base",
    }  # fmt: skip


def command(module, keys, workdir):
    keys = dict(keys)
    config = keys.pop("config")
    flags = [f"--config.{key}={value}" for key, value in keys.items() if value != "None"]
    return [sys.executable, "-m", module, "--config", config, "--workdir", str(workdir), *flags]


def run(arguments, checkout, cache):
    """Runs a command in a checkout; its last lines are the error."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "FJT_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(arguments, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}: {' '.join(arguments)}\n{done.stderr[-2000:]}")


def row_of(workdir):
    """What a run computed: floats are kept in full, so that equal rows are equal to the last bit."""
    steps = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    logits = {}
    for path in sorted((workdir / "predictions").glob("*.npz")):
        with np.load(path) as arrays:
            logits[path.stem] = hashlib.sha256(np.ascontiguousarray(arrays["logits"]).tobytes()).hexdigest()
    result = common.read_json(workdir / "result.json")
    return {
        "losses": [step["loss"] for step in steps],
        "grad_norms": [step["grad_norm"] for step in steps],
        "splits": result["splits"],
        "selected_step": result["selected_step"],
        "logits": logits,
    }


def record(args):
    folder, checkout = Path(args.workdir).resolve(), Path(args.checkout).resolve()
    model, data = Path(args.model).resolve(), Path(args.data).resolve()
    rows = {}
    for name, keys in (quickstart_runs(folder) | glue_runs(model, data)).items():
        workdir = folder / name.replace(" ", "_").replace(",", "")
        run(command("fjt.main", keys, workdir), checkout, folder / "cache")
        rows[name] = row_of(workdir)
        print(name, rows[name]["losses"][-1], flush=True)
    run(command("fjt.sweep", lanes_flags(folder), folder / "lanes"), checkout, folder / "cache")
    for result in sorted((folder / "lanes" / "runs").rglob("result.json")):
        name = f"lanes {result.parent.relative_to(folder / 'lanes' / 'runs').as_posix()}"
        rows[name] = row_of(result.parent)
        print(name, rows[name]["losses"][-1], flush=True)
    about = {"versions": common.versions(), "device": common.device(), "cores": len(os.sched_getaffinity(0))}
    common.write_json(args.output, about | {"rows": rows})


def shared_scores(row, other):
    """(the scores of another row in the metrics that a row has, the names of the metrics that it lacks)."""
    shared, added = {}, {}
    for split, scores in other.get("splits", {}).items():
        known = row["splits"].get(split, {})
        shared[split] = {name: score for name, score in scores.items() if name in known}
        added |= dict.fromkeys(name for name in scores if name not in known)
    return shared, list(added)


def compare(args):
    """Writes the table; the exit code is 1 when a number differs."""
    before, after = (common.read_json(path) for path in (args.before, args.after))
    lines = ["| run | steps | losses, gradient norms | predictions | metrics |", "| :-- | --: | :-- | :-- | :-- |"]
    same = before["rows"].keys() == after["rows"].keys()
    for name, row in before["rows"].items():
        other = after["rows"].get(name, {})
        scores, added = shared_scores(row, other)
        other = other | {"splits": scores}
        parts = [
            all(row[key] == other.get(key) for key in keys)
            for keys in (("losses", "grad_norms"), ("logits",), ("splits", "selected_step"))
        ]
        same &= all(parts)
        words = ["equal" if part else "DIFFERENT" for part in parts]
        words[-1] += f"; new: {', '.join(added)}" if added else ""
        lines.append(f"| {name} | {len(row['losses'])} | {' | '.join(words)} |")
    head = [
        "# The same bits before and after", "",
        f"{len(before['rows'])} runs of two checkouts on {before['device']}, {before['cores']} cores: "
        f"{'every number is equal to the last bit' if same else 'some numbers differ'}.", "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in before['versions'].items())}.",
        "Command: `python -m tests.benchmarks.same_bits` (its docstring shows the two steps).", "",
    ]  # fmt: skip
    text = "\n".join([*head, *lines, ""])
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text)
    print(text)
    return 0 if same else 1


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("--checkout", required=True)
    one.add_argument("--workdir", required=True)
    one.add_argument("--output", required=True)
    one.add_argument("--model", required=True)
    one.add_argument("--data", required=True)
    two = commands.add_parser("compare")
    two.add_argument("before")
    two.add_argument("after")
    two.add_argument("--output", required=True)
    args = parser.parse_args(argv)
    return {"record": record, "compare": compare}[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
