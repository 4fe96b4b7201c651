"""A study's plan.json: its runs, their bundles, and the declarations that are fixed by the first result."""

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fjt.core import records
from fjt.core.errors import UserError, suggest
from fjt.core.options import PATHS, ExecutionConfig, flatten
from fjt.data import packing
from fjt.experiment import run_records
from fjt.study.spec import Run

# These keys change the data or the base model, so that runs that differ in them may differ in their hashes.
DATA_KEYS = (
    "data.",
    "seeds.subset",
    "model.path",
    "model.revision",
    "model.max_length",
    "model.doc_stride",
    "model.scratch.",
    "eval.metrics",
    "distill.runs",
    "tune.schedule_file",
)
# Of contents: prefixes of the keys that name the place.
SECTIONS = {"data": "data.", "weights": "model.", "tokenizer": "model.", "teachers": "distill.", "phases": "tune."}
BESIDE = 1.0  # seconds that a run takes in addition to its training
DECLARED = ("baseline", "metric", "family", "alpha")  # of config.study: the hypotheses of the tests

PLAN: records.Form = {
    "config": dict, "study": dict, "declared": dict, "planned_seeds": dict, "active": list, "runs": dict,
    "groups": list,
}  # fmt: skip
RUN: records.Form = {"name": str, "phase": str, "cell": str, "values": list, "open": list}
BUNDLE: records.Form = {
    "id": str, "phase": str, "mode": str, "program": str, "shapes": list, "runs": list, "programs": list,
    "seconds": (int, float),
}  # fmt: skip

Row = dict[str, Any]  # a Run as plan.json stores it


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Runs that share every compiled program.  One process works on a bundle at a time.

    Attributes:
        id: the name of its folder below groups/.
        phase: "tuning" or "runs", the phase of all its runs.
        mode: one of spec.MODES.
        program: the key of spec.program_key.
        shapes: the shapes of all its batches.
        runs: names of its runs.
        programs: one hash per program to compile; equal programs have equal hashes.
        seconds: expected seconds of training of all its runs.
    """

    id: str
    phase: str
    mode: str
    program: str
    shapes: tuple[packing.Shape, ...]
    runs: tuple[str, ...]
    programs: tuple[str, ...]
    seconds: float

    @property
    def run_seconds(self) -> float:
        """Expected seconds of one of its runs."""
        return BESIDE + self.seconds / len(self.runs)


def load(folder: str) -> tuple[dict[str, Run], list[Bundle], dict[str, Any]]:
    """({name: Run}, bundles, contents of plan.json) of a study's folder, all empty without a plan.json.

    Runs of earlier configs that are not in the latest config appear only in the contents of plan.json.

    Raises:
        Damaged: plan.json cannot be read.
    """
    if not os.path.exists(os.path.join(folder, "plan.json")):
        return {}, [], {}
    plan = read(folder)
    runs = {name: to_run(name, plan["runs"][name]) for name in plan["active"]}
    bundles = []
    for bundle in plan["groups"]:
        shapes = tuple(packing.Shape(*shape) for shape in bundle["shapes"])
        active = tuple(name for name in bundle["runs"] if name in runs)
        if active:
            # Fewer lanes are another program: they must not resume from a checkpoint of all lanes.
            id_ = bundle["id"] if len(active) == len(bundle["runs"]) else f"{bundle['id']}-{word(active)}"
            hashes, seconds = tuple(bundle["programs"]), bundle["seconds"] * len(active) / len(bundle["runs"])
            bundles.append(
                Bundle(id_, bundle["phase"], bundle["mode"], bundle["program"], shapes, active, hashes, seconds)
            )
    return runs, bundles, plan


def read(folder: str) -> dict[str, Any]:
    """The contents of a study's plan.json, with its names checked: they lead to folders below the study.

    Raises:
        Damaged: it is missing, cut off, of another form, or names a run or bundle whose folder is not below the study.
    """
    path, remedy = os.path.join(folder, "plan.json"), "Restore the file, or give another --workdir."
    plan = records.read_json(path, PLAN, remedy)
    try:
        for name, row in plan["runs"].items():
            _check_form(row, RUN)
            if name != row["name"] or not _is_plain(name) or not name.startswith(f"{row['phase']}/"):
                raise ValueError(f"the run {name!r} is not a plain name below {row['phase']}/")
            for pairs in (row["values"], row["open"]):
                dict(pairs)
        for bundle in plan["groups"]:
            _check_form(bundle, BUNDLE)
            if not _is_plain(bundle["id"]) or "/" in bundle["id"]:
                raise ValueError(f"the bundle {bundle['id']!r} is not a plain name")
            if not set(bundle["runs"]) <= set(plan["runs"]):
                raise ValueError(f"the bundle {bundle['id']} has a run that is not in the plan")
            [packing.Shape(*shape) for shape in bundle["shapes"]]
        if not set(plan["active"]) <= set(plan["runs"]):
            raise ValueError("an active run is not in the plan")
        for declared in (plan["study"], plan["declared"]):
            if not set(DECLARED) - {"metric"} <= set(declared):  # version 0.1.0 had no metric
                raise ValueError(f"it does not declare {', '.join(DECLARED)}")
    except (TypeError, ValueError) as error:
        raise records.Damaged(f"{path} is damaged ({error}). {remedy}") from None
    return plan


def _is_plain(name: str) -> bool:
    """Whether a name leads to a folder below the one that it is joined to."""
    return all(re.fullmatch(r"[\w.+,=-]+", part) and part.strip(".") for part in name.split("/"))


def _check_form(row: Any, form: records.Form) -> None:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kinds) for key, kinds in form.items()):
        raise ValueError(f"a run or bundle lacks one of {', '.join(form)}, or it has another type")


def to_run(name: str, row: Row) -> Run:
    """The Run that a row of plan.json describes."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(part) for part in value) if isinstance(value, list) else value

    return Run(name, row["phase"], row["cell"], tuples(row["values"]), tuples(row["open"]))


