"""The step: pure functions of arrays. No config, no file, no class; everything else feeds it or reads it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from fjt.core import prng, tree
from fjt.core.prng import Array
from fjt.models import mixup
from fjt.training import optim
from fjt.training.hyper import Hyper

Batch = dict[str, Array]  # the arrays of `fjt.data.batches.build`
Loss = Callable[[Array, Batch, Hyper], tuple[Array, Array]]  # `Problem.loss`
Divergence = Callable[[Array, Array], Array]  # `Problem.divergence`
Reduce = Callable[[Array, Batch], Any]  # `Problem.reduce`
Sums = TypeVar("Sums")
SECOND = 2**31 - 1  # folded into the key of a step's second pass; no layer has this number
MIXED = 2**31 - 2  # likewise, of its mixup


@runtime_checkable
class Model(Protocol):
    """What the step needs of `fjt.models.encoder.Model`."""

    def apply(self, params: Any, batch: Any, values: Any = None, hyper: Any = None, key: Any = None) -> Any:
        """The logits f[G, S, C] of a batch; with `key`, under dropout."""
        ...

    def outputs(self, params: Any, batch: Any, values: Any = None, hyper: Any = None, key: Any = None) -> Any:
        """(logits f[G, S, C], the vectors f[G, S, D] that the head reads), likewise."""
        ...


@runtime_checkable
class Layout(Protocol):
    """Where parameters are while a step uses them.  `fjt.training.placement.Layout` spreads them over devices."""

    def gather(self, params: Any) -> Any:
        """The parameters as the model reads them."""
        ...

    def scatter(self, grads: Any) -> Any:
        """Gradients as the optimizer reads them."""
        ...


class Whole:
    """The Layout of parameters that every device holds completely: nothing moves."""

    def gather(self, params: Any) -> Any:
        return params

    def scatter(self, grads: Any) -> Any:
        return grads


WHOLE = Whole()


@no_type_check  # trees of shapes and of shardings are made of it as well
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
        step: u32[], number of steps taken.
        trainable: the parameters that are trained.
        opt_state: the optimizer's state, over these parameters alone.
    """

    step: jax.Array
    trainable: tree.Tree
    opt_state: Any

    @property
    def result(self) -> tree.Tree:
        """The parameters that are evaluated and exported: their average over steps where the optimizer keeps one."""
        average = optim.averaged(self.opt_state)
        return self.trainable if average is None else average


def init_state(trainable: tree.Tree, hyper: Hyper, optimizer: optim.Optimizer) -> TrainState:
    """The TrainState of step 0."""
    return TrainState(jnp.zeros((), jnp.uint32), trainable, optimizer(hyper).init(trainable))


