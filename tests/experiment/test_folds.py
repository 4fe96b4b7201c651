"""The runs of a cross-validation become the predictions of one table, and other sets of runs are refused."""

import dataclasses

import numpy as np
import pytest
from small import double

from fjt.core import records
from fjt.core.errors import UserError
from fjt.data.glue import Part, Split, Task
from fjt.experiment import folds, outputs
from fjt.experiment.finished import Run
from fjt.tasks.kinds import task_of_record

SIZE, NUMBER = 31, 3
TASK = Task("t", "classification", ("no", "yes"), ("accuracy",))
LABEL = (np.arange(SIZE) % 2).astype(np.int32)
SCORES = np.random.default_rng(0).normal(size=(SIZE, 2)).astype(np.float32)
FOLD = np.random.default_rng(1).permutation(SIZE) % NUMBER


def fold(folder, number, options=None, rows=None, table="a", task=TASK, contents=None):
    """The run of a fold.  rows: numbers of its rows in the table, or None; options: its config besides the fold."""
    own = np.flatnonzero(number == FOLD) if rows is None else np.array(rows)
    split = Split(
        tuple(f"id {row}" for row in own), tuple(f"text {row}" for row in own), None, LABEL[own],
        tuple(f"source {row // 4}" for row in own), part=Part(own, table),
    )  # fmt: skip
    path = folder / f"{number}-{len(list(folder.iterdir()))}"
    outputs.write_predictions(str(path / "predictions"), "dev", task, split, SCORES[own])
    config = {"data": {"folds": NUMBER, "fold": number}, "seeds": {"init": 0}} | (options or {})
    contents = {"data": f"data {number}", "weights": "w"} | (contents or {})
    records.write_json(path / "config.json", {"config": config, "contents": contents, "fingerprint": "", "changes": []})
    with np.load(path / "predictions/dev.npz") as arrays:
        made = dataclasses.replace(task_of_record(arrays, "t"), metrics=())
    result = {"metrics": {"accuracy": 0.5}}
    return double(Run, path=str(path), result=result, config=config, contents=contents, task=made)


def test_each_row_of_the_table_is_there_once_and_in_its_place(tmp_path):
    given = [fold(tmp_path, number) for number in (2, 0, 1)]
    runs, rows = folds.pool(given)
    assert runs == [given[1], given[2], given[0]]
    assert rows.id == tuple(f"id {row}" for row in range(SIZE)) and rows.name == "3 folds" and rows.texts is None
    assert (rows.label == LABEL).all() and (rows.scores == SCORES).all() and (rows.fold == FOLD).all()
    assert [(number == FOLD).sum() for number in range(NUMBER)] == list(map(len, rows.folds))
    assert len(np.unique(rows.cluster)) == 8 and (np.diff(rows.cluster)[3::4] != 0).all()
    assert (np.diff(rows.cluster[:4]) == 0).all()
    assert (rows.take(FOLD == 1).fold == 1).all()


@pytest.mark.parametrize(
    ("numbers", "other", "message"),
    [
        ((0, 1), {}, "of the 3 folds, 2 is missing"),
        ((0, 1, 2, 1), {}, "are both fold 1"),
        ((0, 1, 2), {"options": {"data": {"folds": None, "fold": None}}}, "is not a fold"),
        ((0, 1, 2), {"options": {"seeds": {"init": 1}}}, r"config.seeds.init: 0 and 1"),
        ((0, 1, 2), {"options": {"data": {"folds": 4, "fold": 2}}}, r"config.data.folds: 3 and 4"),
        ((0, 1, 2), {"contents": {"weights": "x"}}, "weights: 'w' and 'x'"),
        ((0, 1, 2), {"table": "b"}, "divides another table"),
        ((0, 1, 2), {"rows": np.flatnonzero(FOLD == 1)}, "each row of the table once"),
        ((0, 1, 2), {"rows": np.flatnonzero(FOLD == 2)[1:]}, "each row of the table once"),
        ((0, 1, 2), {"task": dataclasses.replace(TASK, threshold=0.7)}, "threshold, 0.5 and 0.7"),
        ((0, 1, 2), {"task": dataclasses.replace(TASK, label_names=("no", "so"))}, "other labels"),
    ],
)
def test_runs_that_are_not_all_folds_of_one_table_are_refused(tmp_path, numbers, other, message):
    last = len(numbers) - 1
    runs = [fold(tmp_path, number, **(other if place == last else {})) for place, number in enumerate(numbers)]
    with pytest.raises(UserError, match=message):
        folds.pool(runs)


def test_predictions_without_the_numbers_of_their_rows_are_refused(tmp_path):
    runs = [fold(tmp_path, number) for number in range(NUMBER)]
    path = f"{runs[0].path}/predictions/dev.npz"
    with np.load(path) as arrays:
        records.write_npz(path, {name: arrays[name] for name in arrays.files if name != "row"})
    with pytest.raises(UserError, match="do not say which rows"):
        folds.pool(runs)
