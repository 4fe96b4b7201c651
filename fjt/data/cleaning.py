"""Rows that spoil training or scores: empty, contradictory, repeated, or also in another split; and training without.

Two texts are equal if they are so after Unicode NFC, with each run of blanks as one blank and none at the ends.  Case
and punctuation count.  Of a pair, both texts count, in their order; of words and choices, each one.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from fjt.core.errors import UserError, suggest
from fjt.data.glue import Split

Key = tuple[str, ...]  # the texts of a row, as they are compared
# In the order in which a row that several of them find is counted.
NAMES = ("empty", "leaks", "conflicts", "duplicates")


def keys_of(split: Split) -> list[Key]:
    """The Key of each row."""
    folded: dict[str, str] = {}  # contexts and premises come several times

    def fold(text: str) -> str:
        if text not in folded:
            folded[text] = " ".join(unicodedata.normalize("NFC", text).split())
        return folded[text]

    return [tuple(map(fold, texts)) for texts in texts_of(split)]


def texts_of(split: Split) -> list[tuple[str, ...]]:
    """The texts of each row: its words, or its text with its second text or its choices."""
    if split.words is not None:
        return list(split.words)
    if split.choices is not None:
        return [(text, *choices) for text, choices in zip(split.text, split.choices, strict=True)]
    pairs = split.text_pair or (None,) * len(split)
    return [(text,) if pair is None else (text, pair) for text, pair in zip(split.text, pairs, strict=True)]


def find_empty(keys: Sequence[Key]) -> Bool[np.ndarray, " N"]:
    """Whether a text of each row is empty."""
    return np.array([not all(key) for key in keys], bool)


def find_leaks(keys: Sequence[Key], others: Iterable[Key]) -> Bool[np.ndarray, " N"]:
    """Whether each row is among rows of other splits.

    Args:
        keys: of the rows.
        others: of the other rows.
    """
    known = set(others)
    return np.array([key in known for key in keys], bool)


def find_conflicts(keys: Sequence[Key], label: Any) -> Bool[np.ndarray, " N"]:
    """Whether each row has the texts of a row with another label.

    Args:
        keys: of the rows.
        label: their labels, as the problem has them; none missing.
    """
    found: dict[Key, set[Any]] = {}
    for key, value in zip(keys, _values(label), strict=True):
        found.setdefault(key, set()).add(value)
    return np.array([len(found[key]) > 1 for key in keys], bool)


def find_duplicates(keys: Sequence[Key], label: Any) -> Bool[np.ndarray, " N"]:
    """Whether each row has the texts and the label of an earlier row.  For the arguments see `find_conflicts`."""
    seen: set[tuple[Key, Any]] = set()
    found = np.zeros(len(keys), bool)
    for row, one in enumerate(zip(keys, _values(label), strict=True)):
        found[row] = one in seen
        seen.add(one)
    return found


def _values(label: Any) -> list[Any]:
    """The label of each row as a value that can be hashed: arrays, such as the tags of a sentence, as their bytes."""
    rows = (label[row] for row in range(len(label)))
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in rows]


def check(names: Collection[str]) -> None:
    """Raises UserError for a value of config.data.clean with an unknown name."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"config.data.clean: {name!r} is unknown.{suggest(name, NAMES)}")


def clean(splits: Mapping[str, Split], names: Collection[str]) -> tuple[Split, dict[str, int]]:
    """(the training rows that are left, {name: number of rows that were dropped for that reason}).

    `empty` drops rows with an empty text, `leaks` those whose texts another split has, `conflicts` all rows of texts
    that have different labels, and `duplicates` those that repeat the texts and the label of an earlier row.  A row
    that several of them find is counted once, in this order.  Rows are found among all that are given, so that the
    order of the names is without effect.

    Args:
        splits: {name: Split}; others than train stay as they are.
        names: among NAMES.

    Raises:
        UserError: no row is left.
    """
    train = splits["train"]
    if not names:
        return train, {}
    keys = keys_of(train)
    others = (key for name, split in splits.items() if name != "train" for key in keys_of(split))
    find = {
        "empty": lambda: find_empty(keys),
        "leaks": lambda: find_leaks(keys, others),
        "conflicts": lambda: find_conflicts(keys, train.label),
        "duplicates": lambda: find_duplicates(keys, train.label),
    }
    kept, dropped = np.ones(len(train), bool), {}
    for name in NAMES:
        if name in names:
            found = find[name]() & kept
            dropped[name] = int(np.count_nonzero(found))
            kept &= ~found
    if not kept.any():
        counts = ", ".join(f"{name} {count:,}" for name, count in dropped.items())
        raise UserError(
            f"config.data.clean leaves none of the {len(train):,} training rows ({counts}). Give fewer names."
        )
    return train.take(np.flatnonzero(kept)), dropped
