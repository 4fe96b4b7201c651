"""The space of a search: for each option that is searched, an axis of its values; and a grid over these axes."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core import options, schema
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS
from fjt.core.schema import Option, option
from fjt.study.spec import Run, check_key, label, settings_of

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGES = ("log", "float", "int")
# Options that change which score is compared, or by which luck, and not how good a run is.
NOT_SEARCHED = ("task", "seed", "data.", "eval.", "train.select")
DIGITS = 4  # significant ones of a proposed float, so that a flag is short
MOST_CHECKED = 256  # combinations of listed values
FORMS = 'a list of values, ("log", low, high), ("float", low, high) or ("int", low, high), each with a number of points'

Value = Any  # of an option
Parameters = Mapping[str, Any]  # {parameter's name: number, or label of a listed value}, as Optuna stores a trial


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The options of config.search."""

    space: tuple = option(
        (),
        'a dict of config keys and axes, ({"optim.learning_rate": ("log", 1e-5, 1e-2), "tune.rank": (4, 8, 16), '
        '"train.epochs": ("int", 1, 5)},); an axis is a list of values, or a range, ("log", low, high), ("float", low, '
        'high) or ("int", low, high), with a number of points as its last item for a grid; each trial is from one of '
        "several dicts",
    )


ALL_OPTIONS = options.OPTIONS | schema.collect(SearchConfig, "search.")  # of configs of searches


