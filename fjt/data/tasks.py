"""What each task is: its kind, labels, metrics and splits, as facts in one table (numpy only, no jax)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows in file order.

    id: one of each row, a str.  text, text_pair: a str of each row (text_pair None for single sentences).
    label: i32[N] with -1 where unlabelled, or f32[N] with NaN where unlabelled.
    """

    id: tuple
    text: tuple
    text_pair: tuple | None
    label: np.ndarray

    def __len__(self):
        return len(self.text)


@dataclasses.dataclass(frozen=True)
class Task:
    """kind: classification | regression.  label_names: by id, () for regression.  metrics: names in
    `fjt.metrics`; the first one selects the best step."""

    name: str
    kind: str
    label_names: tuple
    metrics: tuple
