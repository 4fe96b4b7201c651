"""Label cells: one spelling per label, whatever the format of the file, and sets of labels that look like a mistake."""

import dataclasses
import decimal
import itertools
import math
import re
import string
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fjt.core.errors import BadRows, UserError, read_rows

LABELS_IN_MESSAGES = 20  # a message lists at most this many label names
BYTE_ORDER_MARK = "\ufeff"
# Control characters, line separators and halves of surrogate pairs: no table can hold them between its separators.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
_TRUTH = {"true": decimal.Decimal(1), "false": decimal.Decimal(0)}
# Missing values and faults as programs write them: pandas, databases, spreadsheets.
_MISSING = (
    "nan", "<na>", "n/a", "nat", "null", "\\n", "undefined", "#n/a", "#na", "#null!", "#name?", "#ref!", "#value!",
)  # fmt: skip
_MISSING_AMONG_NUMBERS = (
    *_MISSING, "na", "none", "inf", "-inf", "infinity", "-infinity", "-", "--", "?", ".", "#div/0!", "#num!",
)  # fmt: skip
# Characters without a picture: Unicode's Default_Ignorable_Code_Point; those of category Cf are found by category.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Cyrillic letters and the Greek omicron, one for one with the Latin letters that look like them.
_ALIKE = str.maketrans("авекмнорстухіјѕοАВЕКМНОРСТУХІЈЅΟ", "abekmhopctyxijsoABEKMHOPCTYXIJSO")
_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b`\u201c\u201d\u201e\u201f", "'" * 5 + '"' * 4)
LONGEST = 1000  # characters of a label, an id or a cluster: an array of them has room for the longest in each row


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a label column.

    Attributes:
        value: the table's value: str, number, list, dict or None.
        place: "file:line", for messages.
        required: whether the row must have a label.
    """

    value: Any
    place: str
    required: bool

    @property
    def text(self) -> str:
        """The canonical name of the value, "" where it is missing.  Raises UserError for a value that names nothing."""
        return name_of(self.value, self.place)

    def unknown(self, label: str, known: Collection[str]) -> UserError:
        """The error for a label that is not among the known ones."""
        return UserError(f"{self.place}: unknown label {label!r}; the labels are: {some(known)}. Correct the row.")

    def missing(self) -> UserError:
        """The error for a row that needs a label and has none."""
        return UserError(f"{self.place}: the row has no label; only test sets may lack labels. Correct or remove it.")


def some(names: Collection[str]) -> str:
    """The first names, separated by commas, and the number of the others."""
    others = len(names) - LABELS_IN_MESSAGES
    return ", ".join(itertools.islice(names, LABELS_IN_MESSAGES)) + (f" and {others:,} more" if others > 0 else "")


def name_of(value: Any, place: str, kind: str = "label") -> str:
    """The canonical name of a label, or of a cluster, of any format, "" for a missing one.

    It has no outer blanks and no byte-order mark. 1, 1.0 and "1.0" are "1"; True, "True" and "TRUE" are "true".

    Args:
        value: of a cell or of an option.
        place: for the message.
        kind: "label" or "cluster", for the message.

    Raises:
        UserError: a list, an object or another value that is not a name; characters that a table cannot hold; or more
            than LONGEST of them.
    """
    name = _checked(_spelled(value, place, kind).strip(), place, kind)
    if whole := _WHOLE.fullmatch(name):
        return whole.group(1)
    return name.lower() if name.lower() in _TRUTH else name


def id_of(value: Any, place: str) -> str:
    """The identifier in a cell, as it is written, "" for a missing one.  Raises UserError as `name_of` does."""
    return _checked(_spelled(value, place, "id"), place, "id")


def unique_ids(values: Sequence[Any], place: Callable[[int], str]) -> tuple[str, ...]:
    """The identifiers of rows, by which their predictions are found again.

    Args:
        values: the cells.
        place: returns the place of a row, for messages.

    Raises:
        BadRows: an identifier is missing or there twice, or as for `id_of`.
    """
    first: dict[str, int] = {}

    def read(cell: tuple[int, Any]) -> str:
        row, value = cell
        name = id_of(value, place(row))
        if not name:
            raise UserError(f"{place(row)}: the row has no id. Give it one.")
        if first.setdefault(name, row) != row:
            raise UserError(same_id(place(row), name, place(first[name])))
        return name

    return tuple(read_rows(read, enumerate(values)))


def same_id(place: str, name: str, first: str) -> str:
    """The message about an identifier that another row has.  first: the place of that row."""
    return f"{place}: the id {name!r} is that of {first} too. Give it another one."


def _spelled(value: Any, place: str, kind: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, decimal.Decimal):
        value = f"{value.normalize():f}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if not isinstance(value, str | int | float):
        raise UserError(f"{place}: {value!r:.80} is not a {kind}. Write text, a number, true or false.")
    return str(value).replace(BYTE_ORDER_MARK, "")


def _checked(name: str, place: str, kind: str) -> str:
    if _UNWRITABLE.search(name):
        raise UserError(f"{place}: the {kind} {name!r:.80} has a control character or invalid Unicode. Correct it.")
    if len(name) > LONGEST:
        raise UserError(
            f"{place}: the {kind} {name!r:.80} has {len(name):,} characters; {LONGEST:,} are allowed. Name the column "
            f"of the {kind}s."
        )
    return name


def check_set(place_of: Mapping[str, str]) -> None:
    """Checks that a set of labels found in a table looks like what its author meant.

    Args:
        place_of: {name: place of its first row}.

    Raises:
        BadRows: a name looks like a missing value, or two names differ only in spelling.
    """
    faults, first_of, values = [], {}, {name: _number(name) for name in place_of}
    others = [value for name, value in values.items() if name.lower() not in _MISSING_AMONG_NUMBERS]
    missing = _MISSING_AMONG_NUMBERS if others and None not in others else _MISSING
    for name, place in place_of.items():
        signs = set(name) <= set(string.punctuation)  # such as the tags `` and '' of quotes
        like: Any = ("signs", name) if signs else _likeness(name)
        other = first_of.setdefault(like if values[name] is None else values[name], name)
        if name.lower() in missing:
            faults.append(f"{place}: the label {name!r} looks like a missing value. Remove such rows; {_REMEDY}")
        elif other != name:
            show = ascii if _look(name) == _look(other) else repr
            faults.append(
                f"{place}: the labels {show(name)} and {show(other)} ({place_of[other]}) differ only in spelling. "
                f"Correct the rows; {_REMEDY}"
            )
    if faults:
        raise BadRows(dict(enumerate(faults)))


_REMEDY = "if it is a class of its own, list all labels in --config.data.label_names."


def _number(name: str) -> decimal.Decimal | None:
    """The finite number that a name spells, None for another name; true is 1 and false is 0."""
    try:
        value = _TRUTH[name] if name in _TRUTH else decimal.Decimal(name)
    except decimal.InvalidOperation:
        return None
    return value if value.is_finite() else None


def _look(name: str) -> str:
    """A text that is equal for names that look the same in print."""
    name = unicodedata.normalize("NFKC", name)
    return _UNSEEN.sub("", "".join(c for c in name if unicodedata.category(c) != "Cf")).translate(_ALIKE)


def _likeness(name: str) -> str:
    """A text that is equal for names that look the same, but for case, quotes, a final stop, or blanks and dashes."""
    name = unicodedata.normalize("NFKC", _look(name).casefold()).translate(_QUOTES)
    name = re.sub(r"(?<=[^\W_])[\s_\u2010-\u2015\u2212-]+(?=[^\W_])", " ", " ".join(name.split()))
    for quote in ("'", '"'):
        name = re.sub(f"^{quote}(.+){quote}$", r"\1", name)
    return name.rstrip(".,;:") or name
