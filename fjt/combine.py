"""Combine finished runs of one task:  python -m fjt.combine RUN RUN ... --how greedy --output DIR

  average   the mean of their weights, a model as large as one of them (Wortsman et al. 2022)
  greedy    the same of the runs with which the mean scores no worse on dev, tried from the best run on
  ensemble  the mean of their probabilities or scores, at the cost of all of them

A soup needs runs with whole models of one shape that started from the same weights, such as seeds or other options of
one run.  A head that the checkpoint lacks is drawn by seeds.init: give all runs the same, or start them from a model
that has the head.  Even so the mean may be worse than each run; the score on dev tells.  DIR/model has it as a Hugging
Face model, DIR/run evaluates it as a run without steps, which fjt.predict, fjt.evaluate and fjt.export read like any
other.

An ensemble is scored from the predictions that the runs have stored, without their models.  With their models,
`fjt.predict --run DIR` and `fjt.evaluate --run DIR --data FILE` predict with all of them: in one pass where models and
tokenizers are alike, else one after another.  DIR names its runs by their places seen from DIR, and decides as the
first of them does, by its eval.threshold for example.

DIR/combination.json and the terminal have the scores of the parts and of the combination on dev, the difference from
the best part with its interval, and the cost.  Dev chose the best part and, for greedy, the runs: its scores are too
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
    from fjt.experiment.finished import Run
    from fjt.experiment.labelled import Labelled


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.combine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the work directory of a finished run")
    parser.add_argument("--how", default="greedy", choices=("average", "greedy", "ensemble"), help="default: greedy")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    return flags.parse_and_run(parser, argv, _combine, lambda options: options.output)


def _combine(options: argparse.Namespace) -> int:
    from fjt.experiment import combination, ensemble, labelled
    from fjt.experiment.finished import load_run, read_run

    load = read_run if options.how == "ensemble" else load_run
    runs = [load(folder) for folder in options.runs]
    combination.check(runs)
    output = files.local_path(options.output, "--output")
    if os.path.lexists(output):
        raise UserError(f"--output={output} already exists. Give a new folder.")
    parts = [labelled.stored(run, "dev") for run in runs]
    combination.check_rows(parts)
    chosen = list(range(len(runs)))
    try:
        if options.how == "ensemble":
            rows = combination.ensemble(parts)
            ensemble.write(output, runs, rows)
        else:
            chosen, rows = _soup(runs, options.how == "greedy", output)
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


def _soup(runs: Sequence["Run"], greedy: bool, output: str) -> tuple[list[int], "Labelled"]:
    """(the numbers of the runs in a soup, dev as it predicts it)."""
    from fjt.api import execute
    from fjt.experiment import combination, labelled
    from fjt.experiment.finished import read_run

    settings, chosen = combination.soup(runs, greedy, os.path.join(output, "model"))
    execute(settings, os.path.join(output, "run"), {})
    return chosen, labelled.stored(read_run(os.path.join(output, "run")), "dev")


def _record(
    runs: Sequence["Run"], parts: Sequence["Labelled"], rows: "Labelled", how: str, chosen: Sequence[int]
) -> dict[str, Any]:
    """The contents of combination.json."""
    from fjt.experiment import combination
    from fjt.reports import pairs
    from fjt.tasks.kinds import lower_is_better

    metric = runs[0].result["selection"]
    scores = [part.problem.score(part.scores, part.label, part.task, [metric])[metric] for part in (*parts, rows)]
    best = scores.index((min if lower_is_better(metric) else max)(scores[:-1]))
    found = pairs.compare(rows, parts[best]).differences
    difference = found.get(metric)
    return {
        "how": how,
        "metric": metric,
        "score": scores[-1],
        "parts": [
            {"run": os.path.basename(os.path.normpath(run.path)), "score": score, "used": i in chosen}
            for i, (run, score) in enumerate(zip(runs, scores[:-1], strict=True))
        ],
        "best_part": best,
        "difference": None if difference is None else vars(difference),
        "models_per_prediction": len(runs) if how == "ensemble" else 1,
        **combination.cost(runs),
    }


def _show(record: dict[str, Any]) -> None:
    rows = [(part["run"], f"{part['score']:.4f}", "yes" if part["used"] else "no") for part in record["parts"]]
    rows.append((f"**{record['how']}**", f"{record['score']:.4f}", ""))
    console.table(f"{record['metric']} on dev", ("run", ">score", "used"), rows)
    if found := record["difference"]:
        ends = f"{found['low']:+.4f} to {found['high']:+.4f}" if not found["reason"] else found["reason"]
        console.say(f"against the best part: {found['value']:+.4f} ({ends}); dev chose that part, too")
    if record["how"] != "ensemble" and _is_below(record):
        console.warn(
            "the mean of the weights is worse than each of its parts: they are too far apart, as are runs that drew "
            "other heads (config.seeds.init). Combine by --how=ensemble"
        )
    number = record["models_per_prediction"]
    console.say(
        f"training of all parts {record['train_seconds']:.1f} s; a prediction needs {number} model{'s' * (number > 1)}"
    )


def _is_below(record: dict[str, Any]) -> bool:
    """Whether the combination scores worse than all its parts."""
    from fjt.tasks.kinds import lower_is_better

    sign = -1 if lower_is_better(record["metric"]) else 1
    return all(sign * record["score"] < sign * part["score"] for part in record["parts"] if part["used"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
