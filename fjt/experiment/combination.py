"""Several finished runs of one task as one: the mean of their weights (a soup) or of their predictions."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, Settings, TrainConfig
from fjt.core.ragged import same
from fjt.core.settings import from_record
from fjt.data.glue import Split
from fjt.experiment import predictor, run_records
from fjt.experiment.ensemble import Ensemble
from fjt.experiment.inputs import Inputs
from fjt.experiment.labelled import Labelled
from fjt.experiment.loaded_run import Run
from fjt.experiment.predictor import Predictor
from fjt.interop import hf
from fjt.tasks.kinds import lower_is_better


def check(runs: Sequence[Run]) -> None:
    """Nothing where runs can be combined.

    Raises:
        UserError: there are fewer than two, one is given twice or is an ensemble, or they are of different tasks or
            labels.
    """
    folders = [os.path.realpath(run.path) for run in runs]
    if len(set(folders)) < max(2, len(runs)):
        raise UserError(f"There are {len(set(folders))} different runs among {len(runs)}; give two or more, each once.")
    for run in runs:
        if isinstance(run, Ensemble):
            raise UserError(f"{run.path} is an ensemble. Give the runs that it combines in its place.")
    first = runs[0]
    for run in runs[1:]:
        if differs := first.task.difference(run.task):
            what, one, other = differs
            raise UserError(
                f"{run.path} and {first.path} have different {what}: {other} and {one}. Combine runs of one task."
            )


def check_rows(parts: Sequence[Labelled]) -> None:
    """Raises UserError unless all runs have the same dev rows: else dev would hold rows that others trained on."""
    for part in parts[1:]:
        if part.id != parts[0].id or not same(part.label, parts[0].label):
            raise UserError(
                "The runs have different dev rows, and one may have trained on those of another. Combine runs with the "
                "same config.data and seeds.subset."
            )


def ensemble(parts: Sequence[Labelled]) -> Labelled:
    """The rows with the mean of what several runs predict: of probabilities, or of scores.

    Args:
        parts: the same rows, predicted by each run.

    Raises:
        UserError: the kind has neither.
    """
    first = parts[0]
    problem = first.problem
    scores = problem.one_slot and not problem.several and first.label.dtype.kind == "f"
    if not scores and problem.classes(first.label, first.task) is None:
        raise UserError(f"--how=ensemble: {problem.name} has no probabilities of whole rows. Give --how=average.")
    return dataclasses.replace(first, scores=problem.mean_logits([part.scores for part in parts]))


def average(parts: Sequence[Predictor]) -> Predictor:
    """The Predictor with the mean of the weights of several.

    Raises:
        UserError: their models differ in shape, or in how they read texts.
    """
    shapes = [jax.tree.map(np.shape, part.params) for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("The runs have models of different shapes, whose weights have no mean. Give --how=ensemble.")
    if any(part.form != parts[0].form for part in parts):
        raise UserError(
            "The runs' models read texts in different ways (tokenizer, config.model.max_length, prompt) or differ in "
            "their options, so their weights cannot be averaged. Give --how=ensemble."
        )

    def mean(*leaves: Any) -> np.ndarray:
        return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.float32)

    return dataclasses.replace(parts[0], params=jax.tree.map(mean, *(part.params for part in parts)))


def soup(runs: Sequence[Run], greedy: bool, folder: str) -> tuple[Settings, list[int]]:
    """(the settings of a run without steps that evaluates and exports the soup, the numbers of the runs in it).

    A greedy soup takes the runs in the order of their scores on dev, and keeps each with which the mean scores no worse
    there (Wortsman et al. 2022, recipe 1).

    Args:
        runs: finished runs with whole models.
        greedy: whether runs are left out.
        folder: a new folder, for the model.

    Raises:
        UserError: a run has no whole model, or their models differ in more than their weights.
    """
    for run in runs:
        if not run.model_directory():
            raise UserError(f"{run.path} has no whole model, since its method cannot be merged. Give --how=ensemble.")
    parts = [predictor.read(run.model_directory(), run.task, run.config["model"]) for run in runs]
    settings = from_record(run_records.read_config(runs[0].path)["config"])
    chosen, made = list(range(len(runs))), average(parts)
    if greedy:
        chosen, made = _greedy(runs, parts, Inputs(settings).data[1]["dev"])
    task = dataclasses.replace(runs[0].task, metrics=tuple(runs[0].result["metrics"]))
    os.makedirs(os.path.dirname(folder))
    hf.export(folder, made.params, made.model.config, task, made.tokenizer, made.options["max_length"])
    return _evaluation(settings, folder), chosen


def _greedy(runs: Sequence[Run], parts: Sequence[Predictor], dev: Split) -> tuple[list[int], Predictor]:
    metric = runs[0].result["selection"]
    sign = -1 if lower_is_better(metric) else 1
    order = sorted(range(len(runs)), key=lambda i: -sign * runs[i].metrics[metric])
    chosen, made = order[:1], parts[order[0]]
    best = sign * _score(made, dev, runs[0], metric)
    for i in order[1:]:
        tried = average([parts[j] for j in (*chosen, i)])
        score = sign * _score(tried, dev, runs[0], metric)
        if score >= best:
            chosen, made, best = [*chosen, i], tried, score
    return chosen, made


def _score(own: Predictor, split: Split, run: Run, metric: str) -> float:
    """A metric of a split."""
    examples, logits = own.predict(split)
    rows = own.problem.by_row(logits, examples, split, run.task)
    return own.problem.score(rows, split.label, run.task, [metric])[metric]


def _evaluation(settings: Settings, model: str) -> Settings:
    """The settings of a run that evaluates a model on the data of another run, and trains nothing."""
    given, execution = settings.experiment, settings.execution
    data = dataclasses.replace(given.data, augment=(), augment_copies=None, synonyms="")
    experiment = ExperimentConfig(
        task=given.task,
        seed=given.seed,
        seeds=given.seeds,
        data=data,
        model=dataclasses.replace(
            given.model, path=model, revision="main", adapter="", keep_head=True, reinit_layers=0
        ),
        train=TrainConfig(steps=0, batch_size=given.train.batch_size),
        mask=given.mask,
        eval=dataclasses.replace(given.eval, every_epochs=0, every_steps=None),
    )
    output = dataclasses.replace(execution.output, export=True, checkpoints=False, curve=False)
    cache = dataclasses.replace(execution.cache, hidden=None)  # nothing is frozen
    return Settings(experiment, dataclasses.replace(execution, output=output, cache=cache))


def cost(runs: Sequence[Run]) -> dict[str, float]:
    """{what: seconds or number}: the training of runs together, and their parameters."""
    return {
        "train_seconds": sum(run.result["train_seconds"] for run in runs),
        "total_params": max(run.result["total_params"] for run in runs),
    }
