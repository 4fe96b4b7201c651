"""A report's blocks from its records: what was run, what to beware of, a section for each task, how to read it."""

import re

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.reports import sections
from fjt.reports.archive import BEGUN, DIVERGED, FILES, FINISHED, MISSING
from fjt.reports.cells import counts
from fjt.reports.figures import draw_best, draw_costs, draw_curves, draw_rates, draw_scores, fewer, styles
from fjt.reports.pages import Heading, Items, Text
from fjt.study.spec import SEEDS

READING = (
    "**Points** are hundredths of a score. **finished/started** counts runs; mean, sd, best and worst are over the "
    "finished ones and those that diverged, which count as predicting a constant.",
    "**95 %: new seeds, this dev set** holds the mean of other seeds scored on the same examples; **new seeds, new "
    "examples** that of other seeds on other examples of the same kind. Both are about runs that neither collapse nor "
    "diverge.",
    "**Differences** are paired by seed. **p, adjusted** is exact, by the flips of signs over all seeds, collapsed and "
    "diverged ones too, and adjusted by Holm's method.",
    "**Probability of improvement** is the share of pairs of runs, one of each method, in which the method has the "
    "better score, a tie as half.",
    "**Seeds to see 1 point**: with so many a paired t test at 5 % sees a difference of 1 point with 80 % power. "
    "**This dev set resolves**: the least difference seen so with any number of seeds, because its examples are few.",
    "**Looks at dev**: how often a reported run was scored on dev. What is chosen is chosen on held-out training rows.",
)


def check_baseline(baseline, methods):
    """Raises UserError for a config.study.baseline that is none of the methods of a study."""
    if baseline and baseline not in methods:
        raise UserError(f"config.study.baseline={baseline!r} is no method of this study.{suggest(baseline, methods)}")


def build(found, cells, comparisons, alone):
    """(title, blocks) of committed.Records.

    cells: its Cells; comparisons, alone: of `make_comparisons`, empty without a baseline.
    """
    parts, warnings = [], progress(found) + disagreements(found) + chosen_on_dev(found) + fixed_seeds(found)
    for task in dict.fromkeys(cell.task for cell in cells):
        members = [cell for cell in cells if cell.task == task]
        blocks, more = task_section(task, members, comparisons, found)
        parts += blocks
        warnings += more
    name = sections.names_of(cells)
    if found.facts["study"]["baseline"]:
        warnings += [
            f"{cell.task}, {name(cell)}: no cell of the baseline agrees with it in all its axes." for cell in alone
        ]
    title = title_of(found)
    blocks = [Heading(1, title), Items(tuple(what_was_run(found))), *(Text(text, warning=True) for text in warnings)]
    if len({cell.task for cell in cells}) > 1:
        blocks += [Heading(2, "Overview"), sections.overview(cells, name)]
    return title, [*blocks, *parts, Heading(2, "How to read this"), Items(READING)]


def title_of(found):
    """ "Study: peft_ablation", by the config's file."""
    file = re.search(r"--config[ =](?:\S*/)?(\w+)\.py", found.facts["command"])
    return f"Study: {file.group(1)}" if file else "A study"


def what_was_run(found):
    """[text] of runs, seeds, device, versions and the command."""
    tuning, reported = ([row for row in found.rows if row["phase"] == phase] for phase in ("tuning", "runs"))
    study, count = found.facts["study"], counts(reported)
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
            + f"; seeds {seeds_text(tuning)}; scored on {study['holdout']:.0%} of the training rows, held out"
            + f"{held_out_text(tuning)}."
        )
    extra = sum(not row["asked"] for row in found.rows)
    if extra:
        lines.append(f"Of these runs, {extra} were asked for by earlier configs of the study alone; all are reported.")
    begun = [row for row in found.rows if row["state"] != MISSING]
    device = several(f"{row['devices']} x {row['device']} ({row['platform']})" for row in begun if row["device"])
    versions = [key for key in found.rows[0] if key.startswith("versions.")]
    used = "; ".join(f"{key[9:]} {several(short(row[key]) for row in begun if row[key])}" for key in versions)
    lines.append(f"Base model: {several(row['model'] for row in begun if row['model'])}. Device: {device}.")
    lines.append(f"Versions: {used}.")
    if found.facts["command"]:
        lines.append(f"Command: `{found.facts['command']}`")
    lines.append(f"Every number and figure here is made from `{FILES[0]}` and `{FILES[1]}`, by `python -m fjt.report`.")
    return lines


