"""The work of a study: groups are claimed, their runs made one after another, what is open chosen from the trials."""

import collections
import contextlib
import math
import os
import shutil
import statistics
import time

from fjt.core import console, records
from fjt.experiment.execute import run as run_alone
from fjt.experiment.prepare import prepare
from fjt.experiment.workdir import lock
from fjt.study import lease
from fjt.study.bundle import run_group
from fjt.study.plans import BESIDE, ended
from fjt.study.spec import PHASES, settings_of
from fjt.tasks.kinds import lower_is_better
from fjt.training.checkpoint import NotFinite

POLL = 5.0  # seconds between two looks at what other processes do


class Progress:
    """What a person sees of a study: a bar over all runs, whoever makes them, and a line a run that ends here."""

    def __init__(self, bar, folder, groups):
        self._bar, self._folder = bar, folder
        self._seconds = {name: group.run_seconds for group in groups for name in group.runs}
        self._start, (self.done, self._first) = time.monotonic(), self._look()

    def _look(self):
        """(the runs that have ended, seconds that the plan expects of the others)."""
        lacking = [name for name in self._seconds if not ended(os.path.join(self._folder, name))]
        return len(self._seconds) - len(lacking), sum(self._seconds[name] for name in lacking)

    def show(self, text):
        self._bar.update(self.done, text)

    def end(self, name, text):
        self.done, left = self._look()
        left *= (time.monotonic() - self._start) / max(self._first - left, BESIDE)
        console.say(f"{self.done}/{len(self._seconds)}  {name}  {text}  ETA {console.duration(left)}")
        self.show("")


class _View(console.Silent):
    """The view of a run in a study: silent but for warnings, told once each, and its own progress in the bar."""

    def __init__(self, name, progress, told):
        self._name, self._progress, self._told = name, progress, told

    @contextlib.contextmanager
    def bar(self, label, total, done=0, every=0):
        self._label = f"{self._name}: {label}", total
        yield self

    def update(self, done, note=""):
        self._progress.show(f"{self._label[0]} {done}/{self._label[1]}")

    def warn(self, text):
        if text not in self._told:
            self._told.add(text)
            console.warn(f"{self._name}: {text}")


def work(folder, base, runs, groups, shared, *, shard=(0, 1)):
    """Makes every run of the groups that other processes leave to this one, tuning runs first.

    runs: {name: Run}; groups: Groups of `fjt.study.plans`; shard: (i, n), only every n-th group, from the i-th on.
    A group that another process holds is waited for, because it may die.  Returns whether all runs of the study have
    ended; those of other shards may not have.  Raises train.Stopped.
    """
    names = [name for group in groups for name in group.runs]
    told = set()
    with console.bar("runs", len(names)) as bar:
        progress = Progress(bar, folder, groups)
        progress.show("")
        for phase in PHASES:
            mine = [group for i, group in enumerate(groups) if i % shard[1] == shard[0] and group.phase == phase]
            if phase == "runs" and any(runs[name].open for group in mine for name in group.runs):
                tuning = [group for group in groups if group.phase == "tuning"]
                _wait(folder, tuning, base, runs, shared, progress, told)
            _wait(folder, mine, base, runs, shared, progress, told)
    over = all(ended(os.path.join(folder, name)) for name in names)
    if over:
        for group in groups:  # what one that was killed at its very end has left
            shutil.rmtree(os.path.join(folder, "groups", group.id, "checkpoints"), ignore_errors=True)
    return over


def _wait(folder, groups, base, runs, shared, progress, told):
    """Takes groups until all their runs have ended, whoever makes them."""
    said = False
    while waiting := [group for group in groups if not all(ended(os.path.join(folder, name)) for name in group.runs)]:
        taken = [_take(folder, group, base, runs, shared, progress, told) for group in waiting]
        if not any(taken):
            if not said:
                console.say(f"waiting for {len(waiting)} groups that other processes have taken")
                said = True
            time.sleep(POLL)


