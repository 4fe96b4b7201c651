"""The work of a study: claims bundles and runs their members."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fjt.core import console
from fjt.core.records import Unresumable
from fjt.experiment import outcome, run_records
from fjt.experiment.execute import run as run_alone
from fjt.experiment.prepare import prepare
from fjt.experiment.prepared import Experiment
from fjt.experiment.run_records import ended
from fjt.experiment.workdir import InUse, lock
from fjt.study import plans
from fjt.study.bundle import run_bundle
from fjt.study.choosing import Chosen, choose
from fjt.study.planner import Shared
from fjt.study.plans import BESIDE, Bundle
from fjt.study.spec import Run, settings_of
from fjt.training import checkpoint
from fjt.training.checkpoint import NotFinite
from fjt.training.protocols import Events

POLL = 5.0  # seconds between two looks at the progress of other processes

Made = TypeVar("Made")


class Progress:
    """The output of a study: a bar over all runs of all processes, and one line per run that ends in this process.

    Args:
        bar: the bar.
        folder: the study.
        bundles: all bundles of the plan.
        view: where lines are printed.
    """

    def __init__(
        self, bar: console.BarView, folder: str, bundles: Sequence[Bundle], view: console.View = console
    ) -> None:
        self._bar, self._folder, self.view = bar, folder, view
        self._seconds = {name: bundle.run_seconds for bundle in bundles for name in bundle.runs}
        self._start, (self.done, self._first) = time.monotonic(), self._look()

    def _look(self) -> tuple[int, float]:
        """(number of runs that have ended, seconds that the plan expects the others to take)."""
        missing = [name for name in self._seconds if not ended(os.path.join(self._folder, name))]
        return len(self._seconds) - len(missing), sum(self._seconds[name] for name in missing)

    def show(self, text: str) -> None:
        """Shows a text next to the bar."""
        self._bar.update(self.done, text)

    def end(self, name: str, text: str) -> None:
        """Prints the line of a run that has ended, with the time that the study still needs."""
        self.done, left = self._look()
        left *= (time.monotonic() - self._start) / max(self._first - left, BESIDE)
        self.view.say(f"{self.done}/{len(self._seconds)}  {name}  {text}  ETA {console.duration(left)}")
        self.show("")


class _View(console.Silent):
    """The View of a run in a study: silent except for its progress in the study's bar and for new warnings.

    Args:
        name: the run.
        progress: the study's output.
        warned: warnings that were printed before; each is printed once per process.
    """

    def __init__(self, name: str, progress: Progress, warned: set[str]) -> None:
        self._name, self._progress, self._warned = name, progress, warned
        self._label, self._total = name, 0

    @contextlib.contextmanager
    def bar(self, label: str, total: int, done: int = 0, every: int = 0) -> Iterator[console.BarView]:
        self._label, self._total = f"{self._name}: {label}", total
        yield self

    def update(self, done: int, note: str = "") -> None:
        self._progress.show(f"{self._label} {done}/{self._total}")

    def warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._progress.view.warn(f"{self._name}: {text}")


def work(
    folder: str,
    base: Mapping[str, Any],
    runs: dict[str, Run],
    bundles: Sequence[Bundle],
    shared: Shared,
    *,
    own: Sequence[Bundle] | None = None,
    metric: str = "",
    view: console.View = console,
    events: Events | None = None,
) -> bool:
    """Whether all runs of the study have ended, after those of this process's bundles and of their needs have.

    A bundle that another process holds is waited for, because that process may die.

    Args:
        folder: the study.
        base: settings that all runs share.
        runs: {name: Run}.
        bundles: all bundles of the plan.
        shared: inputs and compiled programs that runs share.
        own: the bundles that this process works on, by default all.
        metric: by which values are chosen, by default the first one of each task.
        view: where progress is shown.
        events: called at named moments of each run.

    Raises:
        train.Stopped: the process was asked to stop.
    """
    names = [name for bundle in bundles for name in bundle.runs]
    with view.bar("runs", len(names)) as bar:
        progress = Progress(bar, folder, bundles, view)
        progress.show("")
        worker = _Worker(folder, base, runs, shared, progress, events, metric)
        needs = {bundle.id: plans.needs(bundle, bundles, runs) for bundle in (bundles if own is None else own)}
        needed = needs.keys() | {one.id for some in needs.values() for one in some}
        first = sorted(bundles, key=lambda bundle: bundle.phase != "tuning")  # a later config may add tuning runs
        worker.wait([bundle for bundle in first if bundle.id in needed], needs)
    return clean_up(folder, bundles)


def clean_up(folder: str, bundles: Sequence[Bundle]) -> bool:
    """Whether all runs of a study have ended; if so, no checkpoints are left that it does not keep.

    A process that was killed at the very end of a bundle or a run leaves some.

    Args:
        folder: the study.
        bundles: all bundles of the plan.
    """
    if not all(plans.has_ended(folder, bundle) for bundle in bundles):
        return False
    for bundle in bundles:
        checkpoint.remove(os.path.join(folder, "groups", bundle.id, "checkpoints"))
        for name in bundle.runs:
            outcome.clean_up(os.path.join(folder, name))
    return True


def put_aside_damaged(folder: str) -> None:
    """Moves runs with damaged records out of the way, with a warning each: they are made again, to the same bits.

    Args:
        folder: the study.
    """
    runs, bundles, _ = plans.load(folder)
    for name in runs:
        workdir = os.path.join(folder, name)
        if damage := run_records.find_damage(workdir):
            with contextlib.suppress(InUse), lock(workdir):
                aside = f"{workdir}-damaged"
                number = next(i for i in itertools.count(1) if not os.path.lexists(f"{aside}-{i}"))
                for bundle in bundles:  # lanes go on together, and this one's rows are gone
                    if name in bundle.runs:
                        checkpoint.remove(os.path.join(folder, "groups", bundle.id, "checkpoints"))
                os.rename(workdir, f"{aside}-{number}")
                console.warn(f"{name} is moved to {aside}-{number} and made again: {damage}")


class _Worker:
    """One process's work on a study.  See `work` for the arguments."""

    def __init__(
        self,
        folder: str,
        base: Mapping[str, Any],
        runs: dict[str, Run],
        shared: Shared,
        progress: Progress,
        events: Events | None,
        metric: str,
    ) -> None:
        self._metric = metric
        self._folder, self._base, self._runs, self._shared = folder, base, runs, shared
        self._progress, self._events = progress, events
        self._warned: set[str] = set()
        self._holders: dict[str, str] = {}  # of the bundles that could not be locked

    def _is_left(self, bundle: Bundle) -> bool:
        return not plans.has_ended(self._folder, bundle)

    def wait(self, bundles: Sequence[Bundle], needs: Mapping[str, Sequence[Bundle]]) -> None:
        """Works on bundles until all their runs have ended, in this process or in others.

        Args:
            bundles: the bundles, those of tuning runs first.
            needs: {id: bundles that have to end before this one begins}.
        """
        announced = False
        while waiting := [bundle for bundle in bundles if self._is_left(bundle)]:
            tried = [self._try_bundle(one) for one in waiting if not any(map(self._is_left, needs.get(one.id, ())))]
            if not any(tried):
                if not announced:
                    first = self._holders[waiting[0].id].split(". ")[0]
                    self._progress.view.say(f"waiting for {len(waiting)} bundles that other processes work on: {first}")
                    announced = True
                time.sleep(POLL)

    def _try_bundle(self, bundle: Bundle) -> bool:
        """False when another process holds the bundle; else True, after all its runs have ended."""
        folder = os.path.join(self._folder, "groups", bundle.id)
        os.makedirs(folder, exist_ok=True)  # `lock` would remove a folder that it created and that stays empty
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock(folder, kind=""))
                if self._is_left(bundle):  # the process that held the bundle a moment ago may have ended them
                    self._run(bundle, folder)
            except InUse as error:  # of the bundle, or of one of its runs, which somebody may train alone
                self._holders[bundle.id] = str(error)
                return False
        return True

    def _run(self, bundle: Bundle, folder: str) -> None:
        """Runs the members of a bundle that this process holds.  Raises InUse if another process holds one of them."""
        cells = {self._runs[name].cell for name in bundle.runs if self._runs[name].open}
        chosen = choose(self._folder, self._runs, cells, self._metric) if cells else {}
        members = [
            _Member(self._folder, self._runs[name], self._base, chosen, self._shared, bundle) for name in bundle.runs
        ]
        if bundle.mode == "vmap":
            _run_lanes(members, folder, self._shared, self._progress, self._warned, self._events)
            return
        in_use = None
        for member in members:
            if not ended(member.workdir):
                try:
                    _run_member(member, self._shared, self._progress, self._warned, self._events)
                except InUse as error:  # by somebody who trains it alone: the other members go on
                    in_use = error
        if in_use:
            raise in_use


