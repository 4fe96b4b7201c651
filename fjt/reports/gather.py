"""The records of a study's folder as rows, predictions and curves, without statistics.

Committed records do not name a machine: paths in values and in the command are shortened to their last parts.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from fjt.core.errors import UserError
from fjt.core.options import PATHS, flatten
from fjt.core.ragged import TEXT_KIND, values_of
from fjt.core.records import Damaged
from fjt.experiment import recipes, run_records
from fjt.reports.archive import (
    BEGUN,
    DAMAGED,
    DIVERGED,
    ENVIRONMENT,
    FILES,
    FINISHED,
    MISSING,
    OPTIONS,
    RESULT,
    Curve,
    Records,
    Row,
    check_scores,
    text,
    widen,
)
from fjt.study import plans
from fjt.study.spec import SEEDS, label
from fjt.tasks.kinds import find_problem, task_of_record
from fjt.tuning.partition import METHODS

USED = ("data.limit", "model.name", "model.path", "seeds.subset", "train.batch_size", "tune.method")
POINTS = 50  # points of a training curve at most; each is the mean over the steps since the previous point

Points = list[tuple[int, float]]  # (step, value)


def read(folder: str) -> Records:
    """The Records of a study's folder.

    Raises:
        UserError: the folder is not a study, no run has ended, or runs of a task did not read the same data.
    """
    plan = _read_plan(folder)
    asked, metric = set(plan["active"]), plan["study"].get("metric", "")
    names = _Names(plan["runs"].values())
    rows: list[Row] = []
    dev: dict[str, dict[str, Any]] = {}
    train, held_out, constants = [], [], {}
    for run in plan["runs"].values():
        path = os.path.join(folder, run["name"])
        state = state_of(path)
        if state == MISSING and run["name"] not in asked:
            continue
        row: Row = names.row(run) | {"asked": int(run["name"] in asked)}
        row |= _read_run(path, state, row, len(rows), dev, train, held_out, constants, metric)
        if row.get("model") and plan["study"].get("base"):
            row["model"] = f"the encoder of {plan['study']['base']}"
        if row["state"] == DAMAGED:
            row["failed"] = str(row["failed"]).replace(os.path.join(folder, ""), "")
        rows.append(row)
    ended = sum(row["state"] in (FINISHED, DIVERGED) for row in rows)
    if not ended:
        damage = next((f" {row['run']}: {row['failed']}" for row in rows if row["state"] == DAMAGED), "")
        raise UserError(
            f"{folder}: none of {len(rows)} runs has ended.{damage} Report the study when at least one has."
        )
    _check_data(rows)
    for parts in dev.values():
        parts["runs"] = np.array(parts["runs"], np.int32)
    cells = {run["cell"]: names.cell(run) for run in plan["runs"].values()}
    facts = {
        "study": plan["study"],
        "command": without_paths(plan.get("command", "")),
        "open": {names.cell(run): names.open(run) for run in plan["runs"].values() if run["open"]},
        "metrics": _metrics(rows, metric),
        "selection": {row["task"]: row["selection"] for row in rows if row.get("selection")},
        "held_out": constants,
        "runs": _training_facts(rows),
        "declared": plan["declared"],
        "planned_seeds": {cells[cell]: count for cell, count in plan["planned_seeds"].items()},
    }
    return Records(tuple(rows), dev, {"train": _flat(train), "held_out": _flat(held_out)}, facts)


def _read_run(
    path: str,
    state: str,
    row: Row,
    number: int,
    dev: dict[str, dict[str, Any]],
    train: list[tuple[int, Points]],
    held_out: list[tuple[int, Points]],
    constants: dict[str, dict[str, float]],
    metric: str,
) -> Row:
    """The columns of a run's files, after its predictions and curves were added; those of a damaged run say what is.

    Args:
        path: the work directory.
        state: of the run.
        row: the columns that the plan determines.
        number: index of the run in Records.rows.
        dev: as in Records, with lists of predictions and runs.
        train: (number, curve of losses) of the runs so far.
        held_out: (number, curve of scores) of the tuning runs so far.
        constants: {cell: scores of a constant on the rows that its tuning runs hold out} so far.
        metric: that the study compares, "" for the task's first one.
    """
    try:
        found: Row = {"state": state} | _about(path, state, row["phase"])
        if state != FINISHED:
            return found
        if row["phase"] == "tuning":
            found["scored_examples"], constants[row["cell"]] = _held_out(path)
            held_out.append((number, _evaluations(path, metric)))
            return found
        curve = _training(path, found["planned_steps"])
        scored = _scored(path, row["phase"], found["options"])
        found["dev"] = _add_predictions(path, scored, row | found, number, dev)
        train.append((number, curve))
        return found
    except Damaged as damaged:
        return {"state": DAMAGED, "failed": str(damaged)}


def _read_plan(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "plan.json")
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder} is not a folder. Give the --workdir of a study, or the folder that contains its {FILES[0]}."
        )
    if not os.path.exists(path):
        raise UserError(
            f"{folder} is not a study: it contains neither plan.json nor {FILES[0]} and {FILES[1]}. Give the --workdir "
            "of `python -m fjt.sweep`."
        )
    return plans.read(folder)


def state_of(path: str) -> str:
    """The state of a work directory's run: finished, diverged, begun or not begun."""
    if run_records.ended(path):
        return FINISHED if run_records.is_done(path) else DIVERGED
    return BEGUN if os.path.exists(os.path.join(path, "config.json")) else MISSING


