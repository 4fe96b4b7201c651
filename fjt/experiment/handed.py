"""Data that a Python program hands over, written to the work directory, so that the run is repeated from there."""

import os
from collections.abc import Mapping
from typing import Any

from fjt.core.errors import UserError

SPLITS = ("train", "dev", "test")
COLUMNS = {1: ("text",), 2: ("text", "label"), 3: ("text", "text_pair", "label")}  # of that many lists

LISTS = "lists, (texts, labels) or (texts, second texts, labels)"


def write(workdir: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of the options that read the data.

    Args:
        workdir: the work directory, which this process has locked.
        data: {split: texts, (texts, labels) or (texts, second texts, labels) as lists, a table of pandas or pyarrow, a
            dict of columns, or the path of a file}; None for no such split.

    Raises:
        UserError: the data are not one of these, or a run in the work directory has read others.
    """
    given = {name: data[name] for name in SPLITS if data[name] is not None}
    if not given:
        return {}
    options: dict[str, Any] = {"task": "table", "data.source": "files"}
    for name, value in given.items():
        if isinstance(value, str | os.PathLike):
            options[f"data.files.{name}"] = os.fspath(value)
            continue
        table = _table(name, value)
        options[f"data.files.{name}"] = _write_table(workdir, name, table)
        if isinstance(value, tuple):  # lists have no names of columns
            pair = options.get("data.columns.text_pair") or ("text_pair" if "text_pair" in table.column_names else "")
            options |= {"data.columns.text": "text", "data.columns.text_pair": pair}
            options |= {"data.columns.label": "label", "data.columns.labels": ()}
    return options


def _table(name: str, value: Any) -> Any:
    """The pyarrow.Table of a split."""
    import pyarrow

    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = (value,)
    if isinstance(value, tuple):
        if len(value) not in COLUMNS:
            raise UserError(f"{name} has {len(value)} lists, and should be {LISTS}.")
        value = dict(zip(COLUMNS[len(value)], value, strict=True))
    if isinstance(value, Mapping) and any(isinstance(column, str) for column in value.values()):
        raise UserError(f"{name} is one text and should be {LISTS}.")
    try:
        if isinstance(value, Mapping):
            value = {
                key: column.tolist() if hasattr(column, "tolist") else list(column) for key, column in value.items()
            }
            if len({len(column) for column in value.values()}) > 1:
                counts = ", ".join(f"{len(column)} of {key}" for key, column in value.items())
                raise UserError(f"{name}: {counts}; each row needs one of each.")
        return pyarrow.Table.from_pylist(value) if isinstance(value, list) else pyarrow.table(value)
    except (pyarrow.ArrowException, AttributeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"{name} is not a table: {text}. Give {LISTS}, a table of pandas or pyarrow, or a file."
        ) from None


def _write_table(workdir: str, name: str, table: Any) -> str:
    """The path of data/<name>.parquet with these rows."""
    from pyarrow import parquet

    path = os.path.abspath(os.path.join(workdir, "data", f"{name}.parquet"))
    if os.path.exists(path) and os.path.exists(os.path.join(workdir, "config.json")):
        if parquet.read_table(path).equals(table):
            return path
        raise UserError(
            f"--workdir={workdir} belongs to a run on other data than the given {name}. Give another directory, or the "
            "same data."
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    parquet.write_table(table, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
    return path
