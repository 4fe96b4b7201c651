"""The range test's suggestion beside the best learning rate of a grid, for five methods on two tasks.

Each cell has one range test, and one short run per rate of the grid, all on the same 3,000 training rows and scored on
1,000 held-out ones. A rule is judged by the distance of its suggestion from the best rate of the grid, in decades, and
by the score that is lost at the grid's rate nearest to it. The rule that fjt has is also run at its own suggestion.

Cells that have ended are in --output/find_lr.json: the same command goes on from there. `--tables` makes the table
anew.
"""

import argparse
import dataclasses
import json
import math
import tempfile
from pathlib import Path

from fjt import configs, find_lr
from fjt.core import console, settings
from fjt.experiment import range_test
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.experiment.program_cache import configure_jax
from fjt.experiment.range_test import Point
from fjt.study.planner import Shared
from fjt.training.checkpoint import NotFinite
from tests.benchmarks import common

METHODS = ("full", "lora", "bitfit", "pfeiffer", "head")
TASKS = {"sst2": 0.015, "ag_news": 0.0525}  # the share of the training file's rows that is held out, about 1,000
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ROWS = 3000


def fraction(of, part):
    """A rule: a fraction of a learning rate that `of` finds."""
    return lambda points: of(points) * part


def lowest(points):
    """The learning rate of the lowest smoothed loss."""
    return min(points, key=lambda point: point.smoothed).learning_rate


def divergence(points):
    """The learning rate at which the test ended."""
    return points[-1].learning_rate


def steepest(points):
    """fjt's own rule."""
    return range_test.suggest(points)


RULES = {
    "steepest fall": steepest,
    "lowest loss": lowest,
    "lowest loss / 3": fraction(lowest, 1 / 3),
    "lowest loss / 10": fraction(lowest, 1 / 10),
    "divergence / 10": fraction(divergence, 1 / 10),
    "divergence / 30": fraction(divergence, 1 / 30),
    "divergence / 100": fraction(divergence, 1 / 100),
}


def main(argv=None):
    args = parse(argv)
    tables = vars(args).pop("tables")
    path = Path(args.output) / "find_lr.json"
    cells = common.read_json(path)["cells"] if path.exists() else {}
    if not tables:
        shared = Shared(console.Silent())
        for method in METHODS:
            for task in TASKS:
                name = f"{task}/{method}"
                cells.setdefault(name, {"scores": {}})
                measure(args, task, method, cells[name], shared)
                common.write_json(path, common.provenance("tests.benchmarks.find_lr", args) | {"cells": cells})
                print(name, json.dumps(cells[name]["scores"]), flush=True)
    text = (
        "# The range test's suggestion beside the best of a grid\n\n"
        + table(cells)
        + common.footer(common.read_json(path))
    )
    (Path(args.output) / "find_lr.md").write_text(text + "\n")
    print(text)


def settings_of(args, task, method, **options):
    place = f"{args.data}/glue" if task == "sst2" else f"{args.data}/ag_news"
    changes = {
        "model.path": args.model, "data.source": "files", "data.dir": place, "data.limit": ROWS,
        "data.holdout": TASKS[task], "eval.official_dev": False, "eval.test": False, "tune.method": (method,),
        "train.steps": args.steps, "eval.every_epochs": 0, "log.tensorboard": False,
    }  # fmt: skip
    changes |= {f"output.{name}": False for name in ("export", "tables", "curve", "checkpoints")} | options
    return settings.from_config(configs.load("glue:sst2" if task == "sst2" else "ag_news", changes)[0])


def measure(args, task, method, cell, shared):
    """Adds what a cell lacks: its range test, its grid, and a run at the suggestion."""
    test = settings_of(args, task, method)
    configure_jax(test)
    experiment = range_test.prepare_test(
        test, find_lr.LOWEST.default, find_lr.HIGHEST.default, find_lr.STEPS.default, shared.inputs(test)
    )
    if "points" not in cell:
        cell["points"] = [
            [float(f"{number:.5g}") for number in dataclasses.astuple(point)]
            for point in range_test.run_test(experiment, shared.compiled, console.Silent())
        ]
    own = range_test.suggest([Point(*point) for point in cell["points"]])
    for rate in (*GRID, own):
        if rate is not None and f"{rate:g}" not in cell["scores"]:
            made = settings_of(args, task, method, **{"optim.learning_rate": rate})
            cell["scores"][f"{rate:g}"] = score(made, shared, experiment.plan.shapes)


def score(made, shared, shapes):
    """The accuracy on the held-out rows; None for a run that diverged.  shapes: of the batches, for fewer programs."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(made, view=console.Silent(), inputs=shared.inputs(made), shapes=shapes)
        try:
            result = run(experiment, folder, compiled=shared.compiled, view=console.Silent())
        except NotFinite:
            return None
        return result["metrics"]["accuracy"]


def table(cells):
    """Markdown: the grid's best and fjt's suggestion in each cell, and how each rule does over all cells."""
    rows, losses, distances = [], {name: [] for name in RULES}, {name: [] for name in RULES}
    for name, cell in cells.items():
        points, scores = [Point(*point) for point in cell["points"]], cell["scores"]
        grid = {rate: scores[f"{rate:g}"] for rate in GRID if scores.get(f"{rate:g}") is not None}
        best = max(grid, key=grid.__getitem__)
        own = range_test.suggest(points)
        rows.append(
            (name, f"{best:g}", f"{100 * grid[best]:.1f}")
            + (("-", "-") if own is None else (f"{own:g}", f"{100 * scores[f'{own:g}']:.1f}"))
        )
        for rule, function in RULES.items():
            rate = function(points)
            nearest = min(grid, key=lambda one: abs(math.log(one / rate)))
            losses[rule].append(100 * (grid[best] - grid[nearest]))
            distances[rule].append(abs(math.log10(rate / best)))
    summary = [
        (rule, f"{mean(distances[rule]):.2f}", f"{mean(losses[rule]):.2f}", f"{max(losses[rule]):.1f}")
        for rule in RULES
    ]
    first = common.markdown(
        ("cell", "best rate of the grid", "accuracy there", "fjt's suggestion", "accuracy there"), rows
    )
    second = common.markdown(
        ("rule", "mean distance from the best, decades", "mean points lost", "most points lost"), summary
    )
    return f"{first}\n\n{second}\n\n"


def mean(values):
    return sum(values) / len(values)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the directory of an encoder")
    parser.add_argument("--data", required=True, help="the folder with glue/ and ag_news/")
    parser.add_argument("--output", default="results/toolbox")
    parser.add_argument("--steps", type=int, default=100, help="of each run of the grid")
    parser.add_argument("--tables", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
