"""The verdict of a report: what it says first, who is ahead of whom and how sure that is, and what it does not hide."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
from made_study import MadeStudy, cells_of, make_pairs, predictions, truth

from fjt.reports import document, failures, inference, verdict
from fjt.reports.comparisons import make_comparisons
from fjt.reports.formatting import names_of
from fjt.reports.pages import Items, Text
from fjt.reports.score_tables import class_table

SEEDS = range(8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """(Records, cells) of two methods and eight seeds."""
    folder = tmp_path_factory.mktemp("pairs")
    return cells_of(make_pairs(folder / "study", 8).finish(), folder)


def verdict_of(found, cells, **facts):
    """(the texts of a verdict in order, the comparisons); facts: entries of the records."""
    found = dataclasses.replace(found, facts=found.facts | facts)
    comparisons, _ = make_comparisons(list(cells.values()), found.facts)
    blocks = verdict.build(found, list(cells.values()), comparisons, names_of(cells.values()))
    texts = []
    for block in blocks:
        texts += block.texts if isinstance(block, Items) else [block.text] if isinstance(block, Text) else []
    return texts, comparisons


def topics(tmp_path, lost, count=8):
    """(Records, cells) of a study in which full tuning never says class `lost` of six, in `count` of eight seeds."""
    made = MadeStudy(tmp_path / "study")
    for seed in SEEDS:
        outcome = predictions("topics", 0.9, "full", seed)
        if seed < count:
            outcome = np.where(outcome == lost, (lost + 1) % 6, outcome)
        made.cell("topics", "full", {seed: outcome})
        made.cell("topics", "lora", {seed: predictions("topics", 0.9, "lora", seed)})
    return cells_of(made.finish(), tmp_path)


def test_what_is_not_tested_for_new_examples_is_not_called_undecided(tmp_path):
    texts, (one,) = verdict_of(*cells_with(tmp_path, 7))
    assert one.n == 7 and isinstance(one.p, float) and one.p <= 0.05 and isinstance(one.p_examples, str)
    (text,) = [text for text in texts if "new seeds on this dev set" in text and text.startswith("**")]
    assert (
        "for new examples there is an interval and no p" in text
        and "A p for new examples needs a study of 8 seeds" in texts[-1]
    )
    assert "p 0.016, the lowest of 7 seeds and 1 comparison)" in text and f"{one.p:.3f}" == "0.016"
    assert "80 % power" not in texts[-1] and "p for new seeds on this dev set, adjusted over" in texts[-1]


def cells_with(tmp_path, seeds):
    """(Records, cells) of two methods of which one is plainly better."""
    made = MadeStudy(tmp_path / "study", seeds=seeds)
    for method, skill in (("full", 0.7), ("lora", 0.9)):
        made.cell("topics", method, {seed: predictions("topics", skill, method, seed) for seed in range(seeds)})
    return cells_of(made.finish(), tmp_path)


@pytest.mark.parametrize(("lost", "count"), [(4, 8), (0, 3)])
def test_a_class_that_is_never_predicted_is_told_and_no_run_is_said_to_be_sound(tmp_path, lost, count):
    found, cells = topics(tmp_path, lost, count)
    texts, _ = verdict_of(found, cells)
    wanted = f"**Never predicted**: `{'abcdef'[lost]}` (20 of dev, F1 0) by full in {count} of 8 runs."
    assert wanted in texts and "No run collapsed or diverged." not in texts
    assert texts.index(wanted) < min(i for i, text in enumerate(texts) if text.startswith("**lora "))
    assert failures.of_runs(list(cells.values())) == []


def test_where_each_class_is_predicted_nothing_is_told(tmp_path):
    texts, _ = verdict_of(*topics(tmp_path, 0, 0))
    assert "No run collapsed or diverged." in texts and "Never" not in "".join(texts)


def test_each_class_has_its_scores_and_counts(tmp_path):
    _, cells = topics(tmp_path, 4)
    table = class_table(list(cells.values()), lambda cell: cell.method)
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(rows) == 12 and rows["full", "`e`"][">runs that never do"] == "8"
    assert rows["full", "`e`"][">F1"] == "0.0 ¹" and "All 8 runs score 0" in table.notes[0]
    hits = [np.mean(predictions("topics", 0.9, "lora", s)[truth("topics") == 2] == 2) for s in SEEDS]
    found = inference.seed_interval(hits, np.zeros(8, bool))
    wanted = f"{100 * np.mean(hits):.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
    assert rows["lora", "`c`"][">recall"] == wanted and rows["lora", "`c`"][">support"] == "20"
    counts = [np.sum(predictions("topics", 0.9, "lora", s) == 2) for s in SEEDS]
    assert rows["lora", "`c`"][">predicted"] == f"{np.mean(counts):.1f} ({min(counts)} to {max(counts)})"


@pytest.mark.parametrize(
    ("p", "p_examples", "mean", "group"),
    [
        (0.01, 0.02, -0.1, "behind"),
        (0.01, 0.02, 0.1, "ahead"),
        (0.01, 0.2, 0.1, "ahead here"),
        (0.01, "7 seeds", -0.1, "behind untested"),
        (0.2, "7 seeds", -0.1, "undecided"),
        (0.2, 0.06, 0.1, "undecided"),
        (0.2, 0.02, 0.1, "ahead"),
        ("All have not ended.", "All have not ended.", 0.1, "not tested. All have not ended"),
    ],
)
def test_who_is_ahead_is_by_the_p_of_new_examples_first(pairs, p, p_examples, mean, group):
    _, (one,) = verdict_of(*pairs)
    assert verdict._kind(dataclasses.replace(one, p=p, p_examples=p_examples, mean=mean), 0.05) == group
    lower = dataclasses.replace(one, p=p, p_examples=p_examples, mean=mean, metric="mse")
    other = {"ahead": "behind", "behind": "ahead"}
    side, *rest = group.split()
    assert verdict._kind(lower, 0.05) == " ".join([other.get(side, side), *rest])


@pytest.mark.parametrize("level", [0.05, 0.05 / 21])
def test_the_seeds_that_would_decide_have_the_power(level):
    """By the two quantiles of a normal test; a difference within what the examples leave is decided by no number."""
    mean, sd, smallest = 0.03, 0.04, 0.02
    seeds, times = inference.decide(mean, sd, smallest, level)

    def power(n, factor=1.0):
        error = math.sqrt(sd**2 / n + (smallest / inference.Z) ** 2 / factor)
        return scipy.stats.norm.sf(scipy.stats.norm.isf(level / 2) - mean / error)

    assert times == 1.0 and power(seeds) >= 0.8 > power(seeds - 1)
    none, times = inference.decide(0.01, sd, smallest, level)
    assert none is None and times > 1
    scaled = 0.01 / math.sqrt((smallest / inference.Z) ** 2 / times)
    assert scaled == pytest.approx(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(0.8))


def facts_of(**others):
    about = {"train_examples": 1000, "batch_size": 32, "recipe_epochs": 1, "limit": 0, "draws": [0]}
    about = about | {"rate_origin": "recipe for full"} | others
    return {"choices/full": about, "choices/head": about}


@pytest.mark.parametrize(
    ("others", "told", "not_told"),
    [
        ({}, "Learning rates of full, head are fjt's recipes, not chosen on these data", "One draw"),
        ({"rate_origin": "the study"}, "Learning rates of full, head are given, not chosen", "recipe"),
        ({"rate_origin": ""}, "are recipes or given, not chosen", "fjt's recipe"),
        ({"recipe_epochs": 20}, "**fjt's recipe has 20 epochs** for as many examples, so a method may trail", "draw"),
        ({"limit": 1000}, "**One draw of 1,000 training examples**", "20 epochs"),
        ({"limit": 1000, "draws": [0, 1]}, "40 steps (1 epoch, 1,000 training examples, batches of 32)", "draw"),
    ],
)
def test_the_first_lines_say_the_limits(pairs, others, told, not_told):
    texts, _ = verdict_of(*pairs, runs=facts_of(**others))
    assert texts[0].startswith("**2 methods on 1 task, 8 seeds each**: 16 of 16 runs finished, from minilm.")
    assert told in texts[0] and not_told not in texts[0]


def test_folds_are_not_seeds(pairs):
    found, cells = pairs
    told = "**Each fold of a cross-validation is a cell of its own**"
    assert told not in verdict_of(found, in_folds(cells, 1))[0][0]
    assert told in verdict_of(found, in_folds(cells, 2))[0][0]


def in_folds(cells, count):
    """The cells, each as several folds."""
    return {
        f"{name}/data.fold={fold}": dataclasses.replace(cell, axes={"data.fold": str(fold)})
        for name, cell in cells.items()
        for fold in range(count)
    }


def test_one_fold_alone_is_compared_as_any_other_cell(pairs):
    found, cells = pairs
    (_, said, *rest), (_, alone, *others) = (verdict_of(found, some)[0] for some in (in_folds(cells, 1), cells))
    assert [line.replace(", fold=0", "") for line in (said, *rest)] == [alone, *others]


def test_folds_of_a_method_are_not_ranked(tmp_path):
    """The means are over folds; lora, which lacks one, comes last; no fold is called the best, ahead or undecided."""
    made = MadeStudy(tmp_path / "study")
    for fold in range(3):
        for method, skill in (("full", 0.9 - 0.1 * fold), ("lora", 0.95)):
            ended = fold < 2 or method == "full"
            outcomes = {s: predictions("topics", skill, method, fold, s) if ended else "missing" for s in SEEDS}
            made.cell("topics", method, outcomes, axes={"data.fold": fold})
    found, cells = cells_of(made.finish(), tmp_path)
    texts, comparisons = verdict_of(found, cells)
    assert not comparisons and texts[1] == "**topics**, in folds:" and texts[-1] == "No run collapsed or diverged."
    for metric, text in zip(("accuracy", "macro_f1"), texts[2:4], strict=True):
        full, lora = (
            np.mean(
                [run[f"metrics.{metric}"] for cell in cells.values() if cell.method == method for run in cell.scored]
            )
            for method in ("full", "lora")
        )
        lacking = f"lora {100 * lora:.2f} (2 of 3 folds)"
        assert lora > full and text == f"Means over folds ({metric}, points): full {100 * full:.2f}; {lacking}."
    assert "fjt.evaluate --run STUDY/runs/topics/full/data.fold=*/seed=0`" in texts[4]
    shown = " ".join(texts[1:])
    assert not any(word in shown for word in ("best mean", "ahead", "undecided", "against", "fold=0", "80 % power"))


def test_a_task_without_folds_keeps_its_comparisons_in_a_study_with_folds(pairs, tmp_path):
    found, cells = pairs
    alone, _ = verdict_of(found, cells)
    texts, _ = verdict_of(found, cells | in_folds(cells, 2))
    (first, *_), told = alone[2:], [text for text in texts if text.startswith("**head ")]
    assert told == [first] and texts[-1].startswith("After a method's name")


def test_what_is_no_better_than_a_constant_is_told(tmp_path):
    made = MadeStudy(tmp_path / "study")
    for method, skill in (("full", 0.9), ("head", 0.45)):
        made.cell("choices", method, {seed: predictions("choices", skill, method, seed) for seed in SEEDS})
    texts, _ = verdict_of(*cells_of(made.finish(), tmp_path))
    assert "**No better than a constant** (always `no`, 60.00): head." in texts


def test_without_a_baseline_nothing_is_said_to_be_tested(pairs):
    found, cells = pairs
    study = found.facts["study"] | {"baseline": ""}
    found = dataclasses.replace(found, facts=found.facts | {"study": study})
    blocks = verdict.build(found, list(cells.values()), [], lambda cell: cell.method)
    (items,) = (block for block in blocks if isinstance(block, Items))
    assert items.texts[0].startswith("Means in order: full ") and "**No difference is tested**" in items.texts[0]


def test_a_failed_run_leaves_a_difference_untested(tmp_path):
    made = make_pairs(tmp_path / "study", 8)
    made.cell("choices", "ia3", {s: predictions("choices", 0.8, "ia3", s) if s else np.zeros(120, int) for s in SEEDS})
    texts, comparisons = verdict_of(*cells_of(made.finish(), tmp_path))
    ia3 = comparisons[1]
    shown = next(text for text in texts if text.startswith(f"**ia3 {100 * ia3.sound[0]:+.2f}**: "))
    assert (
        "not tested against full, because runs collapsed or diverged" in shown
        and "**Collapsed**: ia3 in 1 of 8 runs." in texts
    )


def test_what_was_entered_after_the_results_is_told(pairs):
    found, _ = pairs
    assert document.afterwards(found) == []
    entered = dataclasses.replace(found, facts=found.facts | {"afterwards": {"The plan was": "its version kept none"}})
    assert document.afterwards(entered) == [
        "**The plan was entered afterwards**, when the results were known: its version kept none."
    ]


def test_the_line_of_a_task_names_its_files_and_classes(pairs):
    texts, _ = verdict_of(*pairs, runs=facts_of(files=["mails.csv", "held.csv"]))
    assert "**`mails.csv` and `held.csv`** (accuracy, points; 120 dev examples: 72 `no`, 48 `yes`)" in texts[1]


def test_each_comparison_has_its_line_the_best_first_in_its_group(tmp_path):
    made = MadeStudy(tmp_path / "study")
    for method, skill in (("full", 0.7), ("lora", 0.9), ("bitfit", 0.95), ("head", 0.3)):
        made.cell("topics", method, {seed: predictions("topics", skill, method, seed) for seed in SEEDS})
    texts, _ = verdict_of(*cells_of(made.finish(), tmp_path))
    lines = [text for text in texts if ": ahead of full" in text or ": behind full" in text]
    assert [line.split()[0] for line in lines] == ["**bitfit", "**lora", "**head"]
    assert all(line.count(" (95 % ") == 1 and line.endswith(").") for line in lines)


def test_another_metric_with_another_order_is_told(tmp_path):
    """By accuracy the constant `no` wins over a balanced method that is often wrong; by F1 it does not."""
    made, right = MadeStudy(tmp_path / "study"), truth("choices")
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(120)
        wary, bold = right.copy(), right.copy()
        wary[[i for i in order if right[i] == 1][:40]] = 0  # finds 8 of the 48
        bold[[i for i in order if right[i] == 0][:45]] = 1
        made.cell("choices", "full", {seed: wary})
        made.cell("choices", "lora", {seed: bold})
    found, cells = cells_of(made.finish(), tmp_path)
    texts, _ = verdict_of(found, cells)
    f1 = {name: f"{100 * cells[f'choices/{name}'].scores('f1').mean():.2f}" for name in ("full", "lora")}
    assert f"**By f1 another method is ahead**: lora has {f1['lora']}, full {f1['full']}." in texts
    assert "By " not in "".join(verdict_of(*cells_of(make_pairs(tmp_path / "other", 8).finish(), tmp_path))[0])


@pytest.mark.parametrize(("factor", "trained", "told"), [(3.0, 5000, True), (1.5, 5000, False), (3.0, 100, False)])
def test_a_method_that_trains_more_but_fits_less_is_told(tmp_path, factor, trained, told):
    """Full tuning ends with a multiple of LoRA's loss over the last tenth of 40 steps."""
    made = MadeStudy(tmp_path / "study")
    for method, size in (("full", trained), ("lora", 400)):
        made.cell("topics", method, {s: predictions("topics", 0.9, method, s) for s in SEEDS}, trained=size)
    folder = made.finish()
    for method, last in (("full", 0.2 * factor), ("lora", 0.2)):
        for seed in SEEDS:
            rows = [{"step": i, "loss": 5.0 if i <= 36 else last, "grad_norm": 1.0} for i in range(1, 41)]
            path = folder / f"runs/topics/{method}/seed={seed}/train.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts, _ = verdict_of(*cells_of(folder, tmp_path))
    line = f"full ends with a training loss of {0.2 * factor:.2g}, lora with 0.2. More steps or another learning rate"
    assert (line in "".join(texts)) == told and ("fits the training examples less" in "".join(texts)) == told