class _Member:
    """A run of a bundle.

    Attributes:
        name: its name.
        workdir: its work directory.
    """

    def __init__(
        self, folder: str, run: Run, base: Mapping[str, Any], chosen: Chosen, shared: Shared, bundle: Bundle
    ) -> None:
        self.name, self.workdir = run.name, os.path.join(folder, run.name)
        self._run, self._base, self._shared, self._shapes = run, base, shared, bundle.shapes
        self._chosen = chosen.get(run.cell, {})

    def prepare(self, view: console.View) -> Experiment:
        """The prepared Experiment of the run."""
        settings = settings_of(self._run, self._base, tuple(self._chosen.items()))
        origins = dict.fromkeys(dict(self._run.values), "the study")
        return prepare(
            settings,
            given=origins | dict.fromkeys(self._chosen, "the tuning runs"),
            view=view,
            inputs=self._shared.inputs(settings),
            shapes=self._shapes,
        )


def _run_member(member: _Member, shared: Shared, progress: Progress, warned: set[str], events: Events | None) -> None:
    """Runs one member by itself."""
    view, start = _View(member.name, progress, warned), time.perf_counter()
    with lock(member.workdir):
        if ended(member.workdir):
            return
        experiment = member.prepare(view)
        try:
            result = _resumed(
                lambda: run_alone(experiment, member.workdir, compiled=shared.compiled, view=view, events=events),
                os.path.join(member.workdir, "checkpoints"),
                view,
            )
        except NotFinite as error:
            result = {"failed": str(error)}
            outcome.clean_up(member.workdir)
    show_end(member.name, result, f"{time.perf_counter() - start:.1f} s", progress)


