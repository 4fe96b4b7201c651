"""A model card: what a directory holds, from which model, data and recipe, and how well it did on how many examples."""

import os
import re

import numpy as np
import scipy.stats
from huggingface_hub import EvalResult, ModelCardData

from fjt.core import records

RESAMPLES = 1000
CONFIDENCE = 0.95
LIBRARIES = {"hf": "transformers", "peft": "peft", "adapterhub": "adapters", "fjt": "fjt"}


def interval(problem, task, name, logits, label):
    """(low, high) of a metric over new examples: the percentile bootstrap over the labelled rows of a split.

    logits: f32[N, C]; label: [N, ...].  The seed is fixed, so a run's card is always the same.
    """
    labelled = problem.is_labelled(label)
    predicted, label = problem.decode(logits[labelled], task).values, label[labelled]
    if len(label) < 2:
        return float("nan"), float("nan")
    found = scipy.stats.bootstrap(
        (np.arange(len(label)),),
        lambda rows: problem.metrics[name](predicted[rows], label[rows]),
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def write(folder, form, *, task, base, revision, methods, recipe, scores, examples, merged=False):
    """Writes README.md into a folder.

    form: hf | peft | adapterhub | fjt; merged: whether new leaves went into the model; methods: {name: options};
    recipe: {option: value}; scores: {metric: (value, low, high)} on dev; examples: {split: how many}.
    """
    what = "an adapter: what was trained, to be laid over the base model"
    if form == "hf":
        what = "the whole model" + (", what was trained merged into it" if merged else "")
    title = f"{task.name}: {', '.join(methods)}{f' over {base}' if base else ''}"
    data = ModelCardData(
        base_model=base or None,
        library_name=LIBRARIES[form],
        license="other",
        tags=["fjt", task.name, *methods],
        model_name=title,
        eval_results=[
            EvalResult("text-classification", task.name, task.name, name, value, dataset_split="dev")
            for name, (value, _, _) in scores.items()
        ],
    )
    options = {f"{name}.{option}": value for name, found in methods.items() for option, value in found.items()}
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {title}",
        "",
        f"This directory holds {what}.",
        "",
        f"- Base model: {base or 'none, random weights'}{f', revision {revision}' if base and revision else ''}",
        f"- Data: {task.name}, {', '.join(f'{count:,} {split}' for split, count in examples.items())} examples",
        f"- Labels: {', '.join(task.label_names) or 'a score'}",
        "- Licence: those of the base model and of the data hold; training adds none",
        "",
        f"| dev metric | score | {CONFIDENCE:.0%} interval over examples | n |",
        "| :-- | --: | --: | --: |",
        *[
            f"| {name} | {value:.4f} | {low:.4f} to {high:.4f} | {examples['dev']:,} |"
            for name, (value, low, high) in scores.items()
        ],
        "",
        "One run, one seed: the interval says nothing of other seeds.",
        "",
        "| recipe | |",
        "| :-- | --: |",
        *[f"| {key} | {value} |" for key, value in (recipe | options).items()],
    ]
    records.replace(os.path.join(folder, "README.md"), "\n".join(lines) + "\n")


def convert(source, target, form):
    """Writes the card of an adapter for the same one in another form."""
    with open(source, encoding="utf-8") as file:
        text = file.read()
    records.replace(target, re.sub(r"^library_name: \w+$", f"library_name: {LIBRARIES[form]}", text, flags=re.M))
