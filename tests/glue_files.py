"""Small tables for the tests of the sources: all of GLUE in its official layout, and the calls that read them."""

import pytest

from configs import classify, glue
from fjt.core.errors import UserError
from fjt.core.settings import from_config
from fjt.data import sources
from fjt.tasks.kinds import find_problem

TAB = "\t"


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="")
    return str(path)


def write_glue(folder):
    """All of GLUE in its official layout, small; every text holds its file's name and its row's number."""

    def single(name, labels):
        for split, count in (("train", 6), ("dev", 4)):
            rows = [f'{split} {i} says "hi {TAB}{labels[i % 2]}' for i in range(count)]
            write(folder / name / f"{split}.tsv", f"sentence{TAB}label", *rows)
        write(folder / name / "test.tsv", f"index{TAB}sentence", *[f"{i}{TAB}test {i}" for i in range(3)])

    def pair(name, header, row, test_header, test_row):
        for split, count in (("train", 6), ("dev", 4)):
            write(folder / name / f"{split}.tsv", header, *[row(split, i) for i in range(count)])
        write(folder / name / "test.tsv", test_header, *[test_row("test", i) for i in range(3)])

    def tabs(*fields):
        return TAB.join(str(field) for field in fields)

    single("SST-2", "01")
    for split, count in (("train", 6), ("dev", 4)):
        rows = [tabs("gj04", i % 2, "*" if i % 2 else "", f"{split} {i}") for i in range(count)]
        write(folder / "CoLA" / f"{split}.tsv", *rows)
    write(folder / "CoLA" / "test.tsv", tabs("index", "sentence"), *[tabs(i, f"test {i}") for i in range(3)])
    ids = ("#1 ID", "#2 ID", "#1 String", "#2 String")
    pair(
        "MRPC",
        tabs("\ufeffQuality", *ids),
        lambda s, i: tabs(i % 2, i, 90 + i, f"{s} {i} a", f"{s} {i} b"),
        tabs("index", *ids),
        lambda s, i: tabs(i, i, 90 + i, f"{s} {i} a", f"{s} {i} b"),
    )
    columns = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2")
    sts = lambda s, i: tabs(i, "g", "f", "2012", i, "none", "none", f"{s} {i} a", f"{s} {i} b")  # noqa: E731
    pair("STS-B", tabs(*columns, "score"), lambda s, i: tabs(sts(s, i), f"{i * 0.75:.3f}"), tabs(*columns), sts)
    two = lambda s, i: tabs(i, f"{s} {i} a", f"{s} {i} b")  # noqa: E731
    nli = ("not_entailment", "entailment")
    header = tabs("index", "sentence1", "sentence2")
    pair("RTE", tabs(header, "label"), lambda s, i: tabs(two(s, i), nli[i % 2]), header, two)
    pair("WNLI", tabs(header, "label"), lambda s, i: tabs(two(s, i), i % 2), header, two)
    header = tabs("index", "question", "sentence")
    pair("QNLI", tabs(header, "label"), lambda s, i: tabs(two(s, i), nli[i % 2]), header, two)
    pair(
        "QQP",
        tabs("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        lambda s, i: tabs(i, i, i, f"{s} {i} a", f"{s} {i} b", i % 2),
        tabs("id", "question1", "question2"),
        two,
    )
    parses = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
    start = ("index", "promptID", "pairID", "genre", *parses, "sentence1", "sentence2")
    gold = ("entailment", "neutral", "contradiction")
    for file, count, votes in (
        ("train", 6, 1),
        ("dev_matched", 4, 5),
        ("dev_mismatched", 5, 5),
        ("test_matched", 3, 0),
        ("test_mismatched", 2, 0),
    ):
        labels = (*(f"label{k + 1}" for k in range(votes)), "gold_label") if votes else ()
        rows = [
            tabs(i, i, f"{i}e", "fiction", *"pqrs", f"{file} {i} a", f"{file} {i} b", *[gold[i % 3]] * len(labels))
            for i in range(count)
        ]
        write(folder / "MNLI" / f"{file}.tsv", tabs(*start, *labels), *rows)
    header = tabs("index", "sentence1", "sentence2")
    write(folder / "diagnostic" / "diagnostic.tsv", header, *[two("ax", i) for i in range(7)])


def load(task, folder, **flags):
    config = glue.get_config(task)
    config.data.source = "files"
    config.data.dir = str(folder)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in flags.items()})
    return sources.load(from_config(config).experiment, "unused", find_problem)


def load_own(train="", dev="", test="", kind="classification", **flags):
    config = classify.get_config(kind)
    config.data.files.train, config.data.files.dev, config.data.files.test = str(train), str(dev), str(test)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in flags.items()})
    return sources.load(from_config(config).experiment, "unused", find_problem)


def many(tmp_path, count=50):
    return write(tmp_path / "many.csv", "text,label", *[f"row {i},{'ab'[i % 2]}" for i in range(count)])


def refusal(*words, call):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
