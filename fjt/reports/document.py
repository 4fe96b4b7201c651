"""A report's blocks from its records: facts of the runs, warnings, a section for each task, how to read it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fjt.core.errors import UserError, suggest
from fjt.core.markdown import code, escape
from fjt.reports import failures, figures, reading, verdict
from fjt.reports.agreement import agreement_table, least_table
from fjt.reports.archive import BEGUN, DAMAGED, DIVERGED, FILES, FINISHED, MISSING, Records, Row
from fjt.reports.cells import Cell, counts
from fjt.reports.comparisons import Comparison
from fjt.reports.cost_tables import cost_table, trial_table
from fjt.reports.figures import Styles, fewer, styles
from fjt.reports.formatting import Name, names_of, title
from fjt.reports.pages import Block, Fold, Heading, Items, Text
from fjt.reports.score_tables import (
    class_table,
    comparison_table,
    overview,
    parts_table,
    score_table,
)
from fjt.study.spec import SEEDS


def check_baseline(baseline: str, methods: Sequence[str]) -> None:
    """Raises UserError for a config.study.baseline that is not one of the methods of a study."""
    if baseline and baseline not in methods:
        raise UserError(
            f"config.study.baseline={baseline!r} is not a method of this study.{suggest(baseline, methods)}"
        )


def build(
    study: Records, cells: Sequence[Cell], comparisons: Sequence[Comparison], unpaired: Sequence[Cell]
) -> tuple[str, list[Block]]:
    """(title, blocks) of a report.

    Args:
        study: the records.
        cells: its cells.
        comparisons: of `make_comparisons`, empty without a baseline.
        unpaired: cells without a cell of the baseline, of `make_comparisons`.
    """
    parts: list[Block] = []
    warnings = progress(study) + afterwards(study) + damaged(study) + disagreements(study)
    warnings += chosen_on_dev(study) + fixed_seeds(study)
    for task in dict.fromkeys(cell.task for cell in cells):
        members = [cell for cell in cells if cell.task == task]
        task_blocks, task_warnings = task_section(task, members, comparisons, study)
        parts += task_blocks
        warnings += task_warnings
    name = names_of(cells)
    if study.facts["study"]["baseline"]:
        warnings += [
            f"{cell.task}, {name(cell)}: no cell of the baseline agrees with it in all its axes." for cell in unpaired
        ]
    whole = title_of(study)
    blocks: list[Block] = [Heading(1, whole), *verdict.build(study, cells, comparisons, name)]
    blocks += [Text(text, warning=True) for text in warnings]
    blocks += [Fold("The runs, versions and command", (Items(tuple(run_facts(study))),))]
    if len({cell.task for cell in cells}) > 1:
        blocks += [Heading(2, "Overview"), overview(cells, name)]
    return whole, [*blocks, *parts, Heading(2, "How to read this"), reading.items(cells, comparisons)]


def title_of(study: Records) -> str:
    """ "Study: peft_ablation", by the config's file."""
    file = re.search(r"--config[ =](?:\S*/)?(\w+)\.py", study.facts["command"])
    return f"Study: {file.group(1)}" if file else "A study"


def run_facts(study: Records) -> list[str]:
    """Texts about the runs, seeds, device, versions and the command."""
    tuning, reported = ([row for row in study.rows if row["phase"] == phase] for phase in ("tuning", "runs"))
    count = counts(reported)
    lines = [
        f"**{count['finished']} of {count['started']} reported runs finished**"
        + (f", {count['diverged']} diverged" if count["diverged"] else "")
        + f"; seeds {seeds_text(reported)}."
    ]
    if tuning:
        count = counts(tuning)
        lines.append(
            f"{count['finished']} of {count['started']} tuning runs finished"
            + (f", {count['diverged']} diverged" if count["diverged"] else "")
            + f"; seeds {seeds_text(tuning)}; scored on {study.facts['study']['holdout']:.0%} of the training rows, "
            + f"held out{held_out_text(tuning)}."
        )
    extra = sum(not row["asked"] for row in study.rows)
    if extra:
        lines.append(f"Of these runs, {extra} are only in earlier configs of the study; all are reported.")
    begun = [row for row in study.rows if row["state"] != MISSING]
    device = several(
        escape(f"{row['devices']} x {row['device']} ({row['platform']})") for row in begun if row["device"]
    )
    versions = [key for key in study.rows[0] if key.startswith("versions.")]
    used = "; ".join(f"{key[9:]} {several(escape(short(row[key])) for row in begun if row[key])}" for key in versions)
    lines.append(f"Base model: {several(escape(row['model']) for row in begun if row['model'])}. Device: {device}.")
    lines.append(f"Versions: {used}.")
    if study.facts["command"]:
        lines.append(f"Command: {code(study.facts['command'])}")
    lines.append(f"All numbers and figures are computed from `{FILES[0]}` and `{FILES[1]}` by `python -m fjt.report`.")
    return lines


