"""The tables of costs and of trials, and the warnings about choices."""

import json

import numpy as np
import pytest
from made_study import DIVERGED, MadeStudy, cells_of, predictions
from read_report import rows_of

from fjt.reports.cells import costs
from fjt.reports.cost_tables import HIDDEN, LANES, cost_table, trial_table
from fjt.reports.tuning_trials import edges, make_trials

SEEDS = range(8)


def test_what_it_takes(folder, written, tmp_path):
    row = rows_of(written[1], "Costs")["lora, rank=4"]
    assert (row["n"], row["trainable parameters"], row["added parameters"]) == ("7", "410", "400")
    assert (row["steps"], row["GFLOP of all steps"], row["of `full`"]) == ("40", "80.0", "66.7%")
    assert row["Adam's moments"] == "3.2 KiB"
    assert row["training seconds: median (lowest to highest)"] == "23.0 (20.0 to 27.0)"  # 20 + seed, without seed 5
    assert (row["values"], row["looks at dev per run"]) == ("learning_rate 0.01 (chosen)", "1")
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
        "unequal numbers of trials, which favours methods with more: 3 for full; 3 for lora, rank=2; "
        "3 for lora, rank=4; 2 for" in top
    )


def test_a_choice_that_was_not_the_best_is_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.trials(
        "choices", "full", "optim.learning_rate", {1e-3: {1000: 0.9}, 1e-2: {1000: 0.5}, 1e-1: {1000: DIVERGED}}
    )
    right, rates = predictions("choices", 0.8, 0), (1e-3, 1e-2, 1e-1)
    made.cell("choices", "full", {0: right}, open_={"optim.learning_rate": rates}, chosen={"optim.learning_rate": 1e-2})
    found, cells = cells_of(made.finish(), tmp_path)
    table, warnings = trial_table(list(cells.values()), found, lambda cell: cell.method)
    assert warnings == ["choices: not all reported runs of full use the trial with the best score."]
    assert table.rows[2][2:4] == ("0/1", "- ± -")


def test_the_seconds_for_hidden_states_are_shared_by_the_runs(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "head", {seed: predictions("choices", 0.9, seed) for seed in SEEDS})
    folder = made.finish()
    for seed in SEEDS:
        path = folder / f"runs/choices/head/seed={seed}/result.json"
        more = {"hidden_seconds": 15.0 * (seed == 0), "start_layer": 6, "lanes": 4}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    _, cells = cells_of(folder, tmp_path)
    table = cost_table(list(cells.values()), lambda cell: cell.method)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row[">training seconds: median (lowest to highest)"] == "11.9 (11.9 to 11.9) ¹ ²"  # 10 + 15 / 8
    assert list(table.notes) == [LANES, HIDDEN.format(15)]


def test_a_choice_among_constants_is_told(tmp_path):
    """The chosen trial says one thing for all held-out rows, and none is above such an answer."""
    made, rates = MadeStudy(tmp_path / "study", baseline=""), (1e-3, 1e-2)
    made.trials("choices", "full", "optim.learning_rate", {1e-3: {1000: 0.45}})
    made._add(
        "tuning",
        "choices/full",
        {"task": "choices", "tune.method": ["full"], "optim.learning_rate": 1e-2, "seed": 1000},
        {"optim.learning_rate": 1e-2, "seed": 1000},
        np.zeros(120, int),
        {},
        {"optim.learning_rate": 1e-2},
        "choices",
        "full",
    )
    right = predictions("choices", 0.8, 0)
    made.cell("choices", "full", {0: right}, open_={"optim.learning_rate": rates}, chosen={"optim.learning_rate": 1e-2})
    found, cells = cells_of(made.finish(), tmp_path)
    table, warnings = trial_table(list(cells.values()), found, lambda cell: cell.method)
    assert [row[4] for row in table.rows[:2]] == [table.rows[0][3].split()[0], "60.00 (collapsed)"]
    assert table.rows[2] == ("a constant", "", "", "60.00", "", "")
    assert warnings[0].startswith("choices: the chosen trial of full collapsed: its predictions for the held-out rows")
    assert "no trial of these methods has a higher accuracy than a constant" in warnings[1]
