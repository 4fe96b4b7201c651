"""Columns of files: .csv (quoted), .tsv (no quoting), .jsonl, .parquet, CoNLL, SQuAD, plain text."""

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from fjt.core.errors import UserError, suggest
from fjt.data import conll, documents, encoding, formats, squad
from fjt.data.labels import BYTE_ORDER_MARK
from fjt.data.rows import Rows

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
READ = (*SUFFIXES, *conll.SUFFIXES, squad.SUFFIX, documents.SUFFIX)


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
    find = formats.Finder(path, columns, options.get("optional", ()), options.get("remedy", "{role}"))
    try:
        if suffix == ".parquet":
            yield from formats.parquet(path, find, size)
            return
        with open(path, "rb") as f:
            encoding.check(path, f.read(encoding.START))
        # Universal newlines for TSV, as csv.reader under TFDS sees them; csv itself ends the lines of a CSV.
        with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as f:
            if suffix == ".jsonl":
                yield from formats.json_lines(path, f, find, size)
            elif suffix == squad.SUFFIX:
                yield from formats.questions(path, f, find, size)
            elif suffix in conll.SUFFIXES:
                yield from formats.sentences(path, f, find, size)
            elif suffix == documents.SUFFIX:
                yield from formats.plain_text(path, f, find, size)
            else:
                lines = (line.replace(BYTE_ORDER_MARK, "") for line in f)  # joined files have one in the middle
                records = formats.csv_records(path, lines) if suffix == ".csv" else formats.tsv_records(lines)
                yield from formats.delimited(path, records, find, header, options.get("drop_short", False), size)
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
        records = formats.csv_records(path, file) if suffix == ".csv" else formats.tsv_records(file)
        first = next((fields for _, fields in records if fields), [])
    names = [] if isinstance(first, UserError) else first
    return names if header else list(map(str, range(len(names))))


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
