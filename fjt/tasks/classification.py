"""Classification: one label per example, softmax cross-entropy."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, read_rows, suggest
from fjt.core.options import LossConfig
from fjt.core.prng import Array
from fjt.data.batches import Examples
from fjt.data.glue import Task
from fjt.data.labels import Cell
from fjt.tasks import jackknife, measures
from fjt.tasks.measures import Measures
from fjt.tasks.problem import Labels, Logits, Predictions, Problem

Ids = Int[np.ndarray, " N"]  # label ids


def accuracy(predicted: Ids, label: Ids) -> float:
    """Share of examples whose label is predicted."""
    return float(np.mean(predicted == label))


def f1_of_counts(
    hits: Int[np.ndarray, "*C"], predicted: Int[np.ndarray, "*C"], label: Int[np.ndarray, "*C"]
) -> Float[np.ndarray, "*C"]:
    """F1 = 2 hits / (predicted + label) of numbers of positives, 0.0 where both are 0.

    The bits are scikit-learn's, which takes 95 times as long (macro F1 of 408 rows on one CPU core: 2.1 ms); a card's
    interval needs a thousand of them.

    Args:
        hits: how many positives are predicted and true.
        predicted: how many are predicted.
        label: how many are true.
    """
    return 2.0 * hits / np.maximum(predicted + label, 1)


def class_counts(predicted: Ids, label: Ids, size: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hits, predicted, label): i64[C] each, the numbers of each class that `f1_of_counts` needs.

    size: C; by default that of the classes that occur.
    """
    size = size or max(predicted.max(initial=0), label.max(initial=0)) + 1
    hits, found, true = (np.bincount(ids, minlength=size) for ids in (label[predicted == label], predicted, label))
    return hits, found, true


def f1(predicted: Ids, label: Ids) -> float:
    """F1 of class 1, 0.0 when nothing is positive: GLUE's metric for MRPC and QQP.  Label ids are 0 and 1."""
    return float(f1_of_counts(*(counts[1:2].sum(keepdims=True) for counts in class_counts(predicted, label)))[0])


def f1_accuracy(predicted: Ids, label: Ids) -> float:
    """The mean of F1 and accuracy, which GLUE's score of MRPC and QQP is."""
    return (f1(predicted, label) + accuracy(predicted, label)) / 2


def macro_f1(predicted: Ids, label: Ids) -> float:
    """Unweighted mean of F1 over the classes that are predicted or true."""
    hits, found, true = class_counts(predicted, label)
    return float(np.mean(f1_of_counts(hits, found, true)[found + true > 0]))