def held_out_text(rows):
    """ ": 734 rows of mrpc, ..." of tuning runs."""
    found = {row["task"]: row["scored_examples"] for row in rows if row.get("scored_examples")}
    return ": " * bool(found) + ", ".join(f"{count:,} rows of {task}" for task, count in found.items())


def short(version):
    """A version, of a commit its first letters."""
    return re.sub(r"^([0-9a-f]{8})[0-9a-f]{32}", r"\1", version)


def several(texts):
    """The one text there is, or all with how many have it."""
    found = {}
    for text in texts:
        found[text] = found.get(text, 0) + 1
    if len(found) < 2:
        return next(iter(found), "unknown")
    return " and ".join(f"{text} ({count} run{'s' if count > 1 else ''})" for text, count in found.items())


def seeds_text(rows):
    """ "0 to 4", or each kind of seed."""
    found = {}
    for row in rows:
        for key in SEEDS:
            if row[key] is not None:
                found.setdefault(key, set()).add(row[key])
    texts = {}
    for key, seeds in found.items():
        ordered = sorted(seeds)
        whole = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
        texts[key] = f"{ordered[0]} to {ordered[-1]}" if whole else ", ".join(map(str, ordered))
    return " and ".join(texts[key] if key == "seed" else f"{key} {texts[key]}" for key in texts)


def progress(found):
    """[warning] where runs that the last config asks for have not ended."""
    waiting = [row for row in found.rows if row["asked"] and row["state"] not in (FINISHED, DIVERGED)]
    if not waiting:
        return []
    tuning = sum(row["phase"] == "tuning" for row in waiting)
    begun = sum(row["state"] == BEGUN for row in waiting)
    return [
        f"The study is not done: {len(waiting) - tuning} reported and {tuning} tuning runs have not ended, {begun} of "
        "these begun. What stands here is of the others."
    ]


def disagreements(found):
    """[warning] for each fact of the environment in which runs differ."""
    begun, warnings = [row for row in found.rows if row["state"] != MISSING], []
    for key in ("device", "devices", *(key for key in found.rows[0] if key.startswith("versions."))):
        texts = [short(str(row[key])) for row in begun if row[key] is not None]
        if len(set(texts)) > 1:
            what = "times are not comparable" if key.startswith("device") else "scores may differ by more than seeds"
            name = {"device": "kinds of device", "devices": "numbers of devices"}.get(key, f"versions of {key[9:]}")
            warnings.append(f"The runs had several {name}: {several(texts)}; {what}.")
    changed = [row["run"] for row in begun if row["changes"]]
    if changed:
        warnings.append(
            "Stopped, and taken up with other options of execution or in another environment (`changes` in their "
            f"config.json): {len(changed)} runs, `{changed[0]}` among them."
        )
    return warnings


def chosen_on_dev(found):
    """[warning] where reported runs chose their step by the scores that are reported."""
    rows = [
        row
        for row in found.rows
        if row["phase"] == "runs" and row["train.select"] == "best" and (row["looks"] or 0) > 1
    ]
    if not rows:
        return []
    return [
        f"{len(rows)} reported runs took the step that scores best on dev itself (config.train.select=best, "
        f"{looks(rows)} looks at it): their scores are too high by what the best of so many is above the last. Keep "
        "held-out rows for that by config.data.holdout."
    ]


def fixed_seeds(found):
    """[warning] where some of the three seeds are the same in all reported runs."""
    rows = [row for row in found.rows if row["phase"] == "runs"]
    varied = {key for key in SEEDS if len({row[key] for row in rows}) > 1}
    if not varied or "seed" in varied or varied == set(SEEDS) - {"seed"}:
        return []
    others = sorted(set(SEEDS) - {"seed"} - varied)
    return [
        f"All reported runs have the same {' and '.join(others)}: what is said of new seeds here is of new "
        f"{' and '.join(sorted(varied))} alone."
    ]


def looks(rows):
    """ "3", or "3 to 5": looks at dev of some runs."""
    counts_ = [row["looks"] for row in rows]
    return f"{min(counts_)}" if min(counts_) == max(counts_) else f"{min(counts_)} to {max(counts_)}"


