"""Cross-validation: the predictions of the runs of all folds as those of one table, each row by the run without it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fjt.core.errors import UserError
from fjt.core.options import EXPERIMENT, flatten
from fjt.core.ragged import Ragged
from fjt.experiment import labelled, run_records
from fjt.experiment.finished import Run
from fjt.experiment.labelled import Labelled

FOLD, FOLDS = "data.fold", "data.folds"
DECODED_BY = ("threshold", "constrained", "answer_length")  # attributes of a Task


def pool(runs: Sequence[Run], group: str = "") -> tuple[list[Run], Labelled]:
    """(the runs in the order of their folds, the Labelled rows of the divided table, each once and in its order).

    Args:
        runs: one finished run per fold, in any order; no model is needed.
        group: a column of predictions/dev.tsv, or "".

    Raises:
        UserError: the runs are not all folds of one table with the same options, or a file is damaged.
    """
    runs = _in_order(runs)
    _check_options(runs)
    arrays = [run_records.read_predictions(run.path, "dev") for run in runs]
    for run, one in zip(runs, arrays, strict=True):
        if "row" not in one or "table_sha256" not in one:
            raise UserError(
                f"--run={run.path}: its predictions do not say which rows of the table they are of (those of several "
                "tasks and of earlier versions do not). Evaluate the runs one by one, or run the folds again."
            )
        if one["table_sha256"] != arrays[0]["table_sha256"]:
            raise UserError(
                f"--run={run.path} divides another table than {runs[0].path}: texts or labels differ. Run the folds of "
                "one table."
            )
    parts = [labelled.stored(run, "dev", group) for run in runs]
    for run, part in zip(runs[1:], parts[1:], strict=True):
        _check_task(run, part, runs[0], parts[0])
    rows = np.concatenate([one["row"] for one in arrays])
    if len(rows) != sum(map(len, parts)) or not np.array_equal(np.sort(rows), np.arange(len(rows))):
        raise UserError(
            f"--run: the {len(runs)} folds do not have each row of the table once, with a label. Run the folds of one "
            "table, with one version of scikit-learn."
        )
    order = np.argsort(rows)
    cluster = None
    if all("cluster" in one for one in arrays):
        cluster = np.unique(np.concatenate([one["cluster"] for one in arrays]), return_inverse=True)[1]
    whole = Labelled(
        f"{len(runs)} folds",
        parts[0].task,
        parts[0].problem,
        tuple(id_ for part in parts for id_ in part.id),
        _joined([part.texts for part in parts]),
        _concatenated([part.label for part in parts]),
        _concatenated([part.scores for part in parts]),
        cluster,
        _joined([part.group for part in parts]),
        np.repeat(np.arange(len(parts)), list(map(len, parts))),
    )
    return runs, whole.take(order)


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """The runs by fold.  Raises UserError unless there is one for each."""
    found: dict[int, Run] = {}
    number = flatten(runs[0].config).get(FOLDS)
    for run in runs:
        flat = flatten(run.config)
        fold = flat.get(FOLD)
        if fold is None or flat.get(FOLDS) is None:
            raise UserError(
                f"--run={run.path} is not a fold of a cross-validation (config.data.folds, config.data.fold). Give one "
                "run, or the runs of all folds."
            )
        if fold in found:
            raise UserError(
                f"--run: {found[fold].path} and {run.path} are both fold {fold}. Give one run per fold; those of "
                "another seed are another cross-validation."
            )
        found[fold] = run
    if missing := sorted(set(range(number or 0)) - found.keys()):
        raise UserError(
            f"--run: of the {number} folds, {', '.join(map(str, missing))} {'is' if len(missing) == 1 else 'are'} "
            "missing (config.data.fold, from 0). Give the runs of all folds."
        )
    return [found[fold] for fold in sorted(found)]


def _check_options(runs: Sequence[Run]) -> None:
    """Raises UserError for runs that differ in more than the fold: in options, in weights, or in the tokenizer."""
    first = _determined_by(runs[0])
    for run in runs[1:]:
        other = _determined_by(run)
        differ = [key for key in dict.fromkeys([*first, *other]) if first.get(key) != other.get(key)]
        if differ:
            values = "; ".join(f"{key}: {first.get(key)!r} and {other.get(key)!r}" for key in differ)
            raise UserError(
                f"--run: {runs[0].path} and {run.path} differ in more than their fold ({values}). Give runs with the "
                "same options."
            )


def _determined_by(run: Run) -> dict[str, Any]:
    """{key: value} of all that decides a run's result, except its fold and, with it, the data and the teachers."""
    flat = flatten(run.config)
    found = {
        f"config.{key}": flat[key]
        for key, option in EXPERIMENT.items()
        if option.fingerprinted and not option.place and key != FOLD and flat.get(key) not in (None, [])
    }
    return found | {name: digest for name, digest in run.contents.items() if name not in ("data", "teachers")}


def _check_task(run: Run, part: Labelled, first: Run, of_first: Labelled) -> None:
    """Raises UserError for a run with other labels, or another way to decode, than the first one."""
    if part.task.label_names != of_first.task.label_names:
        raise UserError(f"--run: {first.path} and {run.path} have other labels. Give config.data.label_names.")
    for name in DECODED_BY:
        one, other = getattr(of_first.task, name), getattr(part.task, name)
        if one != other:
            raise UserError(
                f"--run: {first.path} and {run.path} decode with another {name}, {one} and {other}, each chosen on its "
                "own fold. Give it to all runs (config.eval)."
            )


def _joined(columns: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The values of all parts, None where a part has none."""
    found = [column for column in columns if column is not None]
    return tuple(value for column in found for value in column) if len(found) == len(columns) else None


def _concatenated(parts: Sequence[Any]) -> Any:
    """The rows of all parts: labels, or scores."""
    if isinstance(parts[0], Ragged):
        return Ragged.of([row for part in parts for row in part], parts[0].dtype)
    return np.concatenate(parts)