def to_row(run: Run) -> Row:
    """The row of plan.json that describes a Run."""
    return records.plain(dataclasses.asdict(run))


def needs(bundle: Bundle, bundles: Iterable[Bundle], runs: Mapping[str, Run]) -> list[Bundle]:
    """The bundles of tuning runs that choose the open values of a bundle's runs.

    Args:
        bundle: the bundle.
        bundles: all bundles of the plan.
        runs: {name: Run} of the plan.
    """
    cells = {runs[name].cell for name in bundle.runs if runs[name].open}
    return [one for one in bundles if one.phase == "tuning" and any(runs[name].cell in cells for name in one.runs)]


def find(ids: Iterable[str], folder: str, bundles: Sequence[Bundle], runs: Mapping[str, Run]) -> list[Bundle]:
    """The bundles of these ids, each with its needs among them or ended.

    Args:
        ids: as --bundles gives them.
        folder: the study.
        bundles: all bundles of the plan.
        runs: {name: Run} of the plan.

    Raises:
        UserError: a bundle is not in the plan, or it needs another bundle that has not ended.
    """
    known = {bundle.id: bundle for bundle in bundles}
    for id_ in ids:
        if id_ not in known:
            raise UserError(
                f"--bundles: {folder} has no bundle {id_!r}.{suggest(id_, known)} --plan lists those that are left."
            )
    found = [bundle for bundle in bundles if bundle.id in ids]
    for bundle in found:
        left = [one.id for one in needs(bundle, bundles, runs) if one not in found and not has_ended(folder, one)]
        if left:
            raise UserError(
                f"--bundles: {bundle.id} needs tuning runs that have not ended. Run their bundles first: "
                f"--bundles {','.join(left)}."
            )
    return found


def has_ended(folder: str, bundle: Bundle) -> bool:
    """Whether all runs of a bundle have ended.  folder: the study."""
    return all(run_records.ended(os.path.join(folder, name)) for name in bundle.runs)


