"""What is compiled: a training program for each shape of the plan and one for evaluation, ahead of step 0."""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np

from fjt.core import console, tree
from fjt.data import packing
from fjt.experiment.arguments import Shapes, abstract_batch, abstract_lanes, abstract_run, add_lane_axis, pack_evaluated
from fjt.experiment.prepared import Blueprint, Experiment, Stage
from fjt.experiment.program_cache import damaged_removed
from fjt.training import placement
from fjt.training.hyper import Hyper
from fjt.training.lanes import lanes_eval, lanes_step
from fjt.training.optim import constants, make_optimizer
from fjt.training.step import WHOLE, Layout, TrainState, eval_step, train_step
from fjt.tuning import cost

Compiled = dict[Any, Any]  # {key of a program: (executable, operations)}, and lowered programs of cached features


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs that are compiled before the first step of a stage.

    Attributes:
        train: {number of a shape in the plan: executable of a step}.
        eval: the executable of an evaluation, the same for all splits.
        flops: {number of a shape: floating-point operations of a step}, counted in a lowering without loops.
        seconds: time of compilation.
    """

    train: dict[int, Callable[..., Any]]
    eval: Callable[..., Any]
    flops: dict[int, float]
    seconds: float


def compile_programs(
    experiment: Experiment,
    stage: Stage,
    state: TrainState,
    frozen: tree.Tree,
    hyper: Hyper,
    eval_shape: packing.Shape,
    compiled: Compiled,
    view: console.View = console,
) -> Programs:
    """Programs for the shapes of a stage and for evaluation.

    Args:
        experiment: the run.
        stage: the stage.
        state: its first TrainState, or the shapes of one.
        frozen: the other parameters that it computes with.
        hyper: hyper-parameters.
        eval_shape: of evaluation batches.
        compiled: programs of earlier runs; new ones are added.
        view: where progress is shown.
    """
    return _compile(_wanted(experiment, stage, state, frozen, hyper, eval_shape), compiled, view)


def compile_lanes(
    experiment: Experiment,
    stage: Stage,
    size: int,
    one_batch: bool,
    eval_shape: packing.Shape,
    compiled: Compiled,
    view: console.View = console,
) -> Programs:
    """Programs for several runs as lanes.

    Args:
        experiment: one of the runs.
        stage: its only stage.
        size: number of runs.
        one_batch: whether all train on the same examples in each step.
        eval_shape: of evaluation batches.
        compiled: programs of earlier runs; new ones are added.
        view: where progress is shown.
    """
    return _compile(_wanted_lanes(experiment, stage, size, one_batch, eval_shape), compiled, view)


def _compile(wanted: dict[Any, "_Wanted"], compiled: Compiled, view: console.View) -> Programs:
    start = time.perf_counter()
    lacking = list(dict.fromkeys(program.key for program in wanted.values() if program.key not in compiled))
    made = {}
    with view.bar("compiling", len(lacking), every=1) as bar:
        for i, program in wanted.items():
            if program.key not in compiled:
                with damaged_removed(view):
                    compiled[program.key] = program.make(program.batch)
                bar.update(1 + lacking.index(program.key))
            made[i] = compiled[program.key]
    evaluator, _ = made.pop("eval")
    train, flops = ({i: program[j] for i, program in made.items()} for j in (0, 1))
    return Programs(train=train, eval=evaluator, flops=flops, seconds=time.perf_counter() - start)


def program_keys(experiment: Experiment, taken: Iterable[np.ndarray]) -> set[Any]:
    """The keys of the programs that runs compile one by one; nothing is compiled.

    They include the programs that compute cached features, which are compiled only if the cache lacks some.

    Args:
        experiment: one of the runs.
        taken: for each run i8[steps], the number of the shape of each step.
    """
    keys = set()
    for stage in experiment.stages:
        eval_shape = pack_evaluated(experiment, stage)["dev"].shape
        last = None if stage is experiment.stages[-1] else stage.last  # other runs may be longer
        numbers = {int(i) for shape_of in taken for i in shape_of[stage.first : last]}
        wanted = _wanted(experiment, stage, *abstract_run(experiment, stage), experiment.hyper, eval_shape, numbers)
        keys |= {program.key for program in wanted.values()} | _hidden_key(experiment, stage)
    return keys


def lanes_keys(experiment: Experiment, size: int, one_batch: bool) -> set[Any]:
    """The keys of the programs that several runs compile as lanes.  See `compile_lanes` and `program_keys`."""
    (stage,) = experiment.stages
    wanted = _wanted_lanes(experiment, stage, size, one_batch, pack_evaluated(experiment, stage)["dev"].shape)
    return {program.key for program in wanted.values()} | _hidden_key(experiment, stage)


def _hidden_key(experiment: Experiment, stage: Stage) -> set[Any]:
    if stage.model.start < 0:
        return set()
    return {("hidden", *sorted(experiment.contents.items()), stage.model.start, stage.model.dtype)}


def bytes_of(*executables: Any) -> int:
    """The device memory in bytes that the largest of these programs needs while it runs, including its arguments."""
    found = [executable.memory_analysis() for executable in executables]
    return max(
        one.argument_size_in_bytes + one.output_size_in_bytes + one.temp_size_in_bytes - one.alias_size_in_bytes
        for one in found
    )


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A program to compile.

    key: equal for equal programs.  make: batch -> (executable, operations).  batch: the shapes of its batch.
    """

    key: tuple[Any, ...]
    make: Callable[[Shapes], tuple[Any, float]]
    batch: Shapes


