"""The verdict that opens a report, in sentences: limits, who is ahead, how sure that is, what would decide the rest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fjt.reports import cells as values
from fjt.reports import failures, formatting, inference
from fjt.reports.archive import FINISHED, Records
from fjt.reports.cells import Cell, counts
from fjt.reports.comparisons import Comparison
from fjt.reports.formatting import Name, p_value, points, unit
from fjt.reports.inference import Interval
from fjt.reports.pages import Block, Footnotes, Heading, Items, Text
from fjt.reports.score_tables import data_text

RATE = "optim.learning_rate"


def build(study: Records, cells: Sequence[Cell], comparisons: Sequence[Comparison], name: Name) -> list[Block]:
    """The blocks of the verdict.

    Args:
        study: the records.
        cells: its cells.
        comparisons: with the baseline, empty without one.
        name: returns the name of a cell.
    """
    blocks: list[Block] = [Text(limits(study, cells)), Heading(2, "Verdict")]
    for task in dict.fromkeys(cell.task for cell in cells):
        members = [cell for cell in cells if cell.task == task]
        of_task = [one for one in comparisons if one.cell.task == task]
        family = len(comparisons if study.facts["study"]["family"] == "study" else of_task)
        blocks += [Text(_headline(members, study, name)), Items(tuple(_task(members, of_task, family, study, name)))]
    return [*blocks, *([Text(_how_to_read(comparisons, study))] if comparisons else [])]


def limits(study: Records, cells: Sequence[Cell]) -> str:
    """The text about what was compared and trained, and how learning rates were found."""
    reported = [row for row in study.rows if row["phase"] == "runs"]
    methods, tasks = (len({getattr(cell, key) for cell in cells}) for key in ("method", "task"))
    seeds = _range({len(cell.rows) for cell in cells})
    count = counts(reported)
    models = sorted({row["model"] for row in reported if row["model"]})
    parts = [
        f"**{_plural(methods, 'method')} on {_plural(tasks, 'task')}, {seeds} seeds each**: "
        f"{count['finished']} of {count['started']} runs finished, from {' and '.join(models) or 'an unknown model'}.",
        _training(reported, study),
        *_draws(study),
        *_rates(study, cells),
    ]
    return " ".join(part for part in parts if part)


def _training(reported: Sequence[Mapping[str, Any]], study: Records) -> str:
    """The sentences about steps, and about a recipe that has more or fewer."""
    done = [row for row in reported if row["state"] == FINISHED]
    if not done:
        return ""
    epochs, facts = {round(row["epochs"], 1) for row in done}, list(study.facts.get("runs", {}).values())
    extra = ["1 epoch" if epochs == {1} else f"{_range(epochs)} epochs"]
    if facts:
        extra.append(f"{_range({about['train_examples'] for about in facts})} training examples")
        extra.append(f"batches of {_range({about['batch_size'] for about in facts})}")
    sentence = f"Trained for {_range({row['steps'] for row in done})} steps ({', '.join(extra)})."
    recipe = {about["recipe_epochs"] for about in facts}
    if recipe and recipe != epochs:
        sentence += (
            f" **fjt's recipe has {_range(recipe)} epochs** for as many examples, so differences may be of speed and "
            "not of what training to the end would reach."
            if max(recipe) > max(epochs)
            else f" fjt's recipe has {_range(recipe)} epochs for as many examples."
        )
    return sentence


def _draws(study: Records) -> list[str]:
    """The sentence about training examples that are one draw."""
    drawn = [about for about in study.facts.get("runs", {}).values() if about["limit"]]
    if not drawn or len({seed for about in drawn for seed in about["draws"]}) > 1:
        return []
    sizes = _range({about["limit"] for about in drawn})
    return [
        f"**One draw of {sizes} training examples**: no interval and no p contains the variance between draws "
        "(config.seeds.subset as an axis of a product gives other draws)."
    ]


def _rates(study: Records, cells: Sequence[Cell]) -> list[str]:
    """The sentences about learning rates: chosen, at the end of their range, recipes, given."""
    chosen = [cell for cell in cells if RATE in cell.open]
    texts = []
    if chosen:
        trials_of = [values.make_trials(cell, study) for cell in chosen]
        runs = _range({len(trial.rows) for trials in trials_of for trial in trials} or {0})
        tried = _range({len(trials) for trials in trials_of})
        edges = sum(any(key == RATE for key, *_ in values.edges(trials)) for trials in trials_of)
        ends = f"; **{edges} of {len(chosen)} chosen ones are at an end of their range**" if edges else ""
        texts.append(
            f"Learning rates: one of {tried} chosen for each method and task, by {runs} tuning run"
            f"{'s' * (runs != '1')} per rate{ends}."
        )
    others = [cell for cell in cells if RATE not in cell.open]
    origins = {cell: study.facts.get("runs", {}).get(cell.name, {}).get("rate_origin", "") for cell in others}
    kinds = {"recipes or given": lambda origin: not origin, "fjt's recipes": lambda origin: "recipe" in origin}
    kinds["given"] = lambda origin: bool(origin) and "recipe" not in origin
    for kind, holds in kinds.items():
        methods = sorted({cell.method for cell, origin in origins.items() if holds(origin)})
        if methods:
            texts.append(
                f"**Learning rates of {', '.join(methods)} are {kind}, not chosen on these data**; others may change "
                "the order of methods."
            )
    return texts


def _headline(cells: Sequence[Cell], study: Records, name: Name) -> str:
    """The line of a task: its files, its dev set, and the cell with the highest mean."""
    first = cells[0]
    scored = [cell for cell in cells if len(cell.scored)]
    if not first.metrics or not scored:
        return f"**{first.task}**: no run has a score."
    metric = first.metrics[0]
    sign = values.sign_of(metric)
    best = max(scored, key=lambda cell: sign * cell.scores(metric).mean())
    mean = points(metric, float(best.scores(metric).mean()))
    facts = study.facts.get("runs", {})
    files = {" and ".join(facts.get(cell.name, {}).get("files", [])): None for cell in cells}
    about = "; ".join([unit(metric), *(text for text in files if text), data_text(cells)])
    return f"**{first.task}** ({about}): the best mean is {mean}, of {name(best)}."


def _task(
    cells: Sequence[Cell], comparisons: Sequence[Comparison], family: int, study: Records, name: Name
) -> list[str]:
    """The sentences of a task.  family: number of comparisons over which p is adjusted."""
    if not cells[0].metrics or not any(len(cell.scored) for cell in cells):
        return ["Nothing can be said yet."]
    alpha, baseline = study.facts["study"]["alpha"], study.facts["study"]["baseline"]
    groups: dict[str, list[str]] = {}
    for one in comparisons:
        kind, text = _kind(one, alpha), _difference(one, alpha, family, name)
        groups.setdefault(kind, []).append(text)
    order = [*_KINDS, *(kind for kind in groups if kind not in _KINDS)]
    texts = [f"**{_KINDS.get(k, k).format(baseline)}**: {'; '.join(groups[k])}." for k in order if k in groups]
    if not comparisons:
        texts.append(_untested(cells, baseline, name))
    return [*texts, *_no_better(cells, name), *failures.of_cells(cells, name)]


_KINDS = {
    "ahead": "Ahead of {} for new seeds and new examples",
    "behind": "Behind {} for new seeds and new examples",
    "ahead here": "Ahead of {} with new seeds on this dev set; undecided for new examples",
    "behind here": "Behind {} with new seeds on this dev set; undecided for new examples",
    "ahead untested": "Ahead of {} with new seeds on this dev set; not tested for new examples",
    "behind untested": "Behind {} with new seeds on this dev set; not tested for new examples",
    "undecided": "Undecided",
    "failed": "Not tested against {}, because runs collapsed or diverged (intervals are without these runs)",
}


def _kind(one: Comparison, alpha: float) -> str:
    """The group of a comparison: a key of _KINDS, or the reason why it is not tested."""
    if isinstance(one.p, str):
        return "failed" if one.failed.any() else f"Not tested. {one.p.rstrip('.')}"
    side = "ahead" if values.sign_of(one.metric) * (one.mean or 0.0) > 0 else "behind"
    if isinstance(one.p_examples, float) and one.p_examples <= alpha:
        return side
    if one.p > alpha:
        return "undecided"
    return f"{side} {'untested' if isinstance(one.p_examples, str) else 'here'}"


def _difference(one: Comparison, alpha: float, family: int, name: Name) -> str:
    """ "lora +1.22 (-0.51 to +2.95; p 0.123 and 0.184)", and what would decide it where it is undecided."""
    facts = []
    if isinstance(one.new_examples, Interval):
        facts.append(formatting.limits(one.metric, one.new_examples, Footnotes(), signed=True))
    shown = [p_value(p) for p in (one.p, one.p_examples) if isinstance(p, float)]
    facts += [f"p {' and '.join(shown)}"] if shown else []
    # The interval is of pairs without failed runs, and so is the mean beside it.
    mean = one.new_examples.estimate if isinstance(one.new_examples, Interval) else one.mean
    text = f"{name(one.cell)} {points(one.metric, mean, signed=True)}"
    return f"{text} ({'; '.join(facts)}{_decider(one, alpha, family)})" if facts else text


def _decider(one: Comparison, alpha: float, family: int) -> str:
    """What would show a difference of the size that was seen, "" where it is decided or unknown."""
    p, (mean, sd) = one.p_examples, one.sound
    if isinstance(p, str) and one.n < inference.LEAST_T:
        return f"; a test for new examples needs {inference.LEAST_T} seeds"
    if isinstance(p, str) or isinstance(one.smallest, str) or p <= alpha or not mean or not sd:
        return ""
    seeds, times = inference.decide(mean, sd, one.smallest, alpha / family)
    if seeds is not None:
        return f"; about {max(seeds, one.n + 1):,} seeds would show a difference of this size"
    return f"; no number of seeds would show a difference of this size without {times:.1f} times as many dev examples"


def _untested(cells: Sequence[Cell], baseline: str, name: Name) -> str:
    """The sentence about a task without comparisons."""
    metric = cells[0].metrics[0]
    scored = [cell for cell in cells if len(cell.scored)]
    ordered = sorted(scored, key=lambda cell: -values.sign_of(metric) * float(cell.scores(metric).mean()))
    means = ", ".join(f"{name(cell)} {points(metric, float(cell.scores(metric).mean()))}" for cell in ordered)
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


def _how_to_read(comparisons: Sequence[Comparison], study: Records) -> str:
    family = f"all {len(comparisons)}" if study.facts["study"]["family"] == "study" else "each task's"
    return (
        "In brackets: the 95 % interval of the difference for new seeds and new examples of the same sources, not "
        "adjusted for the number of comparisons; then p for new seeds on this dev set, and p for new seeds and new "
        f"examples, both adjusted over {family} comparisons. Numbers of seeds and examples are for 80 % power with "
        "this adjustment, if the true difference is the one that was seen."
    )


def _range(numbers: Iterable[float]) -> str:
    """ "160", or "160 to 320"."""
    ordered = sorted(numbers)
    ends = [f"{number:,g}" if number < 1e6 else f"{number:,.0f}" for number in (ordered[0], ordered[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)
