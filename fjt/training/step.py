"""The step: pure functions of arrays. No config, no file, no class; everything else feeds it or reads it."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from fjt.core import prng, tree
from fjt.training import optim


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes: its number u32[], what trains, and the optimizer's state over that alone."""

    step: jax.Array
    trainable: dict
    opt_state: tuple


def init_state(trainable, hyper, optimizer):
    """The TrainState of step 0."""
    return TrainState(jnp.zeros((), jnp.uint32), trainable, optimizer(hyper).init(trainable))


def train_step(state, frozen, batch, hyper, *, model, loss, optimizer, accumulation=1):
    """(the next TrainState, metrics) after one optimizer step on a batch.

    state: TrainState; frozen: the parameters beside it, not differentiated; batch: arrays of
    `fjt.data.batches.build`, leading axis G = shards x accumulation; hyper: Hyper with this step's rate.
    The loss is the sum of values over the sum of weights of the whole batch, whatever the accumulation.
    metrics: loss, grad_norm (over trainables, before clipping), f32[] each.
    """
    key = prng.fold((hyper.dropout_key[0], hyper.dropout_key[1]), state.step)

    def sums(trainable, part):
        logits = model.apply(tree.merge(trainable, frozen), part, hyper.methods, hyper, key)
        value, weight = loss(logits, part, hyper)
        return jnp.sum(value * part["weight"]), jnp.sum(weight * part["weight"])

    gradient = jax.value_and_grad(sums, has_aux=True)
    (value, weight), grads = _accumulate(lambda part: gradient(state.trainable, part), batch, accumulation)
    share = 1.0 / jnp.where(weight > 0, weight, 1.0)  # a batch of classes with weight 0 teaches nothing
    grad_norm = optim.global_norm(grads) * share
    # One product: a quotient, or the norm of what was scaled already, makes XLA store every gradient once more.
    factor = share * optim.clip_factor(grad_norm, hyper)
    grads = jax.tree.map(lambda g: g * factor, grads)
    updates, opt_state = optimizer(hyper).update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics = {"loss": value * share, "grad_norm": grad_norm}
    return TrainState(state.step + 1, trainable, opt_state), metrics


def _accumulate(function, batch, parts):
    """The sum of function over the parts of a batch, one after another. The parts of a shard stay on it."""
    if parts == 1:
        return function(batch)
    batch = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jax.tree.map(lambda x: x[0], batch))
    )
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, batch)[0]


def eval_step(params, batch, values=None, *, model):
    """Logits f[G, S, C] of a batch, without dropout.  values: of the tuning methods, as in Hyper.methods."""
    return model.apply(params, batch, values)
