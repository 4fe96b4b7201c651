"""Report a study from its records:  python -m fjt.report DIR [--output DIR2]

DIR is the --workdir of `python -m fjt.sweep`, of a study that is done or still goes on; or a folder that holds the
two files which a study commits, runs.csv and predictions.npz.  Both give the same report, byte for byte:

  report.md, report.html                 the report to read; the page needs no other file
  figures/<task>-<what>.svg and .png     its figures
  cells.csv, comparisons.csv             its main tables with all digits
  runs.csv, predictions.npz              what it is made of: every run, and what each predicts

They go to DIR/report, or, where DIR holds the two files, to DIR itself.  Exit codes: 0 done, 2 a mistake in what was
given.
"""

import argparse
import csv
import dataclasses
import io
import os
import shutil
import sys

from fjt.core import console
from fjt.core.errors import UserError
from fjt.reports import archive, cells, document, gather, pages, sections
from fjt.reports.cells import counts, make_cells, summarize
from fjt.reports.comparisons import make_comparisons
from fjt.reports.inference import Interval

MARKDOWN, PAGE = "report.md", "report.html"


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="the folder of a study, or of the two files that it commits")
    parser.add_argument("--output", metavar="DIR2", help="where the report goes")
    options = parser.parse_args(argv[1:])
    try:
        show(*report(options.folder, options.output))
    except UserError as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fjt: {error.strerror or error}: {error.filename}", file=sys.stderr)
        return 2
    return 0


def report(folder, output=None):
    """(folder of the report, [Cell]) of a study, after the report has been written.  Raises UserError."""
    folder = os.fspath(folder)
    is_study = os.path.exists(os.path.join(folder, "plan.json"))
    if not is_study and any(os.path.exists(os.path.join(folder, name)) for name in archive.FILES):
        archive.load(folder)  # before a folder is made for what they cannot give
        output = output or folder
        os.makedirs(output, exist_ok=True)
        for name in archive.FILES:
            if not os.path.samefile(folder, output):
                shutil.copyfile(os.path.join(folder, name), os.path.join(output, name))
    else:
        found = gather.read(folder)
        output = output or os.path.join(folder, "report")
        os.makedirs(output, exist_ok=True)
        archive.save(found, output)
    # From here on all comes from the two files, whatever they came from.
    found = archive.load(output)
    made = make_cells(found)
    document.check_baseline(found.facts["study"]["baseline"], list(dict.fromkeys(cell.method for cell in made)))
    comparisons, alone = make_comparisons(made, found.facts) if found.facts["study"]["baseline"] else ([], [])
    title, blocks = document.build(found, made, comparisons, alone)
    os.makedirs(os.path.join(output, "figures"), exist_ok=True)
    for block in blocks:
        if isinstance(block, pages.Picture):
            _write(output, f"figures/{block.name}.svg", block.svg)
            archive.write(os.path.join(output, "figures", f"{block.name}.png"), block.png)
    _write(output, "cells.csv", table_of_cells(made))
    if comparisons:
        _write(output, "comparisons.csv", table_of_comparisons(comparisons))
    _write(output, MARKDOWN, pages.markdown(blocks))
    _write(output, PAGE, pages.page(title, blocks))
    return output, made


def _write(folder, name, text):
    archive.write(os.path.join(folder, name), text.encode())


def show(folder, made):
    """Prints the main table and where the report is.  made: the study's Cells."""
    name = sections.names_of(made)
    rows = []
    for cell in made:
        for metric in cell.metrics:
            values = summarize(cell, metric)
            score = "-" if isinstance(values, str) else sections.spread(metric, values["mean"], values["sd"])
            failed = "" if isinstance(values, str) or not values["failed"] else str(values["failed"])
            rows.append((cell.task, name(cell), sections.unit(metric), score, sections.ended_of_started(cell), failed))
    columns = ("task", "method", "score", ">mean ± sd", ">finished/started", ">collapsed or diverged")
    console.table("Scores on dev", columns, rows)
    console.say(f"report: {os.path.join(folder, PAGE)}, {os.path.join(folder, MARKDOWN)}")


def table_of_cells(made):
    """A CSV of what is said of each cell in each metric, with all digits."""
    rows = []
    for cell in made:
        for metric in cell.metrics:
            values = summarize(cell, metric)
            count = counts(cell.rows)
            row = {"cell": cell.name, "task": cell.task, "method": cell.method, "metric": metric}
            row |= {key: count[key] for key in ("started", "finished", "diverged")}
            row |= {"collapsed": int(cell.collapsed.sum()), "scored": len(cell.scored)}
            if not isinstance(values, str):
                names = ("mean", "sd", "median", "best", "worst", "sound_mean", "sound_sd")
                row |= {key: values[key] for key in names}
                row |= _ends("new_seeds", values["new_seeds"]) | _ends("new_examples", values["new_examples"])
            cost = cells.costs(cell, None)
            row |= {key: cost.get(key) for key in ("trained", "added", "total", "flops", "optimizer_bytes")}
            row |= {"median_seconds": cost["seconds"][0]} if cost else {}
            rows.append(row)
    return _csv(rows)


def table_of_comparisons(comparisons):
    """A CSV of what is said of each comparison, with all digits."""
    rows = []
    for one in comparisons:
        row = {"cell": one.cell.name, "baseline": one.base.name, "metric": one.metric, "n": one.n}
        row |= {"mean": one.mean, "sd": one.sd, "correlation": one.correlation, "improvement": one.improvement}
        row |= {key: None if isinstance(getattr(one, key), str) else getattr(one, key) for key in ("p", "smallest")}
        for key in ("new_seeds", "new_examples", "needed"):
            row |= _ends(key, getattr(one, key))
        rows.append(row)
    return _csv(rows)


def _ends(name, interval):
    """The parts of an Interval, empty where it was refused."""
    known = dataclasses.asdict(interval) if isinstance(interval, Interval) else {}
    return {f"{name}_{part}": known.get(part) for part in ("estimate", "low", "high", "df")}


def _csv(rows):
    file = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _text(value):
    return "" if value is None or value != value else repr(value) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv))
