"""A group of runs as the lanes of one program: fed, read, scored and saved together; each leaves records of its own."""

import contextlib
import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import console, records, tree
from fjt.core.errors import UserError
from fjt.experiment import features, outcome, recipes
from fjt.experiment.prepare import Experiment, row_grid
from fjt.experiment.programs import (
    above,
    abstract_lanes,
    build_batch,
    built_in,
    compile_lanes,
    first_state,
    pack_evaluated,
)
from fjt.experiment.workdir import claim
from fjt.study import spec
from fjt.tasks.kinds import lower_is_better
from fjt.training import evaluate, lanes, placement
from fjt.training.checkpoint import Checkpoints, NotFinite, check_finite
from fjt.training.loop import Stop, Stopped, check_step, first_host_state, judge


def run_group(experiments, workdirs, folder, over, *, compiled=None, view: console.View = console):
    """[result of each run, None of those that were over] of runs in locked work directories that share their programs.

    folder: of the group, for its checkpoints; over: bool of each run, whether it had ended before: it keeps its lane,
    for the program to be the same, and nothing of it is written; compiled, view: as of
    `fjt.experiment.execute.run`.
    Raises UserError and train.Stopped (the state of all is saved); a run whose numbers are not finite ends alone.
    """
    check_static(experiments, workdirs)
    for experiment, workdir, ended in zip(experiments, workdirs, over, strict=True):
        if not ended:
            claim(experiment, workdir)
    saved = os.path.join(folder, "checkpoints")
    with (
        Stop() as stop,
        Checkpoints(saved, 1, view.warn) as checkpoints,
        contextlib.ExitStack() as stack,
    ):
        compiled = {} if compiled is None else compiled
        group = _Group(experiments, workdirs, over, checkpoints, stop, compiled, view)
        group.begin(stack)
        group.train()
        results = group.finish()
    shutil.rmtree(saved, ignore_errors=True)
    return results


