"""The verdict that opens a report, in sentences: who is ahead, how sure that is, what would decide the rest."""

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fjt.reports import cells as values
from fjt.reports import conditions, failures, formatting, inference
from fjt.reports.archive import Records
from fjt.reports.cells import Cell
from fjt.reports.comparisons import Comparison
from fjt.reports.formatting import Name, p_value, points, unit
from fjt.reports.inference import Interval
from fjt.reports.pages import Block, Footnotes, Heading, Items, Text
from fjt.reports.score_tables import data_text
from fjt.study.choosing import FOLD


def build(study: Records, cells: Sequence[Cell], comparisons: Sequence[Comparison], name: Name) -> list[Block]:
    """The blocks of the verdict.

    Args:
        study: the records.
        cells: its cells.
        comparisons: with the baseline, empty without one.
        name: returns the name of a cell.
    """
    blocks: list[Block] = [Text(conditions.text(study, cells)), Heading(2, "Verdict")]
    crossed = values.cross_validated(cells)
    for task in dict.fromkeys(cell.task for cell in cells):
        members, folds = ([c for c in cells if c.task == task and (c in crossed) == wanted] for wanted in (False, True))
        of_task = [one for one in comparisons if one.cell.task == task]
        family = len(comparisons if study.facts["study"]["family"] == "study" else of_task)
        if members:
            blocks.append(Text(_headline(members, study, name)))
            blocks.append(Items(tuple(_task(members, of_task, family, study, name))))
        if folds:
            blocks += [
                Text(f"**{formatting.title(folds, study)}**, in folds:"),
                Items(tuple(_folds(folds, study, name))),
            ]
    if comparisons:
        shown = " ".join(text for block in blocks if isinstance(block, Items) for text in block.texts)
        blocks.append(Text(_how_to_read(comparisons, study, shown)))
    return blocks


def _headline(cells: Sequence[Cell], study: Records, name: Name) -> str:
    """The line of a task: its files, its dev set, and the cell with the highest mean."""
    title = formatting.title(cells, study)
    scored = [cell for cell in cells if len(cell.scored)]
    if not cells[0].metrics or not scored:
        return f"**{title}**: no run has a score."
    metric = cells[0].metrics[0]
    best = _best(scored, metric)
    about = "; ".join([unit(metric), data_text(cells)])
    failed = ", whose runs all collapsed or diverged" * bool(best.failed.all())
    return f"**{title}** ({about}): the best mean is {_mean(best, metric)}, of {name(best)}{failed}."


def _best(cells: Iterable[Cell], metric: str) -> Cell:
    """The cell with the best mean in a metric."""
    return max(cells, key=lambda cell: values.sign_of(metric) * cell.scores(metric).mean())


def _mean(cell: Cell, metric: str) -> str:
    """The mean score of a cell as printed."""
    return points(metric, float(cell.scores(metric).mean()))


def _task(
    cells: Sequence[Cell], comparisons: Sequence[Comparison], family: int, study: Records, name: Name
) -> list[str]:
    """The sentences of a task: one for each comparison, and those about all runs.

    Args:
        cells: of the task.
        comparisons: of the task.
        family: number of comparisons over which p is adjusted.
        study: the records.
        name: returns the name of a cell.
    """
    scored = [cell for cell in cells if len(cell.scored)]
    if not cells[0].metrics or not scored:
        return ["Nothing can be said yet."]
    lines_of: dict[str, list[tuple[float, str]]] = {}
    for one in comparisons:
        kind, sign = _kind(one, study.facts["study"]["alpha"]), values.sign_of(one.metric)
        text = _comparison(one, kind, study.facts["study"], family, name)
        lines_of.setdefault(kind, []).append((-sign * (one.mean or 0.0), text))
    order = [*_KINDS, *(kind for kind in lines_of if kind not in _KINDS)]
    texts = [text for kind in order for _, text in sorted(lines_of.get(kind, ()))]
    if not comparisons:
        texts.append(_untested(cells, study.facts["study"]["baseline"], name))
    texts += [*_other_metrics(scored, name), *_fitted_less(scored, study, name), *_no_better(cells, name)]
    failed = failures.of_cells(cells, name)
    return [*failed, *texts] if failed else [*texts, "No run collapsed or diverged."]


