"""SQuAD's files as rows, and answers in their contexts."""

import json

import numpy as np
import pytest
import squad_files

from fjt.core.errors import UserError
from fjt.data import squad, tables

CONTEXT = "Ada met Bo in Paris. In Paris, Ada left."


def test_a_file_is_a_row_per_question(tmp_path):
    articles = {
        "first": [(CONTEXT, [("Who?", [("Ada", 0), ("Ada", 31)]), ("Why?", [])])],
        "second": [("Nothing here.", [("What?", None)])],
    }
    path = squad_files.write(tmp_path / "file.json", articles)
    rows = tables.read(path, {"text": "question", "text_pair": "context", "label": "answers", "cluster": "title"})
    assert rows.values["text"] == ["Who?", "Why?", "What?"]
    assert rows.values["text_pair"] == [CONTEXT, CONTEXT, "Nothing here."]
    assert rows.values["cluster"] == ["first", "first", "second"]
    answers = [{"text": "Ada", "answer_start": 0}, {"text": "Ada", "answer_start": 31}]
    assert rows.values["label"] == [answers, [], None] and rows.place(2) == f"{path}:3"
    with pytest.raises(UserError, match=r"no column 'review'; there are: id, title, context, question, answers"):
        tables.read(path, {"text": "review"})
    made = {"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}
    (tmp_path / "bare.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"no column 'id'; there are: context, question"):
        tables.read(str(tmp_path / "bare.json"), {"id": "id"})


def test_the_label_of_a_row_is_text():
    rows = [[("Ada", 0), ('a "b" é', 3)], [], None]
    label = squad.labels_of(rows)
    assert label.dtype.kind == "T" and [squad.texts_of(text) for text in label] == [["Ada", 'a "b" é'], [], []]
    assert squad.answers_of(label[0]) == [["Ada", 0], ['a "b" é', 3]] and label[2] == squad.UNKNOWN != label[1]


@pytest.mark.parametrize(
    ("value", "found", "moved"),
    [
        ([{"text": "Paris", "answer_start": 14}], [("Paris", 14)], 0),
        ({"text": ["Paris", "Bo"], "answer_start": [24, 8]}, [("Paris", 24), ("Bo", 8)], 0),
        ({"text": ["Paris"], "answer_start": [22]}, [("Paris", 24)], 1),  # the nearest of two places
        ({"text": ["Paris", "Bo"], "answer_start": [16, -1]}, [("Paris", 14), ("Bo", 8)], 2),
        ([], [], 0),
        ({"text": [], "answer_start": []}, [], 0),
    ],
)
def test_answers_are_where_the_context_has_them(value, found, moved):
    assert squad.read_answers(value, CONTEXT, "f:1") == (found, moved)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"text": "London", "answer_start": 0}], r"f:1: the answer 'London' is not in its context"),
        ([{"text": " ", "answer_start": 0}], r"' ' is not an answer"),
        ([{"text": "Ada", "answer_start": "0"}], r"answer_start='0' of 'Ada' is not a whole number"),
        ([{"text": "Ada", "answer_start": True}], r"is not a whole number"),
        ([{"text": "Ada"}], r"is not a list of answers"),
        ({"text": ["Ada"], "answer_start": []}, r"is not a list of answers"),
        ("Ada", r"f:1: 'Ada' is not a list of answers"),
        ([{"text": "\ud83d", "answer_start": 0}], r"f:1: the answer '\\ud83d' is not valid Unicode"),
    ],
)
def test_other_answers_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        squad.read_answers(value, CONTEXT, "f:1")


def test_a_byte_order_mark_within_a_context_moves_no_answer():
    assert squad.read_answers([{"text": "Bo", "answer_start": 9}], "\ufeff" + CONTEXT, "f:1") == ([("Bo", 8)], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"file\.json: not JSON"),
        ("[]", r"file\.json has no 'data' that is a list"),
        (json.dumps({"data": [{"title": "x"}]}), r"data\[0\] has no 'paragraphs'"),
        (json.dumps({"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}), r"paragraphs\[0\] has no 'context'"),
        (json.dumps({"data": [{"paragraphs": [{"context": "", "qas": [{}]}]}]}), r"qas\[0\] has no 'question'"),
        ('{"data": [], "data": []}', r"the key 'data' is there twice"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=message):
        tables.read(str(tmp_path / "file.json"), {"text": "question"})
    (tmp_path / "file.json").write_bytes(b'{"data": "\xff"}')
    with pytest.raises(UserError, match=r"file\.json:1: byte 11 of the line \(0xff\) is not UTF-8"):
        tables.read(str(tmp_path / "file.json"), {"text": "question"})


def test_rows_of_labels_are_chosen_as_those_of_arrays():
    label = squad.labels_of([[("a", 0)], [], [("b", 1)]])
    assert label[np.array([2, 0])].tolist() == ['[["b", 1]]', '[["a", 0]]'] and (label == "[]").tolist() == [0, 1, 0]
