"""The tables and scores of benchmarks, by hand."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import common, find_lr, intervals, multilabel, search

SAMPLE = """\
Ann\tB-person
Lee\tI-person
likes\tO
Rome\tB-location
\t
no\tO
names\tO

Bo\tB-person
and\tO
Cy\tB-person
read\tO
Ulysses\tB-creative-work
"""
ROWS = [
    {"text": "Ann Lee likes Rome", "label": ["location", "person"]},
    {"text": "no names", "label": []},
    {"text": "Bo and Cy read Ulysses", "label": ["creative-work", "person"]},
]


def test_sentences_of_wnut_are_rows_with_sets_of_entity_types(tmp_path):
    """A line of blanks ends a sentence too, as in the published file; the last sentence needs no blank line."""
    (tmp_path / "wnut17").mkdir()
    for file in multilabel.FILES.values():
        (tmp_path / "wnut17" / file).write_text(SAMPLE, encoding="utf-8")
    tables = multilabel.write_tables(tmp_path, tmp_path / "tables")
    assert tables == dict.fromkeys(("train", "dev", "test"), ROWS)
    lines = (tmp_path / "tables" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    np.testing.assert_array_equal(multilabel.indicators(ROWS), [[0, 0, 0, 1, 1, 0], [0] * 6, [0, 1, 0, 0, 1, 0]])
    found = multilabel.count(ROWS)
    assert (found["all"], found["none"], found["person"], found["location"], found["group"]) == (3, 1, 2, 1, 0)


def test_scores_of_sets_by_hand():
    """person: 1 hit, 1 miss; location: 1 hit, 1 false alarm; creative-work: 1 miss; the other labels never occur."""
    chosen = np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    found = multilabel.score(multilabel.indicators(ROWS), chosen)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 6)
    assert found["f1"]["person"] == pytest.approx(2 / 3) and found["f1"]["creative-work"] == 0.0
    np.testing.assert_array_equal(multilabel.choose(np.float32([[0.0, -0.01, 5.0]])), [[1, 0, 1]])


def test_the_record_of_intervals_is_one_that_passed():
    folder = common.ROOT / "results/toolbox"
    record = common.read_json(folder / "intervals.json")
    assert intervals.passed(record) and {row["shape"] for row in record["rows"]} == set(intervals.SHAPES)
    assert intervals.table(record) == (folder / "intervals.md").read_text()
    first = next(row for row in record["rows"] if row["of"] == "score")
    total = int(first["held"].split("/")[2])
    assert not intervals.passed(record | {"rows": [first | {"held": f"{total // 2}/{total}/{total}"}]})


def test_rules_of_the_range_test_by_hand():
    """The loss is lowest at step 59, and the test ends at step 99."""
    rates = [10 ** (-6 + i / 20) for i in range(100)]
    losses = [1.0] * 40 + [0.9 - 0.02 * i for i in range(20)] + [0.6] * 40
    points = [find_lr.Point(rate, loss, loss) for rate, loss in zip(rates, losses, strict=True)]
    assert find_lr.lowest(points) == rates[59] and find_lr.divergence(points) == rates[99]
    assert find_lr.RULES["lowest loss / 10"](points) == pytest.approx(rates[59] / 10)
    assert rates[40] <= find_lr.RULES["steepest fall"](points) <= rates[56]


def test_the_best_score_so_far_counts_a_trial_without_one_as_nothing():
    assert search.best_so_far([0.2, None, 0.5, 0.1]) == [0.2, 0.2, 0.5, 0.5]
    assert search.best_so_far([None, 0.1]) == [0.0, 0.1]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_recorded_command_has_no_paths_of_a_machine(tmp_path, kind):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    args = argparse.Namespace(
        model=str(tmp_path), data=kind(tmp_path), output=kind(tmp_path / "out"), workdir=kind("runs/x")
    )
    command = common.provenance("tests.benchmarks.some", args)["command"]
    assert command == "python -m tests.benchmarks.some --model $MODEL --data $DATA --output out --workdir runs/x"
