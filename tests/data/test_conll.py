"""CoNLL files: columns, comments, documents and CoNLL-U, and faults with their lines."""

import pytest

from fjt.core.errors import UserError
from fjt.data import conll, tables

COLUMNS = {"text": "0", "label": "-1"}


def read(tmp_path, text, name="t.conll", columns=COLUMNS):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return tables.read(str(path), columns)


def lists(rows):
    return [list(zip(*row, strict=True)) for row in zip(rows.values["text"], rows.values["label"], strict=True)]


def test_sentences_end_at_empty_lines(tmp_path):
    rows = read(tmp_path, "\ufeffEU B-ORG\nrejects O\n\n \nGerman NNP B-MISC\n")
    assert lists(rows) == [[("EU", "B-ORG"), ("rejects", "O")], [("German", "B-MISC")]]
    assert rows.lines == [1, 5] and rows.numbers == [0, 1] and not rows.faults and "cluster" not in rows.values


def test_tabs_separate_columns_where_there_are_any(tmp_path):
    assert lists(read(tmp_path, "New York\tB-LOC\n#\tO\n")) == [[("New York", "B-LOC"), ("#", "O")]]


def test_comments_stand_before_a_sentence_and_are_no_words(tmp_path):
    text = "# id = 7\na O\n# O\n\n# id = 8\n\n#BREAKING O\nb O\n\n# O\nc O\n"
    expected = [[("a", "O"), ("#", "O")], [("#BREAKING", "O"), ("b", "O")], [("#", "O"), ("c", "O")]]
    assert lists(read(tmp_path, text)) == expected
    assert lists(read(tmp_path, "# O\n\na O\n")) == [[("#", "O")], [("a", "O")]]
    universal = "# text = a\tb\n# x\n1\t#\t_\tSYM\n"
    assert lists(read(tmp_path, universal, "t.conllu", {"text": "form", "label": "upos"})) == [[("#", "SYM")]]


def test_documents_are_the_sources_of_their_sentences(tmp_path):
    rows = read(tmp_path, "z O\n\n-DOCSTART- -X- O\n\na O\n\nb O\n-DOCSTART- O\nc O\n")
    assert rows.values["cluster"] == ["0", "1", "1", "2"]
    assert [row[0][0] for row in lists(rows)] == ["z", "a", "b", "c"]
    assert "cluster" not in read(tmp_path, "-DOCSTART- O\n\na O\n\nb O\n").values  # one source has no others


def test_words_may_hold_blanks_of_other_kinds(tmp_path):
    assert lists(read(tmp_path, " 5\u00a0km  B-Q\n")) == [[("5\u00a0km", "B-Q")]]


def test_a_test_file_may_lack_the_tags(tmp_path):
    path = tmp_path / "t.conll"
    path.write_text("a\nb\n")
    assert list(tables.read(str(path), COLUMNS, optional=("label",)).values) == ["text"]
    path.write_text("a O\nb\n")  # which is a fault, not a file without tags
    assert "t.conll:2" in tables.read(str(path), COLUMNS, optional=("label",)).faults[1]
    blind = "1\ta\t_\t_\n2\tb\t_\t_\n\n1\tc\t_\tVERB\n"
    rows = read(tmp_path, blind, "t.conllu", {"text": "form", "label": "upos"})
    assert rows.values["label"][0] is None and list(rows.values["label"][1]) == ["VERB"]


def test_conllu_has_names_and_words_without_a_place_in_the_sentence(tmp_path):
    text = "# text = vamonos\n1-2\tvamonos\t_\t_\n1\tvamos\tir\tVERB\n2\tnos\tnosotros\tPRON\n2.1\tx\tx\tX\n"
    rows = read(tmp_path, text, "t.conllu", {"text": "form", "label": "upos"})
    assert lists(rows) == [[("vamos", "VERB"), ("nos", "PRON")]]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a O\nb\n\nc O\n", COLUMNS, r"t.conll:2: the line has 1 columns"),
        (
            "a O\n",
            {"text": "0", "label": "3"},
            r"t.conll:1: the line has 2 columns, but config.data.columns.label is 3",
        ),
        ("a O\n", COLUMNS | {"id": "2"}, r"config.data.columns.id: .* has words and tags alone"),
        ("a O\n", {"text": "word", "label": "1"}, r"config.data.columns.text='word': a column .* is a number from 0"),
    ],
)
def test_faults_have_their_lines(tmp_path, text, columns, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, columns=columns).columns({})


def test_a_column_is_appended_to_the_lines_of_words_alone(tmp_path):
    text = "# id 1\na X\nb Y\n\n-DOCSTART- O\n\n-DOCSTART- O\nc Z\n"
    assert conll.append("t.conll", text.splitlines(keepends=True), ["1", "2", "3"]) == (
        "# id 1\na X 1\nb Y 2\n\n-DOCSTART- O\n\n-DOCSTART- O\nc Z 3\n"
    )
    universal = "1-2\tdel\n1\tde\n2\tel\n"
    assert conll.append("t.conllu", universal.splitlines(), ["A", "B"]) == "1-2\tdel\n1\tde\tA\n2\tel\tB\n"
