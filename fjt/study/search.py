"""A search: trials are proposed, run as ordinary runs in bundles that share programs, and told their dev score."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import optuna

from fjt.core import console, records
from fjt.core.errors import UserError
from fjt.core.options import PATHS, ExecutionConfig, flatten
from fjt.experiment import run_records
from fjt.experiment.prepare import prepare
from fjt.experiment.prepared import choice
from fjt.study import planner, proposals, worker
from fjt.study.plans import Bundle, word
from fjt.study.space import Axis, Range, Space, run_of
from fjt.study.spec import Run, StudyConfig, settings_of
from fjt.study.trials import Plan, Trials, find_equal
from fjt.tasks import own_metrics
from fjt.tasks.kinds import lower_is_better
from fjt.training import checkpoint
from fjt.training.protocols import Events

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

WORST = 1e30  # stands for the score of predictions that are (nearly) one value
SECONDS = 2.0  # between two looks at the trials of other processes


class Pruned(Exception):
    """A trial is behind the others and ends."""


@dataclasses.dataclass(frozen=True)
class Search:
    """A search whose trials have ended.

    Attributes:
        metric: the name of the metric on dev that chooses.
        lower: whether lower values of it are better.
        plan: how the trials were proposed.
        base: the config of the trials.
        trials: the trials in the order of their numbers.
        values: {config key: value} of each trial.
    """

    metric: str
    lower: bool
    plan: Plan
    base: Mapping[str, Any]
    trials: "Sequence[FrozenTrial]"
    values: Sequence[Mapping[str, Any]]


def search(
    folder: str,
    plan: Plan,
    base: Mapping[str, Any],
    shared: planner.Shared,
    *,
    storage: str = "",
    mode: str = "",
    events: Events | None = None,
) -> Search:
    """The Search in a folder, after the trials that were left have been run.

    Args:
        folder: of the search.
        plan: how its trials are proposed.
        base: the config of the trials.
        shared: parts that the trials share, with the output.
        storage: see `Trials`.
        mode: one of spec.MODES; "" for lanes on an accelerator, where several trials are proposed together.
        events: called at moments of trials that cannot be pruned, for tests and for watching them.

    Raises:
        UserError: a mistake in the options or files, or the folder has another search.
        Stopped: a signal came; the state is saved.
    """
    first = settings_of(run_of(0, {}), base)
    inputs = shared.inputs(first)
    task = own_metrics.add(inputs.data[0], first.experiment.eval.metrics)
    metric = choice(first.experiment, task)
    lower = lower_is_better(metric)
    plan = dataclasses.replace(plan, total=proposals.count(plan.sampler, plan.spaces, plan.total))
    about = _about(plan, base, metric, inputs.sha256)
    trials = Trials(folder, plan, lower, about, storage)
    if known := trials.all():
        shared.view.say(_progress([trial.state.is_finished() for trial in known], plan.total))
    else:
        _try(plan.spaces, base, shared)
    mode = mode or ("vmap" if plan.lanes > 1 and jax.default_backend() != "cpu" else "loop")
    runner = _Runner(folder, base, trials, metric, plan, mode, shared, events)
    announced = False
    while True:
        with trials.claimed() as mine:
            if mine:
                runner.run(mine)
                continue
        if not trials.is_open():
            break
        if not announced:
            shared.view.say("waiting for trials that other processes run")
            announced = True
        time.sleep(SECONDS)
    return Search(metric, lower, plan, base, trials.all(), [trials.values(trial) for trial in trials.all()])


def _progress(ended: Sequence[bool], total: int) -> str:
    """The line about a search that was begun before.

    Args:
        ended: of each of its trials, whether it has ended.
        total: number of trials that are asked for.
    """
    count, every = sum(ended), max(len(ended), total)
    return f"{'nothing left to do' if count == every else 'continuing'}: {count} of {every} trials have ended"


def _try(spaces: Sequence[Space], base: Mapping[str, Any], shared: planner.Shared) -> None:
    """Prepares a run of each tuning method.  Raises UserError for one that does not fit the model or the data."""
    for space in spaces:
        first = {axis.key: axis.ends[0] for axis in space}
        methods = next((axis.ends for axis in space if axis.key == "tune.method"), None)
        for values in [first] if methods is None else [first | {"tune.method": method} for method in methods]:
            settings = settings_of(run_of(0, values), base)
            prepare(settings, view=console.Silent(), inputs=shared.inputs(settings))


def _about(plan: Plan, base: Mapping[str, Any], metric: str, contents: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the trials depend on, and that another command for the same folder may not change."""
    execution = tuple(f"{field.name}." for field in dataclasses.fields(ExecutionConfig))
    flat = flatten(records.plain(base))
    kept = {key: value for key, value in flat.items() if key not in PATHS and not key.startswith(execution)}
    spaces = [{axis.key: describe(axis) for axis in space} for space in plan.spaces]
    own = {"sampler": plan.sampler, "seed": plan.seed, "lanes": plan.lanes, "prune": plan.prune}
    return records.plain(own | {"metric": metric, "space": spaces, "config": kept, "contents": dict(contents)})


