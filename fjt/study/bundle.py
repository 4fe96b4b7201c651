"""A bundle of runs as the lanes of one program: trained by one loop, saved together, each with records of its own."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fjt.core import console
from fjt.core.errors import UserError
from fjt.experiment import outcome, recipes, run_records
from fjt.experiment.distillation import taught
from fjt.experiment.execute import course, steps_to_save
from fjt.experiment.prepared import Experiment
from fjt.experiment.programs import Compiled, built_in
from fjt.experiment.recorder import FileRecorder
from fjt.experiment.workdir import claim
from fjt.study import spec
from fjt.study.lane_runs import LaneRuns
from fjt.training import checkpoint, lanes, placement
from fjt.training.checkpoint import Checkpoints, HostState, NotFinite
from fjt.training.loop import Loop
from fjt.training.protocols import Events
from fjt.training.stop import Stop, Stopped


def run_bundle(
    experiments: Sequence[Experiment],
    workdirs: Sequence[str],
    folder: str,
    already_done: Sequence[bool],
    *,
    compiled: Compiled | None = None,
    view: console.View = console,
    events: Events | None = None,
) -> list[dict[str, Any] | None]:
    """The result of each run of a bundle whose runs share their programs; None for runs that had ended before.

    A run whose numbers stop being finite ends alone.

    Args:
        experiments: the runs.
        workdirs: their work directories, which this process has locked.
        folder: of the bundle, for its checkpoints.
        already_done: bool[J].  A run that has ended keeps its lane, so that the compiled program is unchanged; its
            files are not written again.
        compiled: programs of earlier runs, see `compile_programs`.
        view: where the progress of the bundle is shown.
        events: called at named moments.

    Raises:
        UserError: runs that cannot share a program, or files that cannot be read or written.
        Stopped: a signal came; the state of all runs is saved, or they have ended.
    """
    check_static(experiments, workdirs)
    for experiment, workdir, done in zip(experiments, workdirs, already_done, strict=True):
        if not done:
            claim(experiment, workdir)
    experiments = [
        experiment if done else taught(experiment, workdir)
        for experiment, workdir, done in zip(experiments, workdirs, already_done, strict=True)
    ]
    saved = os.path.join(folder, "checkpoints")
    with Stop() as stop:
        with Checkpoints(saved, 1, view.warn) as checkpoints, contextlib.ExitStack() as stack:
            bundle = _Bundle(
                experiments=experiments,
                workdirs=workdirs,
                already_done=already_done,
                checkpoints=checkpoints,
                stop=stop,
                compiled={} if compiled is None else compiled,
                view=view,
                events=events or Events(),
            )
            stepper, loop = bundle.begin(stack)
            bundle.train(loop)
            results = bundle.finish(stepper, loop)
        checkpoint.remove(saved)
    return results


def check_static(experiments: Sequence[Experiment], workdirs: Sequence[str]) -> None:
    """Checks that one program can train the runs as lanes: all options that it is compiled for are equal.

    Args:
        experiments: the prepared runs; the program is compiled for the first one.
        workdirs: their work directories, for the message.

    Raises:
        UserError: for a run that differs, with the options in which it does.
    """
    first, *others = [_static(experiment) for experiment in experiments]
    for i, static in enumerate(others, 1):
        differ = [name for name in first if static[name] != first[name]]
        if differ:
            one, other = (spec.static_options(experiments[j].settings.experiment) for j in (0, i))
            options = [
                f"config.{key}: {one.get(key)!r} there, {other.get(key)!r} here"
                for key in dict.fromkeys([*one, *other])
                if one.get(key) != other.get(key)
            ]
            raise UserError(
                f"{workdirs[i]} cannot share a program with {workdirs[0]}: another {', another '.join(differ)}. Lanes "
                f"differ in traced options only; these runs go into bundles of their own.\n  " + "\n  ".join(options)
            )


def _static(experiment):
    """{name: value} of everything that the lanes' program is compiled for."""
    stage = experiment.stages[0]
    leaves, structure = jax.tree.flatten(experiment.hyper)
    return built_in(experiment, stage) | {
        "set of trainable parameters": stage.trainable,
        "structure of hyper-parameters": (structure, [np.shape(leaf) for leaf in leaves]),
        "shape of batches": stage.shapes,
        "mesh (config.mesh.data)": experiment.mesh,
        "data, model or tokenizer": experiment.contents,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bundle:
    """A bundle of runs in this process.  See `run_bundle` for the attributes."""

    experiments: Sequence[Experiment]
    workdirs: Sequence[str]
    already_done: Sequence[bool]
    checkpoints: Checkpoints
    stop: Stop
    compiled: Compiled
    view: console.View
    events: Events

    def begin(self, stack: contextlib.ExitStack) -> tuple[LaneRuns, Loop]:
        """(the lanes on the devices, their loop), at step 0 or at the bundle's checkpoint.

        Args:
            stack: closes the files of the runs when the bundle ends.
        """
        self.events.stage_begins(0)
        with self.stop.at_once():
            stepper = LaneRuns(self.experiments, stop=self.stop, compiled=self.compiled, view=self.view)
        step, saved, hosts = 0, stepper.first(), [HostState() for _ in self.experiments]
        restored = self.checkpoints.restore(stepper.abstract)
        if restored:
            step, saved, hosts = restored
            self.view.say(f"resuming after step {step} of {stepper.steps}")
        stepper.place(saved)
        recorders = [
            None
            if done or host.failed
            else stack.enter_context(FileRecorder(experiment, workdir, step=step, host=host, view=console.Silent()))
            for experiment, workdir, host, done in zip(
                self.experiments, self.workdirs, hosts, self.already_done, strict=True
            )
        ]
        loop = Loop(
            runs=[
                course(experiment, experiment.steps, recorder)
                for experiment, recorder in zip(self.experiments, recorders, strict=True)
            ],
            hosts=hosts,
            stepper=stepper,
            step=step,
            saves=steps_to_save(self.experiments[0], stepper.steps),
            checkpoints=self.checkpoints,
            stop=self.stop,
            events=self.events,
        )
        loop.charge("compile_seconds", stepper.programs.seconds)
        splits = ["train", "dev"] if step < stepper.steps else ["dev"]
        with self.stop.at_once():
            stepper.features.compile(splits)
        self._prepare(stepper, loop, splits)
        return stepper, loop

    def train(self, loop: Loop) -> None:
        """Takes the runs to their ends."""
        size = len(self.experiments)
        steps = max(run.last for run in loop.runs)
        with self.view.bar(f"training {size} lanes", steps, loop.step) as bar:

            def show(step: int, losses: Sequence[float]) -> None:
                bar.update(step, f"loss {np.mean(losses):.4f}" if losses else "")

            loop.show = show
            loop.fit()
            self.checkpoints.wait()
        self.events.stage_ends(loop.stepper)

    def finish(self, stepper: LaneRuns, loop: Loop) -> list[dict[str, Any] | None]:
        """The result of each run, after its selected step is evaluated on every split and its files are written."""
        first = self.experiments[0]
        splits = recipes.evaluated_splits(first.settings.experiment, first.splits)
        self._prepare(stepper, loop, splits)
        selects = [experiment.settings.experiment.train.select != "last" for experiment in self.experiments]
        selected = stepper.select(selects)
        logits = {split: stepper.logits(split, selected) for split in splits}
        stepper.check_frozen()
        trainable, done = placement.fetch((selected.state.trainable, selected.state.step))
        results: list[dict[str, Any] | None] = [None] * len(self.experiments)
        for i, (experiment, workdir) in enumerate(zip(self.experiments, self.workdirs, strict=True)):
            host = loop.hosts[i]
            if self.already_done[i]:
                continue
            if host.failed:
                results[i] = run_records.read_result(workdir)
                continue
            recorder = loop.runs[i].recorder
            assert recorder is not None
            recorder.close()
            try:
                result = outcome.finish(
                    experiment,
                    workdir,
                    host=host,
                    done=int(done[i]),
                    selected=host.best_step if selects[i] and host.best_step is not None else int(done[i]),
                    trainable=lanes.take(trainable, i),
                    frozen=stepper.frozen[i],
                    logits={split: values[:, i] for split, values in logits.items()},
                    events=self.events,
                )
            except NotFinite:
                results[i] = run_records.read_result(workdir)
                continue
            results[i] = result = result | {"lanes": len(self.experiments)}
            outcome.end(workdir, result)
        return results

    def _prepare(self, stepper: LaneRuns, loop: Loop, splits: Sequence[str]) -> None:
        """Computes the cached features of splits that are not there yet, if the runs read any."""
        try:
            seconds = stepper.features.prepare(splits)
        except Stopped:
            loop.save_and_wait()
            raise
        loop.charge("hidden_seconds", seconds)
