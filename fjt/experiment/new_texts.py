"""New texts for a finished run, from files and lines: part by part, so that no more than one part is in memory."""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from fjt.core.errors import BadRows, UserError
from fjt.data import choices, conll, encoding, labels, reading, squad, tables, words
from fjt.data.glue import Split
from fjt.data.rows import Rows, text_of

if TYPE_CHECKING:
    from fjt.experiment.loaded_run import Run

LINE = "line"  # the role of the lines of a plain text


@dataclasses.dataclass(frozen=True)
class Source:
    """Where new texts are.

    Attributes:
        path: a file, or "-" for the lines of stdin.
        text: the column of the texts; "" for that of the run's own table.
        text_pair: the column of the second texts, likewise.
        id: the column of identifiers; "": numbers.
        header: whether the first line of a CSV or TSV names the columns.
    """

    path: str
    text: str = ""
    text_pair: str = ""
    id: str = ""
    header: bool = True

    @property
    def has_lines(self) -> bool:
        """Whether each line is a text."""
        return self.path == "-" or self.path.lower().endswith(".txt")


def count(run: "Run", source: Source, size: int) -> int:
    """The number of texts, after all of them were read.

    Args:
        run: a finished run.
        source: a file.
        size: number of rows in memory.

    Raises:
        BadRows: the rows that cannot be read; the message has file and line.
        UserError: the file cannot be read.
    """
    total, faults, first = 0, {}, {}
    for rows in _read(run, source, size):
        try:
            split = _split(run, source, rows)
        except BadRows as error:
            faults |= error.faults
            continue
        total += len(split)
        for row, name in enumerate(split.id if run.problem.contexts and "id" in rows.values else ()):
            if (place := first.setdefault(name, rows.place(row))) != rows.place(row):
                faults[rows.lines[row]] = labels.same_id(rows.place(row), name, place)
    if faults:
        raise BadRows(faults)
    return total


def read(run: "Run", source: Source, size: int) -> Iterator[Split]:
    """Yields the rows of a source without labels, `size` at a time (0: all at once).

    Args:
        run: a finished run.
        source: the source.
        size: see above.

    Raises:
        UserError: it cannot be read; the message has file and line.
    """
    return (_split(run, source, rows) for rows in _read(run, source, size))


def _read(run: "Run", source: Source, size: int) -> Iterator[Rows]:
    path = source.path
    if source.has_lines:
        for name in ("text", "text_pair", "id"):
            if getattr(source, name):
                raise UserError(f"--{name} names a column, but --input={path} has one text per line.")
        return _read_lines(path, size)
    if not os.path.isfile(path):
        raise UserError(f"--input={path} does not exist.")
    parts = tables.read_parts(
        path,
        columns(run, source),
        size,
        header=source.header,
        optional=("text_pair",) if _either(run) and not source.text_pair else (),
        remedy="Name it with --{role}=COLUMN; a file without a header is read with --no-header and columns by number.",
    )
    return _not_empty(parts, f"--input={path} has no rows.")


def _not_empty(parts: Iterator[Rows], message: str) -> Iterator[Rows]:
    first = next(parts)
    if not first.lines and not first.faults:
        raise UserError(message)
    yield first
    yield from parts


def _either(run: "Run") -> bool:
    """Whether texts may have a second one, or none."""
    return run.pairs and run.singles


def columns(run: "Run", source: Source) -> dict[str, str]:
    """{role: column} of a table."""
    path, own = source.path, run.config["data"]["columns"]
    columns = {"text": source.text or text_column(run, path)}
    if run.problem.choices:
        columns |= {f"{reading.CHOICE_COLUMNS}{name}": str(name) for name in own["choices"]}
        columns |= {"text_pair": name} if (name := source.text_pair or own["text_pair"]) else {}
    elif run.pairs:
        second = "context" if path.lower().endswith(squad.SUFFIX) else own["text_pair"]
        columns["text_pair"] = source.text_pair or second or "text_pair"
    elif source.text_pair:
        raise UserError(f"--text_pair={source.text_pair}: the run in {run.path} reads single texts.")
    if source.id or path.lower().endswith(squad.SUFFIX):
        columns["id"] = source.id or "id"
        if path.lower().endswith(conll.SUFFIXES):
            raise UserError(f"--id={source.id}: the sentences of {path} have no ids. Leave the option out.")
    return columns