class _Names:
    """Names of cells, runs and values, with paths shortened to as many last parts as distinguish them."""

    def __init__(self, runs: Collection[Row]) -> None:
        paths = {
            path
            for run in runs
            for key, value in run["values"]
            for path in (value if isinstance(value, list | tuple) else [value])
            if key in PATHS and isinstance(path, str) and path.startswith(("/", "~"))
        }
        self._short: dict[str, str] = {}
        for path in paths:
            count = 1
            while any(_tail(other, count) == _tail(path, count) for other in paths - {path}) and count <= path.count(
                "/"
            ):
                count += 1
            self._short[path] = _tail(path, count)

    def cell(self, run: Row) -> str:
        """The name of a run's cell."""
        name = run["cell"]
        for key, value in run["values"]:
            name = name.replace(f"/{key}={label(value)}", f"/{key}={label(self._shortened(value))}")
        return name

    def _shortened(self, value: Any) -> Any:
        """A value, or each of a list, with paths shortened."""
        if isinstance(value, list | tuple):
            return [self._shortened(one) for one in value]
        return self._short.get(value, value) if isinstance(value, str) else value

    def open(self, run: Row) -> dict[str, list[str]]:
        """{key: texts} of the values that the tuning runs choose from."""
        return {key: [text(value) for value in values] for key, values in run["open"]}

    def row(self, run: Row) -> Row:
        """The columns of a run that the plan determines, including its axes and a trial's values."""
        cell, values = self.cell(run), dict(run["values"])
        task, method, *axes = cell.split("/")
        row = {"run": run["name"].replace(run["cell"], cell), "phase": run["phase"], "cell": cell, "task": task}
        row |= {"method": method} | {key: values.get(key) for key in SEEDS}
        row |= dict(axis.split("=", 1) for axis in axes)
        # The name of a trial lists the values that it tries, between its cell and its seed.
        tried = run["name"][len(run["phase"]) + len(run["cell"]) + 2 :].split("/")
        tried = [part.split("=", 1)[0] for part in tried]
        return row | {key: text(values[key]) for key in tried if key not in SEEDS} | {"open": dict(run["open"])}


def _tail(path: str, count: int) -> str:
    return "/".join([part for part in path.split("/") if part not in ("", "~")][-count:])


DIVISION = ("shard", "bundles", "engine", "address")  # flags that say who runs which runs: the results are the same


def without_paths(command: str) -> str:
    """A command with paths shortened to their last parts, and the folder of the study or search as DIR."""
    words, shortened = iter(shlex.split(command)), []
    for word in words:
        name = word.partition("=")[0].lstrip("-") if word.startswith("-") else ""
        if name in ("workdir", *DIVISION):
            value = None if "=" in word else next(words, "")
            if name == "workdir":
                shortened += ["--workdir", "DIR"] if value is not None else ["--workdir=DIR"]
            continue
        shortened.append(re.sub(r"(?<![\w.~])~?/(?:[^\s'\",:=()/]+/)*([^\s'\",:=()/]+)/?", r"\1", word))
    return shlex.join(shortened)


