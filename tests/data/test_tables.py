"""A user's own table: each format, its columns and labels, and how each fault is named."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from glue_files import load_own, many, refusal, write

from fjt.data import tables

CSV = ("review,stars,key", '"good, and\nlong ""film""",10,x1', "bad,9,x2")


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_own_table_formats(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    texts, stars, keys = ['good, and "film"', "bad"], [10, 9], ["x1", "x2"]
    if suffix == ".csv":
        texts[0] = 'good, and\nlong "film"'
        write(path, *CSV)
    elif suffix == ".tsv":
        write(path, "review\tstars\tkey", *[f"{t}\t{s}\t{k}" for t, s, k in zip(texts, stars, keys, strict=True)])
    elif suffix == ".jsonl":
        rows = zip(texts, stars, keys, strict=True)
        write(path, *[json.dumps({"review": t, "stars": s, "key": k}) for t, s, k in rows])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"review": texts, "stars": stars, "key": keys}), path)
    columns = {"data__columns__text": "review", "data__columns__label": "stars", "data__columns__id": "key"}
    task, splits = load_own(path, path, **columns)
    assert task.label_names == ("9", "10")  # sorted as numbers
    assert splits["dev"].text == tuple(texts) and splits["dev"].id == ("x1", "x2")
    assert splits["dev"].label.tolist() == [1, 0]
    task, splits = load_own(path, path, kind="regression", **columns)
    assert task.label_names == () and splits["train"].label.tolist() == [10.0, 9.0]
    refusal(
        f"own{suffix}", "'text'", "review, stars, key", "config.data.columns.text", call=lambda: load_own(path, path)
    )


def test_a_written_tsv_is_read_back(tmp_path):
    """Quotes as they are; what a TSV cannot hold becomes a blank."""
    path = tmp_path / "t.tsv"
    path.write_text(tables.tsv([("text", "label"), ('"No", he said', 1), ("a\tb\r\nc", 2)]))
    rows = tables.read(str(path), {"text": "text", "label": "label"}, header=True)
    assert rows.values == {"text": ['"No", he said', "a b c"], "label": ["1", "2"]}


def test_own_table_without_header_and_with_pairs(tmp_path):
    train = write(tmp_path / "t.csv", "no,a,b", "yes,c,d")
    test = write(tmp_path / "u.csv", ",e,f", "no,g,h")
    columns = {"data__columns__text": "1", "data__columns__label": "0", "data__header": False}
    task, splits = load_own(train, train, test, data__columns__text_pair="2", **columns)
    assert task.label_names == ("no", "yes")
    assert (splits["train"].text, splits["train"].text_pair) == (("a", "c"), ("b", "d"))
    assert splits["test"].label.tolist() == [-1, 0]
    task, splits = load_own(train, train, data__label_names=("yes", "no"), **columns)
    assert task.label_names == ("yes", "no") and splits["train"].label.tolist() == [1, 0]
    columns["data__columns__text"] = "text"
    refusal("config.data.columns.text='text'", "number", call=lambda: load_own(train, train, **columns))
    columns["data__columns__text"] = "3"
    refusal("'3'", "0, 1, 2", call=lambda: load_own(train, train, **columns))


