"""The page of an evaluation, its files and its table in a terminal."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fjt.core import console, files, records
from fjt.core.markdown import code, escape
from fjt.experiment.finished import Run
from fjt.experiment.labelled import Labelled
from fjt.reports import evaluation_figures, resampling
from fjt.reports.evaluation import MOST_WRONG, Evaluation, record
from fjt.reports.formatting import p_value
from fjt.reports.inference import LEAST_EXAMPLES
from fjt.reports.pages import Block, Footnotes, Heading, Items, Table, Text, page, raised
from fjt.reports.pairs import Pair
from fjt.reports.resampling import Estimate
from fjt.tasks.measures import EACH

PAGE, RECORD = "evaluation.html", "evaluation.json"
LONGEST = 300  # characters of a text that the page shows
OF_FOLDS = (
    "Each two folds share most of their training rows, so their scores are not independent, and the sd over folds "
    "divided by a root is not the standard error of their mean (Bengio and Grandvalet 2004). The intervals are about "
    "new examples for these models (Bayle et al. 2020). Areas and correlations are means over folds (Forman and "
    "Scholz 2010)."
)
EXPLAINED = {  # by the start of a score's name
    "macro_": "`macro_` is the mean over classes.",
    "ece": "`ece` is the expected calibration error: the mean distance between confidence and the share of right "
    "predictions.",
}


def write(folder: str, run: Run, evaluation: Evaluation, other: Run | None, pair: Pair | None) -> None:
    """Writes evaluation.html and evaluation.json into a folder.  For the other arguments see `evaluation.record`."""
    os.makedirs(folder, exist_ok=True)
    title, blocks = build(run, evaluation, other, pair)
    records.write_json(os.path.join(folder, RECORD), record(run, evaluation, other, pair))
    files.write(os.path.join(folder, PAGE), page(title, blocks).encode())


def build(run: Run, evaluation: Evaluation, other: Run | None, pair: Pair | None) -> tuple[str, list[Block]]:
    """(title, blocks) of the page."""
    rows, result = evaluation.rows, run.result
    title = f"Evaluation: {result['task']}, {' and '.join(result['method'])}, {rows.name}"
    blocks: list[Block] = [Heading(1, escape(title)), _facts(run, evaluation)]
    if rows.name == "dev" or evaluation.folds:
        blocks.append(Text("Dev also chose the best step and perhaps options: its scores are slightly too good."))
    if rows.calibration is not None:
        blocks.append(
            Text(
                "Probabilities and decisions are those of the stored calibration. On the rows that it was fitted on, "
                "its scores are too good."
            )
        )
    blocks += [Heading(2, "Scores"), score_table(evaluation.estimates, rows)]
    if evaluation.folds:
        blocks += [Text(_averaged(evaluation)), Heading(2, "Folds"), Table(*_fold_table(evaluation))]
    if classes := _class_table(evaluation):
        blocks += [Heading(2, "Classes"), classes]
    if drawn := evaluation_figures.draw(rows):
        blocks += [Heading(2, "Figures"), *drawn]
    blocks += _slice_blocks(evaluation) + _wrong_blocks(evaluation)
    if other is not None and pair is not None:
        blocks += _pair_blocks(other, rows, pair)
    return title, [*blocks, Heading(2, "How to read this"), Items(tuple(_reading(evaluation)))]


def _facts(run: Run, evaluation: Evaluation) -> Text:
    rows, result = evaluation.rows, run.result
    model = os.path.basename(os.path.normpath(result["model"]))
    if "models" in result:
        which = f", an ensemble of {result['models']} runs"
    else:
        seed = f", seed {result['seed']}" if result["seed"] is not None else ""
        which = seed if evaluation.folds else f"{seed}, step {result['selected_step']}"
    return Text(
        f"{len(rows):,} labelled {rows.problem.unit}s of {code(rows.name)}; task {escape(result['task'])}, method "
        f"{escape(' and '.join(result['method']))} over {escape(model)}{which}."
    )


def number(value: float) -> str:
    """A score as printed: four digits behind the point."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def ends(one: Estimate, notes: Footnotes) -> str:
    """The interval of an Estimate as printed, or a dash with the reason why there is none."""
    return notes.dash(one.reason) if one.reason else f"{number(one.low)} to {number(one.high)}"


def score_table(estimates: Mapping[str, Estimate], rows: Labelled) -> Table:
    """The Table of scores of all classes together."""
    notes, names = Footnotes(), _overall(estimates, rows)
    lines = tuple((name, number(estimates[name].value), ends(estimates[name], notes)) for name in names)
    return Table(("score", ">value", f">{resampling.CONFIDENCE:.0%} interval"), lines, tuple(notes.reasons))


