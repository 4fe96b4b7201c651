"""How each format of tables is read: a function of a file that yields its Rows in parts.

`size` is the number of rows of a part, 0 for all in one.  Messages name the line.
"""

import collections
import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from fjt.core.errors import UserError
from fjt.data import conll, documents, squad
from fjt.data.labels import BYTE_ORDER_MARK
from fjt.data.rows import Found, Rows, in_parts


@dataclasses.dataclass(frozen=True)
class Finder:
    """Which columns of a file are asked for.

    Attributes:
        path: the file, for messages.
        columns: {role: column name}.
        optional: roles whose column may be missing.
        remedy: what to do about a missing column, for messages; `{role}` is replaced by its role.
    """

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


Records = Iterator[tuple[int, list[str] | UserError]]  # (line of a row's start, its fields, [] for none, or its fault)


def tsv_records(lines: Iterable[str]) -> Records:
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        yield number, line.split("\t") if line else []


def csv_records(path: str, lines: Iterable[str]) -> Records:
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


def delimited(path: str, records: Records, find: Finder, header: bool, drop_short: bool, size: int) -> Iterator[Rows]:
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

    def rows() -> Found:
        for number, (line, fields) in enumerate(records):
            if drop_short and isinstance(fields, list) and len(fields) < len(names):
                continue
            fault = _fault(f"{path}:{line}", fields, names, header)
            good = {} if isinstance(fields, UserError) or fault else {r: fields[at] for r, at in positions.items()}
            yield number, line, fault or good

    return in_parts(path, rows(), size, positions)


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


def json_lines(path: str, lines: Iterable[str], find: Finder, size: int) -> Iterator[Rows]:
    """A key that only some rows have is a column; the other rows are empty there."""

    def rows() -> Found:
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

    return in_parts(path, rows(), size, find.columns, some=True)


def plain_text(path: str, lines: Iterable[str], find: Finder, size: int) -> Iterator[Rows]:
    """Of a plain text, one row per document; its only column is `text`."""
    find.among(["text"])
    found = enumerate(documents.read(lines))
    return in_parts(path, ((number, line, {"text": text}) for number, (line, text) in found), size, ("text",))


def sentences(path: str, lines: Iterable[str], find: Finder, size: int) -> Iterator[Rows]:
    """Of sentences: lists of words and of tags; `cluster` is the document, where the file marks several."""
    columns = dict(find.columns)
    if others := columns.keys() - {"text", "label"}:
        raise UserError(f"config.data.columns.{min(others)}: {path} has words and tags alone. Leave it out.")
    if "label" in find.optional and not conll.has_tags(lines := list(lines), columns["label"]):
        del columns["label"]
    universal = path.lower().endswith(".conllu")

    def rows() -> Found:
        number = 0
        for start, sentence in conll.read(path, lines, columns):
            if isinstance(sentence, UserError):
                yield number, start, str(sentence)
                continue
            unknown = {role for role in ("label",) if universal and set(sentence[0].get(role, ())) == {conll.UNKNOWN}}
            found = {role: None if role in unknown else words for role, words in sentence[0].items()}
            yield number, start, found | {"cluster": sentence[1]}
            number += 1

    for part in in_parts(path, rows(), size, (*columns, "cluster")):
        if len(set(part.values["cluster"])) < 2:
            del part.values["cluster"]
        yield part


def questions(path: str, file: IO[str], find: Finder, size: int) -> Iterator[Rows]:
    text = file.read()
    try:
        records = squad.rows_of(path, json.loads(text, object_pairs_hook=_without_repeats))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}.") from None
    names = [name for name in squad.NAMES if any(name in record for record in records)]
    name_by_role = find.among(names) if records else find.columns
    found = ({role: record.get(name) for role, name in name_by_role.items()} for record in records)
    return in_parts(path, ((at, at + 1, row) for at, row in enumerate(found)), size, name_by_role)


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


def parquet(path: str, find: Finder, size: int) -> Iterator[Rows]:
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
