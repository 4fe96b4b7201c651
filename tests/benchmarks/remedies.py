"""What each tool of the toolbox was meant to change, and what it did: runs with and without it.

    python -m tests.benchmarks.remedies --model DIR --student DIR --data GLUE --output results/toolbox \\
        [--workdir runs/remedies] [--only GROUP ...] [--seeds 5]

Each row has the mean difference of a score between runs with a tool and runs without it, of the same seeds, and its
95 % interval, Student's t over the seeds.  Models are judged on rows that neither trained them nor chose anything; dev
has other rows, for thresholds, temperatures and greedy soups.  Scores are of one draw of rows and one encoder: they say
nothing about other data.  Groups:

  rare      SST-2 with 5 % positive rows: 2,000 to train, 1,000 of dev, 3,000 to judge; head on cached features
  few       SST-2: 200 rows to train, 200 of dev, 1,000 to judge; LoRA, 10 epochs, or 5 of rows and their copies
  averages  MRPC: 500 rows to train, 300 of dev, GLUE's dev set to judge; full tuning
  cola      CoLA: 2,000 rows to train, 500 of dev, GLUE's dev set to judge; full tuning
  one_head  the rows and model of cola; all seeds have the same new head (seeds.init), as a soup needs
  student   the rows of cola, and the model of --student; seconds are without those of the teachers

Runs that have ended are in --output/remedies.json: the same command goes on from there.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.stats

import fjt
from fjt.api import execute
from fjt.experiment import calibrated, combination, labelled
from fjt.experiment.finished import load_run, read_run
from fjt.reports import pairs
from fjt.tasks import measures
from fjt.tasks.calibration import Calibration
from tests.benchmarks import common

HEAD = dict(tune__method="head", train__epochs=20, cache__hidden=True)
LORA = dict(tune__method="lora", train__epochs=10)
FULL = dict(tune__method="full", train__epochs=3)
WITHOUT = "without"
JOINED = {"cola", "one_head"}  # groups whose runs are combined


def threshold(dev, test):
    """Scores on test of a threshold that dev chose for macro-F1."""
    return decided(test, calibrated.fit(dev, "temperature", "macro_f1", None))


def temperature(dev, test):
    """Scores on test of a temperature that dev chose."""
    return decided(test, calibrated.fit(dev, "temperature", "", None))


def decided(rows, record):
    """{score: value} of rows under the calibration of a record."""
    found = Calibration.read(record).decode(rows.scores, rows.problem, rows.task)
    chosen, truth = (rows.problem.classes(values, rows.task) for values in (found.values, rows.label))
    probabilities = np.asarray(found.probabilities)
    return measures.of_classes(chosen, probabilities, truth, rows.task.label_names, rows.problem.exclusive).values()


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs on one draw of rows.

    Attributes:
        options: of all runs.
        scores: the scores that are compared.
        tools: {name: (what it was meant to change, its options)}.
        derived: {name: (what it was meant to change, (dev, test) -> scores)} of the runs without a tool.
    """

    options: dict
    scores: tuple[str, ...]
    tools: dict
    derived: dict[str, tuple[str, Callable]] = dataclasses.field(default_factory=dict)


RARE, MORE, CALIBRATED = "more of the rare class found", "a higher score on new rows", "a lower calibration error"
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
        {"threshold from dev": (RARE, threshold)},
    ),
    "few": Group(
        LORA,
        ("accuracy", "ece"),
        {
            "one changed copy": (MORE, dict(data__augment=(("delete", 0.1), ("swap", 0.1)), train__epochs=5)),
            "letter noise": (MORE, dict(data__augment=(("noise", 0.1),), train__epochs=5)),
            "R-Drop, 1": (MORE, dict(loss__r_drop=1.0)),
            "mixup, 0.4": (MORE, dict(loss__mixup=0.4)),
            "label smoothing, 0.1": (MORE, dict(loss__label_smoothing=0.1)),
        },
        {"temperature from dev": (CALIBRATED, temperature)},
    ),
    "averages": Group(
        FULL,
        ("accuracy", "f1(1)", "ece", "zeros"),
        {
            "EMA, 0.95": (MORE, dict(train__ema=0.95)),
            "SWA, last quarter": (MORE, dict(train__swa=0.25)),
            "decay 1 to the start": (MORE, dict(optim__decay_toward="start", optim__weight_decay=1.0)),
            "L1, 5": ("more weights that are 0", dict(optim__l1=5.0)),
        },
        {"temperature from dev": (CALIBRATED, temperature)},
    ),
    "cola": Group(FULL, ("mcc", "ece"), {}, {"temperature from dev": (CALIBRATED, temperature)}),
    "one_head": Group(FULL | dict(seeds__init=0), ("mcc", "ece"), {}, {}),
    "student": Group(
        FULL | dict(train__epochs=10),
        ("mcc", "ece"),
        {
            "predictions of one run": (MORE, dict(distill__runs="cola-0")),
            "predictions of all runs": (MORE, dict(distill__runs="cola-*")),
        },
    ),
}


