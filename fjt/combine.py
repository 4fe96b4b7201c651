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

DIR/combination.json and the terminal have the scores of the parts and of the combination on dev, the difference from
the best part with its interval, and the cost.  Dev chose the best part and, for greedy, the parts: its scores are too
good.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fjt import flags
from fjt.core import console, files, records
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

    if options.checkpoints and (len(options.runs) > 1 or options.how == "ensemble"):
        raise UserError(
            f"--checkpoints combines those of one RUN, by --how=average or greedy; there are {len(options.runs)} RUN "
            f"and --how={options.how}. Leave the option out to combine runs."
        )
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
        record = _record(runs, parts, rows, options.how, chosen)
        os.makedirs(output, exist_ok=True)
        records.write_json(os.path.join(output, "combination.json"), record)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # it was not there before
        raise
    _show(record)
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


def _record(
    runs: Sequence["Run"], parts: Sequence["Part"], rows: "Labelled", how: str, chosen: Sequence[int]
) -> dict[str, Any]:
    """The contents of combination.json."""
    from fjt.experiment import combination
    from fjt.reports import pairs
    from fjt.tasks.kinds import lower_is_better

    metric = runs[0].result["selection"]
    scores = [combination.score(one, metric) for one in (*(part.rows for part in parts), rows)]
    best = scores.index((min if lower_is_better(metric) else max)(scores[:-1]))
    found = pairs.compare(rows, parts[best].rows).differences
    difference = found.get(metric)
    return {
        "how": how,
        "of": "runs" if len(runs) == len(parts) else "checkpoints",
        "metric": metric,
        "score": scores[-1],
        "parts": [
            {"name": part.name, "score": score, "used": i in chosen}
            for i, (part, score) in enumerate(zip(parts, scores[:-1], strict=True))
        ],
        "best_part": best,
        "difference": None if difference is None else vars(difference),
        "models_per_prediction": len(parts) if how == "ensemble" else 1,
        **combination.cost(runs),
    }


def _show(record: dict[str, Any]) -> None:
    rows = [(part["name"], f"{part['score']:.4f}", "yes" if part["used"] else "no") for part in record["parts"]]
    rows.append((f"**{record['how']}**", f"{record['score']:.4f}", ""))
    console.table(f"{record['metric']} on dev", ("part", ">score", "used"), rows)
    if found := record["difference"]:
        ends = f"{found['low']:+.4f} to {found['high']:+.4f}" if not found["reason"] else found["reason"]
        console.say(f"against the best part: {found['value']:+.4f} ({ends}); dev chose that part, too")
    if record["how"] != "ensemble" and _is_below(record):
        remedy = (
            "as are checkpoints between steps at high learning rates. Give --how=greedy, which leaves some out"
            if record["of"] == "checkpoints"
            else "as are runs that drew other heads (config.seeds.init). Combine by --how=ensemble"
        )
        console.warn(f"the mean of the weights is worse than each of its parts: they are too far apart, {remedy}")
    number = record["models_per_prediction"]
    console.say(
        f"training of all parts {record['train_seconds']:.1f} s; a prediction needs {number} model{'s' * (number > 1)}"
    )


def _is_below(record: dict[str, Any]) -> bool:
    """Whether the mean of several parts scores worse than each of them."""
    from fjt.tasks.kinds import lower_is_better

    sign = -1 if lower_is_better(record["metric"]) else 1
    used = [part["score"] for part in record["parts"] if part["used"]]
    return len(used) > 1 and all(sign * record["score"] < sign * score for score in used)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
