"""The cells of a study: their runs as arrays of scores and predictions, what they cost, the trials they chose from."""

import dataclasses
import functools
import math

import numpy as np

from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.reports import inference
from fjt.reports.archive import DIVERGED, FINISHED, MISSING
from fjt.study.spec import SEEDS
from fjt.tasks.kinds import find_problem, lower_is_better, task_of_record

ADAM = ("adamw", "adam", "lamb")  # two float32 moments for each parameter that trains
CROSSED = "Its seeds are crossed, so its runs are not independent; see what each seed changes."


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """The reported runs of one combination of task, method and axes.

    open: {key: texts} of what the tuning runs chose among; rows: of all its runs; scored: those with a score, n of
    them, in the order of the arrays; predicted: [n, m] and truth: [m], class ids or scores of the dev set `dev`;
    cluster: i32[m], equal for examples that share a source, or None; facts: its Task, with kind and label names;
    constant: bool[n], diverged runs, which count as predicting dev's most frequent label, or its mean.
    """

    name: str
    task: str
    method: str
    axes: dict
    open: dict
    metrics: tuple
    rows: tuple
    scored: tuple
    dev: str
    facts: Task
    truth: np.ndarray
    predicted: np.ndarray
    constant: np.ndarray
    cluster: np.ndarray | None = None

    @property
    def problem(self):
        """The Problem of its task."""
        return find_problem(self.facts.kind)

    @functools.cached_property
    def collapsed(self):
        """bool[n]: finished runs that predict one value for every example."""
        if not len(self.scored):
            return np.zeros(0, bool)
        return inference.collapsed(self.predicted) & ~self.constant

    @functools.cached_property
    def failed(self):
        """bool[n]: collapsed or diverged."""
        return self.collapsed | self.constant

    @functools.cached_property
    def seeds(self):
        """[((key, value), ...)] of each scored run."""
        return [seeds_of(row) for row in self.scored]

    @functools.cached_property
    def crossed(self):
        """Whether several seeds vary and a value of one comes with several of another."""
        columns = [[row[key] for row in self.rows] for key in SEEDS]
        varied = [column for column in columns if len(set(column)) > 1]
        return len(varied) > 1 and any(len(set(column)) < len(column) for column in varied)

    def scores(self, metric):
        """f64[n] of a metric."""
        return _scores(self, metric)

    def pseudo_values(self, metric):
        """f64[n, m] of a metric."""
        return _pseudo_values(self, metric)


@functools.cache
def _scores(cell, metric):
    return np.float64(
        [
            cell.problem.metrics[metric](predicted, cell.truth) if failed else row[f"metrics.{metric}"]
            for row, predicted, failed in zip(cell.scored, cell.predicted, cell.failed, strict=True)
        ]
    )


@functools.cache
def _pseudo_values(cell, metric):
    return cell.problem.pseudo_values(metric, cell.predicted, cell.truth)


def seeds_of(row):
    """((key, value), ...) of the seeds that name a run."""
    return tuple((key, row[key]) for key in SEEDS if row[key] is not None)


def make_cells(found):
    """[Cell] of committed.Records, in the order of the plan."""
    groups, devs = {}, {}
    for number, row in enumerate(found.rows):
        if row["phase"] == "runs":
            groups.setdefault(row["cell"], []).append((number, row))
            if row["dev"]:
                devs.setdefault(row["task"], set()).add(row["dev"])
    return [_make_cell(found, name, members, devs) for name, members in groups.items()]


def _make_cell(found, name, members, devs):
    task, method, *axes = name.split("/")
    of_task = devs.get(task, set())
    # A cell without a finished run is scored on its task's dev set, where there is one alone.
    own = {row["dev"] for _, row in members if row["dev"]} or (of_task if len(of_task) == 1 else set())
    dev = min(own, default="")
    facts = Task(task, "", (), ())
    truth, predicted, scored, constant = np.zeros(0), [], [], []
    if dev:
        parts = found.dev[dev]
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
        name,
        task,
        method,
        dict(axis.split("=", 1) for axis in axes),
        found.facts["open"].get(name, {}),
        tuple(found.facts["metrics"].get(task, ())),
        tuple(row for _, row in members),
        tuple(scored),
        dev,
        facts,
        truth,
        np.stack(predicted) if predicted else np.zeros((0, len(truth))),
        np.array(constant, bool),
        found.dev[dev].get("cluster") if dev else None,
    )


def attempt(function, *arguments):
    """What a function of `statistics` gives, or, as a str, why it refuses."""
    try:
        return function(*arguments)
    except UserError as refusal:
        return str(refusal)


def sign_of(metric):
    """1, or -1 for a metric of which less is better."""
    return -1 if lower_is_better(metric) else 1


def counts(rows):
    """{started, finished, diverged, ended} of rows."""
    states = [row["state"] for row in rows]
    finished, diverged = states.count(FINISHED), states.count(DIVERGED)
    started = len(states) - states.count(MISSING)
    return {"started": started, "finished": finished, "diverged": diverged, "ended": finished + diverged}


def summarize(cell, metric):
    """{name: value} of a cell: `statistics.summarize`, and the Intervals `new_seeds` and `new_examples`.

    A str in place of an Interval, or of all, says why there is none.
    """
    sign, scores, count = sign_of(metric), cell.scores(metric), counts(cell.rows)
    found = attempt(inference.summarize, sign * scores, cell.failed, count["started"], count["finished"])
    if isinstance(found, str):
        return found
    found |= {name: sign * found[name] for name in ("mean", "median", "best", "worst", "sound_mean")}
    if cell.crossed:
        return found | {"new_seeds": CROSSED, "new_examples": CROSSED}
    seeds = attempt(inference.seed_interval, scores, cell.failed)
    examples = attempt(
        inference.crossed_interval,
        scores,
        cell.pseudo_values(metric),
        cell.failed,
        inference.BOUNDS.get(metric),
        cell.cluster,
    )
    return found | {"new_seeds": seeds, "new_examples": examples}