def tables(data, group):
    """{"train": (texts[, second texts], labels), "dev": likewise, "test": likewise} of a group, one draw of rows."""
    if group in SST2:
        return sst2(data, SST2[group])
    task, size, judged = ("mrpc", 500, 300) if group == "averages" else ("cola", 2000, 500)
    train, test = (common.read_glue(data, task, name) for name in ("train", "dev"))
    rows = np.random.default_rng(0).permutation(len(train[0]))
    chosen = {"train": rows[:size], "dev": rows[size : size + judged]}
    made = {
        name: [[column[i] for i in np.sort(part)] for column in train if column is not None]
        for name, part in chosen.items()
    }
    return {name: as_rows(columns) for name, columns in (made | {"test": [c for c in test if c is not None]}).items()}


SST2 = {  # rows of labels 0 and 1 of each split
    "rare": {"train": (1900, 100), "dev": (950, 50), "test": (2850, 150)},
    "few": {"train": (100, 100), "dev": (100, 100), "test": (500, 500)},
}


def sst2(data, sizes):
    texts, _, labels = common.read_glue(data, "sst2", "train")
    rng, made = np.random.default_rng(0), {name: [] for name in sizes}
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label)).tolist()
        for name, counts in sizes.items():
            made[name] += rows[: counts[label]]
            del rows[: counts[label]]
    return {
        name: as_rows([[column[i] for i in sorted(rows)] for column in (texts, labels)]) for name, rows in made.items()
    }


def as_rows(columns):
    """(texts[, second texts], labels) as lists."""
    return (*map(list, columns[:-1]), [int(label) for label in columns[-1]])


def train(args, name, made, options, seed, folder):
    """The finished run of a group."""
    model = args.student if name == "student" else args.model
    if pattern := options.get("distill__runs"):
        options = options | {"distill__runs": tuple(sorted(map(str, args.workdir.glob(pattern))))}
    options = {"log__tensorboard": False, "output__curve": False, "output__checkpoints": False} | options
    options |= {"model__path": str(model), "seed": seed, "eval__every_epochs": 0, "tune__train_pooler": True}
    return fjt.train("classify", folder, **made, **options)


def scores(run, names):
    """{score: value} of the rows that judge a run."""
    found = labelled.stored(run, "test").measures().values()
    if "zeros" in names:
        found["zeros"] = zeros(run.path)
    return {name: found[name] for name in names} | {"train_seconds": run.result["train_seconds"]}


def zeros(folder):
    """The share of the kernels' entries that are within 1e-6 of 0."""
    from safetensors.numpy import load_file

    found = load_file(Path(folder) / "export" / "model.safetensors")
    kernels = [np.abs(leaf) for leaf in found.values() if leaf.ndim == 2]
    return float(sum((leaf < 1e-6).sum() for leaf in kernels) / sum(leaf.size for leaf in kernels))


def combined(folders, how, folder):
    """{what: value} of several runs that predict together: scores on test, those of each run, and the cost."""
    runs = [load_run(one) for one in folders]
    parts = [labelled.stored(run, "test") for run in runs]
    chosen = list(range(len(runs)))
    if how == "ensemble":
        rows = combination.ensemble(parts)
    else:
        made = combination.of_runs(runs)
        settings, chosen = combination.soup(runs[0], made, how == "greedy", str(folder / "made" / "model"))
        execute(settings, str(folder / "run"), {})
        rows = labelled.stored(read_run(folder / "run"), "test")
    each = [part.measures().values()["mcc"] for part in parts]
    best = int(np.argmax([labelled.stored(run, "dev").measures().values()["mcc"] for run in runs]))
    difference = pairs.compare(rows, parts[best]).differences["mcc"]
    found = rows.measures().values()
    return {
        "mcc": found["mcc"], "ece": found["ece"], "parts": each, "best_on_dev": best, "used": chosen,
        "difference": dataclasses.asdict(difference), "models_per_prediction": len(runs) if how == "ensemble" else 1,
        "train_seconds": sum(run.result["train_seconds"] for run in runs),
    }  # fmt: skip