_AllWanted = dict[Any, _Wanted]  # {number of a shape, or "eval": the program}


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function to compile.  arguments: the shapes of a batch -> the arguments of the function."""

    function: Any
    arguments: Callable[[Shapes], tuple[Any, ...]]


def _wanted(
    experiment: Experiment,
    stage: Stage,
    state: TrainState,
    frozen: tree.Tree,
    hyper: Hyper,
    eval_shape: packing.Shape,
    numbers: Collection[int] | None = None,
) -> _AllWanted:
    """The programs of a stage.

    Args:
        experiment: the run.
        stage: the stage.
        state: arrays, or their shapes.
        frozen: arrays, or their shapes.
        hyper: arrays, or their shapes.
        eval_shape: of evaluation batches.
        numbers: of the shapes of training batches; by default those that the steps of the stage take.
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
        train=_Function(step, lambda batch: (state, frozen, batch, hyper)),
        counted=_Function(alone, lambda batch: (state, frozen, batch, hyper)),
        evaluator=_Function(eval_step, lambda batch: (params, batch, hyper.methods)),
    )


def _wanted_lanes(
    experiment: Experiment, stage: Stage, size: int, one_batch: bool, eval_shape: packing.Shape
) -> _AllWanted:
    """The programs of several runs as lanes.  See `compile_lanes`."""
    step, alone = _steps(experiment, stage)
    (all_lanes, shared), (state, frozen) = abstract_lanes(experiment, stage, size), abstract_run(experiment, stage)
    return _want_all(
        experiment,
        stage,
        eval_shape,
        (0,),
        train=_Function(
            functools.partial(lanes_step, one_batch=one_batch, **step.keywords),
            lambda batch: (
                all_lanes,
                shared,
                batch if one_batch else add_lane_axis(batch, size, experiment.mesh),
            ),
        ),
        counted=_Function(alone, lambda batch: (state, frozen, batch, experiment.hyper)),
        evaluator=_Function(lanes_eval, lambda batch: (all_lanes, shared, batch)),
    )


def _steps(experiment: Blueprint, stage: Stage) -> tuple[functools.partial, functools.partial]:
    """(the step of a run, the step whose operations are counted: XLA counts the body of a loop once)."""
    options, problem = experiment.settings.experiment, experiment.problem
    alone = functools.partial(
        train_step,
        model=stage.model,
        loss=problem.loss if experiment.hyper.soft_weight is None else problem.distilled_loss,
        divergence=problem.divergence,
        optimizer=make_optimizer(options.optim, stage.groups),
        layout=_layout(experiment),
    )
    return functools.partial(alone, accumulation=options.train.accumulation), alone


def _layout(experiment: Blueprint) -> Layout:
    """The layout that a step is compiled with.  Where every device holds everything, the program has no constraint."""
    return WHOLE if experiment.sharding.is_whole else experiment.sharding


def built_in(experiment: Blueprint, stage: Stage) -> dict[str, Any]:
    """{name: value} of everything that a training program is compiled for, except for arrays and devices."""
    options = experiment.settings.experiment
    return {
        "model": stage.model,
        "kind of task": experiment.task.kind,
        "optimizer": constants(options.optim),
        "parameter groups": tuple(tuple(sorted(names)) for names in stage.groups),
        "accumulation": options.train.accumulation,
    }


