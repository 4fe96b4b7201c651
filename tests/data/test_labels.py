"""Label cells: one spelling per label in every format, sets that look like mistakes, all bad rows in one message."""

import decimal
import json
import logging
import pathlib
import subprocess
import sys
from itertools import permutations

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from glue_files import load_own, refusal, write

from fjt.core.errors import UserError
from fjt.data import labels, tables
from fjt.data.labels import Cell
from fjt.tasks.kinds import find_problem

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SPELLINGS = {
    7: "7", 9.0: "9", "7.0": "7", " 7.00 ": "7", "7.": "7", decimal.Decimal("7.0"): "7", "-3.0": "-3", "0.0": "0",
    "007": "007", "1.10": "1.10", 2.5: "2.5", "v1.0": "v1.0", "True": "true", "FALSE": "false",
    "\ufeffgood": "good", "go\ufeffod ": "good", "\u00a0a b\u2003": "a b", "": "", float("nan"): "", None: "",
    1e300: "1e+300",
}  # fmt: skip


@pytest.mark.parametrize("value", SPELLINGS, ids=repr)
def test_a_label_has_one_spelling(value):
    name = labels.name_of(value, "t.csv:2")
    assert name == SPELLINGS[value] and labels.name_of(name, "t.csv:2") == name


def test_truth_is_no_number():
    assert [labels.name_of(value, "") for value in (True, False, np.float64(1).item())] == ["true", "false", "1"]


@pytest.mark.parametrize(
    "value", [["a"], {"a": 1}, b"a", "a\0b", "a\rb", "a\tb", "a\nb", "\udc80", "a\u2028b", "a\x85b"]
)
def test_what_names_nothing_is_refused_with_its_place(value):
    refusal("t.csv:2", call=lambda: labels.name_of(value, "t.csv:2"))
    refusal("t.csv:2", call=lambda: labels.id_of(value, "t.csv:2"))
    refusal("f:1", call=lambda: labels.unique_ids(["a", value], lambda row: f"f:{row}"))


@pytest.mark.parametrize("column", ["label", "id", "cluster"])
def test_a_text_is_no_label_id_or_cluster(tmp_path, column):
    """An array of names takes the longest one's room for each row."""
    row = {"text": "a", "label": "c", "id": "d", "cluster": "e"}
    path = write(tmp_path / "t.jsonl", *(json.dumps(row | {column: "b" * number}) for number in (1000, 1001)))
    refusal(
        *("t.jsonl:2", f"the {column} 'b", "1,001 characters", f"the column of the {column}s"),
        call=lambda: load_own(path, path, data__columns__id="id", data__columns__cluster="cluster"),
    )


def test_an_id_stays_as_it_is_written():
    assert [labels.id_of(i, "") for i in (" 7.0", "True", 7.0, 12, None)] == [" 7.0", "True", "7", "12", ""]


