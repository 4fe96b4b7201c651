"""A kind of problem from outside the package: ordered grades, by one sigmoid per step from a grade to the next.

`register()` makes it known; after that `config.data.kind = "ordinal"` trains, scores, predicts and exports it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from fjt.tasks.classification import CLASSIFICATION, Classification, accuracy
from fjt.tasks.kinds import register
from fjt.tasks.problem import Predictions


def distance(predicted, label):
    """Mean number of grades between prediction and label."""
    return float(np.mean(np.abs(predicted - label)))


class Ordinal(Classification):
    """One of C + 1 ordered grades; logit c says whether the grade is above c (Niu et al. 2016)."""

    name = "ordinal"
    metrics = {"accuracy": accuracy, "distance": distance}
    table_metrics = ("accuracy", "distance")
    lower_is_better = ("distance",)

    def num_outputs(self, task):
        return len(task.label_names) - 1

    def label_weights(self, loss, label, task):
        return np.ones(self.num_outputs(task))

    def loss(self, logits, batch, hyper):
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        steps = jnp.arange(logits.shape[-1]).reshape((1,) * batch["label"].ndim + (-1,))
        above = (batch["label"][..., None] > steps).astype(logits.dtype)
        terms = -(above * jax.nn.log_sigmoid(logits) + (1 - above) * jax.nn.log_sigmoid(-logits))
        return terms.mean(axis=-1), jnp.ones(terms.shape[:-1], terms.dtype)

    def dev_loss(self, logits, examples, task):
        above = examples.label[:, None] > np.arange(logits.shape[-1])
        return float(np.mean(np.logaddexp(0.0, np.where(above, -1, 1) * np.float64(logits))))

    def decode(self, logits, task):
        above = np.pad(scipy.special.expit(np.float64(logits)), ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        shares = np.maximum(above[:, :-1] - above[:, 1:], 0.0)
        grades = np.sum(logits > 0, axis=-1)
        return Predictions(grades, [task.label_names[i] for i in grades], shares)


def register_ordinal():
    """Makes the kind known to this process."""
    register(Ordinal())
    assert CLASSIFICATION.name == "classification"