def describe(axis: Axis) -> list[Any]:
    """An Axis in the form that a config has, as plain values."""
    if isinstance(axis, Range):
        kind = "log" if axis.log else "int" if axis.whole else "float"
        return [kind, axis.low, axis.high, *([axis.points] if axis.points else [])]
    return records.plain(list(axis.values))


@dataclasses.dataclass(frozen=True)
class _Runner:
    """The trials of a search in this process.  See `search` for the attributes."""

    folder: str
    base: Mapping[str, Any]
    trials: Trials
    metric: str
    plan: Plan
    mode: str
    shared: planner.Shared
    events: Events | None

    def run(self, mine: "Sequence[FrozenTrial]") -> None:
        """Runs trials that this process holds, and tells their outcomes.  A trial that equals another is not run."""
        known = [trial for trial in self.trials.all() if trial.state.is_finished()]
        first = {trial.number: find_equal(trial, [*known, *mine[:i]]) for i, trial in enumerate(mine)}
        runs = {}
        for trial in mine:
            if first[trial.number] is None:
                run = run_of(trial.number, self.trials.values(trial))
                runs[run.name] = run
                self.shared.view.say(f"trial {trial.number}: {' '.join(f'{key}={value}' for key, value in run.values)}")
        pruned = self._work(runs) if runs else False
        for trial in mine:
            equal = first[trial.number]
            if equal is None:
                self._tell(trial, pruned)
            else:
                before = self.trials.all()[equal.number]
                value = before.value if before.state is optuna.trial.TrialState.COMPLETE else None
                self.trials.tell(trial.number, value, {"same_as": equal.number, "ended": before.user_attrs["ended"]})
        self._show()

    def _work(self, runs: dict[str, Run]) -> bool:
        """Whether the only run was pruned; else all have ended."""
        events = self.events
        if self.plan.prune:
            (name,) = runs
            events = _Watch(self.trials, int(os.path.basename(name)), os.path.join(self.folder, name), self.metric)
        try:
            worker.work(
                self.folder, self.base, runs, self._bundles(runs), self.shared, view=self.shared.view, events=events
            )
        except Pruned:
            checkpoint.remove(os.path.join(self.folder, next(iter(runs)), "checkpoints"))
            return True
        return False

    def _bundles(self, runs: Mapping[str, Run]) -> list[Bundle]:
        """The bundles of runs.

        Runs that are executed one after another have batches of their own shapes: each is the run alone, to the bits,
        and shares the compiled programs of those with the same shapes.
        """
        if self.mode == "loop":
            return [Bundle(word(runs), "tuning", "loop", "", (), tuple(runs), (), 0.0)]
        study = StudyConfig(lanes=self.plan.lanes, mode=self.mode)
        return planner.make_bundles(study, self.base, list(runs.values()), self.shared, {}, {})[0]

    def _tell(self, trial: "FrozenTrial", pruned: bool) -> None:
        workdir = os.path.join(self.folder, run_of(trial.number, {}).name)
        evaluations = len(run_records.read_evaluations(workdir))
        if pruned:
            self.trials.tell(trial.number, None, {"ended": "pruned", "evaluations": evaluations})
            return
        result = run_records.read_result(workdir)
        ended = "diverged" if result["failed"] else "collapsed" if result["collapsed"] else "finished"
        value = _score(result, self.metric) if ended == "finished" else None
        facts: dict[str, Any] = {"ended": ended, "evaluations": evaluations}
        if not result["failed"]:
            facts |= {"dev_rows": len(run_records.read_predictions(workdir, "dev")["id"])}
        self.trials.tell(trial.number, value, facts)

    def _show(self) -> None:
        trials = self.trials.all()
        ended = sum(trial.state.is_finished() for trial in trials)
        best = find_best(trials, lower_is_better(self.metric))
        text = f"  best {self.metric} {best.value:.4f} in trial {best.number}" if best else ""
        self.shared.view.say(f"{ended} of {self.plan.total} trials have ended{text}")


def _score(result: Mapping[str, Any], metric: str) -> float:
    """The metric on dev of the step that a run selected.

    Raises:
        UserError: dev has no such metric.
    """
    scores = dict(result["best"]["metrics"] or {}) | result["metrics"]
    if scores.get(metric) is None:
        raise UserError(f"The trials have no {metric} on dev, by which the search chooses: dev has no labels.")
    return float(scores[metric])


def find_best(trials: "Sequence[FrozenTrial]", lower: bool) -> "FrozenTrial | None":
    """The trial with the best score, of equals the first; None where no trial has one.

    Args:
        trials: the trials.
        lower: whether lower scores are better.
    """
    scored = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE and trial.value is not None]
    return min(scored, key=lambda trial: (trial.value or 0.0) * (1 if lower else -1), default=None)


class _Watch(Events):
    """Reports the evaluations of a trial, and raises Pruned where it is behind the others."""

    def __init__(self, trials: Trials, number: int, workdir: str, metric: str) -> None:
        self._trials, self._number, self._workdir, self._metric = trials, number, workdir, metric

    def evaluation_ends(self, step: int) -> None:
        row = run_records.read_evaluations(self._workdir)[-1]
        value = row.get(self._metric)
        if row.get("collapsed"):  # behind, unless most of the others were so at that step
            value = WORST if lower_is_better(self._metric) else -WORST
        if value is not None and self._trials.report(self._number, step, value):
            raise Pruned
