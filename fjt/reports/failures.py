"""The sentences about runs that collapsed, diverged or never predict a class, and the constant that they are like."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fjt.core.markdown import code, escape
from fjt.core.ragged import Ragged, values_of
from fjt.data.glue import Task
from fjt.reports import cells as values
from fjt.reports.cells import Cell
from fjt.reports.formatting import Name
from fjt.reports.pages import Text
from fjt.tasks.problem import Problem


def of_runs(cells: Sequence[Cell]) -> list[Text]:
    """The texts that name the collapsed and diverged runs."""
    collapsed, diverged = [], []
    for cell in cells:
        for i, row in enumerate(cell.scored):
            if cell.collapsed[i]:
                collapsed.append(f"`{row['run']}` ({_answers(cell, i)})")
        diverged += [
            f"`{row['run']}` ({escape(row['failed'])})" for row in cell.rows if row["state"] == values.DIVERGED
        ]
    texts = []
    if collapsed:
        texts.append(Text(f"**Collapsed**, (nearly) one prediction for every example of dev: {'; '.join(collapsed)}."))
    if diverged:
        constants = {
            f"always {_value(cell.problem, cell.facts, cell.predicted[i])}"
            for cell in cells
            for i in range(len(cell.scored))
            if cell.constant[i]
        }
        counted = f"; each counts as predicting dev's most frequent label or mean ({', '.join(sorted(constants))})"
        texts.append(Text(f"**Diverged**{counted if constants else ', without a score'}: {'; '.join(diverged)}."))
    return texts


def of_cells(cells: Sequence[Cell], name: Name) -> list[str]:
    """The sentences about runs that collapsed, diverged or never predict a class."""
    texts = []
    for kind, runs_of in (("Collapsed", lambda cell: cell.collapsed), ("Diverged", lambda cell: cell.constant)):
        failed = [(name(cell), int(runs_of(cell).sum()), len(cell.scored)) for cell in cells if runs_of(cell).any()]
        if failed:
            texts.append(f"**{kind}**: {', '.join(f'{cell} in {count} of {n} runs' for cell, count, n in failed)}.")
    return texts + never_predicted(cells, name)


def never_predicted(cells: Sequence[Cell], name: Name) -> list[str]:
    """The sentences about classes of dev that runs never predict, runs that failed aside."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        classes = values.classes_of(cell)
        sound = classes.predicted[~cell.failed]
        for label, runs in enumerate((sound == 0).sum(axis=0)):
            if runs and classes.support[label]:
                title = f"{code(classes.names[label])} ({classes.support[label]:,} of dev, F1 0)"
                found.setdefault(title, []).append(f"{name(cell)} in {runs} of {len(sound)} runs")
    return [f"**Never predicted**: {label} by {', '.join(cells_)}." for label, cells_ in found.items()]


def always(cell: Cell) -> str:
    """The name of the row of a constant."""
    constant = cell.problem.constant(cell.truth)
    named = cell.facts.label_names or cell.problem.constant_name
    return f"always {_value(cell.problem, cell.facts, constant)}" if named else "always the mean"


def _answers(cell: Cell, run: int) -> str:
    """ "always `no`", or "`no` for 118 of 120", of a run of a cell that collapsed."""
    found = []
    for name, problem, facts, predicted in cell.problem.collapsed_parts(cell.predicted[run], cell.truth, cell.facts):
        most = problem.constant(predicted)
        single, text = values_of(predicted), _value(problem, facts, most)  # tags of words, one by one
        count = sum(map(np.array_equal, single, values_of(most)))
        if count == len(single):
            text = f"always {text}"
        else:
            text = f"{text} for {count:,} of {len(single):,}" if facts.label_names else f"nearly always {text}"
        found.append(f"{name}: {text}" if name else text)
    return "; ".join(found)


def _value(problem: Problem, facts: Task, predicted: Any) -> str:
    """The first of predictions, in words."""
    if problem.constant_name:
        return problem.constant_name
    first = predicted.values[:1] if isinstance(predicted, Ragged) else predicted[0]
    text = problem.describe_label(first, facts)
    return code(text) if facts.label_names else text