def _fold_table(evaluation: Evaluation) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(columns, lines) of the scores of each fold, with their mean and standard deviation."""
    folds = evaluation.folds
    names, sizes = list(folds[0].values), [one.size for one in folds]
    values = np.array([list(one.values.values()) for one in folds])
    lines: list[tuple[str, float | None, Any]] = [(str(i), sizes[i], row) for i, row in enumerate(values)]
    lines += [("mean", sum(sizes) / len(sizes), values.mean(axis=0)), ("sd", None, values.std(axis=0, ddof=1))]
    cells = [(name, "" if size is None else f"{size:,g}", *map(number, row)) for name, size, row in lines]
    return ("fold", ">n", *(f">{name}" for name in names)), tuple(cells)


def _averaged(evaluation: Evaluation) -> str:
    """Which scores are of all rows together, and which are means over folds."""
    text = "Each row is predicted by the run that was not trained on it. Scores are of all rows together"
    if not evaluation.averaged:
        return f"{text}."
    return (
        f"{text}, except {' and '.join(evaluation.averaged)}: these are means over folds, because the scores of "
        "several models are not on one scale."
    )


def _overall(estimates: Mapping[str, Estimate], rows: Labelled) -> list[str]:
    of_classes = {f"{key}({name})" for key in EACH for name in rows.task.label_names}
    return [name for name in estimates if name not in of_classes]


def _class_table(evaluation: Evaluation) -> Table | None:
    """The Table of each class's scores, None for kinds without classes."""
    rows, notes, lines = evaluation.rows, Footnotes(), []
    problem, task = rows.problem, rows.task
    found = problem.per_class(rows.decoded().values, rows.label, task)
    for row in found:
        cells = []
        for key in EACH:
            one = evaluation.estimates.get(f"{key}({row['label']})", Estimate(row[key]))
            span = "" if math.isnan(one.low) else f" ({number(one.low)} to {number(one.high)})"
            cells.append(f"{number(one.value)}{notes.mark(one.reason) if one.reason else span}")
        lines.append((code(row["label"]), *cells, f"{row['support']:,}", f"{row['predicted']:,}"))
    columns = ("class", ">precision", ">recall", ">F1", ">support", ">predicted")
    return Table(columns, tuple(lines), tuple(notes.reasons)) if lines else None