@dataclasses.dataclass(frozen=True)
class Listed:
    """An axis of listed values.

    Attributes:
        key: of the option.
        values: the values, each of which has another label.
    """

    key: str
    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that have to be allowed."""
        return self.values

    def suggest(self, trial: "Trial", name: str) -> Any:
        """The parameter of a trial, under a name."""
        return trial.suggest_categorical(name, list(map(label, self.values)))

    def value(self, parameter: Any) -> Value:
        """The value of the option for a parameter of a trial."""
        return {label(value): value for value in self.values}[parameter]

    def grid(self) -> list[Any]:
        """The parameters of the points of a grid."""
        return list(map(label, self.values))


@dataclasses.dataclass(frozen=True)
class Range:
    """An axis of numbers.

    Attributes:
        key: of the option.
        low: the lowest value.
        high: the highest value.
        log: whether the logarithm of the value is what is drawn evenly.
        points: of a grid; 0 where none were given.
    """

    key: str
    low: float
    high: float
    log: bool
    points: int = 0

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return OPTIONS[self.key].kind is int

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that have to be allowed."""
        return self.low, self.high

    def suggest(self, trial: "Trial", name: str) -> Any:
        """The parameter of a trial, under a name: a float has few digits."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return self._short(trial.suggest_float(name, self.low, self.high, log=self.log))

    def _short(self, number: float) -> float:
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)

    def value(self, parameter: Any) -> Value:
        """The value of the option for a parameter of a trial."""
        return parameter

    def grid(self) -> list[Any]:
        """The parameters of the points of a grid.  Raises UserError for a range without a number of points."""
        if self.whole and not self.points and not self.log:
            return list(range(int(self.low), int(self.high) + 1))
        if not self.points:
            word = "log" if self.log else "float"
            raise UserError(
                f"config.search.space: {self.key} is a range, of which a grid needs a number of points: "
                f'("{word}", {self.low:g}, {self.high:g}, 5). Or take --sampler=tpe or random.'
            )
        spread = np.geomspace if self.log else np.linspace
        values = spread(self.low, self.high, self.points).tolist()
        if self.whole:
            return sorted({round(value) for value in values})
        return [self._short(value) for value in values]

    def at(self, position: float) -> float:
        """The parameter of a trial at a position between low, 0, and high, 1; the nearest whole one."""
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        number = low + position * (high - low)
        value = float(np.exp(number) if self.log else number)
        return min(max(round(value), int(self.low)), int(self.high)) if self.whole else self._short(value)

    def position(self, value: float) -> float:
        """Where a value is between low, 0, and high, 1."""
        low, high, value = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        return float((value - low) / (high - low))


Axis = Listed | Range
Space = tuple[Axis, ...]


def read(config: Any) -> tuple[tuple[Space, ...], dict[str, Any]]:
    """(the spaces of config.search, the config of the trials as a nested dict).

    Args:
        config: of a search, a ConfigDict or a dict.

    Raises:
        UserError: for a config without a space, and for keys and values that are unknown or not allowed, alone or
            together.
    """
    if "search" not in config:
        raise UserError("The config has no search: configs of searches start from configs/search.py.")
    given = config["search"].get("space")
    given = schema.build(SearchConfig, {"space": (given,) if hasattr(given, "items") else given}, "search.").space
    base = schema.to_dicts({key: config[key] for key in config if key != "search"})
    if not given or not all(given):
        raise UserError(f"config.search.space is empty: give at least one axis, a config key with {FORMS}.")
    spaces = tuple(_read_space(one, base) for one in given)
    for space in spaces:
        _check_together(space, base)
    return spaces, base


def _read_space(given: Any, base: Mapping[str, Any]) -> Space:
    if not hasattr(given, "items"):
        raise UserError(f"config.search.space: {given!r} should be a dict {{config key: axis}}.")
    known = options.flatten(base)
    for key in given:
        check_key(key, known, "search.space")
        if key.startswith(NOT_SEARCHED):
            raise UserError(
                f"config.search.space: {key} decides which scores are compared, so a search over it would choose a "
                f"score, not a run. Set it once, as config.{key}."
            )
    return tuple(_read_axis(key, axis, OPTIONS[key]) for key, axis in given.items())


def _read_axis(key: str, given: Any, declared: Option) -> Axis:
    """The Axis of an option.  Raises UserError for a value that the option does not allow."""
    place = f"config.search.space: {key}"
    if not isinstance(given, tuple | list | range):
        raise UserError(f"{place}: {given!r} should be {FORMS}.")
    if not given:
        raise UserError(f"{place} has no value; give at least one.")
    if isinstance(given[0], str) and given[0] in RANGES:
        return _read_range(key, given, declared, place)
    values = tuple(_parse(declared, value) for value in given)
    labels = list(map(label, values))
    for value, name in zip(values, labels, strict=True):
        if labels.count(name) > 1:
            raise UserError(f"{place}: {value!r} is there twice, or is too close to another value.")
    return Listed(key, values)


def _parse(declared: Option, value: Any) -> Value:
    if declared.kind is tuple and isinstance(value, str):
        value = (value,)
    return declared.parse(value)


def _read_range(key: str, given: Sequence[Any], declared: Option, place: str) -> Range:
    word, *numbers = given
    if len(numbers) not in (2, 3):
        raise UserError(f'{place}: {given!r} should be ("{word}", low, high), or with a number of points after these.')
    if declared.kind not in (int, float):
        raise UserError(f"{place} is of type {declared.kind.__name__}: give a list of values in place of {given!r}.")
    if word not in ("log", declared.kind.__name__):
        other = declared.kind.__name__
        raise UserError(f'{place} is of type {other}: write ("{other}", ...) or ("log", ...) in place of {given!r}.')
    low, high, points = declared.parse(numbers[0]), declared.parse(numbers[1]), numbers[2] if numbers[2:] else 0
    if low is None or high is None or not low < high:
        raise UserError(f"{place}: {given!r} should have a low end below its high end.")
    if word == "log" and low <= 0:
        raise UserError(f"{place}: the low end of {given!r} should be above 0, because its logarithm is taken.")
    if not isinstance(points, int) or isinstance(points, bool) or (numbers[2:] and points < 2):
        raise UserError(f"{place}: the number of points in {given!r} should be a whole number of at least 2.")
    return Range(key, low, high, word == "log", points)


def _check_together(space: Space, base: Mapping[str, Any]) -> None:
    """Raises UserError for combinations of values that no run can have, such as options that a method does not read."""
    from fjt.tuning import partition  # with JAX, which a command imports after its own mistakes

    listed = [axis for axis in space if isinstance(axis, Listed)]
    first = {axis.key: axis.ends[0] for axis in space}
    for values in itertools.islice(itertools.product(*(axis.values for axis in listed)), MOST_CHECKED):
        chosen = first | dict(zip([axis.key for axis in listed], values, strict=True))
        partition.find_methods(settings_of(run_of(0, chosen), base).experiment.tune)


def run_of(number: int, values: Mapping[str, Value]) -> Run:
    """The run of a trial.

    Args:
        number: of the trial.
        values: {config key: value}.
    """
    return Run(f"trials/{number:04d}", "tuning", "trials", tuple(values.items()))


def name_of(number: int, key: str, spaces: Sequence[Space]) -> str:
    """The name of a parameter: the key, behind the number of its space where there are several."""
    return key if len(spaces) == 1 else f"{number}:{key}"


WHICH = "space"  # the parameter that says which of several spaces a trial is from


def values_of(parameters: Parameters, spaces: Sequence[Space]) -> dict[str, Value]:
    """{config key: value} of a trial.

    Args:
        parameters: of the trial.
        spaces: of the search.
    """
    number = int(parameters.get(WHICH, 0))
    return {axis.key: axis.value(parameters[name_of(number, axis.key, spaces)]) for axis in spaces[number]}


def grid(spaces: Sequence[Space]) -> list[dict[str, Any]]:
    """The parameters of each point of a grid over the spaces, one space after another.

    Raises:
        UserError: a range has no number of points.
    """
    found = []
    for number, space in enumerate(spaces):
        which = {} if len(spaces) == 1 else {WHICH: str(number)}
        names = [name_of(number, axis.key, spaces) for axis in space]
        for point in itertools.product(*(axis.grid() for axis in space)):
            found.append(which | dict(zip(names, point, strict=True)))
    return found
