"""What each tool of the toolbox was meant to change, and what it did: runs with and without it.

    python -m tests.benchmarks.remedies --model DIR --student DIR --data GLUE --output results/toolbox \\
        [--workdir runs/remedies] [--only GROUP ...] [--seeds 5]

Each row has the mean difference of a score between runs with a tool and runs of the same seeds without it, and its 95 %
interval, Student's t over the seeds.  Models are judged on rows that neither trained them nor chose anything; dev
has other rows, for thresholds, temperatures and greedy soups.  Scores are of one draw of rows and one encoder: they say
nothing about other data.  Seconds are those of a machine that does other work as well.  Groups:

  rare      SST-2 with 5 % positive rows: 2,000 to train, 1,000 of dev, 3,000 to judge; head on cached features
  few       SST-2: 200 rows to train, 200 of dev, 1,000 to judge; LoRA, 10 epochs, or 5 of rows and their copies
  averages  MRPC: 500 rows to train, 300 of dev, GLUE's dev set to judge; full tuning; plain runs keep checkpoints
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

import fjt
from fjt.api import execute
from fjt.core.errors import UserError
from fjt.experiment import calibrated, combination, kept_checkpoints, labelled
from fjt.experiment.finished import load_run, read_run
from fjt.reports import pairs
from fjt.tasks import measures
from fjt.tasks.calibration import Calibration
from tests.benchmarks import common
from tests.benchmarks.remedies_table import table

HEAD = dict(tune__method="head", train__epochs=20, cache__hidden=True)
LORA = dict(tune__method="lora", train__epochs=10)
FULL = dict(tune__method="full", train__epochs=3)
WITHOUT = "without"
JOINED = {"cola", "one_head"}  # groups whose runs are combined


def calibrate(method="temperature", target="", risk=None):
    """A function of a run: its scores on test under what was fitted on dev, see `calibrated.fit`."""

    def scored(run):
        dev, test = (labelled.stored(run, split) for split in ("dev", "test"))
        fitted = Calibration.read(calibrated.fit(dev, method, target, risk))
        found = fitted.decode(test.scores, test.problem, test.task)
        given = fitted.answered(found, test.problem, test.task)
        chosen, truth = (test.problem.classes(values, test.task) for values in (found.values, test.label))
        shares = np.asarray(found.probabilities)
        values = measures.of_classes(
            chosen[given], shares[given], truth[given], test.task.label_names, test.problem.exclusive
        ).values()
        return values | {"answered": float(given.mean())}

    return scored


def of_checkpoints(how):
    """A function of a run: the scores on test of the soup of the checkpoints that it kept."""

    def scored(run):
        with tempfile.TemporaryDirectory() as folder:
            rows, _ = soup(run, kept_checkpoints.of_run(run), how, Path(folder))
            return rows.measures().values() | {"zeros": zeros(Path(folder) / "run")}

    return scored


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs on one draw of rows.

    Attributes:
        options: of all runs.
        scores: the scores that are compared.
        tools: {name: (what it was meant to change, its options)}.
        derived: {name: (what it was meant to change, run -> scores)} of the runs without a tool.
    """

    options: dict
    scores: tuple[str, ...]
    tools: dict
    derived: dict[str, tuple[str, Callable]] = dataclasses.field(default_factory=dict)


