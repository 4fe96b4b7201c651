"""The checks of a classifier that is kept: its labels and its number of classes are the task's."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from fjt.core.errors import UserError
from fjt.data.labels import name_of


def check_labels(hf_config: dict[str, Any], label_names: Sequence[str], path: str) -> None:
    """Nothing if the labels of a classifier to keep are those of the task, in the same order, or have no names.

    Args:
        hf_config: the contents of its config.json, whose id2label or label2id names the labels.
        label_names: labels of the task, by id.
        path: of the classifier, for messages.

    Raises:
        UserError: they differ, id2label contradicts label2id, or the ids do not count from 0.
    """
    file, names, ids = os.path.join(path, "config.json"), hf_config.get("id2label"), hf_config.get("label2id")
    named = _by_id((key, name) for key, name in (names or {}).items())
    others = _by_id((number, name) for name, number in (ids or {}).items())
    if named and others and {i: x.lower() for i, x in named.items()} != {i: x.lower() for i, x in others.items()}:
        raise UserError(f"{file}: id2label={names} contradicts label2id={ids}. Correct the one that is wrong.")
    key, named = ("id2label", named) if named else ("label2id", others)
    if set(named) != set(map(str, range(len(named)))):
        raise UserError(f"{file}: {key}={hf_config[key]} should have the ids from 0 on.")
    compare_labels([named[str(i)] for i in range(len(named))], label_names, path)


def _by_id(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """{id: name} of pairs, {} where the names are those that `transformers` makes up for classes without one."""
    found = {str(number).lstrip("0") or "0": str(name) for number, name in pairs}
    return {} if any(name.startswith("LABEL_") for name in found.values()) else found


def compare_labels(theirs: Sequence[str], label_names: Sequence[str], path: str) -> None:
    """Nothing if the labels of a classifier are unknown or equal to those of the task.

    Args:
        theirs: labels of the classifier, by id.
        label_names: labels of the task, by id.
        path: of the classifier, for the message.

    Raises:
        UserError: they differ.
    """
    theirs = [name_of(name, path) for name in theirs]
    if not theirs or theirs[0].startswith("LABEL_") or not label_names:
        return  # without label names only the number of labels can be compared, by the shapes of the weights
    lower = [name.lower() for name in theirs]
    if lower == [name.lower() for name in label_names]:
        return
    text = (
        f"config.model.keep_head: the classifier of {path} has the labels {', '.join(theirs)}, in this order; the "
        f"task has {', '.join(label_names)}."
    )
    ours = {name.lower(): name for name in label_names}
    if len(ours) == len(label_names) and sorted(ours) == sorted(lower):
        names = ",".join(repr(ours[name]) for name in lower)
        if all("." in name for name in theirs):  # of several tasks
            raise UserError(f"{text} Name the tasks in that order in config.task.")
        raise UserError(f'{text} Give the task the same order by --config.data.label_names="({names})".')
    raise UserError(f"{text} Only a classifier of the same labels can be kept.")


def compare_classes(theirs: tuple[int, ...], ours: tuple[int, ...], path: str) -> None:
    """Nothing unless the shapes of one leaf, in a classifier and in the model, differ in the number of classes alone.

    Args:
        theirs: the shape in the classifier, [..., classes].
        ours: the shape in the model.
        path: of the classifier, for the message.

    Raises:
        UserError: they do.
    """
    if theirs[:-1] == ours[:-1] and theirs[-1:] != ours[-1:]:
        raise UserError(
            f"config.model.keep_head: the classifier of {path} has {theirs[-1]} classes, but the task has {ours[-1]}. "
            "Leave the option out for a new classifier, or train on data with the same classes."
        )
