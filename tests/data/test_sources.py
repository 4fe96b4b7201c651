"""Official files, subsets and the configs of data: what is read, and how each fault is named."""

import dataclasses
import functools
import json
import logging

import numpy as np
import pytest
from glue_files import TAB, load, load_own, many, refusal, write, write_glue

from configs import ag_news, base, classify
from configs import glue as glue_config
from fjt.core import settings
from fjt.data import glue, sources
from fjt.tasks.kinds import find_problem


@pytest.fixture
def folder(tmp_path):
    write_glue(tmp_path)
    return tmp_path


SIZES = {
    **{name: {"train": 6, "dev": 4, "test": 3} for name in "cola sst2 mrpc stsb qqp qnli rte wnli".split()},
    "mnli": {"train": 6, "dev": 4, "dev_mismatched": 5, "test": 3, "test_mismatched": 2, "ax": 7},
    "mnli_mismatched": {"train": 6, "dev": 5, "test": 2},
    "ax": {"train": 6, "dev": 4, "test": 7},
}  # fmt: skip
FIRST_LABELS = {
    "mnli": [0, 1, 2, 0],
    "mnli_mismatched": [0, 1, 2, 0, 1],
    "ax": [0, 1, 2, 0],
    "qnli": [1, 0, 1, 0],
    "rte": [1, 0, 1, 0],
    "stsb": [0.0, 0.75, 1.5, 2.25],
}


@pytest.mark.parametrize("name", SIZES)
def test_glue_layout(folder, name):
    task, splits = load(name, folder)
    assert {split: len(rows) for split, rows in splits.items()} == SIZES[name]
    assert list(splits) == [split for split in glue.SPLITS if split in splits]
    dev = splits["dev"]
    assert dev.label.tolist() == FIRST_LABELS.get(name, [0, 1, 0, 1])
    assert dev.label.dtype == (np.float32 if name == "stsb" else np.int32)
    assert dev.id == tuple(str(i) for i in range(len(dev)))
    file = {"mnli": "dev_matched", "mnli_mismatched": "dev_mismatched", "ax": "dev_matched"}.get(name, "dev")
    if task.name == "sst2":
        assert dev.text[2] == 'dev 2 says "hi '
    elif task.name == "cola":
        assert dev.text[2] == "dev 2"
    else:
        assert (dev.text[2], dev.text_pair[2]) == (f"{file} 2 a", f"{file} 2 b")
    assert (dev.text_pair is None) == (name in ("sst2", "cola"))
    test = splits["test"].label
    assert np.isnan(test).all() if name == "stsb" else (test == -1).all()


@pytest.mark.parametrize(("name", "source"), [("cola", "gj04"), ("stsb", "g/f/2012")])
def test_rows_have_their_source_where_the_official_files_name_it(folder, name, source):
    """CoLA's publication; STS-B's genre, file and year."""
    splits = load(name, folder)[1]
    assert [splits[split].cluster for split in ("train", "dev")] == [(source,) * 6, (source,) * 4]


def test_rows_have_no_source_where_a_column_of_it_is_missing(folder):
    path = folder / "STS-B" / "dev.tsv"
    path.write_text(path.read_text().replace("genre", "kind"))
    splits = load("stsb", folder)[1]
    assert splits["dev"].cluster is None and splits["train"].cluster is not None
    assert load("rte", folder)[1]["dev"].cluster is None


def test_optional_files_may_be_absent(folder):
    (folder / "RTE/test.tsv").unlink()
    (folder / "diagnostic/diagnostic.tsv").unlink()
    assert list(load("rte", folder)[1]) == ["train", "dev"]
    assert "ax" not in load("mnli", folder)[1]
    refusal("test split", "diagnostic/diagnostic.tsv", "config.data.dir", call=lambda: load("ax", folder))


def test_labelled_diagnostics_come_first(folder):
    header = TAB.join(("Lexical Semantics", "Logic", "Premise", "Hypothesis", "Label"))
    write(folder / "AX/diagnostic-full.tsv", header, "\t\ta\tb\tneutral", "\tNegation\tc\td\tcontradiction")
    _, splits = load("ax", folder)
    assert splits["test"].label.tolist() == [1, 2] and splits["test"].text == ("a", "c")


