"""The first lines of a report: what was compared and trained, on how much data, and how learning rates were found."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fjt.reports import tuning_trials
from fjt.reports.archive import FINISHED, Records
from fjt.reports.cells import Cell, counts, cross_validated

RATE = "optim.learning_rate"


def text(study: Records, cells: Sequence[Cell]) -> str:
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
        *_folds(cells),
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
            f" **fjt's recipe has {_range(recipe)} epochs** for as many examples, so a method may trail only "
            "because it learns more slowly."
            if max(recipe) > max(epochs)
            else f" fjt's recipe has {_range(recipe)} epochs for as many examples."
        )
    return sentence


def _folds(cells: Sequence[Cell]) -> list[str]:
    """The sentence about cells that are folds of a cross-validation."""
    if not cross_validated(cells):
        return []
    return [
        "**Each fold of a cross-validation is a cell of its own**: no interval here is of the cross-validation, and no "
        "difference between its methods is tested. `python -m fjt.evaluate --run RUN RUN ...`, with the runs of all "
        "folds of one seed, pools the predictions of their own dev rows."
    ]


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
        trials_of = [tuning_trials.make_trials(cell, study) for cell in chosen]
        runs = _range({len(trial.rows) for trials in trials_of for trial in trials} or {0})
        tried = _range({len(trials) for trials in trials_of})
        edges = sum(any(key == RATE for key, *_ in tuning_trials.edges(trials)) for trials in trials_of)
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


def _range(numbers: Iterable[float]) -> str:
    """ "160", or "160 to 320"."""
    ordered = sorted(numbers)
    ends = [f"{number:,g}" if number < 1e6 else f"{number:,.0f}" for number in (ordered[0], ordered[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)
