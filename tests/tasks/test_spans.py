"""Spans of words: schemes of tags, and counts, against the plain rule and hand numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fjt.core.errors import UserError
from fjt.core.ragged import Ragged
from fjt.tasks import spans
from fjt.tasks.entities import ENTITIES

TYPES = ["loc", "per"]
SENTENCE = st.lists(st.sampled_from(spans.names_of(TYPES, "bioes")), max_size=7)


def parsed(tags):
    return [spans.parse(tag, "t:1") for tag in tags]


def ragged(rows):
    return Ragged.of(rows, np.int32)


@pytest.mark.parametrize(
    ("tags", "expected", "repairs"),
    [
        ("B-per I-per O B-loc", [(0, 2, "per"), (3, 4, "loc")], 0),
        ("I-per I-per O I-loc", [(0, 2, "per"), (3, 4, "loc")], 2),  # as IOB1 has it
        ("I-per B-per I-per", [(0, 1, "per"), (1, 3, "per")], 1),
        ("B-per I-loc", [(0, 1, "per"), (1, 2, "loc")], 1),
        ("S-per B-loc I-loc E-loc S-loc", [(0, 1, "per"), (1, 4, "loc"), (4, 5, "loc")], 0),
        ("U-per B-loc L-loc", [(0, 1, "per"), (1, 3, "loc")], 0),
        ("B-per E-per I-per", [(0, 2, "per"), (2, 3, "per")], 1),
        ("O O", [], 0),
        ("", [], 0),
    ],
)
def test_spans_are_read_from_any_scheme(tags, expected, repairs):
    assert spans.read(parsed(tags.split())) == (expected, repairs)


@pytest.mark.parametrize("tag", ["B-", "X-per", "per", "", "b-per", "B per", "-per", "BI-per"])
def test_tags_that_are_no_spans_are_refused(tag):
    with pytest.raises(UserError, match=r"t:1: the tag '.*' is neither O nor a type after B-.*kind=tagging"):
        spans.parse(tag, "t:1")


@given(SENTENCE)
def test_spans_come_back_from_every_scheme_and_from_ids(tags):
    found, _ = spans.read(parsed(tags))
    for scheme in ("bio", "bioes", "iob1"):
        written = spans.write(found, len(tags), scheme)
        assert len(written) == len(tags)
        again, repairs = spans.read(parsed(written))
        assert again == found and (repairs == 0 or scheme == "iob1")
    ids = spans.to_ids(found, len(tags), TYPES)
    assert spans.from_ids(ids, TYPES) == found and len(ids) == len(tags)


def test_iob1_has_b_only_between_spans_that_touch():
    found = [(0, 1, "per"), (1, 3, "per"), (3, 4, "loc"), (5, 6, "loc")]
    assert " ".join(spans.write(found, 6, "iob1")) == "I-per B-per I-per I-loc O I-loc"
    assert " ".join(spans.write(found, 6, "bioes")) == "S-per B-per E-per S-loc O S-loc"


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5))
def test_counts_are_those_of_sets_of_spans(pairs):
    rows = [(one[: min(len(one), len(two))], two[: min(len(one), len(two))]) for one, two in pairs]
    sides = [[spans.read(parsed(tags))[0] for tags in side] for side in zip(*rows, strict=True)]
    lengths = [len(one) for one, _ in rows]
    predicted, label = (
        ragged([spans.to_ids(row, n, TYPES).tolist() for row, n in zip(side, lengths, strict=True)]) for side in sides
    )
    found = spans.count(predicted, label, len(TYPES))
    for row, (guessed, true) in enumerate(zip(*sides, strict=True)):
        for number, chosen in enumerate((set(guessed) & set(true), guessed, true)):
            assert [sum(span[2] == kind for span in chosen) for kind in TYPES] == found[row, number].tolist()
    hits, guessed, true = found.sum(axis=(0, 2))
    assert ENTITIES.metrics["entity_precision"](predicted, label) == hits / max(guessed, 1)
    assert ENTITIES.metrics["entity_recall"](predicted, label) == hits / max(true, 1)
    assert ENTITIES.metrics["entity_f1"](predicted, label) == 2 * hits / max(guessed + true, 1)


def test_a_span_does_not_go_on_in_the_next_sentence():
    label, predicted = ragged([[0, 1], [0, 0]]), ragged([[0, 1], [2, 0]])  # B-loc last; the next begins with I-loc
    assert spans.hits(predicted, label).tolist() == [False, True, False, False]


METRICS = tuple(ENTITIES.metrics)


@pytest.mark.parametrize("metric", METRICS)
def test_pseudo_values_leave_out_one_sentence_each(metric):
    rng = np.random.default_rng(3)

    def made():
        rows = [rng.choice(spans.names_of(TYPES, "bioes"), size=n).tolist() for n in (4, 1, 6, 3, 5)]
        return ragged([spans.to_ids(spans.read(parsed(row))[0], len(row), TYPES).tolist() for row in rows])

    label, runs = made(), [made(), made()]
    found = ENTITIES.pseudo_values(metric, runs, label)
    keep = [np.arange(5) != row for row in range(5)]
    score = ENTITIES.metrics[metric]
    expected = [[5 * score(run, label) - 4 * score(run[rows], label[rows]) for rows in keep] for run in runs]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
