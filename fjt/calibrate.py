"""Calibrate a finished run:  python -m fjt.calibrate --run runs/rte [--threshold macro_f1] [--risk 0.05]

The probabilities of the run are fitted to the labels of a split that it was not trained on: one temperature for all
classes, or a scale and a bias for each (--method=vector).  For two classes, and for each label of a set, --threshold
tunes the probability from which it is predicted, for f1, macro_f1, balanced_accuracy or youden.

--risk R finds the least confidence with which the error rate among the predictions that are given is at most R: with a
chance of at least 95 % over the draw of the labelled rows, for new examples that are drawn like them.  Half of the rows
are then kept for this bound.

The calibration error before and after is printed; the one after is of rows that had no part in their own fit (5 folds).
What was fitted is stored in calibration.json of the run, and as "fjt_calibration" in its export's config.json.
`python -m fjt.predict --calibrated` applies it.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130
Ctrl-C.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fjt import flags
from fjt.core import console


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--split", default="dev", help="the split, with labels, that is fitted")
    parser.add_argument("--method", default="temperature", help="temperature or vector")
    parser.add_argument(
        "--threshold", default="", metavar="METRIC", help="f1, macro_f1, balanced_accuracy or youden (default: none)"
    )
    parser.add_argument(
        "--risk", type=float, metavar="R", help="the error rate among given predictions (default: none)"
    )
    return flags.parse_and_run(parser, argv, _calibrate, lambda options: options.run)


def _calibrate(options: argparse.Namespace) -> int:
    from fjt.experiment import calibrated, labelled
    from fjt.experiment.finished import read_run

    run = read_run(options.run)
    rows = labelled.stored(run, options.split)
    record = calibrated.fit(rows, options.method, options.threshold, options.risk)
    paths = calibrated.write(run, record)
    _show(record, rows.task.label_names)
    metric = f"f1({rows.task.label_names[1]})" if options.threshold == "f1" else options.threshold
    before, after = (record[when].get(metric) for when in ("before", "after"))
    if before is not None and after < before:
        console.warn(
            f"the tuned threshold makes {metric} worse on rows that it was not tuned on ({before:.4f} to {after:.4f}); "
            "without --threshold, the more probable label is predicted"
        )
    if rows.problem.collapsed(rows.decoded().values, rows.label):
        console.warn(f"the run predicts (nearly) the same for all rows of {rows.name}: its probabilities say little")
    console.say(f"stored: {', '.join(paths)}; applied by python -m fjt.predict --calibrated")
    return 0


def _show(record: Mapping[str, Any], names: Sequence[str]) -> None:
    before, after = record["before"], record["after"]
    rows = [(name, f"{before[name]:.4f}", f"{after[name]:.4f}") for name in before]
    title = f"{record['rows']:,} rows of {record['split']}, {record['method']}; after: rows outside their own fit"
    console.table(title, ("score", ">before", ">after"), rows)
    if len(record["scale"]) == 1:
        console.say(f"temperature {1 / record['scale'][0]:.4f}")
    else:
        table = zip(names, record["scale"], record["bias"], strict=True)
        console.table("logits", ("label", ">scale", ">bias"), [(n, f"{s:.4f}", f"{b:+.4f}") for n, s, b in table])
    of = names[1:] if len(record["thresholds"]) == 1 else names
    for name, threshold in zip(of, record["thresholds"], strict=False):
        console.say(f"threshold of {name}: {threshold:.4f}, tuned for {record['target']}")
    if found := record.get("abstention"):
        console.say(
            f"abstains below confidence {found['confidence']:.4f}: {found['wrong']} of {found['answered']} given "
            f"predictions wrong, of {found['rows']} held-out rows; with a chance of 95 % at most {found['risk']:g} of "
            "new ones are"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
