"""Several models of one task as one: the mean of their weights (a soup) or of their predictions."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, MeshConfig, Settings, TrainConfig
from fjt.core.ragged import same
from fjt.core.settings import from_record
from fjt.data.glue import Split
from fjt.experiment import labelled, predictor, run_records
from fjt.experiment.ensemble import Ensemble
from fjt.experiment.inputs import Inputs
from fjt.experiment.labelled import Labelled
from fjt.experiment.loaded_run import Run
from fjt.experiment.predictor import Predictor
from fjt.experiment.prepared import draw
from fjt.interop import hf
from fjt.tasks.kinds import lower_is_better


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several models that are combined.

    Attributes:
        name: the name of its run's folder, or its step.
        rows: the rows of dev as it predicts them.
        read: returns its Predictor.  Raises UserError where it is not a whole model.
    """

    name: str
    rows: Labelled
    read: Callable[[], Predictor]


def check(runs: Sequence[Run]) -> None:
    """Nothing where runs can be combined.

    Raises:
        UserError: there are fewer than two, one is given twice or is an ensemble, or they are of different tasks or
            labels.
    """
    folders = [os.path.realpath(run.path) for run in runs]
    if len(set(folders)) < max(2, len(runs)):
        raise UserError(
            f"There are {len(set(folders))} different runs among {len(runs)}; give two or more, each once. "
            "(--checkpoints combines those of one run.)"
        )
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


def of_runs(runs: Sequence[Run]) -> list[Part]:
    """The Part of each run, from its stored predictions.

    Args:
        runs: of one task.

    Raises:
        UserError: their dev rows differ.
    """
    parts = [
        Part(os.path.basename(os.path.normpath(run.path)), labelled.stored(run, "dev"), functools.partial(_read, run))
        for run in runs
    ]
    check_rows([part.rows for part in parts])
    return parts


def _read(run: Run) -> Predictor:
    if not run.model_directory():
        raise UserError(f"{run.path} has no whole model, since its method cannot be merged. Give --how=ensemble.")
    return predictor.read(run.model_directory(), run.task, run.config["model"])


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


def average(models: Sequence[Predictor]) -> Predictor:
    """The Predictor with the mean of the weights of several.

    Raises:
        UserError: their models differ in shape, or in how they read texts.
    """
    shapes = [jax.tree.map(np.shape, model.params) for model in models]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("The runs have models of different shapes, whose weights have no mean. Give --how=ensemble.")
    if any(model.form != models[0].form for model in models):
        raise UserError(
            "The runs' models read texts in different ways (tokenizer, config.model.max_length, prompt) or differ in "
            "their options, so their weights cannot be averaged. Give --how=ensemble."
        )

    def mean(*leaves: Any) -> np.ndarray:
        return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.float32)

    return dataclasses.replace(models[0], params=jax.tree.map(mean, *(model.params for model in models)))


def soup(run: Run, parts: Sequence[Part], greedy: bool, folder: str) -> tuple[Settings, list[int]]:
    """(the settings of a run without steps that evaluates and exports the soup, the numbers of the parts in it).

    A greedy soup takes the parts in the order of their scores on dev, and keeps each with which the mean scores no
    worse there (Wortsman et al. 2022, recipe 1).

    Args:
        run: the first of the runs, or the one whose checkpoints are the parts.
        parts: the models.
        greedy: whether parts are left out.
        folder: a new folder, for the model.

    Raises:
        UserError: a part has no whole model, or the models differ in more than their weights.
    """
    models = [part.read() for part in parts]
    chosen, made = list(range(len(parts))), average(models)
    settings, metric = settings_of(run), run.result["selection"]
    if greedy:
        dev = Dev(run, settings, Inputs(settings).data[1]["dev"])
        ranks = [rank(part.rows, metric) for part in parts]
        chosen, made = _greedy(models, ranks, lambda own: rank(dev.predicted(own), metric))
    task = dataclasses.replace(run.task, metrics=tuple(run.result["metrics"]))
    os.makedirs(os.path.dirname(folder))
    hf.export(folder, made.params, made.model.config, task, made.tokenizer, made.options["max_length"])
    return _evaluation(settings, folder), chosen


def _greedy(
    models: Sequence[Predictor], ranks: Sequence[float], judge: Callable[[Predictor], float]
) -> tuple[list[int], Predictor]:
    """(the numbers of the models in a greedy soup, in the order in which they were taken, the soup).

    Args:
        models: the parts.
        ranks: of their rows of dev, see `rank`.
        judge: returns the rank of a model.
    """
    order = sorted(range(len(models)), key=lambda i: -ranks[i])
    chosen, made = order[:1], models[order[0]]
    best = judge(made)
    for i in order[1:]:
        tried = average([models[j] for j in (*chosen, i)])
        found = judge(tried)
        if found >= best:
            chosen, made, best = [*chosen, i], tried, found
    return chosen, made


@dataclasses.dataclass(frozen=True)
class Dev:
    """The dev split of a run, for other models to predict.

    Attributes:
        run: the run.
        settings: its settings, without open values.
        split: the split.
    """

    run: Run
    settings: Settings
    split: Split

    def predicted(self, own: Predictor) -> Labelled:
        """The Labelled rows, as a model predicts and decodes them."""
        problem, options = own.problem, self.settings.experiment
        texts = problem.targets(self.split, own.read(self.split), self.run.task)
        examples = draw(options, problem, "dev", texts, own.tokenizer)
        rows = problem.by_row(own.logits(examples), examples, self.split, self.run.task)
        label = problem.label_rows(self.split, examples).label
        task = problem.chosen(self._stored.task, options.eval, rows, label)
        scores = rows[np.flatnonzero(problem.is_labelled(label))]
        return dataclasses.replace(self._stored, task=task, scores=scores)

    @functools.cached_property
    def _stored(self) -> Labelled:
        return labelled.stored(self.run, "dev")


def score(rows: Labelled, metric: str) -> float:
    """The value of a metric of Labelled rows."""
    task = dataclasses.replace(rows.task, metrics=(metric,))
    return rows.problem.score(rows.scores, rows.label, task)[metric]


def collapsed(rows: Labelled) -> bool:
    """Whether (nearly) all Labelled rows are predicted alike, where their labels are not."""
    return rows.problem.collapsed(rows.decoded().values, rows.label)


def rank(rows: Labelled, metric: str) -> float:
    """A number that is higher for better Labelled rows.

    It is minus infinity where they have collapsed, as no such step of a run is ever better than another.
    """
    value = score(rows, metric)
    return -math.inf if collapsed(rows) else -value if lower_is_better(metric) else value


def settings_of(run: Run) -> Settings:
    """The settings of a run, without open values."""
    return from_record(run_records.read_config(run.path)["config"])


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
    return Settings(experiment, dataclasses.replace(execution, output=output, cache=cache, mesh=MeshConfig()))


def cost(runs: Sequence[Run]) -> dict[str, float]:
    """{what: seconds or number}: the training of runs together, and their parameters."""
    return {
        "train_seconds": sum(run.result["train_seconds"] for run in runs),
        "total_params": max(run.result["total_params"] for run in runs),
    }
