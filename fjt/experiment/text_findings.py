"""Findings in texts: empty, repeated, contradictory, in two splits, long, or unknown to the tokenizer."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool

from fjt.data import cleaning, similarity
from fjt.experiment.findings import Finding, Subject, grade

LENGTHS = (64, 128, 256, 512)  # tokens; the share of longer rows is counted for each, and for the run's own
CLEAN = "`--config.data.clean={}` drops {} from train."


def find(subject: Subject) -> Iterator[Finding]:
    """Yields the findings in the texts of a task."""
    for name in subject.splits:
        yield from _empty(subject, name)
        yield from _repeated(subject, name)
        yield from _conflicts(subject, name)
        yield from _long(subject, name)
        yield from _unknown(subject, name)
    yield from _exact_leaks(subject)
    yield from _near(subject)


def describe(subject: Subject, name: str) -> dict[str, Any]:
    """The facts about the texts of a split: numbers of tokens, shares of rows above LENGTHS, unknown tokens."""
    lengths, examples = subject.lengths(name), subject.tokens[name]
    return {
        "rows": len(lengths),
        "tokens": len(examples.token_ids),
        "unknown": float(np.mean(examples.token_ids == subject.tokenizer.unk_token_id))
        if len(examples.token_ids)
        else 0.0,
        "lengths": {
            **{f"{q} %": int(np.percentile(lengths, q, method="lower")) for q in (5, 50, 95)},
            "longest": int(lengths.max()),
        },
        "longer": {str(n): float(np.mean(lengths > n)) for n in sorted({*LENGTHS, subject.max_length})},
        "histogram": _histogram(lengths),
    }


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """{"edges", "rows"}: numbers of rows between lengths, in at most 40 steps of equal width up to the 99th percentile.

    The last step has all longer rows.
    """
    top = max(int(np.percentile(lengths, 99)), 2)
    width = -(-top // 40)
    edges = list(range(0, top + width, width))
    counts = np.bincount(np.minimum(lengths // width, len(edges) - 2), minlength=len(edges) - 1)
    return {"edges": edges, "rows": counts.tolist()}


def _make(
    subject: Subject, name: str, mask: Bool[np.ndarray, " N"], finding: str, action: str, limits: tuple[float, float]
) -> Iterator[Finding]:
    """Yields the Finding of the rows in a mask, if there are any.  limits: for `grade`."""
    if mask.any():
        share = float(mask.mean())
        rows = np.flatnonzero(mask).tolist()
        yield Finding(
            finding=finding,
            severity=grade(share, *limits),
            split=name,
            count=len(rows),
            share=share,
            examples=subject.examples_of(name, rows),
            action=action,
        )


def _empty(subject: Subject, name: str) -> Iterator[Finding]:
    action = CLEAN.format("empty", "these rows") if name == "train" else "Complete these rows in the file."
    mask = cleaning.find_empty(subject.keys[name])
    yield from _make(subject, name, mask, "empty text", action, (0.001, 0.01))


def _repeated(subject: Subject, name: str) -> Iterator[Finding]:
    keys, label = subject.keys[name], subject.splits[name].label
    mask = cleaning.find_duplicates(keys, label if subject.is_labelled(name) else np.zeros(len(keys)))
    action = "Repeated rows count several times in the score of this split. Report the score without them as well."
    if name == "train":
        action = CLEAN.format("duplicates", "these rows")
    yield from _make(subject, name, mask, "duplicate", action, (0.01, 0.2))


def _conflicts(subject: Subject, name: str) -> Iterator[Finding]:
    if not subject.is_labelled(name):
        return
    mask = cleaning.find_conflicts(subject.keys[name], subject.splits[name].label)
    action = "No model can be right on all of these rows. Check their labels."
    action += f" {CLEAN.format('conflicts', 'them')}" if name == "train" else ""
    yield from _make(subject, name, mask, "same text, different labels", action, (0.001, 0.02))


def _long(subject: Subject, name: str) -> Iterator[Finding]:
    length = subject.max_length
    how = "read in windows" if subject.windows else "cut"
    action = "A larger `--config.model.max_length` reads whole texts, at a higher cost."
    action = "Nothing: no word is lost." if subject.windows else action
    limits = (2.0, 2.0) if subject.windows else (0.05, 0.5)
    mask = subject.lengths(name) > length
    yield from _make(subject, name, mask, f"longer than {length} tokens, {how}", action, limits)


def _unknown(subject: Subject, name: str) -> Iterator[Finding]:
    examples = subject.tokens[name]
    unknown = examples.token_ids == subject.tokenizer.unk_token_id
    if not unknown.any():
        return
    share = float(unknown.mean())
    counts = np.diff(np.concatenate([[0], np.cumsum(unknown)])[examples.offsets[examples.row_offsets]])
    rows = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    yield Finding(
        finding="unknown tokens",
        severity=grade(share, 0.01, 0.1),
        split=name,
        count=int(unknown.sum()),
        share=share,
        examples=subject.examples_of(name, rows.tolist(), unknown=dict(enumerate(counts.tolist()))),
        action="The model cannot tell these words apart. Check the encoding of the file, or take a model whose "
        "tokenizer knows the language.",
    )


def _exact_leaks(subject: Subject) -> Iterator[Finding]:
    for one, other in itertools.combinations(subject.splits, 2):
        first: dict[cleaning.Key, int] = {}
        for row, key in enumerate(subject.keys[one]):
            first.setdefault(key, row)
        twins = {row: first[key] for row, key in enumerate(subject.keys[other]) if key in first}
        yield from _leaks(subject, one, other, twins, "text is also in", (0.001, 0.01))


def _near(subject: Subject) -> Iterator[Finding]:
    """Yields the findings of nearly equal rows within train, and between two splits."""
    names = list(subject.splits)
    bounds = np.cumsum([0, *(len(subject.keys[name]) for name in names)])
    pairs = similarity.find_pairs([key for name in names for key in subject.keys[name]])
    sides = np.searchsorted(bounds, pairs, side="right") - 1
    for one, other in itertools.combinations_with_replacement(range(len(names)), 2):
        chosen = pairs[(sides == (one, other)).all(axis=1)] - bounds[[one, other]]
        twins = {int(row): int(twin) for twin, row in chosen[::-1]}
        if one != other:
            yield from _leaks(subject, names[one], names[other], twins, "text is nearly equal to one in", (0.01, 0.05))
        elif twins:
            share = len(twins) / len(subject.keys[names[one]])
            yield Finding(
                finding="near-duplicate",
                severity=grade(share, 0.05, 0.5),
                split=names[one],
                count=len(twins),
                share=share,
                examples=_with_twins(subject, names[one], names[one], twins),
                action="Nothing if the texts are meant to be alike. A dev set that is drawn from them would leak.",
            )


def _leaks(
    subject: Subject, one: str, other: str, twins: dict[int, int], how: str, limits: tuple[float, float]
) -> Iterator[Finding]:
    """Yields the Finding of rows of a split that are also in an earlier one, if there are any.

    Args:
        subject: the data.
        one: name of the earlier split.
        other: name of the split.
        twins: {row of `other`: row of `one`}.
        how: begins the name of the finding.
        limits: for `grade`.
    """
    if not twins:
        return
    share = len(twins) / len(subject.keys[other])
    action = f"Rows that a model has memorised raise its scores on {other}. "
    if one != "train":
        action = f"Steps and options that are chosen on {one} are chosen by rows of {other}. "
    exact = one == "train" and limits[0] < 0.01
    yield Finding(
        finding=f"{how} {one}",
        severity=grade(share, *limits),
        split=other,
        count=len(twins),
        share=share,
        examples=_with_twins(subject, one, other, twins),
        action=action
        + (CLEAN.format("leaks", "them") if exact else "Look at the examples, and remove one row of each pair."),
    )


def _with_twins(subject: Subject, one: str, other: str, twins: dict[int, int]) -> tuple[dict[str, Any], ...]:
    places = {row: subject.place(one, twin) for row, twin in twins.items()}
    rows = sorted(twins)[:5]
    texts = {row: example["text"] for row in rows for example in subject.examples_of(one, [twins[row]])}
    return subject.examples_of(other, rows, like=places, like_text=texts)
