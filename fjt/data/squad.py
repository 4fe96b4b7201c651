"""SQuAD's files (versions 1.1 and 2.0) as rows: a question, its context, and answers that are spans of the context.

The label of a question is text: a JSON list of its answers, each [text, start in characters], or "" where the answers
are unknown.  `[]` says that the context holds none.  A predicted label has at most one answer, without its start.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fjt.core.errors import UserError
from fjt.data.labels import BYTE_ORDER_MARK

SUFFIX = ".json"
NAMES = ("id", "title", "context", "question", "answers")  # the columns of a file
UNKNOWN = ""

Answer = tuple[str, int]  # (text, its first character in the context)


def labels_of(rows: Iterable[Sequence[Any] | None]) -> np.ndarray:
    """The labels of rows, of numpy's type for texts of any length.  rows: answers of each, None where unknown."""
    texts = [UNKNOWN if row is None else json.dumps(list(row), ensure_ascii=False) for row in rows]
    return np.array(texts, np.dtypes.StringDType())


def answers_of(label: str) -> list[Any]:
    """The answers of a label, each [text, start] or [text]."""
    return json.loads(label) if label else []


def texts_of(label: str) -> list[str]:
    """The texts of the answers of a label."""
    return [answer[0] for answer in answers_of(label)]


def read_answers(value: Any, context: str, place: str) -> tuple[list[Answer], int]:
    """(the answers in a cell, how many were moved to where the context has them).

    An answer that is not at its start is moved to the nearest place that has its text.

    Args:
        value: a list of {text, answer_start}, as in SQuAD's files, or an object {text: list, answer_start: list}.
        context: the text that holds the answers.
        place: for messages.

    Raises:
        UserError: the value has another form, or an answer is not in the context.
    """
    found, moved, context = [], 0, context.replace(BYTE_ORDER_MARK, "")
    for text, start in _pairs(value, place):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place}: {text!r:.80} is not an answer. Give its text; without an answer, an empty list.")
        if isinstance(start, bool) or not isinstance(start, int | np.integer):
            raise UserError(f"{place}: answer_start={start!r:.80} of {text!r:.80} is not a whole number. Correct it.")
        text = text.replace(BYTE_ORDER_MARK, "")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: the answer {text!r:.80} is not valid Unicode. Correct it.") from None
        if not context.startswith(text, start) or start < 0:
            places = list(_places(text, context))
            if not places:
                raise UserError(f"{place}: the answer {text!r:.80} is not in its context. Correct or remove the row.")
            start, moved = min(places, key=lambda at, start=start: abs(at - start)), moved + 1
        found.append((text, int(start)))
    return found, moved


def _pairs(value: Any, place: str) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping) and {"text", "answer_start"} <= value.keys():
        columns = [value["text"], value["answer_start"]]
        if all(isinstance(column, list) for column in columns) and len(columns[0]) == len(columns[1]):
            return list(zip(*columns, strict=True))
    if isinstance(value, list) and all(isinstance(x, Mapping) and {"text", "answer_start"} <= x.keys() for x in value):
        return [(answer["text"], answer["answer_start"]) for answer in value]
    raise UserError(
        f"{place}: {value!r:.80} is not a list of answers. Give a list of objects with `text` and `answer_start`, or "
        "an object of two such lists."
    )


def _places(text: str, context: str) -> Iterator[int]:
    at = context.find(text)
    while at >= 0:
        yield at
        at = context.find(text, at + 1)


def rows_of(path: str, data: Any) -> list[dict[str, Any]]:
    """The questions of a file, {column: value}; a column among NAMES that the file lacks is absent.

    Args:
        path: the file, for messages.
        data: its contents.

    Raises:
        UserError: an entry is missing or of another type.
    """
    found = []
    for i, article in enumerate(_entry(data, "data", list, path)):
        where = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_entry(article, "paragraphs", list, where)):
            here = f"{where}.paragraphs[{j}]"
            about = {"context": _entry(paragraph, "context", str, here)}
            for k, question in enumerate(_entry(paragraph, "qas", list, here)):
                row = about | {"question": _entry(question, "question", str, f"{here}.qas[{k}]")}
                for name, source in (("id", question), ("title", article), ("answers", question)):
                    row |= {name: source[name]} if name in source else {}
                found.append(row)
    return found


def _entry(value: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(name), kind):
        raise UserError(
            f"{place} has no {name!r} that is a {kind.__name__}. Give a file in the layout of SQuAD, or a .jsonl file "
            "with a question, a context and answers per line."
        )
    return value[name]
