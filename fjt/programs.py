"""What is compiled: a training program for each shape of the plan and one for evaluation, ahead of step 0."""

import dataclasses
import functools
import os
import re
import time

import jax
import numpy as np

from fjt import console, losses, mesh, records, tree
from fjt.inputs import cache_dir
from fjt.optim import constants, make_optimizer
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


def compile_programs(experiment, stage, state, frozen, hyper, eval_shape, compiled, view=console):
    """Programs for the shapes of a stage and for evaluation.

    compiled: {what a program depends on: (executable, operations)}, of runs before, taken from and added to.
    """
    start = time.perf_counter()
    options, kind = experiment.settings.experiment, experiment.task.kind
    accumulation, whole = options.train.accumulation, mesh.replicated(experiment.mesh)
    step = functools.partial(
        train_step, model=stage.model, loss=losses.LOSSES[kind], optimizer=make_optimizer(options.optim, stage.groups)
    )
    jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=(whole, whole))

    def make_train(arguments):
        lowered = jit(step).lower(*arguments)
        operations = (lowered.cost_analysis() or {}).get("flops", float("nan"))
        if accumulation > 1:
            lowered = jit(functools.partial(step, accumulation=accumulation)).lower(*arguments)
        return lowered.compile(), operations

    def make_eval(arguments):
        function = functools.partial(eval_step, model=stage.model)
        return jax.jit(function, out_shardings=whole).lower(*arguments).compile(), 0.0

    wanted = {}
    trained = stage.model, kind, constants(options.optim), stage.groups, accumulation
    for i in sorted({int(i) for i in experiment.plan.shape_of[stage.first : stage.last]}):
        batch = abstract_batch(experiment.plan.shapes[i], experiment.examples["train"].label.dtype, experiment.mesh)
        wanted[i] = make_train, trained, (state, frozen, batch, hyper)
    batch = abstract_batch(eval_shape, np.dtype(np.int32), experiment.mesh)
    del batch["label"], batch["weight"]
    params = tree.merge(state.trainable, frozen)
    wanted["eval"] = make_eval, dataclasses.replace(stage.model, noisy_from=-1), (params, batch, hyper.methods)
    made = {}
    lacking = {i for i, (_, what, arguments) in wanted.items() if (what, _signature(arguments)) not in compiled}
    with view.bar("compiling", len(lacking), every=1) as bar:
        for i, (make, what, arguments) in wanted.items():
            key = what, _signature(arguments)
            if key not in compiled:
                compiled[key] = make(arguments)
                bar.update(sum(done in lacking for done in (*made, i)))
            made[i] = compiled[key]
    evaluator, _ = made.pop("eval")
    train, flops = ({i: program[j] for i, program in made.items()} for j in (0, 1))
    return Programs(train, evaluator, flops, time.perf_counter() - start)


def _signature(arguments):
    """Structure, shapes, types and places of a program's arguments."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((x.shape, str(x.dtype), getattr(x, "sharding", None)) for x in leaves)


def abstract_batch(shape, label_dtype, device_mesh):
    """The shapes of `fjt.data.batches.build`'s arrays, sharded by group."""
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.examples)
    sizes = {name: (tokens, np.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")}
    sizes |= {"first": (slots, np.int32), "example": (slots, np.int32)}
    sizes |= {"label": (slots, label_dtype), "weight": (slots, np.float32)}
    sharding = mesh.by_group(device_mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}
