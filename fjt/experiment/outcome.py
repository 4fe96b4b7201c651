"""The end of a run: its predictions, its export, its result.json, and DONE; or the result of a run that failed."""

import dataclasses
import functools
import os
import resource
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fjt.core import records, tree
from fjt.data import glue
from fjt.experiment import outputs, readback, recipes, run_records
from fjt.experiment.prepared import Experiment
from fjt.interop import card, exports
from fjt.models.families import find_family
from fjt.tasks.problem import Scores
from fjt.training import checkpoint, placement, processes
from fjt.training.checkpoint import HostState, NotFinite
from fjt.training.protocols import Events
from fjt.tuning import partition


def write_failure(experiment: Experiment, workdir: str, error: NotFinite) -> None:
    """Writes the result.json of a run whose numbers are not finite."""
    taken = len(run_records.read_steps(workdir))
    records.write_json(os.path.join(workdir, "result.json"), identity(experiment, taken) | {"failed": str(error)})


def score_dev(experiment: Experiment, logits: Float[np.ndarray, "M C"]) -> dict[str, float] | NotFinite:
    """{metric: value} of dev, with its loss, and 1.0 as `collapsed` for predictions that are (nearly) one value.

    {} if dev has no labels; NotFinite for logits that are not finite.
    """
    if error := not_finite("dev", logits):
        return error
    split, problem, task = experiment.splits["dev"], experiment.problem, experiment.task
    examples = experiment.examples["dev"]
    rows = problem.by_row(logits, examples, split, task)
    scores = problem.score(rows, split.label, task)
    if not scores:
        return scores
    return scores | {
        "loss": problem.dev_loss(logits, examples, task),
        "collapsed": float(_collapsed(experiment, rows)),
    }


def _collapsed(experiment: Experiment, logits: Scores) -> bool:
    """Whether (nearly) all predictions for the labelled rows of dev are one value."""
    label, problem = experiment.splits["dev"].label, experiment.problem
    rows = problem.is_labelled(label)
    return bool(rows.any()) and problem.collapsed(problem.decode(logits[rows], experiment.task).values, label[rows])


def not_finite(split: str, logits: Float[np.ndarray, "M C"]) -> NotFinite | None:
    """The NotFinite of a split, or None where all logits are finite: no metric of others means anything."""
    wrong = int((~np.isfinite(logits).all(axis=1)).sum())
    return NotFinite(f"{wrong:,} of the {len(logits):,} predictions of {split} are not finite") if wrong else None


def _check_finite(experiment: Experiment, workdir: str, logits: dict[str, Float[np.ndarray, "M C"]]) -> None:
    """Raises NotFinite, after result.json is written, where a logit is not finite."""
    for name, values in logits.items():
        if error := not_finite(name, values):
            processes.decide(functools.partial(write_failure, experiment, workdir, error))
            raise error


