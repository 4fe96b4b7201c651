"""A report of a study of several tasks: the mean and each task's metrics, with intervals of the rows of each."""

import numpy as np
from made_study import SEVERAL, MadeStudy, both, cells_of, predictions, truth
from read_report import rows_of

from fjt.reports import publication
from fjt.reports.cells import summarize

TASK = "choices+marks"


def made(folder, count, **others):
    study = MadeStudy(folder)
    for method, skill in (("full", 0.8), ("head", 0.5)):
        outcomes = {seed: predictions(TASK, skill, method, seed, count=count) for seed in range(8)}
        study.cell(TASK, method, outcomes | others.get(method, {}), count=count)
    return study.finish()


def test_intervals_are_of_the_rows_of_a_task(tmp_path):
    """Those of the task alone; and none of a task, or of the mean, where one has too few rows."""
    _, cells = cells_of(made(tmp_path / "many", 600), tmp_path)
    cell = cells[f"{TASK}/full"]
    study = MadeStudy(tmp_path / "alone")
    study.cell("choices", "full", {s: predictions("choices", 0.8, "full", s, count=400) for s in range(8)}, count=400)
    (tmp_path / "b").mkdir()
    _, alone = cells_of(study.finish(), tmp_path / "b")
    found, expected = summarize(cell, "choices.accuracy"), summarize(alone["choices/full"], "accuracy")
    assert found["new_examples"] == expected["new_examples"] and found["new_seeds"] == expected["new_seeds"]
    assert summarize(cell, "mean")["new_examples"].low < summarize(cell, "mean")["mean"]
    (tmp_path / "c").mkdir()
    _, cells = cells_of(made(tmp_path / "few", 240), tmp_path / "c")
    cell = cells[f"{TASK}/full"]  # 160 choices and 80 marks
    assert not isinstance(summarize(cell, "choices.accuracy")["new_examples"], str)
    assert "on 80 examples" in summarize(cell, "marks.pearson")["new_examples"]
    assert "marks.pearson, a part of the mean, is of 80 examples" in summarize(cell, "mean")["new_examples"]


def test_a_report_names_the_task_that_collapsed(tmp_path):
    gone = predictions(TASK, 0.8, "full", 3, count=600)
    gone[gone[:, 0] == 0] = 0, 1
    publication.report(made(tmp_path / "study", 600, full={3: gone}))
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "600 dev examples" in text and "`choices.no`" in text
    assert f"`runs/{TASK}/full/seed=3` (choices: always `yes`)" in text
    assert "give (nearly) the same answer to every example of one of their tasks" in text
    for metric in ("mean", "choices.accuracy", "marks.pearson"):
        assert set(rows_of(text, f"Scores: {metric}", TASK)) == {
            "full",
            "head",
            "always the best constant of each task",
        }


def test_both_sources_give_the_same_predictions(tmp_path):
    _, cells = cells_of(made(tmp_path / "study", 120), tmp_path)
    cell, expected = cells[f"{TASK}/full"], predictions(TASK, 0.8, "full", 0)
    assert cell.problem is SEVERAL
    np.testing.assert_array_equal(cell.truth, truth(TASK))
    np.testing.assert_allclose(cell.predicted[0], expected, rtol=1e-6)
    assert both(truth("choices", 80), truth("marks", 40)).tolist() == truth(TASK).tolist()
    for name in ("mean", "choices.mcc", "marks.spearman"):
        np.testing.assert_allclose(cell.problem.metrics[name](cell.predicted[0], cell.truth),
                                   SEVERAL.metrics[name](expected, truth(TASK)), rtol=1e-6)  # fmt: skip
