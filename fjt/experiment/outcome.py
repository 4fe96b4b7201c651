"""What a run leaves: its logs as it goes, and at the end predictions, an export and its result."""

import collections
import contextlib
import os
import resource

import jax

from fjt.core import records, tree
from fjt.data import glue
from fjt.experiment import outputs, recipes
from fjt.interop import card, exports
from fjt.models.families import find_family
from fjt.tuning import partition

CURVE_SECONDS = 5  # of training between two drawings of the curve, which takes as long as a hundred steps of a head


@contextlib.contextmanager
def logs(experiment, workdir, step, host, view):
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


def score_dev(experiment, logits):
    """{metric: value} of dev, its loss among them."""
    label, problem = experiment.examples["dev"].label, experiment.problem
    scores = problem.score(logits, label, experiment.task)
    return scores | {"loss": problem.dev_loss(logits, label)} if scores else scores


def finish(experiment, workdir, host, selected, trainable, frozen, logits_of, done):
    """Predictions, export and the result of the selected step."""
    task, wanted = experiment.task, experiment.settings.execution.output
    splits, dev = {}, {}
    for name in recipes.evaluated_splits(experiment.settings.experiment, experiment.splits):
        logits = logits_of(name)
        folder = os.path.join(workdir, "predictions")
        outputs.write_predictions(folder, name, task, experiment.splits[name], logits)
        if wanted.tables:
            outputs.write_tables(folder, name, task, experiment.splits[name], logits)
        label = experiment.examples[name].label
        scores = experiment.problem.score(logits, label, task, glue.SPLIT_METRICS.get(name))
        if scores:
            splits[name] = scores
        if name == "dev" and wanted.export:  # where its card has them
            dev = {
                metric: (value, *card.interval(experiment.problem, task, metric, logits, label))
                for metric, value in scores.items()
            }
    params = tree.merge(jax.device_get(trainable), jax.device_get(frozen))
    if wanted.export:
        exports.write(experiment, os.path.join(workdir, "export"), params, dev)
    family = find_family(experiment.model.config.family)
    head = {"head": params["head"]}
    new_head, pooler = tree.split(head, {name for name in tree.flatten(head) if family.is_new(name)})
    seconds = host["train_seconds"]
    memory, kind = _peak_memory()
    methods = partition.find_methods(experiment.settings.experiment.tune)
    return identity(experiment, done) | {
        "selected_step": selected,
        "split": "dev",
        "metrics": splits.get("dev", {}),
        "splits": splits,
        "best": {"step": host["best_step"], "metrics": host["best_metrics"]},
        "trainable_params": partition.count(methods, trainable),
        "head_params": tree.count(new_head),
        "pooler_params": tree.count(pooler),
        "added_params": partition.count(methods, {"adapters": trainable.get("adapters", {})}),
        "total_params": partition.count(methods, partition.lasting(params)),
        "train_seconds": seconds,
        "compile_seconds": host["compile_seconds"],
        "hidden_seconds": host["hidden_seconds"],
        "start_layer": experiment.stages[-1].model.start,
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


def fail(experiment, workdir, error):
    """Writes the result of a run that ended with numbers that are not finite.  error: says where."""
    taken = len(records.read_lines(os.path.join(workdir, "train.jsonl")))
    failed = identity(experiment, taken) | {"failed": str(error)}
    records.write_json(os.path.join(workdir, "result.json"), failed)


def identity(experiment, done):
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
