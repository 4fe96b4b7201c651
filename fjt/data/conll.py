"""Words and tags of sentences, one word per line: CoNLL files with any columns, and CoNLL-U."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fjt.core.errors import UserError
from fjt.data.labels import BYTE_ORDER_MARK

SUFFIXES = (".conll", ".conllu", ".iob")
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
UNKNOWN = "_"  # CoNLL-U's mark of a column without a value
DOCUMENT = "-DOCSTART-"  # begins the line that CoNLL-2003 has before a document
_NO_WORD = re.compile(r"\d+[-.]\d+")  # in CoNLL-U, the id of a contraction or of an empty node


@dataclasses.dataclass(frozen=True)
class Words(Sequence[str]):
    """One column of a sentence.

    Attributes:
        words: one per line.
        lines: the line of the file of each.
    """

    words: tuple[str, ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, at: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        return self.words[at]


Sentence = tuple[dict[str, Words], str]  # ({role: column}, the number of its document)


def read(path: str, lines: Iterable[str], columns: Mapping[str, str]) -> Iterator[tuple[int, Sentence | UserError]]:
    """Yields (line on which it starts, Sentence) of a file, or the fault in its place.

    A sentence ends at an empty line.  Fields are separated by tabs, or by blanks in a line without tabs.  Comments
    stand before a sentence (see `_blocks`).  Documents are counted from 1, by the lines that begin them.

    Args:
        path: the file; for .conllu, columns have the names of CONLLU, and contractions and empty nodes are left out.
        lines: of the file.
        columns: {role: number of a column from 0, from -1 for the last one}, or names in CoNLL-U.
    """
    universal = path.lower().endswith(".conllu")
    places = {role: _place(path, role, column, universal) for role, column in columns.items()}
    document = 0
    for start, block in _blocks(lines, universal):
        document += _begins_document(block)
        if rows := _words(block, universal):
            yield start, _sentence(path, rows, places, str(document))


def _place(path: str, role: str, column: str, universal: bool) -> int:
    if universal and column in CONLLU:
        return CONLLU.index(column)
    try:
        return int(column)
    except ValueError:
        names = f"one of {', '.join(CONLLU)}, or " if universal else ""
        raise UserError(
            f"config.data.columns.{role}={column!r}: a column of {path} is {names}a number from 0; -1 is the last one."
        ) from None


def _blocks(lines: Iterable[str], universal: bool) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Yields (first line, [(line, text), ...]) of each sentence and of each mark of a document, without comments.

    Comments stand before a sentence's first word.  In CoNLL-U they begin with `#`; elsewhere with `# `, and they have
    another number of fields than the file's first word, since the word `#` is written so too.

    Args:
        lines: of the file.
        universal: whether it is CoNLL-U.
    """
    texts = [line.replace(BYTE_ORDER_MARK, "").rstrip("\r\n") for line in lines]
    begins = (_fields(text) for text in texts if text.strip() and not text.startswith(("# ", DOCUMENT)))
    width = len(next(begins, ("", "")))
    block: list[tuple[int, str]] = []
    for number, text in enumerate([*texts, ""], 1):
        mark = bool(text.strip()) and _fields(text)[0] == DOCUMENT
        if (mark or not text.strip()) and block:
            yield block[0][0], block
            block = []
        if mark:
            yield number, [(number, text)]
        elif text.strip() and (block or not _is_comment(text, universal, width)):
            block.append((number, text))


def _is_comment(text: str, universal: bool, width: int) -> bool:
    return text.startswith("#") if universal else text.startswith("# ") and len(_fields(text)) != width


def _fields(line: str) -> list[str]:
    """The fields of a line: between tabs, or between blanks where it has no tab."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _begins_document(block: list[tuple[int, str]]) -> bool:
    return _fields(block[0][1])[0] == DOCUMENT


def _words(block: list[tuple[int, str]], universal: bool) -> list[tuple[int, list[str]]]:
    """[(line, fields)] of the words of a block.  universal: whether it is CoNLL-U."""
    rows = [] if _begins_document(block) else [(number, _fields(line)) for number, line in block]
    return [(number, fields) for number, fields in rows if not (universal and _NO_WORD.fullmatch(fields[0]))]


def _sentence(
    path: str, rows: list[tuple[int, list[str]]], places: Mapping[str, int], document: str
) -> Sentence | UserError:
    for number, fields in rows:
        for role, place in places.items():
            if not -len(fields) <= place < len(fields) or (role == "label" and len(fields) < 2):
                return UserError(
                    f"{path}:{number}: the line has {len(fields)} columns, but config.data.columns.{role} is {place}. "
                    "Correct the line; columns are separated by tabs or blanks."
                )
    numbers = tuple(number for number, _ in rows)
    return {
        role: Words(tuple(fields[place] for _, fields in rows), numbers) for role, place in places.items()
    }, document


def has_tags(lines: Iterable[str], column: str) -> bool:
    """Whether a line of the first sentence has a column of tags beside its word: files for prediction may have none.

    Args:
        lines: of the file.
        column: number of the tags' column; a name, as CoNLL-U has them, is always there.
    """
    if not re.fullmatch(r"-?\d+", column):
        return True
    first = next((block for _, block in _blocks(lines, False) if not _begins_document(block)), [])
    return any(len(_fields(text)) >= max(2, int(column) + 1) for _, text in first)


def append(path: str, lines: Iterable[str], values: Iterable[str]) -> str:
    """The text of a file with a further column.

    Args:
        path: the file.
        lines: of the file.
        values: of each word that `read` yields, in order.
    """
    universal, column = path.lower().endswith(".conllu"), iter(values)
    written = []
    lines = [line.rstrip("\r\n") for line in lines]
    words = {number for _, block in _blocks(lines, universal) for number, _ in _words(block, universal)}
    for number, line in enumerate(lines, 1):
        separator = "\t" if "\t" in line else " "
        written.append(f"{line}{separator}{next(column)}\n" if number in words else f"{line}\n")
    return "".join(written)


def text(sentences: Iterable[Iterable[Sequence[str]]]) -> str:
    """The text of a CoNLL file that `read` can read.  sentences: the columns of each word, sentence by sentence."""
    return "\n".join("".join("\t".join(fields) + "\n" for fields in sentence) for sentence in sentences)
