"""A run: one work directory from nothing, or from wherever it stands, to DONE."""

import dataclasses
import functools
import os
import shutil

import jax

from fjt.core import console, records, tree
from fjt.experiment import features, recipes
from fjt.experiment.outcome import fail, finish, logs, score_dev
from fjt.experiment.prepare import row_grid
from fjt.experiment.programs import above, build_batch, compile_programs, first_state, pack_evaluated
from fjt.experiment.workdir import claim
from fjt.tasks.kinds import lower_is_better
from fjt.training import checkpoint, evaluate, placement
from fjt.training.loop import Loop, Stop, Stopped, first_host_state, fit


def run(experiment, workdir, *, compiled=None, view: console.View = console):
    """The result (a dict, as in result.json) of a run in a locked work directory.

    compiled: programs of runs before, as `compile_programs` takes them; view: who is told, with say, warn and bar.
    Raises UserError, train.Stopped (its state is saved) and checkpoint.NotFinite.
    """
    claim(experiment, workdir)
    settings, options = experiment.settings, experiment.settings.experiment
    whole = placement.replicated(experiment.mesh)
    hyper = jax.device_put(experiment.hyper, whole)
    compiled = {} if compiled is None else compiled
    programs = packed = states = None  # of the stage under way

    def put(batch):
        return jax.device_put(batch, placement.by_group(experiment.mesh))

    def logits_of(params, split, before):
        return evaluate.evaluate(
            lambda params, batch: programs.eval(params, batch, hyper.methods),
            params,
            evaluate.with_hidden(packed[split], states[split]),
            put,
            before=before,
        )

    with (
        Stop() as stop,
        checkpoint.Checkpoints(
            os.path.join(workdir, "checkpoints"), settings.execution.checkpoint.keep, view.warn
        ) as checkpoints,
    ):
        abstract = functools.partial(_abstract_state, experiment, hyper, whole)
        state, host, restored = (
            first_state(experiment, experiment.stages[0], hyper),
            first_host_state(),
            checkpoints.restore(abstract),
        )
        if restored:
            step, state, host = restored[0], restored[1], host | restored[2]
            view.say(f"resuming after step {step} of {experiment.steps}")
        state = jax.device_put(state, whole)

        for number, stage in enumerate(experiment.stages):
            last = number == len(experiment.stages) - 1
            stopped_here = host["finished"] and int(state.step) == stage.last  # by patience, at a boundary
            if int(state.step) >= stage.last and not last and not stopped_here:
                continue
            packed = pack_evaluated(experiment, stage)
            states = features.States(experiment, stage, row_grid(), put, stop.check, compiled, view)
            try:
                seconds = states.prepare(["train", "dev"] if int(state.step) < stage.last else ["dev"])
            except Stopped:
                if int(state.step) not in checkpoints.steps():
                    checkpoints.save(int(state.step), state, host)
                    checkpoints.wait()
                raise
            host = host | {"hidden_seconds": host["hidden_seconds"] + seconds}
            state = jax.device_put(_open_stage(experiment, stage, state, hyper), whole)
            kept = above(stage, frozen_of(experiment, state.trainable))
            before, frozen = tree.sha256(kept), jax.device_put(kept, whole)
            if number:
                view.say(f"stage {number}, from step {stage.first}: {tree.count(state.trainable):,} parameters train")
            programs = compile_programs(experiment, stage, state, frozen, hyper, packed["dev"].shape, compiled, view)
            host = host | {"compile_seconds": host["compile_seconds"] + programs.seconds}
            with logs(experiment, workdir, int(state.step), host, view) as (log_step, log_evaluation):
                loop = _make_loop(
                    experiment,
                    stage,
                    feed=functools.partial(feed, experiment, stage, states, put),
                    operations=lambda k, programs=programs: programs.flops[experiment.plan.shape_of[k]],
                    run=lambda k, state, batch, frozen=frozen, programs=programs: programs.train[
                        experiment.plan.shape_of[k]
                    ](state, frozen, batch, dataclasses.replace(hyper, learning_rate=experiment.rates[k])),
                    evaluate=lambda state, frozen=frozen: score_dev(
                        experiment, logits_of(tree.merge(state.trainable, frozen), "dev", stop.check)
                    ),
                    checkpoints=checkpoints,
                    log_step=log_step,
                    log_evaluation=log_evaluation,
                    stop=stop,
                )
                try:
                    state, host = fit(loop, state, host)
                except checkpoint.NotFinite as error:
                    fail(experiment, workdir, error)
                    raise
            if tree.sha256(jax.device_get(frozen)) != before:
                raise RuntimeError("a frozen parameter has changed")
            if host["finished"]:
                break
        checkpoints.wait()
        done = selected = int(state.step)
        trainable = state.trainable
        if options.train.select == "best" and host["best_step"] != selected:
            selected, best, _ = checkpoints.restore(abstract, host["best_step"])
            trainable = best.trainable
        seconds = states.prepare(recipes.evaluated_splits(options, experiment.splits))
        host = host | {"hidden_seconds": host["hidden_seconds"] + seconds}
        kept = frozen_of(experiment, trainable)
        params = tree.merge(trainable, jax.device_put(kept, whole))
        logits = functools.partial(logits_of, above(stage, params), before=stop.check)
        result = finish(experiment, workdir, host, selected, trainable, kept, logits, done)
    records.write_json(os.path.join(workdir, "result.json"), result)
    if not settings.execution.output.checkpoints:
        shutil.rmtree(os.path.join(workdir, "checkpoints"))
    records.replace(os.path.join(workdir, "DONE"), "")
    return result


def frozen_of(experiment, trainable):
    """What does not train beside a tree of leaves that do: parameters as they came, numpy arrays."""
    return tree.split(experiment.params, set(tree.flatten(trainable)))[1]


def _open_stage(experiment, stage, state, hyper):
    """The TrainState of a stage from that of the one before: moments stay, newly opened leaves begin their own."""
    if set(tree.flatten(state.trainable)) == stage.trainable:
        return state
    params = tree.merge(state.trainable, frozen_of(experiment, state.trainable))
    opened = first_state(experiment, stage, hyper, params)
    return dataclasses.replace(opened, step=state.step, opt_state=opened.opt_state | state.opt_state)


def _abstract_state(experiment, hyper, sharding, step):
    """The shapes of the TrainState after a step: of the stage that ends there, on a boundary."""
    stage = next(stage for stage in experiment.stages if step <= stage.last)
    shapes = jax.eval_shape(functools.partial(first_state, experiment, stage, hyper), experiment.params)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _make_loop(experiment, stage, **parts):
    """The Loop of a stage; parts: what it calls."""
    settings = experiment.settings
    every, metric = settings.execution.checkpoint.every_steps, experiment.task.metrics[0]
    return Loop(
        total=stage.last,
        evaluations=frozenset(experiment.evaluations),
        saves=frozenset(range(every, experiment.steps, every) if every else ()),
        metric=metric,
        lower=lower_is_better(metric),
        patience=settings.experiment.train.patience,
        keep_last=settings.execution.output.checkpoints or stage.last < experiment.steps,
        **parts,
    )


def feed(experiment, stage, states, put, k):
    """(batch on the devices, examples, real tokens) of step k."""
    batch, examples, tokens = build_batch(experiment, stage.shapes[experiment.plan.shape_of[k]], states, k)
    return put(batch), examples, tokens
