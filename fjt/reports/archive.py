"""The two files that a study commits, and what a report is made of: rows of runs, predictions, curves, facts."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import uuid
import zipfile

import numpy as np

from fjt.core.errors import UserError
from fjt.study.spec import SEEDS, label
from fjt.tasks.kinds import find_problem, task_of_record

FILES = ("runs.csv", "predictions.npz")
HEAD = ("run", "phase", "cell", "task", "method", "state", "asked", *SEEDS, "dev", "scored_examples")
OPTIONS = ("optim.name", "optim.learning_rate", "train.select", "model")  # beside the axes and what is chosen
RESULT = (
    "steps", "planned_steps", "selected_step", "epochs", "looks", "trainable_params", "head_params", "pooler_params",
    "added_params", "total_params", "flops_per_step", "token_efficiency", "train_seconds", "hidden_seconds",
    "start_layer", "compile_seconds", "lanes",
    "examples_per_second", "tokens_per_second", "peak_memory_bytes", "memory_kind", "failed", "data_sha256",
    "params_sha256", "frozen_sha256",
)  # fmt: skip
ENVIRONMENT = ("platform", "device", "devices", "changes")
TEXT = {"memory_kind", "failed", "data_sha256", "params_sha256", "frozen_sha256", "platform", "device"}
NUMBERS = {*SEEDS, *RESULT, *ENVIRONMENT, "asked", "scored_examples"} - TEXT
FINISHED, DIVERGED, BEGUN, MISSING = "finished", "diverged", "begun", "not begun"


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """What a report is made of.

    rows: a dict a run, with the columns of runs.csv, None where a run has no value; dev: {name in the column "dev":
    {id, label_names: str[...], label: [m], predicted: [n, m], runs: i[n] rows}} of the labelled rows, and so many
    finished runs, class ids or scores; curves: {"train": (rows, steps, losses), "held_out": (rows, steps, scores)},
    flat; facts: what the plan says.
    """

    rows: tuple
    dev: dict
    curves: dict
    facts: dict


def text(value):
    """A value of an option as it stands in runs.csv: numbers with all their digits, tuples as in names of folders."""
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else label(value)


def save(found, folder):
    """Writes Records as the two files that a study commits."""
    columns = _columns(found)
    rows = [{key: _cell(row, key) for key in columns} for row in found.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = file.getvalue()
    facts = found.facts | {"runs_sha256": hashlib.sha256(table.encode()).hexdigest()}
    arrays = {"facts": np.array(json.dumps(facts, ensure_ascii=True))}
    arrays |= {f"dev/{name}/{part}": array for name, parts in found.dev.items() for part, array in parts.items()}
    for name, parts in found.curves.items():
        arrays |= {f"{name}/{part}": array for part, array in zip(("row", "step", "value"), parts, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(os.path.join(folder, FILES[0]), table.encode())
    write(os.path.join(folder, FILES[1]), buffer.getvalue())


def write(path, content):
    """Writes bytes whole or not at all; processes that write the same at once do not meet."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _columns(found):
    """The columns of runs.csv: what names a run, options, scores, result, environment."""
    options = {part.split("=", 1)[0]: None for row in found.rows for part in row["cell"].split("/")[2:]}
    options |= {key: None for values in found.facts["open"].values() for key in values}
    present = dict.fromkeys(key for row in found.rows for key in row)
    scores = [key for key in present if key.startswith(("metrics.", "splits."))]
    versions = [key for key in present if key.startswith("versions.")]
    return list(dict.fromkeys([*HEAD, *options, *OPTIONS, *scores, *RESULT, *ENVIRONMENT, *versions]))


def _cell(row, key):
    """A value as text; of what is chosen, what the run's own config says."""
    value = row.get(key)
    if value is None and key in row.get("open", {}):
        value = row.get("options", {}).get(key)
    return text(value) if key not in TEXT and not isinstance(value, str) else value or ""


def load(folder):
    """Records of the two files that `save` wrote.  Raises UserError where they do not belong together."""
    paths = [os.path.join(folder, name) for name in FILES]
    for path, other in zip(paths, reversed(FILES), strict=True):
        if not os.path.exists(path):
            raise UserError(f"{path} is missing, beside {other}: a report needs both.")
    with open(paths[0], "rb") as file:
        table = file.read()
    try:
        with np.load(paths[1]) as file:
            arrays = {name: file[name] for name in file.files}
    except (EOFError, ValueError, zipfile.BadZipFile):  # no archive, or one that was cut off
        arrays = {}
    if "facts" not in arrays:
        raise UserError(f"{paths[1]} is not of a study: `python -m fjt.report` writes it.")
    facts = json.loads(str(arrays["facts"]))
    if facts.pop("runs_sha256") != hashlib.sha256(table).hexdigest():
        raise UserError(f"{paths[0]} and {FILES[1]} beside it do not belong together; take both from one report.")
    rows = tuple(
        {key: _value(key, value) for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(table.decode(), newline=""))
    )
    dev = {}
    for key, array in arrays.items():
        if key.startswith("dev/"):
            _, name, part = key.split("/")
            dev.setdefault(name, {})[part] = array
    for parts in dev.values():  # as small as can be in the file; sums of them need room
        for part in ("label", "predicted"):
            parts[part] = parts[part].astype(np.float64 if parts[part].dtype.kind == "f" else np.int64)
    curves = {
        name: tuple(arrays[f"{name}/{part}"] for part in ("row", "step", "value")) for name in ("train", "held_out")
    }
    found = Records(rows, dev, curves, facts)
    _check_scores(found)
    return found


def _value(key, cell):
    if cell == "":
        return None
    number = key in NUMBERS or key.startswith(("metrics.", "splits."))
    return cell if not number else int(cell) if re.fullmatch(r"-?\d+", cell) else float(cell)


def _check_scores(found):
    """Raises UserError for a run whose scores are not those of its predictions."""
    for parts in found.dev.values():
        problem = find_problem(task_of_record(parts).kind)
        for number, predicted in zip(parts["runs"], parts["predicted"], strict=True):
            row = found.rows[number]
            for name in found.facts["metrics"][row["task"]]:
                score = problem.metrics[name](predicted, parts["label"])
                if abs(score - row[f"metrics.{name}"]) > 1e-6:
                    raise UserError(
                        f"{row['run']} has {name} {row[f'metrics.{name}']:.6f}, and its predictions give {score:.6f}: "
                        "its files do not belong together. Run it again in an empty folder."
                    )
