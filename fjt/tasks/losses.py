"""Losses of single examples, in float32, unreduced: each gives (value, weight); the step divides the sums."""

import jax
import jax.numpy as jnp


def cross_entropy(logits, label, hyper):
    """(value, weight) of each example: smoothed, class-weighted cross entropy.

    logits: f[..., C]; label: i32[...] in 0..C-1; hyper.label_smoothing f32[], hyper.class_weights f32[C].
    The sum of values over the sum of weights is PyTorch's CrossEntropyLoss(weight, label_smoothing), mean.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=log_probs.dtype)
    target = one_hot * (1.0 - hyper.label_smoothing) + hyper.label_smoothing / logits.shape[-1]
    value = -jnp.einsum("...c,...c,c->...", target, log_probs, hyper.class_weights)
    return value, jnp.einsum("...c,c->...", one_hot, hyper.class_weights)


def squared_error(logits, label, hyper):
    """(value, weight) of each example: (logit - label)^2 and 1.  logits: f[..., 1]; label: f32[...]."""
    del hyper
    value = jnp.square(logits[..., 0].astype(jnp.promote_types(logits.dtype, jnp.float32)) - label)
    return value, jnp.ones_like(value)


LOSSES = {"classification": cross_entropy, "regression": squared_error}
