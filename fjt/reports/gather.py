"""The records of a study's folder as rows, predictions and curves; no statistics.

What is committed names no machine: of paths in values and in the command only the last parts are kept.
"""

import hashlib
import os
import re
import shlex

import numpy as np

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import PATHS, flatten
from fjt.reports.archive import BEGUN, DIVERGED, ENVIRONMENT, FILES, FINISHED, MISSING, OPTIONS, RESULT, Records, text
from fjt.study import plans
from fjt.study.spec import SEEDS, label
from fjt.tasks.kinds import find_problem, task_of_record

POINTS = 50  # of a training curve, each the mean of the steps since the one before


def read(folder):
    """Records of a study's folder.  Raises UserError for what is none, and where no run has ended."""
    plan = _read_plan(folder)
    asked = set(plan["active"])
    names = _Names(plan["runs"].values())
    rows, dev, train, held_out = [], {}, [], []
    for run in plan["runs"].values():
        path = os.path.join(folder, run["name"])
        state = state_of(path)
        if state == MISSING and run["name"] not in asked:
            continue
        row = names.row(run) | {"state": state, "asked": int(run["name"] in asked)} | _about(path, state, run["phase"])
        if row.get("model") and plan["study"].get("base"):
            row["model"] = f"the encoder of {plan['study']['base']}"
        if state == FINISHED:
            if run["phase"] == "runs":
                row["dev"] = _add_predictions(path, _scored(path, run["phase"]), row["task"], len(rows), dev)
                train.append((len(rows), _training(path, row["planned_steps"])))
            else:
                held_out.append((len(rows), _evaluations(path)))
                row["scored_examples"] = _count(path)
        rows.append(row)
    ended = sum(row["state"] in (FINISHED, DIVERGED) for row in rows)
    if not ended:
        raise UserError(f"{folder}: none of {len(rows)} runs has ended; there is nothing to report before one has.")
    _check_data(rows)
    dev = {name: found | {"predicted": np.stack(found["predicted"])} for name, found in dev.items()}
    dev = {name: found | {"runs": np.array(found["runs"], np.int32)} for name, found in dev.items()}
    cells = {run["cell"]: names.cell(run) for run in plan["runs"].values()}
    facts = {
        "study": plan["study"],
        "command": _without_paths(plan.get("command", "")),
        "open": {names.cell(run): names.open(run) for run in plan["runs"].values() if run["open"]},
        "metrics": _metrics(rows),
        "declared": plan["declared"],
        "planned_seeds": {cells[cell]: count for cell, count in plan["planned_seeds"].items()},
    }
    return Records(tuple(rows), dev, {"train": _flat(train), "held_out": _flat(held_out)}, facts)


def _read_plan(folder):
    path = os.path.join(folder, "plan.json")
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder; give the --workdir of a study, or where its {FILES[0]} is.")
    if not os.path.exists(path):
        raise UserError(f"{folder} is no study: it holds no plan.json, and no {FILES[0]} and {FILES[1]}.")
    try:
        plan = records.read_json(path)
    except ValueError:
        plan = None
    if not isinstance(plan, dict) or not {"config", "study", "runs", "active"} <= set(plan):
        raise UserError(f"{path} is not of a study; give the --workdir of `python -m fjt.sweep`.")
    return plan


def state_of(path):
    """How far the run of a work directory has come: finished, diverged, begun or not begun."""
    if os.path.exists(os.path.join(path, "DONE")):
        return FINISHED
    result = os.path.join(path, "result.json")
    if os.path.exists(result) and records.read_json(result)["failed"]:
        return DIVERGED
    return BEGUN if os.path.exists(os.path.join(path, "config.json")) else MISSING


class _Names:
    """Names of cells, runs and values; paths of this machine by their last parts, as many as tell them apart."""

    def __init__(self, runs):
        found = {
            value
            for run in runs
            for key, value in run["values"]
            if key in PATHS and isinstance(value, str) and value.startswith(("/", "~"))
        }
        self._short = {}
        for value in found:
            for count in range(1, value.count("/") + 2):
                short = _tail(value, count)
                if not any(_tail(other, count) == short for other in found - {value}):
                    break
            self._short[value] = short

    def cell(self, run):
        name = run["cell"]
        for key, value in run["values"]:
            if isinstance(value, str) and value in self._short:
                name = name.replace(f"/{key}={label(value)}", f"/{key}={label(self._short[value])}")
        return name

    def open(self, run):
        return {key: [text(value) for value in values] for key, values in run["open"]}

    def row(self, run):
        """What the plan says of a run, its axes and a trial's values among it."""
        cell, values = self.cell(run), dict(run["values"])
        task, method, *axes = cell.split("/")
        row = {"run": run["name"].replace(run["cell"], cell), "phase": run["phase"], "cell": cell, "task": task}
        row |= {"method": method} | {key: values.get(key) for key in SEEDS}
        row |= dict(axis.split("=", 1) for axis in axes)
        # A trial is named by what it tries, between its cell and its seed.
        tried = run["name"][len(run["phase"]) + len(run["cell"]) + 2 :].split("/")
        tried = [part.split("=", 1)[0] for part in tried]
        return row | {key: text(values[key]) for key in tried if key not in SEEDS} | {"open": dict(run["open"])}


def _tail(path, count):
    return "/".join([part for part in path.split("/") if part not in ("", "~")][-count:])


