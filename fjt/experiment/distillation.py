"""Distillation (Hinton et al. 2015): what teachers predict of the rows that a run trains on, for its loss."""

import dataclasses
import functools
import os
import time
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
    """The run with the predictions of its teachers, if it has any.  See `with_logits` for the work directory."""
    if experiment.teachers is None:
        return experiment
    return dataclasses.replace(experiment, teachers=with_logits(experiment.teachers, experiment.trained, workdir))


def with_logits(teachers: Teachers, examples: Examples, workdir: str) -> Teachers:
    """The Teachers with their predictions.

    They are computed when a run begins and kept in its work directory, so that it goes on with the same bits.

    Args:
        teachers: without predictions.
        examples: that the run trains on.
        workdir: its work directory; "" for none.

    Raises:
        UserError: a teacher's model is missing or damaged, or its rows have other words than those of the run.
    """
    path = os.path.join(workdir, FILE)
    kept = processes.decide(lambda: _read(path, examples) if workdir and os.path.exists(path) else None)
    if kept is None:
        rows, seconds = _predict(teachers)
        kept = _of_slots(rows, examples), seconds
        if workdir:
            arrays = {"logits": kept[0], "seconds": np.float64(seconds)}
            processes.decide(lambda: records.write_npz(path, arrays))
    return dataclasses.replace(teachers, logits=kept[0], seconds=kept[1])


@functools.lru_cache(maxsize=1)  # runs of a study share their teachers
def _predict(teachers: Teachers) -> tuple[Any, float]:
    """(logits of the rows of train, the seconds that they took): of the mean prediction of several runs.

    Rows have an array each where they have several slots.
    """
    teachers.view.say(f"predicting {len(teachers.train):,} training rows with {len(teachers.runs)} runs to learn from")
    start, parts = time.perf_counter(), []
    for path in teachers.runs:
        run = finished.load_run(path)
        parts.append(labelled.predict(run, teachers.train, teachers.view))
    first, mean = parts[0], values_of(parts[0])
    if len(parts) > 1:
        mean = run.problem.mean_logits([values_of(part) for part in parts])
    rows = Ragged(mean, first.offsets) if isinstance(first, Ragged) else mean
    return rows, time.perf_counter() - start


def _of_slots(rows: Any, examples: Examples) -> Float[np.ndarray, "M C"]:
    """The logits of the run's slots, by those of the rows.  Raises UserError where rows have other slots."""
    lengths = rows.lengths if isinstance(rows, Ragged) else np.ones(len(rows), np.int64)
    if not np.array_equal(lengths, np.diff(examples.row_slots)):
        raise UserError(
            "config.distill.runs: the teachers label other places of the texts than this run trains on. Leave out "
            "config.data.all_pieces."
        )
    return np.asarray(values_of(rows), np.float32)


def _read(path: str, examples: Examples) -> tuple[Float[np.ndarray, "M C"], float]:
    """(logits, seconds) of a file that a run has written.  Raises Damaged."""
    remedy = "Remove it: it is computed again."
    with records.reading(path, remedy):
        arrays = records.read_npz(path, ("logits", "seconds"), remedy)
        logits = arrays["logits"]
        if logits.ndim != 2 or len(logits) != len(examples.label) or logits.dtype != np.float32:
            raise ValueError("its arrays do not have one row per slot")
        return logits, float(arrays["seconds"])