def text_column(run: "Run", path: str) -> str:
    """The column of the texts, unless the user names one: that of the run's own file, if it has such columns too."""
    data = run.config["data"]
    own, trained = data["columns"]["text"], data["files"]["train"]
    here, there = (os.path.splitext(file)[1].lower() in conll.SUFFIXES for file in (path, trained))
    universal = path.lower().endswith(".conllu")
    if path.lower().endswith(squad.SUFFIX):
        return "question"
    if here and (not there or not (universal or own.lstrip("-").isdecimal())):
        return "form" if universal else "0"
    return "text" if there and not here else own


def _split(run: "Run", source: Source, rows: Rows) -> Split:
    """The Split of some rows of a source."""
    readers: dict[str, Callable[[], Any]] = {}
    if "id" in rows.values:
        readers["id"] = lambda: (
            labels.unique_ids(rows.values["id"], rows.place) if run.problem.contexts else rows.read("id", labels.id_of)
        )
    if LINE in rows.values:
        readers["found"] = lambda: rows.read(LINE, functools.partial(_read_line, run))
    elif run.problem.words:
        readers["found"] = lambda: rows.read("text", words.read)
    else:
        readers |= _readers(run, rows)
    columns = rows.columns(readers)
    ids = columns.get("id", map(str, rows.numbers))
    if "found" in columns:
        texts, second = [text for text, _ in columns["found"]], [more for _, more in columns["found"]]
        if run.problem.words or run.problem.choices:
            return Split.unlabelled(ids, texts, **{"words" if run.problem.words else "choices": second})
        return Split.unlabelled(ids, texts, second if run.pairs else None)
    pairs = columns.get("text_pair", [None] * len(rows.lines) if _either(run) else None)
    return Split.unlabelled(ids, columns["text"], pairs, choices=columns.get("choices"))


def _readers(run: "Run", rows: Rows) -> dict[str, Callable[[], Any]]:
    """{role: function that returns the column} of texts in a table."""
    remedy = "--{role}=COLUMN should name a text column."
    found: dict[str, Callable[[], Any]] = {"text": lambda: rows.texts("text", remedy.format(role="text"))}
    if run.problem.choices:
        return found | {"choices": lambda: reading.read_choices(rows, remedy)}
    if "text_pair" in rows.values:
        empty, said = (None, "") if _either(run) else (), remedy.format(role="text_pair")

        def second(value: Any, place: str) -> str | None:
            return None if value in empty else text_of(value, place, said)

        found["text_pair"] = lambda: rows.read("text_pair", second)
    return found


def _read_lines(path: str, size: int) -> Iterator[Rows]:
    """Yields the lines of a text file or of stdin, as bytes."""
    try:
        with open(path, "rb") if path != "-" else contextlib.nullcontext(sys.stdin.buffer) as file:
            yield from _not_empty(_line_parts(path, file, size), f"--input={path} has no lines.")
    except OSError as error:
        raise UserError(f"--input={path} cannot be read: {error.strerror or error}.") from None


def _line_parts(path: str, file: IO[bytes], size: int) -> Iterator[Rows]:
    encoding.check(path, getattr(file, "peek", bytes)(encoding.START)[: encoding.START])
    lines = (line for block in file for line in block.splitlines())  # which a carriage return alone ends, too
    for start in itertools.count(0, size or 1):
        found = list(itertools.islice(lines, size or None))
        if start and not found:
            return
        numbers = list(range(start, start + len(found)))
        yield Rows(path, {LINE: found}, numbers, [number + 1 for number in numbers], {})


def _read_line(run: "Run", line: bytes, place: str) -> tuple[str, Any]:
    """(text, its words, its choices, or its second text, None where it has none) of a line."""
    text = encoding.decode(line, place)
    if run.problem.words:
        return words.read(text, place)
    if run.problem.choices:
        text, *rest = text.split("\t")
        return text_of(text, place, ""), choices.read([rest], place)
    texts = text.split("\t") if run.pairs else [text]
    texts = texts[:1] if run.singles and texts[1:] == [""] else texts
    if len(texts) > 2 or (len(texts) == 1 and not run.singles):
        raise UserError(f"{place}: {len(texts)} texts, but the run reads pairs: two texts with a tab between them.")
    first, *rest = [text_of(text, place, "") for text in texts]
    return first, rest[0] if rest else None
