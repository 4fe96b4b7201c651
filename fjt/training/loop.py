"""The one training loop: feeds the compiled step, reads it one step late, evaluates, saves, and stops when asked.

It trains J runs that advance together: a run alone (J = 1) or the lanes of one program.  A `Stepper` holds their
arrays, a `Recorder` the files of each run; this file decides what happens after which step.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fjt.training import placement
from fjt.training.checkpoint import Checkpoints, HostState, NotFinite, better, check_finite
from fjt.training.protocols import Count, Course, EvaluationRow, Events, Recorder, Stepper, StepRow
from fjt.training.stop import Stop, Stopped


class _Pending(NamedTuple):
    """A step that was started and not yet read."""

    step: int
    measured: dict[str, Any]
    examples: dict[int, int]  # of each moving run, since step 0


class _Clock(NamedTuple):
    """The training time of a segment: when it started, and the seconds of each moving run before it."""

    start: float
    before: dict[int, float]

    def seconds(self) -> dict[int, float]:
        """The training time of each moving run until now.  Runs that advance together share it."""
        share = (time.perf_counter() - self.start) / len(self.before)
        return {run: seconds + share for run, seconds in self.before.items()}


def _nothing(*arguments: Any) -> None:
    del arguments


@dataclasses.dataclass(kw_only=True)
class Loop:
    """J runs on their way from a step to their ends.

    Attributes:
        runs: the runs.
        hosts: their host states.
        stepper: their arrays and programs.
        step: number of steps taken.
        saves: the steps after which a checkpoint is written, in addition to those of evaluations.
        checkpoints: where it is written.
        stop: the signals to the process.
        events: called at named moments.
        keep_last: whether the last step is saved: a run that leaves no checkpoints does not need it.
        show: called with the number of a step and the losses of the runs in it, after it was read.
    """

    runs: Sequence[Course]
    hosts: list[HostState]
    stepper: Stepper
    step: int
    saves: frozenset[int]
    checkpoints: Checkpoints
    stop: Stop
    events: Events
    keep_last: bool = True
    show: Callable[[int, Sequence[float]], None] = _nothing

    def fit(self) -> None:
        """Trains the runs to their ends, from the step at which they are.

        Raises:
            Stopped: a signal came; the state is saved.
            NotFinite: numbers of a run alone are not finite; the last checkpoint stays as it is.
        """
        while True:
            due = self._due()
            if due:
                self._evaluate(due)
            if self.step == max(run.last for run in self.runs) and not self.keep_last:
                self._end_not_finite()
            elif due or self.step in self.saves:
                self._save()
            moving = self._moving()
            self.stepper.activate(moving, [host.rate_factor for host in self.hosts])
            if not moving:
                return
            self._segment(moving)
            if self.stop.wanted() is not None:
                self.save_and_wait()
                self.stop.check()

    def open(self) -> list[int]:
        """The runs that are recorded: neither ended before nor failed."""
        return [i for i, run in enumerate(self.runs) if run.recorder is not None and not self.hosts[i].failed]

    def charge(self, name: str, seconds: float) -> None:
        """Adds seconds that the open runs took together to a field of their host states, in equal shares."""
        open_runs = self.open()
        for i in open_runs:
            total = getattr(self.hosts[i], name) + seconds / len(open_runs)
            self.hosts[i] = dataclasses.replace(self.hosts[i], **{name: total})

    def save_and_wait(self) -> None:
        """Saves the state and waits until it is on the disk."""
        self._save()
        self.checkpoints.wait()

    def _due(self) -> list[int]:
        """The runs to evaluate at this step."""
        return [
            i
            for i in self.open()
            if self.step in self.runs[i].evaluations
            and self.hosts[i].evaluated < self.step
            and not self.hosts[i].finished
        ]

    def _moving(self) -> list[int]:
        """The runs that are still trained."""
        return [i for i in self.open() if self.step < self.runs[i].last and not self.hosts[i].finished]

    def _evaluate(self, due: Sequence[int]) -> None:
        """Evaluates runs on dev and records their scores."""
        self.events.evaluation_begins(self.step, self.stepper)
        try:
            metrics_of_runs = self.stepper.evaluate(due)
        except Stopped:
            self.save_and_wait()
            raise
        for i, metrics in zip(due, metrics_of_runs, strict=True):
            if isinstance(metrics, NotFinite):
                self._fail(i, NotFinite(f"{metrics} after step {self.step}"))
                continue
            self.hosts[i], row = update_best(self.step, metrics, self.hosts[i], self.runs[i])
            self._recorder(i).log_evaluation(row)
        improved = [i for i in due if self.hosts[i].best_step == self.step and not self.hosts[i].failed]
        self.stepper.keep_best(improved)
        self.events.evaluation_ends(self.step)

    def _save(self) -> None:
        """Starts to save all runs.  Runs whose state is not finite end first."""
        if self.step in self.checkpoints.steps():
            self.checkpoints.keep_best(self.hosts)
            return
        self.events.save_begins(self.step)
        for i in self.open():
            self._recorder(i).sync()
        try:
            self.checkpoints.save(self.step, self.stepper.saved(), self.hosts)
        except NotFinite:
            self._end_not_finite()
            self.checkpoints.save(self.step, self.stepper.saved(), self.hosts)

    def _end_not_finite(self) -> None:
        """Ends the runs whose state is not finite."""
        for i in self.open():
            try:
                check_finite(self.step, self.stepper.state_of(i))
            except NotFinite as error:
                self._fail(i, error)

    def _segment(self, moving: Sequence[int]) -> None:
        """Takes steps until the next evaluation, save or end, or until a signal.  Only this counts as training time."""
        boundaries = self.saves.union(*(self.runs[i].evaluations | {self.runs[i].last} for i in moving))
        end = min(step for step in boundaries if step > self.step)
        clock = _Clock(time.perf_counter(), {i: self.hosts[i].train_seconds for i in moving})
        counts = {i: Count(self.hosts[i].examples, self.hosts[i].tokens, self.hosts[i].operations) for i in moving}
        pending: _Pending | None = None
        while self.step < end and self.stop.wanted() is None:
            self.events.step_begins(self.step, self.stepper)
            measured, new = self.stepper.advance(self.step, moving)
            counts = {i: _add(counts[i], count) for i, count in zip(moving, new, strict=True)}
            if pending:
                self._read(pending, clock)
            self.step += 1
            pending = _Pending(self.step, measured, {i: count.examples for i, count in counts.items()})
        if pending:
            self._read(pending, clock)
        seconds = clock.seconds()
        for i in moving:
            self.hosts[i] = dataclasses.replace(self.hosts[i], train_seconds=seconds[i], **counts[i]._asdict())

    def _read(self, pending: _Pending, clock: _Clock) -> None:
        """Fetches, checks and logs the metrics of a step."""
        measured = placement.fetch_numbers(pending.measured)
        losses, norms, rates = measured["loss"], measured["grad_norm"], measured["learning_rate"]
        seconds = clock.seconds()
        moving = [i for i in pending.examples if not self.hosts[i].failed]
        for i in moving:
            loss, norm = losses[i], norms[i]
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._fail(i, NotFinite(f"the loss of step {pending.step} is {loss}, its gradient's norm {norm}"))
                continue
            row = StepRow(
                step=pending.step,
                loss=loss,
                grad_norm=norm,
                examples=pending.examples[i],
                seconds=seconds[i],
                learning_rate=rates[i],
            )
            self._recorder(i).log_step(row)
        self.show(pending.step, [losses[i] for i in moving])

    def _fail(self, i: int, error: NotFinite) -> None:
        """Ends one run whose numbers are not finite."""
        self.hosts[i] = dataclasses.replace(self.hosts[i], failed=str(error))
        self._recorder(i).fail(error)
        self.stepper.drop(i, error)

    def _recorder(self, i: int) -> Recorder:
        recorder = self.runs[i].recorder
        assert recorder is not None, "runs that ended before are not recorded"
        return recorder


def _add(one: Count, other: Count) -> Count:
    return Count(one.examples + other.examples, one.tokens + other.tokens, one.operations + other.operations)


def update_best(step: int, metrics: dict[str, float], host: HostState, run: Course) -> tuple[HostState, EvaluationRow]:
    """(the host state after an evaluation, the row that records the evaluation).

    Args:
        step: number of steps taken.
        metrics: {metric: value}, with a `collapsed` other than 0 for predictions that are (nearly) one value; empty
            where dev has no labels.
        host: the host state before.
        run: the run, for its metric, and for the evaluations after which it ends or lowers its learning rate.
    """
    # A step whose predictions are (nearly) one value has no score: F1 and accuracy may rate it above one that learns.
    # As the first evaluation it is the best so far, and any score is better: early steps often are so.
    collapsed = bool(metrics.get("collapsed"))
    score = None if collapsed else metrics.get(run.metric)
    improved = better(score, host.best_score, run.lower) or (collapsed and host.best_step is None)
    stale = 0 if improved else host.stale + 1
    finished = host.finished or bool(run.patience and stale >= run.patience)
    # As PyTorch's ReduceLROnPlateau(patience=plateau_patience - 1, threshold=0): its count, which starts anew at each
    # reduction, reaches the patience whenever `stale` is a multiple of it.
    plateau = bool(run.plateau_patience and stale and stale % run.plateau_patience == 0)
    factor = host.rate_factor * (run.plateau_factor if plateau else 1.0)
    host = dataclasses.replace(
        host, evaluated=step, metrics=metrics, stale=stale, finished=finished, rate_factor=factor
    )
    if improved or host.best_step is None:
        host = dataclasses.replace(host, best_step=step, best_score=score, best_metrics=metrics)
    return host, EvaluationRow(
        step=step, metrics=metrics, best=improved, train_seconds=host.train_seconds, rate_factor=factor
    )
