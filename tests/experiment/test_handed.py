"""Data from a Python program: written as a table that the run reads, or refused by name."""

import numpy as np
import pandas
import pyarrow
import pytest

from fjt import configs
from fjt.core.errors import UserError
from fjt.core.records import Damaged
from fjt.core.settings import from_config
from fjt.data import sources
from fjt.experiment import handed
from fjt.tasks.kinds import find_problem

TEXTS, PAIRS = ["a b", 'c, "d"', "e\nf\u2028"], ["x", "y", "z"]


def read(workdir, kind="classification", options=None, **data):
    """(Task, splits) that a run on the data would read."""
    given = {"train": None, "dev": None, "test": None} | data
    options = {"data__kind": kind, **(options or {}), **handed.write(str(workdir), given, ["text", "label"])}
    made = from_config(configs.load(None, options)[0])
    return sources.load(made.experiment, str(workdir), find_problem)


def frame(columns):
    return pandas.DataFrame(columns, index=[7, 8, 9])


class Exporting:
    """A table that others know by the Arrow interface alone, such as one of polars."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


TABLE = {"text": TEXTS, "label": ["no", "yes", "no"]}


@pytest.mark.parametrize(
    "make",
    [
        lambda table: (table["text"], table["label"]),
        lambda table: (tuple(table["text"]), np.array(table["label"])),
        lambda table: table,
        lambda table: [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)],
        pyarrow.table,
        frame,
        lambda table: tuple(frame(table)[name] for name in table),
        lambda table: tuple(iter(column) for column in table.values()),
        lambda table: ({"text": text, "label": label} for text, label in zip(*table.values(), strict=True)),
        lambda table: Exporting(pyarrow.table(table)),
        lambda table: frame(table).astype({"label": "category"}),
        lambda table: frame(table | {"picture": [object()] * 3, "mixed": ["a", 1, None]}),
    ],
    ids=[
        "lists",
        "tuple and array",
        "dict",
        "dicts",
        "pyarrow",
        "pandas",
        "series",
        "generators",
        "rows",
        "polars",
        "categories",
        "other columns",
    ],
)
def test_every_form_is_the_same_table(tmp_path, make):
    task, splits = read(tmp_path, train=make(TABLE), dev=make(TABLE), test=TEXTS[:2])
    assert task.label_names == ("no", "yes")
    assert splits["train"].text == tuple(TEXTS) and splits["train"].label.tolist() == [0, 1, 0]
    assert splits["train"].text_pair is None
    assert splits["test"].text == tuple(TEXTS[:2]) and splits["test"].label.tolist() == [-1, -1]


def test_pairs_scores_sets_and_columns_of_one_s_own(tmp_path):
    _, splits = read(
        tmp_path / "pairs", "regression", train=(TEXTS, PAIRS, [0.5, 1, 2]), dev=(TEXTS, PAIRS, np.ones(3))
    )
    assert splits["train"].text_pair == tuple(PAIRS) and splits["train"].label.tolist() == [0.5, 1.0, 2.0]
    sets = (TEXTS, [["a"], [], ["b", "a"]])
    _, splits = read(tmp_path / "sets", "multi_label", train=sets, dev=sets)
    assert splits["train"].label.tolist() == [[1, 0], [0, 0], [1, 1]]
    table = {"review": TEXTS, "stars": [1, 3, 1]}
    names = {"data__columns__text": "review", "data__columns__label": "stars"}
    task, splits = read(tmp_path / "names", options=names, train=table, dev=table)
    assert task.label_names == ("1", "3") and splits["dev"].text == tuple(TEXTS)


def test_a_file_is_read_where_it_is(tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\na,no\nb,yes\n")
    _, splits = read(tmp_path / "run", train=tmp_path / "mine.csv", dev=(["a"], ["no"]))
    assert len(splits["train"]) == 2 and not (tmp_path / "run" / "data" / "train.parquet").exists()
    assert handed.write(str(tmp_path), {"train": None, "dev": None, "test": None}, ()) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((TEXTS, [1, 2]), r"train: 3 of text, 2 of label; each row needs one of each"),
        ((TEXTS,) * 4, r"train has 4 lists, and should be lists, \(texts, labels\) or"),
        (("a text", "yes"), r"train is one text and should be lists"),
        ({"text": "ab", "label": "yn"}, r"train is one text and should be lists"),
        ((TEXTS, [1, "one", 2.5]), r"train is not a table: .*Give lists"),
        ((["\ud800", "b", "c"], [1, 2, 1]), r"train is not a table"),
        (7, r"train is not a table"),
        ({"text": 7, "label": [1]}, r"train is not a table"),
        ([1, 2, 3], r"train is not a table"),
        (len, r"train is not a table"),
        ([("a", 1), ("b", 2)], r"train is a list of rows. Give its columns, .*: tuple\(zip\(\*rows\)\)"),
        (pandas.Series(TEXTS), r"train is not a table"),
        ({"text": TEXTS, "label": [1, 2, 10**30]}, r"train is not a table: column label: "),
        ({"text": TEXTS, "label": [{}, {}, {}]}, r"train cannot be written as Parquet: .* Leave out the column"),
        (({"b", "a"}, [1, 2]), r"train is not a table: column text: a set has no order"),
        ({"text": TEXTS, "label": [1, 2, object()]}, r"train is not a table: column label: "),
        (frame({"text": TEXTS, "label": [1, 2, object()]}), r"train is not a table: column label: "),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,  # the same in every process
)
def test_what_is_no_table_is_named(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        handed.write(str(tmp_path), {"train": data, "dev": None, "test": None}, handed.columns_of({}) or ["label"])
    assert not list(tmp_path.glob("data/*.parquet"))


def test_a_run_s_data_stay_what_they_were(tmp_path):
    first, other = {"text": ["a", "b"], "label": [0, 1]}, {"text": ["a", "b"], "label": [1, 0]}
    empty = {"dev": None, "test": None}
    handed.write(str(tmp_path), {"train": other} | empty, ())  # a start that was refused
    path = handed.write(str(tmp_path), {"train": first} | empty, ())["data.files.train"]
    (tmp_path / "config.json").write_text("{}")
    before = (tmp_path / "data" / "train.parquet").stat().st_mtime_ns
    assert handed.write(str(tmp_path), {"train": first} | empty, ())["data.files.train"] == path
    with pytest.raises(UserError, match=r"belongs to a run on other data than the given train"):
        handed.write(str(tmp_path), {"train": other} | empty, ())
    assert (tmp_path / "data" / "train.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "label",
    [
        pandas.Categorical(["no", "yes", "no"]),
        np.array([0.5, np.nan, 1.0]),
        np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[s]"),
        [["a"], [], ["b", "c"]],
    ],
    ids=["categories", "nan", "seconds", "sets"],
)
def test_the_same_data_again_are_the_run_s_data(tmp_path, label):
    """Parquet has some of them as another type."""
    data = {"train": {"text": TEXTS, "label": label}, "dev": None, "test": None}
    made = handed.write(str(tmp_path), data, ())
    (tmp_path / "config.json").write_text("{}")
    assert handed.write(str(tmp_path), data, ()) == made


GIVEN = {"train": TABLE, "dev": None, "test": None}


def test_a_damaged_copy_of_the_data_is_a_sentence(tmp_path):
    handed.write(str(tmp_path), GIVEN, ())
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "data" / "train.parquet"
    path.write_bytes(b"")
    with pytest.raises(Damaged, match=r"train\.parquet is damaged .*\. Delete the file, and give the same train again"):
        handed.write(str(tmp_path), GIVEN, ())
    path.unlink()
    handed.write(str(tmp_path), GIVEN, ())


def test_a_full_disk_names_the_copy_and_leaves_nothing(tmp_path, monkeypatch):
    def full(table, file):
        with open("/dev/full", "wb", buffering=0) as other:
            other.write(b"PAR1")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match="No space left") as raised:
        handed.write(str(tmp_path), GIVEN, ())
    path = tmp_path / "data" / "train.parquet"
    assert raised.value.filename == str(path) and not list(path.parent.iterdir())