def class_rows(
    names: Sequence[str], hits: Int[np.ndarray, " C"], predicted: Int[np.ndarray, " C"], label: Int[np.ndarray, " C"]
) -> list[dict[str, Any]]:
    """The rows of `Problem.per_class`; a ratio without a case is 0.0, as scikit-learn has it.

    Args:
        names: of the classes.
        hits: how many positives of each class are predicted and true.
        predicted: how many are predicted.
        label: how many are true.
    """
    columns = {
        "label": names,
        "precision": (hits / np.maximum(predicted, 1)).tolist(),
        "recall": (hits / np.maximum(label, 1)).tolist(),
        "f1": f1_of_counts(hits, predicted, label).tolist(),
        "support": label.tolist(),
        "predicted": predicted.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def mcc(predicted: Ids, label: Ids) -> float:
    """Matthews correlation, 0.0 when all predictions or all labels are equal: GLUE's metric for CoLA and AX."""
    import sklearn.metrics  # here, because it takes a second, which a prediction can do without

    return float(sklearn.metrics.matthews_corrcoef(label, predicted))


def cross_entropy(
    logits: Float[Array, "*slots C"], label: Int[Array, "*slots"], hyper: Any
) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
    """(value, weight) of each slot: smoothed, class-weighted cross-entropy, or the focal loss.

    The sum of values over the sum of weights is PyTorch's CrossEntropyLoss(weight, label_smoothing), mean.  The focal
    loss multiplies the term of each class with probability p by (1 - p) ** focal (Lin et al. 2017, equation 4).

    Args:
        logits: of the slots.
        label: label ids, 0 to C - 1.
        hyper: Hyper with label_smoothing f32[], class_weights f32[C] and focal f32[] or None.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=log_probs.dtype)
    target = one_hot * (1.0 - hyper.label_smoothing) + hyper.label_smoothing / logits.shape[-1]
    if hyper.focal is not None:
        target = target * confidence_factor(log_probs, hyper.focal)
    value = -jnp.einsum("...c,...c,c->...", target, log_probs, hyper.class_weights)
    return value, jnp.einsum("...c,c->...", one_hot, hyper.class_weights)


def confidence_factor(
    log_probs: Float[Array, "*slots C"], focal: Float[Array | np.number, ""]
) -> Float[Array, "*slots C"]:
    """(1 - p) ** focal of log-probabilities, with a finite gradient where p is 1."""
    return jnp.maximum(-jnp.expm1(log_probs), jnp.finfo(log_probs.dtype).tiny) ** focal


def symmetric_divergence(one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
    """KL(p || q) + KL(q || p) of the softmax of two logits."""
    log_p, log_q = jax.nn.log_softmax(one), jax.nn.log_softmax(other)
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


def soft_cross_entropy(
    logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], temperature: Float[Array | np.number, ""]
) -> Float[Array, "*slots"]:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of each slot (Hinton et al. 2015, section 2)."""
    log_p, log_q = jax.nn.log_softmax(teacher / temperature), jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


class Classification(Problem):
    """One of C labels per example.  Labels are i32[N], -1 where a row has none; metrics compare label ids."""

    name = "classification"
    loss_options = ("label_smoothing", "class_weights", "focal", "r_drop", "mixup")
    distill_options = ("weight", "temperature", "hidden")
    metrics = {f.__name__: f for f in (accuracy, f1, f1_accuracy, macro_f1, mcc)}
    table_metrics = ("accuracy", "macro_f1")
    bounds = {"accuracy": (0, 1), "f1": (0, 1), "f1_accuracy": (0, 1), "macro_f1": (0, 1), "mcc": (-1, 1)}
    hub_type = "single_label_classification"
    exclusive = True

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        return sort_labels(cells, lambda cell: (cell.text,))

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        ids = {code: number for number, code in enumerate(codes)}
        return np.array(read_rows(lambda cell: self._read(cell, ids), cells), np.int32)

    def _read(self, cell: Cell, ids: dict[str, int]) -> int:
        name = cell.text
        if name in ids:
            return ids[name]
        if name:
            raise cell.unknown(name, ids)
        if cell.required:
            raise cell.missing()
        return -1

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return label >= 0

    def describe_label(self, label: Any, task: Task) -> str:
        return task.label_names[int(label)]

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        return np.bincount(label[label >= 0], minlength=len(task.label_names))

    def label_weights(self, loss: LossConfig, label: Labels, task: Task) -> Float[np.ndarray, " C"]:
        return weigh(loss.class_weights, np.bincount(label[label >= 0], minlength=len(task.label_names)))

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        return cross_entropy(logits, batch["label"], hyper)

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        return symmetric_divergence(one, other)

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        return soft_cross_entropy(logits, teacher, hyper.temperature)

    def decode(self, logits: Logits, task: Task) -> Predictions:
        ids = np.argmax(logits, axis=-1)
        return Predictions(
            ids, [task.label_names[i] for i in ids], scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)
        )

    def classes(self, label: Labels, task: Task) -> Bool[np.ndarray, "N C"]:
        return np.asarray(label[:, None] == np.arange(len(task.label_names)))

    def from_classes(
        self, chosen: Bool[np.ndarray, "N C"], probabilities: Float[np.ndarray, "N C"], task: Task
    ) -> Predictions:
        ids = np.argmax(chosen, axis=-1)
        return Predictions(ids, [task.label_names[i] for i in ids], probabilities)

    def measures(self, predicted: Predictions, label: Labels, task: Task) -> Measures:
        found = of_classes(self, predicted, label, task)
        others = [name for name in task.metrics if name in self.metrics and name not in found.cases]
        return found.joined(self.of_metrics(others, predicted.values, label))

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        labelled = self.is_labelled(examples.label)
        logits, label = np.asarray(logits[labelled], np.float64), examples.label[labelled]
        return float(np.mean(scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(len(label)), label]))

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        return jackknife.of_classes(metric, np.stack([*predicted]), label)

    def per_class(self, predicted: Labels, label: Labels, task: Task) -> list[dict[str, Any]]:
        return class_rows(task.label_names, *class_counts(predicted, label, len(task.label_names)))

    def constant(self, label: Labels) -> Labels:
        return np.full(len(label), np.bincount(label).argmax())

    def columns(self, logits: Logits, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        return self.prediction_columns(self.decode(logits, task), task)

    def prediction_columns(self, predicted: Predictions, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        chosen = np.asarray(predicted.probabilities)[np.arange(len(predicted.labels)), predicted.values]
        return {"predicted": predicted.labels, "probability": chosen} | self.probability_columns(predicted, task)

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return ["" if i < 0 else task.label_names[i] for i in label]


def of_classes(problem: Problem, predicted: Predictions, label: Labels, task: Task) -> Measures:
    """The Measures of predicted classes and probabilities.

    Args:
        problem: the kind, which has `classes`.
        predicted: of the rows.
        label: of the rows, none missing.
        task: the task.
    """
    chosen, truth = problem.classes(predicted.values, task), problem.classes(label, task)
    assert chosen is not None and truth is not None, "the kind has classes"
    return measures.of_classes(chosen, np.asarray(predicted.probabilities), truth, task.label_names, problem.exclusive)


def sort_labels(cells: Iterable[Cell], names: Callable[[Cell], Iterable[str]]) -> dict[str, str]:
    """{label name: place of its first row}, in order: numerically where all of them are numbers, else alphabetically.

    Cells that cannot be read are left out; `read_labels` refuses them.

    Args:
        cells: of the training rows.
        names: returns the names in a cell, "" for none.
    """
    place_of: dict[str, str] = {}
    for cell in cells:
        with contextlib.suppress(UserError):
            for name in names(cell):
                place_of.setdefault(name, cell.place)
    place_of.pop("", None)
    try:
        values = {name: float(name) for name in place_of}
    except ValueError:
        return dict(sorted(place_of.items()))
    if not all(map(math.isfinite, values.values())):  # nan is neither above nor below a number
        return dict(sorted(place_of.items()))
    return {name: place_of[name] for name in sorted(place_of, key=lambda name: (values[name], name))}


RULES = ("balanced", "effective")  # of config.loss.class_weights


def weigh(given: tuple[Any, ...], counts: Int[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """The class weights of config.loss.class_weights, ones where it is empty.

    Balanced ones are N / (C count), as scikit-learn's.  Those by the effective number of examples are proportional to
    (1 - beta) / (1 - beta ** count), with the mean 1 over the classes that occur (Cui et al. 2019, equation 2).

    Args:
        given: the option.
        counts: number of examples of each class.

    Raises:
        UserError: neither one number of at least 0 per label nor one of the two rules.
    """
    size = len(counts)
    if not given:
        return np.ones(size)
    if given == ("balanced",):
        return counts.sum() / (size * np.maximum(counts, 1))
    if given[0] == "effective" and len(given) == 2 and isinstance(given[1], float) and 0 < given[1] < 1:
        weights = (1 - given[1]) / (1 - given[1] ** np.maximum(counts, 1))
        return weights / weights[counts > 0].mean() if counts.any() else np.ones(size)
    if isinstance(given[0], str):
        hint = "" if given[0] in RULES else suggest(given[0], RULES)
        raise UserError(
            f"config.loss.class_weights={given} should be one number per label, ('balanced',), or ('effective', beta) "
            f"with a beta between 0 and 1.{hint}"
        )
    if len(given) != size or not all(isinstance(x, int | float) and x >= 0 for x in given) or not any(given):
        raise UserError(
            f"config.loss.class_weights={given} should be {size} numbers, one per label and not all 0, ('balanced',), "
            "or ('effective', beta) with a beta between 0 and 1."
        )
    return np.array(given, np.float64)


CLASSIFICATION = Classification()