def train_step(
    state: TrainState,
    frozen: tree.Tree,
    batch: Batch,
    hyper: Hyper,
    *,
    model: Model,
    loss: Loss,
    optimizer: optim.Optimizer,
    divergence: Divergence | None = None,
    accumulation: int = 1,
    layout: Layout = WHOLE,
) -> tuple[TrainState, dict[str, Float[jax.Array, ""]]]:
    """The TrainState after one optimizer step on a batch, and the metrics of the step.

    The loss is the sum of values over the sum of weights of the whole batch, whatever the accumulation.

    Args:
        state: before the step.
        frozen: the other parameters; no gradients are computed for them.
        batch: arrays with leading axis G = data shards x accumulation.
        hyper: hyper-parameters with the learning rate of this step.
        model: computes the logits.
        loss: of the kind of problem.
        optimizer: builds the transformation of gradients inside the trace.
        divergence: of the kind of problem, for hyper.r_drop.
        accumulation: number of parts that each shard of the batch is computed in.
        layout: where parameters and gradients are.  Without its constraints XLA would move activations in their place.

    Returns:
        state: after the step.
        metrics: loss and grad_norm (over the trainable parameters, before clipping).
    """
    key = prng.fold((hyper.dropout_key[0], hyper.dropout_key[1]), state.step)

    def sums(trainable: tree.Tree, part: Batch) -> tuple[Array, Array]:
        def forward(batch: Batch, key: prng.Key) -> tuple[Array, Batch]:
            given = tree.merge(trainable, frozen), batch, hyper.methods, hyper, key
            if hyper.hidden_weight is None:
                return model.apply(*given), batch
            logits, vectors = model.outputs(*given)
            return logits, batch | {"vectors": vectors}

        value, weight = _losses(forward, part, hyper, key, loss, divergence)
        return jnp.sum(value * part["weight"]), jnp.sum(weight * part["weight"])

    frozen, gathered = layout.gather(frozen), layout.gather(state.trainable)
    gradient = jax.value_and_grad(sums, has_aux=True)

    def parts(part: Batch) -> tuple[tuple[Array, Array], tree.Tree]:
        found, grads = gradient(gathered, part)
        return found, layout.scatter(grads)

    (value, weight), grads = _accumulate(parts, batch, accumulation)
    share = 1.0 / jnp.where(weight > 0, weight, 1.0)  # a batch of classes with weight 0 teaches nothing
    grad_norm = optim.global_norm(grads) * share
    # One product: a quotient, or the norm of what was scaled already, makes XLA store every gradient once more.
    factor = share * optim.clip_factor(grad_norm, hyper)
    grads = jax.tree.map(lambda g: g * factor, grads)
    updates, opt_state = optimizer(hyper).update(grads, state.opt_state, state.trainable)
    trainable: Any = optax.apply_updates(state.trainable, updates)
    metrics = {"loss": value * share, "grad_norm": grad_norm}
    return TrainState(state.step + 1, trainable, opt_state), metrics


def _losses(
    forward: Callable[[Batch, prng.Key], tuple[Array, Batch]],
    batch: Batch,
    hyper: Hyper,
    key: prng.Key,
    loss: Loss,
    divergence: Divergence | None,
) -> tuple[Array, Array]:
    """(value, weight) of each slot, with mixup and R-Drop where the hyper-parameters have them.

    Args:
        forward: (batch, key of dropout) -> (logits, batch), with the vectors if the loss compares them.
        batch: the arrays of the step.
        hyper: hyper-parameters of the step.
        key: of the step.
        loss: of the kind of problem.
        divergence: likewise.
    """
    if hyper.mixup is not None:
        batch, loss = mixup.pair(batch, prng.fold(key, MIXED), hyper.mixup), mixup.between(loss)
    logits, seen = forward(batch, key)
    value, weight = loss(logits, seen, hyper)
    if hyper.r_drop is not None and divergence is not None:  # Liang et al. 2021, equation 4, halved
        again, seen = forward(batch, prng.fold(key, SECOND))
        apart = divergence(*(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (logits, again)))
        value = (value + loss(again, seen, hyper)[0]) / 2 + hyper.r_drop / 4 * weight * apart
    return value, weight


def _accumulate(function: Callable[[Batch], Sums], batch: Batch, parts: int) -> Sums:
    """The sum of a function over the parts of a batch, computed one after another.  The parts of a shard stay on it."""
    if parts == 1:
        return function(batch)
    batch = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jax.tree.map(lambda x: x[0], batch))
    )
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, batch)[0]


def eval_step(
    params: tree.Tree,
    batch: Batch,
    values: Mapping[str, Any] | None = None,
    *,
    model: Model,
    reduce: Reduce,
    layout: Layout = WHOLE,
) -> Float[jax.Array, "G S K"]:
    """The logits of a batch as the kind of problem reduces them, without dropout.

    Args:
        params: all parameters.
        batch: without weights, and without labels unless these are reduced with.
        values: of the tuning methods, as in Hyper.methods.
        model: computes the logits.
        reduce: of the kind of problem.
        layout: where parameters are.
    """
    return reduce(model.apply(layout.gather(params), batch, values), batch)
