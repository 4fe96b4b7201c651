"""Runs as the lanes of one program on the devices: what their loop steps, evaluates and saves."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fjt.core import console, tree
from fjt.experiment import features, outcome
from fjt.experiment.arguments import above, abstract_lanes, build_batch, first_state, pack_evaluated
from fjt.experiment.prepared import Experiment
from fjt.experiment.programs import Compiled, Programs, compile_lanes
from fjt.training import evaluate, placement
from fjt.training import lanes as lane_trees
from fjt.training.checkpoint import HostState, NotFinite
from fjt.training.lanes import Lanes
from fjt.training.protocols import Count
from fjt.training.step import TrainState
from fjt.training.stop import Stop


class LaneRuns:
    """Runs on the devices as the lanes of one program: the `Stepper` of their loop.

    Attributes:
        steps: number of steps of the longest run.
        programs: the compiled programs.
        features: the cached features that the runs read.
        frozen: the frozen parameters of each run, on the host.
        shared: those that all runs share, on the devices.
        lanes: what differs between the runs, on the devices.
        best: [J, ...] the trainable parameters at the best step of each run; {} where no run selects its best step.
    """

    lanes: Lanes
    shared: tree.Tree
    best: tree.Tree

    def __init__(
        self, experiments: Sequence[Experiment], *, stop: Stop, compiled: Compiled, view: console.View
    ) -> None:
        self._experiments, self._stop = experiments, stop
        first, (self._stage,) = experiments[0], experiments[0].stages
        self._first, self._mesh, self._size = first, first.sharding.mesh, len(experiments)
        self._one_batch = len({experiment.schedule for experiment in experiments}) == 1
        self.steps = max(experiment.steps for experiment in experiments)
        self._each_step = {
            name: np.stack([np.pad(e.each_step[name], (0, self.steps - e.steps)) for e in experiments], axis=1)
            for name in first.each_step
        }
        self._selects = any(e.settings.experiment.train.select != "last" for e in experiments)
        self._packed = pack_evaluated(first, self._stage)
        self.features = features.States(first, self._stage, check=stop.check, compiled=compiled, view=view)
        eval_shape = self._packed["dev"].shape
        self.programs: Programs = compile_lanes(
            first, self._stage, self._size, self._one_batch, eval_shape, compiled, view
        )
        self.frozen = [tree.split(experiment.params, self._stage.trainable)[1] for experiment in experiments]

    # Start.

    def first(self) -> dict[str, Any]:
        """What a checkpoint of step 0 would hold."""
        states = [placement.fetch(first_state(e, self._stage, e.hyper)) for e in self._experiments]
        state = lane_trees.stack(states)
        return {"state": state, "best": state.trainable if self._selects else {}}

    def abstract(self, step: int, hosts: Sequence[HostState]) -> dict[str, Any]:
        """The shapes of what a checkpoint holds, the same after every step."""
        del step, hosts
        state = abstract_lanes(self._first, self._stage, self._size)[0].state
        return {"state": state, "best": state.trainable if self._selects else {}}

    def place(self, saved: dict[str, Any]) -> None:
        """Puts the runs on the devices.

        Args:
            saved: what a checkpoint holds.
        """
        shared, own = lane_trees.split_frozen([above(self._stage, one) for one in self.frozen])
        own = lane_trees.stack(own)
        self._frozen_sha256 = tree.sha256({"shared": shared, "own": own})
        hyper = lane_trees.stack([experiment.hyper for experiment in self._experiments])
        active: Any = np.zeros(self._size, bool)
        made = Lanes(state=saved["state"], frozen=own, hyper=hyper, active=active)
        self.lanes, self.best, self.shared = placement.put_whole((made, saved["best"], shared), self._mesh)

    # The Stepper.

    def activate(self, moving: Sequence[int], rate_factors: Sequence[float]) -> None:
        self._rate_factors = np.asarray(rate_factors, np.float32)
        active = placement.put_whole(np.isin(np.arange(self._size), moving), self._mesh)
        self.lanes = dataclasses.replace(self.lanes, active=active)

    def advance(self, step: int, moving: Sequence[int]) -> tuple[dict[str, Any], list[Count]]:
        batch, counts = self._feed(step, moving)
        values = {name: each[step] for name, each in self._each_step.items()}
        values["learning_rate"] = values["learning_rate"] * self._rate_factors
        hyper = dataclasses.replace(self.lanes.hyper, **values)
        given = dataclasses.replace(self.lanes, hyper=hyper)
        self.lanes, measured = self.programs.train[0](given, self.shared, batch)
        return measured | {"learning_rate": values["learning_rate"]}, counts

    def _feed(self, step: int, moving: Sequence[int]) -> tuple[dict[str, Any], list[Count]]:
        """(the arrays of a step on the devices, the Count of each moving run)."""
        (shape,), operations = self._stage.shapes, self.programs.flops[0]
        read = moving[:1] if self._one_batch else moving
        made = {i: build_batch(self._experiments[i], shape, self.features, step) for i in read}
        first, *_ = made.values()
        counts = [Count(examples, tokens, operations) for _, examples, tokens in (made.get(i, first) for i in moving)]
        if self._one_batch:
            return placement.put_batch(first[0], self._mesh), counts
        arrays = lane_trees.stack([made.get(i, first)[0] for i in range(self._size)])
        return placement.put_lanes(arrays, self._mesh), counts

    def evaluate(self, runs: Sequence[int]) -> list[dict[str, float] | NotFinite]:
        logits = self.logits("dev", self._with(self.lanes.state.result))
        return [outcome.score_dev(self._experiments[i], logits[:, i]) for i in runs]

    def logits(self, split: str, moved: Lanes) -> Float[np.ndarray, "M J C"]:
        """The logits of a split.  Raises Stopped.

        Args:
            split: its name.
            moved: the lanes whose parameters are evaluated.
        """

        def function(all_lanes: Lanes, batch: evaluate.Batch) -> jax.Array:
            return self.programs.eval(all_lanes, self.shared, batch)

        def put(batch: evaluate.Batch) -> evaluate.Batch:
            return placement.put_batch(batch, self._mesh)

        packed = evaluate.with_hidden(self._packed[split], self.features[split])
        return evaluate.evaluate(function, moved, packed, put, before=self._stop.check)

    def keep_best(self, improved: Sequence[int]) -> None:
        if self._selects:
            chosen = jnp.asarray(np.isin(np.arange(self._size), improved))
            self.best = _choose(chosen, self.lanes.state.result, self.best)

    def drop(self, run: int, error: NotFinite) -> None:
        del error  # the other lanes go on
        self.lanes = lane_trees.drop(self.lanes, run)
        self.best = jax.tree.map(lambda leaf: leaf.at[run].set(0), self.best)

    def saved(self) -> dict[str, Any]:
        return placement.fetch({"state": self.lanes.state, "best": self.best})

    def state_of(self, run: int) -> TrainState:
        return lane_trees.take(self.lanes.state, run)

    # End.

    def select(self, selects: Sequence[bool]) -> Lanes:
        """The lanes with the parameters of the best step where `selects`, bool[J], and else of the last step."""
        result = self.lanes.state.result
        return self._with(_choose(jnp.asarray(selects), self.best, result) if self._selects else result)

    def _with(self, trainable: tree.Tree) -> Lanes:
        return dataclasses.replace(self.lanes, state=dataclasses.replace(self.lanes.state, trainable=trainable))

    def check_frozen(self) -> None:
        """Raises RuntimeError if a frozen parameter has changed since the bundle began."""
        if tree.sha256(placement.fetch({"shared": self.shared, "own": self.lanes.frozen})) != self._frozen_sha256:
            raise RuntimeError("a frozen parameter has changed")


@jax.jit
def _choose(chosen: Bool[Array, " J"], yes: tree.Tree, no: tree.Tree) -> tree.Tree:
    """The tree whose lanes are from `yes` where `chosen`, else from `no`."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)
