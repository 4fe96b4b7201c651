"""Several tasks at once, on one encoder: their outputs stand side by side, and each task reads its own.

Labels and decoded values are [N, 2]: the number of a row's task, and the label or value there.  Scores of rows are
f32[N, 1 + C]: the number of the task, and the logits of all tasks; those of new texts, which are of no task, f32[N, C].
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fjt.core.errors import UserError, suggest
from fjt.core.options import LossConfig
from fjt.core.prng import Array
from fjt.data import batches, glue
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.tasks.problem import Labels, Logits, Predictions, Problem

KINDS = {"classification": np.int32, "regression": np.float32}  # that can be trained together, with types of labels


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the tasks.

    Attributes:
        name: its name.
        number: its place among the tasks.
        problem: its kind.
        columns: of its outputs among those of all tasks.
        selection: the metric that counts in the mean.
    """

    name: str
    number: int
    problem: Problem
    columns: slice
    selection: str

    @property
    def dtype(self) -> type:
        """The type of its labels."""
        return KINDS[self.problem.name]

    @property
    def size(self) -> int:
        """The number of its outputs."""
        return self.columns.stop - self.columns.start

    @property
    def has_classes(self) -> bool:
        """Whether its labels are classes, not scores."""
        return self.dtype is np.int32

    def of(self, rows: Labels) -> Bool[np.ndarray, " m"]:
        """Which rows are its own."""
        return rows[:, 0] == self.number

    def own(self, rows: Labels) -> Shaped[np.ndarray, " n"]:
        """The labels or values of its own rows, in the form of its kind."""
        return rows[self.of(rows), 1].astype(self.dtype)

    def task(self, together: Task) -> Task:
        """The Task of this one alone."""
        names = together.label_names[self.columns]
        official = any(place.startswith(f"{self.name}.") for place, _ in together.submission)
        known = glue.TASKS.get(self.name) if official else None  # a table of one's own may have the same name
        return dataclasses.replace(
            together,
            name=self.name,
            kind=self.problem.name,
            label_names=() if names == (self.name,) else tuple(name.removeprefix(f"{self.name}.") for name in names),
            metrics=tuple(
                metric.removeprefix(f"{self.name}.")
                for metric in together.metrics
                if metric.startswith(f"{self.name}.")
            ),
            submission=known.submission if known else (),
            submission_ids=known.submission_ids if known else True,
        )


