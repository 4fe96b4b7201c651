"""The interval beside a score."""

import numpy as np

from fjt.data.glue import TASKS
from fjt.interop import card
from fjt.tasks.classification import CLASSIFICATION


def test_interval_of_an_accuracy_is_about_the_binomial_one():
    """300 of 400 right: 0.75 +- 1.96 sqrt(0.75 * 0.25 / 400) = 0.708 to 0.792."""
    label = np.zeros(400, np.int32)
    logits = np.where(np.arange(400)[:, None] < 300, [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    low, high = card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label)
    assert abs(low - 0.708) < 0.01 and abs(high - 0.792) < 0.01
    assert (low, high) == card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label)


def test_unlabelled_rows_do_not_count():
    label = np.array([0, 1, -1, -1, 0, 1], np.int32)
    logits = np.float32(np.eye(2)[[0, 1, 1, 0, 0, 1]])
    assert card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label) == (1.0, 1.0)