def test_known_defects_of_official_files(folder, caplog):
    path = folder / "QQP/train.tsv"
    rows = path.read_text().splitlines()
    # A question with a line break: two rows with too few fields; and one that lost its label.
    write(path, *rows[:2], "7\t7\t7\ta question", "goes on\tother", "8\t8\t8\tq\tr\t", *rows[2:])
    with caplog.at_level(logging.WARNING):
        train = load("qqp", folder)[1]["train"]
    assert train.id == ("0", "4", "5", "6", "7", "8") and train.label.tolist() == [0, 1, 0, 1, 0, 1]
    assert "QQP/train.tsv: broken rows" in caplog.text
    path = folder / "MNLI/dev_matched.tsv"
    rows = path.read_text().splitlines()
    write(path, *rows[:2], rows[2].removesuffix("neutral") + "-", *rows[3:])
    with caplog.at_level(logging.WARNING):
        dev = load("mnli", folder)[1]["dev"]
    assert dev.id == ("0", "2", "3") and dev.label.tolist() == [0, 2, 0]
    assert "dev_matched.tsv: 1 rows without a gold label" in caplog.text


def test_bad_names_and_places(folder, tmp_path):
    refusal("config.task='sts-b'", "Did you mean", "stsb", call=lambda: load("sts-b", folder))
    refusal("no task 'table'", "data.source=files", call=lambda: load("table", folder, data__source="tfds"))
    refusal("config.data.dir is empty", "RTE/train.tsv", call=lambda: load("rte", ""))
    refusal("config.data.dir=", "nowhere", "not a directory", call=lambda: load("rte", tmp_path / "nowhere"))
    (folder / "RTE/dev.tsv").unlink()
    refusal("dev split", "RTE/dev.tsv does not exist", "config.data.dir", call=lambda: load("rte", folder))
    refusal("config.data.files", "table", call=lambda: load("sst2", folder, data__files__train="x.csv"))


