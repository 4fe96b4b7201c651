"""Options as dataclass fields: configs, help, checks and lists of options are derived from the declarations."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fjt.core.errors import UserError, suggest
from fjt.core.files import local_path

Section = TypeVar("Section")
LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Option:
    """The declaration of one option.

    Attributes:
        default: the value of a config that does not set it; None is resolved later.
        doc: the text for `--help`: meaning, unit and default behaviour, without a final period.
        low: the lowest allowed value, or None.
        high: the highest allowed value, or None.
        choices: the allowed values; () allows all.
        traced: whether runs that differ in it share their compiled programs, because the step receives it as data
            or the host alone reads it. Lanes may differ in it, and a study may choose among its values.
        place: whether it only says where data or weights are found; the fingerprint has the contents instead.
        path: whether it names a file or folder, or "" for none; ~ stands for the home directory.
        fingerprinted: whether a different value is a different experiment.
        in_card: whether model cards list it.
        key: the dotted name below `config.`; `collect` sets it, and the next two, from the field.
        kind: str, int, float, bool or tuple.
        optional: whether None is allowed.
    """

    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    traced: bool = False
    place: bool = False
    path: bool = False
    fingerprinted: bool = True
    in_card: bool = False
    key: str = ""
    kind: type = str
    optional: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words, "" where every value of the type is allowed."""
        if self.choices:
            return "one of " + ", ".join(choice or '""' for choice in self.choices)
        if self.high is not None:
            return f"between {self.low} and {self.high}"
        return "" if self.low is None else f"at least {self.low}"

    def parse(self, value: Any) -> Any:
        """The value as this option's type: lists become tuples, whole numbers floats, and ~ the home directory.

        Args:
            value: any value of a config.

        Raises:
            UserError: for another type, and for a value that is not allowed.
        """
        if self.optional and isinstance(value, types.NoneType):
            return None
        given = f"config.{self.key}={value!r}"
        if self.kind is tuple and isinstance(value, list | tuple):
            value = _tuples(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) <= LARGEST else math.copysign(math.inf, value)
            given = f"config.{self.key}={value!r}"
        if not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            raise UserError(f"{given} should be of type {self.kind.__name__}.")
        if not all(abs(number) <= LARGEST for number in _floats(value)):  # NaN is not
            raise UserError(f"{given} should be finite: numbers are computed in float32, up to {LARGEST:.1e}.")
        if self.choices and value not in self.choices:
            raise UserError(f"{given} is unknown.{suggest(value, self.choices)}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise UserError(f"{given} should be {self.allowed}.")
        return local_path(str(value), f"config.{self.key}") if self.path and value else value


def _tuples(value: Any) -> Any:
    """The value with tuples in place of lists, which have no hash."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _floats(value: Any) -> Iterator[float]:
    """Yields the floats of a value, those within tuples included."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _floats(part)


def option(default: Any, doc: str, **facts: Any) -> Any:
    """A dataclass field that declares one option.

    Args:
        default: its value in a config that does not set it.
        doc: its text for `--help`.
        facts: other fields of `Option`.
    """
    return dataclasses.field(default=default, metadata={"option": Option(default, doc, **facts)})


def collect(cls: type, prefix: str = "") -> dict[str, Option]:
    """{dotted key: Option} of a dataclass of options and sections, in the order of declaration."""
    found = {}
    for field, kind in _fields(cls):
        key = prefix + field.name
        if _is_section(kind):
            found |= collect(kind, f"{key}.")
        else:
            optional = isinstance(kind, types.UnionType)
            kind = typing.get_args(kind)[0] if optional else kind
            found[key] = dataclasses.replace(field.metadata["option"], key=key, kind=kind, optional=optional)
    return found


def make_config(cls: type) -> ConfigDict:
    """The ConfigDict of a dataclass of options, with every default; a default of None keeps its type."""
    config = ConfigDict()
    options = collect(cls)
    for field, kind in _fields(cls):
        if _is_section(kind):
            config[field.name] = make_config(kind)
        elif field.default is None:
            config[field.name] = placeholder(options[field.name].kind)
        else:
            config[field.name] = field.default
    return config


def to_dicts(config: Any) -> dict[str, Any]:
    """A copy of a config, a ConfigDict or a dict, whose sections are dicts."""
    return {key: to_dicts(config[key]) if hasattr(config[key], "items") else config[key] for key in config}


def build(cls: type[Section], mapping: Any, prefix: str = "", source: str = "base") -> Section:
    """The dataclass of options with the values of a config, each parsed.

    Args:
        cls: a dataclass of options and sections.
        mapping: nested names and values, a ConfigDict or a dict.
        prefix: of its keys below `config.`, with the last period.
        source: the file below configs/ that such configs start from.

    Raises:
        UserError: for an unknown or missing key, and for a value that is not allowed.
    """
    missing = f"is missing; configs start from configs/{source}.py, which has it."
    if mapping is None:
        raise UserError(f"config.{prefix[:-1]} {missing}")
    options = collect(cls, prefix)
    check_keys(mapping, [field.name for field, _ in _fields(cls)], prefix)
    values = {}
    for field, kind in _fields(cls):
        name = field.name
        if _is_section(kind):
            values[name] = build(kind, mapping.get(name), f"{prefix}{name}.", source)
        elif name not in mapping:
            raise UserError(f"config.{prefix}{name} {missing}")
        else:
            values[name] = options[prefix + name].parse(mapping[name])
    return cls(**values)


def check_keys(names: Iterable[str], valid: Iterable[str], prefix: str = "") -> None:
    """Checks that names of options exist.

    Raises:
        UserError: for a name that is not among the valid ones, with the nearest of them.
    """
    known = [prefix + name for name in valid]
    for name in names:
        if prefix + name not in known:
            raise UserError(f"config.{prefix}{name} is not an option.{suggest(prefix + name, known)}")


def _is_section(kind: Any) -> typing.TypeGuard[type]:
    """Whether the type of a field is a dataclass of options."""
    return dataclasses.is_dataclass(kind)


@functools.cache
def _fields(cls: type) -> tuple[tuple[dataclasses.Field, Any], ...]:
    """((field, its type), ...) of a dataclass."""
    kinds = typing.get_type_hints(cls)
    return tuple((field, kinds[field.name]) for field in dataclasses.fields(cls))
