"""The tables of scores and of comparisons, recomputed by hand."""

import math

import numpy as np
from made_study import cells_of, predictions, truth
from read_report import rows_of
from scores import pseudo_values

from fjt.reports import inference
from fjt.reports.cells import summarize

SEEDS = range(8)


def accuracies(method, *axes, skill):
    return np.array([np.mean(predictions("choices", skill, method, *axes, s) == truth("choices")) for s in SEEDS])


def test_scores_by_hand(written):
    """A collapsed run says 0 alone, and 72 of 120 labels are 0; a diverged one counts as such."""
    table = rows_of(written[1], "Scores: accuracy")
    head = accuracies("head", skill=0.7)
    head[2] = 72 / 120
    row = table["head"]
    assert row["finished/ started"] == "8/8" and (row["collapsed"], row["diverged"]) == ("1", "0")
    assert row["accuracy, points: mean ± sd"] == f"{100 * head.mean():.2f} ± {100 * head.std(ddof=1):.2f}"
    sound = np.delete(head, 2)
    assert row["without failed runs"] == f"{100 * sound.mean():.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
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
    assert row["worst"] == "60.00" and table["full"]["without failed runs"] == "the same"
    assert "`runs/choices/head/seed=2` (always `no`)" in written[1]
    assert "`runs/choices/lora/tune.rank=4/seed=5` (the loss of step 8 is nan" in written[1]
    assert rows_of(written[1], "Scores: f1")["head"]["worst"] == "0.00"
    verdict = written[1].split("\n## Verdict\n")[1].split("\n## ")[0]
    assert "No run collapsed or diverged." in verdict.split("**marks**")[1]


def test_intervals_are_those_of_statistics(folder, written, tmp_path):
    _, cells = cells_of(folder, tmp_path)
    cell = cells["choices/lora/tune.rank=4"]
    predicted = np.stack([predictions("choices", 0.85, "lora", 4, s) if s != 5 else np.zeros(120, int) for s in SEEDS])
    failed = np.arange(8) == 5
    assert (cell.predicted == predicted).all() and (cell.failed == failed).all()
    for metric in ("accuracy", "f1"):
        table = pseudo_values(metric, predicted, truth("choices"))
        wanted = inference.crossed_interval(cell.scores(metric), table, failed, (0, 1))
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
    p = "p, adjusted: new seeds, this dev set"
    # Head and LoRA of rank 4 are worse with all 8 seeds, 2 of 256 signs, and have failed runs; rank 2 is the third.
    assert table["head"][p] == "- ¹" and row[p] == f"{inference.sign_flip(d):.3f}"
    needed = inference.seeds_needed(d, np.zeros(8, bool), 0.01)
    assert row["seeds to see 1 point (95 %)"] == f"{needed.estimate:.0f} ({needed.low:.0f} to {needed.high:.0f})"
    head = accuracies("head", skill=0.7)
    head[2] = 0.6
    sound = np.delete(head - b, 2)
    row = table["head"]
    assert row["without failed runs"] == f"{100 * sound.mean():+.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
    assert row["95 %: new seeds, this dev set"].startswith(
        f"{100 * (sound.mean() - 2.4469 * sound.std(ddof=1) / 7**0.5):+.2f}"
    )
