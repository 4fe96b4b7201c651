"""What the benchmarks share: the GLUE files, both sides' commands, subprocesses and records."""

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from fjt.core import records
from fjt.data.glue import Task

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "accelerate")
BATCHINGS = ("fixed", "dynamic", "grouped")

# name: (folder, has a header, (text, second text, label) columns, facts)
GLUE = {
    "cola": ("CoLA", False, (3, None, 1), Task("cola", "classification", ("0", "1"), ("mcc",))),
    "sst2": ("SST-2", True, ("sentence", None, "label"), Task("sst2", "classification", ("0", "1"), ("accuracy",))),
    "mrpc": (
        "MRPC", True, ("#1 String", "#2 String", "Quality"),
        Task("mrpc", "classification", ("0", "1"), ("accuracy", "f1")),
    ),
    "stsb": (
        "STS-B", True, ("sentence1", "sentence2", "score"), Task("stsb", "regression", (), ("pearson", "spearman")),
    ),
}  # fmt: skip

# The experiment of both sides, in fjt's names; the Trainer's command has the same values as arguments.
RECIPE = {
    "optim.name": "adamw",
    "optim.learning_rate": 1e-4,
    "optim.schedule": "linear",
    "optim.warmup_fraction": 0.0,
    "optim.weight_decay": 0.0,
    "optim.clip_norm": 1.0,
    "train.batch_size": 32,
    "train.select": "last",
    "model.max_length": 128,
    "model.dtype": "float32",
    "eval.test": False,
}


def read_glue(data, task, split):
    """(texts, second texts or None, labels i64[N] or f64[N]) of <data>/<folder>/<split>.tsv, in file order."""
    folder, header, columns, facts = GLUE[task]
    with open(Path(data) / folder / f"{split}.tsv", encoding="utf-8-sig", newline="") as file:  # MRPC has a BOM
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if header:
        names = rows.pop(0)
        columns = [name if name is None else names.index(name) for name in columns]
    text, pair, label = columns
    labels = np.array([float(row[label]) for row in rows])
    return (
        [row[text] for row in rows],
        None if pair is None else [row[pair] for row in rows],
        labels if facts.kind == "regression" else labels.astype(np.int64),
    )


def fjt_command(task, model, data, workdir, seed, **config):
    """The command line of one fjt run; config: further keys, dots written as two underscores."""
    config = RECIPE | {key.replace("__", "."): value for key, value in config.items()}
    config |= {"model.path": model, "data.source": "files", "data.dir": data, "seed": seed}
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    return [
        sys.executable,
        "-m",
        "fjt.main",
        "--config",
        f"configs/glue.py:{task}",
        "--workdir",
        str(workdir),
        *flags,
    ]


def trainer_command(task, model, data, output, seed, batching, *options):
    """The command line of one run of the Trainer."""
    values = {"task": task, "model": model, "data": data, "output": output, "seed": seed, "batching": batching}
    values |= {"batch_size": RECIPE["train.batch_size"], "learning_rate": RECIPE["optim.learning_rate"]}
    values |= {"max_length": RECIPE["model.max_length"]}
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "tests.benchmarks.trainer", *flags, *options]


def tables_command(module, args, seed, tables, output, **others):
    """The command line of a run of the Trainer on tables, which `trainer.parse_tables` reads.

    others: values in place of the recipe's.
    """
    values = {"model": Path(args.model).resolve(), "tables": tables, "output": output, "seed": seed}
    values |= {"epochs": args.epochs, "learning_rate": args.learning_rate}
    values |= {"batch_size": RECIPE["train.batch_size"], "max_length": RECIPE["model.max_length"]} | others
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", module, *flags]


def run(command, log):
    """The exit code of a command run from the repository's root, its output kept in the file `log`."""
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        print("\n".join([f"exit code {code}: {' '.join(command[1:4])} ...", *tail]), file=sys.stderr, flush=True)
    return code


def read_json(path):
    return json.loads(Path(path).read_text())


def write_json(path, value):
    """Written whole or not at all, so that a file that exists is a finished record."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def versions():
    """{package: version} of what is installed of both sides, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device():
    """The processor in words: model, cores, the widest vector units, memory."""
    name, flags = platform.machine(), set()
    if os.path.exists("/proc/cpuinfo"):
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        name, flags = facts.get("model name", name), set(facts.get("flags", "").split())
    units = [words for flag, words in (("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return ", ".join([name, f"{records.cores()} cores", *units, f"{memory:.0f} GiB memory"])


def weights(model):
    """'<folder name>, sha256 <first 16 digits> of model.safetensors'."""
    digest = hashlib.sha256((Path(model) / "model.safetensors").read_bytes()).hexdigest()
    return f"{Path(model).name}, sha256 {digest[:16]} of model.safetensors"


def provenance(module, args):
    """What stands beside a table: command with placeholders for local paths, weights, versions, device."""
    words = [f"python -m {module}"]
    for key, value in vars(args).items():
        if value in ([], None, ""):
            continue
        if key in ("model", "data"):
            value = f"${key.upper()}"
        elif isinstance(value, list):
            value = " ".join(shlex.quote(str(v)) for v in value)
        elif isinstance(value, (str, Path)) and os.path.isabs(value):
            value = Path(value).name
        words.append(f"--{key} {value}")
    return {
        "command": " ".join(words),
        "weights": weights(args.model),
        "versions": versions(),
        "device": device(),
    }


def settings(module, args):
    """What stands beside a table of measurements on random weights: command, versions, device."""
    import jax  # not by the Trainer's side, which is timed without it

    words = [f"python -m {module}"]
    for key, value in vars(args).items():
        if key != "output" and value not in ([], None, False):
            given = "" if value is True else " ".join(map(str, value if isinstance(value, list) else [value]))
            words.append(f"--{key} {given}".rstrip())
    kind = device() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    return {"command": " ".join(words), "versions": versions(), "device": kind}


def markdown(header, rows):
    """A Markdown table of strings, the first column to the left and the others to the right."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def footer(record):
    """Markdown of a provenance record."""
    found = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    weights = [f"- Weights: {record['weights']}"] if "weights" in record else []
    return "\n".join(
        [f"- Command: `{record['command']}`", *weights, f"- Versions: {found}", f"- Device: {record['device']}"]
    )
