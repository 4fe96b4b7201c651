"""What is compiled: a training program for each shape of the plan and one for evaluation, ahead of step 0."""

import dataclasses
import functools
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import console, records, tree
from fjt.data import batches
from fjt.experiment import recipes
from fjt.experiment.inputs import cache_dir
from fjt.experiment.prepare import Experiment, Stage, row_grid
from fjt.training import evaluate, placement
from fjt.training.lanes import Lanes, lanes_eval, lanes_step, split_frozen
from fjt.training.optim import constants, make_optimizer
from fjt.training.step import eval_step, init_state, train_step
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


def compile_programs(experiment, stage, state, frozen, hyper, eval_shape, compiled, view: console.View = console):
    """Programs for the shapes of a stage and for evaluation.

    compiled: {what a program depends on: (executable, operations)}, of runs before, taken from and added to.
    """
    return _compile(_wanted(experiment, stage, state, frozen, hyper, eval_shape), compiled, view)


def compile_lanes(experiment, stage, size, one_batch, eval_shape, compiled, view: console.View = console):
    """Programs for `size` runs like one as lanes.  one_batch: whether all train on the same; compiled: as above."""
    return _compile(_wanted_lanes(experiment, stage, size, one_batch, eval_shape), compiled, view)


def _compile(wanted, compiled, view):
    start = time.perf_counter()
    lacking = list(dict.fromkeys(program.key for program in wanted.values() if program.key not in compiled))
    made = {}
    with view.bar("compiling", len(lacking), every=1) as bar:
        for i, program in wanted.items():
            if program.key not in compiled:
                compiled[program.key] = program.make(program.batch)
                bar.update(1 + lacking.index(program.key))
            made[i] = compiled[program.key]
    evaluator, _ = made.pop("eval")
    train, flops = ({i: program[j] for i, program in made.items()} for j in (0, 1))
    return Programs(train, evaluator, flops, time.perf_counter() - start)


def program_keys(experiment, taken):
    """The keys of all that the stages of runs like one compile; nothing is compiled.

    And one for each program that makes hidden states: it is compiled where nothing on the disk spares it.
    taken: [i8[steps]], as of each run's plan.
    """
    keys = set()
    for stage in experiment.stages:
        eval_shape = pack_evaluated(experiment, stage)["dev"].shape
        last = None if stage is experiment.stages[-1] else stage.last  # other runs may be longer
        numbers = {int(i) for shape_of in taken for i in shape_of[stage.first : last]}
        wanted = _wanted(experiment, stage, *abstract_run(experiment, stage), experiment.hyper, eval_shape, numbers)
        keys |= {program.key for program in wanted.values()} | _hidden_key(experiment, stage)
    return keys


def lanes_keys(experiment, size, one_batch):
    """The same of `size` runs like one as lanes."""
    (stage,) = experiment.stages
    wanted = _wanted_lanes(experiment, stage, size, one_batch, pack_evaluated(experiment, stage)["dev"].shape)
    return {program.key for program in wanted.values()} | _hidden_key(experiment, stage)


def _hidden_key(experiment, stage):
    if stage.model.start < 0:
        return set()
    return {("hidden", *sorted(experiment.contents.items()), stage.model.start, stage.model.dtype)}


def first_state(experiment, stage, hyper, params=None):
    """The TrainState of a stage at step 0.  params: those of the experiment where none are given."""
    trainable = tree.split(experiment.params if params is None else params, stage.trainable)[0]
    return init_state(trainable, hyper, make_optimizer(experiment.settings.experiment.optim, stage.groups))


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
    return evaluate.pack_splits(
        splits, groups=groups, grid=row_grid(), width=config.width, one_slot=stage.model.one_slot
    )


def bytes_of(*executables):
    """Bytes of a device that the largest of compiled programs takes while it runs, its arguments included."""
    found = [executable.memory_analysis() for executable in executables]
    return max(
        one.argument_size_in_bytes + one.output_size_in_bytes + one.temp_size_in_bytes - one.alias_size_in_bytes
        for one in found
    )


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """key: equal for equal programs; make(batch) -> (executable, operations); batch: shapes."""

    key: tuple
    make: object
    batch: dict


def _wanted(experiment, stage, state, frozen, hyper, eval_shape, numbers=None):
    """{number of a shape, or "eval": _Wanted} of a stage.

    state, frozen, hyper: arrays or their shapes; numbers: of the shapes, without them those that its steps take.
    """
    if numbers is None:
        numbers = {int(i) for i in experiment.plan.shape_of[stage.first : stage.last]}
    step, alone = _steps(experiment, stage)
    params = tree.merge(state.trainable, frozen)
    return _want_all(
        experiment,
        stage,
        eval_shape,
        numbers,
        train=(step, lambda batch: (state, frozen, batch, hyper)),
        counted=(alone, lambda batch: (state, frozen, batch, hyper)),
        evaluator=(eval_step, lambda batch: (params, batch, hyper.methods)),
    )


def _wanted_lanes(experiment, stage, size, one_batch, eval_shape):
    """The same of runs like one as the lanes of a program."""
    step, alone = _steps(experiment, stage)
    (all_lanes, shared), (state, frozen) = abstract_lanes(experiment, stage, size), abstract_run(experiment, stage)
    return _want_all(
        experiment,
        stage,
        eval_shape,
        (0,),
        train=(
            functools.partial(lanes_step, one_batch=one_batch, **step.keywords),
            lambda batch: (all_lanes, shared, batch if one_batch else _lead(batch, size, experiment.mesh)),
        ),
        counted=(alone, lambda batch: (state, frozen, batch, experiment.hyper)),
        evaluator=(lanes_eval, lambda batch: (all_lanes, shared, batch)),
    )


