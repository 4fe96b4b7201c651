"""Evaluate a finished run:  python -m fjt.evaluate --run runs/rte [--data new.tsv] [--against runs/other]

The predictions are those that the run has stored of a split (--split, dev if nothing is said), for which no model is
needed, or of a new file with labels (--data), which the run labels first.  Scores come with 95 % intervals over new
examples; where an interval would not hold there is none, with the reason.  The folder --output gets

  evaluation.html   scores, classes, confusion matrix, ROC, precision-recall and reliability curves, slices by length,
                    label and a column (--slice), the most confidently wrong examples; the page needs no other file
  evaluation.json   the same numbers with all digits

With several runs, those of all folds of a cross-validation (config.data.folds and .fold) in any order, the predictions
that each stored of its own fold are pooled: every row of the table counts once, predicted by the run that was not
trained on it.  The page then has the scores of each fold, too, and the command checks that the runs differ in their
fold alone.

With --calibrated, the scores are those of the calibrated probabilities and of the thresholds that fjt.calibrate stored;
abstention leaves no row out.  With --against, another run is compared on the same rows: churn, McNemar's exact test,
paired differences of the scores, and the examples that one has right and the other wrong, or both wrong in different
ways; evaluation.json names every example whose prediction differs.

Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fjt import flags
from fjt.core import console, files
from fjt.core.errors import UserError
from fjt.core.options import ExecutionConfig

if TYPE_CHECKING:
    from fjt.experiment.finished import Run
    from fjt.experiment.labelled import Labelled

OUTPUT = "evaluation"  # in the run's work directory


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run",
        required=True,
        nargs="+",
        metavar="DIR",
        help="the work directory of a finished run, or those of all folds of a cross-validation",
    )
    parser.add_argument("--against", metavar="DIR2", help="another run, to compare with on the same rows")
    parser.add_argument("--split", help="the split whose stored predictions are evaluated (default: dev)")
    parser.add_argument("--data", metavar="FILE", help="a file with labels, which the run labels anew")
    parser.add_argument("--text", metavar="COLUMN", help="of --data, the column of the texts")
    parser.add_argument("--text_pair", metavar="COLUMN", help="of --data, the column of the second texts")
    parser.add_argument("--label", metavar="COLUMN", help="of --data, the column of the labels, by name or id")
    parser.add_argument("--id", metavar="COLUMN", help="of --data, a column that names the rows (default: number)")
    parser.add_argument("--no-header", action="store_true", help="columns of a .csv or .tsv are numbers from 0")
    parser.add_argument("--slice", default="", metavar="COLUMN", help="a column whose values have scores of their own")
    parser.add_argument("--base", default="", metavar="DIR", help="the run's base model, if it has moved")
    parser.add_argument("--calibrated", action="store_true", help="apply what fjt.calibrate fitted for each run")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="the folder of the page (default: evaluation/SPLIT in the run's folder; with several runs, "
        "evaluation/folds in the folder of the first one)",
    )
    return flags.parse_and_run(parser, argv, _evaluate, lambda options: options.output or options.run[0])


def _evaluate(options: argparse.Namespace) -> int:
    from fjt.experiment import program_cache
    from fjt.experiment.finished import load_run, read_run
    from fjt.reports import evaluation, evaluation_page, pairs

    of_data = [name for name in ("text", "text_pair", "label", "id") if getattr(options, name)]
    if of_data and not options.data:
        raise UserError(f"--{of_data[0]} names a column of --data FILE. Give the file, or leave the option out.")
    if len(options.run) > 1:
        return _pool(options)
    load = load_run if options.data else read_run
    run = load(options.run[0], options.base)
    other = load(options.against) if options.against else None
    folder = _output(options, run)
    if options.data:
        program_cache.keep_programs(ExecutionConfig())
    rows = _rows(run, options, options.slice)
    pair = pairs.compare(rows, _rows(other, options, "")) if other else None
    found = evaluation.evaluate(rows, options.slice)
    evaluation_page.write(folder, run, found, other, pair)
    evaluation_page.show(found, pair, folder)
    return 0


def _pool(options: argparse.Namespace) -> int:
    """As `_evaluate`, of the runs of all folds."""
    from fjt.experiment import folds
    from fjt.experiment.finished import read_run
    from fjt.reports import evaluation, evaluation_page

    for name in ("against", "split", "data", "base", "calibrated"):
        if getattr(options, name):
            raise UserError(
                f"--{name} is for one run; the {len(options.run)} runs of --run are pooled, each on the rows of its "
                "own fold. Leave it out."
            )
    runs, rows = folds.pool([read_run(path) for path in options.run], options.slice)
    folder = _output(options, runs[0])
    found = evaluation.evaluate(rows, options.slice, runs)
    evaluation_page.write(folder, runs[0], found, None, None)
    evaluation_page.show(found, None, folder)
    return 0


def _rows(run: "Run", options: argparse.Namespace, group: str) -> "Labelled":
    """The labelled rows of a run that the options name.  group: the column of the slices, or ""."""
    from fjt.experiment import calibration, labelled
    from fjt.experiment.new_texts import Source

    fitted = calibration.read(run.path, run.result["params_sha256"]) if options.calibrated else None
    if options.data:
        path = files.local_path(options.data, "--data")
        source = Source(path, options.text or "", options.text_pair or "", options.id or "", not options.no_header)
        rows = labelled.predicted(run, source, options.label or "", group)
    else:
        rows = labelled.stored(run, options.split or "dev", group)
        if fitted and rows.name == calibration.fitted_on(run.path):
            console.warn(f"{run.path} was calibrated on its rows of {rows.name}: these scores are too good")
    return dataclasses.replace(rows, calibration=fitted)


def _output(options: argparse.Namespace, run: "Run") -> str:
    """The folder of the page.  Raises UserError for one among the run's own files, or a file."""
    from fjt.experiment import workdir

    if not options.output:
        name = os.path.splitext(os.path.basename(options.data))[0] if options.data else options.split or "dev"
        name = "folds" if len(options.run) > 1 else name
        return os.path.join(run.path, OUTPUT, name)
    folder = files.local_path(options.output, "--output")
    workdir.check_output(folder, "--output")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output={folder} is a file. Give a folder.")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv))
