"""The tasks that config.task names, such as "rte+mrpc": the options of each, and their rows as the rows of one task.

The labels of several tasks are f32[N, 2]: the number of the row's task, and its label there, an id or a score.
"""

import collections
import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fjt.core import schema
from fjt.core.errors import UserError, suggest
from fjt.core.files import local_path
from fjt.core.options import DataConfig, ExperimentConfig, FilesConfig
from fjt.data.glue import OWN_TABLE, SPLITS, Split, Task

log = logging.getLogger(__name__)

BETWEEN = "+"  # names of tasks
NAMES = re.compile(r"[\w-]+")


def is_several(task: str) -> bool:
    """Whether a value of config.task names several tasks."""
    return BETWEEN in task


def each(experiment: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """{name: the options of that task alone} of the tasks of an experiment.

    config.data holds for all of them, but for what config.data.tables and config.data.each say of one.

    Raises:
        UserError: two tasks have one name, or these options are not what they should be.
    """
    names, data = experiment.task.split(BETWEEN), experiment.data
    tables, own = _entries(data, "tables", tuple(_FILES)), _entries(data, "each", tuple(_OPTIONS))
    for option, entries in (("tables", tables), ("each", own)):
        for name in sorted(entries.keys() - set(names)):
            log.warning(
                "config.data.%s: %r is not one of the tasks %s.%s", option, name, experiment.task, suggest(name, names)
            )
    if len(names) > 1 and OWN_TABLE not in names and data.files != FilesConfig():
        raise UserError(
            f"config.data.files is for a task of the name {OWN_TABLE!r}; the tasks are {experiment.task}. Files of "
            "others are in config.data.tables."
        )
    for name in names:
        if len(names) > 1 and not NAMES.fullmatch(name):
            raise UserError(f"config.task={experiment.task!r} should be names of tasks with {BETWEEN} between them.")
        if names.count(name) > 1:
            raise UserError(
                f"config.task={experiment.task!r} has two tasks with the name {name!r}. A second table gets a name of "
                "its own by --config.data.tables=\"(('NAME', 'train', 'FILE'), ('NAME', 'dev', 'FILE'))\"."
            )
    return {name: _alone(experiment, name, tables.get(name, {}), own.get(name, {})) for name in names}


# The options that config.data.tables and config.data.each give of one task.
_FILES = {key.removeprefix("data.files."): one for key, one in schema.collect(FilesConfig, "data.files.").items()}
_OPTIONS = {
    key.removeprefix("data."): one
    for key, one in schema.collect(DataConfig, "data.").items()
    if not one.place and key not in ("data.tables", "data.each")
}


def _entries(data: DataConfig, option: str, valid: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """{task: {name: value}} of config.data.tables or config.data.each.

    Raises UserError for entries of another form, unknown names, and a name that is given twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in getattr(data, option):
        place = f"config.data.{option}: {entry!r}"
        if not isinstance(entry, tuple) or len(entry) != 3 or not all(isinstance(part, str) for part in entry[:2]):
            form = "(task, split, file)" if option == "tables" else "(task, option of config.data, value)"
            raise UserError(f"{place} should be {form}.")
        task, name, value = entry
        if name not in valid:
            raise UserError(f"{place}: {name!r} is unknown.{suggest(name, valid)}")
        if name in found.setdefault(task, {}):
            raise UserError(f"{place}: {name} of {task} is given twice.")
        found[task][name] = value
    return found


def _alone(experiment: ExperimentConfig, name: str, tables: dict[str, Any], own: dict[str, Any]) -> ExperimentConfig:
    """The options of one task.  tables: {split: file}.  own: {option of config.data: value}."""
    data = dataclasses.replace(experiment.data, tables=(), each=())
    if tables:
        paths = {split: local_path(path, f"config.data.tables, {split} of {name}") for split, path in tables.items()}
        both = [split for split in paths if name == OWN_TABLE and getattr(data.files, split)]
        if both:
            raise UserError(f"config.data.files.{both[0]} and config.data.tables both have a file of {name}. Give one.")
        files = data.files if name == OWN_TABLE else FilesConfig()
        data = dataclasses.replace(data, files=dataclasses.replace(files, **paths))
    elif name != OWN_TABLE and is_several(experiment.task):
        data = dataclasses.replace(data, files=FilesConfig())
    for key, value in own.items():
        section, _, option = key.rpartition(".")
        try:
            value = _OPTIONS[key].parse(value)
        except UserError as error:
            raise UserError(f"config.data.each, of {name}: {error}") from None
        value = dataclasses.replace(getattr(data, section), **{option: value}) if section else value
        data = dataclasses.replace(data, **{section or option: value})
    return dataclasses.replace(experiment, task=OWN_TABLE if tables else name, data=data)


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
        submission=tuple((f"{name}.{split}", file) for name, task in tasks.items() for split, file in task.submission),
    )


def _labels(name: str, task: Task) -> list[str]:
    return [f"{name}.{label}" for label in task.label_names] or [name]


def join_splits(splits: Mapping[str, Mapping[str, Split]]) -> dict[str, Split]:
    """{name of a split: the rows of all tasks that have it}, one task after another.

    Reports score `official_dev` where there is one, so that it is left out unless all tasks have one.

    Args:
        splits: {task: {name: Split}}.
    """
    present = [name for name in SPLITS if any(name in of_task for of_task in splits.values())]
    lacking = [task for task, of_task in splits.items() if "official_dev" not in of_task]
    if "official_dev" in present and lacking:
        log.warning("official_dev is left out, because these tasks have none: %s", ", ".join(lacking))
        present.remove("official_dev")
    return {name: _join_rows({task: of_task.get(name) for task, of_task in splits.items()}) for name in present}


def _join_rows(parts: Mapping[str, Split | None]) -> Split:
    """The rows of one split.  parts: {task: its rows, None for no such split}."""
    ids, text, pairs, clusters, labels = [], [], [], [], []
    dropped: collections.Counter[str] = collections.Counter()
    for number, (task, rows) in enumerate(parts.items()):
        if rows is None:
            continue
        own = [f"{task}/{row}" for row in rows.id]
        ids += own
        text += rows.text
        pairs += rows.text_pair or [None] * len(rows)
        clusters += own if rows.cluster is None else [f"{task}/{source}" for source in rows.cluster]
        dropped.update(dict(rows.dropped))
        labels.append(np.stack([np.full(len(rows), number, np.float32), rows.label.astype(np.float32)], axis=-1))
    known = any(rows is not None and rows.cluster is not None for rows in parts.values())
    return Split(
        tuple(ids),
        tuple(text),
        tuple(pairs) if any(pair is not None for pair in pairs) else None,
        np.concatenate(labels),
        tuple(clusters) if known else None,
        dropped=tuple(dropped.items()),
    )