def _slice_blocks(evaluation: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    for by in dict.fromkeys(one.by for one in evaluation.slices):
        notes, some = Footnotes(), [one for one in evaluation.slices if one.by == by]
        names = list(some[0].estimates)
        lines = tuple(
            (escape(one.name), f"{one.size:,}", *_cells([one.estimates[name] for name in names], notes)) for one in some
        )
        columns = (by, ">n", *(text for name in names for text in (f">{name}", f">{name}, 95 %")))
        blocks += [Heading(3, f"By {escape(by)}"), Table(columns, lines, tuple(notes.reasons))]
    if blocks:
        blocks.insert(0, Heading(2, "Slices"))
    elif evaluation.rows.texts is None:
        blocks.append(Text("The run has kept no texts (config.output.tables), so there are no slices by length."))
    return blocks


def _cells(estimates: Sequence[Estimate], notes: Footnotes) -> list[str]:
    return [text for one in estimates for text in (number(one.value), ends(one, notes))]


def _wrong_blocks(evaluation: Evaluation) -> list[Block]:
    rows, wrong = evaluation.rows, evaluation.wrong
    if not wrong:
        return []
    scores = rows.problem.agree(rows.label, rows.label) is None
    title, what = ("The greatest errors", "error") if scores else ("The most confidently wrong examples", "confidence")
    if math.isnan(wrong[0].confidence):
        title = "The first wrong examples"
    texts = [
        f"{escape(rows.id[one.row])}: {code(one.label)} predicted as {code(one.predicted)}"
        + ("" if math.isnan(one.confidence) else f", {what} {number(one.confidence)}")
        + _text(rows, one.row)
        for one in wrong
    ]
    return [Heading(2, title), Items(tuple(texts))]


def _text(rows: Labelled, row: int) -> str:
    if rows.texts is None:
        return ""
    text = rows.texts[row]
    return f". {escape(text if len(text) <= LONGEST else f'{text[:LONGEST]}…')}"


def _pair_blocks(other: Run, rows: Labelled, pair: Pair) -> list[Block]:
    """The blocks about the run that this one is compared with."""
    result = other.result
    which = f"an ensemble of {result['models']} runs" if "models" in result else f"seed {result['seed']}"
    about = f"{' and '.join(result['method'])}, {which}"
    notes = Footnotes()
    lines = tuple(
        (name, f"{one.value:+.4f}", notes.dash(one.reason) if one.reason else f"{one.low:+.4f} to {one.high:+.4f}")
        for name, one in pair.differences.items()
        if name in _overall(pair.differences, rows)
    )
    blocks: list[Block] = [Heading(2, escape(f"Against {about}")), *_disagreement(rows, pair)]
    columns = ("score", ">difference", ">95 %")
    blocks += [Heading(3, "This run's scores minus the other's"), Table(columns, lines, tuple(notes.reasons))]
    lists = {
        "Only this run is right": pair.only_first,
        "Only the other is right": pair.only_second,
        "Both are wrong, in different ways": pair.both_wrong,
    }
    for title, found in lists.items():
        if len(found):
            labels = rows.problem.label_column(rows.label[found[:MOST_WRONG]], rows.task)
            shown = [
                f"{escape(rows.id[row])}: {code(label)}{_text(rows, row)}"
                for row, label in zip(found[:MOST_WRONG].tolist(), labels, strict=True)
            ]
            blocks += [Heading(3, f"{title}: {len(found):,}"), Items(tuple(shown))]
    return blocks


def _disagreement(rows: Labelled, pair: Pair) -> list[Block]:
    if pair.churn is None:
        return []
    churn, alone = pair.churn, (len(pair.only_first), len(pair.only_second))
    span = churn.reason if churn.reason else f"95 % {number(churn.low)} to {number(churn.high)}"
    test = pair.reason or f"McNemar's exact p {p_value(pair.p)}"
    return [
        Text(
            f"Churn: the predictions differ for {churn.value:.2%} of the examples ({span}). Only this run is right for "
            f"{alone[0]:,}, only the other for {alone[1]:,}, both for {pair.both:,}, neither for {pair.neither:,} "
            f"({test})."
        )
    ]


def _meaning(evaluation: Evaluation, unit: str) -> str:
    """What the intervals are about, in one line."""
    if not evaluation.folds:
        return f"about new {unit} and this one trained model: the variation between seeds is not in them"
    return (
        f"about new {unit} and the mean score of these {len(evaluation.folds)} trained models: the variation between "
        "seeds and between training sets is not in them"
    )


def _reading(evaluation: Evaluation) -> list[str]:
    """How intervals and slices are meant."""
    rows = evaluation.rows
    unit = "sources, which examples share," if rows.cluster is not None else f"{rows.problem.unit}s"
    names = ", ".join(code(metric.name) for metric in rows.task.own_metrics)
    own = [f"{names}: functions of your own, called on each resample. How often such intervals hold is not measured."]
    return [
        f"Intervals are {_meaning(evaluation, unit)}. They "
        f"come from {resampling.RESAMPLES:,} resamples. Fewer than {LEAST_EXAMPLES} {unit} give none.",
        "Slices are many looks at the same rows: a slice that stands out is a question for new data.",
        *(text for start, text in EXPLAINED.items() if any(name.startswith(start) for name in evaluation.estimates)),
        *(own if names else []),
        *([OF_FOLDS] if evaluation.folds else []),
    ]


def show(evaluation: Evaluation, pair: Pair | None, folder: str) -> None:
    """Prints the scores, what they are worth, and the path of the page."""
    rows, notes = evaluation.rows, Footnotes()
    names = _overall(evaluation.estimates, rows)
    lines: list[tuple[Any, ...]] = [
        (name, number(one.value), ends(one, notes)) for name, one in evaluation.estimates.items() if name in names
    ]
    if pair is not None:
        lines = [
            (*line, f"{pair.differences[line[0]].value:+.4f}", ends(pair.differences[line[0]], notes)) for line in lines
        ]
    columns = ("score", ">value", f">{resampling.CONFIDENCE:.0%} interval")
    columns += (">minus the other", ">interval") if pair is not None else ()
    console.table(f"{len(rows):,} {rows.problem.unit}s of {rows.name}", columns, lines)
    for text, mark in notes.reasons.items():
        console.say(f"  {raised(mark)} {text}")
    if evaluation.folds:
        console.table("Folds", *_fold_table(evaluation))
        console.say(f"  {_averaged(evaluation)}")
        console.say(f"  Intervals are {_meaning(evaluation, f'{rows.problem.unit}s')}.")
    if pair is not None and pair.churn is not None:
        test = pair.reason or f"McNemar's exact p {p_value(pair.p)}"
        console.say(
            f"  predictions differ for {pair.churn.value:.2%}; only this run right {len(pair.only_first)}, only the "
            f"other {len(pair.only_second)}; {test}"
        )
    console.say(f"page: {os.path.join(folder, PAGE)}, record: {os.path.join(folder, RECORD)}")