def costs(cell, full):
    """{name: value} of what the finished runs of a cell took; {} without one.

    full: the Cell of full tuning to compare with, or None.  seconds: of training, (median, lowest, highest); hidden:
    seconds that making hidden states took, all runs together; flops: of the steps of a run, without that.
    """
    rows = [row for row in cell.rows if row["state"] == FINISHED]
    if not rows:
        return {}
    seconds = [row["train_seconds"] for row in rows]
    whole = _flops(row for row in full.rows if row["state"] == FINISHED) if full else math.nan
    trained = rows[0]["trainable_params"]
    return {
        "n": len(rows),
        "trained": trained,
        "added": rows[0]["added_params"],
        "total": rows[0]["total_params"],
        "steps": sorted({row["steps"] for row in rows}),
        "flops": _flops(rows),
        "of_full": _flops(rows) / whole if whole > 0 else None,
        "optimizer_bytes": 8 * trained if rows[0]["optim.name"] in ADAM else None,
        "seconds": (float(np.median(seconds)), min(seconds), max(seconds)),
        "hidden": sum(row.get("hidden_seconds") or 0.0 for row in rows),
        "lanes": max(row.get("lanes") or 1 for row in rows),
        "looks": sorted({row["looks"] for row in rows}),
    }


def _flops(rows):
    """The median over runs of the operations of all steps."""
    found = [row["flops_per_step"] * row["steps"] for row in rows]
    return float(np.median(found)) if found else math.nan


def partner(cell, cells, method):
    """The Cell of a method on the same task that agrees with a cell in all axes it has, the most of them, or None."""
    fit = [
        other
        for other in cells
        if (other.task, other.method) == (cell.task, method)
        and all(cell.axes.get(key) == value for key, value in other.axes.items())
    ]
    return max(fit, key=lambda other: len(other.axes), default=None)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Values that the tuning runs tried for a cell.

    values: {key: text}; scores: of the runs that finished; mean, sd: of these, NaN where there are too few; rows: of
    all its runs; chosen: whether reported runs took it; best: whether none with as few failures has a better mean.
    """

    values: dict
    scores: tuple
    mean: float
    sd: float
    rows: tuple
    chosen: bool
    best: bool = False


def make_trials(cell, found):
    """[Trial] of a cell, [] where nothing was chosen."""
    keys, first = tuple(cell.open), f"metrics.{cell.metrics[0]}" if cell.metrics else ""
    taken = {tuple(row[key] for key in keys) for row in cell.rows} if keys else ()
    groups, found_trials = {}, []
    for row in found.rows:
        if row["phase"] == "tuning" and row["cell"] == cell.name:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for values, rows in groups.items():
        scores = tuple(row[first] for row in rows if row["state"] == FINISHED and row[first] is not None)
        mean = float(np.mean(scores)) if scores else math.nan
        sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
        chosen = any(all(map(same, others, values)) for others in taken)
        found_trials.append(Trial(dict(zip(keys, values, strict=True)), scores, mean, sd, tuple(rows), chosen))
    ranks = [(len(t.rows) - len(t.scores), -sign_of(cell.metrics[0]) * t.mean) for t in found_trials if t.scores]
    return [
        dataclasses.replace(t, best=(len(t.rows) - len(t.scores), -sign_of(cell.metrics[0]) * t.mean) == min(ranks))
        if t.scores
        else t
        for t in found_trials
    ]


def same(one, other):
    """Whether two texts are the same value: 1 is 1.0."""
    numbers = number(one), number(other)
    return one == other or (numbers[0] is not None and numbers[0] == numbers[1])


def number(value):
    """The float that a text is, None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def edges(trials):
    """[(key, value, "lowest" | "highest", how many were tried)] of chosen values beyond which a better one may lie."""
    chosen = next((trial for trial in trials if trial.chosen), None)
    found = []
    for key, value in chosen.values.items() if chosen else ():
        tried = sorted({number(trial.values[key]) for trial in trials}, key=lambda x: (x is None, x))
        if None not in tried and len(tried) > 1 and number(value) in (tried[0], tried[-1]):
            found.append((key, value, "lowest" if number(value) == tried[0] else "highest", len(tried)))
    return found


def best_of(cell, metric):
    """{n: expected best dev score of n runs}, from n = 1 to half of the runs."""
    sign, scores = sign_of(metric), cell.scores(metric)
    return {n: sign * inference.expected_best(sign * scores, n) for n in range(1, len(scores) // 2 + 1)}


def variance_parts(cell, metric):
    """{seed's key or "rest": Interval of its variance} of a cell with crossed seeds, or a str: why there is none."""
    counts_ = {key: len({row[key] for row in cell.rows}) for key in SEEDS}
    keys = [key for key, count in counts_.items() if 1 < count < len(cell.rows)]  # one of each run's own is of the rest
    values = [sorted({row[key] for row in cell.rows}) for key in keys]
    scores = zip(cell.scored, cell.scores(metric), strict=True)
    place = {tuple(row[key] for key in keys): score for row, score in scores}
    if len(keys) != 2 or len(place) < len(values[0]) * len(values[1]):
        return f"{len(cell.scored)} of its runs have a score; parts of the variance need two seeds, fully crossed."
    if cell.failed.any():
        return f"{cell.failed.sum()} of its runs collapsed or diverged; parts of the variance need every one."
    table = [[place[one, other] for other in values[1]] for one in values[0]]
    found = attempt(inference.variance_parts, table)
    return found if isinstance(found, str) else dict(zip((*keys, "rest"), found, strict=True))
