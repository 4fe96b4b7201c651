"""Cells of a study against a baseline: what has a p, and why another has none."""

import ast
import json

import numpy as np
import pytest
import scipy.stats
from made_study import (
    DIVERGED,
    MadeStudy,
    cells_of,
    make_pairs,
    predictions,
    records_of,
    truth,
)

from fjt.reports import document, inference
from fjt.reports.cells import make_cells, summarize
from fjt.reports.comparisons import make_comparisons
from fjt.reports.score_tables import comparison_table, score_table
from fjt.study import plans

SEEDS = range(8)


def comparisons_of(folder, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    return make_comparisons(list(cells.values()), found.facts)[0]


def test_the_study_s_metric_is_the_one_compared(tmp_path):
    made = make_pairs(tmp_path / "study", 8, metric="f1")
    found, cells = cells_of(made.finish(), tmp_path)
    (one,) = make_comparisons(list(cells.values()), found.facts)[0]
    assert {cell.metrics for cell in cells.values()} == {("f1", "accuracy")} and one.metric == "f1"
    np.testing.assert_array_equal(one.differences, one.cell.scores("f1") - one.base.scores("f1"))


def test_a_metric_of_one_s_own_is_compared_over_seeds_alone(tmp_path):
    """Its values are those of the runs; a run that diverged has the recorded one of a constant."""
    made = make_pairs(tmp_path / "study", 7, metric="mine:cost")
    made.cell("choices", "head", {7: DIVERGED})
    made.cell("choices", "full", {7: predictions("choices", 0.9, "full", 7)})
    for path in made.folder.glob("runs/choices/*/seed=*/result.json"):
        result, seed = json.loads(path.read_text()), int(path.parent.name.removeprefix("seed="))
        if result["failed"]:
            result["constant"] = {"dev": {"accuracy": 0.5, "f1": 0.0, "mine:cost": -9.0}}
        else:
            result["metrics"]["mine:cost"] = result["splits"]["dev"]["mine:cost"] = -seed / 4
        path.write_text(json.dumps(result))
    found, cells = cells_of(made.finish(), tmp_path)
    (one,) = make_comparisons(list(cells.values()), found.facts)[0]
    assert one.metric == "mine:cost" and one.differences.tolist() == [0.0] * 7 + [-9.0 + 7 / 4]
    assert "mine:cost is a function of the user" in one.new_examples and "diverged" in one.p
    summary = summarize(cells["choices/head"], "mine:cost")
    assert summary["worst"] == -9.0 and "is a function of the user" in summary["new_examples"]
    document.build(found, list(cells.values()), [one], [])


def test_more_seeds_than_planned_have_no_p(tmp_path):
    made = make_pairs(tmp_path / "study", 8)
    made.planned = 6
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert "8 seeds are in both cells, and 6 were planned of each cell" in one.p and one.new_seeds.n == 8


def test_fewer_seeds_than_planned_have_no_p(tmp_path):
    """Of either cell; a run that diverged has its seed's score, and the reason is then another."""
    made = make_pairs(tmp_path / "study", 7)
    made.cell("choices", "head", {7: DIVERGED})
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert "7 seeds are in both cells, and 8 were planned of each cell" in one.p
    planned = {"choices/full": 8, "choices/head": 7}
    (one,) = comparisons_of(made.finish(planned_seeds=planned), tmp_path)
    assert "7 were planned of choices/head and 8 of choices/full" in one.p
    assert (
        "7 to 8 seeds per cell were planned"
        in document.family_text([one], records_of(made.folder, tmp_path).facts).text
    )
    made.cell("choices", "full", {7: predictions("choices", 0.9, "full", 7)})
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert one.n == 8 and "In 1 of 8 pairs a run collapsed or diverged" in one.p


@pytest.mark.parametrize("failed", ["collapsed", "nearly collapsed", DIVERGED])
@pytest.mark.parametrize("method", ["full", "head"])
def test_a_pair_with_a_failed_run_leaves_no_p_and_stays_in_its_family(tmp_path, method, failed):
    """Of either side; the other comparison's p is what it would be in a family of two."""
    made = MadeStudy(tmp_path / "study")
    odd = np.arange(120) == 7
    outcome = failed if failed == DIVERGED else np.where(odd, failed == "nearly collapsed", 0)
    for name, skill in (("full", 0.9), ("head", 0.7)):
        outcomes = {seed: predictions("choices", skill, name, seed) for seed in SEEDS}
        made.cell("choices", name, outcomes | ({3: outcome} if name == method else {}))
    axes = {"tune.rank": 4}
    made.cell("choices", "lora", {seed: predictions("choices", 0.6, "lora", seed) for seed in SEEDS}, axes)
    head, lora = comparisons_of(made.finish(), tmp_path)
    assert "1 of 8 pairs" in head.p and "1 of 8 pairs" in head.p_examples and head.new_seeds.n == 7
    if method == "head":
        assert lora.p == pytest.approx(2 * 2 / 2**8)
        smaller = inference.t_test(lora.all_runs) < inference.t_test(head.all_runs)
        assert lora.p_examples == pytest.approx((1 + smaller) * inference.t_test(lora.new_examples))
    else:
        assert "1 of 8 pairs" in lora.p


def test_each_p_is_of_its_own_estimand(tmp_path):
    """Signs of seeds for this dev set; the error and degrees of freedom of the interval for new examples."""
    (one,) = comparisons_of(make_pairs(tmp_path / "study", 8).finish(), tmp_path)
    found = one.new_examples
    assert one.p == 2 / 2**8
    assert one.p_examples == pytest.approx(2 * scipy.stats.t.sf(-one.mean / found.error, found.df))
    half = scipy.stats.t.ppf(0.975, found.df) * found.error
    assert (found.low, found.high) == pytest.approx((one.mean - half, one.mean + half))


def test_seven_seeds_have_an_exact_p_and_none_of_new_examples(tmp_path):
    made = make_pairs(tmp_path / "study", 7)
    made.planned = 7
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert one.p == 2 / 2**7 and "needs 8" in one.p_examples


@pytest.mark.parametrize(
    ("key", "before"), [("baseline", "''"), ("family", "'study'"), ("alpha", "0.01"), ("metric", "'f1'")]
)
def test_what_is_declared_after_a_result_gives_no_p(tmp_path, key, before):
    made = make_pairs(tmp_path / "study", 8)
    declared = {name: made.study[name] for name in plans.DECLARED} | {key: ast.literal_eval(before)}
    (one,) = comparisons_of(made.finish(declared=declared), tmp_path)
    assert one.p.startswith(f"config.study.{key} was {before} and is {made.study[key]!r}: the hypotheses of a test")
    assert one.new_seeds.n == 8


def test_what_has_no_p_stays_in_its_family(tmp_path):
    made = make_pairs(tmp_path / "study", 6, alpha=0.1)
    seeds = {seed: predictions("choices", 0.5, "lora", seed) for seed in range(7)}
    made.cell("choices", "lora", seeds)
    made.cell("choices", "full", {6: predictions("choices", 0.9, "full", 6)})
    made.planned = 6
    head, lora = comparisons_of(made.finish(), tmp_path)
    assert "7 seeds" in lora.p and head.p == pytest.approx(2 * 2 / 2**6)


def test_too_few_seeds_are_refused_once_with_what_is_needed(tmp_path):
    folder = make_pairs(tmp_path / "study", 3, seeds=3).finish()
    found = records_of(folder, tmp_path)
    cells = make_cells(found)
    comparisons, _ = make_comparisons(cells, found.facts)
    table = comparison_table(comparisons, "accuracy", lambda cell: cell.method)
    assert [note for note in table.notes if "Run 6 seeds" in note] == [comparisons[0].p]
    scores = score_table(cells, "accuracy", lambda cell: cell.method)
    assert len(scores.notes) == 1 and "needs 5: run more seeds" in scores.notes[0]
    assert [row[3] for row in scores.rows] == ["- ¹", "- ¹", ""]


def test_less_is_better_where_it_is(tmp_path):
    made = MadeStudy(tmp_path / "study")
    for method, skill in (("full", 0.9), ("head", 0.7)):
        for seed in range(8):
            made.cell("errors", method, {seed: predictions("errors", skill, method, seed)})
    made.cell("errors", "full", {8: DIVERGED})
    found, cells = cells_of(made.finish(), tmp_path)
    full, head = cells["errors/full"], cells["errors/head"]
    label = np.float64(truth("errors"))
    errors = [np.mean((np.float32(predictions("errors", 0.9, "full", s)) - label) ** 2) for s in range(8)]
    errors.append(np.var(label))  # the mean is predicted
    values = summarize(full, "mse")
    assert full.scores("mse") == pytest.approx(errors)
    assert values["best"] == min(errors) and values["worst"] == max(errors) and values["mean"] == np.mean(errors)
    (one,) = make_comparisons([full, head], found.facts)[0]
    assert one.mean > 0 and one.improvement < 0.5 and "mse has no bounds" in one.needed and one.p < 0.05


def test_a_baseline_agrees_in_all_axes_it_has(tmp_path):
    made = MadeStudy(tmp_path / "study", seeds=1)
    for length in (64, 128):
        made.cell("choices", "full", {0: predictions("choices", 0.9, length)}, {"model.max_length": length})
        for rank in (2, 4):
            axes = {"model.max_length": length, "tune.rank": rank}
            made.cell("choices", "lora", {0: predictions("choices", 0.9, length, rank)}, axes)
    made.cell("choices", "head", {0: predictions("choices", 0.9, "head")})
    found, cells = cells_of(made.finish(), tmp_path)
    comparisons, alone = make_comparisons(list(cells.values()), found.facts)
    assert len(comparisons) == 4 and [cell.name for cell in alone] == ["choices/head"]
    assert all(one.base.axes == {"model.max_length": one.cell.axes["model.max_length"]} for one in comparisons)


def test_a_family_is_one_task_or_the_study(folder, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    for family, size in (("task", 3), ("study", 6)):
        study = found.facts["study"] | {"family": family, "alpha": 0.5}
        facts = found.facts | {"study": study, "declared": study}
        comparisons, alone = make_comparisons(list(cells.values()), facts)
        assert not alone and len(comparisons) == 6
        least = min(one.p for one in comparisons if not isinstance(one.p, str))
        assert least == pytest.approx(size * 2 / 256)
        whole = [one for one in comparisons if family == "study" or one.cell.task == "marks"]
        for name, wanted in (
            ("p", inference.sign_flip_family([one.differences for one in whole], 0.5)),
            ("p_examples", inference.t_family([one.all_runs for one in whole])),
        ):
            shown = [(getattr(one, name), p) for one, p in zip(whole, wanted, strict=True) if not one.failed.any()]
            assert len(shown) in (3, 4) and [p for p, _ in shown] == pytest.approx([p for _, p in shown])
