"""Spans of words in tags such as B-place: how schemes write them, and how predicted and true ones are counted (numpy).

Spans are compared in ids of the scheme BIO: 0 is O, 2 t + 1 is B- and 2 t + 2 is I- of type t, from 0 on.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from fjt.core.errors import UserError
from fjt.core.ragged import Ragged

OUTSIDE = "O"
SCHEMES = ("bio", "bioes", "iob1")  # that `write` knows
PREFIXES = {"bio": "BI", "bioes": "BIES"}  # {scheme: prefixes} of the tags that a model predicts
SAME = {"L": "E", "U": "S"}  # BILOU is BIOES with two other letters
Tag = tuple[str, str]  # (prefix, type); ("O", "") outside
Span = tuple[int, int, str]  # (first word, word after the last one, type)


def parse(tag: str, place: str) -> Tag:
    """The parts of a tag.  Raises UserError for a tag that is neither O nor a type after a prefix."""
    prefix, _, kind = tag.partition("-")
    prefix = SAME.get(prefix, prefix)
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if prefix not in tuple(PREFIXES["bioes"]) or not kind:
        raise UserError(
            f"{place}: the tag {tag!r} is neither O nor a type after B-, I-, E- or S-. Correct it, or use "
            "config.data.kind=tagging for tags that are no spans."
        )
    return prefix, kind


def read(tags: Iterable[Tag]) -> tuple[list[Span], int]:
    """(spans of a sentence, number of repairs), from tags of any scheme: IOB1, BIO, BIOES or BILOU.

    An I- or E- that does not go on with a span of its type begins one, as conlleval and seqeval have it.  Each is a
    repair, except in IOB1, where spans begin with I-.
    """
    spans: list[Span] = []
    repairs, running = 0, ""  # type of the span that may go on
    for at, (prefix, kind) in enumerate(tags):
        if prefix in ("I", "E") and kind and kind == running:
            spans[-1] = (spans[-1][0], at + 1, kind)
        elif kind:
            repairs += prefix in ("I", "E")
            spans.append((at, at + 1, kind))
        running = "" if prefix in ("E", "S") else kind
    return spans, repairs


def is_iob1(tags: Iterable[Tag]) -> bool:
    """Whether B- stands only where a span touches another one of its type, as in IOB1."""
    before = ""
    for prefix, kind in tags:
        if prefix in ("E", "S") or (prefix == "B" and kind != before):
            return False
        before = kind
    return True


def write(spans: Iterable[Span], count: int, scheme: str) -> list[str]:
    """The tags of a sentence of `count` words.

    Args:
        spans: in order, without overlap.
        count: number of words.
        scheme: bio, bioes, or iob1, in which B- stands only between spans of one type that touch.
    """
    tags, before = [OUTSIDE] * count, (-1, "")
    for first, end, kind in spans:
        inside = end - first - 1
        if scheme == "bioes":
            prefixes = "B" + "I" * (inside - 1) + "E" if inside else "S"
        else:
            prefixes = ("I" if scheme == "iob1" and before != (first, kind) else "B") + "I" * inside
        tags[first:end] = [f"{prefix}-{kind}" for prefix in prefixes]
        before = end, kind
    return tags


def follows(before: Tag, after: Tag) -> bool:
    """Whether a scheme, BIO or BIOES, has one tag after another."""
    return after[0] not in ("I", "E") or (before[0] in ("B", "I") and before[1] == after[1])


def best_path(scores: Float[np.ndarray, "n C"], tags: Sequence[Tag]) -> Int[np.ndarray, " n"]:
    """The tags of a sentence with the highest sum of scores of those that follow each other as a scheme allows.

    An algorithm of Viterbi (1967).  An unfinished span of BIOES may end the sentence or stand before O.

    Args:
        scores: of each word and tag.
        tags: what each column stands for.
    """
    barred = np.array([[0.0 if follows(before, after) else -np.inf for after in tags] for before in tags])
    best, chosen = scores[0] + [0.0 if follows((OUTSIDE, ""), tag) else -np.inf for tag in tags], []
    for row in scores[1:]:
        through = best[:, None] + barred
        chosen.append(through.argmax(axis=0))
        best = through.max(axis=0) + row
    path = [int(best.argmax())]
    for before in reversed(chosen):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def converted(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags of a sentence in another scheme."""
    return write(read(parse(tag, "") for tag in tags)[0], len(tags), scheme)


def names_of(types: Sequence[str], scheme: str) -> tuple[str, ...]:
    """The tags of types: O, and those of each type."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in PREFIXES[scheme]))


def to_ids(spans: Iterable[Span], count: int, types: Sequence[str]) -> Int[np.ndarray, " count"]:
    """The ids in which a sentence of `count` words is compared."""
    ids = np.zeros(count, np.int32)
    for first, end, kind in spans:
        ids[first:end] = 2 * types.index(kind) + 2
        ids[first] -= 1
    return ids


def from_ids(ids: Int[np.ndarray, " count"], types: list[str]) -> list[Span]:
    """The spans of a sentence, from ids of `to_ids`, or from such in another order."""
    kinds = (ids + 1) // 2
    goes_on = (ids > 0) & (ids % 2 == 0) & (kinds == np.concatenate([[0], kinds[:-1]]))
    firsts = np.flatnonzero((ids > 0) & ~goes_on)
    stops = np.append(np.flatnonzero(~goes_on), len(ids))
    ends = stops[np.searchsorted(stops, firsts, side="right")]
    return [(int(at), int(end), types[kinds[at] - 1]) for at, end in zip(firsts, ends, strict=True)]


def ends_of(tags: Ragged) -> Int[np.ndarray, " M"]:
    """The end of the span that begins at each value, counted over all rows; of no meaning where none begins."""
    inside = (tags.values > 0) & (tags.values % 2 == 0)
    inside[tags.offsets[:-1][tags.lengths > 0]] = False  # a span ends with its row
    stops = np.append(np.flatnonzero(~inside), len(inside))
    return stops[np.searchsorted(stops, np.arange(len(inside)), side="right")]


def hits(predicted: Ragged, label: Ragged) -> Bool[np.ndarray, " M"]:
    """Where a span begins that is predicted and true: the same words, the same type."""
    same = (label.values % 2 == 1) & (predicted.values == label.values)
    return same & (ends_of(predicted) == ends_of(label))


def count(predicted: Ragged, label: Ragged, size: int) -> Int[np.ndarray, "N 3 T"]:
    """Of each row, the spans of each type that are predicted and true, predicted, true.

    Args:
        predicted: ids of `to_ids`.
        label: likewise, in rows of the same lengths.
        size: T, number of types.
    """
    rows, found = np.repeat(np.arange(len(label)), label.lengths), np.zeros((len(label), 3, size), np.int64)
    places = hits(predicted, label), predicted.values % 2 == 1, label.values % 2 == 1
    for number, (chosen, tags) in enumerate(zip(places, (label, predicted, label), strict=True)):
        np.add.at(found[:, number], (rows[chosen], tags.values[chosen] // 2), 1)
    return found
