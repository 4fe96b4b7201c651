"""Tagging: one of C tags per word, softmax cross-entropy over the words that have a tag."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, read_rows
from fjt.core.options import LossConfig
from fjt.core.prng import Array
from fjt.core.ragged import Ragged
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell, name_of
from fjt.tasks import jackknife
from fjt.tasks.classification import (
    CLASSIFICATION,
    class_counts,
    class_rows,
    cross_entropy,
    f1_of_counts,
    soft_cross_entropy,
    sort_labels,
    symmetric_divergence,
    weigh,
)
from fjt.tasks.problem import Logits, Predictions, Problem

Counts = Int[np.ndarray, "*N K C"]  # of K kinds for each of C classes, a row per sentence
Tags = Ragged  # ids of the words, a row per sentence; a sentence without tags has an empty row


def accuracy(predicted: Tags, label: Tags) -> float:
    """Share of words whose tag is predicted."""
    return float(np.mean(predicted.values == label.values))


def macro_f1(predicted: Tags, label: Tags) -> float:
    """Unweighted mean of F1 over the tags that are predicted or true."""
    return float(mean_f1(np.stack(class_counts(predicted.values, label.values))))


def mean_f1(counts: Counts) -> Float[np.ndarray, "*N"]:
    """Unweighted mean of F1 over the classes that are predicted or true.  counts: hits, predicted, true."""
    hits, found, true = np.moveaxis(counts, -2, 0)
    return np.asarray(f1_of_counts(hits, found, true).sum(axis=-1) / np.maximum((found + true > 0).sum(axis=-1), 1))


def share(counts: Counts) -> Float[np.ndarray, "*N"]:
    """The share of hits.  counts: hits and words, of one class."""
    return np.asarray(counts[..., 0, 0] / np.maximum(counts[..., 1, 0], 1))


def count_hits(predicted: Tags, label: Tags, size: int) -> Counts:
    """Of each sentence, how many words have the predicted tag, and how many it has."""
    del size  # one class
    hits = np.bincount(_sentences(label), predicted.values == label.values, len(label)).astype(np.int64)
    return np.stack([hits, label.lengths], axis=-1)[..., None]


def count_tags(predicted: Tags, label: Tags, size: int) -> Counts:
    """Of each sentence, how often each of `size` tags is predicted and true, predicted, true."""
    rows = _sentences(label)
    found = np.zeros((3, len(label), size), np.int64)
    for number, chosen in enumerate((predicted.values == label.values, slice(None), slice(None))):
        np.add.at(found[number], (rows[chosen], (label if number != 1 else predicted).values[chosen]), 1)
    return np.moveaxis(found, 0, 1)


def _sentences(label: Tags) -> Int[np.ndarray, " M"]:
    return np.repeat(np.arange(len(label)), label.lengths)


class Tagging(Problem):
    """One of C tags per word.  Labels are the ids of the tags, a row per sentence; metrics compare them.

    A cell is a list of tags, one per word.  A word's vector is that of its first token.
    """

    name = "tagging"
    loss_options = ("label_smoothing", "class_weights", "focal", "r_drop")
    distill_options = ("weight", "temperature", "hidden")
    unit = "sentence"
    one_slot = False
    words = True
    head = "token"
    metrics = {"accuracy": accuracy, "macro_f1": macro_f1}
    # {metric: (counts of each sentence, the score of their sums)}
    counts = {"accuracy": (count_hits, share), "macro_f1": (count_tags, mean_f1)}
    table_metrics = ("accuracy", "macro_f1")
    bounds = dict.fromkeys(table_metrics, (0, 1))
    hub_task = "token-classification"

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        return sort_labels(cells, lambda cell: self._tags(cell) or ())

    def _tags(self, cell: Cell) -> list[str] | None:
        """The names of the tags in a cell, None for a missing value.  Raises UserError for one that is no list."""
        if cell.value is None:
            return None
        if isinstance(cell.value, str) or not isinstance(cell.value, Sequence | np.ndarray):
            raise UserError(f"{cell.place}: {cell.value!r:.80} is not a list of tags, one per word. Correct the row.")
        tags = [name_of(tag, f"{cell.place}, word {at}", "tag") for at, tag in enumerate(cell.value, 1)]
        if "" in tags:
            raise UserError(f"{cell.place}, word {tags.index('') + 1}: the word has no tag. Give each word one tag.")
        return tags

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Tags:
        ids = {code: number for number, code in enumerate(codes)}
        return Ragged.of(read_rows(lambda cell: self._read(cell, ids), cells), np.int32)

    def _read(self, cell: Cell, ids: Mapping[str, int]) -> list[int]:
        tags = self._tags(cell)
        if not tags and cell.required:
            raise cell.missing()
        for at, tag in enumerate(tags or (), 1):
            if tag not in ids:
                raise dataclasses.replace(cell, place=f"{cell.place}, word {at}").unknown(tag, ids)
        return [ids[tag] for tag in tags or ()]

    def is_labelled(self, label: Tags) -> Bool[np.ndarray, " N"]:
        return label.lengths > 0

    def targets(self, split: Split, examples: Examples, task: Task) -> Examples:
        """The examples with the tag of each slot, by the number of its word; -1 in sentences without tags."""
        assert split.words is not None, "a split of this kind has words"
        counts = np.array([len(words) for words in split.words])
        tags = np.full(counts.sum(), -1, np.int32)
        tags[np.repeat(self.is_labelled(split.label), counts)] = self.tag_ids(split.label, task)
        word = np.repeat(np.cumsum(counts) - counts, np.diff(examples.row_slots)) + examples.label
        label, again = tags[word], np.concatenate([[False], np.diff(word) == 0])  # the same word as the slot before
        label[again] = self.continued(label[again], task)
        return dataclasses.replace(examples, label=label)

    def continued(self, ids: Int[np.ndarray, " m"], task: Task) -> Int[np.ndarray, " m"]:
        """The tags of the second and later tokens of words, where these have slots, by those of the first ones."""
        del task
        return ids

    def tag_ids(self, label: Tags, task: Task) -> Int[np.ndarray, " M"]:
        """The index of the logit of each word's tag."""
        del task
        return label.values

    def describe_label(self, label: Int[np.ndarray, " n"], task: Task) -> str:
        return " ".join(task.label_names[tag] for tag in label)

    def count_labels(self, label: Tags, task: Task) -> Int[np.ndarray, " C"]:
        return np.bincount(self.tag_ids(label, task), minlength=len(task.label_names))

    def label_weights(self, loss: LossConfig, label: np.ndarray, task: Task) -> Float[np.ndarray, " C"]:
        return weigh(loss.class_weights, np.bincount(label[label >= 0], minlength=len(task.label_names)))

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        value, weight = cross_entropy(logits, batch["label"], hyper)
        return jnp.where(batch["label"] < 0, 0.0, value), weight  # smoothing alone would give a word without tag one

    def divergence(self, one: Float[Array, "*slots C"], other: Float[Array, "*slots C"]) -> Float[Array, "*slots"]:
        return symmetric_divergence(one, other)

    def soft_loss(
        self, logits: Float[Array, "*slots C"], teacher: Float[Array, "*slots C"], hyper: Any
    ) -> Float[Array, "*slots"]:
        return soft_cross_entropy(logits, teacher, hyper.temperature)

    def mean_logits(self, parts: Sequence[Logits]) -> Logits:
        return CLASSIFICATION.mean_logits(parts)

    def decode(self, logits: Ragged, task: Task) -> Predictions:
        ids = Ragged(self.choose(logits, task), logits.offsets)
        shares = scipy.special.softmax(np.asarray(logits.values, np.float64), axis=-1)
        names = [[task.label_names[tag] for tag in row] for row in ids.tolist()]
        return Predictions(ids, names, Ragged(shares, logits.offsets))

    def choose(self, logits: Ragged, task: Task) -> Int[np.ndarray, " M"]:
        """The index of the logit of each word that is predicted."""
        del task
        return np.argmax(logits.values, axis=-1)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        labelled = examples.label >= 0
        scores = np.asarray(logits[labelled], np.float64)
        true = scores[np.arange(len(scores)), examples.label[labelled]]
        return float(np.mean(np.asarray(scipy.special.logsumexp(scores, axis=-1)) - true))

    def scorer(self, metric: str, predicted: Tags, label: Tags) -> Callable[[Int[np.ndarray, " m"]], float]:
        """As of other kinds, from counts of each sentence: a bootstrap asks a thousand times."""
        count, score = self.counts[metric]
        counts = count(predicted, label, 1 + int(max(tags.values.max(initial=0) for tags in (predicted, label))))
        return lambda rows: float(score(counts[rows].sum(axis=0)))

    def pseudo_values(self, metric: str, predicted: Collection[Tags], label: Tags) -> Float[np.ndarray, "n N"]:
        count, score = self.counts[metric]
        size = 1 + max(int(tags.values.max(initial=0)) for tags in (*predicted, label))
        return jackknife.of_counts(np.stack([count(tags, label, size) for tags in predicted]), score)

    def per_class(self, predicted: Tags, label: Tags, task: Task) -> list[dict[str, Any]]:
        return class_rows(task.label_names, *class_counts(predicted.values, label.values, len(task.label_names)))

    def constant(self, label: Tags) -> Tags:
        most = np.bincount(label.values).argmax()
        return Ragged(np.full(len(label.values), most, np.int32), label.offsets)

    def collapsed(self, predicted: Tags, label: Tags) -> bool:
        return super().collapsed(predicted.values, label.values)

    def columns(self, logits: Ragged, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        return {"predicted": self.decode(logits, task).labels}

    def label_column(self, label: Tags, task: Task) -> list[str]:
        return [self.describe_label(row, task) for row in np.split(label.values, label.offsets[1:-1])]


TAGGING = Tagging()
