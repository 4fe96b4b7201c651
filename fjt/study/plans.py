"""A study's plan.json: its runs and groups, and what was said before the first result, which stays."""

import collections
import dataclasses
import hashlib
import os

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import PATHS, ExecutionConfig, flatten
from fjt.data import packing
from fjt.study.spec import Run

# Values of these change the data or the base model, so that runs may differ in their hashes.
DATA_KEYS = ("data.", "seeds.subset", "model.path", "model.revision", "model.max_length", "model.scratch.")
SECTIONS = {"data": "data.", "weights": "model.", "tokenizer": "model."}  # of the config, that say where these are
BESIDE = 1.0  # seconds that a run takes beside its training
DECLARED = ("baseline", "family", "alpha")  # of config.study: what a test asks


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that one process takes at a time: they share every program.

    id: its folder below groups/; phase: as of its runs; mode: one of study.MODES; program: of `study.program_key`;
    shapes: of all its batches; runs: names; programs: a word for each that is compiled, equal for equal ones; seconds:
    that its training may take.
    """

    id: str
    phase: str
    mode: str
    program: str
    shapes: tuple
    runs: tuple
    programs: tuple
    seconds: float

    @property
    def run_seconds(self):
        """Seconds that one of its runs may take."""
        return BESIDE + self.seconds / len(self.runs)


def load(folder):
    """(runs {name: Run}, [Group], the plan.json) of a study's folder; empty where there is none.

    Runs of earlier configs that the last one left out stand in plan.json alone.
    """
    path = os.path.join(folder, "plan.json")
    if not os.path.exists(path):
        return {}, [], {}
    plan = records.read_json(path)
    runs = {name: to_run(name, plan["runs"][name]) for name in plan["active"]}
    groups = []
    for group in plan["groups"]:
        shapes = tuple(packing.Shape(*shape) for shape in group["shapes"])
        active = tuple(name for name in group["runs"] if name in runs)
        if active:
            # Fewer lanes are another program: what was saved of all of them is not taken for theirs.
            id_ = group["id"] if len(active) == len(group["runs"]) else f"{group['id']}-{word(active)}"
            words, seconds = tuple(group["programs"]), group["seconds"] * len(active) / len(group["runs"])
            groups.append(Group(id_, group["phase"], group["mode"], group["program"], shapes, active, words, seconds))
    return runs, groups, plan


def to_run(name, row):
    """The Run of a row of plan.json."""

    def tuples(value):
        return tuple(tuples(part) for part in value) if isinstance(value, list) else value

    return Run(name, row["phase"], row["cell"], tuples(row["values"]), tuples(row["open"]))


def to_row(run):
    """A Run as it stands in plan.json."""
    return records.plain(dataclasses.asdict(run))


def ended(workdir):
    """Whether a run is done, or failed for good."""
    if os.path.exists(os.path.join(workdir, "DONE")):
        return True
    result = os.path.join(workdir, "result.json")
    return os.path.exists(result) and bool(records.read_json(result)["failed"])


def has_result(folder, rows):
    """Whether a reported run has one, so that someone may have looked.  rows: those of plan.json's runs."""
    return any(
        row["phase"] == "runs" and os.path.exists(os.path.join(folder, row["name"], "result.json")) for row in rows
    )


def count_seeds(rows):
    """{cell: how many reported runs it has}, whether its seeds are the study's or an axis of its own.

    rows: those of plan.json's runs.
    """
    return dict(collections.Counter(row["cell"] for row in rows if row["phase"] == "runs"))


def planned_seeds(folder, plan, runs):
    """{cell: how many reported runs it was planned with}, which stays from the study's first result on.

    plan: plan.json as it was; runs: what the config asks for now.
    """
    now, known = count_seeds(map(to_row, runs)), plan.get("runs", {}).values()
    return now | plan["planned_seeds"] if has_result(folder, known) else now


def declared(folder, plan, study):
    """{key: value} of DECLARED, which stays from the study's first result on.

    plan: plan.json as it was; study: config.study as a dict.
    """
    if has_result(folder, plan.get("runs", {}).values()):
        study = plan["declared"]
    return {key: study[key] for key in DECLARED}


def changed(study, before):
    """Why no comparison has a p: what config.study declares otherwise than before a result, "" where nothing is.

    study: config.study as a dict; before: of `declared`.
    """
    differ = [
        f"config.study.{key} was {before[key]!r} and is {study[key]!r}" for key in DECLARED if study[key] != before[key]
    ]
    if not differ:
        return ""
    return f"{', '.join(differ)}: what a test asks is declared before a reported run ends, so there is no p."


def check_config(folder, plan, base):
    """Raises UserError when a plan's base config is another."""
    before, now = flatten(plan["config"]), flatten(records.plain(base))
    execution = tuple(f"{field.name}." for field in dataclasses.fields(ExecutionConfig))
    differ = [
        f"config.{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key) and key not in PATHS and not key.startswith(execution)
    ]
    if differ:
        raise UserError(
            f"--workdir={folder} is the study of another config. Take another directory, or its settings:\n  "
            + "\n  ".join(differ)
        )


def data_key(phase, cell):
    """What decides the data and base model of a run, beside the config that all share: its phase, task and axes."""
    task, _, *axes = cell.split("/")
    return "/".join([phase, task, *(axis for axis in axes if axis.startswith(DATA_KEYS))])


def check_contents(folder, run, before, now, flat):
    """Raises UserError where a run would read other contents than those that the runs beside it were planned over.

    before, now: {"data", "weights", "tokenizer": sha256}; flat: {key: value} of its config.
    """
    differ = [name for name in now if now[name] != before[name]]
    if not differ:
        return
    sections = tuple(SECTIONS[name] for name in differ)
    places = [f"config.{key}={flat[key]!r}" for key in PATHS if key.startswith(sections) and flat[key]]
    raise UserError(
        f"--workdir={folder} was planned over other contents: {run.name} would not read the same "
        f"{' and '.join(differ)}, with {', '.join(places)}. Give what was read before, or another --workdir."
    )


def word(texts):
    """A word for texts, the same in every process."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
