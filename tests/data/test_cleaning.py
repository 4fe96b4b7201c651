"""config.data.clean: what it finds and drops, and that nothing else changes."""

import csv

import glue_files
import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.core.ragged import Ragged
from fjt.data import cleaning
from fjt.data.glue import Split

ROWS = (
    ("one", "a"),
    (" one ", "a"),  # repeats it: blanks do not count
    ("One", "a"),  # case counts
    ("caf\u00e9", "b"),
    ("cafe\u0301", "b"),  # the same in another normal form
    ("two", "a"),
    ("two", "b"),  # contradicts it
    ("two", "a"),
    ("dev text", "a"),
    ("test text", "b"),
    ("three", "b"),
)
DEV = (("dev text", "b"), ("four", "a"), ("four", "a"))
TEST = (("test text", "a"), ("five", "b"))


def table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def load(folder, rows=ROWS, **options):
    files = [table(folder / f"{name}.csv", part) for name, part in (("train", rows), ("dev", DEV), ("test", TEST))]
    return glue_files.load_own(*files, **options)[1]


@pytest.mark.parametrize(
    ("names", "ids", "dropped"),
    [
        ((), range(11), {}),
        (("duplicates",), (0, 2, 3, 5, 6, 8, 9, 10), {"duplicates": 3}),
        (("conflicts",), (0, 1, 2, 3, 4, 8, 9, 10), {"conflicts": 3}),
        (("leaks",), (*range(8), 10), {"leaks": 2}),
        (("empty",), range(11), {"empty": 0}),
        (("duplicates", "conflicts", "leaks"), (0, 2, 3, 10), {"leaks": 2, "conflicts": 3, "duplicates": 2}),
        (("leaks", "conflicts", "duplicates"), (0, 2, 3, 10), {"leaks": 2, "conflicts": 3, "duplicates": 2}),
    ],
)
def test_rows_are_dropped_from_train_alone_and_counted(tmp_path, names, ids, dropped):
    splits, before = load(tmp_path, data__clean=names), load(tmp_path)
    assert splits["train"].id == tuple(map(str, ids)) and dict(splits["train"].dropped) == dropped
    assert sum(dropped.values()) == len(ROWS) - len(splits["train"])
    for name in ("dev", "test"):
        assert splits[name].text == before[name].text and splits[name].label.tolist() == before[name].label.tolist()


def test_an_empty_text_is_refused_unless_it_is_dropped(tmp_path):
    rows = (*ROWS, (" ", "a"), ("\u00a0", "b"))
    with pytest.raises(UserError, match="the text is empty"):
        load(tmp_path, rows)
    splits = load(tmp_path, rows, data__clean=("empty",))
    assert splits["train"].text == load(tmp_path)["train"].text and splits["train"].dropped == (("empty", 2),)
    table(tmp_path / "dev.csv", [*DEV, ("", "a")])
    with pytest.raises(UserError, match=r"dev\.csv:5: the text is empty"):
        glue_files.load_own(tmp_path / "train.csv", tmp_path / "dev.csv", data__clean=("empty",))


def test_of_a_pair_both_texts_count():
    split = Split(("0", "1", "2", "3"), ("a", "a", "b", "a"), ("b", "c", "a", None), np.zeros(4, np.int32))
    assert cleaning.keys_of(split) == [("a", "b"), ("a", "c"), ("b", "a"), ("a",)]
    assert not cleaning.find_duplicates(cleaning.keys_of(split), split.label).any()
    assert cleaning.find_empty([("a", ""), ("a", "b"), ("",)]).tolist() == [True, False, True]


def test_tags_of_words_are_compared_as_a_whole():
    label = Ragged.of([[0, 1], [0, 1], [0, 2]], np.int32)
    keys = cleaning.keys_of(Split(("0", "1", "2"), ("a b",) * 3, None, label, words=(("a", "b"),) * 3))
    assert cleaning.find_duplicates(keys, label).tolist() == [False, True, False]
    assert cleaning.find_conflicts(keys, label).all()


@pytest.mark.parametrize("names", [("leaks",), ("duplicates", "leaks", "conflicts", "empty")])
def test_held_out_rows_are_clean_and_leak_into_no_training_row(tmp_path, names):
    """Each text is there four times, so that a draw of rows surely parts some of them."""
    rows = [(f"text {i % 50}", "ab"[i % 2]) for i in range(200)]
    table(tmp_path / "train.csv", [*rows, ("test text", "a")])
    table(tmp_path / "test.csv", TEST)
    made = dict(test=tmp_path / "test.csv", data__holdout=0.2)
    before = glue_files.load_own(tmp_path / "train.csv", **made)[1]
    assert set(before["train"].text) & set(before["dev"].text), "otherwise this test shows nothing"
    splits = glue_files.load_own(tmp_path / "train.csv", **made, data__clean=names)[1]
    assert not set(splits["train"].text) & set(splits["dev"].text)
    assert "test text" not in splits["train"].text + splits["dev"].text
    assert sum(dict(splits["train"].dropped).values()) == 201 - len(splits["train"]) - len(splits["dev"])


def test_a_limit_draws_from_the_clean_rows(tmp_path):
    splits = load(tmp_path, data__clean=("duplicates", "conflicts", "leaks"), data__limit=4)
    assert len(splits["train"]) == 4 and dict(splits["train"].dropped)["duplicates"] == 2
    with pytest.raises(UserError, match="more than the 4 training examples"):
        load(tmp_path, data__clean=("duplicates", "conflicts", "leaks"), data__limit=5)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.clean: 'duplicate' is unknown\. Did you mean duplicates"):
        load(tmp_path, data__clean=("duplicate",))
    with pytest.raises(UserError, match=r"leaves none of the 2 training rows \(leaks 2\)"):
        load(tmp_path, [("dev text", "a"), ("test text", "b")], data__clean=("leaks",))