BAD_ROWS = {
    "missing column": (
        "index\tsentence1\tlabel",
        "0\ta\tentailment",
        (":1:", "'sentence2'", "index, sentence1, label"),
    ),
    "unlabelled": (None, "9\ta\tb\t", (":3:", "no label", "Correct")),
    "unknown label": (None, "9\ta\tb\tmaybe", (":3:", "'maybe'", "entailment, not_entailment")),
    "too few fields": (None, "9\ta\tentailment", (":3:", "3 fields", "has 4")),
    "too many fields": (None, "9\ta\tb\tc\tentailment", (":3:", "5 fields", "has 4")),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(folder, case):
    header, row, words = BAD_ROWS[case]
    good = "index\tsentence1\tsentence2\tlabel"
    write(folder / "RTE/dev.tsv", header or good, *([] if header else ["0\ta\tb\tentailment"]), row)
    refusal("RTE/dev.tsv", *words, call=lambda: load("rte", folder))


@pytest.mark.parametrize("score", ("nan", "inf", "high", ""))
def test_bad_scores(folder, score):
    path = folder / "STS-B/train.tsv"
    write(
        path, path.read_text().splitlines()[0], "0\tg\tf\ty\t0\tn\tn\ta\tb\t1.0", f"1\tg\tf\ty\t0\tn\tn\ta\tb\t{score}"
    )
    refusal("STS-B/train.tsv:3", repr(score), "score", call=lambda: load("stsb", folder))


def test_broken_utf8_and_empty_files(folder):
    path = folder / "RTE/train.tsv"
    path.write_bytes(path.read_bytes() + b"6\tcaf\xe9\tb\tentailment\n")
    refusal("RTE/train.tsv:8", "byte 6", "0xe9", "iconv", call=lambda: load("rte", folder))
    write(folder / "WNLI/dev.tsv", "index\tsentence1\tsentence2\tlabel")
    refusal("dev split", "wnli", "no rows", call=lambda: load("wnli", folder))
    write(folder / "SST-2/train.tsv")
    refusal("SST-2/train.tsv is empty", "header", call=lambda: load("sst2", folder))


def test_one_class_is_refused(folder):
    write(folder / "SST-2/train.tsv", "sentence\tlabel", "a\t1", "b\t1")
    refusal("All 2", "'positive'", "nothing to learn", call=lambda: load("sst2", folder))


def test_holdout_and_limit_are_disjoint_and_seeded(tmp_path):
    path = many(tmp_path)
    _, splits = load_own(path, path, data__holdout=0.2, data__limit=20)
    train, dev = splits["train"], splits["dev"]
    assert (len(train), len(dev), len(splits["official_dev"])) == (20, 10, 50)
    assert list(splits) == ["train", "dev", "official_dev"]
    assert not set(train.text) & set(dev.text)
    for split in (train, dev):  # the order of the file, and each label still beside its text
        rows = [int(i) for i in split.id]
        assert rows == sorted(rows) and split.text == tuple(f"row {i}" for i in rows)
        assert split.label.tolist() == [i % 2 for i in rows]
    again = load_own(path, path, data__holdout=0.2, data__limit=20)[1]
    assert again["train"].id == train.id and again["dev"].id == dev.id
    fewer = load_own(path, data__holdout=0.2, data__limit=5)[1]
    assert set(fewer["train"].id) < set(train.id) and fewer["dev"].id == dev.id and "official_dev" not in fewer
    other = load_own(path, data__holdout=0.2, data__limit=20, seeds__subset=1)[1]
    assert other["dev"].id != dev.id and other["train"].id != train.id
    refusal("config.data.limit=41", "40", call=lambda: load_own(path, data__holdout=0.2, data__limit=41))


def test_folds_are_disjoint_stratified_and_seeded(tmp_path):
    path = many(tmp_path)
    parts = [load_own(path, path, data__folds=4, data__fold=fold)[1] for fold in range(4)]
    for splits in parts:
        assert len(splits["official_dev"]) == 50 and not set(splits["train"].id) & set(splits["dev"].id)
        assert set(splits["train"].id) | set(splits["dev"].id) == set(map(str, range(50)))
        assert abs(np.bincount(splits["dev"].label) - 25 / 4).max() <= 1  # the rows have labels 0 and 1 in turn
        assert [int(i) for i in splits["dev"].id] == sorted(int(i) for i in splits["dev"].id)
    assert sorted(int(i) for splits in parts for i in splits["dev"].id) == list(range(50))
    assert all(splits["dev"].part.rows.tolist() == list(map(int, splits["dev"].id)) for splits in parts)
    assert len({splits["dev"].part.sha256 for splits in parts}) == 1 and parts[0]["train"].part is None
    changed = write(tmp_path / "changed.csv", "text,label", *(f"row {i + (i == 9)},{i % 2}" for i in range(50)))
    other = load_own(changed, data__folds=4, data__fold=1)[1]["dev"].part
    assert (other.rows == parts[1]["dev"].part.rows).all() and other.sha256 != parts[1]["dev"].part.sha256
    assert load_own(path, data__folds=4, data__fold=1)[1]["dev"].id == parts[1]["dev"].id
    assert load_own(path, data__folds=4, data__fold=1, seeds__subset=1)[1]["dev"].id != parts[1]["dev"].id


def test_rows_of_a_cluster_are_in_one_fold(tmp_path):
    path = write(tmp_path / "own.csv", "text,label,doc", *(f"row {i},{i % 2},{i // 5}" for i in range(60)))
    parts = [load_own(path, data__folds=3, data__fold=fold, data__columns__cluster="doc")[1] for fold in range(3)]
    sources = [set(splits["dev"].cluster) for splits in parts]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 12
    refusal("there are 12 clusters", "at most 12", call=lambda: load_own(
        path, data__folds=13, data__fold=0, data__columns__cluster="doc"))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data__folds": 4}, "give both"), ({"data__fold": 0}, "give both"),
        ({"data__folds": 4, "data__fold": 4}, "from 0 to the first - 1"),
        ({"data__folds": 4, "data__fold": 0, "data__holdout": 0.1}, "give one"),
        ({"data__folds": 30, "data__fold": 0}, "the smallest class has 25 rows"),
    ],
)  # fmt: skip
def test_folds_that_do_not_fit(tmp_path, options, words):
    path = many(tmp_path)
    refusal(words, call=lambda: load_own(path, path, **options))