def held_out_text(rows: Iterable[Row]) -> str:
    """ ": 734 rows of mrpc, ..." of tuning runs."""
    examples = {row["task"]: row["scored_examples"] for row in rows if row.get("scored_examples")}
    return ": " * bool(examples) + ", ".join(f"{count:,} rows of {task}" for task, count in examples.items())


def short(version: str) -> str:
    """A version; the first letters of a commit."""
    return re.sub(r"^([0-9a-f]{8})[0-9a-f]{32}", r"\1", version)


def several(texts: Iterable[str]) -> str:
    """The only distinct text, or all distinct texts with the number of runs that have each."""
    count_of: dict[str, int] = {}
    for text in texts:
        count_of[text] = count_of.get(text, 0) + 1
    if len(count_of) < 2:
        return next(iter(count_of), "unknown")
    return " and ".join(f"{text} ({count} run{'s' if count > 1 else ''})" for text, count in count_of.items())


def seeds_text(rows: Iterable[Row]) -> str:
    """ "0 to 4", or the values of each kind of seed."""
    seeds_of: dict[str, set[int]] = {}
    for row in rows:
        for key in SEEDS:
            if row[key] is not None:
                seeds_of.setdefault(key, set()).add(row[key])
    texts = {}
    for key, seeds in seeds_of.items():
        ordered = sorted(seeds)
        is_range = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
        texts[key] = f"{ordered[0]} to {ordered[-1]}" if is_range else ", ".join(map(str, ordered))
    return " and ".join(texts[key] if key == "seed" else f"{key} {texts[key]}" for key in texts)


def progress(study: Records) -> list[str]:
    """A warning if runs of the latest config have not ended."""
    waiting = [row for row in study.rows if row["asked"] and row["state"] not in (FINISHED, DIVERGED, DAMAGED)]
    if not waiting:
        return []
    tuning = sum(row["phase"] == "tuning" for row in waiting)
    begun = sum(row["state"] == BEGUN for row in waiting)
    return [
        f"The study is not done: {len(waiting) - tuning} reported and {tuning} tuning runs have not ended, {begun} of "
        "these begun. This report is about the other runs."
    ]


def damaged(study: Records) -> list[str]:
    """A warning for each run that could not be read."""
    rows = [row for row in study.rows if row["state"] == DAMAGED]
    return [
        f"`{row['run']}` is damaged and not part of this report: {row['failed']} The same command of `fjt.sweep` moves "
        "it away and runs it again."
        for row in rows
    ]


def afterwards(study: Records) -> list[str]:
    """A warning if parts of the records were entered after the results."""
    entered = study.facts.get("afterwards", {})
    return [f"**{what} entered afterwards**, when the results were known: {why}." for what, why in entered.items()]


def disagreements(study: Records) -> list[str]:
    """A warning for each fact of the environment in which runs differ."""
    begun, warnings = [row for row in study.rows if row["state"] != MISSING], []
    for key in ("device", "devices", *(key for key in study.rows[0] if key.startswith("versions."))):
        texts = [escape(short(str(row[key]))) for row in begun if row[key] is not None]
        if len(set(texts)) > 1:
            effect = "times are not comparable" if key.startswith("device") else "scores may differ by more than seeds"
            name = {"device": "kinds of device", "devices": "numbers of devices"}.get(key, f"versions of {key[9:]}")
            warnings.append(f"The runs had several {name}: {several(texts)}; {effect}.")
    changed = [row["run"] for row in begun if row["changes"]]
    if changed:
        warnings.append(
            f"{len(changed)} runs were stopped and resumed with other execution options or in another environment "
            f"(`changes` in their config.json), for example `{changed[0]}`."
        )
    return warnings


def chosen_on_dev(study: Records) -> list[str]:
    """A warning if reported runs chose their step by the scores that are reported."""
    rows = [
        row
        for row in study.rows
        if row["phase"] == "runs" and row["train.select"] != "last" and (row["looks"] or 0) > 1
    ]
    if not rows:
        return []
    return [
        f"{len(rows)} reported runs use the step with the best score on dev itself (config.train.select=best, "
        f"{looks(rows)} looks at dev): the best of several scores overestimates the performance on new data. Set "
        "config.data.holdout to choose the step on held-out rows."
    ]


def fixed_seeds(study: Records) -> list[str]:
    """A warning if some of the three seeds are the same in all reported runs."""
    rows = [row for row in study.rows if row["phase"] == "runs"]
    varied = {key for key in SEEDS if len({row[key] for row in rows}) > 1}
    if not varied or "seed" in varied or varied == set(SEEDS) - {"seed"}:
        return []
    others = sorted(set(SEEDS) - {"seed"} - varied)
    return [
        f"All reported runs have the same {' and '.join(others)}: statements about new seeds are only about new "
        f"{' and '.join(sorted(varied))}."
    ]