def _run_lanes(
    members: Sequence[_Member],
    folder: str,
    shared: Shared,
    progress: Progress,
    warned: set[str],
    events: Events | None,
) -> None:
    """Runs members together, as the lanes of one program."""
    view, start = _View(f"{members[0].name} and {len(members) - 1} more", progress, warned), time.perf_counter()
    workdirs = [member.workdir for member in members]
    with contextlib.ExitStack() as locks:
        for path in workdirs:
            locks.enter_context(lock(path))
        already_done = [ended(workdir) for workdir in workdirs]
        experiments = [member.prepare(view) for member in members]
        results = _resumed(
            lambda: run_bundle(
                experiments, workdirs, folder, already_done, compiled=shared.compiled, view=view, events=events
            ),
            os.path.join(folder, "checkpoints"),
            view,
        )
    duration = f"{time.perf_counter() - start:.1f} s for {len(members)} lanes"
    for member, result in zip(members, results, strict=True):
        if result:
            show_end(member.name, result, duration, progress)


def _resumed(run: Callable[[], Made], saved: str, view: _View) -> Made:
    """The value of run(), after a second call without the checkpoints in `saved` where it cannot go on from them."""
    try:
        return run()
    except Unresumable as damage:
        view.warn(f"starts again from step 0: {damage}")
    checkpoint.remove(saved)
    return run()


def show_end(name: str, result: Mapping[str, Any], duration: str, progress: Progress) -> None:
    """Prints the line of a run that has ended.

    Args:
        name: the run.
        result: its result.json.
        duration: how long it took.
        progress: the study's output.
    """
    if result["failed"]:
        progress.end(name, f"failed: {result['failed']}")
        return
    scores = "  ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
    collapsed = "  collapsed: (nearly) one prediction for all" * bool(result["collapsed"])
    progress.end(name, f"{scores}{collapsed}  ({duration})")
