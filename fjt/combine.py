"""Combine finished runs of one task, or the checkpoints of one run:

  python -m fjt.combine RUN RUN ... --how greedy --output DIR
  python -m fjt.combine RUN --checkpoints --how average --output DIR

  average   the mean of their weights, a model as large as one of them (Wortsman et al. 2022)
  greedy    the same of the parts with which the mean scores no worse on dev, tried from the best part on
  ensemble  the mean of the runs' probabilities or scores, at the cost of all of them

A soup needs runs with whole models of one shape that started from the same weights, such as seeds or other options of
one run.  A head that the checkpoint lacks is drawn by seeds.init: give all runs the same, or start them from a model
that has the head.  Even so the mean may be worse than each run; the score on dev tells.  DIR/model has it as a Hugging
Face model, DIR/run evaluates it as a run without steps, which fjt.predict, fjt.evaluate and fjt.export read like any
other.

With --checkpoints, the parts of a soup are the checkpoints that one finished run kept: the latest ones, as many as its
config.checkpoint.keep, and its best one.  Each has the weights that the run evaluated after that step, also under
train.ema, train.swa and stages of training.  The run's data, base model and teachers must be where they were, and
unchanged.

An ensemble is scored from the predictions that the runs have stored, without their models.  With their models,
`fjt.predict --run DIR` and `fjt.evaluate --run DIR --data FILE` predict with all of them: in one pass where models and
tokenizers are alike, else one after another.  DIR names its runs by their places seen from DIR, and decides as the
first of them does, by its eval.threshold for example.

DIR/combination.html, combination.json and the terminal have the scores of the parts and of the combination on dev, the
difference from the best part with its interval, and the cost.  Dev chose the best part and, for greedy, the parts: its
scores are too good.  A part that has collapsed to (nearly) one prediction is never the best, as no step of a run is.
Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fjt import flags
from fjt.core import console, files
from fjt.core.errors import UserError

if TYPE_CHECKING:
    from fjt.experiment.combination import Part
    from fjt.experiment.finished import Run
    from fjt.experiment.labelled import Labelled


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.combine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the work directory of a finished run")
    parser.add_argument(
        "--checkpoints", action="store_true", help="combine the checkpoints that RUN kept: the latest and the best one"
    )
    parser.add_argument("--how", default="greedy", choices=("average", "greedy", "ensemble"), help="default: greedy")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    return flags.parse_and_run(parser, argv, _combine, lambda options: options.output)


def _combine(options: argparse.Namespace) -> int:
    from fjt.experiment import combination, ensemble, kept_checkpoints
    from fjt.experiment.finished import load_run, read_run
    from fjt.reports import combination_report

    if options.checkpoints and len(options.runs) > 1:
        raise UserError(
            f"--checkpoints combines those of one RUN, and {len(options.runs)} are given. Give one, or leave the "
            "option out to combine the runs."
        )
    if options.checkpoints and options.how == "ensemble":
        raise UserError("--checkpoints combines by --how=average or greedy, not by --how=ensemble. Give one of them.")
    load = read_run if options.checkpoints or options.how == "ensemble" else load_run
    runs = [load(folder) for folder in options.runs]
    if not options.checkpoints:
        combination.check(runs)
    output = files.local_path(options.output, "--output")
    if os.path.lexists(output):
        raise UserError(f"--output={output} already exists. Give a new folder.")
    parts = kept_checkpoints.of_run(runs[0]) if options.checkpoints else combination.of_runs(runs)
    chosen = list(range(len(parts)))
    try:
        if options.how == "ensemble":
            rows = combination.ensemble([part.rows for part in parts])
            ensemble.write(output, runs, rows)
        else:
            chosen, rows = _soup(runs[0], parts, options.how == "greedy", output)
        record = combination_report.record(runs, parts, rows, options.how, chosen)
        combination_report.write(record, output)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # it was not there before
        raise
    combination_report.show(record, output)
    made = output if options.how == "ensemble" else os.path.join(output, "run")
    console.say(f"to use it: python -m fjt.predict --run {made}")
    return 0


def _soup(run: "Run", parts: Sequence["Part"], greedy: bool, output: str) -> tuple[list[int], "Labelled"]:
    """(the numbers of the parts in a soup, dev as it predicts it).  run: see `combination.soup`."""
    from fjt.api import execute
    from fjt.experiment import combination, labelled
    from fjt.experiment.finished import read_run

    settings, chosen = combination.soup(run, parts, greedy, os.path.join(output, "model"))
    execute(settings, os.path.join(output, "run"), {})
    return chosen, labelled.stored(read_run(os.path.join(output, "run")), "dev")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
