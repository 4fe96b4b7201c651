"""Data that a Python program hands over, written to the work directory, so that the run is repeated from there."""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from fjt.core import files, records
from fjt.core.errors import UserError
from fjt.core.options import flatten

SPLITS = ("train", "dev", "test")
COLUMNS = {1: ("text",), 2: ("text", "label"), 3: ("text", "text_pair", "label")}  # of that many lists

LISTS = "lists, (texts, labels) or (texts, second texts, labels)"


def write(workdir: str, data: Mapping[str, Any], needed: Collection[str]) -> dict[str, Any]:
    """{key: value} of the options that read the data.

    Args:
        workdir: the work directory, which this process has locked.
        data: {split: texts, (texts, labels) or (texts, second texts, labels) as lists, a table of pandas or pyarrow, a
            dict of columns, or the path of a file}; None for no such split.
        needed: the columns that the run reads; others of a data frame may hold anything.

    Raises:
        UserError: the data are not one of these, or a run in the work directory has read others, or its copy of them
            is damaged.
    """
    given = {name: data[name] for name in SPLITS if data[name] is not None}
    if not given:
        return {}
    options: dict[str, Any] = {"task": "table", "data.source": "files"}
    for name, value in given.items():
        if isinstance(value, str | os.PathLike):
            options[f"data.files.{name}"] = os.fspath(value)
            continue
        table = _table(name, value, needed)
        options[f"data.files.{name}"] = _write_table(workdir, name, table)
        if isinstance(value, tuple):  # lists have no names of columns
            pair = options.get("data.columns.text_pair") or ("text_pair" if "text_pair" in table.column_names else "")
            options |= {"data.columns.text": "text", "data.columns.text_pair": pair}
            options |= {"data.columns.label": "label", "data.columns.labels": ()}
    return options


def columns_of(config: Mapping[str, Any]) -> list[str]:
    """The names of the columns that a config reads.  config: a nested dict, which may lack options."""
    given = [value for key, value in flatten(config).items() if key.startswith("data.columns.") and value]
    return [str(name) for value in given for name in ((value,) if isinstance(value, str) else value)]


def _table(name: str, value: Any, needed: Collection[str]) -> Any:
    """The pyarrow.Table of a split.  needed: the columns of a data frame that must be there; see `write`."""
    import pyarrow

    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = (value,)
    if isinstance(value, tuple):
        if len(value) not in COLUMNS:
            raise UserError(f"{name} has {len(value)} lists, and should be {LISTS}.")
        value = dict(zip(COLUMNS[len(value)], value, strict=True))
    if isinstance(value, Mapping) and any(isinstance(column, str) for column in value.values()):
        raise UserError(f"{name} is one text and should be {LISTS}.")
    frame: Any = value
    is_frame = hasattr(frame, "iloc") and hasattr(frame, "columns") and frame.columns.is_unique
    place = ""
    try:
        if not is_frame and not isinstance(value, Mapping):
            rows = isinstance(value, Iterable) and not hasattr(value, "__arrow_c_stream__") and _rows(name, value)
            return pyarrow.Table.from_pylist(rows) if rows else pyarrow.table(value)
        arrays = {}
        for key in value if is_frame else dict(value):
            place = f"column {key}: "
            try:
                arrays[str(key)] = pyarrow.array(_column(value[key]))
            except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
                if not is_frame or str(key) in needed:  # such as pictures in a data frame, which no run reads
                    raise
    except (pyarrow.ArrowException, AttributeError, TypeError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"{name} is not a table: {place}{text}. Give {LISTS}, a table of pandas or pyarrow, or a file."
        ) from None
    if len({len(column) for column in arrays.values()}) > 1:
        counts = ", ".join(f"{len(column)} of {key}" for key, column in arrays.items())
        raise UserError(f"{name}: {counts}; each row needs one of each.")
    return pyarrow.table(arrays)


def _rows(name: str, value: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows of an iterable of dicts, such as a list of them or a data set of Hugging Face."""
    rows = list(value)
    if rows and all(isinstance(row, list | tuple) for row in rows):
        raise UserError(f"{name} is a list of rows. Give its columns, {LISTS}: tuple(zip(*rows)).")
    return rows


def _column(values: Any) -> Any:
    """The values in a form that pyarrow reads, with the type of an array's elements.

    Raises TypeError for a set, whose order changes from one process to the next.
    """
    if isinstance(values, set | frozenset):
        raise TypeError("a set has no order")
    if hasattr(values, "iloc") or (isinstance(values, np.ndarray) and values.ndim == 1):
        return values
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _write_table(workdir: str, name: str, table: Any) -> str:
    """The path of data/<name>.parquet with these rows."""
    import pyarrow
    from pyarrow import parquet

    path = os.path.abspath(os.path.join(workdir, "data", f"{name}.parquet"))
    if os.path.exists(path) and os.path.exists(os.path.join(workdir, "config.json")):
        # as Python's values: of a category or of seconds Parquet has another type, and NaN is not equal to itself
        with records.reading(path, f"Delete the file, and give the same {name} again."):
            there = repr(parquet.read_table(path).to_pylist())
        if there == repr(table.to_pylist()):
            return path
        raise UserError(
            f"--workdir={workdir} belongs to a run on other data than the given {name}. Give another directory, or the "
            "same data."
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with files.written(path) as file:
            parquet.write_table(table, file)
    except pyarrow.ArrowException as error:  # such as for empty dicts
        raise UserError(f"{name} cannot be written as Parquet: {error}. Leave out the column.") from None
    return path
