"""The rows of a file: columns of what was read, with the line of each row and messages about malformed ones."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fjt.core.errors import BadRows, UserError, read_rows
from fjt.data.labels import BYTE_ORDER_MARK

Column = TypeVar("Column")
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The requested columns of a file.

    Attributes:
        path: the file.
        values: {role: values}, one value per row: str, or any value that JSON and Parquet can hold.
        numbers: the number of each row from 0, counting skipped rows.
        lines: the line of the file on which each row starts (Parquet, SQuAD: the row, from 1).
        faults: {line: message} of malformed rows, which are absent from the other attributes; `columns` raises them.
    """

    path: str
    values: dict[str, list[Any]]
    numbers: list[int]
    lines: list[int]
    faults: dict[int, str]

    def place(self, row: int) -> str:
        """'file:line' of a row, for messages."""
        return f"{self.path}:{self.lines[row]}"

    def texts(self, role: str, remedy: str, blank: bool = True) -> list[str]:
        """The texts of a column.

        Args:
            role: of the column.
            remedy: ends the message about a cell that is not text.
            blank: whether a text may be empty.

        Raises:
            BadRows: cells that are not text, or not valid Unicode, or empty.
        """
        return self.read(role, lambda value, place: text_of(value, place, remedy, blank))

    def read(self, role: str, read: Callable[[Any, str], Item]) -> list[Item]:
        """A column's values as `read(value, place)` returns them.  Raises BadRows where it raises UserError."""
        return read_rows(lambda cell: read(cell[1], self.place(cell[0])), enumerate(self.values[role]))

    def columns(self, readers: Mapping[str, Callable[[], Column]]) -> dict[str, Column]:
        """{name: the value of its reader}.

        Args:
            readers: {name: function that returns a column, or raises BadRows with rows counted from 0}.

        Raises:
            BadRows: all malformed rows of the file, and those of all readers.
        """
        found, faults = {}, dict(self.faults)
        for name, read in readers.items():
            try:
                found[name] = read()
            except BadRows as error:
                for row, text in error.faults.items():
                    faults.setdefault(self.lines[row], text)
        if faults:
            raise BadRows(faults)
        return found


def text_of(value: Any, place: str, remedy: str, blank: bool = True) -> str:
    """The text of a cell, without byte-order marks.

    Args:
        value: of the cell.
        place: for the message.
        remedy: ends the message about a value that is not text.
        blank: whether it may be empty.

    Raises:
        UserError: not text; halves of surrogate pairs, which JSON and Python allow; or an empty text.
    """
    if not isinstance(value, str):
        raise UserError(f"{place}: {value!r:.80} is not text. {remedy}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: the text is not valid Unicode: {value!r:.80}. Correct or remove it.") from None
    value = value.replace(BYTE_ORDER_MARK, "")
    if not blank and not value.strip():
        raise UserError(f"{place}: the text is empty. Correct or remove the row.")
    return value


def words_of(value: Any, place: str) -> tuple[str, ...]:
    """The words of a list.  Raises UserError for an empty list, and for a value that is not a list of words."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise UserError(
            f"{place}: {value!r:.80} is not a list of words. Give a .conll file, or a .jsonl or "
            ".parquet file with lists of words and of tags."
        )
    if not len(value):
        raise UserError(f"{place}: the sentence has no words. Remove the row.")
    remedy = "A word should be text that is not empty."
    return tuple(text_of(word, f"{place}, word {at}", remedy, blank=False) for at, word in enumerate(value, 1))


# (number of a row, its line, {role: value} or the message about a malformed row)
Found = Iterator[tuple[int, int, dict[str, Any] | str]]


def in_parts(path: str, found: Found, size: int, roles: Collection[str], some: bool = False) -> Iterator[Rows]:
    """Yields Rows of `size` rows each, 0 for all; at least one, which may be empty.

    Args:
        path: the file.
        found: its rows.
        size: see above.
        roles: of the columns.
        some: whether a part is without the columns that none of its rows has.
    """
    for number in itertools.count():
        rows = list(itertools.islice(found, size or None))
        if number and not rows:
            return
        good = [(at, line, row) for at, line, row in rows if isinstance(row, dict)]
        there = {role for _, _, row in good for role in row} if some and good else roles
        yield Rows(
            path,
            {role: [row.get(role) for _, _, row in good] for role in roles if role in there},
            [at for at, _, _ in good],
            [line for _, line, _ in good],
            {line: row for _, line, row in rows if isinstance(row, str)},
        )
