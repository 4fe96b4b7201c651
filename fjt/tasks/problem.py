"""The seam for kinds of problems: everything that depends on the kind of target is a method of `Problem`."""

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt32
from scipy import special

from fjt.core.errors import UserError
from fjt.core.options import DistillConfig, EvalConfig, LossConfig, MaskConfig
from fjt.core.prng import Array
from fjt.core.ragged import Ragged
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.tasks import measures
from fjt.tasks.measures import Measures

MOST_COLUMNS = 200  # labels whose probabilities a table of predictions lists; arrays have the logits of all
Labels = Shaped[np.ndarray, "N ..."]  # one per row: ids, sets of labels, or scores
Logits = Float[np.ndarray, "N C"]
Rows = Any  # labels or predictions of rows: Labels, or Ragged where a row has several slots
Scores = Any  # their logits: Logits, or Ragged

NEARLY = 0.1  # a run has collapsed if its predictions vary at most this much as often as the labels


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Decoded logits of the rows of a split.

    Attributes:
        values: the array that metrics compare with labels.
        labels: one Python value per row, for users.
        probabilities: probability of each label, or None where the problem has none.
    """

    values: Rows
    labels: Sequence[Any] | np.ndarray
    probabilities: Float[np.ndarray, "N C"] | Ragged | None


def share_of_others(values: Rows) -> float:
    """The share of values that differ from the most frequent one."""
    axis = 0 if values.ndim > 1 else None
    return 1 - float(np.unique(values, axis=axis, return_counts=True)[1].max()) / len(values)


def cosine_distance(one: Float[Array, "*slots D"], other: Float[Array, "*slots D"]) -> Float[Array, "*slots"]:
    """1 - cos of the angle between vectors, 1 where one is 0."""

    def unit(x: Array) -> Array:  # the norm of 0 has no gradient
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))

    return 1.0 - jnp.sum(unit(one) * unit(other), axis=-1)


class Problem(abc.ABC):
    """A kind of problem: one instance per kind, in its own file in this folder.

    Slots are the places that the head reads: one per example unless `targets` says otherwise.  Logits are f[G, S, C] in
    a batch, and f32[M, C] for the M slots of a split in file order.  Where rows have several slots, labels, logits and
    predictions are Ragged: an array per row.

    Attributes:
        name: the value of config.data.kind.
        unit: the unit that statistics resample.
        one_slot: whether each example has exactly one slot, at its first token; the last layer is then computed at
            these tokens alone.
        words: whether a text is a list of words, each with a slot at its first token.
        choices: whether a text has several continuations, each a part of its example with a slot at its first token.
        documents: whether a text is a document without labels, of which tokens are masked anew in each epoch.
        contexts: whether the second text of a pair is a context in which answers are found, with a slot at each token.
        several: whether rows are of several tasks, each with outputs of its own.
        loss_options: the options of config.loss that `loss` reads.
        decode_options: the options of config.eval that `decode` reads.
        distill_options: the options of config.distill that `distilled_loss` reads; () for a kind that has none.
        exclusive: whether a row has exactly one class, where it has `classes`.
        schemes: the ways to write predicted tags of spans (`fjt.tasks.spans`), () where there are none.
        head: name of the head of a model family that reads the slots.
        metrics: {name: score(predicted, label)} in float64.
        table_metrics: metrics of a user's own table; the first one selects the best step.
        lower_is_better: names of metrics.
        bounds: {metric: (lowest, highest) value} of the metrics that have both.
        hub_type: `problem_type` in an exported config.json, "" where PyTorch's `transformers` has none.
        hub_task: the task in a model card.
        unnamed: what is predicted where labels have no names.
        constant_name: the name of `constant`, where it is no label.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "example"
    one_slot: ClassVar[bool] = True
    words: ClassVar[bool] = False
    choices: ClassVar[bool] = False
    documents: ClassVar[bool] = False
    several: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    contexts: ClassVar[bool] = False
    loss_options: ClassVar[tuple[str, ...]] = ()
    decode_options: ClassVar[tuple[str, ...]] = ()
    distill_options: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ()
    head: ClassVar[str] = "sequence"
    metrics: ClassVar[dict[str, Callable[[Any, Any], float]]]
    table_metrics: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    hub_type: ClassVar[str] = ""
    hub_task: ClassVar[str] = "text-classification"
    unnamed: ClassVar[str] = "a score"
    constant_name: ClassVar[str] = ""

    def num_outputs(self, task: Task) -> int:
        """The number of logits per slot, C; 0 where each token of the model has one."""
        return len(task.label_names)

    def output_names(self, task: Task) -> tuple[str, ...]:
        """The names of the logits in exports, by id; () for a score."""
        return task.label_names

    def configured(self, task: Task, given: EvalConfig) -> Task:
        """The task with the way to decode that the options of a run give.

        Raises:
            UserError: an option is given that the problem does not decode with.
        """
        for name in ("threshold", "constrained", "null_threshold", "answer_length"):
            if (value := getattr(given, name)) is not None and name not in self.decode_options:
                kind = "several tasks" if self.several else self.name
                raise UserError(
                    f"config.eval.{name}={value}: {task.name} ({kind}) has no {name}. Leave the option out."
                    + " (fjt.calibrate --threshold tunes that of two classes.)"
                    * (self.exclusive and name == "threshold")
                )
        threshold = 0.5 if given.threshold is None else given.threshold
        constrained, length = bool(given.constrained), given.answer_length or task.answer_length
        return dataclasses.replace(task, threshold=threshold, constrained=constrained, answer_length=length)

    def chosen(self, task: Task, given: EvalConfig, scores: Scores, label: Rows) -> Task:
        """The task with the way to decode that fits dev best, where the options of a run leave it open.

        Args:
            task: as `configured` returns it.
            given: the options.
            scores: of dev, of the selected step.
            label: of dev.
        """
        del given, scores, label
        return task

    # Data.

    @abc.abstractmethod
    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        """{name of a label: place of its first row}, by id, of a user's own table whose config names none.

        {} for scores, which have no names.
        """

    @abc.abstractmethod
    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Rows:
        """The labels of a column as an array, or Ragged; `fjt.core.errors.read_rows` collects what is wrong with cells.

        Args:
            cells: the cells of N rows.
            codes: this file's spelling of each label, by id.

        Raises:
            BadRows: cells that are not labels; the message has their places.
        """

    @abc.abstractmethod
    def is_labelled(self, label: Rows) -> Bool[np.ndarray, " M"]:
        """Whether each row has a label."""

    def targets(self, split: Split, examples: Examples, task: Task) -> Examples:
        """The examples with their slots; by default one per example, at its first token.

        Args:
            split: the rows.
            examples: their tokens; where `words` is set, with a slot for each word.
            task: the task, for the names of the labels.
        """
        del split, task
        return examples

    def draw(
        self,
        examples: Examples,
        tokenizer: Any,
        options: MaskConfig,
        key: UInt32[np.ndarray, "2"],
        epoch: int = 0,
    ) -> Examples:
        """The examples of an epoch, where these differ: as many slots and tokens of each, at other places.

        Args:
            examples: as `targets` returns them.
            tokenizer: of the model.
            options: the section config.mask.
            key: of the draw.
            epoch: its number.
        """
        del tokenizer, options, key, epoch
        return examples

    @property
    def redraws(self) -> bool:
        """Whether the examples of one epoch differ from those of another."""
        return type(self).draw is not Problem.draw

    def label_rows(self, split: Split, examples: Examples) -> Split:
        """The split with the labels of its rows, where only its examples, as `draw` returns them, tell these."""
        del examples
        return split

    def pick_slots(self, examples: Examples, tokenizer: Any) -> Examples:
        """The examples of new texts, with slots where something is to be predicted.

        Raises:
            UserError: there is no such place.
        """
        del tokenizer
        return examples

    def name_labels(self, task: Task, tokenizer: Any) -> Task:
        """The task with the names of its labels, where these are the tokens of the model."""
        del tokenizer
        return task

    def sizes(self, label: Rows) -> tuple[int, ...]:
        """The number of rows of each task, one after another in a split; () for one task."""
        del label
        return ()

    def by_row(self, logits: Float[np.ndarray, "M C"], examples: Examples, split: Split, task: Task) -> Scores:
        """The logits of the slots as one value per row of a split.

        By default these are the logits of its slot, or an array of those of its slots.
        """
        del split, task
        return logits if self.one_slot else Ragged(logits, examples.row_slots)

    def describe_label(self, label: Any, task: Task) -> str:
        """One label in words, for messages and reports."""
        return str(label)

    @abc.abstractmethod
    def count_labels(self, label: Rows, task: Task) -> Int[np.ndarray, " C"]:
        """The number of rows of each label, of length 0 for scores."""

    # Training.

    def check_loss(self, loss: LossConfig, task: Task) -> None:
        """Raises UserError for an option of config.loss that the problem does not have."""
        for field in dataclasses.fields(loss):
            name, value = field.name, getattr(loss, field.name)
            if value != field.default and name not in self.loss_options:
                kind = "several tasks" if self.several else self.name
                raise UserError(
                    f"config.loss.{name}={value}: {task.name} ({kind}) has no {name}. Leave the option out."
                )

    def label_weights(self, loss: LossConfig, label: Rows, task: Task) -> Float[np.ndarray, " C"]:
        """The weight of each label in the loss, `Hyper.class_weights`; 1.0 without labels to weigh.

        Args:
            loss: the section config.loss.
            label: labels of the training split.
            task: the task of the run.

        Raises:
            UserError: weights that do not fit the labels.
        """
        del loss, label, task
        return np.ones(1)

    @abc.abstractmethod
    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        """(value, weight) of each slot in float32 at least; the step divides the sum of values by the sum of weights.

        Args:
            logits: of the slots.
            batch: the batch of the step, with `label` [G, S, ...] of the slots and `slot_example`.
            hyper: Hyper, of which class_weights and what `loss_options` names are read.
        """

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        """The sum of the Kullback-Leibler divergences, in both directions, between two predictions of each slot.

        A problem that has it names r_drop in `loss_options`.

        Args:
            one: logits of the slots.
            other: logits of the slots.
        """
        raise NotImplementedError(f"{self.name} has no r_drop")  # `check_loss` refuses the option before

    def check_distill(self, distill: DistillConfig, task: Task) -> None:
        """Raises UserError for options of config.distill that the problem does not have, or without teachers."""
        given = {name: getattr(distill, name) for name in ("weight", "temperature", "hidden")}
        given = {name: value for name, value in given.items() if value is not None}
        if given and not distill.runs:
            name, value = next(iter(given.items()))
            raise UserError(
                f"config.distill.{name}={value}: there are no teachers. Give config.distill.runs, or leave it out."
            )
        if distill.runs and not self.distill_options:
            kind = "several tasks" if self.several else self.name
            raise UserError(
                f"config.distill.runs={distill.runs}: {task.name} ({kind}) cannot learn from the predictions of other "
                "runs. Leave the option out."
            )
        if distill.hidden is not None and len(distill.runs) > 1:
            raise UserError(
                f"config.distill.hidden={distill.hidden}: the vectors of {len(distill.runs)} runs have no mean. Give "
                "one run in config.distill.runs, or leave it out."
            )
        for name in given.keys() - set(self.distill_options):
            raise UserError(
                f"config.distill.{name}={given[name]}: {task.name} ({self.name}) has no {name}. Leave the option out."
            )

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        """The loss of each slot against what teachers predict.

        A problem that has it names the options that it reads in `distill_options`.

        Args:
            logits: of the slots, float32 at least.
            teacher: the teachers' logits of the slots, see `mean_logits`.
            hyper: Hyper; its temperature and class_weights are read.
        """
        raise NotImplementedError(f"{self.name} has no soft loss")  # `check_distill` refuses the options before

    def distilled_loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        """As `loss`, of a run with teachers.

        The value is (1 - soft_weight) of the loss's, and with the weight of the slot soft_weight of `soft_loss` and
        hidden_weight of the cosine distance between the vectors.

        Args:
            logits: of the slots.
            batch: as for `loss`, with `teacher` f[G, S, C], and `vectors` and `teacher_vectors` f[G, S, D].
            hyper: Hyper with soft_weight f32[], and hidden_weight f32[] or None.
        """
        value, weight = self.loss(logits, batch, hyper)
        soft = self.soft_loss(logits.astype(value.dtype), batch["teacher"].astype(value.dtype), hyper)
        total = (1.0 - hyper.soft_weight) * value + hyper.soft_weight * weight * soft
        if hyper.hidden_weight is not None:
            apart = cosine_distance(*(batch[name].astype(value.dtype) for name in ("vectors", "teacher_vectors")))
            total = total + hyper.hidden_weight * weight * apart
        return total, weight

    def mean_logits(self, parts: Sequence[Logits]) -> Logits:
        """The logits of the mean prediction of several runs: of probabilities, or of scores.

        Args:
            parts: the logits of each run for the same slots.
        """
        scores, tiny = np.asarray(parts, np.float64), np.finfo(np.float64).tiny
        if self.exclusive:
            return np.log(np.maximum(special.softmax(scores, axis=-1).mean(axis=0), tiny))
        chance, rest = (np.maximum(special.expit(sign * scores).mean(axis=0), tiny) for sign in (1, -1))
        return np.log(chance) - np.log(rest)

    # Evaluation.

    def reduce(self, logits: Float[Array, "*slots C"], batch: dict[str, Array]) -> Float[Array, "*slots K"]:
        """The part of a batch's logits that is brought back from the devices: by default, all of them.

        Elsewhere in this class, and in the records of a run, `logits` are the values that this returns.

        Args:
            logits: of the slots.
            batch: with their labels.
        """
        del batch
        return logits

    @property
    def reduces(self) -> bool:
        """Whether `reduce` reads labels; otherwise no label reaches an evaluation."""
        return type(self).reduce is not Problem.reduce

    def comparable(self, logits: Float[np.ndarray, "M K"]) -> Float[np.ndarray, "M k"]:
        """The columns of `reduce` that the same model in another form gives as well, but for rounding."""
        return logits

    @abc.abstractmethod
    def decode(self, logits: Scores, task: Task) -> Predictions:
        """Predictions of logits in file order."""

    @abc.abstractmethod
    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        """The mean loss over the labelled slots, without weights and label smoothing.

        Args:
            logits: of the slots.
            examples: with the labels of the slots.
            task: the task.
        """

    def pseudo_values(self, metric: str, predicted: Collection[Rows], label: Rows) -> Float[np.ndarray, "n M"]:
        """Jackknife pseudo-values of a metric for n runs: m theta - (m - 1) theta without each unit (Tukey 1958).

        They are of the rows that are `scored`.

        Args:
            metric: a name in `metrics`.
            predicted: decoded values of each run.
            label: labels, none missing.
        """
        whole = np.array([self.metrics[metric](values, label) for values in predicted])[:, None]
        rows = np.arange(len(label))
        without = [[self.metrics[metric](v[rows != i], label[rows != i]) for i in rows] for v in predicted]
        return len(label) * whole - (len(label) - 1) * np.array(without)

    def scored(self, metric: str, label: Rows) -> Bool[np.ndarray, " M"]:
        """Whether a metric is computed from each row."""
        del metric
        return np.ones(len(label), bool)

    def parts(self, metric: str) -> tuple[str, ...]:
        """The metrics that a metric is the mean of; () for others."""
        del metric
        return ()

    def member(self, task: Task, name: str) -> tuple[Task, slice]:
        """(one of several tasks alone, the columns of its outputs).

        Raises:
            UserError: there is no such task, or one task alone.
        """
        raise UserError(f"--task={name}: the run has one task, {task.name}. Leave the option out.")

    def scorer(self, metric: str, predicted: Rows, label: Rows) -> Callable[[Int[np.ndarray, " m"]], float]:
        """The function from numbers of rows to the metric of these rows.

        Args:
            metric: a name in `metrics`.
            predicted: decoded values.
            label: labels, none missing.
        """
        return lambda rows: self.metrics[metric](predicted[rows], label[rows])

    def measures(self, predicted: Predictions, label: Rows, task: Task) -> Measures:
        """The Measures that an evaluation reports: by default, the metrics of the kind.

        Args:
            predicted: of the rows.
            label: of the rows, none missing.
            task: the task.
        """
        return self.of_metrics(self.metrics, predicted.values, label)

    def of_metrics(self, names: Collection[str], predicted: Rows, label: Rows) -> Measures:
        """The Measures of some of the metrics.  For the other arguments see `scorer`."""
        scorers = {name: self.scorer(name, predicted, label) for name in names}
        return measures.of_scorers(scorers, len(label), self.bounds)

    def classes(self, label: Rows, task: Task) -> Bool[np.ndarray, "N C"] | None:
        """Whether each row has each class, None where labels are not classes of rows.

        Args:
            label: labels or decoded values of rows, none missing.
            task: the task.
        """
        del label, task
        return None

    def from_classes(
        self, chosen: Bool[np.ndarray, "N C"], probabilities: Float[np.ndarray, "N C"], task: Task
    ) -> Predictions:
        """The Predictions of chosen classes, of a kind that has `classes`."""
        raise NotImplementedError(f"{self.name} has no classes of rows")  # asked only where `classes` has some

    def prediction_columns(self, predicted: Predictions, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """As `columns`, of Predictions, of a kind that has `classes`."""
        raise NotImplementedError(f"{self.name} has no classes of rows")  # asked only where `classes` has some

    def agree(self, one: Rows, other: Rows) -> Bool[np.ndarray, " N"] | None:
        """Whether two decoded values or labels of each row are equal, None for scores."""
        if one.dtype.kind == "f":
            return None
        if isinstance(one, Ragged):
            row = np.repeat(np.arange(len(one)), one.lengths)
            return np.asarray(np.bincount(row, one.values != other.values, len(one)) == 0)
        return np.asarray(np.asarray(one == other).reshape(len(one), -1).all(axis=1))

    def right(self, predicted: Rows, label: Rows) -> Bool[np.ndarray, " N"] | None:
        """Whether each row is predicted without a mistake, None for scores."""
        return self.agree(predicted, label)

    def perfect(self, label: Rows) -> Rows:
        """Decoded values in which everything is right, with which a user's own metrics are tried.

        Args:
            label: labels, none missing.
        """
        return label

    @abc.abstractmethod
    def constant(self, label: Rows) -> Rows:
        """The best prediction that ignores the text; runs that diverged count as this prediction."""

    def collapsed(self, predicted: Rows, label: Rows) -> bool:
        """Whether (nearly) all predictions of one run are one value, whatever the text.

        True where at most NEARLY times as many predictions differ from the most frequent prediction as labels differ
        from the most frequent label.  Such a run is wrong for at least nine in ten of the examples whose label is not
        the value that it repeats.  Equality of all predictions would be too strict: a run with one odd example has a
        correlation of its own, although it has learned no more than one with none.

        Args:
            predicted: decoded values of one run.
            label: labels, none missing.
        """
        return share_of_others(predicted) <= NEARLY * share_of_others(label)

    def collapsed_parts(self, predicted: Rows, label: Rows, task: Task) -> Iterator[tuple[str, "Problem", Task, Rows]]:
        """Yields (name, kind, task, predictions) of the tasks in which a run has collapsed; "" for the name of one."""
        if self.collapsed(predicted, label):
            yield "", self, task, predicted

    def per_class(self, predicted: Rows, label: Rows, task: Task) -> list[dict[str, Any]]:
        """The scores of each class, rows {label, precision, recall, f1, support, predicted}; [] without classes.

        Args:
            predicted: decoded values.
            label: labels, none missing.
            task: the task, for the names of the classes.
        """
        del predicted, label, task
        return []

    def same_for_all(self, predicted: Rows, label: Rows) -> Rows:
        """Predictions of one run in which values that differ by rounding alone are equal."""
        del label
        return predicted

    def details(self, logits: Scores, predicted: Predictions, split: Split, task: Task) -> dict[str, list[Any]]:
        """{name: one value per row, which JSON can hold} of what was found in the texts, such as entities.

        Args:
            logits: of the rows of the split.
            predicted: decoded from them.
            split: the rows.
            task: the task.
        """
        del logits, predicted, split, task
        return {}

    def files(self, scores: Scores, split: Split, task: Task) -> dict[str, str]:
        """{suffix: contents} of predictions in forms of the kind's own.  For the arguments see `details`."""
        del scores, split, task
        return {}

    def submissions(self, task: Task, split: Split, predicted: Rows) -> Iterator[tuple[Task, Sequence[str], Rows]]:
        """Yields (task, ids of its rows, decoded values) for each task of a split, for `glue.write_submission`."""
        yield task, split.id, predicted

    @abc.abstractmethod
    def columns(self, logits: Scores, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """{column: values} of a table of predictions: the predicted label, and probabilities of up to MOST_COLUMNS."""

    @abc.abstractmethod
    def label_column(self, label: Rows, task: Task) -> list[str]:
        """The true labels in a table of predictions, "" where a row has none."""

    # Derived from the methods above.

    def constant_scores(self, label: Rows, names: Sequence[str]) -> dict[str, float]:
        """{metric: score} of `constant`, which any method should exceed.

        Args:
            label: labels, none missing.
            names: the metrics.
        """
        return {name: self.metrics[name](self.constant(label), label) for name in names}

    def probability_columns(self, predicted: Predictions, task: Task) -> dict[str, np.ndarray]:
        """{"p(label)": probabilities} for a table of predictions, {} for more than MOST_COLUMNS labels."""
        if len(task.label_names) > MOST_COLUMNS:
            return {}
        columns = np.asarray(predicted.probabilities).T
        return {f"p({name})": column for name, column in zip(task.label_names, columns, strict=True)}

    def score(
        self,
        logits: Scores,
        label: Rows,
        task: Task,
        names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """{metric: value} over the labelled rows; {} when none has a label.

        Args:
            logits: of the slots of a split.
            label: their labels.
            task: the task.
            names: the metrics; None: those of the task.
        """
        labelled = self.is_labelled(label)
        if not labelled.any():
            return {}
        return self.compare(self.decode(logits[labelled], task).values, label[labelled], task, names)

    def compare(self, predicted: Rows, label: Rows, task: Task, names: Sequence[str] | None = None) -> dict[str, float]:
        """{metric: value} of decoded values and labels, none missing; names: as for `score`."""
        functions = {**self.metrics, **{metric.name: metric for metric in task.own_metrics}}
        return {name: functions[name](predicted, label) for name in names or task.metrics}
