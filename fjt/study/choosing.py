"""The scores of runs decide: which value of the tuning trials a cell takes, and which run of a task is the best."""

import collections
import math
import os
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fjt.experiment import run_records
from fjt.study.spec import Run
from fjt.tasks.kinds import lower_is_better

FOLD = "data.fold"  # the key of the axis that a study makes of config.data.folds
Chosen = dict[str, dict[str, Any]]  # {cell: {key: value}}


def choose(folder: str, runs: dict[str, Run], cells: Collection[str], metric: str = "") -> Chosen:
    """{cell: {key: value}} of the open keys of its runs, from the tuning trial with the best score.

    The tuning runs of these cells must have ended.  A trial's score is the mean over its seeds of the metric, by
    default the one that the task selects by, on the held-out rows.  A trial with fewer failed runs, those that diverged
    or collapsed, ranks before one with more; among equal trials the first is used.
    """
    trials: dict[str, dict[str, list[Run]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs.values():
        if run.phase == "tuning":
            trials[run.cell][run.name.rsplit("/seed=", 1)[0]].append(run)
    chosen: Chosen = {}
    for run in runs.values():
        if run.phase == "runs" and run.cell in cells and run.cell not in chosen:
            best = max(trials[run.cell].values(), key=lambda trial: _rank(folder, trial, metric))
            chosen[run.cell] = {key: dict(best[0].values)[key] for key, _ in run.open}
    return chosen


def best_runs(folder: str, runs: Mapping[str, Run], metric: str = "") -> dict[str, str]:
    """{task: name of its reported run with the best score}; of equals the first.  Collapsed runs are behind the others.

    Args:
        folder: the study.
        runs: {name: Run}; all have ended.
        metric: that decides, by default the first one of each task.
    """
    best: dict[str, tuple[tuple[bool, float], str]] = {}
    for name in (name for name, run in runs.items() if run.phase == "runs"):
        result = run_records.read_result(os.path.join(folder, name))
        value = score(result | {"collapsed": False}, metric)
        if value is None:
            continue
        rank = not result.get("collapsed"), value
        if result["task"] not in best or rank > best[result["task"]][0]:
            best[result["task"]] = rank, name
    return {task: name for task, (_, name) in best.items()}


def fold_patterns(runs: Mapping[str, Run]) -> list[str]:
    """For each cross-validation of a study, the pattern of the names of its runs, as a shell reads it."""
    folds = (re.subn(rf"{FOLD}=\d+", f"{FOLD}=*", name) for name, run in runs.items() if run.phase == "runs")
    return list(dict.fromkeys(name for name, found in folds if found))


def _rank(folder: str, trial: Sequence[Run], metric: str) -> tuple[int, float, float]:
    """(minus the number of failed runs, mean score of the others, mean score of all): the larger, the better.

    The last one decides among trials whose runs all failed: those that collapsed have scores.
    """
    results = [run_records.read_result(os.path.join(folder, run.name)) for run in trial]
    valid = [value for result in results if (value := score(result, metric)) is not None]
    scored = [value for result in results if (value := score(result | {"collapsed": False}, metric)) is not None]
    return len(valid) - len(results), _mean(valid), _mean(scored)


def _mean(scores: Sequence[float]) -> float:
    return statistics.fmean(scores) if scores else -math.inf


def score(result: dict[str, Any], metric: str = "") -> float | None:
    """A metric, negated if lower is better; None for a run that diverged, collapsed or has no score.

    Args:
        result: of the run.
        metric: its name, "" for the one that the task selects by.
    """
    metrics = result.get("metrics") or {}
    name = metric or result.get("selection") or next(iter(metrics), "")  # files of version 0.1.0 did not say
    value = None if result.get("collapsed") else metrics.get(name)
    return None if value is None else -value if lower_is_better(name) else value
