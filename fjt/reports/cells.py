"""The cells of a study: their runs as arrays of scores and predictions, and their costs."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.reports import inference
from fjt.reports.archive import DIVERGED, FINISHED, MISSING, Records, Row
from fjt.reports.inference import Interval
from fjt.study.choosing import FOLD
from fjt.study.spec import SEEDS
from fjt.tasks.kinds import bounds_of, find_problem, lower_is_better, task_of_record
from fjt.tasks.problem import Problem

ADAM = ("adamw", "adam", "lamb")  # these have two float32 moments per trainable parameter
CROSSED = "Its seeds are crossed, so its runs are not independent; see the effect of each seed."
Result = TypeVar("Result")
Seeds = tuple[tuple[str, int], ...]  # ((key, value), ...) of one run


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """The reported runs of one combination of task, method and axes.

    Attributes:
        name: task/method/axes.
        task: its task.
        method: its method, or several joined.
        axes: {key: text} of the study's other axes.
        open: {key: texts} of the values that the tuning runs chose from.
        metrics: names; the first one decides.
        selection: name of the metric that selected the best step and the best trial.
        rows: all its runs.
        scored: its n runs with a score, in the order of the arrays.
        dev: name of the dev set in Records, "" without one.
        ids: of the rows of dev.
        facts: its Task, with kind and label names.
        truth: labels of the rows of dev, in the form of the Problem.
        predicted: predictions of each run for dev, likewise; of scores that differ by rounding alone, the mean.
        constant: diverged runs, which count as predicting dev's most frequent label, or its mean.
        cluster: equal for examples that share a source, or None.
    """

    name: str
    task: str
    method: str
    axes: dict[str, str]
    open: dict[str, list[str]]
    metrics: tuple[str, ...]
    selection: str
    rows: tuple[Row, ...]
    scored: tuple[Row, ...]
    dev: str
    ids: np.ndarray
    facts: Task
    truth: Any
    predicted: tuple[Any, ...]
    constant: Bool[np.ndarray, " n"]
    cluster: Int32[np.ndarray, " m"] | None = None

    @property
    def problem(self) -> Problem:
        """The Problem of its task."""
        return find_problem(self.facts.kind)

    @functools.cached_property
    def collapsed(self) -> Bool[np.ndarray, " n"]:
        """Finished runs that predict (nearly) one value for every example (`Problem.collapsed`)."""
        return np.array([self.problem.collapsed(run, self.truth) for run in self.predicted], bool) & ~self.constant

    @functools.cached_property
    def failed(self) -> Bool[np.ndarray, " n"]:
        """Runs that collapsed or diverged."""
        return self.collapsed | self.constant

    @functools.cached_property
    def seeds(self) -> list[Seeds]:
        """The seeds of each scored run."""
        return [seeds_of(row) for row in self.scored]

    @functools.cached_property
    def crossed(self) -> bool:
        """Whether several kinds of seed vary, and one value of a kind is combined with several of another."""
        columns = [[row[key] for row in self.rows] for key in SEEDS]
        varied = [column for column in columns if len(set(column)) > 1]
        return len(varied) > 1 and any(len(set(column)) < len(column) for column in varied)

    def scores(self, metric: str) -> Float[np.ndarray, " n"]:
        """The scores in a metric."""
        return _scores(self, metric)

    def pseudo_values(self, metric: str) -> Float[np.ndarray, "n m"]:
        """The jackknife's pseudo-values of a metric, of the examples that it is computed from.

        Raises:
            UserError: the metric is the user's own function, or a mean over tasks, one of which has too few examples.
        """
        if metric not in self.problem.metrics:
            raise UserError(f"{metric} is a function of the user, which a report does not call on other examples.")
        for part in self.problem.parts(metric):
            count = np.count_nonzero(self.problem.scored(part, self.truth))
            if count < inference.LEAST_EXAMPLES:
                raise UserError(
                    f"{part}, a part of the {metric}, is of {count} examples: an interval over new ones needs "
                    f"{inference.LEAST_EXAMPLES}. Evaluate on more, or report this dev set alone."
                )
        return _pseudo_values(self, metric)

    def sources(self, metric: str) -> Int32[np.ndarray, " k"] | None:
        """`cluster` of the examples that a metric is computed from."""
        return None if self.cluster is None else self.cluster[self.problem.scored(metric, self.truth)]


@functools.cache
def _scores(cell: Cell, metric: str) -> Float[np.ndarray, " n"]:
    if not cell.scored:  # its task may be unknown
        return np.zeros(0)
    if metric not in cell.problem.metrics:  # a user's own, which a report does not call
        names = [f"{'constant' if constant else 'metrics'}.{metric}" for constant in cell.constant]
        return np.array([row[name] for row, name in zip(cell.scored, names, strict=True)], np.float64)
    scores = [
        cell.problem.metrics[metric](predicted, cell.truth) if failed else row[f"metrics.{metric}"]
        for row, predicted, failed in zip(cell.scored, cell.predicted, cell.failed, strict=True)
    ]
    return np.array(scores, np.float64)


@functools.cache
def _pseudo_values(cell: Cell, metric: str) -> Float[np.ndarray, "n m"]:
    return cell.problem.pseudo_values(metric, cell.predicted, cell.truth)


def seeds_of(row: Row) -> Seeds:
    """The seeds that name a run."""
    return tuple((key, row[key]) for key in SEEDS if row[key] is not None)


def make_cells(study: Records) -> list[Cell]:
    """The cells of a study, in the order of the plan."""
    members_of: dict[str, list[tuple[int, Row]]] = {}
    devs: dict[str, set[str]] = {}
    for number, row in enumerate(study.rows):
        if row["phase"] == "runs":
            members_of.setdefault(row["cell"], []).append((number, row))
            if row["dev"]:
                devs.setdefault(row["task"], set()).add(row["dev"])
    return [_make_cell(study, name, members, devs) for name, members in members_of.items()]


def _make_cell(study: Records, name: str, members: list[tuple[int, Row]], devs: dict[str, set[str]]) -> Cell:
    """The Cell of a name.

    Args:
        study: the records.
        name: of the cell.
        members: (index into study.rows, row) of its runs.
        devs: {task: names of its dev sets}.
    """
    task, method, *axes = name.split("/")
    of_task = devs.get(task, set())
    # A cell without a finished run is scored on its task's dev set, if the task has only one.
    names = {row["dev"] for _, row in members if row["dev"]} or (of_task if len(of_task) == 1 else set())
    dev = min(names, default="")
    facts = Task(task, "", (), ())
    metrics = tuple(study.facts["metrics"].get(task, ()))
    truth, predicted, scored, constant = np.zeros(0), [], [], []
    if dev:
        parts = study.dev[dev]
        facts = task_of_record(parts, task)
        problem = find_problem(facts.kind)
        truth, place = parts["label"], {number: i for i, number in enumerate(parts["runs"])}
        for number, row in members:
            if number in place:
                predicted.append(problem.same_for_all(parts["predicted"][place[number]], truth))
            elif row["state"] == DIVERGED:
                predicted.append(problem.constant(truth))
            else:
                continue
            scored.append(row)
            constant.append(number not in place)
    return Cell(
        name=name,
        task=task,
        method=method,
        axes=dict(axis.split("=", 1) for axis in axes),
        open=study.facts["open"].get(name, {}),
        metrics=metrics,
        selection=study.facts.get("selection", {}).get(task, next(iter(metrics), "")),
        rows=tuple(row for _, row in members),
        scored=tuple(scored),
        dev=dev,
        ids=study.dev[dev]["id"] if dev else np.zeros(0, str),
        facts=facts,
        truth=truth,
        predicted=tuple(predicted),
        constant=np.array(constant, bool),
        cluster=study.dev[dev].get("cluster") if dev else None,
    )


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a cell's task, as `Problem.per_class` counts them; () without classes.

    Attributes:
        names: of the classes.
        support: how often dev has each class.
        predicted: how often each run predicts it.
        scores: {"precision", "recall", "f1": of each run}.
    """

    names: tuple[str, ...]
    support: Int[np.ndarray, " C"]
    predicted: Int[np.ndarray, "n C"]
    scores: dict[str, Float[np.ndarray, "n C"]]


