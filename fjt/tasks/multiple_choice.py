"""Multiple choice: which of several continuations fits a text (SWAG and tables of the same kind).

An example has a part per choice, [CLS] text [SEP] choice [SEP], with a slot at its first token and one logit.  The loss
is the softmax cross-entropy over the choices of an example, whose number may differ from row to row.
"""

import dataclasses
import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError, read_rows
from fjt.core.prng import Array
from fjt.core.ragged import Ragged
from fjt.data import choices
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.tasks import jackknife, segments
from fjt.tasks.classification import accuracy
from fjt.tasks.problem import Labels, Logits, Predictions, Problem

REMEDY = (
    "Labels of choices are numbers from 0 or from 1, or letters from A, in all rows; config.data.label_names names "
    "them otherwise, one name per choice."
)


class MultipleChoice(Problem):
    """One of a row's choices.  Labels are i32[N], numbers of choices from 0, -1 where a row has none.

    In files, a label is such a number, one counted from 1, or a letter; label_names are all of these that the longest
    row can have.
    """

    name = "multiple_choice"
    unit = "question"
    one_slot = False
    choices = True
    head = "choice"
    metrics = {"accuracy": accuracy}
    table_metrics = ("accuracy",)
    bounds = {"accuracy": (0, 1)}
    hub_task = "multiple-choice"

    def num_outputs(self, task: Task) -> int:
        return 1

    def output_names(self, task: Task) -> tuple[str, ...]:
        return ()

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        place_of: dict[str, str] = {}
        given = [(label, cell) for cell in cells if (label := _label(cell).text)]
        for label, cell in given:
            place_of.setdefault(label, cell.place)
        most = max((_count(cell) for cell in cells), default=0)
        numberings, misfits = _numberings(most), []
        for names in numberings:
            ids = {name: number for number, name in enumerate(names)}
            misfits.append([cell for label, cell in given if ids.get(label, most) >= _count(cell)])
        found = [names for names, cells_ in zip(numberings, misfits, strict=True) if not cells_]
        if not found:
            odd = min(misfits, key=len)[0]
            raise UserError(f"{odd.place}: {REMEDY} The label here is {_label(odd).text!r}, of {_count(odd)} choices.")
        if given and len(found) > 1 and "0" not in place_of:
            raise UserError(f"{given[0][1].place}: no label is 0 or the highest number. {REMEDY}")
        return {name: place_of.get(name, "") for name in found[0]}

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        ids = {code: number for number, code in enumerate(codes)}
        return np.array(read_rows(lambda cell: _read(cell, ids), cells), np.int32)

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return np.asarray(label >= 0)

    def targets(self, split: Split, examples: Examples, task: Task) -> Examples:
        """The examples with labels i32[M, 2] of the slots: whether it is the right choice, and the choice's number."""
        counts = np.diff(examples.slot_offsets)
        number = np.arange(counts.sum()) - np.repeat(examples.slot_offsets[:-1], counts)
        right = number == np.repeat(split.label, counts)
        return dataclasses.replace(examples, label=np.stack([right, number], axis=-1).astype(np.int32))

    def describe_label(self, label: Any, task: Task) -> str:
        return task.label_names[label]

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        return np.bincount(label[label >= 0], minlength=len(task.label_names))

    def loss(
        self, logits: Float[Array, "G S C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "G S"], Float[Array, "G S"]]:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        right, number = batch["label"][..., 0] > 0, batch["label"][..., 1]
        first = jnp.arange(number.shape[-1])[None] - number  # the slots of an example are neighbours
        sums = segments.log_sums(logits, first, batch["weight"] > 0)
        return jnp.where(right, (sums - logits)[..., 0], 0.0), right.astype(logits.dtype)

    def decode(self, logits: Ragged, task: Task) -> Predictions:
        rows = [row[:, 0].astype(np.float64) for row in logits]
        chosen = np.array([int(np.argmax(row)) for row in rows], np.int32)
        shares = Ragged.of([scipy.special.softmax(row) for row in rows], np.float64)
        return Predictions(chosen, [task.label_names[choice] for choice in chosen], shares)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        right = examples.label[:, 0] > 0
        sums = segments.log_sums_of_rows(logits, examples.slot_offsets)
        return float((sums - logits)[right].mean())

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        return jackknife.of_classes(metric, np.stack([*predicted]), label)

    def constant(self, label: Labels) -> Labels:
        return np.full_like(label, np.bincount(label).argmax())

    def details(self, logits: Ragged, predicted: Predictions, split: Split, task: Task) -> dict[str, list[Any]]:
        """{"choice": the text of the predicted choice of each row}."""
        assert split.choices is not None, "a split of this kind has choices"
        return {"choice": [row[number] for row, number in zip(split.choices, predicted.values, strict=True)]}

    def columns(self, logits: Ragged, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        found = self.decode(logits, task)
        assert found.probabilities is not None
        return {"predicted": found.labels, "probability": [float(row.max()) for row in found.probabilities]}

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return [task.label_names[choice] if choice >= 0 else "" for choice in label]


def _numberings(count: int) -> list[list[str]]:
    """The ways to name so many choices: from 0, from 1, by capital and by small letters."""
    letters = [string.ascii_uppercase, string.ascii_lowercase]
    return [[str(i + first) for i in range(count)] for first in (0, 1)] + [[*some[:count]] for some in letters]


def _label(cell: Cell) -> Cell:
    """The cell of the label alone."""
    return dataclasses.replace(cell, value=cell.value[0])


def _count(cell: Cell) -> int:
    """The number of choices of a cell's row."""
    return len(choices.list_of(cell.value[1]))


def _read(cell: Cell, ids: Mapping[str, int]) -> int:
    label = _label(cell)
    if not label.text:
        if cell.required:
            raise cell.missing()
        return -1
    if label.text not in ids:
        raise label.unknown(label.text, ids)
    if ids[label.text] >= _count(cell):
        raise UserError(
            f"{cell.place}: the label {label.text!r} names none of {_count(cell)} choices. Correct the row."
        )
    return ids[label.text]


MULTIPLE_CHOICE = MultipleChoice()