def _folds(cells: Sequence[Cell], study: Records, name: Name) -> list[str]:
    """The sentences about the folds of a task: the mean of each method over its folds, and the command that pools them.

    Folds of a method are parts of one cross-validation, so that no fold is ahead of another one.
    """
    scored = [cell for cell in cells if len(cell.scored)]
    if not cells[0].metrics or not scored:
        return ["No run has a score."]
    folds_of: dict[str, list[Cell]] = {}
    for cell in cells:
        rest = {key: value for key, value in cell.axes.items() if key != FOLD}
        folds_of.setdefault(name(dataclasses.replace(cell, axes=rest)), []).append(cell)
    texts = [f"Means over folds ({unit(metric)}): {_over_folds(folds_of, metric)}." for metric in cells[0].metrics]
    runs = re.sub(rf"{FOLD}=\d+", f"{FOLD}=*", str(scored[0].scored[0]["run"]))
    texts.append(
        "**The folds of a method are one cross-validation, and no difference is tested here.** "
        f"`python -m fjt.evaluate --run STUDY/{runs}` pools the predictions of all folds of one method and seed."
    )
    texts += [*_fitted_less(scored, study, name), *_no_better(cells, name)]
    failed = failures.of_cells(cells, name)
    return [*failed, *texts] if failed else [*texts, "No run collapsed or diverged."]


def _over_folds(folds_of: Mapping[str, Sequence[Cell]], metric: str) -> str:
    """The mean of each method over its folds, the best first; at the end methods that lack the score of a fold.

    Args:
        folds_of: {name of a method: its folds}.
        metric: the metric.
    """
    rows = []
    for one, folds in folds_of.items():
        means = [float(cell.scores(metric).mean()) for cell in folds if len(cell.scored)]
        if means:
            mean, lacking = statistics.fmean(means), len(means) < len(folds)
            text = f"{one} {points(metric, mean)}" + f" ({len(means)} of {len(folds)} folds)" * lacking
            rows.append((lacking, -values.sign_of(metric) * mean, text))
    return "; ".join(text for *_, text in sorted(rows))


_KINDS = {  # in the order of their lines
    "ahead": "ahead of {} for new seeds and new examples",
    "ahead here": "ahead of {} for new seeds on this dev set; undecided for new examples",
    "ahead untested": "ahead of {} for new seeds on this dev set; for new examples there is an interval and no p",
    "undecided": "undecided against {}",
    "behind untested": "behind {} for new seeds on this dev set; for new examples there is an interval and no p",
    "behind here": "behind {} for new seeds on this dev set; undecided for new examples",
    "behind": "behind {} for new seeds and new examples",
    "failed": "not tested against {}, because runs collapsed or diverged",
}


def _kind(one: Comparison, alpha: float) -> str:
    """The kind of a comparison: a key of _KINDS, or the reason why it is not tested."""
    if isinstance(one.p, str):
        return "failed" if one.failed.any() else f"not tested. {one.p.rstrip('.')}"
    side = "ahead" if values.sign_of(one.metric) * (one.mean or 0.0) > 0 else "behind"
    if isinstance(one.p_examples, float) and one.p_examples <= alpha:
        return side
    if one.p > alpha:
        return "undecided"
    return f"{side} {'untested' if isinstance(one.p_examples, str) else 'here'}"


def _comparison(one: Comparison, kind: str, study: Mapping[str, Any], family: int, name: Name) -> str:
    """ "**lora +1.22**: undecided against full (95 % -0.51 to +2.95; p 0.123 and 0.184)." and what would decide it.

    Args:
        one: the comparison.
        kind: of `_kind`.
        study: config.study as a dict.
        family: number of comparisons over which p is adjusted.
        name: returns the name of a cell.
    """
    facts = []
    if isinstance(one.new_examples, Interval):
        ends = formatting.limits(one.metric, one.new_examples, Footnotes(), signed=True)
        facts.append("without these runs, " * (kind == "failed") + f"95 % {ends}")
    shown = [p for p in (one.p, one.p_examples) if isinstance(p, float)]
    if shown:
        lowest = len(shown) == 1 and math.isclose(shown[0], family * 2.0 ** (1 - one.n))
        ending = f", the lowest of {one.n} seeds and {family} comparison{'s' * (family > 1)}" * lowest
        facts.append(f"p {' and '.join(map(p_value, shown))}{ending}")
    # The interval is of pairs without failed runs, and so is the mean beside it.
    mean = one.new_examples.estimate if isinstance(one.new_examples, Interval) else one.mean
    told = _KINDS[kind].format(study["baseline"]) if kind in _KINDS else kind
    brackets = f" ({'; '.join(facts)})" if facts else ""
    decider = _decider(one, study["alpha"], family)
    return f"**{name(one.cell)} {points(one.metric, mean, signed=True)}**: {told}{brackets}.{decider}"


