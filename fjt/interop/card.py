"""A model card: the contents of a directory, its base model, data and recipe, and its scores with their intervals."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats
from huggingface_hub import EvalResult, ModelCardData

from fjt.core import records
from fjt.core.markdown import escape
from fjt.data import labels
from fjt.data.glue import Task
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem, Rows, Scores

RESAMPLES = 1000
CONFIDENCE = 0.95
Scored = Mapping[str, tuple[float, float, float, int]]  # {metric: (value, low, high, number of rows)}
LIBRARIES = {"hf": "transformers", "peft": "peft", "adapterhub": "adapters", "fjt": "fjt"}


def interval(problem: Problem, task: Task, name: str, logits: Scores, label: Rows) -> tuple[float, float]:
    """(low, high) of a metric over new rows: the percentile bootstrap over the labelled rows of a split.

    The seed is fixed, so that a run's card is always the same.

    Args:
        problem: the kind of problem.
        task: the task.
        name: the metric; NaN for a user's own.
        logits: of the rows.
        label: of the rows.
    """
    labelled = problem.is_labelled(label)
    predicted, label = problem.decode(logits[labelled], task).values, label[labelled]
    if len(label) < 2 or name not in problem.metrics:  # a user's own metric may be undefined for a resample
        return float("nan"), float("nan")
    found = scipy.stats.bootstrap(
        (np.arange(len(label)),),
        problem.scorer(name, predicted, label),
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def write(
    folder: str,
    form: str,
    *,
    task: Task,
    base: str,
    revision: str,
    methods: Mapping[str, Mapping[str, Any]],
    recipe: Mapping[str, Any],
    scores: Scored,
    examples: Mapping[str, int],
    merged: bool = False,
) -> None:
    """Writes README.md into a folder.

    Args:
        folder: the folder.
        form: hf, peft, adapterhub or fjt.
        task: the task.
        base: name of the base model, "" for random weights.
        revision: its commit or branch.
        methods: {name: options}.
        recipe: {option: value}.
        scores: {metric: (value, low, high, number of rows)} on dev.
        examples: {split: number of examples}.
        merged: whether new parameters were merged into the model.
    """
    base = base.encode("utf-8", "backslashreplace").decode()  # a folder's name may be no valid Unicode
    title = f"{task.name}: {', '.join(methods)}{f' over {base}' if base else ''}"
    options = {f"{name}.{option}": value for name, found in methods.items() for option, value in found.items()}
    lines = [
        "---",
        _metadata(form, title, task, base, methods, scores),
        "---",
        "",
        f"# {escape(title)}",
        "",
        f"This directory contains {_contents(form, merged)}.",
        "",
        *_facts(task, base, revision, examples),
        "",
        *_score_rows(task, scores),
        "",
        "One run with one seed: the interval does not cover the variation between seeds.",
        "",
        "| recipe | |",
        "| :-- | --: |",
        *[f"| {escape(key)} | {escape(str(value))} |" for key, value in {**recipe, **options}.items()],
    ]
    records.replace(os.path.join(folder, "README.md"), "\n".join(lines) + "\n")


def _contents(form: str, merged: bool) -> str:
    if form != "hf":
        return "an adapter: the trained parameters, without those of the base model"
    return "the whole model" + (", with the trained adapter merged into it" if merged else "")


def _facts(task: Task, base: str, revision: str, examples: Mapping[str, int]) -> list[str]:
    """The items about the base model, the data, the labels and the licence.  For the arguments see `write`."""
    counts = ", ".join(f"{count:,} {split}" for split, count in examples.items())
    commit = f", revision {escape(revision)}" if base and revision else ""
    return [
        f"- Base model: {escape(base) or 'none, random weights'}{commit}",
        f"- Data: {task.name}, {counts} examples",
        f"- Labels: {labels.some([escape(name) for name in task.label_names]) or find_problem(task.kind).unnamed}",
        "- Licence: those of the base model and of the data apply; training adds none",
    ]


def _score_rows(task: Task, scores: Scored) -> list[str]:
    """The table of the scores on dev.  For the arguments see `write`."""
    return [
        f"| dev metric | score | {CONFIDENCE:.0%} interval over {find_problem(task.kind).unit}s | n |",
        "| :-- | --: | --: | --: |",
        *[
            f"| {escape(name)} | {value:.4f} | {_ends(low, high)} | {count:,} |"
            for name, (value, low, high, count) in scores.items()
        ],
    ]


def _ends(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def _metadata(form, title, task, base, methods, scores):
    """The entries that a model hub reads, as YAML.  For the arguments see `write`."""
    return ModelCardData(
        base_model=base or None,
        library_name=LIBRARIES[form],
        license="other",
        tags=["fjt", task.name, *methods],
        model_name=title,
        eval_results=[
            EvalResult(find_problem(task.kind).hub_task, task.name, task.name, name, value, dataset_split="dev")
            for name, (value, *_) in scores.items()
        ],
    ).to_yaml()


def convert(source: str, target: str, form: str) -> None:
    """Writes the card of an adapter for another form of the same adapter.

    Args:
        source: README.md of the adapter.
        target: the new README.md.
        form: hf, peft, adapterhub or fjt.
    """
    with open(source, encoding="utf-8") as file:
        text = file.read()
    records.replace(
        target, re.sub(r"^library_name: \w+$", f"library_name: {LIBRARIES[form]}", text, count=1, flags=re.M)
    )