def _scored(path: str, phase: str, config: Mapping[str, Any]) -> str:
    """The split that a finished run is scored on.

    It is the published dev set if held-out rows serve for choosing; of a fold, the rows of the fold.
    """
    official = os.path.exists(os.path.join(path, "predictions", "official_dev.npz"))
    return "official_dev" if phase == "runs" and official and config.get("data.fold") is None else "dev"


def _about(path: str, state: str, phase: str) -> Row:
    """The columns of a run that its files determine: options, result, environment."""
    row: Row = {}
    if state == MISSING:
        return row
    record = run_records.read_config(path, USED)
    config = flatten(record["config"])
    if unknown := [name for name in config["tune.method"] if name not in tuple(METHODS)]:  # a name may be a list
        file = os.path.join(path, "config.json")
        raise Damaged(f"{file} is damaged (no method is called {unknown[0]!r}). Run it again in an empty folder.")
    model = config["model.name"] or config["model.path"]
    row |= {key: text(config[key]) for key in OPTIONS if key in config}
    row |= {"options": config, "changes": len(record["changes"])}
    row["rate_origin"] = record.get("origins", {}).get("optim.learning_rate", "")
    if model.startswith(("/", "~")):
        model = _tail(model.removesuffix("/").removesuffix("/merged").removesuffix("/export"), 1)
    row["model"] = model or "random weights"
    environment = os.path.join(path, "env.json")
    if os.path.exists(environment):
        facts = flatten(run_records.read_environment(path))
        row |= {key: value for key, value in facts.items() if key in ENVIRONMENT or key.startswith("versions.")}
    scored = _scored(path, phase, config)
    if state in (FINISHED, DIVERGED):
        result = run_records.read_result(path)
        row |= {key: result.get(key) for key in (*RESULT, "selection", "train_examples") if key != "looks"}
        row["collapsed"] = None if row["collapsed"] is None else int(row["collapsed"])
        splits = dict(result.get("splits", {}))
        row |= {f"metrics.{name}": value for name, value in splits.pop(scored, {}).items()}
        row |= {f"splits.{key}": value for key, value in flatten(splits).items()}
    if state == DIVERGED:
        constant = result.get("constant", {})
        constant = constant.get(scored, constant.get("dev", {}))
        row |= {f"constant.{name}": value for name, value in constant.items()}
    if state == FINISHED:
        row["looks"] = 1 if scored == "official_dev" else max(1, len(_evaluations(path)))
    return row


def _add_predictions(path: str, split: str, row: Row, number: int, dev: dict[str, dict[str, Any]]) -> str | None:
    """The name of a run's dev set, after its predictions were added to `dev`; None if no example has a label.

    Args:
        path: the work directory.
        split: the split that the run is scored on.
        row: its columns.
        number: index of the run in Records.rows.
        dev: as in Records, with lists of predictions and runs.

    Raises:
        Damaged: the predictions cannot be read, or do not have the run's scores.
    """
    arrays = run_records.read_predictions(path, split)
    logits, truth, ids, names = (arrays[name] for name in ("logits", "label", "id", "label_names"))
    facts, cluster = task_of_record(arrays, row["task"]), arrays.get("cluster")
    problem = find_problem(facts.kind)
    labelled = problem.is_labelled(truth)
    if not labelled.any():
        return None
    predicted = problem.decode(logits[labelled], facts).values
    ids, truth = ids[labelled], truth[labelled]
    predicted, truth = (rows.astype(_smallest(values_of(rows), len(names))) for rows in (predicted, truth))
    metrics = [key.split(".", 1)[1] for key in row if key.startswith("metrics.")]
    check_scores(row, metrics, problem, widen(predicted), widen(truth))
    content = hashlib.sha256("\n".join([*map(str, ids), *map(repr, truth.tolist())]).encode()).hexdigest()
    name = f"{row['task']}-{content[:8]}"
    empty: dict[str, Any] = {"id": ids, "label": truth, "label_names": names, "predicted": [], "runs": []}
    empty |= {"kind": np.array(facts.kind), "threshold": np.array(facts.threshold)}
    if cluster is not None:
        empty["cluster"] = np.unique(cluster[labelled], return_inverse=True)[1].astype(np.int32)
    parts = dev.setdefault(name, empty)
    parts["predicted"].append(predicted)
    parts["runs"].append(number)
    return name