def classes_of(cell: Cell) -> Classes:
    """The Classes of a cell."""
    about = cell.problem.per_class(cell.truth, cell.truth, cell.facts) if len(cell.truth) else []
    runs = [cell.problem.per_class(run, cell.truth, cell.facts) for run in cell.predicted]

    def column(key: str, dtype: type) -> np.ndarray:
        return np.array([[row[key] for row in rows] for rows in runs], dtype).reshape(len(runs), len(about))

    return Classes(
        tuple(row["label"] for row in about),
        np.array([row["support"] for row in about], np.int64),
        column("predicted", np.int64),
        {key: column(key, np.float64) for key in ("precision", "recall", "f1")},
    )


def attempt(function: Callable[..., Result], *arguments: Any) -> Result | str:
    """The result of a function of `inference`, or the message of its UserError."""
    try:
        return function(*arguments)
    except UserError as error:
        return str(error)


def sign_of(metric: str) -> int:
    """1, or -1 for a metric whose lower values are better."""
    return -1 if lower_is_better(metric) else 1


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Numbers of runs that were started, finished, diverged, and ended (finished or diverged)."""
    states = [row["state"] for row in rows]
    finished, diverged = states.count(FINISHED), states.count(DIVERGED)
    started = len(states) - states.count(MISSING)
    return {"started": started, "finished": finished, "diverged": diverged, "ended": finished + diverged}


def summarize(cell: Cell, metric: str) -> dict[str, Any] | str:
    """The numbers of `inference.summarize`, and the Intervals `new_seeds` and `new_examples`.

    A str in place of an Interval, or of the dict, is the reason why there is none.
    """
    sign, scores, count = sign_of(metric), cell.scores(metric), counts(cell.rows)
    summary = attempt(inference.summarize, sign * scores, cell.failed, count["started"], count["finished"])
    if isinstance(summary, str):
        return summary
    summary |= {name: sign * summary[name] for name in ("mean", "median", "best", "worst", "sound_mean")}
    if cell.crossed:
        return summary | {"new_seeds": CROSSED, "new_examples": CROSSED}
    seeds = attempt(inference.seed_interval, scores, cell.failed)
    table = attempt(cell.pseudo_values, metric)
    examples = table
    if not isinstance(table, str):
        bounds = bounds_of(metric)
        examples = attempt(inference.crossed_interval, scores, table, cell.failed, bounds, cell.sources(metric))
    return summary | {"new_seeds": seeds, "new_examples": examples}


def costs(cell: Cell, full: Cell | None) -> dict[str, Any]:
    """{name: value} of the finished runs' costs; {} if no run has finished.

    Among the values, `hidden` is the seconds for computing the feature cache, summed over runs; `seconds` is (median,
    lowest, highest) of training with a run's equal share of these; `flops` is the operations of all steps of a run,
    without the feature cache's.

    Args:
        cell: the cell.
        full: the cell of full tuning to compare with, or None.
    """
    rows = [row for row in cell.rows if row["state"] == FINISHED]
    if not rows:
        return {}
    hidden = sum(row.get("hidden_seconds") or 0.0 for row in rows)
    seconds = [row["train_seconds"] + hidden / len(rows) for row in rows]
    full_flops = _flops(row for row in full.rows if row["state"] == FINISHED) if full else math.nan
    trained = rows[0]["trainable_params"]
    return {
        "n": len(rows),
        "trained": trained,
        "added": rows[0]["added_params"],
        "total": rows[0]["total_params"],
        "steps": sorted({row["steps"] for row in rows}),
        "flops": _flops(rows),
        "of_full": _flops(rows) / full_flops if full_flops > 0 else None,
        "optimizer_bytes": 8 * trained if rows[0]["optim.name"] in ADAM else None,
        "seconds": (float(np.median(seconds)), min(seconds), max(seconds)),
        "hidden": hidden,
        "lanes": max(row.get("lanes") or 1 for row in rows),
        "looks": sorted({row["looks"] for row in rows}),
    }


def last_loss(cell: Cell, study: Records) -> float | None:
    """The training loss over the last tenth of the steps, the mean over the finished runs; None without one."""
    names = {row["run"] for row in cell.rows if row["state"] == FINISHED}
    numbers = [number for number, row in enumerate(study.rows) if row["run"] in names]
    rows, steps, losses = study.curves["train"]
    means = [losses[(rows == n) & (steps > 0.9 * study.rows[n]["steps"])] for n in numbers]
    return float(np.mean([of_run.mean() for of_run in means])) if means and all(map(len, means)) else None


def _flops(rows: Iterable[Row]) -> float:
    """The median over runs of the operations of all steps."""
    flops = [row["flops_per_step"] * row["steps"] for row in rows]
    return float(np.median(flops)) if flops else math.nan


def cross_validated(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that are folds of a cross-validation: another one differs in its fold alone."""
    folds_of: dict[Any, list[Cell]] = {}
    for cell in cells:
        if FOLD in cell.axes:
            rest = frozenset(cell.axes.items() - {(FOLD, cell.axes[FOLD])})
            folds_of.setdefault((cell.task, cell.method, rest), []).append(cell)
    return [cell for folds in folds_of.values() if len(folds) > 1 for cell in folds]


