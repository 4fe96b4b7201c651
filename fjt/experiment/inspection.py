"""A look at the data and the plan of a run before anything is trained: facts and findings, as one record."""

import dataclasses
import os
from typing import Any

import numpy as np

from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, Settings
from fjt.data import cleaning, several, similarity, sources, tokenization
from fjt.data.batches import Examples
from fjt.data.glue import Split
from fjt.experiment import column_findings, label_findings, text_findings, token_findings
from fjt.experiment.findings import SEVERITIES, Finding, Subject
from fjt.experiment.inputs import EVERY, Inputs, cache_dir
from fjt.experiment.prepare import prepare
from fjt.experiment.summary import planned
from fjt.tasks.kinds import find_problem

WHOLE = 1 << 20  # tokens; no text is longer


def inspect(settings: Settings, view: console.View = console) -> dict[str, Any]:
    """The record of an inspection: {"task", "model", "max_length", "near", "tasks": {name: facts}, "plan"}.

    Of each task: `splits` with the facts of texts and labels, `dropped` by config.data.clean, `skew` of labels, the
    strongest `tokens`, the `columns` of the training file, and `findings`, the most serious first.  Of several tasks,
    each is inspected for itself.  `plan` is that of the run, or {"impossible": why}.

    The data part reads the tokenizer, not the weights.  Empty texts, which a run refuses in a table of the user's own,
    are findings here.

    Args:
        settings: the options.
        view: where progress is shown.

    Raises:
        UserError: data or tokenizer cannot be read.
    """
    experiment = settings.experiment
    inputs = Inputs(settings, view)
    tasks = {
        name: inspect_task(one, inputs.tokenizer, cache_dir(settings.execution), view)
        for name, one in several.each(experiment).items()
    }
    try:
        plan = planned(prepare(settings, inputs=inputs, view=console.Silent()))
    except UserError as error:
        plan = {"impossible": str(error)}
    return {
        "task": experiment.task,
        "model": os.path.basename(os.path.normpath(experiment.model.path)) if experiment.model.path else "random",
        "max_length": experiment.model.max_length,
        "near": similarity.THRESHOLD,
        "tasks": tasks,
        "plan": plan,
    }


def inspect_task(one: ExperimentConfig, tokenizer: Any, cache: str, view: console.View) -> dict[str, Any]:
    """The facts and findings of one task, see `inspect`.

    Args:
        one: the options of this task alone.
        tokenizer: of the model.
        cache: folder for data and tokens.
        view: where progress is shown.
    """
    task, splits = sources.load(one, cache, find_problem, blank=True)
    tokens = {name: _tokenize(name, split, tokenizer, cache, view) for name, split in splits.items()}
    subject = Subject(
        task=task,
        problem=find_problem(task.kind),
        splits=splits,
        tokens=tokens,
        tokenizer=tokenizer,
        max_length=one.model.max_length,
    )
    view.say(f"looking for repeated texts and leaks in {sum(map(len, splits.values())):,} rows of {task.name}")
    scores = splits["train"].label.dtype.kind == "f"
    whole = not (subject.windows or subject.problem.choices)
    columns, of_columns = column_findings.find(one, task, scores, whole)
    findings = [
        *text_findings.find(subject),
        *label_findings.find(subject),
        *token_findings.find(subject),
        *of_columns,
    ]
    return {
        "splits": {
            name: text_findings.describe(subject, name) | {"labels": label_findings.describe(subject, name)}
            for name in splits
        },
        "dropped": dict(splits["train"].dropped),
        "skew": {name: dataclasses.asdict(skew) for name, skew in label_findings.skews(subject).items()},
        "tokens": token_findings.strongest(subject),
        "columns": columns,
        "findings": [dataclasses.asdict(finding) for finding in sorted(findings, key=_rank)],
    }


def _rank(finding: Finding) -> tuple[int, float]:
    """The place of a finding in the list."""
    return SEVERITIES.index(finding.severity), -finding.share


def _tokenize(name: str, split: Split, tokenizer: Any, cache: str, view: console.View) -> Examples:
    """The tokens of whole texts: one example per row, without labels."""
    if split.words is None and split.choices is None and not any(map(any, cleaning.texts_of(split))):
        raise UserError(f"All texts of {name} are empty. Check config.data.columns.text.")
    with view.bar(f"tokenizing {name}", len(split), every=EVERY) as bar:
        bare = dataclasses.replace(split, label=np.zeros(len(split), np.int32))
        return tokenization.tokenize(bare, tokenizer, WHOLE, cache, bar.update)
