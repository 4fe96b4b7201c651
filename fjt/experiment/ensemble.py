"""Several finished runs of one task as one, whose prediction is the mean of theirs.

Runs with models of one shape are predicted in one pass: texts are tokenized and packed once, and one program computes
the logits of all models for each batch.  What the models have in common, such as a frozen encoder, it computes once.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fjt.core import records, tree
from fjt.core.errors import UserError
from fjt.core.ragged import flat
from fjt.core.records import ANY, Form
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.experiment import loaded_run
from fjt.experiment.labelled import Labelled
from fjt.experiment.loaded_run import Run
from fjt.experiment.predictor import Predictor
from fjt.experiment.run_records import ENSEMBLE
from fjt.models.encoder import Model
from fjt.training import lanes, placement
from fjt.training.step import Reduce
from fjt.tuning import partition

FORM: Form = {"parts": list, "metrics": {ANY: (int, float)}}


@dataclasses.dataclass(frozen=True)
class Members:
    """The models of an ensemble.

    Attributes:
        parts: a Predictor of each model.
        task: what they predict.
    """

    parts: tuple[Predictor, ...]
    task: Task

    def predict(self, split: Split) -> tuple[Examples, Float[np.ndarray, "N C"]]:
        """(the Examples of new texts, the logits of the mean prediction)."""
        first = self.parts[0]
        if self.together:
            examples = first.tokenize(split)
            program = _program(first.model, first.problem.reduce, placement.make_mesh(0))
            logits = first.evaluate(lambda params, batch: program(*params, batch), self._placed, examples)
            scores = np.moveaxis(logits, 1, 0)
        else:
            found = [part.predict(split) for part in self.parts]
            examples, scores = found[0][0], np.stack([logits for _, logits in found])
        return examples, first.problem.mean_logits(list(scores)).astype(np.float32)

    @functools.cached_property
    def together(self) -> bool:
        """Whether one program serves all models: they have one shape, and read texts alike."""
        return all(part.form == self.parts[0].form for part in self.parts[1:])

    @functools.cached_property
    def _placed(self) -> tuple[tree.Tree, tree.Tree, tree.Tree]:
        """(parameters that all models share, the others with an axis J, the values of the methods likewise)."""
        models = [tree.flatten(part.params) for part in self.parts]
        own = {
            name
            for name, leaf in models[0].items()
            if name.startswith("head/") or not all(np.array_equal(model[name], leaf) for model in models[1:])
        }
        apart = [tree.split(part.params, own) for part in self.parts]
        values = lanes.stack([partition.traced_values(part.methods) for part in self.parts])
        whole = apart[0][1], lanes.stack([one for one, _ in apart]), values
        return placement.put_whole(whole, placement.make_mesh(0))


@functools.lru_cache(maxsize=4)  # the ensembles of one process: their programs are compiled once
def _program(model: Model, reduce: Reduce, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    function = functools.partial(lanes.models_eval, model=model, reduce=reduce)
    return jax.jit(function, out_shardings=placement.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Ensemble(Run):
    """Several finished runs as one, which is read like a run and decodes as the first of them does.

    Attributes:
        parts: the runs.
    """

    parts: tuple[Run, ...] = ()

    @functools.cached_property
    def records(self) -> dict[str, list[dict[str, Any]]]:
        """Those of a run without steps."""
        return {"train": [], "eval": []}

    def export(self, path: str | os.PathLike[str], format: str = "hf", task: str = "") -> None:
        """Raises UserError: several models are not one."""
        raise UserError(
            f"{self.path} is an ensemble of {len(self.parts)} models, which is not one model to export. Export one of "
            "its runs, or combine their weights: python -m fjt.combine --how=average."
        )

    def check_export(self) -> None:
        for run in self.parts:
            run.check_export()

    def _predict(self, split: Split) -> tuple[Examples, Float[np.ndarray, "N C"]]:
        return self._members.predict(split)

    @functools.cached_property
    def _members(self) -> Members:
        return Members(tuple(run._predictor for run in self.parts), self.task)


def write(folder: str, runs: Sequence[Run], rows: Labelled) -> None:
    """Writes what `read` reads: the places of the runs, and what they predict together of dev.

    Args:
        folder: a folder; it finds the runs as long as their places seen from it stay the same.
        runs: of one task.
        rows: dev, with the scores of the ensemble.
    """
    start = os.path.realpath(folder)
    parts = [os.path.relpath(os.path.realpath(run.path), start) for run in runs]
    names = [name for name in runs[0].result["metrics"] if name in rows.problem.metrics]
    metrics = rows.problem.score(rows.scores, rows.label, rows.task, names)
    arrays = {"id": np.array(rows.id), **flat("logits", rows.scores), **flat("label", rows.label)}
    arrays |= {"label_names": np.array(rows.task.label_names, str)}
    arrays |= {} if rows.cluster is None else {"cluster": rows.cluster}
    os.makedirs(os.path.join(folder, "predictions"))
    records.write_npz(os.path.join(folder, "predictions", "dev.npz"), arrays)
    records.write_json(os.path.join(folder, ENSEMBLE), {"parts": parts, "metrics": metrics})


def read(folder: str, base: str | os.PathLike[str] = "") -> Ensemble:
    """The Ensemble of a folder.

    Args:
        folder: as `write` wrote it.
        base: see `finished.load_run`; of all runs.

    Raises:
        UserError: a run is not where it was, or cannot be read.
    """
    remedy = "Combine the runs again: python -m fjt.combine --how=ensemble."
    found = records.read_json(os.path.join(folder, ENSEMBLE), FORM, remedy)
    runs = []
    for part in found["parts"]:
        try:
            runs.append(loaded_run.read(os.path.normpath(os.path.join(folder, part)), base))
        except UserError as error:
            raise UserError(f"{error} It is a part of the ensemble in {folder}. {remedy}") from None
    first, hashes = runs[0], "".join(run.result["params_sha256"] for run in runs)
    result = {
        "task": first.result["task"],
        "model": first.result["model"],
        "method": list(dict.fromkeys(method for run in runs for method in run.result["method"])),
        "seed": None,
        "selected_step": None,
        "metrics": found["metrics"],
        "models": len(runs),  # of runs alone, a result does not say
        "params_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    return Ensemble(
        folder,
        result,
        first.config,
        first.task,
        first.pairs,
        first.singles,
        base=first.base,
        contents=first.contents,
        parts=tuple(runs),
    )
