"""Columns of files: .csv (quoted), .tsv (no quoting), .jsonl, .parquet, CoNLL, SQuAD, plain text.

Messages name the line.
"""

import collections
import csv
import dataclasses
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

import numpy as np

from fjt.core.errors import BadRows, UserError, read_rows, suggest
from fjt.data import conll, documents, encoding, squad
from fjt.data.labels import BYTE_ORDER_MARK

Column = TypeVar("Column")
Item = TypeVar("Item")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
READ = (*SUFFIXES, *conll.SUFFIXES, squad.SUFFIX, documents.SUFFIX)


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


def read(
    path: str,
    columns: Mapping[str, str],
    *,
    header: bool = True,
    optional: Collection[str] = (),
    drop_short: bool = False,
    remedy: str = "{role}",
) -> Rows:
    """The Rows of a file.  Its suffix decides the format.

    Args:
        path: the file.
        columns: {role: column name}; a number from 0, as text, in a CSV or TSV without a header.
        header: whether the first row of a CSV or TSV names the columns.
        optional: roles whose column may be missing; they are then absent from `values`.
        drop_short: whether rows with too few fields are left out instead of raising UserError.
        remedy: what to do about a missing column, for the message; `{role}` is replaced by its role.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    options = {"header": header, "optional": optional, "drop_short": drop_short, "remedy": remedy}
    return next(read_parts(path, columns, 0, **options))


def read_parts(path: str, columns: Mapping[str, str], size: int, **options: Any) -> Iterator[Rows]:
    """Yields the Rows of a file in parts, so that no more than one of them is in memory (SQuAD, CoNLL: all).

    Args:
        path: the file.
        columns: as for `read`.
        size: number of rows of a part; 0 for all in one.
        options: as for `read`.

    Raises:
        UserError: as for `read`.
    """
    suffix, header = os.path.splitext(path)[1].lower(), options.get("header", True)
    if suffix not in READ:
        raise UserError(f"{path}: the suffix {suffix!r} is not that of a known table format.{suggest(suffix, READ)}")
    find = _Finder(path, columns, options.get("optional", ()), options.get("remedy", "{role}"))
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path, find, size)
            return
        with open(path, "rb") as f:
            encoding.check(path, f.read(encoding.START))
        # Universal newlines for TSV, as csv.reader under TFDS sees them; csv itself ends the lines of a CSV.
        with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as f:
            if suffix == ".jsonl":
                yield from _read_jsonl(path, f, find, size)
            elif suffix == squad.SUFFIX:
                yield from _read_squad(path, f, find, size)
            elif suffix in conll.SUFFIXES:
                yield from _read_conll(path, f, find, size)
            elif suffix == documents.SUFFIX:
                yield from _read_documents(path, f, find, size)
            else:
                lines = (line.replace(BYTE_ORDER_MARK, "") for line in f)  # joined files have one in the middle
                records = _csv_records(path, lines) if suffix == ".csv" else _tsv_records(lines)
                yield from _read_delimited(path, records, find, header, options.get("drop_short", False), size)
    except UnicodeDecodeError:
        raise encoding.broken(path) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def column_names(path: str, header: bool = True) -> list[str]:
    """The names of the columns of a .csv, .tsv, .jsonl or .parquet file, numbers from 0 without a header; else [].

    Those of JSON lines are the keys of the first object.

    Args:
        path: the file, which can be read.
        header: whether the first row of a CSV or TSV names the columns.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(path).names)
    if suffix not in SUFFIXES:
        return []
    with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as file:
        if suffix == ".jsonl":
            return next((list(json.loads(line)) for line in file if line.strip()), [])
        records = _csv_records(path, file) if suffix == ".csv" else _tsv_records(file)
        first = next((fields for _, fields in records if fields), [])
    names = [] if isinstance(first, UserError) else first
    return names if header else list(map(str, range(len(names))))


# (number of a row, its line, {role: value} or the message about a malformed row)
_Found = Iterator[tuple[int, int, dict[str, Any] | str]]


def _parts(path: str, found: _Found, size: int, roles: Collection[str], some: bool = False) -> Iterator[Rows]:
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


