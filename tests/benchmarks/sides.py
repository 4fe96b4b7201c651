"""A benchmark of two sides, fjt and Hugging Face's Trainer, that take turns seed by seed, and its tables."""

import statistics
import sys

import numpy as np

from tests.benchmarks import common
from tests.benchmarks.multilabel import points, spread
from tests.benchmarks.quality import differ
from tests.benchmarks.speed import spread as span

SIDES = ("fjt", "trainer")
LAST = {"fjt": "DONE", "trainer": "record.json"}  # the file that a finished run has


def take_turns(seeds, workdir, commands, scores, show):
    """The records of all runs, one run after another; those in the work directory that are finished are kept.

    Each seed has another side first.

    Args:
        seeds: of the runs.
        workdir: a run is in <workdir>/seed=<seed>/<side>.
        commands: {side: (seed, its directory) -> command line}.
        scores: {side: its directory -> record}.
        show: called with each record, which has its side and seed.
    """
    runs = []
    for number, seed in enumerate(seeds):
        for side in SIDES[:: 1 - 2 * (number % 2)]:
            run = workdir / f"seed={seed}" / side
            if not (run / LAST[side]).exists():
                if code := common.run(commands[side](seed, run), run.with_name(f"{side}.log")):
                    sys.exit(code)
            runs.append({"side": side, "seed": seed, **scores[side](run)})
            show(runs[-1])
    return runs


def scores_table(runs, splits, metrics):
    """The scores of both sides in points, their difference, and the seeds one by one."""
    rows = []
    for split in splits:
        for name in metrics:
            sides = [points(runs, side, split, name) for side in SIDES]
            found = differ(*sides)
            seeds = ["; ".join(f"{value:.1f}" for value in side) for side in sides]
            differences = [f"{found['difference']:+.1f}", f"{found['pooled_se']:.1f}"]
            rows.append([f"{split} {name}", *map(spread, sides), *differences, *seeds])
    header = ["", "fjt", "Trainer", "difference", "pooled SE", "fjt by seed", "Trainer by seed"]
    return common.markdown(header, rows)


def speed_table(runs):
    """Examples a second in training, the median over the seeds, and their ratio within a seed."""
    speeds = [
        [run["examples_per_second"] for run in sorted(runs, key=lambda run: run["seed"]) if run["side"] == side]
        for side in SIDES
    ]
    ratios = np.divide(*speeds).tolist()
    compiled = statistics.median(run["compile_seconds"] for run in runs if run["side"] == "fjt")
    header, row = ["fjt", "Trainer, dynamic padding", "ratio"], [*(span(side, 1) for side in speeds), span(ratios, 2)]
    return "\n\n".join(
        [
            "Examples a second in training, median over the seeds (lowest..highest); the ratio is taken within a seed. "
            f"Not on fjt's clock: compilation, {compiled:.0f} s in the median run.",
            common.markdown(header, [row]),
        ]
    )