def finish(
    experiment: Experiment,
    workdir: str,
    *,
    host: HostState,
    done: int,
    selected: int,
    trainable: tree.Tree,
    frozen: tree.Tree,
    logits: dict[str, Float[np.ndarray, "M C"]],
    events: Events,
    evaluate: readback.Evaluate | None = None,
) -> dict[str, Any]:
    """The result of a run, after its predictions and its export are written.

    Args:
        experiment: the run.
        workdir: its work directory.
        host: its host state at the end.
        done: number of steps taken.
        selected: the step that predictions, metrics and export belong to.
        trainable: the trainable parameters of the selected step.
        frozen: the other parameters.
        logits: {split: logits of the selected step}, in the order in which the splits are listed.
        events: called before the export.
        evaluate: computes logits of dev from the parameters of an export, see `readback.check`.

    Raises:
        UserError: the export, read back, does not give the run's logits.
        NotFinite: a logit is not finite; result.json says so.
    """
    _check_finite(experiment, workdir, logits)
    experiment, rows = _by_row(experiment, logits)
    trainable, frozen = placement.fetch((trainable, frozen))
    params = tree.merge(trainable, frozen)
    splits = processes.decide(
        lambda: {name: _write_split(experiment, workdir, name, values) for name, values in rows.items()}
    )
    splits = {name: scores for name, scores in splits.items() if scores}
    events.export_begins()
    if experiment.settings.execution.output.export:
        folder = os.path.join(workdir, "export")
        scored = _with_intervals(experiment, splits.get("dev", {}), rows["dev"])
        processes.decide(lambda: exports.write(experiment, folder, params, scored))
        readback.check(experiment, folder, params, logits["dev"], evaluate)
    return (
        identity(experiment, done)
        | {
            "selected_step": selected,
            "split": "dev",
            "selection": experiment.task.selects_by,
            "collapsed": _collapsed(experiment, rows["dev"]),
            "metrics": splits.get("dev", {}),
            "splits": splits,
            "per_class": _per_class(experiment, rows["dev"]),
            "best": {"step": host.best_step, "metric": experiment.choice, "metrics": host.best_metrics},
        }
        | _counts(experiment, params, trainable)
        | _measured(experiment, host, done)
        | _taught(experiment)
        | {"params_sha256": tree.sha256(trainable), "frozen_sha256": tree.sha256(frozen)}
        | {"export_sha256": run_records.export_sha256(workdir), "failed": None}
    )


def _by_row(
    experiment: Experiment, logits: dict[str, Float[np.ndarray, "M C"]]
) -> tuple[Experiment, dict[str, Scores]]:
    """(the run with the way to decode that fits dev best, {split: the scores of its rows})."""
    task, problem, splits = experiment.task, experiment.problem, experiment.splits
    rows = {
        name: problem.by_row(values, experiment.examples[name], splits[name], task) for name, values in logits.items()
    }
    task = problem.chosen(task, experiment.settings.experiment.eval, rows["dev"], splits["dev"].label)
    return dataclasses.replace(experiment, task=task), rows


def _with_intervals(experiment: Experiment, scores: dict[str, float], logits: Scores) -> card.Scored:
    """{metric: (value, low, high, number of rows)} of dev, for the card of an export."""
    label, problem = experiment.splits["dev"].label, experiment.problem
    return {
        metric: (
            value,
            *card.interval(problem, experiment.task, metric, logits, label),
            int(np.count_nonzero(problem.scored(metric, label) & problem.is_labelled(label))),
        )
        for metric, value in scores.items()
    }


def _write_split(experiment: Experiment, workdir: str, name: str, logits: Scores) -> dict[str, float]:
    """{metric: value} of a split, after its predictions are written."""
    task, split, folder = experiment.task, experiment.splits[name], os.path.join(workdir, "predictions")
    outputs.write_predictions(folder, name, task, split, logits)
    if experiment.settings.execution.output.tables:
        outputs.write_tables(folder, name, experiment.problem.name_labels(task, experiment.tokenizer), split, logits)
    return experiment.problem.score(logits, split.label, task, glue.SPLIT_METRICS.get(name))


def _per_class(experiment: Experiment, logits: Scores) -> list[dict[str, Any]]:
    """The scores of each class over the labelled rows of dev, as `Problem.per_class` has them."""
    task, problem, label = experiment.task, experiment.problem, experiment.splits["dev"].label
    labelled = problem.is_labelled(label)
    if not labelled.any():
        return []
    return problem.per_class(problem.decode(logits[labelled], task).values, label[labelled], task)


def _counts(experiment: Experiment, params: tree.Tree, trainable: tree.Tree) -> dict[str, int]:
    """The part of a result that counts parameters: of all parameters and of the trainable ones among them."""
    methods = partition.find_methods(experiment.settings.experiment.tune)
    family = find_family(experiment.model.config.family)
    head = {"head": params["head"]}
    new_head, pooler = tree.split(head, {name for name in tree.flatten(head) if family.is_new(name)})
    return {
        "trainable_params": partition.count(methods, trainable),
        "head_params": tree.count(new_head),
        "pooler_params": tree.count(pooler),
        "added_params": partition.count(methods, {"adapters": trainable.get("adapters", {})}),
        "total_params": partition.count(methods, partition.lasting(params)),
    }