def task_section(task, cells, comparisons, found):
    """(blocks, warnings) of one task.  comparisons: of the whole study."""
    name, style = sections.names_of(cells), styles(cells)
    blocks = [Heading(2, task)]
    if not cells[0].metrics:
        return [*blocks, Text("No run of this task has a score.")], []
    first, *others = cells[0].metrics
    own = [one for one in comparisons if one.cell.task == task]
    trials, warnings = sections.trial_table(cells, first, found, name)
    sizes = sorted({len(cell.truth) for cell in cells if cell.dev})
    if sizes:
        sources = sorted({len(np.unique(cell.cluster)) for cell in cells if cell.cluster is not None})
        shared = f", from {' or '.join(f'{n:,}' for n in sources)} sources: new examples are of new ones" * bool(
            sources
        )
        blocks.append(
            Text(f"Scores are of {' or '.join(f'{size:,}' for size in sizes)} labelled dev examples{shared}.")
        )
    blocks += [Heading(3, f"Scores: {first}"), sections.score_table(cells, first, name), *sections.failures(cells)]
    blocks += sections.picture(
        lambda: draw_scores(cells, first, style, name),
        f"{task}-scores",
        f"Each run's {first} on dev, with the mean of all runs, and 95 % intervals of those that neither collapse nor "
        "diverge.",
    )
    for metric in others:
        blocks += [Heading(3, f"Scores: {metric}"), sections.score_table(cells, metric, name)]
    if own:
        blocks += [Heading(3, f"Against {found.facts['study']['baseline']}"), family_text(own, found.facts)]
        blocks.append(sections.comparison_table(own, first, name))
    blocks += [Heading(3, "What it takes"), sections.cost_table(cells, name)]
    blocks += sections.picture(
        lambda: draw_costs(cells, first, style, name),
        f"{task}-costs",
        f"Mean {first} on dev against what it takes; bars are one sd over seeds. The dashed line is the Pareto front: "
        "the best mean that so much buys.",
    )
    if trials:
        blocks += [Heading(3, "What was chosen, on held-out training rows"), trials]
        blocks += sections.picture(
            lambda: draw_rates(fewer(cells, first), first, style, name, found),
            f"{task}-rates",
            f"Held-out {first} of the trials against their learning rates: lines are means over seeds, dots runs, "
            f"rings what was chosen.{few_text(cells, first)}",
        )
    parts = sections.parts_table(cells, first, name)
    if parts:
        blocks += [Heading(3, "What each seed changes"), parts]
    blocks += _more_pictures(task, cells, first, style, name, found)
    return blocks, warnings


def _more_pictures(task, cells, metric, style, name, found):
    curves = sections.picture(
        lambda: draw_curves(fewer(cells, metric), metric, style, name, found),
        f"{task}-curves",
        "Training loss of the reported runs, and, where it was taken on the way, the held-out score of the chosen "
        f"trials: means over seeds, and bands from the lowest to the highest.{few_text(cells, metric)}",
    )
    best = sections.picture(
        lambda: draw_best(fewer(cells, metric), metric, style, name),
        f"{task}-best",
        f"The expected {metric} on dev of the best of n runs: what a report of the best seed would have said."
        f"{few_text(cells, metric)}",
    )
    return [
        *([Heading(3, "On the way")] if curves else []),
        *curves,
        *([Heading(3, "The best of n")] if best else []),
        *best,
    ]


def few_text(cells, metric):
    """What a figure leaves out."""
    return "" if fewer(cells, metric) is cells else " Of each method, the cell with the best mean on dev."


def family_text(own, facts):
    """How many comparisons the p values of a task are adjusted over."""
    study, planned = facts["study"], facts["planned_seeds"]
    sizes = sorted({planned.get(cell.name, 0) for one in own for cell in (one.cell, one.base)})
    seeds = f"{sizes[0]} seeds" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds of a cell"
    over = "all comparisons of the study" if study["family"] == "study" else "those of this task"
    return Text(
        f"Each method's {own[0].metric} minus that of the baseline's cell which agrees in all the axes it has. p is "
        f"adjusted over {over}, at {study['alpha']:g}; {seeds} were planned."
    )
