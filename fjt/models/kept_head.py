"""The checks of a classifier that is kept: its labels and its number of classes are the task's."""

import os
from collections.abc import Sequence
from typing import Any

from fjt.core.errors import UserError


def check_labels(hf_config: dict[str, Any], label_names: Sequence[str], path: str) -> None:
    """Raises UserError when a classifier to keep has other labels, or the labels in another order."""
    named = {int(key): str(name) for key, name in (hf_config.get("id2label") or {}).items()}
    if set(named) != set(range(len(named))):
        raise UserError(f"{os.path.join(path, 'config.json')}: id2label={named} should have the ids from 0 on.")
    compare_labels([named[i] for i in range(len(named))], label_names, path)


def compare_labels(theirs: Sequence[str], label_names: Sequence[str], path: str) -> None:
    """Nothing if the labels of a classifier are unknown or equal to those of the task.

    Args:
        theirs: labels of the classifier, by id.
        label_names: labels of the task, by id.
        path: of the classifier, for the message.

    Raises:
        UserError: they differ.
    """
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
