"""What each tool against imbalance and overfitting was meant to change, and what it did: runs with and without it.

    python -m tests.benchmarks.remedies --model DIR --data GLUE --output results/toolbox [--only GROUP ...] [--seeds 5]

Each row compares runs with a tool with runs without it, of the same seeds: the mean difference of a score on dev and
its 95 % interval, Student's t over the seeds. Scores are of one draw of rows and one encoder: they say nothing about
other data. Groups:

  rare      SST-2 with 5 % positive rows (2,000 to train, 4,000 to judge), head on cached features
  few       200 rows of SST-2, LoRA
  averages  1,000 rows of MRPC, full tuning

Runs that have ended are in --output/remedies.json: the same command goes on from there.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import scipy.stats

import fjt
from tests.benchmarks import common

HEAD = dict(tune__method="head", train__epochs=20, cache__hidden=True)
LORA = dict(tune__method="lora", train__epochs=20)
FULL = dict(tune__method="full", train__epochs=4)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs on one draw of rows.

    Attributes:
        options: of all runs.
        scores: the scores that are compared.
        tools: {name: (what it was meant to change, its options)}.
    """

    options: dict
    scores: tuple[str, ...]
    tools: dict


RARE, MORE = "more of the rare class found", "a higher score on new rows"
GROUPS = {
    "rare": Group(
        HEAD,
        ("macro_f1", "recall(1)", "precision(1)"),
        {
            "balanced weights": (RARE, dict(loss__class_weights=("balanced",))),
            "effective-number weights": (RARE, dict(loss__class_weights=("effective", 0.999))),
            "focal loss, 2": (RARE, dict(loss__focal=2.0)),
            "balanced sampling": (RARE, dict(train__class_shares=("balanced",))),
            "SMOTE": (RARE, dict(train__smote="smote")),
            "borderline SMOTE": (RARE, dict(train__smote="borderline")),
        },
    ),
    "few": Group(
        LORA,
        ("accuracy",),
        {
            "one changed copy": (MORE, dict(data__augment=(("delete", 0.1), ("swap", 0.1)), train__epochs=10)),
            "letter noise": (MORE, dict(data__augment=(("noise", 0.1),), train__epochs=10)),
            "R-Drop, 1": (MORE, dict(loss__r_drop=1.0)),
            "label smoothing, 0.1": (MORE, dict(loss__label_smoothing=0.1)),
        },
    ),
    "averages": Group(
        FULL,
        ("accuracy", "f1"),
        {
            "EMA, 0.99": (MORE, dict(train__ema=0.99)),
            "SWA, last quarter": (MORE, dict(train__swa=0.25)),
            "decay 0.1 to the start": (MORE, dict(optim__decay_toward="start", optim__weight_decay=0.1)),
            "L1, 0.1": ("more weights that are 0", dict(optim__l1=0.1)),
        },
    ),
}
ROWS = {"rare": (1900, 100), "few": (100, 100)}  # of labels 0 and 1 to train; as many shares to judge
JUDGED = {"rare": (3800, 200), "few": (1000, 1000)}


def tables(data, group):
    """{"train": (texts[, second texts], labels), "dev": likewise} of a group, one draw of rows."""
    if group == "averages":
        parts = {name: common.read_glue(data, "mrpc", name) for name in ("train", "dev")}
        chosen = np.sort(np.random.default_rng(0).permutation(len(parts["train"][0]))[:1000])
        train = tuple([column[i] for i in chosen] for column in parts["train"])
        return {"train": train, "dev": tuple(map(list, parts["dev"]))}
    texts, _, labels = common.read_glue(data, "sst2", "train")
    rng, made = np.random.default_rng(0), {"train": [], "dev": []}
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        first, second = ROWS[group][label], JUDGED[group][label]
        made["train"] += rows[:first].tolist()
        made["dev"] += rows[first : first + second].tolist()
    return {
        name: ([texts[i] for i in sorted(rows)], [int(labels[i]) for i in sorted(rows)]) for name, rows in made.items()
    }


def measure(model, group, made, options, seed, folder):
    """{score: value} of one run."""
    options = {"log__tensorboard": False, "output__curve": False, "output__checkpoints": False} | options
    options |= {"model__path": str(model), "seed": seed, "eval__every_epochs": 0, "tune__train_pooler": True}
    run = fjt.train("classify", folder, train=made["train"], dev=made["dev"], **options)
    found = dict(run.metrics)
    positive = run.result["per_class"][1]
    found |= {f"{name}(1)": positive[name] for name in ("precision", "recall", "f1")}
    found |= {"f1": positive["f1"], "train_seconds": run.result["train_seconds"]}
    if group == "averages":
        found["zeros"] = zeros(folder)
    return found


def zeros(folder):
    """The share of the kernels' entries that are within 1e-6 of 0."""
    from safetensors.numpy import load_file

    found = load_file(Path(folder) / "export" / "model.safetensors")
    kernels = [np.abs(leaf) for leaf in found.values() if leaf.ndim == 2]
    return float(sum((leaf < 1e-6).sum() for leaf in kernels) / sum(leaf.size for leaf in kernels))


def difference(with_tool, without):
    """(mean, low, high) of paired differences over seeds."""
    each = np.array(with_tool) - np.array(without)
    half = scipy.stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def table(record):
    """The table of a record, in Markdown."""
    lines = ["# What the tools changed", "", " ".join(__doc__.split("\n\n")[2].split()), ""]
    lines += [f"Command: `{record['command']}`. {record['device']}, jax {record['versions']['jax']}.", ""]
    for name, group in GROUPS.items():
        runs = record["runs"].get(name, {})
        plain = runs.get("without", {})
        scores = (*group.scores, *(["zeros"] if name == "averages" else []))
        lines += [f"## {name}", "", "| tool | meant to change | " + " | ".join(scores) + " | seeds |"]
        lines += ["|---|---|" + "--:|" * (len(scores) + 1)]
        means = [f"{np.mean([run[score] for run in plain.values()]):.4f}" for score in scores] if plain else []
        if means:
            lines.append(f"| without | - | {' | '.join(means)} | {len(plain)} |")
        for tool, (meant, _) in group.tools.items():
            seeds = sorted(runs.get(tool, {}).keys() & plain.keys())
            if not seeds:
                continue
            cells = []
            for score in scores:
                found = difference([runs[tool][s][score] for s in seeds], [plain[s][score] for s in seeds])
                cells.append(f"{found[0]:+.4f} ({found[1]:+.4f} to {found[2]:+.4f})")
            lines.append(f"| {tool} | {meant} | {' | '.join(cells)} | {len(seeds)} |")
        lines.append("")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    path = args.output / "remedies.json"
    record = common.read_json(path) if path.exists() else {"runs": {}}
    record |= common.provenance("tests.benchmarks.remedies", args)
    for seed in range(args.seeds):
        for name in args.only:
            made = tables(args.data, name)
            for tool, (_, options) in {"without": ("", {}), **GROUPS[name].tools}.items():
                known = record["runs"].setdefault(name, {}).setdefault(tool, {})
                if str(seed) in known:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    known[str(seed)] = measure(args.model, name, made, GROUPS[name].options | options, seed, folder)
                common.write_json(path, record)
                print(name, tool, seed, json.dumps(known[str(seed)]), flush=True)
                (args.output / "remedies.md").write_text(table(record))


if __name__ == "__main__":
    main()