def looks(rows: Iterable[Row]) -> str:
    """ "3", or "3 to 5": numbers of looks at dev."""
    numbers = [row["looks"] for row in rows]
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def task_section(
    task: str, cells: Sequence[Cell], comparisons: Sequence[Comparison], study: Records
) -> tuple[list[Block], list[str]]:
    """(blocks, warnings) of one task.

    Args:
        task: the task.
        cells: its cells.
        comparisons: of the whole study.
        study: the records.
    """
    blocks: list[Block] = [Heading(2, title(cells, study))]
    if not cells[0].metrics:
        return [*blocks, Text("No run of this task has a score.")], []
    name, style = names_of(cells), styles(cells)
    first = cells[0].metrics[0]
    blocks += _score_blocks(task, cells, style, name)
    of_task = [one for one in comparisons if one.cell.task == task]
    if of_task:
        blocks += [Heading(3, f"Against {study.facts['study']['baseline']}"), family_text(of_task, study.facts)]
        blocks.append(comparison_table(of_task, first, name))
    blocks += [Heading(3, "Costs"), cost_table(cells, name)]
    blocks += figures.picture(
        lambda: figures.draw_costs(cells, first, style, name),
        f"{task}-costs",
        f"Mean {first} on dev against costs. Bars are one sd over seeds. The dashed line is the Pareto front: the best "
        "mean for at most that cost.",
    )
    trials, warnings = trial_table(cells, study, name)
    if trials:
        blocks += [Heading(3, "Chosen values, on held-out training rows"), trials]
        blocks += figures.picture(
            lambda: figures.draw_rates(fewer(cells, first), cells[0].selection, style, name, study),
            f"{task}-rates",
            f"Held-out {cells[0].selection} of the trials against their learning rates. Lines are means over seeds, "
            f"dots are runs, and rings mark the chosen values.{few_text(cells, first)}",
        )
    parts = parts_table(cells, first, name)
    if parts:
        blocks += [Heading(3, "Effect of each seed"), parts]
    blocks += _more_pictures(task, cells, first, style, name, study)
    return blocks, warnings


def _score_blocks(task: str, cells: Sequence[Cell], style: Styles, name: Name) -> list[Block]:
    """The blocks about a task's scores in each metric."""
    blocks: list[Block] = []
    first, *others = cells[0].metrics
    if any(cell.cluster is not None for cell in cells):
        blocks.append(Text("New examples are from new sources."))
    blocks += [Heading(3, f"Scores: {first}"), score_table(cells, first, name), *failures.of_runs(cells)]
    blocks += figures.picture(
        lambda: figures.draw_scores(cells, first, style, name),
        f"{task}-scores",
        f"The {first} of each run on dev, with the mean of all runs, and 95 % intervals for runs that neither collapse "
        "nor diverge.",
    )
    for metric in others:
        blocks += [Heading(3, f"Scores: {metric}"), score_table(cells, metric, name)]
    if agreement := agreement_table(cells, name):
        blocks += [Heading(3, "Agreement of seeds"), agreement]
    if least := least_table(cells):
        summary = f"The {len(least.rows)} examples on which seeds agree least, over all methods"
        blocks.append(Fold(summary, (least, Text("`consistency/` has these shares for each method and example."))))
    classes = class_table(cells, name)
    if classes:
        blocks.append(Fold("Each class: precision, recall, F1, support and predicted counts", (classes,)))
    return blocks


def _more_pictures(
    task: str, cells: Sequence[Cell], metric: str, style: Styles, name: Name, study: Records
) -> list[Block]:
    """The blocks about training curves and about the best of n runs."""
    held_out = ", and held-out score of the chosen trials" if len(study.curves["held_out"][0]) else ""
    curves = figures.picture(
        lambda: figures.draw_curves(fewer(cells, metric), metric, style, name, study),
        f"{task}-curves",
        f"Training loss of the reported runs{held_out}. Lines are means over seeds; bands go from the lowest to the "
        f"highest.{few_text(cells, metric)}",
    )
    best = figures.picture(
        lambda: figures.draw_best(fewer(cells, metric), metric, style, name),
        f"{task}-best",
        f"The expected {metric} on dev of the best of n runs: the score that a report of the best seed alone would "
        f"show.{few_text(cells, metric)}",
    )
    return [
        *([Heading(3, "During training")] if curves else []),
        *curves,
        *([Heading(3, "The best of n")] if best else []),
        *best,
    ]


def few_text(cells: Sequence[Cell], metric: str) -> str:
    """The sentence about cells that a figure leaves out, "" if it shows all."""
    if fewer(cells, metric) is cells:
        return ""
    return " The figure shows one cell per method: the cell with the best mean on dev."


def family_text(comparisons: Sequence[Comparison], facts: Mapping[str, Any]) -> Text:
    """The text about the comparisons of a task and the family over which their p-values are adjusted."""
    study, planned = facts["study"], facts["planned_seeds"]
    sizes = sorted({planned.get(cell.name, 0) for one in comparisons for cell in (one.cell, one.base)})
    seeds = f"{sizes[0]} seeds" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds per cell"
    family = "all comparisons of the study" if study["family"] == "study" else "all comparisons of this task"
    axes = ", of the cell with the same axes" * any(one.base.axes for one in comparisons)
    return Text(
        f"Each method's {comparisons[0].metric} minus that of {study['baseline']} with the same seed{axes}. p is "
        f"adjusted over {family}, at {study['alpha']:g}; {seeds} were planned."
    )
