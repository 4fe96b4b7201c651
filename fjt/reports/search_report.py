"""The report of a search: its trials, the best one as flags to copy, how often dev was read, and figures."""

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from fjt.core import console, files, records
from fjt.core.markdown import code
from fjt.core.options import OPTIONS
from fjt.reports import figures, pages, search_figures
from fjt.reports.formatting import points, unit
from fjt.reports.gather import without_paths
from fjt.study.search import Search, describe, find_best
from fjt.study.space import WHICH, Axis, Listed
from fjt.tasks.kinds import bounds_of

EDGE = 0.05  # a value this close to an end of its range, as a share of the range, is at the edge


def write(search: Search, folder: str, command: str) -> None:
    """Writes search.json and the report of a search, and prints both in short.

    Args:
        search: the search, whose trials have ended.
        folder: of the search; the report is written to its report/.
        command: the command line that made it.
    """
    best = find_best(search.trials, search.lower)
    records.write_json(os.path.join(folder, "search.json"), record(search, best))
    output = os.path.join(folder, "report")
    os.makedirs(os.path.join(output, "figures"), exist_ok=True)
    blocks = build(search, best, command)
    for block in blocks:
        if isinstance(block, pages.Picture):
            files.write(os.path.join(output, "figures", f"{block.name}.svg"), block.svg.encode())
            files.write(os.path.join(output, "figures", f"{block.name}.png"), block.png)
    records.replace(os.path.join(output, "report.md"), pages.markdown(blocks))
    records.replace(os.path.join(output, "report.html"), pages.page("Search", blocks))
    show(search, best, output)


def row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    """A trial as plain values."""
    facts = {"ended": "running", "evaluations": 0} | trial.user_attrs
    return {
        "trial": trial.number,
        "values": dict(search.values[trial.number]),
        "score": trial.value if trial.state is TrialState.COMPLETE else None,
        "evaluations_on_dev": facts["evaluations"],
        "ended": facts["ended"],
        "same_as": facts.get("same_as"),
    }


def record(search: Search, best: FrozenTrial | None) -> dict[str, Any]:
    """The contents of search.json."""
    rows = [row(search, trial) for trial in search.trials]
    spaces = [{axis.key: describe(axis) for axis in space} for space in search.plan.spaces]
    return {
        "metric": search.metric,
        "direction": "minimize" if search.lower else "maximize",
        "sampler": search.plan.sampler,
        "seed": search.plan.seed,
        "lanes": search.plan.lanes,
        "prune": search.plan.prune,
        "space": spaces,
        "best": row(search, best) | {"flags": flags_of(search.values[best.number])} if best else None,
        "at_the_edge": edges(search, best) if best else [],
        "importances": search_figures.importances(search),
        "dev": uses(search),
        "trials": rows,
        "versions": records.versions(),
    }


def uses(search: Search) -> dict[str, Any]:
    """How often dev was read for choosing: the scores that were compared, the evaluations, the rows of dev."""
    facts = [trial.user_attrs for trial in search.trials]
    return {
        "held_out_training_rows": bool(search.base["data"]["holdout"]),
        "rows": next((fact["dev_rows"] for fact in facts if "dev_rows" in fact), None),
        "scores_compared": sum(trial.state is TrialState.COMPLETE for trial in search.trials),
        "evaluations": sum(fact.get("evaluations", 0) for fact in facts),
    }


def flags_of(values: Mapping[str, Any]) -> str:
    """The values of a trial as flags of `python -m fjt.main`."""
    return " ".join(shlex.quote(f"--config.{key}={_flag(value)}") for key, value in values.items())


def _flag(value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(part, str) and part.isidentifier() for part in value):
        return ",".join(value)
    return str(value)


def edges(search: Search, best: FrozenTrial) -> list[str]:
    """The warnings about values of the best trial that are at an end of their axis, where the axis could go on."""
    space = search.plan.spaces[int(best.params.get(WHICH, 0))]
    found = [_edge(axis, search.values[best.number][axis.key]) for axis in space]
    return [text for text in found if text]