def _take(folder, group, base, runs, shared, progress, told):
    """Makes the runs of a group that have not ended; False when another process has it."""
    if all(ended(os.path.join(folder, name)) for name in group.runs):
        return True
    own = os.path.join(folder, "groups", group.id)
    held = lease.claim(own)
    if held is None:
        return False
    try:
        if all(ended(os.path.join(folder, name)) for name in group.runs):  # by the one that held it a moment ago
            return True
        chosen = {}
        if group.phase == "runs" and any(runs[name].open for name in group.runs):
            chosen = choose(folder, runs)
        members = [_Member(folder, runs[name], base, chosen, shared, group) for name in group.runs]
        if group.mode == "vmap":
            _make_lanes(members, own, shared, progress, told, held.check)
            return True
        for member in members:
            held.check()
            if not ended(member.workdir):
                _make(member, shared, progress, told)
    except lease.Lost as lost:  # this machine slept, or its clock stood still: the other process goes on
        console.warn(str(lost))
        return False
    finally:
        held.release()
    return True


class _Member:
    """A run of a group.  name, workdir: of it; prepare(view) -> its Experiment."""

    def __init__(self, folder, run, base, chosen, shared, group):
        self.name, self.workdir = run.name, os.path.join(folder, run.name)
        self._run, self._base, self._shared, self._shapes = run, base, shared, group.shapes
        self._chosen = chosen.get(run.cell, {})

    def prepare(self, view):
        settings = settings_of(self._run, self._base, tuple(self._chosen.items()))
        origins = dict.fromkeys(dict(self._run.values), "the study")
        return prepare(
            settings,
            given=origins | dict.fromkeys(self._chosen, "the tuning runs"),
            view=view,
            inputs=self._shared.inputs(settings),
            shapes=self._shapes,
        )


def _make(member, shared, progress, told):
    """Makes a run by itself."""
    view, start = _View(member.name, progress, told), time.perf_counter()
    with lock(member.workdir):
        if ended(member.workdir):
            return
        experiment = member.prepare(view)
        try:
            result = run_alone(experiment, member.workdir, compiled=shared.compiled, view=view)
        except NotFinite as error:
            result = {"failed": str(error)}
            if not experiment.settings.execution.output.checkpoints:
                shutil.rmtree(os.path.join(member.workdir, "checkpoints"))
    _tell(member, result, f"{time.perf_counter() - start:.1f} s", progress)


def _make_lanes(members, folder, shared, progress, told, check):
    """Makes runs together, as the lanes of one program."""
    view, start = _View(f"{members[0].name} and {len(members) - 1} more", progress, told), time.perf_counter()
    with contextlib.ExitStack() as locks:
        for where in (folder, *(member.workdir for member in members)):
            locks.enter_context(lock(where))
        over = [ended(member.workdir) for member in members]
        experiments = [member.prepare(view) for member in members]
        workdirs = [member.workdir for member in members]
        results = run_group(experiments, workdirs, folder, over, compiled=shared.compiled, view=view, check=check)
    took = f"{time.perf_counter() - start:.1f} s for {len(members)} lanes"
    for member, result in zip(members, results, strict=True):
        if result:
            _tell(member, result, took, progress)


def _tell(member, result, took, progress):
    if result["failed"]:
        progress.end(member.name, f"failed: {result['failed']}")
        return
    scores = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    progress.end(member.name, f"{scores}  ({took})")


def choose(folder, runs):
    """{cell: {key: value}} of what is open in its runs, by the trial that scored best; all trials have ended.

    A trial's score is the mean over its seeds of the first metric on the held-out rows; one that failed once is behind
    all that did not, and of equals the first is taken.
    """
    trials = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs.values():
        if run.phase == "tuning":
            trials[run.cell][run.name.rsplit("/seed=", 1)[0]].append(run)
    chosen = {}
    for run in runs.values():
        if run.phase == "runs" and run.open and run.cell not in chosen:
            best = max(trials[run.cell].values(), key=lambda trial: _standing(folder, trial))
            chosen[run.cell] = {key: dict(best[0].values)[key] for key, _ in run.open}
    return chosen


def _standing(folder, trial):
    """(minus the runs that failed, mean score of the others), so that the greater is the better."""
    scores = [_score(records.read_json(os.path.join(folder, run.name, "result.json"))) for run in trial]
    good = [score for score in scores if score is not None]
    return len(good) - len(scores), statistics.fmean(good) if good else -math.inf


def _score(result):
    """The first metric, so that higher is better; None for a run that failed or scored nothing."""
    for name, value in (result.get("metrics") or {}).items():
        return None if value is None else -value if lower_is_better(name) else value
    return None
