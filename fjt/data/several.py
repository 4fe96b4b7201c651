"""Several tasks at once, as in config.task="rte+mrpc": the options of each, and their rows as the rows of one task.

Row labels are f32[N, 2]: the number of the row's task, and its label there, an id or a score.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fjt.core import schema
from fjt.core.errors import UserError, suggest
from fjt.core.options import DataConfig, ExperimentConfig, FilesConfig
from fjt.data.glue import OWN_TABLE, SPLITS, Split, Task

BETWEEN = "+"  # names of tasks
NAMES = re.compile(r"[\w-]+")


def is_several(task: str) -> bool:
    """Whether a value of config.task names several tasks."""
    return BETWEEN in task


def each(experiment: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """{name: the options of that task alone} of an experiment on several tasks.

    config.data holds for all of them, but for config.data.files, which are the table's, and config.data.each.

    Raises:
        UserError: two tasks have one name, or config.data.each does not fit the tasks.
    """
    names = experiment.task.split(BETWEEN)
    for name in names:
        if not NAMES.fullmatch(name):
            raise UserError(f"config.task={experiment.task!r} should be names of tasks with {BETWEEN} between them.")
        if names.count(name) > 1:
            raise UserError(
                f"config.task={experiment.task!r} has two tasks with the name {name!r}. A second table gets a name of "
                "its own by --config.data.each=\"(('NAME', 'files.train', 'FILE'),)\"."
            )
    own = {name: _own_options(name, experiment.data.each) for name in names}
    for entry in experiment.data.each:
        if entry[0] not in names:
            hint = suggest(str(entry[0]), names)
            raise UserError(f"config.data.each: {entry[0]!r} is not one of the tasks {experiment.task!r}.{hint}")
    return {name: _alone(experiment, name, own[name]) for name in names}


def _own_options(name: str, given: tuple[Any, ...]) -> dict[str, Any]:
    """{option of config.data: value} of one task in config.data.each, each parsed.

    Raises UserError for entries of another form, unknown options, and values that are not allowed.
    """
    known = schema.collect(DataConfig, "data.")
    del known["data.each"]
    found = {}
    for entry in given:
        if not isinstance(entry, tuple | list) or len(entry) != 3:
            raise UserError(
                f"config.data.each: {entry!r} should be (task, option, value), such as ('reviews', 'files.train', "
                "'reviews.csv')."
            )
        task, option, value = entry
        if f"data.{option}" not in known:
            options = [key.removeprefix("data.") for key in known]
            raise UserError(f"config.data.each: {option!r} is not an option of config.data.{suggest(option, options)}")
        if task == name:
            found[option] = known[f"data.{option}"].parse(value)
    return found


def _alone(experiment: ExperimentConfig, name: str, own: Mapping[str, Any]) -> ExperimentConfig:
    table = name == OWN_TABLE or "files.train" in own
    files = experiment.data.files if name == OWN_TABLE else FilesConfig()
    data = dataclasses.replace(experiment.data, each=(), files=files)
    for key, value in own.items():
        section, _, option = key.rpartition(".")
        value = dataclasses.replace(getattr(data, section), **{option: value}) if section else value
        data = dataclasses.replace(data, **{section or option: value})
    return dataclasses.replace(experiment, task=OWN_TABLE if table else name, data=data)


def join(tasks: Mapping[str, Task]) -> Task:
    """The Task of several: its kind names each, with its kind, its number of outputs and the metric that selects.

    Args:
        tasks: {name: Task}.
    """
    return Task(
        BETWEEN.join(tasks),
        BETWEEN.join(
            f"{name}:{task.kind}:{len(task.label_names) or 1}:{task.selects_by}" for name, task in tasks.items()
        ),
        tuple(label for name, task in tasks.items() for label in _labels(name, task)),
        ("mean", *(f"{name}.{metric}" for name, task in tasks.items() for metric in task.metrics)),
    )


def _labels(name: str, task: Task) -> list[str]:
    return [f"{name}.{label}" for label in task.label_names] or [name]


def join_splits(splits: Mapping[str, Mapping[str, Split]]) -> dict[str, Split]:
    """{name of a split: the rows of all tasks that have it}, one task after another.

    Args:
        splits: {task: {name: Split}}.
    """
    present = [name for name in SPLITS if any(name in of_task for of_task in splits.values())]
    return {name: _join_rows({task: of_task.get(name) for task, of_task in splits.items()}) for name in present}


def _join_rows(parts: Mapping[str, Split | None]) -> Split:
    """The rows of one split.  parts: {task: its rows, None for no such split}."""
    ids, text, pairs, clusters, labels = [], [], [], [], []
    for number, (task, rows) in enumerate(parts.items()):
        if rows is None:
            continue
        own = [f"{task}/{row}" for row in rows.id]
        ids += own
        text += rows.text
        pairs += rows.text_pair or [None] * len(rows)
        clusters += own if rows.cluster is None else [f"{task}/{source}" for source in rows.cluster]
        labels.append(np.stack([np.full(len(rows), number, np.float32), rows.label.astype(np.float32)], axis=-1))
    known = any(rows is not None and rows.cluster is not None for rows in parts.values())
    return Split(
        tuple(ids),
        tuple(text),
        tuple(pairs) if any(pair is not None for pair in pairs) else None,
        np.concatenate(labels),
        tuple(clusters) if known else None,
    )
