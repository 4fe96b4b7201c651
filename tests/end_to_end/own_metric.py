"""A metric of one's own, for a test."""

import numpy as np


def minus_predicted(predictions, labels):
    """Minus the number of predictions of class 1."""
    del labels
    return -np.sum(predictions == 1)
