"""A run alone on the devices: what its loop steps, evaluates and saves."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fjt.core import console, tree
from fjt.experiment import features, outcome
from fjt.experiment.arguments import above, build_batch, pack_evaluated
from fjt.experiment.prepared import Experiment, Stage
from fjt.experiment.programs import Compiled, Programs, compile_programs
from fjt.training import evaluate, placement, processes
from fjt.training.checkpoint import NotFinite
from fjt.training.hyper import Hyper
from fjt.training.protocols import Count
from fjt.training.step import TrainState
from fjt.training.stop import Stop


class SoloRun:
    """A run alone on the devices during one stage: the `Stepper` of its loop.

    Attributes:
        stage: the stage.
        features: the cached features that it reads.
        state: its TrainState.
        frozen: the other parameters that it computes with.
    """

    state: TrainState
    frozen: tree.Tree
    _programs: Programs
    _frozen_sha256: str

    def __init__(
        self,
        experiment: Experiment,
        stage: Stage,
        hyper: Hyper,
        *,
        stop: Stop,
        compiled: Compiled,
        view: console.View,
    ) -> None:
        self.stage, self._experiment, self._hyper, self._stop = stage, experiment, hyper, stop
        self._rate_factor = np.float32(1)
        self._packed = pack_evaluated(experiment, stage)
        self.features = features.States(experiment, stage, check=stop.check, compiled=compiled, view=view)

    def compile(self, state: TrainState, compiled: Compiled, view: console.View) -> float:
        """Seconds of compilation.  Afterwards the stage can start from `state`, a TrainState on the devices."""
        kept = above(self.stage, frozen_of(self._experiment, state.trainable))
        self._frozen_sha256 = tree.sha256(kept)
        self.state, self.frozen = state, self._experiment.sharding.put(kept)
        eval_shape = self._packed["dev"].shape
        self._programs = compile_programs(
            self._experiment, self.stage, state, self.frozen, self._hyper, eval_shape, compiled, view
        )
        return self._programs.seconds

    def advance(self, step: int, moving: Sequence[int]) -> tuple[dict[str, Any], list[Count]]:
        del moving
        shape = self._experiment.plan.shape_of[step]
        batch, examples, tokens = build_batch(self._experiment, self.stage.shapes[shape], self.features, step)
        values = {name: each[step] for name, each in self._experiment.each_step.items()}
        values["learning_rate"] *= self._rate_factor
        hyper = dataclasses.replace(self._hyper, **values)
        batch = placement.put_batch(batch, self._experiment.mesh)
        self.state, measured = self._programs.train[shape](self.state, self.frozen, batch, hyper)
        measured = measured | {"learning_rate": values["learning_rate"]}
        return measured, [Count(examples=examples, tokens=tokens, operations=self._programs.flops[shape])]

    def evaluate(self, runs: Sequence[int]) -> list[dict[str, float] | NotFinite]:
        del runs
        logits = self.logits(tree.merge(self.state.result, self.frozen), "dev")
        return [processes.decide(lambda: outcome.score_dev(self._experiment, logits))]

    def logits(self, params: tree.Tree, split: str, chunks: int | None = None) -> Float[np.ndarray, "M C"]:
        """The logits of a split, or of so many of its chunks and NaN for the others.  Raises Stopped.

        Args:
            params: on the devices.
            split: its name.
            chunks: the number of its first chunks; None for all.
        """

        def function(params: tree.Tree, batch: evaluate.Batch) -> jax.Array:
            return self._programs.eval(params, batch, self._hyper.methods)

        packed = evaluate.with_hidden(evaluate.first(self._packed[split], chunks), self.features[split])
        put = functools.partial(placement.put_batch, mesh=self._experiment.mesh)
        return evaluate.evaluate(function, params, packed, put, before=self._stop.check)

    def activate(self, moving: Sequence[int], rate_factors: Sequence[float]) -> None:
        del moving
        self._rate_factor = np.float32(rate_factors[0])

    def keep_best(self, improved: Sequence[int]) -> None:
        del improved  # its checkpoint is kept

    def drop(self, run: int, error: NotFinite) -> None:
        raise error

    def saved(self) -> TrainState:
        return self.state

    def state_of(self, run: int) -> TrainState:
        return self.state

    def check_frozen(self) -> None:
        """Raises RuntimeError if a frozen parameter has changed since the stage began."""
        if tree.sha256(placement.fetch(self.frozen)) != self._frozen_sha256:
            raise RuntimeError("a frozen parameter has changed")


def frozen_of(experiment: Experiment, trainable: tree.Tree) -> tree.Tree:
    """The parameters that are not among `trainable`, with their values from before training, as numpy arrays."""
    return tree.split(experiment.params, set(tree.flatten(trainable)))[1]
