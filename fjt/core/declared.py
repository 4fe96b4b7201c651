"""Tables of the keys in other libraries' JSON files: the type and range of each, and which values fjt computes."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fjt.core import records
from fjt.core.errors import UserError


class Entry(NamedTuple):
    """The declaration of one key.

    accepts(value) -> whether fjt computes what the value means.
    should: completes the sentence "key=value should be ...".
    because: why other values are refused, a sentence; "" where the first one says enough.
    needed: whether a file without the key is refused.
    """

    accepts: Callable[[Any], bool]
    should: str
    because: str = ""
    needed: bool = False


Table = dict[str, Entry]


def whole(low: int, high: int, needed: bool = False) -> Entry:
    """The Entry of a whole number between two bounds, which are allowed too."""
    return Entry(lambda x: type(x) is int and low <= x <= high, f"a whole number from {low} to {high}", needed=needed)


def number(low: float, high: float, needed: bool = False) -> Entry:
    """The Entry of a number between two bounds, which are allowed too."""
    return Entry(lambda x: type(x) in (int, float) and low <= x <= high, f"a number from {low} to {high}", "", needed)


def text(needed: bool = False) -> Entry:
    """The Entry of any string."""
    return Entry(lambda x: type(x) is str, "a string", needed=needed)


def flag() -> Entry:
    """The Entry of true or false."""
    return Entry(lambda x: type(x) is bool, "true or false")


def table(needed: bool = False) -> Entry:
    """The Entry of a JSON object, whatever it holds."""
    return Entry(lambda x: type(x) is dict, "a table of keys", needed=needed)


def texts() -> Entry:
    """The Entry of a list of strings."""
    return Entry(lambda x: type(x) is list and all(type(item) is str for item in x), "a list of strings")


def one_of(*values: str, because: str = "") -> Entry:
    """The Entry of a string among a few."""
    return Entry(lambda x: type(x) is str and x in values, f"one of {', '.join(values)}", because)


def ignored() -> Entry:
    """The Entry of a key whose value does not change what fjt computes."""
    return Entry(lambda x: True, "anything")


def unset(because: str) -> Entry:
    """The Entry of a key that fjt computes only where it is null, false, empty or left out."""
    return Entry(lambda x: x is None or x is False or x in ("", [], {}), "null, false or left out", because)


def fixed(value: Any) -> Entry:
    """The Entry of a key of which fjt computes a single value."""
    kinds = (int, float) if type(value) is float else (type(value),)
    return Entry(lambda x: type(x) in kinds and x == value, f"{value!r}: no other value is supported here")


def either(*entries: Entry) -> Entry:
    """The Entry of a key with several types of values."""
    should = " or ".join(entry.should for entry in entries)
    return Entry(lambda x: any(entry.accepts(x) for entry in entries), should, " ".join(e.because for e in entries))


def optional(entry: Entry) -> Entry:
    """The Entry that allows null too."""
    return entry._replace(accepts=lambda x: x is None or entry.accepts(x), should=f"{entry.should}, or null")


def check(raw: Any, declared: Table, place: str) -> None:
    """Nothing where every declared key of a JSON file has a value that fjt computes.

    Args:
        raw: the file's contents.
        declared: its table.
        place: the file, for messages.

    Raises:
        UserError: the contents are not an object, lack a key, or have a value that fjt does not compute.
    """
    if type(raw) is not dict:
        raise UserError(f"{place} should be a table of keys (a JSON object), not {_shown(raw)}.")
    for key, entry in declared.items():
        if key not in raw:
            if entry.needed:
                raise UserError(f"{place} lacks {key!r}; it should be {entry.should}.")
        elif not entry.accepts(raw[key]):
            reason = f" {entry.because}" if entry.because else ""
            raise UserError(f"{place}: {key}={_shown(raw[key])} should be {entry.should}.{reason}")


def _shown(value: Any) -> str:
    """The start of a value as it stands in a JSON file."""
    whole_text = json.dumps(value)
    return whole_text if len(whole_text) <= 60 else f"{whole_text[:57]}..."


def undeclared(raw: Mapping[str, Any], declared: Table, place: str) -> str:
    """A sentence that lists the keys outside the table, "" where there are none; keys with null are left out."""
    names = sorted(str(key) for key, value in raw.items() if key not in declared and value is not None)
    return f"{place} has keys that fjt does not read: {', '.join(names)}" if names else ""


def read(path: str | os.PathLike, declared: Table, remedy: str = records.REMEDY) -> dict[str, Any]:
    """The contents of a JSON file, checked against its table.

    Args:
        path: the file.
        declared: the table.
        remedy: the last sentence of the message about a damaged file.

    Raises:
        UserError: the file is missing or damaged, or `check` refuses it.
    """
    raw = records.read_json(path, remedy=remedy)
    check(raw, declared, os.fspath(path))
    return raw
