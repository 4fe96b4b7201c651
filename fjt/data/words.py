"""Words of plain text, and the places of words in it."""

from collections.abc import Iterable
from typing import Any

from tokenizers import pre_tokenizers

from fjt.data.rows import text_of, words_of

_SPLIT = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])


def split(text: str) -> tuple[str, ...]:
    """The words of a text, as BERT's first step finds them: between blanks, each punctuation mark by itself."""
    return tuple(word for word, _ in _SPLIT.pre_tokenize_str(text))


def read(value: Any, place: str) -> tuple[str, tuple[str, ...]]:
    """(text, words) of a text, or of a list of words.  Raises UserError for another value, and without words."""
    if isinstance(value, str):
        text = text_of(value, place, "")
        return text, words_of(split(text), place)
    words = words_of(value, place)
    return " ".join(words), words


def places(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """(start, end) of each word in a text that has them in this order, in characters."""
    found, end = [], 0
    for word in words:
        start = text.index(word, end)
        end = start + len(word)
        found.append((start, end))
    return found
