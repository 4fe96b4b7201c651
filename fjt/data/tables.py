"""Columns of tables on disk: .csv (quoted), .tsv (no quoting), .jsonl, .parquet; faults are named with their line."""

import csv
import dataclasses
import itertools
import json
import os
import re

from fjt.core.errors import UserError, suggest

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The wanted columns of a file.

    values: {role: list}, one entry a row: str, or what JSON and Parquet hold.  numbers: each row's number from 0,
    skipped rows counted.  lines: the line of the file (Parquet: the row, from 1) that it starts on.
    """

    path: str
    values: dict
    numbers: list
    lines: list

    def place(self, row):
        """'file:line' of a row, for messages."""
        return f"{self.path}:{self.lines[row]}"


def read(path, columns, *, header=True, optional=(), drop_short=False, remedy="{role}"):
    """Rows of the file, its dialect decided by the suffix.  Raises UserError with file, line and remedy.

    columns: {role: column}, a name, or a number from 0 where a CSV or TSV has no header.  optional: roles whose column
    may be missing; they are then absent from `values`.  drop_short: leave out rows with too few fields instead of
    refusing them.  remedy: what to do about a missing column, `{role}` standing for its role.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix {suffix!r} is no known table.{suggest(suffix, SUFFIXES)}")
    find = _Finder(path, columns, optional, remedy)
    try:
        if suffix == ".parquet":
            return _read_parquet(path, find)
        if suffix == ".jsonl":
            return _read_jsonl(path, find)
        # Universal newlines for TSV, as csv.reader under TFDS sees them; csv itself ends the lines of a CSV.
        with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as f:
            records = _csv_records(path, f) if suffix == ".csv" else _tsv_records(f)
            return _read_delimited(path, records, find, header, drop_short)
    except UnicodeDecodeError:
        raise _broken_utf8(path) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


@dataclasses.dataclass(frozen=True)
class _Finder:
    path: str
    columns: dict
    optional: tuple
    remedy: str

    def among(self, names, line=1):
        """{role: name} of the wanted columns, the optional ones that are not among `names` left out."""
        found = {}
        for role, column in self.columns.items():
            if names.count(column) > 1:
                raise UserError(f"{self.path}:{line}: {names.count(column)} columns are called {column!r}; rename one.")
            if column in names:
                found[role] = column
            elif role not in self.optional:
                there, remedy = ", ".join(names), self.remedy.format(role=role)
                if len(names) == 1 and re.search(r"[;\t|]", names[0]):
                    remedy = (
                        "Its fields are parted by something else than the suffix says: .csv by commas, .tsv by tabs."
                    )
                raise UserError(f"{self.path}:{line}: no column {column!r}; there are: {there}. {remedy}")
        return found


def tsv(rows):
    """The text of a TSV as `read` takes it: no quotes, so a tab or a line break inside a field becomes a blank."""
    return "".join("\t".join(" ".join(re.split(r"[\t\r\n]+", str(x))) for x in row) + "\n" for row in rows)


def _tsv_records(lines):
    for number, line in enumerate(lines, 1):
        if line := line.rstrip("\n"):
            yield number, line.split("\t")


def _csv_records(path, lines):
    # A field may be as long as a document; a quote that never closes is caught by `strict` at the end of the file.
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: {error}; a quote inside a quoted field is written twice.") from None
    finally:
        csv.field_size_limit(limit)


def _read_delimited(path, records, find, header, drop_short):
    first = next(records, None)
    if first is None:
        raise UserError(f"{path} is empty; it needs {'a header and ' if header else ''}at least one row.")
    names = first[1]
    if not header:
        names = [str(number) for number in range(len(first[1]))]
        records = itertools.chain([first], records)
    positions = {role: names.index(name) for role, name in find.among(names, first[0]).items()}
    values = {role: [] for role in positions}
    numbers, lines = [], []
    for number, (line, fields) in enumerate(records):
        if len(fields) != len(names):
            if drop_short and len(fields) < len(names):
                continue
            raise UserError(
                f"{path}:{line}: {len(fields)} fields, where {'the header' if header else 'the first row'} has "
                f"{len(names)}. Mend or remove the row; a CSV field with commas is quoted, a TSV field holds no tab."
            )
        for role, position in positions.items():
            values[role].append(fields[position])
        numbers.append(number)
        lines.append(line)
    return Rows(path, values, numbers, lines)


def _read_jsonl(path, find):
    records, lines, names = [], [], []
    with open(path, encoding="utf-8-sig") as f:
        for line, text in enumerate(f, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{line}: no JSON: {error}. Each line holds one object.") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{line}: a {type(record).__name__} stands where an object {{...}} belongs.")
            find.among(list(record), line)
            names += [name for name in record if name not in names]
            records.append(record)
            lines.append(line)
    # A key that only some rows have is a column; the other rows are empty there.
    found = find.among(names) if records else find.columns
    values = {role: [record.get(name) for record in records] for role, name in found.items()}
    return Rows(path, values, list(range(len(records))), lines)


def _read_parquet(path, find):
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = find.among(file.schema_arrow.names)
            table = file.read(columns=list(found.values()))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None
    values = {role: table.column(name).to_pylist() for role, name in found.items()}
    return Rows(path, values, list(range(table.num_rows)), list(range(1, table.num_rows + 1)))


def _broken_utf8(path):
    """UserError that names the first line and byte of the file that are not UTF-8."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    return UserError(f"{path} is UTF-16. Convert the file: iconv -f utf-16 -t utf-8.")
                return UserError(
                    f"{path}:{number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. "
                    "Convert the file, for example: iconv -f latin1 -t utf-8."
                )
    return UserError(f"{path} is not UTF-8.")