@dataclasses.dataclass(frozen=True)
class _Finder:
    path: str
    columns: Mapping[str, str]
    optional: Collection[str]
    remedy: str

    def among(self, names: list[str], line: int = 1, fields: Sequence[str] = ()) -> dict[str, str]:
        """{role: name} of the requested columns, without optional columns that are not among `names`.

        Args:
            names: of the columns.
            line: where they are, for messages.
            fields: of the first row, if it has others than the names.
        """
        name_by_role, count_of = {}, collections.Counter(names)
        for role, column in self.columns.items():
            if count_of[column] > 1:
                raise UserError(f"{self.path}:{line}: {count_of[column]} columns are called {column!r}; rename one.")
            if column in count_of:
                name_by_role[role] = column
            elif role not in self.optional:
                there, remedy = ", ".join(names), self.remedy.format(role=role.partition(":")[0])
                if len(names) == 1 and re.search(r"[;\t|,]", (fields or names)[0]):
                    remedy = (
                        "The separator does not match the suffix: fields of .csv are separated by commas, of .tsv by "
                        "tabs."
                    )
                raise UserError(f"{self.path}:{line}: no column {column!r}; there are: {there}. {remedy}")
        return name_by_role


def tsv(rows: Iterable[Iterable[Any]]) -> str:
    """The text of a TSV that `read` can read.  It has no quotes: a tab or line break in a field becomes a blank."""
    return "".join("\t".join(" ".join(re.split(r"[\t\r\n]+", str(x))) for x in row) + "\n" for row in rows)


def cell(value: Any) -> Any:
    """A value as a table has it: words or tags with blanks between them, other lists and dicts as JSON, "" for None."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list | tuple):
        return value
    return (
        " ".join(value) if value and all(isinstance(x, str) for x in value) else json.dumps(value, ensure_ascii=False)
    )


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV that `read` can read, with lines that end in a line feed."""
    lines = []
    for row in rows:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(row)  # quotes a bare carriage return only if lines end in one
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


Records = Iterator[tuple[int, list[str] | UserError]]  # (line of a row's start, its fields, [] for none, or its fault)


def _tsv_records(lines: Iterable[str]) -> Records:
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        yield number, line.split("\t") if line else []


def _csv_records(path: str, lines: Iterable[str]) -> Records:
    # A field may be as long as a document; `strict` raises at the end of the file for a quote that never closes.
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True)
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        remedy = "Write a quote inside a quoted field twice, and separate the fields by commas."
        yield start, UserError(f"{path}:{start}: {error}. {remedy}")
    finally:
        csv.field_size_limit(limit)


def _read_delimited(
    path: str, records: Records, find: _Finder, header: bool, drop_short: bool, size: int
) -> Iterator[Rows]:
    first = next((record for record in records if record[1]), None)
    if first is None:
        raise UserError(f"{path} is empty; it needs {'a header and ' if header else ''}at least one row.")
    line, names = first
    if isinstance(names, UserError):
        raise names
    # An empty line of a table of one column is an empty cell; in other tables it is not a row.
    fields, single = names, len(names) == 1
    records = ((line, cells or [""]) for line, cells in records if cells or single)
    if not header:
        names = [str(number) for number in range(len(fields))]
        records = itertools.chain([first], records)
    positions = {role: names.index(name) for role, name in find.among(names, line, fields).items()}

    def rows() -> _Found:
        for number, (line, fields) in enumerate(records):
            if drop_short and isinstance(fields, list) and len(fields) < len(names):
                continue
            fault = _fault(f"{path}:{line}", fields, names, header)
            good = {} if isinstance(fields, UserError) or fault else {r: fields[at] for r, at in positions.items()}
            yield number, line, fault or good

    return _parts(path, rows(), size, positions)


def _fault(place: str, fields: list[str] | UserError, names: Sequence[str], header: bool) -> str:
    """The message about a malformed row, "" for a good one.  header: whether the first row names the columns."""
    if isinstance(fields, UserError):
        return str(fields)
    if len(fields) != len(names):
        return (
            f"{place}: the row has {len(fields)} fields, but {'the header' if header else 'the first row'} has "
            f"{len(names)}. Correct or remove the row. A CSV field with commas must be quoted; a TSV field cannot "
            "contain a tab."
        )
    if header and sorted(map(_folded, fields)) == sorted(map(_folded, names)):
        return f"{place}: the row repeats the header, as where two files were joined. Remove the row."
    return ""


def _folded(name: str) -> str:
    return name.strip().casefold()


def _read_jsonl(path: str, lines: Iterable[str], find: _Finder, size: int) -> Iterator[Rows]:
    """A key that only some rows have is a column; the other rows are empty there."""

    def rows() -> _Found:
        number = 0
        for line, text in enumerate(lines, 1):
            if not (text := text.replace(BYTE_ORDER_MARK, "").strip()):
                continue
            try:
                record = _read_object(text, f"{path}:{line}")
                names = find.among(list(record), line)
            except UserError as error:
                yield number, line, str(error)
                continue
            yield number, line, {role: record[name] for role, name in names.items()}
            number += 1

    return _parts(path, rows(), size, find.columns, some=True)


