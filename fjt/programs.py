"""What is compiled: a training program for each shape of the plan and one for evaluation, ahead of step 0."""

import dataclasses
import functools
import os
import re
import time

import jax
import numpy as np

from fjt import console, losses, mesh, records, tree
from fjt.experiment import cache_dir
from fjt.optim import make_optimizer
from fjt.step import eval_step, train_step


def configure_jax(settings):
    """Sets what JAX reads from its own configuration: the precision of products and the compilation cache.

    The cache is keyed by versions and host, and off on a CPU unless asked for: there, entries of another processor
    type have been seen to fail.
    """
    jax.config.update("jax_default_matmul_precision", settings.experiment.model.matmul_precision)
    wanted = settings.execution.cache.compilation
    if wanted or (wanted is None and jax.default_backend() != "cpu"):
        key = f"{jax.__version__}-{jax.default_backend()}-{records.processor()}"
        folder = os.path.join(cache_dir(settings.execution), "compiled", re.sub(r"[^\w.-]+", "_", key))
        jax.config.update("jax_compilation_cache_dir", folder)


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled ahead of a stage's first step.

    train: {number of a shape in the plan: executable}; eval: one for all splits and stages; flops: {the same number:
    operations of a step, from a lowering without loops}; seconds: that it took.
    """

    train: dict
    eval: object
    flops: dict
    seconds: float


def compile_programs(experiment, stage, state, frozen, hyper, eval_shape, evaluator=None):
    """Programs for the shapes of a stage, and for evaluation when there is no evaluator yet."""
    start = time.perf_counter()
    accumulation = experiment.settings.experiment.train.accumulation
    step = functools.partial(
        train_step,
        model=stage.model,
        loss=losses.LOSSES[experiment.task.kind],
        optimizer=make_optimizer(experiment.settings.experiment.optim, stage.groups),
    )
    whole = mesh.replicated(experiment.mesh)
    jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=(whole, whole))
    shapes = sorted({int(i) for i in experiment.plan.shape_of[stage.first : stage.last]})
    train, flops = {}, {}
    with console.bar("compiling", len(shapes) + (evaluator is None), every=1) as bar:
        for done, i in enumerate(shapes, 1):
            batch = abstract_batch(experiment.plan.shapes[i], experiment.examples["train"].label.dtype, experiment.mesh)
            lowered = jit(step).lower(state, frozen, batch, hyper)
            flops[i] = (lowered.cost_analysis() or {}).get("flops", float("nan"))
            if accumulation > 1:
                lowered = jit(functools.partial(step, accumulation=accumulation)).lower(state, frozen, batch, hyper)
            train[i] = lowered.compile()
            bar.update(done)
        if evaluator is None:
            batch = abstract_batch(eval_shape, np.dtype(np.int32), experiment.mesh)
            del batch["label"], batch["weight"]
            params = tree.merge(state.trainable, frozen)
            evaluator = jax.jit(functools.partial(eval_step, model=stage.model), out_shardings=whole)
            evaluator = evaluator.lower(params, batch, hyper.methods).compile()
            bar.update(len(shapes) + 1)
    return Programs(train, evaluator, flops, time.perf_counter() - start)


def abstract_batch(shape, label_dtype, device_mesh):
    """The shapes of `fjt.data.batches.build`'s arrays, sharded by group."""
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.examples)
    sizes = {name: (tokens, np.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")}
    sizes |= {"first": (slots, np.int32), "example": (slots, np.int32)}
    sizes |= {"label": (slots, label_dtype), "weight": (slots, np.float32)}
    sharding = mesh.by_group(device_mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}
