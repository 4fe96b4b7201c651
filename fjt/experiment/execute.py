"""A run: one work directory from nothing, or from the step at which it was stopped, to DONE."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core import console, tree
from fjt.experiment import outcome, recipes
from fjt.experiment.arguments import above, abstract_state, first_state
from fjt.experiment.distillation import taught
from fjt.experiment.prepared import Experiment, Stage
from fjt.experiment.programs import Compiled
from fjt.experiment.recorder import FileRecorder, Unrecorded
from fjt.experiment.solo import SoloRun, frozen_of
from fjt.experiment.workdir import claim
from fjt.tasks.kinds import lower_is_better
from fjt.training import placement, processes
from fjt.training.checkpoint import Checkpoints, HostState
from fjt.training.hyper import Hyper
from fjt.training.loop import Loop
from fjt.training.protocols import Course, Events, Recorder
from fjt.training.schedules import PLATEAU_FACTOR
from fjt.training.step import TrainState
from fjt.training.stop import Stop, Stopped


def run(
    experiment: Experiment,
    workdir: str,
    *,
    compiled: Compiled | None = None,
    view: console.View = console,
    events: Events | None = None,
) -> dict[str, Any]:
    """The result of a run, as in result.json.

    Args:
        experiment: the run.
        workdir: its work directory, which this process has locked.
        compiled: programs of earlier runs, see `compile_programs`.
        view: where its progress is shown.
        events: called at named moments.

    Raises:
        UserError: the work directory belongs to another experiment, or something cannot be read or written.
        Stopped: a signal came; the state is saved, or the run has ended.
        NotFinite: numbers of the run are not finite; result.json says so.
    """
    processes.decide(lambda: claim(experiment, workdir))
    experiment = taught(experiment, workdir)
    execution = experiment.settings.execution
    saved = os.path.join(workdir, "checkpoints")
    with Stop() as stop:
        with Checkpoints(saved, execution.checkpoint.keep, view.warn) as checkpoints:
            session = _Session(
                experiment=experiment,
                workdir=workdir,
                hyper=placement.put_whole(experiment.hyper, experiment.mesh),
                checkpoints=checkpoints,
                stop=stop,
                compiled={} if compiled is None else compiled,
                view=view,
                events=events or Events(),
            )
            position = session.begin()
            for number in range(len(experiment.stages)):
                session = session.at(position)
                if session.is_over(number, position):
                    continue
                stepper, position = session.compile(number, position)
                position = session.fit(stepper, position)
                stepper.check_frozen()
                position = session.leave(position)
                if position.host.finished:
                    break
            checkpoints.wait()
            result = session.finish(stepper, position)
        outcome.end(workdir, result, keep_checkpoints=execution.output.checkpoints)
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Position:
    """How far a run is: number of steps taken, its TrainState on the devices, its host state."""

    step: int
    state: TrainState
    host: HostState

    def spent(self, **seconds: float) -> "_Position":
        """The position with seconds added to fields of the host state."""
        totals = {name: getattr(self.host, name) + value for name, value in seconds.items()}
        return dataclasses.replace(self, host=dataclasses.replace(self.host, **totals))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
    """A run in this process.  See `run` for the attributes; hyper: Hyper on the devices."""

    experiment: Experiment
    workdir: str
    hyper: Hyper
    checkpoints: Checkpoints
    stop: Stop
    compiled: Compiled
    view: console.View
    events: Events

    def begin(self) -> _Position:
        """Step 0, or the newest checkpoint."""
        restored = self.checkpoints.restore(self._abstract_state)
        if restored:
            step, state, (host,) = restored
            self.view.say(f"resuming after step {step} of {self.experiment.steps}")
        else:
            step, host = 0, HostState()
            state = first_state(self.experiment, self.experiment.stages[0], self.hyper)
        return self.leave(_Position(step=step, state=self.experiment.sharding.put(state), host=host))

    def at(self, position: _Position) -> "_Session":
        """The session at a position: its stages begin where those before them have ended."""
        return dataclasses.replace(self, experiment=self.experiment.ending(position.host.stage_ends))

    def leave(self, position: _Position) -> _Position:
        """The position from which the next stage starts, if the present one has ended under `tune.stage_patience`.

        That is the best step so far, whose weights are put in place of the last ones.  Nothing is saved: a run that
        ends before its next checkpoint resumes at the same step, and does this again.
        """
        host, stages = position.host, self.experiment.stages
        number = len(host.stage_ends)
        if self.experiment.settings.experiment.tune.stage_patience is None or number == len(stages) - 1:
            return position
        if not host.finished and position.step < stages[number].last:
            return position
        state = position.state
        if host.best_step != position.step:
            self.checkpoints.wait()
            restored = self.checkpoints.restore(self._abstract_state, host.best_step)
            assert restored is not None
            state = dataclasses.replace(restored[1], step=state.step)  # the number by which dropout is drawn
            self.view.say(f"stage {number} has ended at step {position.step}; its best step so far is {restored[0]}")
        host = dataclasses.replace(host, finished=False, stale=0, stage_ends=[*host.stage_ends, position.step])
        return dataclasses.replace(position, state=state, host=host)

    def is_over(self, number: int, position: _Position) -> bool:
        """Whether a stage has nothing left to do.  The stage in which the run ended has: it evaluates the result."""
        stage = self.experiment.stages[number]
        if number < len(position.host.stage_ends):
            return True
        if position.step < stage.last or number == len(self.experiment.stages) - 1:
            return False
        return not (position.host.finished and position.step == stage.last)  # by patience, at a boundary

    def compile(self, number: int, position: _Position) -> tuple[SoloRun, _Position]:
        """(the stepper of a stage, the position in that stage)."""
        experiment, stage = self.experiment, self.experiment.stages[number]
        self.events.stage_begins(number)
        stepper = SoloRun(experiment, stage, self.hyper, stop=self.stop, compiled=self.compiled, view=self.view)
        self.checkpoints.wait()  # at a boundary between stages
        splits = ["train", "dev"] if position.step < stage.last else ["dev"]
        with self.stop.at_once():
            stepper.features.compile(splits)
        position = self._prepare(stepper, splits, position)
        state = experiment.sharding.put(_open_stage(experiment, stage, position.state, self.hyper))
        if number:
            self.view.say(f"stage {number}, from step {stage.first}: {tree.count(state.trainable):,} parameters train")
        with self.stop.at_once():
            seconds = stepper.compile(state, self.compiled, self.view)
        return stepper, dataclasses.replace(position, state=state).spent(compile_seconds=seconds)

    def fit(self, stepper: SoloRun, position: _Position) -> _Position:
        """The position at the end of a stage."""
        output, last = self.experiment.settings.execution.output, stepper.stage.last
        with self._record(position) as recorder:
            loop = Loop(
                runs=[course(self.experiment, last, recorder)],
                hosts=[position.host],
                stepper=stepper,
                step=position.step,
                saves=steps_to_save(self.experiment, self.experiment.steps) | {last},  # then the next stage compiles
                checkpoints=self.checkpoints,
                stop=self.stop,
                events=self.events,
                keep_last=output.checkpoints or last < self.experiment.steps,
            )
            loop.fit()
        self.events.stage_ends(stepper)
        return _Position(step=loop.step, state=stepper.state, host=loop.hosts[0])

    def _record(self, position: _Position) -> FileRecorder | Unrecorded:
        """The Recorder of the run from a position on."""
        made: list[FileRecorder] = []

        def begin() -> None:
            recorder = FileRecorder(
                self.experiment, self.workdir, step=position.step, host=position.host, view=self.view
            )
            made.append(recorder)

        processes.decide(begin)
        return made[0] if made else Unrecorded()

    def finish(self, stepper: SoloRun, position: _Position) -> dict[str, Any]:
        """The result, after the selected step is evaluated on every split and its files are written."""
        experiment, options = self.experiment, self.experiment.settings.experiment
        selected, trainable, best = position.step, position.state.result, position.host.best_step
        if options.train.select != "last" and best != selected:
            restored = self.checkpoints.restore(self._abstract_state, best)
            assert restored is not None
            selected, trainable = restored[0], restored[1].result
        splits = recipes.evaluated_splits(options, experiment.splits)
        position = self._prepare(stepper, splits, position)
        frozen = frozen_of(experiment, trainable)
        params = above(stepper.stage, tree.merge(trainable, experiment.sharding.put(frozen)))
        with self._saving(position):
            logits = {split: stepper.logits(params, split) for split in splits}

        def evaluate(exported: tree.Tree) -> Float[np.ndarray, "M C"]:
            placed = experiment.sharding.put(above(stepper.stage, exported))
            return stepper.logits(placed, "dev", chunks=1)

        return outcome.finish(
            experiment,
            self.workdir,
            host=position.host,
            done=position.step,
            selected=selected,
            trainable=trainable,
            frozen=frozen,
            logits=logits,
            events=self.events,
            evaluate=evaluate,
        )

    def _prepare(self, stepper: SoloRun, splits: Sequence[str], position: _Position) -> _Position:
        """The position after the cached features of splits, if the stage reads any, are there."""
        with self._saving(position):
            return position.spent(hidden_seconds=stepper.features.prepare(splits))

    @contextlib.contextmanager
    def _saving(self, position: _Position) -> Iterator[None]:
        """A context that saves a position before Stopped leaves it: a run that keeps no checkpoints has none yet."""
        try:
            yield
        except Stopped:
            if position.step not in self.checkpoints.steps():
                self.checkpoints.save(position.step, position.state, [position.host])
                self.checkpoints.wait()
            raise

    def _abstract_state(self, step: int, hosts: Sequence[HostState]) -> TrainState:
        return abstract_state(self.experiment, step, hosts[0].stage_ends)


def course(experiment: Experiment, last: int, recorder: Recorder | None) -> Course:
    """The Course of a run until step `last`.  See `Course` for the recorder."""
    options = experiment.settings.experiment
    optim = options.optim
    return Course(
        last=last,
        evaluations=frozenset(experiment.evaluations),
        metric=experiment.choice,
        lower=lower_is_better(experiment.choice),
        patience=options.tune.stage_patience or options.train.patience,
        plateau_patience=optim.plateau_patience or 0,
        plateau_factor=PLATEAU_FACTOR if optim.plateau_factor is None else optim.plateau_factor,
        recorder=recorder,
    )


def steps_to_save(experiment: Experiment, steps: int) -> frozenset[int]:
    """The steps before step `steps` after which config.checkpoint.every_steps asks for a checkpoint."""
    every = experiment.settings.execution.checkpoint.every_steps
    return frozenset(range(every, steps, every) if every else ())


def _open_stage(experiment: Experiment, stage: Stage, state: TrainState, hyper: Hyper) -> TrainState:
    """The TrainState of a stage after that of the stage before: moments are kept, newly opened leaves start theirs."""
    if set(tree.flatten(state.trainable)) == stage.trainable:
        return state
    params = tree.merge(state.trainable, frozen_of(experiment, state.trainable))
    opened = first_state(experiment, stage, hyper, params)
    return dataclasses.replace(opened, step=state.step, opt_state=opened.opt_state | state.opt_state)