def _edge(axis: Axis, value: Any) -> str:
    """A warning, "" for a value within its axis, or at the end of all that its option allows."""
    if isinstance(axis, Listed):
        numbers = [one for one in axis.values if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < max(2, len(axis.values)) or value not in (min(numbers), max(numbers)):
            return ""
        low, high, end = min(numbers), max(numbers), value
    else:
        position = axis.position(value)
        if EDGE < position < 1 - EDGE:
            return ""
        low, high, end = axis.low, axis.high, axis.low if position <= EDGE else axis.high
    declared = OPTIONS[axis.key]
    if end == (declared.low if end == low else declared.high):
        return ""
    return (
        f"{axis.key}={value} is at the {'low' if end == low else 'high'} end of its axis, {low:g} to {high:g}: a "
        "better value may be beyond it. Search a wider axis in another --workdir."
    )


def build(search: Search, best: FrozenTrial | None, command: str) -> list[pages.Block]:
    """The blocks of the report."""
    seen = uses(search)
    rows = "rows held out of training" if seen["held_out_training_rows"] else "dev rows"
    blocks: list[pages.Block] = [
        pages.Heading(1, "Search"),
        pages.Text(code(without_paths(command))),
        pages.Text(
            f"{len(search.trials)} trials by {search.plan.sampler}, seed {search.plan.seed}. The {search.metric} on "
            f"{seen['rows'] or '-'} {rows} was computed {seen['evaluations']} times, and {seen['scores_compared']} "
            "scores were compared. The best of several scores on the same rows is optimistic: run the best options "
            "again with other seeds, and score them on rows that no trial has seen, such as the published dev set "
            "after a search with config.data.holdout."
        ),
    ]
    if best:
        values = search.values[best.number]
        blocks += [
            pages.Heading(2, "Best trial"),
            pages.Text(f"Trial {best.number}: {_score(search, best)}"),
            pages.Text(code(flags_of(values))),
            *(pages.Text(text, warning=True) for text in edges(search, best)),
        ]
    blocks += [pages.Heading(2, "Figures"), *pictures(search), pages.Heading(2, "Trials"), _table(search)]
    return blocks


def _score(search: Search, trial: FrozenTrial) -> str:
    """The score of a trial with its metric."""
    return f"{search.metric} {points(search.metric, trial.value)}{' points' if bounds_of(search.metric) else ''}"


def pictures(search: Search) -> list[pages.Picture]:
    """The figures that the trials allow."""
    found = figures.picture(
        lambda: search_figures.draw_history(search), "history", "Each trial, and the best score so far."
    )
    found += figures.picture(
        lambda: search_figures.draw_slices(search), "slices", "The scores of the trials against each value."
    )
    return found + figures.picture(
        lambda: search_figures.draw_importances(search),
        "importances",
        "Share of the variance of the scores that each option explains (fANOVA; Hutter et al. 2014). With few trials "
        "it is rough.",
    )


def keys_of(search: Search) -> list[str]:
    """The config keys of all axes, in their order."""
    return list(dict.fromkeys(axis.key for space in search.plan.spaces for axis in space))


def _cells(search: Search) -> list[tuple[str, ...]]:
    """One line of texts per trial: number, score, how it ended, values."""
    found = []
    for trial in search.trials:
        about, values = row(search, trial), search.values[trial.number]
        same = "" if about["same_as"] is None else f" (as trial {about['same_as']})"
        cells = [json.dumps(values[key]) if key in values else "-" for key in keys_of(search)]
        found.append((str(trial.number), points(search.metric, about["score"]), about["ended"] + same, *cells))
    return found


def _table(search: Search) -> pages.Table:
    columns = (">trial", f">{unit(search.metric)}", "ended", *(f">{key}" for key in keys_of(search)))
    return pages.Table(columns, tuple(_cells(search)))


def show(search: Search, best: FrozenTrial | None, output: str) -> None:
    """Prints the trials, the best one, and the place of the report."""
    columns = (">trial", f">{unit(search.metric)}", "ended", *(f">{key}" for key in keys_of(search)))
    console.table("Trials", columns, _cells(search))
    if best is None:
        console.warn(
            "no trial has a score: all were pruned, collapsed or diverged; try more steps or other learning rates"
        )
    else:
        seen = uses(search)
        where = "held-out training rows" if seen["held_out_training_rows"] else "dev"
        console.say(
            f"best: trial {best.number}, {_score(search, best)} on {where}, the best "
            f"of {seen['scores_compared']} scores and so optimistic"
        )
        console.say(f"  {flags_of(search.values[best.number])}")
        for text in edges(search, best):
            console.warn(text)
    console.say(f"report: {os.path.join(output, 'report.html')}, {os.path.join(output, 'report.md')}")