def _without_paths(command):
    """A command with paths of this machine by their last parts, and the study's folder as DIR."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        name = word.partition("=")[0].lstrip("-") if word.startswith("-") else ""
        if name in ("workdir", "shard"):
            value = None if "=" in word else next(words, "")
            if name == "workdir":
                kept += ["--workdir", "DIR"] if value is not None else ["--workdir=DIR"]
            continue
        kept.append(re.sub(r"(?<![\w.~])~?/(?:[^\s'\",:=()/]+/)*([^\s'\",:=()/]+)/?", r"\1", word))
    return shlex.join(kept)


def _scored(path, phase):
    """The split that a finished run of a phase is scored on: the published dev set, where held-out rows choose."""
    official = os.path.exists(os.path.join(path, "predictions", "official_dev.npz"))
    return "official_dev" if phase == "runs" and official else "dev"


def _about(path, state, phase):
    """What a run's own files say: options, result, environment."""
    row = {}
    if state == MISSING:
        return row
    own = records.read_json(os.path.join(path, "config.json"))
    config = flatten(own["config"])
    model = config["model.name"] or config["model.path"]
    row |= {key: text(config[key]) for key in OPTIONS if key in config}
    row |= {"options": config, "changes": len(own["changes"])}
    if model.startswith(("/", "~")):
        model = _tail(model.removesuffix("/").removesuffix("/merged").removesuffix("/export"), 1)
    row["model"] = model or "random weights"
    environment = os.path.join(path, "env.json")
    if os.path.exists(environment):
        found = flatten(records.read_json(environment))
        row |= {key: value for key, value in found.items() if key in ENVIRONMENT or key.startswith("versions.")}
    if state in (FINISHED, DIVERGED):
        result = records.read_json(os.path.join(path, "result.json"))
        row |= {key: result.get(key) for key in RESULT if key != "looks"}
        splits, scored = dict(result.get("splits", {})), _scored(path, phase)
        row |= {f"metrics.{name}": value for name, value in splits.pop(scored, {}).items()}
        row |= {f"splits.{key}": value for key, value in flatten(splits).items()}
    if state == FINISHED:
        row["looks"] = 1 if scored == "official_dev" else max(1, len(_evaluations(path)))
    return row


def _add_predictions(path, split, task, row, dev):
    """The name of a run's dev set in `dev`, which gets its predictions; None where no row of it has a label."""
    file = os.path.join(path, "predictions", f"{split}.npz")
    if not os.path.exists(file):
        raise UserError(f"{file} is missing: a study is reported from what each run predicts.")
    with np.load(file) as arrays:
        logits, truth, ids, names = (arrays[name] for name in ("logits", "label", "id", "label_names"))
        facts = task_of_record(arrays, task)
        cluster = arrays["cluster"] if "cluster" in arrays else None
    problem = find_problem(facts.kind)
    labelled = problem.is_labelled(truth)
    if not labelled.any():
        return None
    predicted = problem.decode(logits[labelled], facts).values
    scores = truth.dtype.kind == "f"  # stored in as few bytes as hold them
    dtype = np.float32 if scores else np.min_scalar_type(max(1, len(names) - 1))
    ids, truth = ids[labelled], truth[labelled].astype(dtype)
    content = hashlib.sha256("\n".join([*map(str, ids), *map(repr, truth.tolist())]).encode()).hexdigest()
    name = f"{task}-{content[:8]}"
    empty = {"id": ids, "label": truth, "label_names": names, "predicted": [], "runs": []}
    empty |= {"kind": np.array(facts.kind), "threshold": np.array(facts.threshold)}
    if cluster is not None:
        empty["cluster"] = np.unique(cluster[labelled], return_inverse=True)[1].astype(np.int32)
    found = dev.setdefault(name, empty)
    found["predicted"].append(predicted.astype(dtype))
    found["runs"].append(row)
    return name


def _count(path):
    """How many labelled rows a run's dev split has."""
    with np.load(os.path.join(path, "predictions", "dev.npz")) as arrays:
        problem = find_problem(task_of_record(arrays).kind)
        return int(problem.is_labelled(arrays["label"]).sum())


def _training(path, planned):
    """[(step, mean loss of the steps since the one before)], at most POINTS of the planned steps."""
    rows = [row for row in records.read_lines(os.path.join(path, "train.jsonl")) if row["loss"] is not None]
    width = -(-planned // POINTS)
    parts = [rows[start : start + width] for start in range(0, len(rows), width)] if width else []
    return [(part[-1]["step"], sum(row["loss"] for row in part) / len(part)) for part in parts]


def _evaluations(path):
    """[(step, first metric)] of the evaluations on the way."""
    file = os.path.join(path, "eval.jsonl")
    rows = records.read_lines(file) if os.path.exists(file) else []
    result = records.read_json(os.path.join(path, "result.json"))
    first = next(iter(result["metrics"]), None)
    return [(row["step"], row[first]) for row in rows if row.get(first) is not None]


def _flat(curves):
    """(rows, steps, values) of [(row, [(step, value)])], arrays."""
    found = [(row, step, value) for row, points in curves for step, value in points]
    rows, steps, values = zip(*found, strict=True) if found else ((), (), ())
    return np.array(rows, np.int32), np.array(steps, np.int32), np.array(values, np.float64)


def _metrics(rows):
    """{task: names of its metrics, the one that chooses first}."""
    found = {}
    for row in rows:
        names = [key.split(".", 1)[1] for key in row if key.startswith("metrics.")]
        if names:
            found.setdefault(row["task"], names)
    return found


def _check_data(rows):
    """Raises UserError for two runs of one task and phase on other data that no axis accounts for."""
    seen = {}
    for row in rows:
        other = seen.setdefault(plans.data_key(row["phase"], row["cell"]), row) if row.get("data_sha256") else row
        if other.get("data_sha256") != row.get("data_sha256"):
            raise UserError(
                f"{other['run']} and {row['run']} did not read the same data (data_sha256 {other['data_sha256'][:12]} "
                f"and {row['data_sha256'][:12]}): their scores cannot stand in one table. Run one of them again."
            )
