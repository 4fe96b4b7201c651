"""A run: one work directory from nothing, or from wherever it stands, to DONE."""

import collections
import contextlib
import dataclasses
import functools
import os
import resource
import shutil

import jax

from fjt import checkpoint, console, evaluate, exports, hidden, mesh, metrics, outputs, recipes, records, tree
from fjt.data import batches, tasks
from fjt.experiment import row_grid
from fjt.interop import card
from fjt.optim import make_optimizer
from fjt.programs import above, compile_programs, pack_evaluated
from fjt.step import init_state
from fjt.train import Loop, Stop, Stopped, first_host_state, fit
from fjt.tuning import partition
from fjt.workdir import claim

CURVE_SECONDS = 5  # of training between two drawings of the curve, which takes as long as a hundred steps of a head


def run(experiment, workdir, *, compiled=None, view=console):
    """The result (a dict, as in result.json) of a run in a locked work directory.

    compiled: programs of runs before, as `compile_programs` takes them; view: who is told, with say, warn and bar.
    Raises UserError, train.Stopped (its state is saved) and checkpoint.NotFinite.
    """
    claim(experiment, workdir)
    settings, options = experiment.settings, experiment.settings.experiment
    whole = mesh.replicated(experiment.mesh)
    hyper = jax.device_put(experiment.hyper, whole)
    compiled = {} if compiled is None else compiled
    programs = packed = states = None  # of the stage under way

    def put(batch):
        return jax.device_put(batch, mesh.by_group(experiment.mesh))

    def logits_of(params, split, before):
        return evaluate.evaluate(
            lambda params, batch: programs.eval(params, batch, hyper.methods),
            params, evaluate.with_hidden(packed[split], states[split]), put, before=before,
        )  # fmt: skip

    with (
        Stop() as stop,
        checkpoint.Checkpoints(
            os.path.join(workdir, "checkpoints"), settings.execution.checkpoint.keep, view.warn
        ) as checkpoints,
    ):
        abstract = functools.partial(_abstract_state, experiment, hyper, whole)
        state, host, restored = _first_state(experiment, hyper), first_host_state(), checkpoints.restore(abstract)
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
            states = hidden.States(experiment, stage, row_grid(), put, stop.check, view)
            try:
                seconds = states.prepare(["train", "dev"] if int(state.step) < stage.last else ["dev"])
            except Stopped:
                if int(state.step) not in checkpoints.steps():
                    checkpoints.save(int(state.step), state, host)
                    checkpoints.wait()
                raise
            host = host | {"hidden_seconds": host["hidden_seconds"] + seconds}
            state = jax.device_put(_open_stage(experiment, stage, state, hyper), whole)
            frozen = jax.device_put(above(stage, _frozen(experiment, state.trainable)), whole)
            if number:
                view.say(f"stage {number}, from step {stage.first}: {tree.count(state.trainable):,} parameters train")
            programs = compile_programs(experiment, stage, state, frozen, hyper, packed["dev"].shape, compiled, view)
            host = host | {"compile_seconds": host["compile_seconds"] + programs.seconds}
            with _logs(experiment, workdir, int(state.step), host, view) as (log_step, log_evaluation):
                loop = _make_loop(
                    experiment,
                    stage,
                    feed=functools.partial(_feed, experiment, stage, states, put),
                    operations=lambda k, programs=programs: programs.flops[experiment.plan.shape_of[k]],
                    run=lambda k, state, batch, frozen=frozen, programs=programs: programs.train[
                        experiment.plan.shape_of[k]
                    ](state, frozen, batch, dataclasses.replace(hyper, learning_rate=experiment.rates[k])),
                    evaluate=lambda state, frozen=frozen: _score_dev(
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
                    taken = len(records.read_lines(os.path.join(workdir, "train.jsonl")))
                    failed = _identity(experiment, taken) | {"failed": str(error)}
                    records.write_json(os.path.join(workdir, "result.json"), failed)
                    raise
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
        before = _frozen(experiment, trainable)
        frozen = jax.device_put(before, whole)
        logits = functools.partial(logits_of, above(stage, tree.merge(trainable, frozen)), before=stop.check)
        result = _finish(experiment, workdir, host, selected, trainable, frozen, logits, done)
        if result["frozen_sha256"] != tree.sha256(before):
            raise RuntimeError("a frozen parameter has changed")
    records.write_json(os.path.join(workdir, "result.json"), result)
    if not settings.execution.output.checkpoints:
        shutil.rmtree(os.path.join(workdir, "checkpoints"))
    records.replace(os.path.join(workdir, "DONE"), "")
    return result


def _frozen(experiment, trainable):
    """What does not train beside a tree of leaves that do: parameters as they came, numpy arrays."""
    return tree.split(experiment.params, set(tree.flatten(trainable)))[1]


def _first_state(experiment, hyper):
    """The TrainState of step 0, in the first stage."""
    stage = experiment.stages[0]
    trainable = tree.split(experiment.params, stage.trainable)[0]
    return init_state(trainable, hyper, make_optimizer(experiment.settings.experiment.optim, stage.groups))


def _open_stage(experiment, stage, state, hyper):
    """The TrainState of a stage from that of the one before: moments stay, newly opened leaves begin their own."""
    if set(tree.flatten(state.trainable)) == stage.trainable:
        return state
    params = tree.merge(state.trainable, _frozen(experiment, state.trainable))
    trainable = tree.split(params, stage.trainable)[0]
    optimizer = make_optimizer(experiment.settings.experiment.optim, stage.groups)
    opened = init_state(trainable, hyper, optimizer).opt_state | state.opt_state
    return dataclasses.replace(state, trainable=trainable, opt_state=opened)


def _abstract_state(experiment, hyper, sharding, step):
    """The shapes of the TrainState after a step: of the stage that ends there, on a boundary."""
    stage = next(stage for stage in experiment.stages if step <= stage.last)
    trainable = tree.split(experiment.params, stage.trainable)[0]
    optimizer = make_optimizer(experiment.settings.experiment.optim, stage.groups)
    shapes = jax.eval_shape(lambda leaves: init_state(leaves, hyper, optimizer), trainable)
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
        lower=metric in metrics.LOWER_IS_BETTER,
        patience=settings.experiment.train.patience,
        **parts,
    )


def _score_dev(experiment, logits):
    """{metric: value} of dev, its loss among them."""
    label = experiment.examples["dev"].label
    found = metrics.score(experiment.task, logits, label)
    return found | {"loss": metrics.loss(experiment.task, logits, label)} if found else found


def _feed(experiment, stage, states, put, k):
    indices = experiment.schedule.batches(k, k + 1)[0]
    shape = stage.shapes[experiment.plan.shape_of[k]]
    examples = experiment.examples["train"]
    one_a_row = not experiment.settings.experiment.train.packing
    batch, _ = batches.build(examples, indices, shape, one_a_row, states["train"])
    return put(batch), int((indices >= 0).sum()), int(batches.lengths_of(examples, indices).sum())


@contextlib.contextmanager
def _logs(experiment, workdir, step, host, view):
    """(log_step, log_evaluation): write rows to train.jsonl and eval.jsonl and show them."""
    log = records.Log(os.path.join(workdir, "train.jsonl"), step)
    evaluations = records.Log(os.path.join(workdir, "eval.jsonl"), host["evaluated"])
    tensorboard = None
    if experiment.settings.execution.log.tensorboard:
        tensorboard = outputs.TensorBoard(workdir, experiment.rates)
    best = host["best_metrics"]
    every, wanted = experiment.settings.execution.log.every_steps, experiment.settings.execution.output
    drawn, undrawn = -CURVE_SECONDS, wanted.curve
    with view.bar("training", experiment.steps, step, every) as bar:
        begin, recent = (host["examples"], host["train_seconds"]), collections.deque(maxlen=every)

        def log_step(row):
            k = row["step"] - 1
            about = {"learning_rate": float(experiment.rates[k]), "shape": int(experiment.plan.shape_of[k])}
            log.write(row | about)
            if tensorboard:
                tensorboard.add_step(row)
            rate = (row["examples"] - begin[0]) / max(row["seconds"] - begin[1], 1e-9)
            recent.append(row["loss"])
            bar.update(row["step"], f"loss {sum(recent) / len(recent):.4f}  {_show(best)}{rate:.1f} examples/s")

        def log_evaluation(row):
            nonlocal best, drawn, undrawn
            best = {name: row[name] for name in experiment.task.metrics if name in row}
            evaluations.write(row)
            epoch = row["step"] / experiment.schedule.steps_per_epoch
            view.say(f"step {row['step']} (epoch {epoch:.1f})  dev {_show(best)}{'best so far' if row['best'] else ''}")
            undrawn = wanted.curve
            if wanted.curve and row["train_seconds"] - drawn >= CURVE_SECONDS:
                outputs.draw_curve(workdir, experiment.task.metrics[0])
                drawn, undrawn = row["train_seconds"], False
            if tensorboard:
                tensorboard.add_evaluation(row)

        try:
            yield log_step, log_evaluation
            if undrawn:
                outputs.draw_curve(workdir, experiment.task.metrics[0])
        finally:
            log.close()
            evaluations.close()
            if tensorboard:
                tensorboard.close()


def _show(scores):
    return "".join(f"{name} {value:.4f}  " for name, value in scores.items())


def _finish(experiment, workdir, host, selected, trainable, frozen, logits_of, done):
    """Predictions, export and the result of the selected step."""
    task, wanted = experiment.task, experiment.settings.execution.output
    splits, dev = {}, {}
    for name in recipes.evaluated_splits(experiment.settings.experiment, experiment.splits):
        logits = logits_of(name)
        folder = os.path.join(workdir, "predictions")
        outputs.write_predictions(folder, name, task, experiment.splits[name], logits)
        if wanted.tables:
            outputs.write_tables(folder, name, task, experiment.splits[name], logits)
        scores = metrics.score(task, logits, experiment.examples[name].label, tasks.SPLIT_METRICS.get(name))
        if scores:
            splits[name] = scores
        if name == "dev" and wanted.export:  # where its card has them
            label = experiment.examples[name].label
            dev = {metric: (value, *card.interval(task, metric, logits, label)) for metric, value in scores.items()}
    params = tree.merge(jax.device_get(trainable), jax.device_get(frozen))
    if wanted.export:
        exports.write(experiment, os.path.join(workdir, "export"), params, dev)
    seconds = host["train_seconds"]
    memory, kind = _peak_memory()
    methods = partition.find_methods(experiment.settings.experiment.tune)
    return _identity(experiment, done) | {
        "selected_step": selected,
        "split": "dev",
        "metrics": splits.get("dev", {}),
        "splits": splits,
        "best": {"step": host["best_step"], "metrics": host["best_metrics"]},
        "trainable_params": partition.count(methods, trainable),
        "head_params": tree.count(params["head"]),
        "pooler_params": tree.count(params["encoder"]["pooler"]),
        "added_params": partition.count(methods, {"adapters": trainable.get("adapters", {})}),
        "total_params": partition.count(methods, partition.lasting(params)),
        "train_seconds": seconds,
        "compile_seconds": host["compile_seconds"],
        "hidden_seconds": host["hidden_seconds"],
        "examples_per_second": host["examples"] / seconds if seconds else None,
        "tokens_per_second": host["tokens"] / seconds if seconds else None,
        "token_efficiency": experiment.plan.efficiency,
        "flops_per_step": host["operations"] / done if done else 0.0,
        "peak_memory_bytes": memory,
        "memory_kind": kind,
        "params_sha256": tree.sha256(trainable),
        "frozen_sha256": tree.sha256(frozen),
        "failed": None,
    }


def _identity(experiment, done):
    """What a result says of its run before anything is measured; done: steps taken."""
    options = experiment.settings.experiment
    return {
        "task": experiment.task.name,
        "model": options.model.path or "scratch",
        "method": list(options.tune.method),
        "seed": options.seed,
        "steps": done,
        "planned_steps": experiment.steps,
        "epochs": done / experiment.schedule.steps_per_epoch,
        "data_sha256": experiment.contents["data"],
        "versions": records.versions(),
    }


def _peak_memory():
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "host resident set"