def test_changed_copies_are_of_the_rows_that_train(tmp_path):
    path = many(tmp_path)
    options = dict(data__augment=(("swap", 0.5),), data__augment_copies=2, data__limit=5, data__holdout=0.2)
    splits = load_own(path, path, **options)[1]
    assert len(splits["train"]) == 15 and len(splits["dev"]) == 10
    assert [i.partition("~")[0] for i in splits["train"].id] == [*splits["train"].id[:5]] * 3
    refusal("needs a file", call=lambda: load_own(path, path, data__augment=(("synonym", 0.1),)))
    refusal("are for config.data.augment", call=lambda: load_own(path, path, data__augment_copies=2))


def test_shuffled_labels(tmp_path):
    path = many(tmp_path)
    plain, shuffled = (load_own(path, path, data__shuffle_labels=flag)[1] for flag in (False, True))
    assert shuffled["train"].text == plain["train"].text
    assert sorted(shuffled["train"].label) == sorted(plain["train"].label)
    assert 0.2 < np.mean(shuffled["train"].label == plain["train"].label) < 0.8
    assert np.array_equal(shuffled["dev"].label, plain["dev"].label)


AG = ('"3","Title","Business text"', '"1","Title","World, ""text"""')


def test_ag_news(tmp_path):
    lines = [json.dumps({"text": f"news {i}", "label": i % 4, "label_name": "?", "source": "s"}) for i in range(40)]
    write(tmp_path / "train_subset_description.jsonl", *lines)
    write(tmp_path / "test.csv", *AG)
    config = ag_news.get_config()
    config.data.dir = str(tmp_path)
    task, splits = sources.load(settings.from_config(config).experiment, "unused", find_problem)
    assert task.label_names == ("World", "Sports", "Business", "Sci/Tech")
    assert {name: len(split) for name, split in splits.items()} == {"train": 38, "dev": 2, "test": 2}
    assert splits["test"].text == ("Business text", 'World, "text"') and splits["test"].label.tolist() == [2, 0]
    assert all(int(i) % 4 == label for i, label in zip(splits["train"].id, splits["train"].label, strict=True))
    config.data.holdout = 0.0
    refusal(
        "ag_news",
        "data.holdout",
        call=lambda: sources.load(settings.from_config(config).experiment, "unused", find_problem),
    )
    write(tmp_path / "train.csv", *AG)  # the official file, where it is there
    config.data.holdout = 0.5
    refusal("All 1", call=lambda: sources.load(settings.from_config(config).experiment, "unused", find_problem))


def test_synthetic_tasks_come_through_the_same_door():
    config = base.get_config()
    config.task, config.data.source, config.data.limit = "sentiment", "synthetic", 100
    task, splits = sources.load(settings.from_config(config).experiment, "unused", find_problem)
    assert task.name == "sentiment" and len(splits["train"]) == 100 and list(splits)[:2] == ["train", "dev"]


def test_configs():
    config = glue_config.get_config("rte,head")
    assert (config.task, config.tune.method) == ("rte", ("head",))
    assert (glue_config.get_config().task, glue_config.get_config().tune.method) == ("sst2", ("full",))
    for made in (config, classify.get_config("regression"), ag_news.get_config()):
        assert dataclasses.is_dataclass(settings.from_config(made))