def _read_documents(path: str, lines: Iterable[str], find: _Finder, size: int) -> Iterator[Rows]:
    """Of a plain text, one row per document; its only column is `text`."""
    find.among(["text"])
    found = enumerate(documents.read(lines))
    return _parts(path, ((number, line, {"text": text}) for number, (line, text) in found), size, ("text",))


def _read_conll(path: str, lines: Iterable[str], find: _Finder, size: int) -> Iterator[Rows]:
    """Of sentences: lists of words and of tags; `cluster` is the document, where the file marks several."""
    columns = dict(find.columns)
    if others := columns.keys() - {"text", "label"}:
        raise UserError(f"config.data.columns.{min(others)}: {path} has words and tags alone. Leave it out.")
    if "label" in find.optional and not conll.has_tags(lines := list(lines), columns["label"]):
        del columns["label"]
    universal = path.lower().endswith(".conllu")

    def rows() -> _Found:
        number = 0
        for start, sentence in conll.read(path, lines, columns):
            if isinstance(sentence, UserError):
                yield number, start, str(sentence)
                continue
            unknown = {role for role in ("label",) if universal and set(sentence[0].get(role, ())) == {conll.UNKNOWN}}
            found = {role: None if role in unknown else words for role, words in sentence[0].items()}
            yield number, start, found | {"cluster": sentence[1]}
            number += 1

    for part in _parts(path, rows(), size, (*columns, "cluster")):
        if len(set(part.values["cluster"])) < 2:
            del part.values["cluster"]
        yield part


def _read_squad(path: str, file: IO[str], find: _Finder, size: int) -> Iterator[Rows]:
    text = file.read()
    try:
        records = squad.rows_of(path, json.loads(text, object_pairs_hook=_without_repeats))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}.") from None
    names = [name for name in squad.NAMES if any(name in record for record in records)]
    name_by_role = find.among(names) if records else find.columns
    found = ({role: record.get(name) for role, name in name_by_role.items()} for record in records)
    return _parts(path, ((at, at + 1, row) for at, row in enumerate(found)), size, name_by_role)


def _read_object(text: str, place: str) -> dict[str, Any]:
    """The object on a line of JSON."""
    try:
        record = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # ValueError: also for a number of more than 4,300 digits
        raise UserError(f"{place}: not JSON: {error}. Write one object per line.") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: the line is of type {type(record).__name__}. Write one object {{...}} per line.")
    return record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of the pairs.  Raises ValueError for a key that is there twice: the last value would win."""
    record = dict(pairs)
    if len(record) < len(pairs):
        key = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {key!r} is there twice")
    return record


def _read_parquet(path: str, find: _Finder, size: int) -> Iterator[Rows]:
    import pyarrow
    import pyarrow.parquet

    start = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            name_by_role = find.among(file.schema_arrow.names)
            names = list(name_by_role.values())
            if size:
                tables = map(pyarrow.Table.from_batches, ([part] for part in file.iter_batches(size, columns=names)))
                tables = tables if file.metadata.num_rows else iter([file.read(columns=names)])
            else:
                tables = iter([file.read(columns=names)])
            for table in tables:
                yield _rows_of(path, table, name_by_role, start)
                start += table.num_rows
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _rows_of(path: str, table: Any, name_by_role: Mapping[str, str], start: int) -> Rows:
    """The Rows of a part of a Parquet file.  start: number of its first row."""
    import pyarrow

    values: dict[str, list[Any]] = {}
    for role, name in name_by_role.items():
        try:
            values[role] = table.column(name).to_pylist()
            kind = table.schema.field(name).type
            if pyarrow.types.is_floating(kind):  # 0.1 of 32 bits is the text 0.1, not 0.10000000149011612
                number = kind.to_pandas_dtype()
                values[role] = [None if x is None else float(str(number(x))) for x in values[role]]
        except (ValueError, pyarrow.ArrowException) as error:  # text that is not UTF-8; times that Python cannot hold
            raise UserError(f"{path}: the column {name!r} cannot be read: {error}. Write it again as text.") from None
    numbers = range(start, start + table.num_rows)
    return Rows(path, values, list(numbers), [number + 1 for number in numbers], {})