class SeveralTasks(Problem):
    """Tasks of kinds that have one slot per example; `make` has the class of given ones."""

    unit = "example"
    several = True
    loss_options = ("label_smoothing", "class_weights", "focal", "task_weights")
    bounds = {"mean": (-1, 1)}  # the others are those of the kinds, see `kinds.bounds_of`
    constant_name = "the best constant of each task"
    members: ClassVar[tuple[Member, ...]]

    def num_outputs(self, task: Task) -> int:
        return self.members[-1].columns.stop

    # Data: each task reads its own files.

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        raise TypeError(f"{self.name}: each task reads its own labels.")

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        raise TypeError(f"{self.name}: each task reads its own labels.")

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        found = np.zeros(len(label), bool)
        for member in self._members_of(label):
            found[member.of(label)] = member.problem.is_labelled(member.own(label))
        return found

    def sizes(self, label: Labels) -> tuple[int, ...]:
        return tuple(int(np.count_nonzero(member.of(label))) for member in self.members)

    def by_row(
        self, logits: Float[np.ndarray, "M C"], examples: Examples, split: Split, task: Task
    ) -> Float[np.ndarray, "M K"]:
        if split.label.ndim == 1:  # new texts
            return logits
        return np.concatenate([split.label[:, :1], logits], axis=1)

    def describe_label(self, label: Any, task: Task) -> str:
        member = self.members[int(label[0])]
        return f"{member.name}: {member.problem.describe_label(member.dtype(label[1]), member.task(task))}"

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        counts = []
        for member in self.members:
            own = member.own(label)
            found = member.problem.count_labels(own, member.task(task))
            counts.append(found if len(found) else [np.count_nonzero(member.problem.is_labelled(own))])
        return np.concatenate(counts)

    # Training.

    def label_weights(self, loss: LossConfig, label: Labels, task: Task) -> Float[np.ndarray, " C"]:
        """The weights of the labels of each task, and after them the weights of the tasks."""
        given, size = loss.class_weights, len(self.members)
        by_rule = bool(given) and isinstance(given[0], str)
        labels = sum(member.size for member in self.members if member.has_classes)
        if given and not by_rule and len(given) != labels:
            raise UserError(
                f"config.loss.class_weights={given} should be {labels} numbers, one per label of the classifications "
                f"among {task.name}, ('balanced',), or ('effective', beta)."
            )
        tasks = loss.task_weights or (1.0,) * size
        if len(tasks) != size or not all(isinstance(x, int | float) and x >= 0 for x in tasks) or not any(tasks):
            raise UserError(
                f"config.loss.task_weights={tasks} should be {size} numbers, one per task of {task.name} and not all 0."
            )
        found, taken = [], 0
        for member in self.members:
            options = LossConfig()  # scores have neither weights of labels nor smoothing
            if member.has_classes:
                own = given if by_rule else given[taken : taken + member.size]
                options = dataclasses.replace(loss, class_weights=own, task_weights=())
                taken += member.size
            found.append(member.problem.label_weights(options, member.own(label), member.task(task)))
        return np.concatenate([*found, tasks])

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        """The loss of each slot's own task, times the weight of the task."""
        label, weights = batch["label"], hyper.class_weights
        tasks = weights[self.members[-1].columns.stop :]
        values, sums = [], []
        for member in self.members:
            mine: dict[str, Any] = batch | {"label": label[..., 1].astype(member.dtype)}  # any, of the rows of others
            part = dataclasses.replace(hyper, class_weights=weights[member.columns])
            value, weight = member.problem.loss(logits[..., member.columns], mine, part)
            factor = jnp.where(label[..., 0] == member.number, tasks[member.number], 0)
            values.append(factor * value)
            sums.append(factor * weight)
        return sum(values[1:], values[0]), sum(sums[1:], sums[0])

    # Evaluation.

    def decode(self, logits: Logits, task: Task) -> Predictions:
        """The values of each row in its own task; as labels, {task: what it predicts} of each row in all tasks."""
        known = logits.shape[1] > self.num_outputs(task)
        number, logits = (logits[:, 0], logits[:, 1:]) if known else (np.full(len(logits), -1.0), logits)
        value, labels, probabilities = np.full(len(logits), np.nan), [], []
        for member in self.members:
            found = member.problem.decode(logits[:, member.columns], member.task(task))
            value = np.where(number == member.number, found.values, value)
            labels.append(np.asarray(found.labels).tolist())
            blank = np.full((len(logits), 1), np.nan)
            probabilities.append(blank if found.probabilities is None else found.probabilities)
        names = [member.name for member in self.members]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*labels, strict=True)]
        return Predictions(np.stack([number, value], axis=-1), rows, np.concatenate(probabilities, axis=1))

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        total, label = 0.0, examples.label
        for member in self._members_of(label):
            rows = np.flatnonzero(member.of(label) & self.is_labelled(label))
            own = batches.take(examples, rows)
            own = dataclasses.replace(own, label=member.own(own.label))
            if len(rows):
                total += len(rows) * member.problem.dev_loss(logits[rows, member.columns], own, member.task(task))
        return total / np.count_nonzero(self.is_labelled(label))

    def compare(
        self, predicted: Labels, label: Labels, task: Task, names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """{metric: value} of the tasks that have labels; their mean where all of them have some."""
        present = self._members_of(label)
        if names is None:
            ours = tuple(f"{member.name}." for member in present)
            names = [
                metric
                for metric in task.metrics
                if metric.startswith(ours) or (metric == "mean" and len(present) == len(self.members))
            ]
        else:
            names = [f"{member.name}.{metric}" for member in present for metric in names]
        return super().compare(predicted, label, task, names)

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        """Those of a task's own rows; of the mean, those of all rows: a row changes the score of its task alone."""
        if not self.parts(metric):
            member, own = self._member_of(metric)
            return member.problem.pseudo_values(own, [member.own(values) for values in predicted], member.own(label))
        means = np.array([self.metrics[metric](values, label) for values in predicted])[:, None]
        found = np.repeat(means, len(label), axis=1)
        for part in self.parts(metric):
            rows = self.scored(part, label)
            whole = np.array([self.metrics[part](values, label) for values in predicted])[:, None]
            far = (len(label) - 1) / (np.count_nonzero(rows) - 1) / len(self.members)
            found[:, rows] += far * (self.pseudo_values(part, predicted, label) - whole)
        return found

    def parts(self, metric: str) -> tuple[str, ...]:
        return tuple(f"{one.name}.{one.selection}" for one in self.members) if metric == "mean" else ()

    def scored(self, metric: str, label: Labels) -> Bool[np.ndarray, " M"]:
        return super().scored(metric, label) if metric == "mean" else self._member_of(metric)[0].of(label)

    def constant(self, label: Labels) -> Labels:
        return self._map(lambda member, own: member.problem.constant(own), label)

    def collapsed(self, predicted: Labels, label: Labels) -> bool:
        """Whether (nearly) all predictions of one of the tasks are one value, where its labels are not."""
        return any(self._collapsed(member, predicted, label) for member in self.members)

    def _collapsed(self, member: Member, predicted: Labels, label: Labels) -> bool:
        mine = member.own(label)
        return bool((mine != mine[:1]).any()) and member.problem.collapsed(member.own(predicted), mine)

    def collapsed_parts(
        self, predicted: Labels, label: Labels, task: Task
    ) -> Iterator[tuple[str, Problem, Task, Labels]]:
        for member in self.members:
            if self._collapsed(member, predicted, label):
                yield member.name, member.problem, member.task(task), member.own(predicted)

    def agree(self, one: Labels, other: Labels) -> Bool[np.ndarray, " N"] | None:
        """Whether two values of each row are equal; None where those of a task are scores."""
        found = np.zeros(len(one), bool)
        for member in self._members_of(one):
            same = member.problem.agree(member.own(one), member.own(other))
            if same is None:
                return None
            found[member.of(one)] = same
        return found

    def per_class(self, predicted: Labels, label: Labels, task: Task) -> list[dict[str, Any]]:
        rows = []
        for member in self._members_of(label):
            found = member.problem.per_class(member.own(predicted), member.own(label), member.task(task))
            rows += [row | {"label": f"{member.name}.{row['label']}"} for row in found]
        return rows

    def same_for_all(self, predicted: Labels, label: Labels) -> Labels:
        return self._map(lambda member, own: member.problem.same_for_all(own, member.own(label)), predicted)

    def submissions(self, task: Task, split: Split, predicted: Labels) -> Iterator[tuple[Task, Sequence[str], Labels]]:
        for member in self._members_of(split.label):
            ids = [split.id[row].removeprefix(f"{member.name}/") for row in np.flatnonzero(member.of(split.label))]
            yield member.task(task), ids, member.own(predicted)

    def columns(self, logits: Logits, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """The columns of each task's own table of predictions, for all rows."""
        logits = logits[:, -self.num_outputs(task) :]
        return {
            f"{member.name}.{name}": column
            for member in self.members
            for name, column in member.problem.columns(logits[:, member.columns], member.task(task)).items()
        }

    def label_column(self, label: Labels, task: Task) -> list[str]:
        found = np.full(len(label), "", object)
        for member in self._members_of(label):
            found[member.of(label)] = member.problem.label_column(member.own(label), member.task(task))
        return found.tolist()

    def member(self, task: Task, name: str) -> tuple[Task, slice]:
        found = {member.name: member for member in self.members}
        if name not in found:
            raise UserError(f"--task={name} is not one of the run's tasks.{suggest(name, list(found))}")
        return found[name].task(task), found[name].columns

    def _member_of(self, metric: str) -> tuple[Member, str]:
        """(the task of a metric, the name that the metric has there)."""
        name, _, own = metric.partition(".")
        return next(member for member in self.members if member.name == name), own

    def _members_of(self, rows: Labels) -> list[Member]:
        """The tasks that rows are of."""
        return [] if rows.ndim == 1 else [member for member in self.members if member.of(rows).any()]

    def _map(self, function: Callable[[Member, Labels], Labels], rows: Labels) -> Labels:
        """Rows with other values.  function: (a task, its own values) -> the other ones."""
        found = rows.astype(np.float64)
        for member in self._members_of(rows):
            found[member.of(rows), 1] = function(member, member.own(rows))
        return found


@functools.cache
def make(kind: str, find_problem: Callable[[str], Problem]) -> SeveralTasks:
    """The Problem of a kind that `fjt.data.several.join` wrote.

    Args:
        kind: "name:kind:outputs:metric" of each task.
        find_problem: the Problem of a kind's name.

    Raises:
        UserError: tasks of this kind cannot be trained together with others.
    """
    members, stop = [], 0
    for number, text in enumerate(kind.split("+")):
        name, own, outputs, selection = text.split(":")
        if own not in KINDS:
            raise UserError(
                f"{name} is of the kind {own}; tasks are trained together if they are of {' or '.join(KINDS)}. Train "
                "it in a run of its own."
            )
        start, stop = stop, stop + int(outputs)
        members.append(Member(name, number, find_problem(own), slice(start, stop), selection))
    metrics = {f"{member.name}.{name}": _metric(member, name) for member in members for name in member.problem.metrics}
    chosen = [f"{member.name}.{member.selection}" for member in members]

    def mean(predicted: Labels, label: Labels) -> float:
        return float(np.mean([metrics[name](predicted, label) for name in chosen]))

    facts = {
        "name": kind,
        "members": tuple(members),
        "metrics": {"mean": mean} | metrics,
        "table_metrics": ("mean",),
    }
    return type("SeveralTasks", (SeveralTasks,), facts)()


def _metric(member: Member, name: str) -> Callable[[Labels, Labels], float]:
    """A task's metric of the rows of all tasks, 0.0 where none is its own."""
    function = member.problem.metrics[name]

    def score(predicted: Labels, label: Labels) -> float:
        return function(member.own(predicted), member.own(label)) if member.of(label).any() else 0.0

    return score
