"""Whether the seeds of a plan will do: for intervals, and for the tests of a family."""

from fjt.reports.archive import MISSING, Records
from fjt.reports.cells import make_cells, partner
from fjt.reports.inference import LEAST, seeds_of_tests
from fjt.study.spec import SEEDS


def too_few(study, runs):
    """[warning] of seeds that are too few.  study: config.study as a dict; runs: all Runs of the plan."""
    rows = tuple(_row(run) for run in runs)
    cells = make_cells(Records(rows, {}, {}, {"open": {}, "metrics": {}}))
    fewest = min((cell for cell in cells if not cell.crossed), key=lambda cell: len(cell.rows), default=None)
    warnings = []
    if fewest and len(fewest.rows) < LEAST:
        warnings.append(
            f"{len(fewest.rows)} seeds of {fewest.name}: there is no 95 % interval from fewer than {LEAST}. Plan "
            f"{LEAST} seeds of each cell."
        )
    return warnings + _too_few_for_tests(study, cells)


def _row(run):
    """What a row of runs.csv says of a run that is not begun, as far as it matters here."""
    values = dict(run.values)
    row = {"phase": run.phase, "cell": run.cell, "task": run.cell.split("/")[0], "state": MISSING, "dev": None}
    return row | {key: values.get(key) for key in SEEDS}


def _too_few_for_tests(study, cells):
    families = {}
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
                f"for config.study.alpha={study['alpha']:g} with fewer than {needed}. Plan {needed} seeds of each cell "
                "or compare fewer methods."
            )
    return warnings
