"""A run: one work directory from nothing, or from wherever it stands, to DONE."""

import collections
import contextlib
import dataclasses
import functools
import os
import resource

import jax
import numpy as np

from fjt import checkpoint, console, evaluate, exports, mesh, metrics, outputs, records, tree
from fjt.data import batches, tasks
from fjt.experiment import row_grid
from fjt.interop import card
from fjt.optim import make_optimizer
from fjt.programs import compile_programs
from fjt.step import init_state
from fjt.train import Loop, Stop, first_host_state, fit
from fjt.workdir import claim


def run(experiment, workdir):
    """The result (a dict, as in result.json) of a run in a locked work directory.

    Raises UserError, train.Stopped (its state is saved) and checkpoint.NotFinite.
    """
    claim(experiment, workdir)
    settings, options = experiment.settings, experiment.settings.experiment
    lower = experiment.task.metrics[0] in metrics.LOWER_IS_BETTER
    whole = mesh.replicated(experiment.mesh)
    hyper = jax.device_put(experiment.hyper, whole)
    trainable, frozen = (jax.device_put(x, whole) for x in tree.split(experiment.params, experiment.trainable))
    frozen_before = tree.sha256(frozen)
    state = jax.device_put(init_state(trainable, hyper, make_optimizer(options.optim)), whole)
    evaluated = {name: examples for name, examples in experiment.examples.items() if name != "train"}
    packed = evaluate.pack_splits(
        evaluated, groups=experiment.mesh.size, grid=row_grid(), width=experiment.model.config.width
    )

    with (
        Stop() as stop,
        checkpoint.Checkpoints(
            os.path.join(workdir, "checkpoints"), settings.execution.checkpoint.keep, console.warn
        ) as checkpoints,
    ):
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        host, restored = first_host_state(), checkpoints.restore(abstract)
        if restored:
            step, state, host = restored
            console.say(f"resuming after step {step} of {experiment.steps}")
        programs = compile_programs(experiment, state, frozen, hyper, packed["dev"].shape)
        host["compile_seconds"] += programs.seconds

        def put(batch):
            return jax.device_put(batch, mesh.by_group(experiment.mesh))

        def logits_of(trainable, split, before=stop.check):
            return evaluate.evaluate(
                lambda params, batch: programs.eval(params, batch, hyper.methods),
                tree.merge(trainable, frozen),
                packed[split],
                put,
                before=before,
            )

        def evaluate_dev(state):
            logits = logits_of(state.trainable, "dev")
            label = experiment.examples["dev"].label
            found = metrics.score(experiment.task, logits, label)
            return found | {"loss": metrics.loss(experiment.task, logits, label)} if found else found

        with _logs(experiment, workdir, int(state.step), host) as (log_step, log_evaluation):
            every = settings.execution.checkpoint.every_steps
            loop = Loop(
                total=experiment.steps,
                evaluations=frozenset(experiment.evaluations),
                saves=frozenset(range(every, experiment.steps, every) if every else ()),
                feed=functools.partial(_feed, experiment, put),
                run=lambda k, state, batch: programs.train[experiment.plan.shape_of[k]](
                    state, frozen, batch, dataclasses.replace(hyper, learning_rate=experiment.rates[k])
                ),
                evaluate=evaluate_dev,
                metric=experiment.task.metrics[0],
                lower=lower,
                patience=options.train.patience,
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
        checkpoints.wait()
        done = selected = int(state.step)
        trainable = state.trainable
        if options.train.select == "best" and host["best_step"] != selected:
            selected, best, _ = checkpoints.restore(abstract, host["best_step"])
            trainable = best.trainable
        result = _finish(experiment, workdir, host, selected, trainable, frozen, logits_of, programs, done)
        if result["frozen_sha256"] != frozen_before:
            raise RuntimeError("a frozen parameter has changed")
    records.write_json(os.path.join(workdir, "result.json"), result)
    records.replace(os.path.join(workdir, "DONE"), "")
    return result


def _feed(experiment, put, k):
    indices = experiment.schedule.batches(k, k + 1)[0]
    shape = experiment.plan.shapes[experiment.plan.shape_of[k]]
    examples = experiment.examples["train"]
    batch, _ = batches.build(examples, indices, shape, not experiment.settings.experiment.train.packing)
    return put(batch), int((indices >= 0).sum()), int(batches.lengths_of(examples, indices).sum())


@contextlib.contextmanager
def _logs(experiment, workdir, step, host):
    """(log_step, log_evaluation): write rows to train.jsonl and eval.jsonl and show them."""
    log = records.Log(os.path.join(workdir, "train.jsonl"), step)
    evaluations = records.Log(os.path.join(workdir, "eval.jsonl"), host["evaluated"])
    tensorboard = None
    if experiment.settings.execution.log.tensorboard:
        tensorboard = outputs.TensorBoard(workdir, experiment.rates)
    best = host["best_metrics"]
    every = experiment.settings.execution.log.every_steps
    with console.bar("training", experiment.steps, step, every) as bar:
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
            nonlocal best
            best = {name: row[name] for name in experiment.task.metrics if name in row}
            evaluations.write(row)
            epoch = row["step"] / experiment.schedule.steps_per_epoch
            console.say(
                f"step {row['step']} (epoch {epoch:.1f})  dev {_show(best)}{'best so far' if row['best'] else ''}"
            )
            outputs.draw_curve(workdir, experiment.task.metrics[0])
            if tensorboard:
                tensorboard.add_evaluation(row)

        try:
            yield log_step, log_evaluation
        finally:
            log.close()
            evaluations.close()
            if tensorboard:
                tensorboard.close()


def _show(scores):
    return "".join(f"{name} {value:.4f}  " for name, value in scores.items())


def _finish(experiment, workdir, host, selected, trainable, frozen, logits_of, programs, done):
    """Predictions, export and the result of the selected step."""
    options, task = experiment.settings.experiment, experiment.task
    splits, dev = {}, {}
    for name in experiment.splits:
        if name == "train" or (name.startswith(("test", "ax")) and not options.eval.test):
            continue
        logits = logits_of(trainable, name)
        outputs.write_predictions(os.path.join(workdir, "predictions"), name, task, experiment.splits[name], logits)
        scores = metrics.score(task, logits, experiment.examples[name].label, tasks.SPLIT_METRICS.get(name))
        if scores:
            splits[name] = scores
        if name == "dev":
            label = experiment.examples[name].label
            dev = {metric: (value, *card.interval(task, metric, logits, label)) for metric, value in scores.items()}
    params = tree.merge(jax.device_get(trainable), jax.device_get(frozen))
    exports.write(experiment, os.path.join(workdir, "export"), params, dev)
    seconds = host["train_seconds"]
    memory, kind = _peak_memory()
    flops = float(np.mean([programs.flops[i] for i in experiment.plan.shape_of[:done]])) if done else 0.0
    return _identity(experiment, done) | {
        "selected_step": selected,
        "split": "dev",
        "metrics": splits.get("dev", {}),
        "splits": splits,
        "best": {"step": host["best_step"], "metrics": host["best_metrics"]},
        "trainable_params": tree.count(trainable),
        "head_params": tree.count(params["head"]),
        "pooler_params": tree.count(params["encoder"]["pooler"]),
        "added_params": tree.count(params.get("adapters", {})),
        "total_params": tree.count(params),
        "train_seconds": seconds,
        "compile_seconds": host["compile_seconds"],
        "examples_per_second": host["examples"] / seconds if seconds else None,
        "tokens_per_second": host["tokens"] / seconds if seconds else None,
        "token_efficiency": experiment.plan.efficiency,
        "flops_per_step": flops,
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
