"""Distillation (Hinton et al. 2015): what teachers predict of the rows that a run trains on, for its loss."""

import dataclasses
import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.ragged import Ragged, values_of
from fjt.data.batches import Examples
from fjt.experiment import finished, labelled
from fjt.experiment.prepared import Experiment
from fjt.experiment.teachers import Teachers
from fjt.training import processes

FILE = "teacher.npz"  # in a work directory: what the teachers predicted when the run began


def taught(experiment: Experiment, workdir: str = "") -> Experiment:
    """The run with the predictions of its teachers, if it has any.  See `with_predictions` for the work directory."""
    if experiment.teachers is None:
        return experiment
    width = 0 if experiment.hyper.hidden_weight is None else experiment.model.config.width
    teachers = with_predictions(experiment.teachers, experiment.trained, width, workdir)
    return dataclasses.replace(experiment, teachers=teachers)


def with_predictions(teachers: Teachers, examples: Examples, width: int, workdir: str) -> Teachers:
    """The Teachers with their predictions.

    They are computed when a run begins and kept in its work directory, so that it goes on with the same bits.

    Args:
        teachers: without predictions.
        examples: that the run trains on.
        width: of the vectors that are compared, 0 for none.
        workdir: of the run; "" for none.

    Raises:
        UserError: a teacher's model is missing or damaged, or its rows have other words than those of the run.
    """
    path, names = os.path.join(workdir, FILE), ("teacher", "teacher_vectors")[: 2 if width else 1]
    known = processes.decide(lambda: bool(workdir) and os.path.exists(path) and bool(_read(path, names, examples)))
    if known:
        kept = _read(path, names, examples)
    else:
        rows, seconds = _predict(teachers, width)
        values = [_of_slots(one, examples) for one in rows]
        values[1:] = [_reduce(one, width) for one in values[1:]]
        kept = dict(zip(names, values, strict=True)), seconds
        if workdir:
            arrays = kept[0] | {"seconds": np.float64(seconds)}
            processes.decide(lambda: records.write_npz(path, arrays))
    return dataclasses.replace(teachers, predicted=kept[0], seconds=kept[1])


@functools.lru_cache(maxsize=1)  # runs of a study share their teachers
def _predict(teachers: Teachers, width: int) -> tuple[list[Any], float]:
    """([logits of the rows of train, and their vectors if a width is given], the seconds that they took).

    The logits are those of the mean prediction of several runs.  Rows have an array each where they have several slots.

    Raises:
        UserError: the vectors have fewer dimensions than `width`.
    """
    teachers.view.say(f"predicting {len(teachers.train):,} training rows with {len(teachers.runs)} runs to learn from")
    start, parts, found = time.perf_counter(), [], []
    for path in teachers.runs:
        run = finished.load_run(path)
        if width and run.width < width:
            raise UserError(
                f"config.distill.hidden: the vectors of {path} have {run.width} dimensions, those of this run {width}. "
                "Learn from a run as wide or wider, or leave the option out."
            )
        parts.append(labelled.predict(run, teachers.train, teachers.view))
        found = [run.vectors(teachers.train)] if width else []
    first, mean = parts[0], values_of(parts[0])
    if len(parts) > 1:
        mean = run.problem.mean_logits([values_of(part) for part in parts])
    rows = Ragged(mean, first.offsets) if isinstance(first, Ragged) else mean
    return [rows, *found], time.perf_counter() - start


def _of_slots(rows: Any, examples: Examples) -> Float[np.ndarray, "M K"]:
    """The values of the run's slots, by those of the rows.  Raises UserError where rows have other slots."""
    lengths = rows.lengths if isinstance(rows, Ragged) else np.ones(len(rows), np.int64)
    if not np.array_equal(lengths, np.diff(examples.row_slots)):
        raise UserError(
            "config.distill.runs: the teachers label other places of the texts than this run trains on. Leave out "
            "config.data.all_pieces."
        )
    return np.asarray(values_of(rows), np.float32)


def _reduce(vectors: Float[np.ndarray, "M W"], width: int) -> Float[np.ndarray, "M D"]:
    """The vectors in `width` dimensions: their coordinates along the principal axes around 0, the largest first.

    Among all projections, this one keeps most of the vectors' lengths (Eckart & Young 1936).
    """
    if vectors.shape[1] == width:
        return vectors
    wide = vectors.astype(np.float64)
    axes = np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :width]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])  # an axis has no direction
    return (wide @ axes).astype(np.float32)


def _read(path: str, names: Sequence[str], examples: Examples) -> tuple[dict[str, Float[np.ndarray, "M K"]], float]:
    """({name: values}, seconds) of a file that a run has written.  Raises Damaged."""
    remedy = "Remove it: it is computed again."
    with records.reading(path, remedy):
        arrays = records.read_npz(path, (*names, "seconds"), remedy)
        values = {name: arrays[name] for name in names}
        for array in values.values():
            if array.ndim != 2 or len(array) != len(examples.label) or array.dtype != np.float32:
                raise ValueError("its arrays do not have one row per slot")
        return values, float(arrays["seconds"])
