"""Report a study from its records:  python -m fjt.report DIR [--output DIR2]

DIR is the --workdir of `python -m fjt.sweep`, of a study that has ended or is still running; or a folder with the two
files that a study commits, runs.csv and predictions.npz.  Both lead to the same report, byte for byte:

  report.md, report.html                 the report to read; the page needs no other file
  figures/<task>-<name>.svg and .png     its figures
  cells.csv, comparisons.csv             its main tables with all digits
  consistency/<dev set>.csv              for each example and method: share of pairs of seeds that predict the same, and
                                         share of runs that are right
  runs.csv, predictions.npz              the records of every run and its predictions

The report is written to DIR/report, or to DIR itself if DIR contains the two files.  Exit codes: 0 success, 2 a
mistake in the arguments or files, 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

from fjt import flags
from fjt.core.errors import UserError


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="the folder of a study, or of its two committed files")
    parser.add_argument("--output", metavar="DIR2", help="the folder to write the report to")
    return flags.parse_and_run(parser, argv, _report, lambda options: options.output or options.folder)


def _report(options: argparse.Namespace) -> int:
    from fjt.reports import archive, publication

    folder, study_cells = publication.report(options.folder, options.output)
    publication.show(folder, study_cells)
    rows = archive.load(folder).rows
    damaged = {row["run"]: row["failed"] for row in rows if row["state"] == archive.DAMAGED}
    if damaged:
        reasons = "".join(f"\n  {failed}" for failed in damaged.values())
        raise UserError(f"the report is written without {len(damaged)} damaged runs:{reasons}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