def _taught(experiment: Experiment) -> dict[str, Any]:
    """The part of a result that compares the run with those that it learned from; {} without any."""
    teachers = experiment.teachers
    return {"teachers": teachers.describe(), "teacher_seconds": teachers.seconds} if teachers else {}


def _measured(experiment: Experiment, host: HostState, done: int) -> dict[str, Any]:
    """The part of a result that says how long the run took and how much it computed."""
    seconds = host.train_seconds
    memory, kind = _peak_memory()
    return {
        "train_seconds": seconds,
        "compile_seconds": host.compile_seconds,
        "hidden_seconds": host.hidden_seconds,
        "start_layer": experiment.stages[-1].model.start,
        "examples_per_second": host.examples / seconds if seconds else None,
        "tokens_per_second": host.tokens / seconds if seconds else None,
        "token_efficiency": experiment.plan.efficiency,
        "flops_per_step": host.operations / done if done else 0.0,
        "peak_memory_bytes": memory,
        "memory_kind": kind,
    }


def end(workdir: str, result: dict[str, Any], *, keep_checkpoints: bool = True) -> None:
    """Writes result.json and DONE, and then removes the checkpoints.

    A run that is killed after DONE is complete; `clean_up` removes the checkpoints that are left.

    Args:
        workdir: of the run.
        result: see `finish`.
        keep_checkpoints: whether its checkpoints are kept.
    """
    processes.decide(lambda: _end(workdir, result, keep_checkpoints))


def _end(workdir: str, result: dict[str, Any], keep_checkpoints: bool) -> None:
    records.write_json(os.path.join(workdir, "result.json"), result)
    records.replace(os.path.join(workdir, "DONE"), "")
    if not keep_checkpoints:
        checkpoint.remove(os.path.join(workdir, "checkpoints"))


def clean_up(workdir: str) -> None:
    """Removes the checkpoints of a run that has ended, where its config does not keep them."""
    folder = os.path.join(workdir, "checkpoints")
    if not os.path.isdir(folder):
        return
    if not run_records.read_config(workdir, ["output.checkpoints"])["config"]["output"]["checkpoints"]:
        checkpoint.remove(folder)


def identity(experiment: Experiment, done: int) -> dict[str, Any]:
    """The part of a result that is known before anything is measured.

    Args:
        experiment: the run.
        done: number of steps taken.
    """
    options = experiment.settings.experiment
    return {
        "task": experiment.task.name,
        "model": options.model.path or "scratch",
        "method": list(options.tune.method),
        "seed": options.seed,
        "steps": done,
        "planned_steps": experiment.steps,
        "epochs": done / experiment.schedule.steps_per_epoch,
        "train_examples": len(experiment.splits["train"]),
        "dropped_examples": dict(experiment.splits["train"].dropped),
        **({"synthetic_examples": experiment.synthetic} if options.train.smote else {}),
        "data_sha256": experiment.contents["data"],
        "constant": _constant_scores(experiment),
        "versions": records.versions(),
    }


def _constant_scores(experiment: Experiment) -> dict[str, dict[str, float]]:
    """{split: {metric: value}} of the best prediction that ignores the text, which a run that diverges counts as."""
    task, problem, scores = experiment.task, experiment.problem, {}
    for name in recipes.evaluated_splits(experiment.settings.experiment, experiment.splits):
        label = experiment.splits[name].label
        label = label[problem.is_labelled(label)]
        if len(label):
            scores[name] = problem.compare(problem.constant(label), label, task, glue.SPLIT_METRICS.get(name))
    return scores


def _peak_memory() -> tuple[int, str]:
    """(peak bytes, whose: a device's, or the process's where the device does not say)."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "host resident set"
