"""Everything that is written is read back equal, for made strings: tables, arrays, cards, pages, terminals."""

import csv
import html.parser
import io
import json
import re
import tempfile
from pathlib import Path

import markdown_it
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import small
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from fjt import predict
from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.markdown import code, escape
from fjt.data import conll, labels, rows, tables
from fjt.data.glue import Split, Task
from fjt.experiment import outputs
from fjt.experiment.finished import Run
from fjt.interop import card
from fjt.reports import pages

SPECIAL = [
    "", " ", "a", "\0", "\r", "\n", "\t", "\r\n", '"', "'", ",", "|", "`", "``", "$", r"\g<0>", "\\", "<b>", "&lt;",
    "#", "---", ":", "- ", "[x](y)", "[/red]", ":bug:", "{}", "%s", "\ufeff", "\u2028", "\x85", "\x1c", "é", "e\u0301",
    "字", "😀", "\ud83d", "nan", "null", "1.0", "true", "!", "*", "_", "~", "@", "=", "@x", "\x1b[31m", "\u202e",
    "`a`", "*a*", "__a__", "$a$", "~~a~~",
]  # fmt: skip
ANY = st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=3)), min_size=1, max_size=4).map("".join)
QUICK = settings(
    max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
MANY = settings(QUICK, max_examples=150)


def accepted(function, *arguments):
    """What fjt reads of a value; an example that it refuses is left out."""
    try:
        return function(*arguments)
    except UserError:
        assume(False)


TEXTS = ANY.map(lambda text: accepted(rows.text_of, text.encode("utf-8", "ignore").decode(), "", ""))


def usable(read):
    def convert(text):
        try:
            return read(text, "")
        except UserError:
            return ""

    return ANY.map(convert).filter(bool)


IDS, NAMES = usable(labels.id_of), usable(labels.name_of)
SHOWN = NAMES.map(lambda name: re.sub(r"\s+", " ", name))
WHOLE = " ".join(word for word in SPECIAL if word.isprintable())  # one name with every special character
WORDS = usable(lambda text, place: rows.text_of("".join(text.split()), place, "", blank=False))
NARROW = "".join(WHOLE.split())


def in_tsv(text):
    return " ".join(re.split(r"[\t\r\n]+", text))


def check_tables(rows):
    """A table of (text, id) in each format."""
    assume(all(sorted(map(str.casefold, map(str.strip, row))) != ["key", "text"] for row in rows))
    columns = {"text": "text", "id": "key"}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in tables.SUFFIXES:
            path = Path(folder, f"t{suffix}")
            if suffix == ".parquet":
                texts, keys = zip(*rows, strict=True)
                pyarrow.parquet.write_table(pyarrow.table({"text": texts, "key": keys}), path)
            elif suffix == ".jsonl":
                lines = [json.dumps({"text": text, "key": key}, ensure_ascii=len(text) % 2 == 0) for text, key in rows]
                path.write_bytes("\n".join(lines).encode())
            else:
                write = tables.csv_text if suffix == ".csv" else tables.tsv
                path.write_bytes(write([tuple(columns.values()), *rows]).encode())
            found = tables.read(str(path), columns)
            wanted = [(in_tsv(text), in_tsv(key)) for text, key in rows] if suffix == ".tsv" else list(rows)
            assert list(zip(*(found.texts(role, "") for role in columns), strict=True)) == wanted
            assert not found.faults


def check_words(sentences):
    """Sentences of (word, tag) in a CoNLL file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.conll")
        path.write_bytes(conll.text(sentences).encode())
        found = tables.read(str(path), {"text": "0", "label": "1"})
    assert not found.faults
    assert [list(zip(*row, strict=True)) for row in zip(*found.values.values(), strict=True)] == sentences


def check_predictions(texts, ids, names):
    """What `fjt.predict` and a run write about texts."""
    task = Task("table", "classification", tuple(names), ("accuracy",))
    ids = [ids[i % len(ids)] for i in range(len(texts))]
    logits = np.float32(np.arange(len(texts))[:, None] % len(names) == np.arange(len(names))) * 3
    predicted = [names[i % len(names)] for i in range(len(texts))]
    run = small.double(Run, task=task, path="", pairs=False)
    split = Split(tuple(ids), tuple(texts), None, logits.argmax(axis=-1).astype(np.int32))
    with tempfile.TemporaryDirectory() as folder:
        for suffix in predict.SUFFIXES:
            path = Path(folder, f"t{suffix}")
            predict._write(str(path), suffix, run, "-", [(split, {"logits": logits})])
            if suffix == ".npz":
                arrays = np.load(path)
                assert (arrays["id"].tolist(), arrays["predicted"].tolist()) == (ids, predicted)
                assert arrays["label_names"].tolist() == list(names)
                continue
            with open(path, encoding="utf-8", newline="") as file:
                if suffix == ".jsonl":
                    rows = [json.loads(line) for line in file.read().split("\n")[:-1]]
                elif suffix == ".csv":
                    rows = list(csv.DictReader(file))
                else:
                    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            blank = in_tsv if suffix == ".tsv" else str
            assert [(row["id"], row["text"], row["predicted"]) for row in rows] == [
                (blank(i), blank(text), name) for i, text, name in zip(ids, texts, predicted, strict=True)
            ]
            assert list(rows[0])[4:] == [f"p({name})" for name in names]
        outputs.write_predictions(folder, "dev", task, split, logits)
        outputs.write_table(str(Path(folder, "dev.tsv")), task, split, logits)
        arrays = np.load(Path(folder, "dev.npz"))
        assert (arrays["id"].tolist(), arrays["label_names"].tolist()) == (ids, list(names))
        found = tables.read(str(Path(folder, "dev.tsv")), {"text": "text", "label": "label"})
        assert found.values == {"text": [in_tsv(text) for text in texts], "label": predicted}


class Seen(html.parser.HTMLParser):
    """The tags of a page, and the text of each paragraph, cell and heading."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("p", "li", "th", "td", "h1", "h2", "figcaption"):
            self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data.rstrip("\n")


def check_card(base, names):
    """A model card as the hub reads it and as a page shows it."""
    task = Task("table", "classification", tuple(names), ("accuracy",))
    with tempfile.TemporaryDirectory() as folder:
        card.write(
            folder, "fjt", task=task, base=base, revision=base, methods={"lora": {"x": base}}, recipe={base: 1},
            scores={"accuracy": (0.5, 0.4, 0.6, 5)}, examples={"train": 9, "dev": 5},
        )  # fmt: skip
        card.convert(f"{folder}/README.md", f"{folder}/other.md", "peft")
        for file, library in (("README.md", "fjt"), ("other.md", "peft")):
            read = ModelCard.load(Path(folder, file))
            assert (read.data.base_model, read.data.library_name) == (base, library)
            assert read.data.model_name == f"table: lora over {base}"
        seen = Seen(markdown_it.MarkdownIt("commonmark").enable("table").render(read.text))
    assert seen.tags <= {"h1", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    shown = [text.strip() for text in seen.texts]
    assert f"Labels: {labels.some([' '.join(name.split()) for name in names])}" in [" ".join(t.split()) for t in shown]
    assert {" ".join(base.split())} <= {" ".join(text.split()) for text in shown}


def check_page(name):
    """A report's page that has the name as text, as code, in a table and as a figure's."""
    blocks = [
        pages.Heading(2, f"x {escape(name)}"), pages.Text(f"x {escape(name)}"), pages.Text(f"x {code(name)}"),
        pages.Table(("x",), ((f"x {escape(name)}",),)), pages.Picture(name, escape(name), '<svg id="a"></svg>', b""),
    ]  # fmt: skip
    seen = Seen(pages.page(name, blocks))
    assert not seen.tags & {"img", "script", "b", "a", "em", "strong", "iframe"}
    heading, text, marked, _, cell, caption = (" ".join(text.split()) for text in seen.texts)
    assert {heading, text, marked, cell, f"x {caption}"} == {" ".join(f"x {name}".split())}


def check_terminal(name):
    """A terminal that shows the name."""
    shown = io.StringIO()
    made = Console(file=shown, force_terminal=True, width=400, _environ={"TERM": "xterm", "NO_COLOR": "1"})
    for attribute in ("_markup", "_emoji", "_highlight"):
        setattr(made, attribute, getattr(console.CONSOLE, attribute))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "CONSOLE", made)
        console.say(f"<{name}>")
        console.warn(f"<{name}>")
        console.table("t", ["x"], [(f"<{name}>",)])
    assert shown.getvalue().count(f"<{name}>") == 3


CHECKS = {
    "tables": (check_tables, st.lists(st.tuples(TEXTS, IDS), min_size=1, max_size=4)),
    "words": (check_words, st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), min_size=1, max_size=3)),
    "predictions": (
        check_predictions, st.lists(TEXTS, min_size=1, max_size=4), st.lists(IDS, min_size=1, max_size=3),
        st.lists(NAMES, min_size=2, max_size=4, unique=True),
    ),
    "card": (check_card, SHOWN, st.lists(SHOWN, min_size=2, max_size=4, unique=True)),
    "page": (check_page, SHOWN),
    "terminal": (check_terminal, SHOWN),
}  # fmt: skip
EXAMPLES = {
    "tables": ([(WHOLE, WHOLE), ("a\r", "1.0")],),
    "words": ([[("a", "O"), (NARROW, NARROW)], [("#", "B-#")]],),
    "predictions": ([WHOLE, "a\rb"], [WHOLE], [WHOLE, "a"]),
    "card": (WHOLE, [WHOLE, "a"]),
    "page": (WHOLE,),
    "terminal": (WHOLE,),
}


@pytest.mark.parametrize("limits", [QUICK, pytest.param(MANY, marks=pytest.mark.thorough)], ids=["few", "many"])
@pytest.mark.parametrize("name", CHECKS)
def test_what_is_written_is_read_back(name, limits):
    check, *strategies = CHECKS[name]
    limits(given(st.tuples(*strategies))(example(EXAMPLES[name])(lambda values: check(*values))))()