def difference(with_tool, without):
    """(mean, low, high) of paired differences over seeds."""
    each = np.array(with_tool) - np.array(without)
    half = scipy.stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def table(record):
    """The table of a record, in Markdown."""
    about, groups = __doc__.split("\n\n")[2:4]
    about, groups = " ".join(about.split()), dict(line.split(None, 1) for line in groups.splitlines())
    lines = ["# What the tools changed", "", about.removesuffix(" Groups:"), ""]
    lines += [
        f"Encoder: {record['weights']}. Command of the last part: `{record['command']}`. {record['device']}, jax "
        f"{record['versions']['jax']}.",
        "",
    ]
    for name, group in GROUPS.items():
        runs = record["runs"].get(name, {})
        plain = runs.get(WITHOUT, {})
        if not plain:
            continue
        lines += [
            f"## {name}",
            "",
            f"{groups[name]}.",
            "",
            "| tool | meant to change | " + " | ".join(group.scores) + " | seconds | seeds |",
        ]
        lines += ["|---|---|" + "--:|" * (len(group.scores) + 2)]
        means = [f"{np.mean([run[score] for run in plain.values()]):.4f}" for score in group.scores]
        lines.append(f"| without | - | {' | '.join(means)} | {seconds(plain)} | {len(plain)} |")
        for tool, (meant, _) in (group.tools | group.derived).items():
            own = runs.get(tool, {})
            if seeds := sorted(own.keys() & plain.keys()):
                cells = []
                for score in group.scores:
                    if score not in own[seeds[0]]:
                        cells.append("-")
                        continue
                    apart, low, high = difference([own[s][score] for s in seeds], [plain[s][score] for s in seeds])
                    cells.append(f"{apart:+.4f}" if np.isnan(low) else f"{apart:+.4f} ({low:+.4f} to {high:+.4f})")
                lines.append(f"| {tool} | {meant} | {' | '.join(cells)} | {seconds(own)} | {len(seeds)} |")
        lines.append("")
    for name in sorted(record.get("combined", {})):
        lines += [f"## The runs of {name} as one", "", COMBINED, ""]
        lines += [
            "| how | mcc | mean of its parts | best part | difference from the best part | ece | models per text "
            "| seconds of training |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
        for how, one in record["combined"][name].items():
            apart, parts = one["difference"], one["parts"]
            cells = [f"{one['mcc']:.4f}", f"{np.mean(parts):.4f}", f"{parts[one['best_on_dev']]:.4f}"]
            cells += [f"{apart['value']:+.4f} ({apart['low']:+.4f} to {apart['high']:+.4f})", f"{one['ece']:.4f}"]
            cells += [str(one["models_per_prediction"]), f"{one['train_seconds']:.0f}"]
            lines.append(f"| {how} of {len(one['used'])} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


COMBINED = (
    "The best part has the highest mcc on dev, and greedy keeps what raises accuracy there.  The interval is over "
    "examples, for these runs.  In cola each seed drew its own head, so that the runs of a soup started apart."
)


def seconds(runs):
    """The mean training time of runs, "-" for what was derived from others."""
    found = [run["train_seconds"] for run in runs.values() if "train_seconds" in run]
    return f"{np.mean(found):.0f}" if found else "-"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, default=Path("runs/remedies"), help="where the runs of cola are kept")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    path = args.output / "remedies.json"
    record = common.read_json(path) if path.exists() else {"runs": {}}
    record |= common.provenance("tests.benchmarks.remedies", args)

    def keep():
        common.write_json(path, record)
        (args.output / "remedies.md").write_text(table(record))

    for name in args.only:
        group, made = GROUPS[name], tables(args.data, name)
        runs = record["runs"].setdefault(name, {})
        for seed in range(args.seeds):
            for tool, (_, options) in {WITHOUT: ("", {}), **group.tools}.items():
                if str(seed) in runs.setdefault(tool, {}):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    kept = args.workdir / f"{name}-{seed}" if name in JOINED else folder
                    run = train(args, name, made, group.options | options, seed, kept)
                    runs[tool][str(seed)] = scores(run, group.scores)
                    dev, test = (labelled.stored(run, split) for split in ("dev", "test"))
                    for other, (_, function) in group.derived.items() if tool == WITHOUT else ():
                        found = function(dev, test)
                        own = {score: found[score] for score in group.scores if score in found}
                        runs.setdefault(other, {})[str(seed)] = own
                keep()
                print(name, tool, seed, json.dumps(runs[tool][str(seed)]), flush=True)
    for name in sorted(JOINED & set(args.only)):
        made = record.setdefault("combined", {}).setdefault(name, {})
        folders = [args.workdir / f"{name}-{seed}" for seed in range(args.seeds)]
        for how in ("average", "greedy", "ensemble"):
            if how not in made:
                with tempfile.TemporaryDirectory() as folder:
                    made[how] = combined(folders, how, Path(folder))
                keep()


if __name__ == "__main__":
    main()
