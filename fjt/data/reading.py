"""The rows of a file as a Split: each role's column read by its own reader, and the columns held against each other."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from fjt.core.errors import BadRows, UserError, read_rows
from fjt.core.ragged import Ragged
from fjt.data import choices, labels
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.data.rows import Rows, words_of

LABEL_COLUMNS = "labels:"  # prefix of a label's name in the role of its own column
CHOICE_COLUMNS = "choices:"  # likewise, of a choice
TEXT_REMEDY = "config.data.columns.{role} should name a text column."


@runtime_checkable
class LabelReader(Protocol):
    """The part of a `Problem` that reading needs (`fjt.tasks.problem`, which this room does not import)."""

    name: ClassVar[str]
    words: ClassVar[bool]
    contexts: ClassVar[bool]
    choices: ClassVar[bool]
    documents: ClassVar[bool]
    table_metrics: ClassVar[tuple[str, ...]]

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]: ...

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Any: ...

    def describe_label(self, label: Any, task: Task) -> str: ...

    def count_labels(self, label: Any, task: Task) -> Int[np.ndarray, " C"]: ...


def cells(rows: Rows, problem: LabelReader, required: bool) -> list[Cell]:
    """The label Cell of each row; missing values where there is no label column.

    Where labels are spans of contexts, the value of a cell is (answers, context); where they are numbers of choices,
    (label, cells of the choices).
    """
    values = rows.values.get("label", [None] * len(rows.lines))
    columns = [role for role in rows.values if role.startswith(LABEL_COLUMNS)]
    if columns:
        names = [role.removeprefix(LABEL_COLUMNS) for role in columns]
        each = zip(*(rows.values[role] for role in columns), strict=True)
        values = [dict(zip(names, answers, strict=True)) for answers in each]
    if problem.contexts:
        values = list(zip(values, rows.values["text_pair"], strict=True))
    if problem.choices:
        values = list(zip(values, _choice_cells(rows), strict=True))
    return [Cell(value, rows.place(row), required) for row, value in enumerate(values)]


def split(rows: Rows, problem: LabelReader, codes: Sequence[str], required: bool, blank: bool = True) -> Split:
    """The Split of rows.

    Args:
        rows: of a file.
        problem: reads the labels.
        codes: this file's spelling of each label, by id.
        required: whether each row must have its label.
        blank: whether a text may be empty.
    """

    readers: dict[str, Callable[[], Any]] = {
        "text": lambda: _texts(rows, "text", blank),
        "text_pair": lambda: _texts(rows, "text_pair", True) if "text_pair" in rows.values else None,
        "id": lambda: tuple(rows.read("id", labels.id_of)) if "id" in rows.values else tuple(map(str, rows.numbers)),
        "cluster": lambda: tuple(rows.read("cluster", _source_of)) if "cluster" in rows.values else None,
        "label": lambda: problem.read_labels(cells(rows, problem, required), codes),
    }
    if problem.contexts and "id" in rows.values:
        readers["id"] = lambda: labels.unique_ids(rows.values["id"], rows.place)
    if problem.choices:
        readers |= {"text_pair": lambda: None, "choices": lambda: read_choices(rows)}
        return Split(**rows.columns(readers))
    if not problem.words:
        return Split(**rows.columns(readers))
    texts: Any = rows.columns({"words": lambda: tuple(rows.read("text", words_of))})["words"]
    readers["text"] = lambda: tuple(map(" ".join, texts))
    columns = rows.columns(readers)
    _check_counts(rows, texts, columns["label"])
    return Split(words=texts, **columns)


def _choice_cells(rows: Rows) -> list[tuple[Any, ...]]:
    """The cells of the choices of each row, one per column."""
    return list(zip(*(rows.values[role] for role in rows.values if role.startswith(CHOICE_COLUMNS)), strict=True))


def read_choices(rows: Rows, remedy: str = TEXT_REMEDY) -> tuple[tuple[str, ...], ...]:
    """The choices of each row, which begin with its `text_pair` if there is that column.

    Args:
        rows: of a file.
        remedy: as for `_texts`.

    Raises:
        BadRows: a choice is missing, or not text.
    """
    role = "text_pair"
    prefixes = rows.texts(role, remedy.format(role=role)) if role in rows.values else [""] * len(rows.lines)
    found = list(enumerate(zip(_choice_cells(rows), prefixes, strict=True)))
    return tuple(read_rows(lambda cell: choices.read(cell[1][0], rows.place(cell[0]), cell[1][1]), found))


def _check_counts(rows: Rows, texts: Sequence[Sequence[str]], label: Ragged) -> None:
    """Raises BadRows for sentences with another number of tags than of words."""
    faults = {}
    for row, (words, count) in enumerate(zip(texts, label.lengths, strict=True)):
        if count not in (0, len(words)):
            faults[row] = f"{rows.place(row)}: {len(words)} words and {count} tags. Give each word one tag."
    if faults:
        raise BadRows(faults)


def _texts(rows: Rows, role: str, blank: bool) -> tuple[str, ...]:
    return tuple(rows.texts(role, TEXT_REMEDY.format(role=role), blank))


def _source_of(value: Any, place: str) -> str:
    """The name of a row's source.  Raises UserError where it is missing: such rows would share one source."""
    if not (name := labels.name_of(value, place, "cluster")):
        raise UserError(
            f"{place}: the row has no source (config.data.columns.cluster). Give rows of unknown source a name of "
            "their own each, or leave the option out."
        )
    return name