RARE, MORE, CALIBRATED = "more of the rare class found", "a higher score on new rows", "a lower calibration error"
SCALED = {
    "temperature from dev": (CALIBRATED, calibrate()),
    "vector scaling from dev": (CALIBRATED, calibrate("vector")),
}
GROUPS = {
    "rare": Group(
        HEAD,
        ("macro_f1", "recall(1)", "precision(1)", "accuracy", "answered"),
        {
            "balanced weights": (RARE, dict(loss__class_weights=("balanced",))),
            "effective-number weights": (RARE, dict(loss__class_weights=("effective", 0.999))),
            "focal loss, 2": (RARE, dict(loss__focal=2.0)),
            "balanced sampling": (RARE, dict(train__class_shares=("balanced",))),
            "SMOTE": (RARE, dict(train__smote="smote")),
            "borderline SMOTE": (RARE, dict(train__smote="borderline")),
        },
        {
            "threshold from dev": (RARE, calibrate(target="macro_f1")),
            "abstention at a risk of 0.05": ("at most 5 % errors in what it answers", calibrate(risk=0.05)),
        },
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
        SCALED,
    ),
    "averages": Group(
        FULL | dict(output__checkpoints=True, checkpoint__every_steps=8, checkpoint__keep=5),
        ("accuracy", "f1(1)", "ece", "zeros"),
        {
            "EMA, 0.95": (MORE, dict(train__ema=0.95)),
            "SWA, last quarter": (MORE, dict(train__swa=0.25)),
            "decay 1 to the start": (MORE, dict(optim__decay_toward="start", optim__weight_decay=1.0)),
            "L1, 5": ("more weights that are 0", dict(optim__l1=5.0)),
        },
        {
            "average of 5 checkpoints": (MORE, of_checkpoints("average")),
            "greedy soup of 5 checkpoints": (MORE, of_checkpoints("greedy")),
            **SCALED,
        },
    ),
    "cola": Group(FULL, ("mcc", "ece"), {}, SCALED),
    "one_head": Group(FULL | dict(seeds__init=0), ("mcc", "ece"), {}, {}),
    "student": Group(
        FULL | dict(train__epochs=10),
        ("mcc", "ece"),
        {
            "predictions of one run": (MORE, dict(distill__runs="cola-0")),
            "predictions of all runs": (MORE, dict(distill__runs="cola-*")),
            "predictions and hidden vectors of one run": (MORE, dict(distill__runs="cola-0", distill__hidden=1.0)),
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
    found = labelled.stored(run, "test").measures().values() | {"answered": 1.0}
    if "zeros" in names:
        found["zeros"] = zeros(run.path)
    return {name: found[name] for name in names} | {"train_seconds": run.result["train_seconds"]}


def zeros(folder):
    """The share of the kernels' entries that are within 1e-6 of 0."""
    from safetensors.numpy import load_file

    found = load_file(Path(folder) / "export" / "model.safetensors")
    kernels = [np.abs(leaf) for leaf in found.values() if leaf.ndim == 2]
    return float(sum((leaf < 1e-6).sum() for leaf in kernels) / sum(leaf.size for leaf in kernels))


def soup(run, parts, how, folder):
    """(the rows of test as the soup of parts predicts them, the numbers of the parts in it).  run: the first part's."""
    settings, chosen = combination.soup(run, parts, how == "greedy", str(folder / "made" / "model"))
    execute(settings, str(folder / "run"), {})
    return labelled.stored(read_run(folder / "run"), "test"), chosen


def combined(folders, how, folder):
    """{what: value} of several runs that predict together: scores on test, those of each run, and the cost."""
    runs = [load_run(one) for one in folders]
    parts = [labelled.stored(run, "test") for run in runs]
    chosen = list(range(len(runs)))
    if how == "ensemble":
        rows = combination.ensemble(parts)
    else:
        rows, chosen = soup(runs[0], combination.of_runs(runs), how, folder)
    each = [part.measures().values()["mcc"] for part in parts]
    best = int(np.argmax([labelled.stored(run, "dev").measures().values()["mcc"] for run in runs]))
    difference = pairs.compare(rows, parts[best]).differences["mcc"]
    found = rows.measures().values()
    return {
        "mcc": found["mcc"], "ece": found["ece"], "parts": each, "best_on_dev": best, "used": chosen,
        "difference": dataclasses.asdict(difference), "models_per_prediction": len(runs) if how == "ensemble" else 1,
        "train_seconds": sum(run.result["train_seconds"] for run in runs),
    }  # fmt: skip


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
        (args.output / "remedies.md").write_text(table(record, __doc__, GROUPS))

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
                    for other, (_, function) in group.derived.items() if tool == WITHOUT else ():
                        try:
                            found = function(run)
                        except UserError as error:  # such as a risk that no confidence bounds
                            found = {"refused": str(error)}
                        own = {key: found[key] for key in (*group.scores, "refused") if key in found}
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
