"""How far seeds agree: by hand for runs, and in the tables and files of a study's report."""

import csv

import numpy as np
import pytest
from made_study import cells_of, predictions, truth
from read_report import rows_of

from fjt.core.ragged import Ragged
from fjt.reports import agreement
from fjt.tasks.kinds import find_problem

SEEDS = range(8)


def test_consistency_of_examples_by_hand():
    """Of three runs, all three pairs agree, or one of them; a tagged row is one example."""
    problem = find_problem("classification")
    runs = [np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([0, 0, 1, 0])]
    found = agreement.agreement(problem, runs, np.array([1, 0, 1, 0]))
    assert found.runs == 3 and found.consistency.tolist() == pytest.approx([1, 1 / 3, 1, 1 / 3])
    assert found.right.tolist() == pytest.approx([0, 2 / 3, 1, 1 / 3])
    assert agreement.agreement(problem, runs[:1], runs[0]) is None
    assert agreement.agreement(find_problem("regression"), [np.zeros(3), np.ones(3)], np.zeros(3)) is None
    tags = [Ragged(np.array(values), np.array([0, 2, 2, 3])) for values in ([0, 1, 1], [0, 0, 1])]
    found = agreement.agreement(find_problem("tagging"), tags, tags[1])
    assert found.consistency.tolist() == [0, 1, 1] and found.right.tolist() == [0.5, 1, 1]


def of_lora():
    """bool[n, m] predictions of the runs that did not diverge."""
    return np.stack([predictions("choices", 0.85, "lora", 4, s) for s in SEEDS if s != 5])


def test_agreement_of_seeds_by_hand(written):
    """A run that diverged counts in no pair; one that collapsed does."""
    table = rows_of(written[1], "Agreement of seeds")
    ones = of_lora().sum(axis=0)
    churn = np.mean(ones * (7 - ones) / (7 * 6 / 2))  # pairs that differ, of all pairs
    row = table["lora, rank=4"]
    assert row["n"] == "7" and table["head"]["n"] == "8 ¹"
    assert "¹ Of these runs, 1 collapsed: they agree because" in written[1]
    assert row["predictions that differ between two seeds, %"] == f"{100 * churn:.2f}"
    assert row["predictions that all seeds share, %"] == f"{100 * np.mean((ones == 0) | (ones == 7)):.2f}"


def test_the_file_of_examples_by_hand(written, folder, tmp_path):
    """One row per example of dev, one pair of columns per method; scores have no file."""
    lora = cells_of(folder, tmp_path)[1]["choices/lora/tune.rank=4"]
    files = sorted(path.name for path in (written[0] / "consistency").iterdir())
    assert files == [f"{lora.dev}.csv"]
    with open(written[0] / "consistency" / files[0], newline="") as file:
        rows = list(csv.DictReader(file))
    runs, label = of_lora(), truth("choices")
    ones = runs.sum(axis=0)
    same = 1 - ones * (7 - ones) / 21
    assert [row["id"] for row in rows] == lora.ids.tolist()
    assert [row["label"] for row in rows] == [lora.facts.label_names[i] for i in label]
    found = np.array([[float(row[f"{lora.name} {part}"]) for part in ("consistency", "right")] for row in rows])
    np.testing.assert_allclose(found, np.stack([same, (runs == label).mean(axis=0)], axis=1), atol=1e-15)


def test_the_examples_on_which_seeds_agree_least(folder, tmp_path):
    """Means over the cells, the least one first, none on which all agree."""
    of_study = cells_of(folder, tmp_path)[1].values()
    cells = [cell for cell in of_study if cell.task == "choices"]
    table = agreement.least_table(cells)
    every = [found for cell in cells if not cell.failed.all() and (found := agreement.agreement_of(cell))]
    mean = np.mean([found.consistency for found in every], axis=0)
    right = np.mean([found.right for found in every], axis=0)
    order = np.argsort(mean, kind="stable")[: agreement.MOST_EXAMPLES]
    assert [row[0] for row in table.rows] == [f"`{cells[0].ids[i]}`" for i in order]
    assert [row[2] for row in table.rows] == [f"{100 * mean[i]:.1f}" for i in order]
    assert [row[3] for row in table.rows] == [f"{100 * right[i]:.1f}" for i in order]
    marks = [cell for cell in of_study if cell.task == "marks"]
    assert marks and agreement.least_table(marks) is None
