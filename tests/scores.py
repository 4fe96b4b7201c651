"""The metrics of single labels and of scores by name, and their pseudo-values."""

from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.entities import ENTITIES
from fjt.tasks.regression import REGRESSION

METRICS = CLASSIFICATION.metrics | REGRESSION.metrics | ENTITIES.metrics


def pseudo_values(metric, predicted, label):
    """f64[n, m] of the problem that has the metric."""
    problem = CLASSIFICATION if metric in CLASSIFICATION.metrics else REGRESSION
    return problem.pseudo_values(metric, predicted, label)