def save(path, values):
    """A table of the values as labels in the format of the suffix."""
    texts = [f"text {i}" for i in range(len(values))]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": values}), path)
    elif path.suffix == ".jsonl":
        rows = zip(texts, values, strict=True)
        write(path, *(json.dumps({"text": text, "label": label}) for text, label in rows))
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        write(path, f"text{separator}label", *(f"{text}{separator}{x}" for text, x in zip(texts, values, strict=True)))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("values", [[4, 30, 4], [4.0, 30.0, 4.0], [True, False, True]], ids=str)
def test_each_format_gives_the_same_classes(suffix, values, tmp_path):
    """Train is in the format, dev in CSV, where numbers are text."""
    plain = save(tmp_path / "dev.csv", [str(value).lower() for value in values])
    task, splits = load_own(save(tmp_path / f"train{suffix}", values), plain)
    assert task.label_names == (("false", "true") if values[0] is True else ("4", "30"))
    np.testing.assert_array_equal(splits["train"].label, splits["dev"].label)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_number_of_few_bits_is_the_text_of_those_bits(bits, tmp_path):
    values = pyarrow.array(
        np.array([0.1, 2.75, np.nan, 0.1], f"f{bits // 8}"), mask=np.array([False, False, False, True])
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": list("abcd"), "label": values}), tmp_path / "t.parquet")
    rows = tables.read(tmp_path / "t.parquet", {"label": "label"})
    assert [labels.name_of(value, "") for value in rows.values["label"]] == ["0.1", "2.75", "", ""]


ASKED = {
    "case": ("Spam", "spam", "ham"),
    "inner blanks": ("new  york", "new york"),
    "another blank": ("new\u00a0york", "new york"),
    "composed accents": ("caf\u00e9", "cafe\u0301", "bar"),
    "wide letters": ("\uff41\uff42", "ab"),
    "an invisible character": ("ab\u200b", "ab"),
    "a sharp s": ("stra\u00dfe", "STRASSE"),
    "another form of a number": ("0.5", "0.50", "1"),
    "leading zeros": ("01", "1", "2"),
    "an exponent": ("1e1", "10"),
    "truth among numbers": ("1", "0", "true"),
    "not a number among numbers": ("1", "0", "NaN"),
    "infinity among numbers": ("1", "0", "-inf"),
    "null among numbers": ("1", "0", "null"),
    "n/a among numbers": ("1", "0", "N/A"),
    "not a number among words": ("yes", "no", "nan"),
    "a missing value of pandas": ("yes", "no", "<NA>"),
    "a missing value of a database": ("yes", "no", "\\N"),
    "null among words": ("yes", "no", "NULL"),
    "a fault of a spreadsheet": ("yes", "no", "#REF!"),
    "a dash among numbers": ("1", "0", "-"),
    "dashes and blanks": ("hard-news", "hard_news", "hard\u2013news", "hard news"),
    "quotes around": ('"ham"', "ham"),
    "another apostrophe": ("can't", "can\u2019t"),
    "a final stop": ("ham.", "ham"),
    "a Cyrillic letter": ("h\u0430m", "ham"),
    "an emoji's variation": ("\u2600\ufe0f", "\u2600"),
    "an unseen joiner": ("ha\u034fm", "ham"),
}


def test_the_order_of_labels_is_not_that_of_their_rows():
    """Not a number is neither above nor below one: sorted as numbers, its neighbours would decide its place."""
    near = ("9007199254740992", "9007199254740993")  # one number in float64
    for names in (("-3", "1", "nan", "x"), ("-3", "1", "nan"), ("-3", "1.5", "10"), near):
        cells = [[Cell(name, f"t:{i}", True) for i, name in enumerate(order)] for order in permutations(names)]
        for kind in ("classification", "multi_label"):
            assert {tuple(find_problem(kind).find_labels(column)) for column in cells} == {names}


@pytest.mark.parametrize("case", ASKED)
def test_suspicious_labels_are_asked_about(case, tmp_path):
    """The message has the first row of the label and the option that answers; with it, the labels are as given."""
    names = ASKED[case]
    path = save(tmp_path / "t.jsonl", names * 2)
    refusal("t.jsonl:", "--config.data.label_names", call=lambda: load_own(path, path))
    task, splits = load_own(path, path, data__label_names=names)
    assert task.label_names == tuple(labels.name_of(name, "") for name in names)
    assert splits["train"].label.tolist() == [*range(len(names))] * 2


@pytest.mark.parametrize(
    "names",
    [
        ("none", "favor"), ("1.1", "1.10.2"), ("b", "a"), ("newyork", "new york"), ("10", "9"), ("e\u0301", "e"),
        ("C", "C#", "C++"), ("A", "A-", "A+"), (".", ",", "?"), (":)", ":-)", ":("), ("-1", "1"), ("no", "no!"),
        ("\u043f\u043b\u044e\u0441", "\u043c\u0438\u043d\u0443\u0441", "plus"), ("'", '"'), ("1-2", "12"),
    ],
)  # fmt: skip
def test_other_labels_are_not_asked_about(names, tmp_path):
    path = save(tmp_path / "t.jsonl", names)
    assert set(load_own(path, path)[0].label_names) == set(names)


def test_sets_of_labels_are_asked_about_as_well(tmp_path):
    path = save(tmp_path / "t.jsonl", [["a", "b"], ["A"]])
    refusal("t.jsonl:2", "'A'", "t.jsonl:1", call=lambda: load_own(path, path, kind="multi_label"))


@pytest.mark.parametrize("names", [("a", "b", "a "), (1, "1.0", 2), ("true", True, "x"), ("a", " ", "b")], ids=str)
def test_names_in_the_config_that_repeat_are_refused(names, tmp_path):
    path = save(tmp_path / "t.csv", ["a", "b"])
    refusal("config.data.label_names", call=lambda: load_own(path, path, data__label_names=names))


def test_names_in_the_config_have_no_outer_blanks(tmp_path):
    path = save(tmp_path / "t.csv", ["a", "b", "1.0"])
    task, splits = load_own(path, path, data__label_names=(" b", "a ", 1.0))
    assert task.label_names == ("b", "a", "1") and splits["dev"].label.tolist() == [1, 0, 2]


def test_a_class_of_one_row_among_many_is_warned_of(tmp_path, caplog):
    def warned(*values):
        caplog.clear()
        path = save(tmp_path / "t.csv", values)
        with caplog.at_level(logging.WARNING):
            load_own(path, path)
        return caplog.text

    many = ["yes", "no"] * 12
    assert not warned(*many)
    text = warned(*many, "mabye")
    assert "t.csv:26" in text and "'mabye' has one row" in text
    assert not warned("a", "b", "c", "c")  # few rows of each


def test_the_labels_of_dev_and_test_are_those_of_train(tmp_path):
    train = save(tmp_path / "train.csv", ["1", "2"])
    other = save(tmp_path / "other.jsonl", [1.0, 2, "3"])
    refusal("other.jsonl:3", "unknown label '3'", "1, 2", call=lambda: load_own(train, other))
    refusal("other.jsonl:3", "unknown label '3'", call=lambda: load_own(train, train, other))


def lines_of(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value).splitlines()


def test_all_bad_rows_are_in_one_message(tmp_path):
    """Of each kind, in the order of the file, one line per row."""
    path = write(
        tmp_path / "t.csv", "text,label,id", "one,a,1", "short", "  ,a,2", "two,,3", "three,a,4,5", "Text,Label,ID",
        "four,b,5", "\ufefffive,b\0,6", "text,label,id", " ,,7",
    )  # fmt: skip
    head, *rows = lines_of(lambda: load_own(path, path, data__columns__id="id"))
    words = ("1 fields", "text is empty", "no label", "4 fields", "repeats the header", "control", "header", "empty")
    assert head == "8 bad rows:"
    for row, line, word in zip(rows, (3, 4, 5, 6, 7, 9, 10, 11), words, strict=True):
        assert row.startswith(f"  {path}:{line}: ") and word in row


@pytest.mark.parametrize("kind", ["classification", "regression", "multi_label"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_first_twenty_bad_rows_are_listed(kind, suffix, tmp_path):
    good = save(tmp_path / "good.csv", [0.5, 1.5])
    path = save(tmp_path / f"t{suffix}", [[{"a": [1]}]] * 33)
    head, *rows = lines_of(lambda: load_own(good, path, kind=kind))
    assert (head, len(rows), rows[-1]) == ("33 bad rows:", 21, "  and 13 more bad rows.")
    assert rows[19].startswith(f"  {path}:20: ")


SCORES = ["1e39", "-1e39", "3.5e38", "1e20", "-2e15", "inf", "-inf", "nan", "1e999", "1,5", "true", "", "0x1"]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("score", SCORES)
def test_scores_that_float32_does_not_hold_are_refused(score, split, tmp_path):
    good = save(tmp_path / "good.jsonl", ["0.5", 1.5])
    bad = save(tmp_path / "bad.jsonl", [1, score])
    files = [bad if name == split else good for name in ("train", "dev", "test")]
    if not score and split == "test":
        assert np.isnan(load_own(*files, kind="regression")[1]["test"].label[1])
    else:
        refusal("bad.jsonl:2", repr(score), call=lambda: load_own(*files, kind="regression"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("score", [1e39, float("inf"), -1e300], ids=str)
def test_numbers_that_float32_does_not_hold_are_refused(score, suffix, tmp_path):
    path = save(tmp_path / f"t{suffix}", [1.0, score])
    refusal(f"t{suffix}:2", "score", call=lambda: load_own(path, path, kind="regression"))


def test_ten_thousand_classes_are_read_in_seconds(tmp_path):
    """A loop over all classes for each class or row takes minutes.  Without the checker of types, which takes half."""
    path = save(tmp_path / "t.csv", [f"class {i % 10_000}" for i in range(20_000)])
    wrong = save(tmp_path / "wrong.csv", [f"other {i}" for i in range(20_000)])
    script = (
        "import sys; sys.path[:0] = ['tests', 'tests/data']; from test_labels import lines_of, load_own\n"
        f"task, _ = load_own({str(path)!r}, {str(path)!r}); names = task.label_names\n"
        f"load_own({str(path)!r}, {str(path)!r}, data__label_names=names)\n"
        f"print(len(lines_of(lambda: load_own({str(path)!r}, {str(wrong)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "22\n", done.stdout + done.stderr


def test_ids_by_which_predictions_are_found_are_there_once():
    assert labels.unique_ids(["a", 1, " a"], "f:{}".format) == ("a", "1", " a")
    refusal("f:1", "no id", call=lambda: labels.unique_ids(["a", None], "f:{}".format))
    refusal("f:2", "'a' is that of f:0 too", call=lambda: labels.unique_ids(["a", "b", "a"], "f:{}".format))
