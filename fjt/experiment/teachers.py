"""The finished runs that a run learns from, its teachers, and which runs cannot be."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core import console, files
from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig
from fjt.core.ragged import same
from fjt.data.glue import Split, Task
from fjt.experiment import run_records
from fjt.tasks.kinds import task_of_record


@dataclasses.dataclass(frozen=True, eq=False)
class Teachers:
    """The runs that a run learns from.

    Attributes:
        runs: {work directory: its result.json} of finished runs of the same task.
        train: the rows that they predict.
        view: where progress is shown.
        predicted: {name in a batch: values of the run's own slots}, once `distillation.taught` has them; None before.
        seconds: that the predictions took.
    """

    runs: dict[str, dict[str, Any]]
    train: Split = dataclasses.field(repr=False)
    view: console.View = console
    predicted: dict[str, Float[np.ndarray, "M K"]] | None = dataclasses.field(default=None, repr=False)
    seconds: float = 0.0

    @property
    def sha256(self) -> str:
        """sha256 of all that their predictions depend on: settings, data and weights of each, in order."""
        prints = [
            (run_records.read_config(path)["fingerprint"], result["params_sha256"])
            for path, result in self.runs.items()
        ]
        return hashlib.sha256(json.dumps(prints).encode()).hexdigest()

    def describe(self) -> list[dict[str, Any]]:
        """The part of a result that compares the run with its teachers: their scores on dev and their cost."""
        shared = ("model", "method", "metrics", "total_params", "train_seconds")
        return [{"run": path} | {name: result.get(name) for name in shared} for path, result in self.runs.items()]


def find(
    experiment: ExperimentConfig, task: Task, splits: Mapping[str, Split], view: console.View = console
) -> Teachers | None:
    """The Teachers of config.distill.runs, None where it names none.

    Args:
        experiment: the options of the run.
        task: what it predicts.
        splits: its rows.
        view: where the progress of their predictions is shown.

    Raises:
        UserError: one is not a finished run of the task, or may have trained on the rows of dev.
    """
    given = experiment.distill.runs
    if not given:
        return None
    for key, value in (
        ("data.shuffle_labels", experiment.data.shuffle_labels),
        ("train.smote", experiment.train.smote),
    ):
        if value:
            raise UserError(
                f"config.{key}={value} changes training rows in a way that config.distill.runs cannot follow. Leave "
                "one of them out."
            )
    paths = [files.local_path(path, "config.distill.runs") for path in given]
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise UserError(f"config.distill.runs={given} names a run twice. Give each once.")
    if experiment.data.all_pieces:
        raise UserError("config.distill.runs: runs predict one label per word. Leave out config.data.all_pieces.")
    for path in paths:
        if os.path.exists(os.path.join(path, run_records.ENSEMBLE)):
            raise UserError(f"config.distill.runs: {path} is an ensemble. Give the runs that it combines.")
    runs = {path: run_records.read_finished(path) for path in paths}
    for path, result in runs.items():
        _check(path, result, task, splits["dev"])
        if not result.get("export_sha256", True):
            raise UserError(
                f"config.distill.runs: {path} has left no model, which config.output.export=True writes. "
                f"`python -m fjt.reproduce {path} --workdir DIR` makes it anew, in DIR."
            )
    return Teachers(runs, splits["train"], view)


def _check(path: str, result: Mapping[str, Any], task: Task, dev: Split) -> None:
    """Raises UserError for a run of another task, or of other rows of dev."""
    place, stored = f"config.distill.runs: {path}", run_records.read_predictions(path, "dev")
    its = task_of_record(stored, result["task"])
    if differs := task.difference(its):
        what, one, other = differs
        raise UserError(f"{place} differs in its {what}: {other}, not {one}. Give runs of the same task.")
    if dev.id != tuple(map(str, stored["id"])) or not same(dev.label, stored["label"]):
        raise UserError(
            f"{place} has other rows in dev: it may have trained on those by which this run is scored. Give runs with "
            "the same config.data.files.dev, config.data.holdout, config.data.fold and seeds.subset."
        )
