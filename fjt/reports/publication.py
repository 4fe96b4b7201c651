"""A report as its folder of files: from the records of a study to pages, figures and tables."""

import os
from collections.abc import Sequence

from fjt.core import console, files
from fjt.core.errors import UserError
from fjt.reports import archive, csv_tables, document, gather, pages
from fjt.reports.cells import Cell, make_cells, summarize
from fjt.reports.comparisons import make_comparisons
from fjt.reports.formatting import ended_of_started, names_of, spread, unit

MARKDOWN, PAGE = "report.md", "report.html"
FIGURES, EXAMPLES = "figures", "consistency"  # folders
MARKER = (".fjt", b"the report of a study of fjt\n")  # in a folder to which reports are written


def report(folder: str | os.PathLike[str], output: str | None = None) -> tuple[str, list[Cell]]:
    """(folder of the report, cells) of a study, after the report has been written.

    Args:
        folder: the folder of a study, or of its two committed files.
        output: the folder to write to; by default folder/report, or `folder` if it contains the two files.

    Raises:
        UserError: the folder has no records of a study, they do not belong together, or the output has other files or
            the report of another study.
    """
    folder = files.local_path(folder, "DIR")
    output = files.local_path(output, "--output") if output is not None else None
    is_study = os.path.exists(os.path.join(folder, "plan.json"))
    if not is_study and any(os.path.exists(os.path.join(folder, name)) for name in archive.FILES):
        study = archive.load(folder)  # raises for damaged files before the output folder is created
        output = output or folder
        check_output(output, study)
        if not os.path.exists(output) or not os.path.samefile(folder, output):
            own(output)
            for name in archive.FILES:
                with open(os.path.join(folder, name), "rb") as file:
                    files.write(os.path.join(output, name), file.read())
    else:
        study = gather.read(folder)
        if output is not None:  # the study's own report may lack runs that its config no longer has
            check_output(output, study)
        output = output or os.path.join(folder, "report")
        own(output)
        archive.save(study, output)
    # The report depends only on the two files, so that a study's folder and its committed files lead to equal reports.
    study = archive.load(output)
    study_cells, baseline = make_cells(study), study.facts["study"]["baseline"]
    document.check_baseline(baseline, list(dict.fromkeys(cell.method for cell in study_cells)))
    comparisons, unpaired = make_comparisons(study_cells, study.facts) if baseline else ([], [])
    title, blocks = document.build(study, study_cells, comparisons, unpaired)
    os.makedirs(os.path.join(output, FIGURES), exist_ok=True)
    for block in blocks:
        if isinstance(block, pages.Picture):
            _write(output, f"{FIGURES}/{block.name}.svg", block.svg)
            files.write(os.path.join(output, FIGURES, f"{block.name}.png"), block.png)
    _write(output, "cells.csv", csv_tables.of_cells(study_cells))
    if comparisons:
        _write(output, "comparisons.csv", csv_tables.of_comparisons(comparisons))
    for dev, table in csv_tables.of_examples(study_cells).items():
        os.makedirs(os.path.join(output, EXAMPLES), exist_ok=True)
        _write(output, f"{EXAMPLES}/{dev}.csv", table)
    _write(output, MARKDOWN, pages.markdown(blocks))
    _write(output, PAGE, pages.page(title, blocks))
    return output, study_cells


def own(output: str) -> None:
    """Makes a folder one to which reports are written, also after a kill.  Raises UserError for a folder of others."""
    check_output(output)
    os.makedirs(output, exist_ok=True)
    if not _has_marker(output):
        files.write(os.path.join(output, MARKER[0]), MARKER[1])


def check_output(output: str, study: archive.Records | None = None) -> None:
    """Checks that a folder is new, empty, or has a report.

    Args:
        output: the folder.
        study: whose report it may have, if any other's is refused.

    Raises:
        UserError: it is a file, or has other files, or the report of another study.
    """
    if not os.path.lexists(output):
        return
    if not os.path.isdir(output):
        raise UserError(f"--output={output} is not a folder. Give a new folder.")
    names = sorted(name for name in os.listdir(output) if not files.TEMPORARY.fullmatch(name))
    if names and not _has_marker(output) and _finished_runs(output) is None:
        raise UserError(
            f"--output={output} is not empty and is not a report of fjt: it has {', '.join(names[:3])}. "
            "Give a new folder."
        )
    lost = (_finished_runs(output) or set()) - {row["run"] for row in study.rows} if study else set()
    if lost:
        raise UserError(
            f"--output={output} has the report of another study: {len(lost):,} of its finished runs, such as "
            f"{min(lost)}, are not in this study. Give a new folder, or delete that report first."
        )
    for name in (FIGURES, EXAMPLES):
        if os.path.islink(os.path.join(output, name)):
            raise UserError(f"--output={output}: {name} in it is a symbolic link, which leads out of it. Remove it.")


def _has_marker(folder: str) -> bool:
    try:
        with open(os.path.join(folder, MARKER[0]), "rb") as file:
            return file.read() == MARKER[1]
    except OSError:
        return False


def _finished_runs(folder: str) -> set[str] | None:
    """The finished runs in a folder's two files of a study, None where it lacks them; a committed one has no marker."""
    try:
        return {row["run"] for row in archive.load(folder).rows if row["state"] == archive.FINISHED}
    except UserError:
        return None


def _write(folder: str, name: str, text: str) -> None:
    files.write(os.path.join(folder, name), text.encode())


def show(folder: str, study_cells: Sequence[Cell]) -> None:
    """Prints the main table and the path of the report.

    Args:
        folder: the folder of the report.
        study_cells: the cells of the study.
    """
    name = names_of(study_cells)
    rows = []
    for cell in study_cells:
        for metric in cell.metrics:
            values = summarize(cell, metric)
            score = "-" if isinstance(values, str) else spread(metric, values["mean"], values["sd"])
            failed = "" if isinstance(values, str) or not values["failed"] else str(values["failed"])
            rows.append((cell.task, name(cell), unit(metric), score, ended_of_started(cell), failed))
    columns = ("task", "method", "score", ">mean ± sd", ">finished/started", ">collapsed or diverged")
    console.table("Scores on dev", columns, rows)
    console.say(f"report: {os.path.join(folder, PAGE)}, {os.path.join(folder, MARKDOWN)}")
