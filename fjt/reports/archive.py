"""The two files that a study commits, and the records in them: rows of runs, predictions, curves, facts."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fjt.core import files, records
from fjt.core.errors import UserError
from fjt.core.ragged import TEXT_KIND, Ragged, flat, unflat, values_of
from fjt.study.spec import SEEDS, label
from fjt.tasks.kinds import find_problem, task_of_record
from fjt.tasks.problem import Problem

FILES = ("runs.csv", "predictions.npz")
HEAD = ("run", "phase", "cell", "task", "method", "state", "asked", *SEEDS, "dev", "scored_examples")
OPTIONS = ("optim.name", "optim.learning_rate", "train.select", "model")  # besides the axes and open keys
RESULT = (
    "steps", "planned_steps", "selected_step", "epochs", "looks", "trainable_params", "head_params", "pooler_params",
    "added_params", "total_params", "flops_per_step", "token_efficiency", "train_seconds", "hidden_seconds",
    "start_layer", "compile_seconds", "lanes",
    "examples_per_second", "tokens_per_second", "peak_memory_bytes", "memory_kind", "failed", "collapsed",
    "data_sha256", "params_sha256", "frozen_sha256",
)  # fmt: skip
ENVIRONMENT = ("platform", "device", "devices", "changes")
TEXT = {"memory_kind", "failed", "data_sha256", "params_sha256", "frozen_sha256", "platform", "device"}
NUMBERS = {*SEEDS, *RESULT, *ENVIRONMENT, "asked", "scored_examples"} - TEXT
SCORES = ("metrics.", "splits.", "constant.")  # prefixes of columns; the last has the scores of a constant prediction
FINISHED, DIVERGED, BEGUN, MISSING = "finished", "diverged", "begun", "not begun"
DAMAGED = "damaged"  # begun, and a record of it cannot be read

Row = dict[str, Any]  # {column of runs.csv: value}, None where a run has no value
Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # (rows, steps, values), one entry per point of a curve


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The records of a study.

    Attributes:
        rows: one row per run.
        dev: {name in the column "dev": {id: str[m], label_names: str[C], label: [m], predicted: [n, m], runs: i[n]}}
            for the m labelled examples of a dev set and the n finished runs scored on it.  Labels and predictions are
            in the form of the Problem, such as class ids or scores; `runs` are indices into `rows`.
        curves: {"train": curve of losses, "held_out": curve of scores}.
        facts: the study's options and declarations, from its plan; and what its runs share: `metrics` of each task,
            `selection`, the metric of each task that selects, `held_out`, the scores of a constant on the held-out rows
            of each cell's trials, and `recipe`, a recipe's epochs for each cell.
    """

    rows: tuple[Row, ...]
    dev: dict[str, dict[str, Any]]
    curves: dict[str, Curve]
    facts: dict[str, Any]


def text(value: Any) -> str:
    """The value of an option as runs.csv stores it: numbers with all digits, tuples as in names of folders."""
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else label(value)


