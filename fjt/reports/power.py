"""Whether a plan has enough seeds: for intervals, and for the tests of a family."""

from collections.abc import Iterable, Mapping
from typing import Any

from fjt.reports.archive import MISSING, Records, Row
from fjt.reports.cells import Cell, make_cells, partner
from fjt.reports.inference import LEAST, seeds_of_tests
from fjt.study.spec import SEEDS, Run


def too_few(study: Mapping[str, Any], runs: Iterable[Run]) -> list[str]:
    """Warnings about too few seeds.

    Args:
        study: config.study as a dict.
        runs: all runs of the plan.
    """
    rows = tuple(_row(run) for run in runs)
    cells = make_cells(Records(rows, {}, {}, {"open": {}, "metrics": {}}))
    fewest = min((cell for cell in cells if not cell.crossed), key=lambda cell: len(cell.rows), default=None)
    warnings = []
    if fewest and len(fewest.rows) < LEAST:
        warnings.append(
            f"{len(fewest.rows)} seeds of {fewest.name}: a 95 % interval needs at least {LEAST}. Plan {LEAST} seeds "
            "per cell."
        )
    return warnings + _too_few_for_tests(study, cells)


def _row(run: Run) -> Row:
    """The row of runs.csv of a run that has not begun, with the columns that are used here."""
    values = dict(run.values)
    row = {"phase": run.phase, "cell": run.cell, "task": run.cell.split("/")[0], "state": MISSING, "dev": None}
    return row | {key: values.get(key) for key in SEEDS}


def _too_few_for_tests(study: Mapping[str, Any], cells: list[Cell]) -> list[str]:
    families: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in cells:
        base = partner(cell, cells, study["baseline"])
        if base and cell.method != study["baseline"]:
            families.setdefault(cell.task if study["family"] == "task" else "", []).append((cell, base))
    warnings = []
    for task, pairs in families.items():
        seeds = [min(len(cell.rows), len(base.rows)) for cell, base in pairs if not cell.crossed and not base.crossed]
        needed = seeds_of_tests(len(pairs), study["alpha"])
        if seeds and min(seeds) < needed:
            warnings.append(
                f"{f'{task}: ' * bool(task)}{min(seeds)} seeds in a family of {len(pairs)} tests: no p is low enough "
                f"for config.study.alpha={study['alpha']:g} with fewer than {needed}. Plan {needed} seeds per cell or "
                "compare fewer methods."
            )
    return warnings