def _want_all(
    experiment: Experiment,
    stage: Stage,
    eval_shape: packing.Shape,
    numbers: Iterable[int],
    *,
    train: _Function,
    counted: _Function,
    evaluator: _Function,
) -> _AllWanted:
    """The programs of a stage.

    Args:
        experiment: the run.
        stage: the stage.
        eval_shape: of evaluation batches.
        numbers: of the shapes of training batches.
        train: a step.
        counted: the step whose operations are counted.
        evaluator: an evaluation.
    """
    sharding = experiment.sharding
    whole = placement.replicated(sharding.mesh)

    def make_eval(batch: Shapes) -> tuple[Any, float]:
        function = functools.partial(evaluator.function, model=stage.model, reduce=experiment.problem.reduce)
        if not sharding.is_whole:
            function = functools.partial(function, layout=sharding)
        return jax.jit(function, out_shardings=whole).lower(*evaluator.arguments(batch)).compile(), 0.0

    def want(make: Callable[[Shapes], tuple[Any, float]], batch: Shapes, function: _Function, *static: Any) -> _Wanted:
        leaves, structure = jax.tree.flatten(function.arguments(batch))
        shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in leaves)
        return _Wanted((*static, sharding, structure, shapes), make, batch)

    wanted = {}
    for i in sorted(numbers):
        batch = abstract_batch(stage.shapes[i], experiment.label, stage.model, experiment.mesh, experiment.hyper)
        make_train = functools.partial(_compile_step, experiment, stage, stage.shapes[i], train, counted)
        wanted[i] = want(make_train, batch, train, *built_in(experiment, stage).values())
    batch = abstract_batch(eval_shape, experiment.label, stage.model, experiment.mesh)
    for name in ("weight",) if experiment.problem.reduces else ("label", "weight"):
        del batch[name]
    quiet = dataclasses.replace(stage.model, noisy_from=-1)
    return wanted | {"eval": want(make_eval, batch, evaluator, quiet, experiment.task.kind)}


def _compile_step(
    blueprint: Blueprint, stage: Stage, shape: packing.Shape, train: _Function, counted: _Function, batch: Shapes
) -> tuple[Any, float]:
    """(executable, operations) of a step.

    Args:
        blueprint: the run.
        stage: the stage.
        shape: of the batch.
        train: the step.
        counted: the step whose operations are counted.
        batch: the shapes of the batch's arrays.
    """
    sharding, arguments = blueprint.sharding, train.arguments(batch)
    whole = placement.replicated(sharding.mesh)
    stored = whole if sharding.is_whole else sharding.shardings(arguments[0])
    jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=(stored, whole))
    lowered = jit(train.function).lower(*arguments)
    plain = blueprint.settings.experiment.train.accumulation == 1 and train.function.func is counted.function.func
    count = lowered if plain else jit(counted.function).lower(*counted.arguments(batch))
    # XLA counts the operations of a lowered program for CPUs and GPUs alone.
    return lowered.compile(), (count.cost_analysis() or {}).get("flops") or _flops(blueprint, stage, shape)


def _flops(blueprint: Blueprint, stage: Stage, shape: packing.Shape) -> float:
    """The operations of a step on a batch of a shape, by the law."""
    sizes = {name: leaf.shape for name, leaf in tree.flatten(blueprint.params).items() if name in stage.trainable}
    passes = 1 if blueprint.hyper.r_drop is None else 2
    return passes * cost.step_flops(
        stage.model.config,
        sizes,
        tokens=shape.groups * shape.rows * shape.row_length,
        row_length=shape.row_length,
        examples=shape.groups * shape.num_slots,
        classes=stage.model.classes,
        start=stage.model.start,
        one_slot=stage.model.one_slot,
        head=stage.model.head,
    )


def compile_ahead(blueprint: Blueprint, stage: Stage, shape: packing.Shape) -> tuple[Any, float]:
    """(executable, operations) of a step on a batch of a shape.  The devices may be those of another machine.

    Args:
        blueprint: of the run; shapes suffice for its parameters.
        stage: the stage.
        shape: of the batch.
    """
    state, frozen = map(blueprint.sharding.shapes, abstract_run(blueprint, stage))
    step, alone = _steps(blueprint, stage)

    def arguments(batch: Shapes) -> tuple[Any, ...]:
        return state, frozen, batch, blueprint.hyper

    batch = abstract_batch(shape, blueprint.label, stage.model, blueprint.mesh, blueprint.hyper)
    return _compile_step(blueprint, stage, shape, _Function(step, arguments), _Function(alone, arguments), batch)
