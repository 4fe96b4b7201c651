"""Metrics of a user's own: functions that config.eval.metrics names, imported, checked, and hashed by their source."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.core.ragged import Ragged
from fjt.data.glue import Metric, Task
from fjt.tasks.measures import Measures, of_scorers
from fjt.tasks.problem import Rows

REMEDY = "Name a function (predictions, labels) -> float as module:function; the module is a file module.py in the "
REMEDY += "working directory, or any other that Python can import."


@dataclasses.dataclass(frozen=True)
class OwnMetric:
    """A function that is called as the metrics of a `Problem` are.

    Attributes:
        name: module:function, as the config has it.
        function: (predictions, labels) -> a finite number; higher is better.
        sha256: of the source of its module.
    """

    name: str
    function: Callable[[Any, Any], Any]
    sha256: str

    def __call__(self, predicted: Rows, label: Rows) -> float:
        """The function's value for copies of both arrays, scores as float64; for words, of lists of arrays.

        Raises:
            UserError: the function fails, or its value is not a finite number.
        """
        arrays = [
            list(map(np.array, x))
            if isinstance(x, Ragged)
            else np.array(x, np.float64 if x.dtype.kind == "f" else None)
            for x in (predicted, label)
        ]
        try:
            value = np.asarray(np.ma.filled(self.function(*arrays), np.nan))  # a masked value would be 0.0
        except (Exception, SystemExit) as error:
            raise UserError(f"config.eval.metrics: {self.name} failed: {_describe(error)}.") from error
        if value.ndim or value.dtype.kind not in "iuf" or not np.isfinite(value):
            raise UserError(
                f"config.eval.metrics: {self.name} returned {value.tolist()!r:.80} for {len(label):,} predictions. It "
                "should return a finite number for all predictions, such as 0.0 where a score is undefined."
            )
        return float(value)


def add(task: Task, names: Sequence[Any]) -> Task:
    """The task with the metrics that config.eval.metrics names, after its other ones.

    Args:
        task: the task.
        names: of the functions.

    Raises:
        UserError: a name is given twice or cannot be imported, or is not that of a function of two arguments.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"config.eval.metrics={tuple(names)} should hold {name!r} once.")
    own = tuple(load(name) for name in names)
    return dataclasses.replace(task, metrics=(*task.metrics, *names), own_metrics=own)


def contents(task: Task) -> dict[str, str]:
    """{"metric NAME": sha256 of its source} of a task's own metrics."""
    return {f"metric {metric.name}": metric.sha256 for metric in task.own_metrics}


def load(name: Any) -> OwnMetric:
    """The OwnMetric of a name.  Raises UserError unless it is that of a function of two arguments."""
    place = f"config.eval.metrics={name!r}"
    module_name, colon, function_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (colon and function_name and all(part.isidentifier() for part in module_name.split("."))):
        raise UserError(f"{place} is not of the form module:function. {REMEDY}")
    with _working_directory_on_path():
        module, source = _import(module_name, place)
    if not hasattr(module, function_name):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = suggest(function_name, known) if known else ""
        raise UserError(f"{place}: {module.__file__} has no function {function_name!r}.{hint}")
    function = getattr(module, function_name)
    if not callable(function):
        raise UserError(f"{place} is of type {type(function).__name__}. {REMEDY}")
    with contextlib.suppress(ValueError):  # some compiled functions do not tell their arguments
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            given = inspect.signature(function)
            raise UserError(f"{place} takes {given}. It should take two arguments: predictions and labels.") from None
    return OwnMetric(name, function, hashlib.sha256(source).hexdigest())


def measures(metrics: Sequence[Metric], predicted: Rows, label: Rows) -> Measures:
    """The Measures of some of the metrics, NaN for a resample that a function fails on, such as one of a single class.

    Args:
        metrics: the metrics.
        predicted: decoded values.
        label: labels, none missing.

    Raises:
        UserError: a function fails on all rows, as `OwnMetric.__call__` has it.
    """
    for metric in metrics:
        metric(predicted, label)

    def score(metric: Metric, rows: np.ndarray) -> float:
        with contextlib.suppress(UserError):
            return metric(predicted[rows], label[rows])
        return math.nan

    return of_scorers({metric.name: functools.partial(score, metric) for metric in metrics}, len(label), {})


def _import(name: str, place: str) -> tuple[types.ModuleType, bytes]:
    """(a module made anew from its file, the bytes of the file), so that what runs is what is hashed.

    Python's own import could return an older state of the file, in a notebook or from a cache.
    """
    importlib.invalidate_caches()
    alone = None if "." in name else importlib.machinery.PathFinder.find_spec(name)  # whatever was imported before
    try:
        spec = alone or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    except Exception as error:  # of the package that the module is in
        raise UserError(f"{place}: importing {name} failed: {_describe(error)}.") from error
    if spec is None:
        raise UserError(f"{place}: there is no module {name} in {os.getcwd()} or on Python's path. {REMEDY}")
    loader = spec.loader
    if not isinstance(loader, importlib.abc.SourceLoader) or spec.origin is None:
        raise UserError(f"{place}: {name} has no source file to record. {REMEDY}")
    source = loader.get_data(spec.origin)
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # a module may look itself up while it runs, as dataclasses do
    try:
        exec(loader.source_to_code(source, spec.origin), vars(module))
    except (Exception, SystemExit) as error:
        raise UserError(f"{place}: importing {spec.origin} failed: {_describe(error)}.") from error
    finally:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
    return module, source


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _describe(error: BaseException) -> str:
    """The type and the text of an error, and the line that raised it, which a SyntaxError has in its text."""
    text, where = " ".join(str(error).split()), ""
    if error.__traceback__ and not isinstance(error, SyntaxError):
        frame = inspect.getinnerframes(error.__traceback__)[-1]
        where = f" (line {frame.lineno} of {frame.filename})"
    return f"{type(error).__name__}{text and f': {text}'}{where}"
