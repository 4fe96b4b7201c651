"""The seam for kinds of problems: everything that depends on what is predicted is a method of `Problem`."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, Shaped

from fjt.data.batches import Examples
from fjt.data.glue import Cell, Split, Task


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Decoded logits of the slots of a split.

    values: the array that metrics compare with labels.  labels: one Python value per slot, for users.
    probabilities: f64[M, C], or None where the problem has none.
    """

    values: Shaped[np.ndarray, "M ..."]
    labels: Sequence[Any]
    probabilities: Float[np.ndarray, "M C"] | None


class Problem(abc.ABC):
    """A kind of problem: one instance per kind, in a file of its own in this folder.

    Slots are the places that the head reads: one per example unless `targets` says otherwise.  Logits are f[G, S, C] in
    a batch, and f32[M, C] for the M slots of a split in file order.

    name: the value of config.data.kind.  unit: what statistics resample.  one_slot: whether each example has exactly
    one slot, at its first token; the last layer is then computed there alone.  head: the name of the head of a model
    family that reads the slots.  metrics: {name: score(predicted,
    label)} in float64.  table_metrics: those of a user's own table, the first one selects the best step.
    lower_is_better: names of metrics.  bounds: {metric: (lowest, highest) value} of those that have both.
     hub_type: `problem_type` in an exported config.json.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "example"
    one_slot: ClassVar[bool] = True
    head: ClassVar[str] = "sequence"
    metrics: ClassVar[dict[str, Callable[[np.ndarray, np.ndarray], float]]]
    table_metrics: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    hub_type: ClassVar[str]

    def num_outputs(self, task: Task) -> int:
        """The number of logits per slot, C."""
        return len(task.label_names)

    # Data.

    @abc.abstractmethod
    def find_labels(self, cells: Sequence[Cell]) -> tuple[str, ...]:
        """The label names of a user's own table that names none: those of its training rows, () where it has none."""

    @abc.abstractmethod
    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> np.ndarray:
        """The labels [N, ...] of a column.

        Args:
            cells: the cells of N rows.
            codes: the spelling of each label in this file, by id.

        Raises:
            UserError: for a cell that holds no such label, with its place.
        """

    @abc.abstractmethod
    def is_labelled(self, label: np.ndarray) -> np.ndarray:
        """bool[N]: the rows that have a label."""

    def targets(self, split: Split, examples: Examples) -> Examples:
        """The examples with their slots; by default one per example, at its first token."""
        del split
        return examples

    def describe_label(self, label: Any, task: Task) -> str:
        """One label in words, for messages and reports."""
        return str(label)

    # Training.

    @abc.abstractmethod
    def label_weights(self, loss: Any, label: np.ndarray, task: Task) -> np.ndarray:
        """f[C]: Hyper.class_weights.

        Args:
            loss: the section config.loss.
            label: of the training split.
            task: of the run.

        Raises:
            UserError: for options of the loss that the problem does not have.
        """

    @abc.abstractmethod
    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        """(value, weight) of each slot in float32 at least; the step divides the sum of values by that of weights.

        Args:
            logits: of the slots.
            batch: the batch of the step, with `label` and `slot_example`.
            hyper: Hyper, of which label_smoothing and class_weights are read.
        """

    # Evaluation.

    @abc.abstractmethod
    def decode(self, logits: Float[np.ndarray, "M C"], task: Task) -> Predictions:
        """Predictions of logits in file order."""

    @abc.abstractmethod
    def dev_loss(self, logits: Float[np.ndarray, "M C"], label: np.ndarray) -> float:
        """The mean loss over labelled rows, without weights and smoothing."""

    def pseudo_values(self, metric: str, predicted: np.ndarray, label: np.ndarray) -> Float[np.ndarray, "n M"]:
        """Jackknife pseudo-values of a metric for n runs: m theta - (m - 1) theta without each unit (Tukey 1958).

        Args:
            metric: a name in `metrics`.
            predicted: [n, M, ...] decoded values.
            label: [M, ...], none missing.
        """
        whole = np.array([self.metrics[metric](values, label) for values in predicted])[:, None]
        rows = np.arange(len(label))
        without = [[self.metrics[metric](v[rows != i], label[rows != i]) for i in rows] for v in predicted]
        return len(label) * whole - (len(label) - 1) * np.array(without)

    @abc.abstractmethod
    def constant(self, label: np.ndarray) -> np.ndarray:
        """[M, ...]: the best prediction that ignores the text; it stands for runs that diverged."""

    def same_for_all(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """[M, ...]: predictions of one run in which values that differ by rounding alone are equal."""
        del label
        return predicted

    @abc.abstractmethod
    def columns(self, logits: Float[np.ndarray, "M C"], task: Task) -> dict[str, Sequence[Any]]:
        """{column: values} that a table of predictions shows: the label and its probabilities."""

    @abc.abstractmethod
    def label_column(self, label: np.ndarray, task: Task) -> list[str]:
        """The true labels as a table of predictions shows them, "" where a row has none."""

    # What follows from the methods above.

    def score(
        self, logits: Float[np.ndarray, "M C"], label: np.ndarray, task: Task, names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """{metric: value} over the labelled rows, of the task's metrics or those named; {} when none has a label."""
        labelled = self.is_labelled(label)
        if not labelled.any():
            return {}
        predicted = self.decode(logits[labelled], task).values
        return {name: self.metrics[name](predicted, label[labelled]) for name in names or task.metrics}
