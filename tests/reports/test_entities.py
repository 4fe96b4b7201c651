"""A report of a study of entities: sentences are the units, types the classes."""

import numpy as np
from made_study import DIVERGED, MadeStudy, cells_of, predictions, truth
from read_report import rows_of

from fjt.core.ragged import Ragged
from fjt.reports import publication
from fjt.tasks.entities import ENTITIES


def made(folder, **others):
    study = MadeStudy(folder)
    for method, skill in (("full", 0.8), ("head", 0.6)):
        outcomes = {seed: predictions("names", skill, method, seed) for seed in range(8)}
        study.cell("names", method, outcomes | others.get(method, {}))
    return study.finish()


def test_a_report_of_entities(tmp_path):
    publication.report(made(tmp_path / "study"))
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    begins = truth("names").values
    counted = f"{(begins == 1).sum()} `loc`, {(begins == 3).sum()} `per`"  # entities, not words
    assert f"120 dev sentences: {counted}" in text
    scores = rows_of(text, "Scores: entity_f1", "names")
    assert set(scores) == {"full", "head", "always `O`"} and scores["head"]["finished/ started"] == "8/8"
    assert "to" in scores["full"]["95 %: new seeds, new examples"]
    assert "behind full for new seeds and new examples" in text and "| full | `per` |" in text


def test_a_run_that_says_one_thing_is_described_by_a_tag(tmp_path):
    label = truth("names")
    outside = Ragged(np.zeros_like(label.values), label.offsets)
    publication.report(made(tmp_path / "study", full={3: outside, 4: DIVERGED}))
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "`runs/names/full/seed=3` (always `O`)" in text
    assert "most frequent label or mean (always `O`)" in text


def test_both_sources_give_the_same_predictions(tmp_path):
    _, cells = cells_of(made(tmp_path / "study"), tmp_path)
    cell = cells["names/full"]
    assert isinstance(cell.predicted[0], Ragged) and isinstance(cell.truth, Ragged) and len(cell.truth) == 120
    expected = predictions("names", 0.8, "full", 0)
    np.testing.assert_array_equal(cell.predicted[0].values, expected.values)
    assert cell.scores("entity_f1")[0] == ENTITIES.metrics["entity_f1"](expected, cell.truth)