def _steps(experiment, stage):
    """(the step of a run, the step whose operations are counted: XLA counts a loop's body once)."""
    options = experiment.settings.experiment
    alone = functools.partial(
        train_step,
        model=stage.model,
        loss=experiment.problem.loss,
        optimizer=make_optimizer(options.optim, stage.groups),
    )
    return functools.partial(alone, accumulation=options.train.accumulation), alone


def built_in(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    """{name: value} of everything that a stage's training program is compiled for, arrays and devices apart."""
    options = experiment.settings.experiment
    return {
        "model": stage.model,
        "kind of task": experiment.task.kind,
        "optimizer": constants(options.optim),
        "parameter groups": stage.groups,
        "accumulation": options.train.accumulation,
    }


def _want_all(experiment, stage, eval_shape, numbers, *, train, counted, evaluator):
    """{number of a shape, or "eval": _Wanted}.  train, counted, evaluator: (function, batch -> its arguments)."""
    accumulation = experiment.settings.experiment.train.accumulation
    whole = placement.replicated(experiment.mesh)
    jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=(whole, whole))

    def make_train(batch):
        lowered = jit(train[0]).lower(*train[1](batch))
        plain = accumulation == 1 and train[0].func is counted[0].func
        count = lowered if plain else jit(counted[0]).lower(*counted[1](batch))
        return lowered.compile(), (count.cost_analysis() or {}).get("flops", float("nan"))

    def make_eval(batch):
        function = functools.partial(evaluator[0], model=stage.model)
        return jax.jit(function, out_shardings=whole).lower(*evaluator[1](batch)).compile(), 0.0

    def want(make, batch, arguments, *static):
        leaves, structure = jax.tree.flatten(arguments(batch))
        shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in leaves)
        return _Wanted((*static, experiment.mesh, structure, shapes), make, batch)

    wanted = {}
    for i in sorted(numbers):
        batch = abstract_batch(stage.shapes[i], experiment.examples["train"].label, stage.model, experiment.mesh)
        wanted[i] = want(make_train, batch, train[1], *built_in(experiment, stage).values())
    batch = abstract_batch(eval_shape, experiment.examples["train"].label, stage.model, experiment.mesh)
    del batch["label"], batch["weight"]
    quiet = dataclasses.replace(stage.model, noisy_from=-1)
    return wanted | {"eval": want(make_eval, batch, evaluator[1], quiet)}


def abstract_run(experiment, stage):
    """The shapes of (TrainState, frozen parameters) of a stage."""
    state = jax.eval_shape(functools.partial(first_state, experiment, stage, experiment.hyper), experiment.params)
    frozen = jax.eval_shape(lambda params: tree.split(params, stage.trainable)[1], experiment.params)
    return state, above(stage, frozen)


def abstract_lanes(experiment, stage, size):
    """The shapes of (Lanes of runs like one, the frozen parameters that they share)."""
    state, frozen = abstract_run(experiment, stage)
    shared, (own,) = split_frozen([frozen])
    hyper = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), experiment.hyper)
    active = jax.ShapeDtypeStruct((), np.bool_)
    whole = placement.replicated(experiment.mesh)
    shared = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shared)
    return _lead(Lanes(state, own, hyper, active), size, experiment.mesh), shared


def _lead(shapes, size, device_mesh):
    """Shapes with a leading axis of lanes: whole on each device, or spread by group behind it as they were."""

    def lead(x):
        sharding = placement.replicated(device_mesh) if x.sharding is None else placement.lanes_by_group(device_mesh)
        return jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=sharding)

    return jax.tree.map(lead, shapes)


def abstract_batch(shape, label, model, device_mesh):
    """The shapes of `fjt.data.batches.build`'s arrays for a Model, sharded by group.  label: of a split."""
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.num_slots)
    sizes = {
        "example": ((shape.groups, shape.examples), np.int32),
        "slot_example": (slots, np.int32),
        "slot_position": (slots, np.int32),
        "label": ((*slots, *label.shape[1:]), label.dtype),
        "weight": (slots, np.float32),
    }
    if shape.rows:
        names = ("segment_ids", "position_ids")
        sizes |= {"slot_token": (slots, np.int32)} | {name: (tokens, np.int32) for name in names}
    if model.start < 0:
        sizes |= {"token_ids": (tokens, np.int32), "type_ids": (tokens, np.int32)}
    else:
        places = tokens if shape.rows else slots
        sizes |= {"hidden": ((*places, model.config.width), jnp.dtype(model.dtype))}
    sharding = placement.by_group(device_mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}


def build_batch(experiment, shape, states, k):
    """(arrays of a shape, examples, real tokens) of the batch of step k.  states: {split: hidden states or None}."""
    indices, examples = experiment.schedule.batches(k, k + 1)[0], experiment.examples["train"]
    one_a_row = not experiment.settings.experiment.train.packing
    batch, _ = batches.build(examples, indices, shape, one_a_row, states["train"])
    return batch, int((indices >= 0).sum()), int(batches.lengths_of(examples, indices).sum())