def partner(cell: Cell, cells: Iterable[Cell], method: str) -> Cell | None:
    """The cell of another method to compare a cell with, or None.

    It has the same task and agrees with the cell in all its axes; of several, the one with the most axes is returned.
    """
    fit = [
        other
        for other in cells
        if (other.task, other.method) == (cell.task, method)
        and all(cell.axes.get(key) == value for key, value in other.axes.items())
    ]
    return max(fit, key=lambda other: len(other.axes), default=None)


def best_of(cell: Cell, metric: str) -> dict[int, float]:
    """{n: expected best dev score of n runs}, for n from 1 to half of the number of runs."""
    sign, scores = sign_of(metric), cell.scores(metric)
    return {n: sign * inference.expected_best(sign * scores, n) for n in range(1, len(scores) // 2 + 1)}


def variance_parts(cell: Cell, metric: str) -> Mapping[str, Interval] | str:
    """{key of a seed or "rest": Interval of its variance} of a cell with crossed seeds, or the reason for none."""
    num_values = {key: len({row[key] for row in cell.rows}) for key in SEEDS}
    # A seed that differs in every run belongs to the rest.
    keys = [key for key, count in num_values.items() if 1 < count < len(cell.rows)]
    values = [sorted({row[key] for row in cell.rows}) for key in keys]
    scores = zip(cell.scored, cell.scores(metric), strict=True)
    score_of = {tuple(row[key] for key in keys): score for row, score in scores}
    if len(keys) != 2 or len(score_of) < len(values[0]) * len(values[1]):
        return f"{len(cell.scored)} of its runs have a score; parts of the variance need two seeds, fully crossed."
    if cell.failed.any():
        return f"{cell.failed.sum()} of its runs collapsed or diverged; parts of the variance need every one."
    table = [[score_of[one, other] for other in values[1]] for one in values[0]]
    parts = attempt(inference.variance_parts, table)
    return parts if isinstance(parts, str) else dict(zip((*keys, "rest"), parts, strict=True))
