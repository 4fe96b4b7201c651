"""A finished run in Python: `fjt.load_run("runs/first").predict(["a text"])`, `fjt.results("runs/*")`."""

import glob
import os
from typing import Any

from fjt.core import files
from fjt.core.errors import UserError
from fjt.core.options import flatten
from fjt.experiment import loaded_run, run_records
from fjt.experiment.loaded_run import Run
from fjt.experiment.run_records import ENSEMBLE


def load_run(directory: str | os.PathLike[str], base: str | os.PathLike[str] = "") -> Run:
    """The Run of a work directory, with its model.

    Args:
        directory: the work directory, or the folder of an ensemble that `python -m fjt.combine` wrote.
        base: the base model, if the run's method cannot be merged and the model has moved.

    Raises:
        UserError: the directory is not a run, the run has not finished, or it has left no model.
    """
    run = read_run(directory, base)
    run.check_export()
    return run


def read_run(directory: str | os.PathLike[str], base: str | os.PathLike[str] = "") -> Run:
    """As `load_run`, of a run that need not have left its model."""
    directory = files.local_path(directory, "the run's directory")
    if os.path.exists(os.path.join(directory, ENSEMBLE)):
        from fjt.experiment import ensemble  # with JAX, which a run's records do not need

        return ensemble.read(directory, base)
    return loaded_run.read(directory, base)


class Results(list[dict[str, Any]]):
    """Results of runs: a list of dicts, and a table of them."""

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, one row per run; {"metrics": {"accuracy": 1.0}} is in the column metrics.accuracy.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("A data frame needs pandas, which is not installed: pip install pandas.") from None
        return pandas.DataFrame([flatten(row) for row in self])


def results(pattern: str | os.PathLike[str]) -> Results:
    """The result.json of each run, with its "workdir", in the order of their names; `.to_pandas()` is a data frame.

    Args:
        pattern: such as "runs/*"; folders that are not runs are skipped, and a run without a result has "failed".

    Raises:
        UserError: the pattern matches no run.
    """
    pattern = files.local_path(pattern, "the pattern")
    found = Results()
    for folder in sorted(glob.glob(pattern, recursive=True)):
        result = os.path.join(folder, "result.json")
        if os.path.exists(result):
            found.append({"workdir": folder} | run_records.read_result(folder))
        elif os.path.exists(os.path.join(folder, "config.json")) and os.path.exists(os.path.join(folder, "env.json")):
            found.append({"workdir": folder, "failed": "no result"})
    if not found:
        raise UserError(f"{pattern} matches no run; a run's folder has config.json and, in the end, result.json.")
    return found
