"""Words of plain texts, and their places."""

import pytest

from fjt.core.errors import UserError
from fjt.data import words


def test_words_are_between_blanks_and_punctuation_marks_stand_alone():
    assert words.split("Ada (1815-52) didn't\tsay “yes”.") == (
        *("Ada", "(", "1815", "-", "52", ")", "didn", "'", "t", "say", "“", "yes", "”", "."),
    )
    assert words.split("नमस्ते दुनिया") == ("नमस्ते", "दुनिया")  # vowel signs stay with their letters


def test_each_word_has_its_place():
    text = "a  ba a, b"
    places = words.places(text, words.split(text))
    assert [text[start:end] for start, end in places] == ["a", "ba", "a", ",", "b"]
    assert places[2] == (6, 7)


def test_texts_and_lists_are_read():
    assert words.read("Ada ran.", "x") == ("Ada ran.", ("Ada", "ran", "."))
    assert words.read(["Ada", "ran."], "x") == ("Ada ran.", ("Ada", "ran."))
    for value, message in [("  ", "x: the sentence has no words"), (7, "x: 7 is not a list"), (["a", ""], "x, word 2")]:
        with pytest.raises(UserError, match=message):
            words.read(value, "x")
