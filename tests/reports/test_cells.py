"""The cells of a study: what crossed seeds change, which runs collapsed, what scores are of, what they cost."""

import json

import numpy as np
import pytest
from made_study import (
    DIVERGED,
    MISSING,
    MadeStudy,
    cells_of,
    predictions,
    records_of,
    truth,
    write_study,
)
from scores import METRICS

from configs import seed_sweep
from fjt.reports import document, failures, gather, inference
from fjt.reports.cells import CROSSED, summarize, variance_parts
from fjt.reports.figures import draw_best, styles
from fjt.reports.score_tables import parts_table
from fjt.study import spec

SEEDS = range(8)


def crossed(folder, a=5, b=5, outcome=None):
    made = MadeStudy(folder, baseline="")
    for i in range(a):
        for j in range(b):
            seeds = (("seeds.init", i), ("seeds.data", 10 + j))
            done = predictions("choices", 0.75 + 0.04 * (i % 3), i, j)
            made.cell("choices", "full", {seeds: outcome if outcome and i == j == 1 else done})
    return made.finish()


def test_crossed_seeds_are_taken_apart(tmp_path):
    found, cells = cells_of(crossed(tmp_path / "study"), tmp_path)
    cell = cells["choices/full"]
    table = cell.scores("accuracy").reshape(5, 5)
    wanted = inference.variance_parts(table)
    assert variance_parts(cell, "accuracy") == dict(zip(("seeds.init", "seeds.data", "rest"), wanted, strict=True))
    assert summarize(cell, "accuracy")["new_seeds"] == CROSSED
    assert document.fixed_seeds(found)[0].startswith("All reported runs have the same seeds.dropout: statements about")
    shown = parts_table([cell], "accuracy", lambda cell: cell.method).rows
    assert shown[0][:4] == ("full", "25", "seeds.init", f"{100 * wanted[0].estimate ** 0.5:.2f}")
    assert document.seeds_text(found.rows) == "seeds.init 0 to 4 and seeds.data 10 to 14"


@pytest.mark.parametrize(
    ("a", "b", "outcome", "why"),
    [(4, 5, None, "4 x 5 seeds"), (5, 5, DIVERGED, "1 of its runs collapsed"), (5, 5, MISSING, "24 of its runs have")],
)
def test_what_cannot_be_taken_apart_is_said(tmp_path, a, b, outcome, why):
    _, cells = cells_of(crossed(tmp_path / "study", a, b, outcome), tmp_path)
    assert why in variance_parts(cells["choices/full"], "accuracy")


def test_the_seeds_of_the_shipped_sweep_are_taken_apart(tmp_path):
    """Each of its runs has dropout noise of its own, which is of the rest. The best of n is of independent runs."""
    config, made = seed_sweep.get_config(), MadeStudy(tmp_path / "study")
    for run in spec.make_runs(*spec.read(config)):
        seeds = tuple((key, value) for key, value in run.values if key.startswith("seeds."))
        skill = 0.8 + 0.02 * dict(seeds)["seeds.init"]
        made.cell("choices", "full", {seeds: predictions("choices", skill, *map(str, seeds))})
    found, cells = cells_of(made.finish(), tmp_path)
    cell = cells["choices/full"]
    assert document.fixed_seeds(found) == [] == document.fixed_seeds(records_of(write_study(tmp_path / "s"), tmp_path))
    assert len(cell.rows) == 25 and list(variance_parts(cell, "accuracy")) == ["seeds.init", "seeds.data", "rest"]
    assert cell.crossed and draw_best([cell], "accuracy", styles([cell]), str) is None


def test_scores_that_differ_by_rounding_alone_are_one_value(tmp_path):
    """A regression that gives its mean: named, scored as a constant, and in no interval."""
    made = MadeStudy(tmp_path / "study")
    outcomes = {seed: predictions("marks", 0.8, "full", seed) for seed in SEEDS}
    outcomes[3] = np.float32(0.25 + 1e-5 * truth("marks"))  # correlates with the labels as well as can be
    made.cell("marks", "full", outcomes)
    found, cells = cells_of(made.finish(), tmp_path)
    cell = cells["marks/full"]
    assert found.rows[3]["metrics.pearson"] > 0.99 and cell.scores("pearson")[3] == 0
    assert cell.collapsed.tolist() == [seed == 3 for seed in SEEDS] and cell.scores("pearson")[0] > 0.5
    assert "runs/marks/full/seed=3` (always 0.25)" in failures.of_runs([cell])[0].text
    assert summarize(cell, "pearson")["new_seeds"].n == 7


def test_what_held_out_rows_chose_is_scored_on_the_published_dev_set(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "full", {seed: predictions("choices", 0.95, seed) for seed in SEEDS}, looks=3)
    folder = made.finish()
    official = [predictions("choices", 0.7, "official", seed) for seed in SEEDS]
    for seed in SEEDS:
        path = folder / f"runs/choices/full/seed={seed}"
        with np.load(path / "predictions/dev.npz") as arrays:
            logits = np.eye(2, dtype=np.float32)[official[seed]]
            np.savez(path / "predictions/official_dev.npz", **(dict(arrays) | {"logits": logits}))
        result = json.loads((path / "result.json").read_text())
        scores = {name: METRICS[name](official[seed], truth("choices")) for name in ("accuracy", "f1")}
        result["splits"]["official_dev"] = scores
        (path / "result.json").write_text(json.dumps(result))
    found, cells = cells_of(folder, tmp_path)
    wanted = [np.mean(one == truth("choices")) for one in official]
    np.testing.assert_allclose(cells["choices/full"].scores("accuracy"), wanted)
    path = str(folder / "runs/choices/full/seed=0")
    scored = [gather._scored(path, "runs", {"data.fold": fold}) for fold in (None, 0)]
    assert scored == ["official_dev", "dev"], "a fold is scored on its own rows"
    assert {row["looks"] for row in found.rows} == {1}
    assert found.rows[0]["splits.dev.accuracy"] == pytest.approx(
        np.mean(predictions("choices", 0.95, 0) == truth("choices"))
    )


def test_regressions_that_diverge_correlate_with_nothing(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.cell("marks", "full", {0: predictions("marks", 0.9, 0), 1: DIVERGED})
    _, cells = cells_of(made.finish(), tmp_path)
    assert cells["marks/full"].scores("pearson")[1] == cells["marks/full"].scores("spearman")[1] == 0.0