def _decider(one: Comparison, alpha: float, family: int) -> str:
    """The sentence about what would show a difference of the size that was seen, "" where that is decided or unknown.

    Args:
        one: the comparison.
        alpha: of the tests of a family together.
        family: number of comparisons over which p is adjusted.
    """
    p, (mean, sd) = one.p_examples, one.sound
    if isinstance(p, str) or isinstance(one.smallest, str) or p <= alpha or not mean or not sd:
        return ""
    seeds, times = inference.decide(mean, sd, one.smallest, alpha / family)
    if seeds is not None:
        return f" About {max(seeds, one.n + 1):,} seeds {_POWER}."
    return f" No number of seeds {_POWER} without {times:.1f} times as many dev examples."


_POWER = "would show a difference of this size"


def _other_metrics(cells: Sequence[Cell], name: Name) -> list[str]:
    """A sentence for each further metric by which another cell has the best mean."""
    first, *others = cells[0].metrics
    best, texts = _best(cells, first), []
    for metric in others:
        other = _best(cells, metric)
        if _mean(other, metric) != _mean(best, metric):
            texts.append(
                f"**By {metric} another method is ahead**: {name(other)} has {_mean(other, metric)}, {name(best)} "
                f"{_mean(best, metric)}."
            )
    return texts


LESS_FITTED = 2.0  # times the training loss of a cell that trains fewer parameters


def _fitted_less(cells: Sequence[Cell], study: Records, name: Name) -> list[str]:
    """The sentence about cells that end with a far higher training loss than one that trains fewer parameters."""
    losses = {cell: loss for cell in cells if (loss := values.last_loss(cell, study)) is not None}
    trained = {cell: values.costs(cell, None)["trained"] for cell in losses}
    found = []
    for cell, loss in losses.items():
        smaller = [other for other in losses if trained[other] < trained[cell]]
        best = min(smaller, key=lambda other: losses[other], default=None)
        if best and loss > LESS_FITTED * losses[best]:
            found.append(f"{name(cell)} ends with a training loss of {loss:.2g}, {name(best)} with {losses[best]:.2g}")
    if not found:
        return []
    return [
        f"**Trains more parameters but fits the training examples less**: {'; '.join(found)}. More steps or another "
        "learning rate may change the order."
    ]


def _untested(cells: Sequence[Cell], baseline: str, name: Name) -> str:
    """The sentence about a task without comparisons."""
    metric = cells[0].metrics[0]
    scored = [cell for cell in cells if len(cell.scored)]
    ordered = sorted(scored, key=lambda cell: -values.sign_of(metric) * float(cell.scores(metric).mean()))
    means = ", ".join(f"{name(cell)} {_mean(cell, metric)}" for cell in ordered)
    reason = f"no cell can be compared with {baseline}" if baseline else "config.study.baseline is empty"
    return f"Means in order: {means}. **No difference is tested**, because {reason}."


def _no_better(cells: Sequence[Cell], name: Name) -> list[str]:
    """The sentence about cells whose mean does not exceed a constant's score."""
    metric, below = cells[0].metrics[0], {}
    sign = values.sign_of(metric)
    for cell in cells:
        if not len(cell.scored) or metric not in cell.problem.metrics:
            continue
        constant = cell.problem.constant_scores(cell.truth, [metric])[metric]
        if sign * cell.scores(metric).mean() <= sign * constant:
            below.setdefault(f"{failures.always(cell)}, {points(metric, constant)}", []).append(name(cell))
    return [f"**No better than a constant** ({constant}): {', '.join(names)}." for constant, names in below.items()]


def _how_to_read(comparisons: Sequence[Comparison], study: Records, shown: str) -> str:
    """The paragraph about the numbers in brackets.  shown: the sentences of all tasks."""
    family = f"all {len(comparisons)}" if study.facts["study"]["family"] == "study" else "each task's"
    first = (
        "After a method's name: its mean difference. In brackets: the 95 % interval of the difference for new seeds "
        "and new examples of the same sources, not adjusted for the number of comparisons"
    )
    tested = [one for one in comparisons if isinstance(one.p, float)]
    if any(isinstance(one.p_examples, float) for one in tested):
        first += "; then p for new seeds on this dev set, and p for new seeds and new examples, both adjusted"
    elif tested:
        first += "; then p for new seeds on this dev set, adjusted"
    sentences = [first + (f" over {family} comparisons." if tested else ".")]
    if any(isinstance(one.p_examples, str) and one.n < inference.LEAST_T for one in tested):
        sentences.append(
            f"A p for new examples needs a study of {inference.LEAST_T} seeds or more, because with fewer it errs "
            "too often."
        )
    if _POWER in shown:
        sentences.append(
            "Numbers of seeds and examples are for 80 % power with this adjustment, if the true difference is the one "
            "that was seen."
        )
    return " ".join(sentences)