def test_what_a_table_can_be_mistaken_for(tmp_path, caplog):
    """Scores read as labels are warned of; empty texts, other separators and UTF-16 are refused by name."""

    def own(name, *rows):
        path = write(tmp_path / name, *rows)
        return load_own(path, data__holdout=0.5)

    with caplog.at_level(logging.WARNING):
        own("scores.csv", "text,label", *[f"line {i},{i / 7:.3f}" for i in range(40)])
    assert "40 different labels in 40 rows" in caplog.text and "classify.py:regression" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        own("plain.csv", "text,label", *[f"line {i},{i % 25}" for i in range(100)])
    assert not caplog.text
    rows = "text,label", "first,a", "  ,b", "third,a"
    refusal("empty.csv:3", "the text is empty", call=lambda: own("empty.csv", *rows))
    refusal(
        "no column 'text'",
        "separator does not match the suffix",
        call=lambda: own("other.csv", "text;label", "first;a"),
    )
    for name, rows in {"other.csv": ("first;a", "second;b"), "other.tsv": ("first,a", "second,b")}.items():
        path, options = write(tmp_path / name, *rows), {"data__columns__text": "0", "data__columns__label": "1"}
        refusal(
            "separator does not match the suffix",
            call=lambda path=path, options=options: load_own(path, data__header=False, data__holdout=0.5, **options),
        )
    refusal("separate the fields by commas", call=lambda: own("quoted.csv", '"text";"label"', '"first";"a"'))
    refusal("'label' is the column of label and of text", call=lambda: load_own(path, data__columns__text="label"))


def own_sets(tmp_path, *labels):
    """(Task, splits) of a JSON-lines table with the given label cells, read as train and as dev."""
    rows = [json.dumps({"text": f"text {i}", "label": label}) for i, label in enumerate(labels)]
    train = write(tmp_path / "train.jsonl", *rows)
    return load_own(train, train, kind="multi_label")


def test_sets_of_labels_are_read(tmp_path):
    """Lists, text and a single number name labels; an empty list is a label set, and names are sorted."""
    task, splits = own_sets(tmp_path, ["b", "a"], [], "a, c", 7, ["c", "c"], "")
    assert task.label_names == ("7", "a", "b", "c")
    expected = [[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(splits["train"].label, expected)
    assert find_problem("multi_label").is_labelled(splits["train"].label).all()


@pytest.mark.parametrize("label", [["a", None], ["a", ""], '["a", null]', [["a"]], ["a", {"b": 1}], {"a": 1}])
def test_lists_of_labels_that_hold_no_names_are_refused(tmp_path, label):
    refusal("train.jsonl:2", "is not the name of a label", call=lambda: own_sets(tmp_path, ["a"], label))


def test_objects_with_other_names_are_refused(tmp_path):
    refusal("train.jsonl:2", "unknown label 'b'", call=lambda: own_sets(tmp_path, {"a": 1}, {"b": 1}))


def test_objects_answer_for_each_label_once(tmp_path):
    first = {"a": 1, "b": 0}
    for other in ({"a": 1}, {}):
        refusal("train.jsonl:2", "no key '", call=lambda other=other: own_sets(tmp_path, first, other))
    twice = {"a": 1, "b": 0, "a ": 0}
    refusal("train.jsonl:2", "two keys are the label 'a'", call=lambda: own_sets(tmp_path, first, twice))


def test_a_label_with_the_separator_in_its_name_is_refused(tmp_path):
    refusal("label 'a,b' has a ','", "Rename", call=lambda: own_sets(tmp_path, ["a,b"], ["a"], ["b"]))


def test_names_of_labels_are_given_once(tmp_path):
    """Two logits of one name would share its rows, and one of them would never see a positive."""
    path = write(tmp_path / "own.csv", "text,a,b", "one,1,0", "two,0,1")
    for option, names in (("label_names", ("a", "a", "b")), ("columns.labels", ("a", "a"))):
        flags = {"data__columns__labels": ("a", "b")} | {f"data__{option.replace('.', '__')}": names}
        call = functools.partial(load_own, path, path, kind="multi_label", **flags)
        refusal(f"config.data.{option}=", "'a' once", call=call)
    call = functools.partial(load_own, path, path, data__columns__label="a", data__label_names=("0", "1", " "))
    refusal("config.data.label_names=", "empty", call=call)


def test_columns_of_labels_that_are_not_there(tmp_path):
    path = write(tmp_path / "own.csv", "text,a", "one,1", "two,0")
    call = functools.partial(load_own, path, path, kind="multi_label", data__columns__labels=("a", "b"))
    refusal("own.csv:1", "no column 'b'", "--config.data.columns.labels=", call=call)
    refusal("columns.labels='a' should be a number", call=lambda: call(data__header=False, data__columns__text="0"))