def check_static(experiments: Sequence[Experiment], workdirs: Sequence[str]) -> None:
    """Nothing for runs that one program can train as lanes, for everything it is compiled for is equal in all of them.

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
                f"differ in traced options only; these runs go into groups of their own.\n  " + "\n  ".join(options)
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


class _Group:
    """The lanes S of runs while they train.

    k: steps taken; lanes: Lanes; best: [S, ...] of what trains, at each lane's best step, {} where no run selects it;
    hosts: of each lane what the host carries (`train.first_host_state`) and `failed`, None or where its numbers ended.
    """

    def __init__(self, experiments, workdirs, over, checkpoints, stop, compiled, view):
        self.experiments, self.workdirs, self.over, self.view = experiments, workdirs, over, view
        self.checkpoints, self.stop = checkpoints, stop
        self.first, self.stage, self.size = experiments[0], experiments[0].stages[0], len(experiments)
        self.whole, (self.shape,) = (
            placement.replicated(self.first.mesh),
            self.stage.shapes,
        )  # one, for all lanes and steps
        self.one_batch = len({experiment.schedule for experiment in experiments}) == 1
        self.steps = max(experiment.steps for experiment in experiments)
        rates = [np.pad(experiment.rates, (0, self.steps - experiment.steps)) for experiment in experiments]
        self.rates = np.stack(rates, axis=1)
        self.keep_best = any(e.settings.experiment.train.select == "best" for e in experiments)
        every = self.first.settings.execution.checkpoint.every_steps
        self.saves = frozenset(range(every, self.steps, every) if every else ())
        self.packed = pack_evaluated(self.first, self.stage)
        self.states = features.States(self.first, self.stage, row_grid(), self._put, stop.check, compiled, view)
        self.programs = compile_lanes(
            self.first, self.stage, self.size, self.one_batch, self.packed["dev"].shape, compiled, view
        )

    def _put(self, batch):
        return jax.device_put(batch, placement.by_group(self.first.mesh))

    def begin(self, stack):
        """Starts from step 0 or from the group's checkpoint, and opens the logs of runs that are not over."""
        states = [jax.device_get(first_state(e, self.stage, e.hyper)) for e in self.experiments]
        frozen = [tree.split(experiment.params, self.stage.trainable)[1] for experiment in self.experiments]
        self.frozen, (shared, own) = frozen, lanes.split_frozen([above(self.stage, one) for one in frozen])
        self.frozen_sha256 = tree.sha256({"shared": shared, "own": (own := lanes.stack(own))})
        state = lanes.stack(states)
        hyper = lanes.stack([experiment.hyper for experiment in self.experiments])
        self.k, self.hosts = 0, [first_host_state() | {"failed": None} for _ in self.experiments]
        self.best = state.trainable if self.keep_best else {}
        restored = self.checkpoints.restore(lambda step: self._abstract())
        if restored:
            self.k, kept, host = restored
            state, self.best, self.hosts = kept["state"], kept["best"], host["lanes"]
            self.view.say(f"resuming after step {self.k} of {self.steps}")
        self.lanes = jax.device_put(lanes.Lanes(state, own, hyper, np.zeros(self.size, bool)), self.whole)
        self.best, self.shared = jax.device_put((self.best, shared), self.whole)
        self.logs, self.closing = {}, {}
        for i in self._open():
            self.closing[i] = stack.enter_context(contextlib.ExitStack())
            logs = outcome.logs(self.experiments[i], self.workdirs[i], self.k, self.hosts[i], console.Silent())
            self.logs[i] = self.closing[i].enter_context(logs)
            self._charge(i, "compile_seconds", self.programs.seconds)
        self._prepare(["train", "dev"] if self.k < self.steps else ["dev"])

    def _abstract(self):
        state = abstract_lanes(self.first, self.stage, self.size)[0].state
        return {"state": state, "best": state.trainable if self.keep_best else {}}

    def _open(self):
        """The lanes whose runs are to be recorded: neither over before nor failed."""
        return [i for i in range(self.size) if not self.over[i] and not self.hosts[i]["failed"]]

    def _moving(self):
        """The lanes that still train."""
        return [i for i in self._open() if self.k < self.experiments[i].steps and not self.hosts[i]["finished"]]

    def _charge(self, i, name, seconds):
        """Adds a lane's share of seconds that all of them took together."""
        self.hosts[i] = self.hosts[i] | {name: self.hosts[i][name] + seconds / max(1, len(self._open()))}

    def _prepare(self, splits):
        try:
            seconds = self.states.prepare(splits)
        except Stopped:
            self._save()
            self.checkpoints.wait()
            raise
        for i in self._open():
            self._charge(i, "hidden_seconds", seconds)

    def train(self):
        """Takes the lanes to the end of their runs, from wherever they stand."""
        with self.view.bar(f"training {self.size} lanes", self.steps, self.k) as self.bar:
            while True:
                due = [
                    i
                    for i in self._open()
                    if self.k in self.experiments[i].evaluations
                    and self.hosts[i]["evaluated"] < self.k
                    and not self.hosts[i]["finished"]
                ]
                if due:
                    self._evaluate(due)
                if due or self.k in self.saves:
                    self._save()
                moving = self._moving()
                self.lanes = dataclasses.replace(
                    self.lanes, active=jax.device_put(np.isin(np.arange(self.size), moving), self.whole)
                )
                if not moving:
                    break
                self._segment(moving, self._next_boundary(moving))
                if self.stop.number is not None:
                    self._save()
                    self.checkpoints.wait()
                    self.stop.check()
            self.checkpoints.wait()

    def _next_boundary(self, moving):
        ends = {k for i in moving for k in (*self.experiments[i].evaluations, self.experiments[i].steps)}
        return min(k for k in ends | self.saves if k > self.k)

    def _segment(self, moving, end):
        """Steps until `end` or until a signal; only this is on the training clock."""
        start, waiting = time.perf_counter(), None
        begun = {i: self.hosts[i]["train_seconds"] for i in moving}
        while self.k < end and self.stop.number is None:
            batch, counts = self._feed(moving)
            hyper = dataclasses.replace(self.lanes.hyper, learning_rate=self.rates[self.k])
            self.lanes, measured = self.programs.train[0](
                dataclasses.replace(self.lanes, hyper=hyper), self.shared, batch
            )
            for i, (examples, tokens) in zip(moving, counts, strict=True):
                host = self.hosts[i]
                self.hosts[i] = host | {
                    "examples": host["examples"] + examples,
                    "tokens": host["tokens"] + tokens,
                    "operations": host["operations"] + self.programs.flops[0],
                }
            if waiting:
                self._read(*waiting)
            self.k += 1
            waiting = self.k, measured, {i: self.hosts[i]["examples"] for i in moving}, begun, start
        if waiting:
            self._read(*waiting)
        share = (time.perf_counter() - start) / len(moving)
        for i in moving:
            self.hosts[i] = self.hosts[i] | {"train_seconds": begun[i] + share}

    def _feed(self, moving):
        """(the arrays of the next step on the devices, [(examples, real tokens)] of the lanes that move)."""
        build = functools.partial(build_batch, shape=self.shape, states=self.states, k=self.k)
        if self.one_batch:
            batch, *count = build(self.experiments[moving[0]])
            return self._put(batch), [count] * len(moving)
        made = {i: build(self.experiments[i]) for i in moving}
        arrays = [made.get(i, made[moving[0]])[0] for i in range(self.size)]
        placed = jax.device_put(lanes.stack(arrays), placement.lanes_by_group(self.first.mesh))
        return placed, [made[i][1:] for i in moving]

    def _read(self, step, measured, examples, begun, start):
        """Brings a step's metrics to the host; a lane whose numbers are not finite ends."""
        loss, norm = (np.asarray(measured[name], np.float64) for name in ("loss", "grad_norm"))
        seconds = (time.perf_counter() - start) / len(examples)
        open_ = [i for i in examples if not self.hosts[i]["failed"]]
        for i in open_:
            try:
                check_step(step, float(loss[i]), float(norm[i]))
            except NotFinite as error:
                self._fail(i, error)
                continue
            self.logs[i][0](
                {
                    "step": step,
                    "loss": float(loss[i]),
                    "grad_norm": float(norm[i]),
                    "examples": examples[i],
                    "seconds": begun[i] + seconds,
                }
            )
        self.bar.update(step, f"loss {np.mean(loss[open_]):.4f}" if open_ else "")

    def _fail(self, i, error):
        self.hosts[i] = self.hosts[i] | {"failed": str(error)}
        self.lanes = lanes.drop(self.lanes, i)
        self.best = jax.tree.map(lambda leaf: leaf.at[i].set(0), self.best)
        self.closing[i].__exit__(NotFinite, error, None)  # as a run alone leaves its logs
        outcome.fail(self.experiments[i], self.workdirs[i], error)

    def _logits(self, split, moved):
        """f32[N, S, C] of a split.  moved: Lanes."""
        return evaluate.evaluate(
            lambda all_lanes, batch: self.programs.eval(all_lanes, self.shared, batch),
            moved,
            evaluate.with_hidden(self.packed[split], self.states[split]),
            self._put,
            before=self.stop.check,
        )

    def _evaluate(self, due):
        """Scores lanes on dev, and keeps what trains of those that are better than before."""
        try:
            logits = self._logits("dev", self.lanes)
        except Stopped:
            self._save()
            self.checkpoints.wait()
            raise
        improved = np.zeros(self.size, bool)
        for i in due:
            experiment = self.experiments[i]
            metric = experiment.task.metrics[0]
            self.hosts[i], row = judge(
                self.k,
                outcome.score_dev(experiment, logits[:, i]),
                self.hosts[i],
                metric=metric,
                lower=lower_is_better(metric),
                patience=experiment.settings.experiment.train.patience,
            )
            self.logs[i][1](row)
            improved[i] = self.hosts[i]["best_step"] == self.k
        if self.keep_best:
            self.best = _choose(jnp.asarray(improved), self.lanes.state.trainable, self.best)

    def _save(self):
        """Saves the state of all lanes; those that are not finite end first."""
        if self.k in self.checkpoints.steps():
            return
        state, failed = jax.device_get(self.lanes.state), False
        for i in self._open():
            try:
                check_finite(self.k, lanes.take(state, i))
            except NotFinite as error:
                self._fail(i, error)
                failed = True
        state = jax.device_get(self.lanes.state) if failed else state
        host = {"lanes": self.hosts, "best_step": None}
        self.checkpoints.save(self.k, {"state": state, "best": jax.device_get(self.best)}, host)

    def finish(self):
        """[result or None]: every lane at its selected step, evaluated and written."""
        splits = recipes.evaluated_splits(self.first.settings.experiment, self.first.splits)
        self._prepare(splits)
        selects = [e.settings.experiment.train.select == "best" for e in self.experiments]
        trainable = self.lanes.state.trainable
        if self.keep_best:
            trainable = _choose(jnp.asarray(selects), self.best, trainable)
        moved = dataclasses.replace(self.lanes, state=dataclasses.replace(self.lanes.state, trainable=trainable))
        logits = {split: self._logits(split, moved) for split in splits}
        if tree.sha256(jax.device_get({"shared": self.shared, "own": moved.frozen})) != self.frozen_sha256:
            raise RuntimeError("a frozen parameter has changed")
        trainable, done, results = jax.device_get(trainable), jax.device_get(self.lanes.state.step), [None] * self.size
        for i in range(self.size):
            if self.over[i]:
                continue
            if self.hosts[i]["failed"]:
                results[i] = records.read_json(os.path.join(self.workdirs[i], "result.json"))
                continue
            selected = self.hosts[i]["best_step"] if selects[i] else int(done[i])
            results[i] = outcome.finish(
                self.experiments[i],
                self.workdirs[i],
                self.hosts[i],
                selected,
                lanes.take(trainable, i),
                self.frozen[i],
                lambda split, i=i: logits[split][:, i],
                int(done[i]),
            ) | {"lanes": self.size}
            self.closing[i].close()
            records.write_json(os.path.join(self.workdirs[i], "result.json"), results[i])
            records.replace(os.path.join(self.workdirs[i], "DONE"), "")
        return results


@jax.jit
def _choose(chosen, yes, no):
    """The tree that takes lanes from `yes` where chosen bool[S], else from `no`."""

    def pick(a, b):
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)
