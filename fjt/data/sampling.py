"""Synthetic training examples of rare classes, made from the features of a frozen encoder (imbalanced-learn)."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fjt.core.errors import UserError
from fjt.data import batches
from fjt.data.batches import Examples

NEIGHBOURS = 5  # neighbours of a real example; a synthetic one lies between it and one of them; fewer in a small class


def extend(examples: Examples) -> Examples:
    """The Examples with as many more of each class as make it as large as the largest.

    A new one has the tokens of the first example of its class: what it is trained on are features (`synthesize`).

    Args:
        examples: with one slot each, whose label is a class.

    Raises:
        UserError: a class has one example, or there is one class.
    """
    classes, first, counts = np.unique(examples.label, return_index=True, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise UserError(
            "config.train.smote needs two classes with two training rows each: label id "
            f"{classes[counts.argmin()]} has {counts.min()}. Leave the option out, or give more rows."
        )
    added = np.repeat(first, counts.max() - counts)
    extended = batches.take(examples, np.concatenate([np.arange(len(examples)), added]))
    return dataclasses.replace(extended, numbers=None)  # each has dropout bits of its own


def synthesize(
    features: Float[np.ndarray, "N D"], label: Int[np.ndarray, " N"], kind: str, seed: int
) -> Float[np.ndarray, "M D"]:
    """The features of the examples that `extend` adds, behind those that are given.

    Args:
        features: of the real examples.
        label: their classes.
        kind: smote (Chawla et al. 2002), or borderline (Han et al. 2005): between examples near other classes.
        seed: of the draw.

    Raises:
        UserError: borderline finds no example near other classes.
    """
    from imblearn import over_sampling  # here, because it takes a second, which other runs can do without

    maker: Any = {"smote": over_sampling.SMOTE, "borderline": over_sampling.BorderlineSMOTE}[kind]
    near = min(NEIGHBOURS, int(np.bincount(label)[np.unique(label)].min()) - 1)
    near_all = {"m_neighbors": min(10, len(label) - 1)} if kind == "borderline" else {}
    wide = features.astype(np.float32)
    made, classes = maker(random_state=seed, k_neighbors=near, **near_all).fit_resample(wide, label)
    if len(classes) < len(np.unique(label)) * np.bincount(label).max():
        raise UserError(
            f"config.train.smote={kind}: no example of a rare class lies near other classes. Take smote instead."
        )
    order = len(label) + np.argsort(classes[len(label) :], kind="stable")  # as `extend` has them
    return np.concatenate([features, made[order].astype(features.dtype)])