def _smallest(values: np.ndarray, labels: int) -> np.dtype:
    """The type of as few bytes as hold labels or predictions.  labels: number of names of labels, 0 without names."""
    if values.dtype.kind == TEXT_KIND:
        return values.dtype
    if values.dtype.kind == "f":
        return np.dtype(np.float32)
    return np.min_scalar_type(max(1, labels - 1 if labels else int(values.max(initial=0))))


def _held_out(path: str) -> tuple[int, dict[str, float]]:
    """(number of labelled rows of a tuning run's dev split, {metric: score} of a constant on them)."""
    arrays = run_records.read_predictions(path, "dev")
    problem = find_problem(task_of_record(arrays).kind)
    label = arrays["label"][problem.is_labelled(arrays["label"])]
    metrics = run_records.read_result(path)["metrics"] if len(label) else {}
    return len(label), problem.constant_scores(label, [name for name in metrics if name in problem.metrics])


def _training(path: str, planned: int) -> Points:
    """The training curve of a run: (step, mean loss since the previous point).

    Args:
        path: the work directory.
        planned: number of planned steps, which decides the distance of points.
    """
    rows = [row for row in run_records.read_steps(path) if row["loss"] is not None]
    width = -(-planned // POINTS)
    parts = [rows[start : start + width] for start in range(0, len(rows), width)] if width else []
    return [(part[-1]["step"], sum(row["loss"] for row in part) / len(part)) for part in parts]


def _evaluations(path: str, metric: str = "") -> Points:
    """(step, value of a metric, by default of the first one) of the evaluations during training."""
    rows = run_records.read_evaluations(path) if os.path.exists(os.path.join(path, "eval.jsonl")) else []
    first = metric or next(iter(run_records.read_result(path)["metrics"]), "")
    return [(row["step"], row[first]) for row in rows if row.get(first) is not None]


def _flat(curves: Iterable[tuple[int, Points]]) -> Curve:
    """The curves of several runs, (row, points) each, as one Curve."""
    points = [(row, step, value) for row, curve in curves for step, value in curve]
    rows, steps, values = zip(*points, strict=True) if points else ((), (), ())
    return np.array(rows, np.int32), np.array(steps, np.int32), np.array(values, np.float64)


def _metrics(rows: Iterable[Row], metric: str) -> dict[str, list[str]]:
    """{task: names of its metrics}; the first one decides, which is config.study.metric if that is given."""
    names_of: dict[str, list[str]] = {}
    for row in rows:
        names = [key.split(".", 1)[1] for key in row if key.startswith("metrics.")]
        if names:
            names_of.setdefault(row["task"], sorted(names, key=lambda name: name != metric))
    return names_of


def _training_facts(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """{cell: what its reported runs were trained on}: files, number of examples, draws of them, the recipe's epochs."""
    facts: dict[str, dict[str, Any]] = {}
    for row in rows:
        count, config = row.get("train_examples"), row.get("options", {})
        if row["phase"] != "runs" or not count:
            continue
        about = facts.setdefault(row["cell"], {"draws": []})
        method = recipes.leading_method(config["tune.method"])
        about |= {"train_examples": count, "batch_size": config["train.batch_size"]}
        about |= {"recipe_epochs": recipes.recipe_epochs(method, count), "limit": config["data.limit"]}
        files = [config.get(f"data.files.{split}", "") for split in ("train", "dev")]
        about |= {"rate_origin": row["rate_origin"], "files": [os.path.basename(path) for path in files if path]}
        about["draws"] = sorted({*about["draws"], config["seeds.subset"]})
    return facts


def _check_data(rows: Iterable[Row]) -> None:
    """Raises UserError for two runs of one task and phase whose data differ although their axes do not."""
    seen: dict[str, Row] = {}
    for row in rows:
        other = seen.setdefault(plans.data_key(row["phase"], row["cell"]), row) if row.get("data_sha256") else row
        if other.get("data_sha256") != row.get("data_sha256"):
            raise UserError(
                f"{other['run']} and {row['run']} did not read the same data (data_sha256 {other['data_sha256'][:12]} "
                f"and {row['data_sha256'][:12]}): their scores cannot be compared. Run one of them again."
            )
