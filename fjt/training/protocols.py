"""What the loop works with: runs as it sees them, their arrays, their files, and the moments that it announces."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fjt.training.checkpoint import NotFinite


class Count(NamedTuple):
    """What a run was trained on: number of examples, of their tokens and of floating-point operations."""

    examples: int
    tokens: int
    operations: float


class StepRow(NamedTuple):
    """One step in train.jsonl.

    step: number of steps taken.  grad_norm: over the trainable parameters, before clipping.  examples: number of
    examples since step 0.  seconds: time of training since step 0.  learning_rate: the one that the step was given.
    """

    step: int
    loss: float
    grad_norm: float
    examples: int
    seconds: float
    learning_rate: float


class EvaluationRow(NamedTuple):
    """One evaluation; eval.jsonl has all but the factor, since train.jsonl has the rates.

    best: whether it is better than all evaluations before.  train_seconds: time of training since step 0.
    rate_factor: by which the planned learning rates of the steps after it are multiplied.
    """

    step: int
    metrics: dict[str, float]
    best: bool
    train_seconds: float
    rate_factor: float


@runtime_checkable
class Stepper(Protocol):
    """J runs on the devices, with the programs that train and evaluate them.  A run is named by its index."""

    def activate(self, moving: Sequence[int], rate_factors: Sequence[float]) -> None:
        """Only the runs `moving` change in the steps that follow, at the planned learning rates times these factors.

        Args:
            moving: the runs that are still trained.
            rate_factors: the factor of each of the J runs.
        """
        ...

    def advance(self, step: int, moving: Sequence[int]) -> tuple[dict[str, Any], list[Count]]:
        """Starts a step.

        Args:
            step: number of steps taken before it.
            moving: the runs that are still trained.

        Returns:
            {"loss", "grad_norm", "learning_rate"}: f32[J], or f32[] of a run alone, the first two on the devices; and
            the Count of each moving run.
        """
        ...

    def evaluate(self, runs: Sequence[int]) -> list[dict[str, float] | NotFinite]:
        """For each of these runs {metric: value} on dev, or why it has none.  Raises Stopped."""
        ...

    def keep_best(self, improved: Sequence[int]) -> None:
        """Keeps the parameters of runs that have just had their best evaluation, unless checkpoints keep them."""
        ...

    def drop(self, run: int, error: NotFinite) -> None:
        """Takes out a run whose numbers are not finite.  Raises the error if no other run could go on without it."""
        ...

    def saved(self) -> Any:
        """The tree of arrays that a checkpoint holds."""
        ...

    def state_of(self, run: int) -> Any:
        """The TrainState of one run."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """The files of one run."""

    def log_step(self, row: StepRow) -> None: ...

    def log_evaluation(self, row: EvaluationRow) -> None: ...

    def sync(self) -> None:
        """Brings what was logged to the disk, before a checkpoint that needs it is saved."""
        ...

    def fail(self, error: NotFinite) -> None:
        """Records that the run has ended because its numbers are not finite."""
        ...

    def close(self) -> None:
        """Completes the files."""
        ...


class Events:
    """Called at named moments of a run, in the process that trains it.  This class does nothing at any of them.

    A subclass can watch a run, or stop, kill or damage it at a known moment, as the tests of resuming do.  `main` of
    `fjt.main` and `fjt.sweep` take one as their second argument and hand it down to the loop.
    """

    def stage_begins(self, number: int) -> None:
        """Before the features and programs of a stage are made."""

    def step_begins(self, step: int, stepper: Stepper) -> None:
        """Before a step; step: number of steps taken."""

    def evaluation_begins(self, step: int, stepper: Stepper) -> None:
        """Before dev is evaluated; the steps until here are logged."""

    def evaluation_ends(self, step: int) -> None:
        """After the scores are logged, before the state is saved."""

    def save_begins(self, step: int) -> None:
        """Before a checkpoint is written."""

    def stage_ends(self, stepper: Stepper) -> None:
        """After the last step of a stage, before its frozen parameters are compared with those at its start."""

    def export_begins(self) -> None:
        """After the predictions are written, before the model is exported."""


@dataclasses.dataclass(frozen=True)
class Course:
    """One run as the loop sees it.

    Attributes:
        last: the step at which it ends.
        evaluations: the steps after which dev is evaluated.
        metric: the name of the metric that selects the best step.
        lower: whether lower values of this metric are better.
        patience: number of evaluations without improvement that end the run, 0 for no limit.
        plateau_patience: number of evaluations without improvement that reduce the learning rate, 0 for no limit.
        plateau_factor: factor of the learning rate then.
        recorder: its files; None for a run that had ended before: it is not trained and nothing of it is written.
    """

    last: int
    evaluations: frozenset[int]
    metric: str
    lower: bool
    patience: int
    plateau_patience: int
    plateau_factor: float
    recorder: Recorder | None
