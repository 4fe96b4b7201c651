"""A model under an adapter: what the comparisons with PEFT and AdapterHub compute on fjt's side."""

import dataclasses
import functools

import jax
import numpy as np

from fjt.core import seeds, tree
from fjt.data import batches, packing
from fjt.interop.adapter import Adapter
from fjt.tasks.classification import CLASSIFICATION
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import partition
from tests import small

SHAKE = 0.05


def shaken(tune, model, base, name=""):
    """The Adapter of TuneConfig over base parameters, all that trains moved from its start at random."""
    methods, rng = partition.find_methods(tune), np.random.default_rng(0)
    added = partition.add_leaves(methods, seeds.make_key(0, "init"), base, model.config)
    params = base | ({"adapters": jax.tree.map(np.asarray, added)} if added else {})
    chosen, flat = partition.trainable_names(params, model.config, tune, ()), tree.flatten(params)
    trained = {n: np.float32(flat[n] + SHAKE * rng.normal(size=flat[n].shape)) for n in sorted(chosen)}
    return Adapter(methods, trained | {n: x for n, x in flat.items() if partition.is_fixed(n)}, name, "", "")


def over(model, base, adapter, examples):
    """(Model with the hooks, parameters, Examples with what stands before them) of an Adapter."""
    model = dataclasses.replace(model, adapt=partition.make_adapt(adapter.methods))
    params = tree.unflatten(tree.flatten(base) | adapter.trained)
    return model, params, batches.prepend(examples, partition.prompt_length(adapter.methods))


def logits(model, base, adapter, examples):
    """f32[M, C] of packed rows: of the slots, in the order of the examples."""
    model, params, examples = over(model, base, adapter, examples)
    indices = np.arange(len(examples))
    (shape,) = _shapes(model, examples, indices[None])
    batch, places = batches.build(examples, indices, shape)
    found = np.asarray(jax.jit(model.apply)(params, batch, partition.traced_values(adapter.methods)))
    return found.reshape(-1, found.shape[-1])[places.slots[0]]


def _shapes(model, examples, indices):
    """The one shape of batches."""
    slots = None if model.one_slot else batches.slots_of(examples, indices)
    lengths, width = batches.lengths_of(examples, indices), model.config.width
    return packing.plan(lengths, slots=slots, most_shapes=1, width=width).shapes


def train(model, base, adapter, examples, indices, rate, problem=CLASSIFICATION):
    """f64[steps]: losses of the pure step from an Adapter, without dropout and decay.  indices: i64[steps, B]."""
    model, params, examples = over(model, base, adapter, examples)
    values = partition.traced_values(adapter.methods)
    quiet = {name: v | ({"dropout": np.float32(0)} if "dropout" in v else {}) for name, v in values.items()}
    made = small.make_hyper(rate=rate, dropout=0.0, decay=0.0, classes=model.classes)
    hyper = dataclasses.replace(made, methods=quiet)
    optimizer = make_optimizer(small.ADAMW)
    trainable, frozen = tree.split(params, {name for name in adapter.trained if not partition.is_fixed(name)})
    (shape,) = _shapes(model, examples, indices)
    step = jax.jit(functools.partial(train_step, model=model, loss=problem.loss, optimizer=optimizer))
    state, seen = init_state(trainable, hyper, optimizer), []
    for rows in indices:
        batch, _ = batches.build(examples, rows, shape)
        state, metrics = step(state, frozen, batch, hyper)
        seen.append(float(metrics["loss"]))
    return np.array(seen)