def has_result(folder: str, rows: Iterable[Row]) -> bool:
    """Whether a reported run has a result, so that someone may have looked at it.  rows: runs of plan.json."""
    return any(
        row["phase"] == "runs" and os.path.exists(os.path.join(folder, row["name"], "result.json")) for row in rows
    )


def count_seeds(rows: Iterable[Row]) -> dict[str, int]:
    """{cell: number of its reported runs}, whether the seeds are the study's or an axis of the cell.

    Args:
        rows: runs of plan.json.
    """
    return dict(collections.Counter(row["cell"] for row in rows if row["phase"] == "runs"))


def planned_seeds(folder: str, plan: Mapping[str, Any], runs: Iterable[Run]) -> dict[str, int]:
    """{cell: number of reported runs that were planned}, fixed from the study's first result on.

    Args:
        folder: the study.
        plan: the previous plan.json, or {}.
        runs: the runs of the current config.
    """
    now, known = count_seeds(map(to_row, runs)), plan.get("runs", {}).values()
    return now | plan["planned_seeds"] if has_result(folder, known) else now


def declared(folder: str, plan: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of DECLARED, fixed from the study's first result on.

    Args:
        folder: the study.
        plan: the previous plan.json, or {}.
        study: config.study as a dict.
    """
    if has_result(folder, plan.get("runs", {}).values()):
        study = plan["declared"]
    return {key: study.get(key, "") for key in DECLARED}


def changed(study: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The reason why comparisons have no p-value: declarations changed after a result.  "" when none changed.

    Args:
        study: config.study as a dict.
        before: the declarations of `declared`.
    """
    differ = [
        f"config.study.{key} was {before.get(key, '')!r} and is {study.get(key, '')!r}"
        for key in DECLARED
        if study.get(key, "") != before.get(key, "")  # studies of version 0.1.0 had no metric to name
    ]
    if not differ:
        return ""
    return (
        f"{', '.join(differ)}: the hypotheses of a test must be declared before a reported run ends, so there is no p."
    )


def _set(value: Any) -> Any:
    """The value of an option, None where it is unset, as in a run's fingerprint: a later version adds such options."""
    return None if value in ((), []) else value


def check_config(folder: str, plan: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Raises UserError when the base config differs from that of the plan, other than in paths and execution."""
    before, now = flatten(plan["config"]), flatten(records.plain(base))
    execution = tuple(f"{field.name}." for field in dataclasses.fields(ExecutionConfig))
    differ = [
        f"config.{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in dict.fromkeys([*now, *before])
        if _set(before.get(key)) != _set(now.get(key)) and key not in PATHS and not key.startswith(execution)
    ]
    if differ:
        raise UserError(
            f"--workdir={folder} is the study of another config. Give another directory, or the same settings:\n  "
            + "\n  ".join(differ)
        )


def data_key(phase: str, cell: str) -> str:
    """The phase, task and axes of a run that decide its data and base model, given the config that all runs share."""
    task, _, *axes = cell.split("/")
    return "/".join([phase, task, *(axis for axis in axes if axis.startswith(DATA_KEYS))])


def check_contents(
    folder: str, run: Run, before: Mapping[str, str], now: Mapping[str, str], flat: Mapping[str, Any]
) -> None:
    """Raises UserError when a run would read other contents than the runs of the same data_key were planned with.

    Args:
        folder: the study.
        run: the run.
        before: {"data", "weights", "tokenizer", "metric ...": sha256} at the time of planning.
        now: the same hashes of the present files.
        flat: {key: value} of the run's config.
    """
    differ = [name for name in now if now[name] != before.get(name)]
    if not differ:
        return
    sections = tuple(SECTIONS.get(name, "eval.metrics") for name in differ)
    keys = [*PATHS, "eval.metrics"]
    places = [f"config.{key}={flat[key]!r}" for key in keys if key.startswith(sections) and flat[key]]
    raise UserError(
        f"--workdir={folder} was planned over other contents: {run.name} would not read the same "
        f"{' and '.join(differ)}, with {', '.join(places)}. Restore the files that were read before, or give "
        "another --workdir."
    )


def word(texts: Iterable[str]) -> str:
    """A short hash of texts, equal in every process."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