def test_own_table_with_sources_of_rows(tmp_path):
    """Only dev needs the column, for a study scores there; rows that are held out of train take theirs along."""
    train = write(tmp_path / "t.csv", "text,label", *(f"{i},{i % 2}" for i in range(8)))
    dev = write(tmp_path / "d.csv", "text,label,doc", "a,0,7", "b,1,x ", "c,1,7")
    splits = load_own(train, dev, data__columns__cluster="doc")[1]
    assert splits["dev"].cluster == ("7", "x", "7") and splits["train"].cluster is None
    refusal("t.csv", "'doc'", call=lambda: load_own(train, train, data__columns__cluster="doc"))
    both = write(tmp_path / "b.csv", "text,label,doc", *(f"{i},{i % 2},{i // 4}" for i in range(8)))
    splits = load_own(both, data__columns__cluster="doc", data__holdout=0.5)[1]
    assert splits["dev"].cluster == tuple(str(int(text) // 4) for text in splits["dev"].text)
    gap = write(tmp_path / "g.csv", "text,label,doc", "a,0,7", "b,1,", "c,1, ")
    refusal("g.csv:3", "g.csv:4", "has no source", call=lambda: load_own(train, gap, data__columns__cluster="doc"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_an_empty_line_is_a_row_where_there_is_one_column(tmp_path, suffix):
    """So predictions stay next to their texts; with more columns it is none, and neither is one before the header."""
    path = tmp_path / f"new{suffix}"
    path.write_text("\ntext\nfirst\n\nthird\n")
    rows = tables.read(str(path), {"text": "text"})
    assert (rows.values["text"], rows.numbers, rows.lines) == (["first", "", "third"], [0, 1, 2], [3, 4, 5])
    assert tables.read(str(path), {"text": "0"}, header=False).values["text"] == ["text", "first", "", "third"]
    path.write_text("text,key\n\nfirst,1\n".replace(",", "," if suffix == ".csv" else "\t"))
    rows = tables.read(str(path), {"text": "text"})
    assert (rows.values["text"], rows.numbers, rows.lines) == (["first"], [0], [3])


def test_own_table_test_without_labels(tmp_path):
    test = write(tmp_path / "test.csv", "text", "a", "b")
    assert load_own(many(tmp_path), many(tmp_path), test)[1]["test"].label.tolist() == [-1, -1]
    numbers = write(tmp_path / "numbers.csv", "text,label", "a,0.5", "b,1")
    splits = load_own(numbers, numbers, test, kind="regression")[1]
    assert np.isnan(splits["test"].label).all() and splits["train"].label.tolist() == [0.5, 1.0]


def test_own_table_faults(tmp_path):
    good = many(tmp_path)

    def bad(name, *rows, **flags):
        path = write(tmp_path / name, *rows)
        return lambda: load_own(good, path, **flags)

    refusal("config.data.files.train is empty", ".csv", call=lambda: load_own())
    refusal("config.data.files.dev", "gone.csv", "exist", call=lambda: load_own(good, tmp_path / "gone.csv"))
    refusal("no dev split", "data.files.dev", "data.holdout", call=lambda: load_own(good))
    refusal("x.xlsx", "'.xlsx'", ".csv", call=bad("x.xlsx", "a"))
    refusal("unseen.csv:3", "'c'", "a, b", call=bad("unseen.csv", "text,label", "x,a", "y,c"))
    refusal("none.csv:2", "no label", call=bad("none.csv", "text,label", "x,"))
    refusal("few.csv:4", "1 fields", call=bad("few.csv", "text,label", '"two\nlines",a', "short"))
    refusal(
        "open.csv:3",
        "Write a quote inside a quoted field twice",
        call=bad("open.csv", "text,label", "x,a", '"never closed,b', "y,a"),
    )
    refusal("twice.csv:1", "2 columns", "'text'", call=bad("twice.csv", "text,text,label", "x,y,a"))
    refusal("norows.csv", "no rows", call=bad("norows.csv", "text,label"))
    refusal("json.jsonl:2", "not JSON", call=bad("json.jsonl", '{"text": "x", "label": "a"}', "{text: y}"))
    refusal("again.jsonl:1", "'label'", "twice", call=bad("again.jsonl", '{"text": "x", "label": "a", "label": "b"}'))
    refusal("deep.jsonl:1", "not JSON", call=bad("deep.jsonl", "[" * 100_000))
    refusal("long.jsonl:1", "not JSON", call=bad("long.jsonl", '{"text": "x", "label": ' + "1" * 5000 + "}"))
    refusal("list.jsonl:1", "object", call=bad("list.jsonl", "[1]"))
    refusal("key.jsonl:2", "'label'", call=bad("key.jsonl", '{"text": "x", "label": "a"}', '{"text": "y"}'))
    refusal("null.jsonl:1", "None", "columns.text", call=bad("null.jsonl", '{"text": null, "label": "a"}'))
    refusal("fake.parquet", "Parquet", call=bad("fake.parquet", "text,label"))
    refusal("many.csv:2", "'a'", "score", call=lambda: load_own(good, good, kind="regression"))


def test_parquet_columns_that_python_cannot_hold_are_refused(tmp_path):
    times = pyarrow.array([1, 2], pyarrow.timestamp("ns"))
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.array([0, 1], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff")]
    )
    for name, column in (("times", times), ("broken", broken)):
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x"] * len(column), "label": column}), path)
        refusal(f"{name}.parquet", call=lambda path=path: load_own(path, path))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".conll"])
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_parts_of_a_file_are_its_rows(tmp_path, suffix, size):
    """With malformed rows and empty lines between; numbers and lines are those of the whole file."""
    path = tmp_path / f"rows{suffix}"
    rows = [(f"a {i}", f"b {i}") for i in range(20)]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [a for a, _ in rows], "more": [b for _, b in rows]}), path)
    elif suffix == ".conll":
        path.write_text(
            "\n\n".join(f"{a.split()[0]} {b.split()[1]}" if i % 6 else "alone" for i, (a, b) in enumerate(rows))
        )
    elif suffix == ".jsonl":
        lines = [json.dumps({"text": a} | ({"more": b} if i % 5 else {})) for i, (a, b) in enumerate(rows)]
        path.write_text("\n\n".join([*lines[:9], "{", *lines[9:]]))
    else:
        separator = "\t" if suffix == ".tsv" else ","
        lines = [separator.join(row) for row in rows]
        path.write_text("\n\n".join([separator.join(("text", "more")), *lines[:9], "alone", *lines[9:]]))
    columns = {"text": "0", "label": "1"} if suffix == ".conll" else {"text": "text", "text_pair": "more"}
    options = {"optional": ("text_pair",)} if suffix == ".jsonl" else {}
    whole, parts = (
        tables.read(str(path), columns, **options),
        list(tables.read_parts(str(path), columns, size, **options)),
    )
    counts = [len(part.lines) + len(part.faults) for part in parts]
    assert set(counts[:-1]) <= {size} and 0 < counts[-1] <= size
    assert [line for part in parts for line in part.lines] == whole.lines
    assert [number for part in parts for number in part.numbers] == whole.numbers
    assert {line: fault for part in parts for line, fault in part.faults.items()} == whole.faults
    for role, values in whole.values.items():
        assert [x for part in parts for x in part.values.get(role, [None] * len(part.lines))] == values


def test_a_parquet_file_without_rows_is_one_part(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "t.parquet")
    (part,) = tables.read_parts(str(tmp_path / "t.parquet"), {"text": "text"}, 4)
    assert part.lines == [] and part.values == {"text": []}
