"""A report of a study of questions: they are the units, and labels and predictions are texts."""

import numpy as np
from made_study import DIVERGED, MadeStudy, cells_of, predictions, truth
from read_report import rows_of

from fjt.data import squad
from fjt.reports import publication
from fjt.tasks.question_answering import QUESTION_ANSWERING


def made(folder, **others):
    study = MadeStudy(folder)
    for method, skill in (("full", 0.8), ("head", 0.5)):
        outcomes = {seed: predictions("questions", skill, method, seed) for seed in range(8)}
        study.cell("questions", method, outcomes | others.get(method, {}))
    return study.finish()


def test_a_report_of_answers(tmp_path):
    publication.report(made(tmp_path / "study"))
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "120 dev questions" in text
    scores = rows_of(text, "Scores: f1", "questions")
    assert set(scores) == {"full", "head", "always `dark blue`"} and scores["head"]["finished/ started"] == "8/8"
    assert "to" in scores["full"]["95 %: new seeds, new examples"]
    assert "behind full for new seeds and new examples" in text


def test_a_run_that_says_one_thing_is_described_by_its_answer(tmp_path):
    silent = squad.labels_of([[]] * 120)
    publication.report(made(tmp_path / "study", full={3: silent, 4: DIVERGED}))
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "`runs/questions/full/seed=3` (always `no answer`)" in text
    assert "most frequent label or mean (always `dark blue`)" in text


def test_both_sources_give_the_same_predictions(tmp_path):
    _, cells = cells_of(made(tmp_path / "study"), tmp_path)
    cell = cells["questions/full"]
    expected = predictions("questions", 0.8, "full", 0)
    assert cell.truth.tolist() == truth("questions").tolist() and len(cell.truth) == 120
    np.testing.assert_array_equal(cell.predicted[0], expected)
    for name, metric in QUESTION_ANSWERING.metrics.items():
        assert cell.scores(name)[0] == metric(expected, cell.truth)
