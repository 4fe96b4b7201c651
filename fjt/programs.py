"""What is compiled: a training program for each shape of the plan and one for evaluation, ahead of step 0."""

import dataclasses
import functools
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from fjt import console, evaluate, losses, mesh, recipes, records, tree
from fjt.experiment import row_grid
from fjt.inputs import cache_dir
from fjt.optim import constants, make_optimizer
from fjt.step import eval_step, init_state, train_step
from fjt.tuning import partition


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
    wanted = _wanted(experiment, stage, state, frozen, hyper, eval_shape)
    lacking = list(dict.fromkeys(program.key for program in wanted.values() if program.key not in compiled))
    made = {}
    with view.bar("compiling", len(lacking), every=1) as bar:
        for i, program in wanted.items():
            if program.key not in compiled:
                compiled[program.key] = program.make(program.arguments)
                bar.update(1 + lacking.index(program.key))
            made[i] = compiled[program.key]
    evaluator, _ = made.pop("eval")
    train, flops = ({i: program[j] for i, program in made.items()} for j in (0, 1))
    return Programs(train, evaluator, flops, time.perf_counter() - start)


def program_keys(experiment):
    """The keys under which `compile_programs` stores what it makes for the stages of a run; nothing is compiled.

    And one for each program that makes hidden states: it is compiled where nothing on the disk spares it.
    """
    keys = set()
    for stage in experiment.stages:
        trainable, frozen = tree.split(experiment.params, stage.trainable)
        frozen, eval_shape = above(stage, frozen), pack_evaluated(experiment, stage)["dev"].shape
        optimizer = make_optimizer(experiment.settings.experiment.optim, stage.groups)
        state = jax.eval_shape(lambda leaves, made=optimizer: init_state(leaves, experiment.hyper, made), trainable)
        wanted = _wanted(experiment, stage, state, frozen, experiment.hyper, eval_shape)
        keys |= {program.key for program in wanted.values()}
        if stage.model.start >= 0:
            keys.add(("hidden", *sorted(experiment.contents.items()), stage.model.start, stage.model.dtype))
    return keys


def above(stage, params):
    """The parameters that a stage computes with: without those below where it starts."""
    return partition.split_below(params, stage.model.start, stage.model.config.layers)[1]


def pack_evaluated(experiment, stage):
    """{name: Packed} of the splits that are evaluated, as a stage evaluates them."""
    names = recipes.evaluated_splits(experiment.settings.experiment, experiment.examples)
    splits = {name: experiment.examples[name] for name in names}
    groups, config = experiment.mesh.size, stage.model.config
    if stage.model.start == config.layers:
        return evaluate.deal_splits(splits, groups=groups)
    return evaluate.pack_splits(splits, groups=groups, grid=row_grid(), width=config.width)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """key: equal for equal programs; make(arguments) -> (executable, operations)."""

    key: tuple
    make: object
    arguments: tuple


def _wanted(experiment, stage, state, frozen, hyper, eval_shape):
    """{number of a shape, or "eval": _Wanted} of a stage.  state, frozen, hyper: arrays or their shapes."""
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

    def want(make, arguments, *built_in):
        leaves, structure = jax.tree.flatten(arguments)
        shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in leaves)
        return _Wanted((*built_in, experiment.mesh, structure, shapes), make, arguments)

    wanted = {}
    for i in sorted({int(i) for i in experiment.plan.shape_of[stage.first : stage.last]}):
        batch = abstract_batch(stage.shapes[i], experiment.examples["train"].label.dtype, stage.model, experiment.mesh)
        built_in = stage.model, kind, constants(options.optim), stage.groups, accumulation
        wanted[i] = want(make_train, (state, frozen, batch, hyper), *built_in)
    batch = abstract_batch(eval_shape, np.dtype(np.int32), stage.model, experiment.mesh)
    del batch["label"], batch["weight"]
    params, quiet = tree.merge(state.trainable, frozen), dataclasses.replace(stage.model, noisy_from=-1)
    return wanted | {"eval": want(make_eval, (params, batch, hyper.methods), quiet)}


def abstract_batch(shape, label_dtype, model, device_mesh):
    """The shapes of `fjt.data.batches.build`'s arrays for a Model, sharded by group."""
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.examples)
    sizes = {"example": (slots, np.int32), "label": (slots, label_dtype), "weight": (slots, np.float32)}
    if shape.rows:
        sizes |= {"first": (slots, np.int32), "segment_ids": (tokens, np.int32), "position_ids": (tokens, np.int32)}
    if model.start < 0:
        sizes |= {"token_ids": (tokens, np.int32), "type_ids": (tokens, np.int32)}
    else:
        places = tokens if shape.rows else slots
        sizes |= {"hidden": ((*places, model.config.width), jnp.dtype(model.dtype))}
    sharding = mesh.by_group(device_mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}