def save(study: Records, folder: str) -> None:
    """Writes Records as the two files that a study commits."""
    columns = _columns(study)
    rows = [{key: _cell(row, key) for key in columns} for row in study.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = file.getvalue()
    facts = study.facts | {"runs_sha256": hashlib.sha256(table.encode()).hexdigest()}
    arrays = {"facts": np.array(json.dumps(facts, ensure_ascii=True))}
    for name, parts in study.dev.items():
        runs = np.array(list(map(values_of, parts["predicted"])))
        parts = parts | flat("label", parts["label"]) | flat("predicted", runs)
        arrays |= {f"dev/{name}/{part}": array for part, array in parts.items()}
    for name, parts in study.curves.items():
        arrays |= {f"{name}/{part}": array for part, array in zip(("row", "step", "value"), parts, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]  # no name is "allow_pickle"
    files.write(os.path.join(folder, FILES[0]), table.encode())
    files.write(os.path.join(folder, FILES[1]), buffer.getvalue())


def _columns(study: Records) -> list[str]:
    """The columns of runs.csv: names of the run, options, scores, result, environment."""
    options = {part.split("=", 1)[0]: None for row in study.rows for part in row["cell"].split("/")[2:]}
    options |= {key: None for values in study.facts["open"].values() for key in values}
    present = dict.fromkeys(key for row in study.rows for key in row)
    scores = [key for key in present if key.startswith(SCORES)]
    versions = [key for key in present if key.startswith("versions.")]
    return list(dict.fromkeys([*HEAD, *options, *OPTIONS, *scores, *RESULT, *ENVIRONMENT, *versions]))


def _cell(row: Row, key: str) -> str:
    """A value as text; for an open key, the value in the run's config."""
    value = row.get(key)
    if value is None and key in row.get("open", {}):
        value = row.get("options", {}).get(key)
    return text(value) if key not in TEXT and not isinstance(value, str) else value or ""


def load(folder: str) -> Records:
    """The Records of the two files that `save` wrote.

    Raises:
        UserError: a file is missing, damaged, or does not belong to the other.
    """
    paths = [os.path.join(folder, name) for name in FILES]
    for path, other in zip(paths, reversed(FILES), strict=True):
        if not os.path.exists(path):
            raise UserError(f"{path} is missing next to {other}: a report needs both. Add the missing file.")
    with records.reading(folder, "Use the files that a report of fjt wrote."):
        return _read(paths)


def _read(paths: Sequence[str]) -> Records:
    """The Records of runs.csv and predictions.npz.  Files that fjt did not write may raise any exception."""
    with open(paths[0], "rb") as file:
        table = file.read()
    try:
        with np.load(paths[1]) as file:
            arrays = {name: file[name] for name in file.files}
    except (EOFError, ValueError, zipfile.BadZipFile):  # not an archive, or one that was cut off
        arrays = {}
    if "facts" not in arrays:
        raise UserError(f"{paths[1]} is not of a study. Write it with `python -m fjt.report`.")
    facts = json.loads(str(arrays["facts"]))
    if facts.pop("runs_sha256") != hashlib.sha256(table).hexdigest():
        raise UserError(f"{paths[0]} and {FILES[1]} next to it do not belong together. Use both files of one report.")
    rows = tuple(
        {key: _value(key, value) for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(table.decode(), newline=""))
    )
    _check_names(paths[0], rows)
    dev: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        if key.startswith("dev/"):
            _, name, part = key.split("/")
            dev.setdefault(name, {})[part] = array
    for name, stored in dev.items():
        dev[name] = parts = unflat(stored)
        parts |= {part: widen(parts[part]) for part in ("label", "predicted")}
        if isinstance(parts["label"], Ragged):
            parts["predicted"] = [Ragged(run, parts["label"].offsets) for run in parts["predicted"]]
    curves = {
        name: (arrays[f"{name}/row"], arrays[f"{name}/step"], arrays[f"{name}/value"]) for name in ("train", "held_out")
    }
    study = Records(rows, dev, curves, facts)
    _check_scores(study)
    return study


def _value(key: str, cell: str) -> str | int | float | None:
    if cell == "":
        return None
    number = key in NUMBERS or key.startswith(SCORES)
    return cell if not number else int(cell) if re.fullmatch(r"-?\d+", cell) else float(cell)


def _check_names(path: str, rows: Sequence[Row]) -> None:
    """Raises UserError for names that no study writes: they become paths of figures and parts of the page."""
    for row in rows:
        for key in ("run", "phase", "cell", "task", "method", *["dev"] * (row["dev"] is not None)):
            parts = str(row[key]).split("/")[: None if key in ("run", "cell") else 1]
            if "/".join(parts) != row[key] or not all(re.fullmatch(r"[\w+,=-][\w.+,=-]*", part) for part in parts):
                raise UserError(
                    f"{path}: the {key} {row[key]!r:.80} has characters that no study writes. Do not trust the file."
                )


def _check_scores(study: Records) -> None:
    """Raises UserError for a run whose scores differ from the scores of its predictions."""
    for parts in study.dev.values():
        problem = find_problem(task_of_record(parts).kind)
        for number, predicted in zip(parts["runs"], parts["predicted"], strict=True):
            row = study.rows[number]
            check_scores(row, study.facts["metrics"][row["task"]], problem, predicted, parts["label"])


def widen(values: Any) -> Any:
    """Labels or predictions as f64 or i64: the files have the smallest dtypes, in which sums would overflow.

    Texts are as they are.
    """
    if values.dtype.kind == TEXT_KIND:
        return values
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def check_scores(row: Row, metrics: Iterable[str], problem: Problem, predicted: Any, label: Any) -> None:
    """Checks that the scores of a run are the scores of its predictions.

    Args:
        row: of the run.
        metrics: names of its metrics.
        problem: of its task.
        predicted: [m, ...] the decoded predictions of the labelled examples.
        label: [m, ...] their labels.

    Raises:
        Damaged: a score is another one.
    """
    for name in metrics:
        if name not in problem.metrics:  # a user's own, whose function a report does not call
            continue
        score, recorded = problem.metrics[name](predicted, label), row.get(f"metrics.{name}")
        if recorded is None or not abs(score - recorded) <= 1e-6 * max(1.0, abs(recorded)):
            raise records.Damaged(
                f"{row['run']} has {name} {recorded}, but its predictions score {score:.6f}: its files do not belong "
                "together. Run it again in an empty folder."
            )
