"""A study's report: its numbers, the same bytes from either source, what it warns of."""

import ast
import csv
import html.parser
import json
import math

import numpy as np
import pytest
from made_study import (
    BEGUN,
    DIVERGED,
    MISSING,
    MadeStudy,
    cells_of,
    make_pairs,
    predictions,
    records_of,
    truth,
    write_study,
)

from configs import seed_sweep
from fjt import jackknife, metrics, plans, report, statistics, study
from fjt.reports import committed, contents, gather, sections
from fjt.reports.cells import CROSSED, costs, edges, make_cells, make_trials, summarize, variance_parts
from fjt.reports.comparisons import make_comparisons
from fjt.reports.figures import draw_best, fewer, pareto, styles

SEEDS = range(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a study of two tasks, whole."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def written(folder):
    """(where its report is, the report's Markdown)."""
    output, _ = report.report(folder)
    return folder / "report", (folder / "report" / "report.md").read_text() if output else ""


def rows_of(markdown, heading, task="choices"):
    """{first column: {column: text}} of the table below a heading of a task's section."""
    part = markdown.split(f"\n## {task}\n")[1].split("\n## ")[0].split(f"### {heading}\n")[1]
    lines = [line.strip("| ").split(" | ") for line in part.split("### ")[0].splitlines() if line.startswith("|")]
    return {line[0]: dict(zip(lines[0], line, strict=False)) for line in lines[2:]}


def every_file(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def accuracies(method, *axes, skill):
    return np.array([np.mean(predictions("choices", skill, method, *axes, s) == truth("choices")) for s in SEEDS])


def test_both_sources_give_the_same_bytes(written, tmp_path):
    first = every_file(written[0])
    report.report(written[0], tmp_path / "again")
    assert every_file(tmp_path / "again") == first
    assert set(first) >= {"report.md", "report.html", "cells.csv", "comparisons.csv", "runs.csv", "predictions.npz"}
    for name in ("scores", "costs", "rates", "curves", "best"):
        assert first[f"figures/choices-{name}.png"].startswith(b"\x89PNG")
        assert b"<svg" in first[f"figures/marks-{name}.svg"]


def test_what_is_committed_names_no_machine(folder, written):
    for name, content in every_file(written[0]).items():
        assert b"somewhere" not in content and b"private" not in content and str(folder).encode() not in content, name
    with np.load(written[0] / "predictions.npz") as arrays:
        assert "private" not in str(arrays["facts"]) and "minilm" in str(arrays["facts"])
    assert "`python -m fjt.sweep --config configs/made.py --workdir DIR --config.model.path=minilm`" in written[1]


def test_scores_by_hand(written):
    """A collapsed run says 0 alone, and 72 of 120 labels are 0; a diverged one counts as such."""
    table = rows_of(written[1], "Scores: accuracy")
    head = accuracies("head", skill=0.7)
    head[2] = 72 / 120
    row = table["head"]
    assert row["finished/ started"] == "8/8" and (row["collapsed"], row["diverged"]) == ("1", "0")
    assert row["accuracy, points: mean ± sd"] == f"{100 * head.mean():.2f} ± {100 * head.std(ddof=1):.2f}"
    sound = np.delete(head, 2)
    assert row["without those that failed"] == f"{100 * sound.mean():.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
    assert (row["median"], row["best"]) == (f"{100 * np.median(head):.2f}", f"{100 * head.max():.2f}")
    half = 2.4469 * sound.std(ddof=1) / math.sqrt(7)  # Student's t of 6 degrees of freedom
    assert (
        row["95 %: new seeds, this dev set"]
        == f"{100 * (sound.mean() - half):.2f} to {100 * (sound.mean() + half):.2f}"
    )
    lora = accuracies("lora", 4, skill=0.85)
    lora[5] = 72 / 120
    row = table["lora, rank=4"]
    assert row["finished/ started"] == "7/8" and (row["collapsed"], row["diverged"]) == ("0", "1")
    assert row["accuracy, points: mean ± sd"] == f"{100 * lora.mean():.2f} ± {100 * lora.std(ddof=1):.2f}"
    assert row["worst"] == "60.00" and table["full"]["without those that failed"] == "the same"
    assert "`runs/choices/head/seed=2` (always `no`)" in written[1]
    assert "`runs/choices/lora/tune.rank=4/seed=5` (the loss of step 8 is nan" in written[1]
    assert rows_of(written[1], "Scores: f1")["head"]["worst"] == "0.00"
    assert "No run collapsed or diverged." in written[1].split("\n## marks\n")[1]


def test_intervals_are_those_of_statistics(folder, written, tmp_path):
    _, cells = cells_of(folder, tmp_path)
    cell = cells["choices/lora/tune.rank=4"]
    predicted = np.stack([predictions("choices", 0.85, "lora", 4, s) if s != 5 else np.zeros(120, int) for s in SEEDS])
    failed = np.arange(8) == 5
    assert (cell.predicted == predicted).all() and (cell.failed == failed).all()
    for metric in ("accuracy", "f1"):
        table = jackknife.pseudo_values(metric, predicted, truth("choices"))
        wanted = statistics.crossed_interval(cell.scores(metric), table, failed, (0, 1))
        assert summarize(cell, metric)["new_examples"] == wanted
        text = f"{100 * wanted.low:.2f} to {100 * wanted.high:.2f}"
        row = rows_of(written[1], f"Scores: {metric}")["lora, rank=4"]
        assert row["95 %: new seeds, new examples"] == text


def test_comparisons_by_hand(written):
    table = rows_of(written[1], "Against full")
    a, b = accuracies("lora", 2, skill=0.85), accuracies("full", skill=0.9)
    d, row = a - b, table["lora, rank=2"]
    assert (row["minus"], row["n"]) == ("full", "8")
    assert row["accuracy, points: mean ± sd of differences"] == f"{100 * d.mean():+.2f} ± {100 * d.std(ddof=1):.2f}"
    assert row["correlation over seeds"] == f"{np.corrcoef(a, b)[0, 1]:+.2f}"
    wins = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
    assert row["probability of improvement"] == f"{wins:.2f}"
    # Head is worse with all 8 seeds, LoRA of rank 4 as well: 2 of 256 signs; the first of three tests triples it.
    assert table["head"]["p, adjusted"] == f"{3 * 2 / 256:.3f}"
    needed = statistics.seeds_needed(d, np.zeros(8, bool), 0.01)
    assert row["seeds to see 1 point (95 %)"] == f"{needed.estimate:.0f} ({needed.low:.0f} to {needed.high:.0f})"
    head = accuracies("head", skill=0.7)
    head[2] = 0.6
    sound = np.delete(head - b, 2)
    row = table["head"]
    assert row["without those that failed"] == f"{100 * sound.mean():+.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
    assert row["95 %: new seeds, this dev set"].startswith(
        f"{100 * (sound.mean() - 2.4469 * sound.std(ddof=1) / 7**0.5):+.2f}"
    )


def test_a_family_is_one_task_or_the_study(folder, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    for family, size in (("task", 3), ("study", 6)):
        study = found.facts["study"] | {"family": family, "alpha": 0.5}
        facts = found.facts | {"study": study, "declared": study}
        comparisons, alone = make_comparisons(list(cells.values()), facts)
        assert not alone and len(comparisons) == 6
        least = min(one.p for one in comparisons)
        assert least == pytest.approx(size * 2 / 256)
        rows = [one.differences for one in comparisons if family == "study" or one.cell.task == "marks"]
        assert statistics.sign_flip_family(rows, 0.5) == pytest.approx([one.p for one in comparisons][-len(rows) :])


def test_what_it_takes(folder, written, tmp_path):
    row = rows_of(written[1], "What it takes")["lora, rank=4"]
    assert (row["n"], row["parameters that train"], row["of these added"]) == ("7", "410", "400")
    assert (row["steps"], row["GFLOP of all steps"], row["of `full`"]) == ("40", "80.0", "66.7%")
    assert (row["Adam's moments"], row["seconds for hidden states, all runs"]) == ("3.2 KiB", "-")
    assert row["training seconds: median (lowest to highest)"] == "23.0 (20.0 to 27.0)"  # 20 + seed, without seed 5
    assert (row["values"], row["looks at dev a run"]) == ("learning_rate 0.01 (chosen)", "1")
    _, cells = cells_of(folder, tmp_path)
    assert costs(cells["choices/head"], None)["of_full"] is None


def test_trials_and_their_warnings(folder, written, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    trials = make_trials(cells["choices/full"], found)
    assert [trial.values["optim.learning_rate"] for trial in trials] == ["0.0001", "0.001", "0.01"]
    assert [trial.chosen for trial in trials] == [trial.best for trial in trials] == [False, True, False]
    assert edges(trials) == []
    scores = [row["metrics.accuracy"] for row in trials[1].rows]
    assert trials[1].mean == pytest.approx(np.mean(scores)) and trials[1].sd == pytest.approx(np.std(scores, ddof=1))
    assert edges(make_trials(cells["choices/head"], found)) == [("optim.learning_rate", "0.001", "highest", 2)]
    top = written[1].split("## Overview")[0]
    assert "scored on 10% of the training rows, held out: 120 rows of choices, 120 rows of marks." in top
    assert "head (optim.learning_rate 0.001, the highest of 2)" in top and "full (optim" not in top
    assert (
        "unequal numbers of trials, and more find more: 3 for full; 3 for lora, rank=2; 3 for lora, rank=4; 2 for"
        in top
    )


def test_a_choice_that_was_not_the_best_is_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.trials(
        "choices", "full", "optim.learning_rate", {1e-3: {1000: 0.9}, 1e-2: {1000: 0.5}, 1e-1: {1000: DIVERGED}}
    )
    right, rates = predictions("choices", 0.8, 0), (1e-3, 1e-2, 1e-1)
    made.cell("choices", "full", {0: right}, open_={"optim.learning_rate": rates}, chosen={"optim.learning_rate": 1e-2})
    found, cells = cells_of(made.finish(), tmp_path)
    table, warnings = sections.trial_table(list(cells.values()), "accuracy", found, lambda cell: cell.method)
    assert warnings == ["choices: not all reported runs of full took the trial that scored best."]
    assert table.rows[2][2:4] == ("0/1", "- ± -")


def comparisons_of(folder, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    return make_comparisons(list(cells.values()), found.facts)[0]


def test_more_seeds_than_planned_have_no_p(tmp_path):
    made = make_pairs(tmp_path / "study", 8)
    made.planned = 6
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert "8 seeds are in both cells, and 6 were planned of each cell" in one.p and one.new_seeds.n == 8


def test_fewer_seeds_than_planned_have_no_p(tmp_path):
    """Of either cell; a run that diverged has its seed's score."""
    made = make_pairs(tmp_path / "study", 7)
    made.cell("choices", "head", {7: DIVERGED})
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert "7 seeds are in both cells, and 8 were planned of each cell" in one.p
    planned = {"choices/full": 8, "choices/head": 7}
    (one,) = comparisons_of(made.finish(planned_seeds=planned), tmp_path)
    assert "7 were planned of choices/head and 8 of choices/full" in one.p
    assert (
        "7 to 8 seeds of a cell were planned"
        in contents.family_text([one], records_of(made.folder, tmp_path).facts).text
    )
    made.cell("choices", "full", {7: predictions("choices", 0.9, "full", 7)})
    (one,) = comparisons_of(made.finish(), tmp_path)
    assert one.n == 8 and one.p < 0.05


@pytest.mark.parametrize(("key", "before"), [("baseline", "''"), ("family", "'study'"), ("alpha", "0.01")])
def test_what_is_declared_after_a_result_gives_no_p(tmp_path, key, before):
    made = make_pairs(tmp_path / "study", 8)
    declared = {name: made.study[name] for name in plans.DECLARED} | {key: ast.literal_eval(before)}
    (one,) = comparisons_of(made.finish(declared=declared), tmp_path)
    assert one.p.startswith(f"config.study.{key} was {before} and is {made.study[key]!r}: what a test asks")
    assert one.new_seeds.n == 8


def test_of_an_older_plan_the_seeds_are_counted(tmp_path):
    made = make_pairs(tmp_path / "study", 7)
    made.finish()
    plan = json.loads((made.folder / "plan.json").read_text())
    del plan["planned_seeds"], plan["declared"]
    (made.folder / "plan.json").write_text(json.dumps(plan | {"confirmatory_seeds": 8}))
    (one,) = comparisons_of(made.folder, tmp_path)
    assert one.p < 0.05
    facts = records_of(made.folder, tmp_path).facts
    assert "; 7 seeds were planned" in contents.family_text([one], facts).text


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
    table = sections.comparison_table(comparisons, "accuracy", lambda cell: cell.method)
    assert [note for note in table.notes if "Run 6 seeds" in note] == [comparisons[0].p]
    scores = sections.score_table(cells, "accuracy", lambda cell: cell.method)
    assert len(scores.notes) == 1 and "needs 5: run more seeds" in scores.notes[0]
    assert [row[3] for row in scores.rows] == ["- [1]", "- [1]"]


def test_a_study_in_progress(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "head", {6: BEGUN, 7: MISSING})
    made.cell("choices", "lora", {seed: MISSING for seed in range(8)})
    made.trials("choices", "lora", "optim.learning_rate", {1e-3: {1000: BEGUN, 1001: MISSING}})
    output, cells = report.report(made.finish())
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "**12 of 13 reported runs finished**" in text
    assert "10 reported and 2 tuning runs have not ended, 2 of these begun" in text
    table = rows_of(text, "Scores: accuracy")
    assert table["head"]["finished/ started"] == "6/7" and table["lora"]["finished/ started"] == "0/0"
    assert "None of 0 runs has a score" in text and "10 runs of these comparisons have not ended" in text
    assert output.endswith("report") and len(cells) == 3


def test_runs_of_earlier_configs_are_reported_and_never_waited_for(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "lora", {0: MISSING, 1: predictions("choices", 0.9, "lora", 1)})
    active = [name for name in made.active if "lora" not in name]
    found = records_of(made.finish(active=active), tmp_path)
    assert [row["run"] for row in found.rows if not row["asked"]] == ["runs/choices/lora/seed=1"]
    assert contents.progress(found) == []
    assert "Of these runs, 1 were asked for by earlier configs" in "".join(contents.what_was_run(found))


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
    wanted = statistics.variance_parts(table)
    assert variance_parts(cell, "accuracy") == dict(zip(("seeds.init", "seeds.data", "rest"), wanted, strict=True))
    assert summarize(cell, "accuracy")["new_seeds"] == CROSSED
    assert contents.fixed_seeds(found)[0].startswith("All reported runs have the same seeds.dropout: what is said")
    shown = sections.parts_table([cell], "accuracy", lambda cell: cell.method).rows
    assert shown[0][:4] == ("full", "25", "seeds.init", f"{100 * wanted[0].estimate ** 0.5:.2f}")
    assert contents.seeds_text(found.rows) == "seeds.init 0 to 4 and seeds.data 10 to 14"


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
    for run in study.make_runs(*study.read(config)):
        seeds = tuple((key, value) for key, value in run.values if key.startswith("seeds."))
        skill = 0.8 + 0.02 * dict(seeds)["seeds.init"]
        made.cell("choices", "full", {seeds: predictions("choices", skill, *map(str, seeds))})
    found, cells = cells_of(made.finish(), tmp_path)
    cell = cells["choices/full"]
    assert contents.fixed_seeds(found) == [] == contents.fixed_seeds(records_of(write_study(tmp_path / "s"), tmp_path))
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
    assert "runs/marks/full/seed=3` (always 0.25)" in sections.failures([cell])[0].text
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
        scores = {name: metrics.METRICS[name](official[seed], truth("choices")) for name in ("accuracy", "f1")}
        result["splits"]["official_dev"] = scores
        (path / "result.json").write_text(json.dumps(result))
    found, cells = cells_of(folder, tmp_path)
    wanted = [np.mean(one == truth("choices")) for one in official]
    np.testing.assert_allclose(cells["choices/full"].scores("accuracy"), wanted)
    assert {row["looks"] for row in found.rows} == {1}
    assert found.rows[0]["splits.dev.accuracy"] == pytest.approx(
        np.mean(predictions("choices", 0.95, 0) == truth("choices"))
    )


def test_a_step_that_is_chosen_on_dev_itself_is_warned_of(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "full", {seed: predictions("choices", 0.9, seed) for seed in SEEDS}, looks=3)
    folder = made.finish()
    for seed in SEEDS:
        path = folder / f"runs/choices/full/seed={seed}/config.json"
        path.write_text(path.read_text().replace('"select": "last"', '"select": "best"'))
    found = records_of(folder, tmp_path)
    (warning,) = contents.chosen_on_dev(found)
    assert "8 reported runs took the step that scores best on dev itself" in warning and "3 looks" in warning
    assert contents.chosen_on_dev(records_of(make_pairs(tmp_path / "last", 3).finish(), tmp_path)) == []


def test_what_hidden_states_take_stands_apart(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "head", {seed: predictions("choices", 0.9, seed) for seed in SEEDS})
    folder = made.finish()
    for seed in SEEDS:
        path = folder / f"runs/choices/head/seed={seed}/result.json"
        more = {"hidden_seconds": 15.0 * (seed == 0), "start_layer": 6, "lanes": 4}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    _, cells = cells_of(folder, tmp_path)
    table = sections.cost_table(list(cells.values()), lambda cell: cell.method)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row[">seconds for hidden states, all runs"] == "15.0 [2]"
    assert row[">training seconds: median (lowest to highest)"] == "10.0 (10.0 to 10.0) [1]"
    assert list(table.notes) == [sections.LANES, sections.HIDDEN]


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
    assert one.mean > 0 and one.improvement < 0.5 and "mse has no points" in one.needed and one.p < 0.05


def test_regressions_that_diverge_correlate_with_nothing(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.cell("marks", "full", {0: predictions("marks", 0.9, 0), 1: DIVERGED})
    _, cells = cells_of(made.finish(), tmp_path)
    assert cells["marks/full"].scores("pearson")[1] == cells["marks/full"].scores("spearman")[1] == 0.0


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


def test_environments_that_disagree_are_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for seed in range(3):
        facts = {"device": "another", "jax": "0.10.3"} if seed == 2 else {}
        made.cell("choices", "full", {seed: predictions("choices", 0.9, seed)}, **facts)
    found = records_of(made.finish(), tmp_path)
    assert contents.disagreements(found) == [
        "The runs had several kinds of device: a processor (2 runs) and another (1 run); times are not comparable.",
        "The runs had several versions of jax: 0.10.2 (2 runs) and 0.10.3 (1 run); scores may differ by more than "
        "seeds.",
    ]
    assert "jax 0.10.2 (2 runs) and 0.10.3 (1 run)" in "".join(contents.what_was_run(found))


def test_files_that_do_not_belong_together_are_refused(folder, written, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "runs.csv").write_bytes((written[0] / "runs.csv").read_bytes())
    assert report.main(["report", str(other)]) == 2
    assert "predictions.npz is missing, beside runs.csv" in capsys.readouterr().err
    committed.save(gather.read(make_pairs(tmp_path / "study", 2).finish()), tmp_path)
    whole = (tmp_path / "predictions.npz").read_bytes()
    for content in (b"", b"words", whole[: len(whole) // 2]):
        (other / "predictions.npz").write_bytes(content)
        assert report.main(["report", str(other)]) == 2
        assert "is not of a study" in capsys.readouterr().err
    (other / "predictions.npz").write_bytes(whole)
    assert report.main(["report", str(other), "--output", str(tmp_path / "out")]) == 2
    assert "do not belong together" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_rows_come_back_as_they_were(folder, tmp_path):
    before = gather.read(folder)
    committed.save(before, tmp_path)
    after = committed.load(tmp_path)
    with open(tmp_path / "runs.csv", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    for old, new in zip(before.rows, after.rows, strict=True):
        for key in columns:
            if key in old and key not in ("optim.learning_rate", "tune.rank"):  # text there
                assert new[key] == (None if old[key] == "" else old[key]), key
    assert after.facts == before.facts
    for name, parts in before.dev.items():
        assert all((parts[part] == after.dev[name][part]).all() for part in parts)
    assert all(
        (a == b).all() for name in before.curves for a, b in zip(before.curves[name], after.curves[name], strict=True)
    )


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href"):
                self.links.append(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(written):
    page = Page()
    page.feed((written[0] / "report.html").read_text())
    assert not page.open and page.tags >= {"svg", "table", "figure", "figcaption"} and "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_of_many_cells_the_best_of_each_method_is_drawn(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for rank in range(1, 10):
        made.cell("choices", "lora", {0: predictions("choices", 0.5 + 0.04 * rank, rank)}, {"tune.rank": rank})
    cells = make_cells(records_of(made.finish(), tmp_path))
    assert fewer(cells, "accuracy") is cells
    made.cell("choices", "head", {0: DIVERGED, 1: MISSING})
    cells = make_cells(records_of(made.finish(), tmp_path))
    best = max(cells[:9], key=lambda cell: cell.scores("accuracy").mean())
    assert fewer(cells, "accuracy") == [best, cells[9]]


def test_the_front_is_what_nothing_beats_for_less():
    points = [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (4, 0.7), (5, 0.9)]
    assert pareto(points, 1) == [(1, 0.5), (3, 0.7), (5, 0.9)]
    assert pareto(points, -1) == [(1, 0.5), (2, 0.4)]
