"""Rows of unequal length: chosen, counted and listed as those of a numpy array are."""

import numpy as np
import pytest

from fjt.core.ragged import Ragged, flat, same, unflat, values_of

ROWS = [[3, 1], [], [4, 1, 5], [9]]
RAGGED = Ragged(np.array([value for row in ROWS for value in row]), np.array([0, 2, 2, 5, 6]))


@pytest.mark.parametrize(
    "chosen", [[2, 0, 0], [], slice(1, 3), [False, True, False, True], np.array([3, 1]), slice(None, None, -1), [-1]]
)
def test_rows_are_chosen_as_those_of_an_array(chosen):
    expected = np.array(range(4))[chosen].astype(int)
    found = RAGGED[chosen]
    assert len(found) == len(expected) and found.tolist() == [ROWS[row] for row in expected]
    assert found.lengths.tolist() == [len(ROWS[row]) for row in expected] and found.offsets[0] == 0


def test_one_row_and_its_type():
    assert RAGGED[2].tolist() == [4, 1, 5] and RAGGED[-1].tolist() == [9] and RAGGED[1].size == 0
    assert RAGGED.astype(np.int8).dtype == np.int8 and RAGGED.tolist() == ROWS
    assert values_of(RAGGED) is RAGGED.values and values_of(RAGGED.values) is RAGGED.values
    with pytest.raises(IndexError):
        RAGGED[4]


def test_texts_of_any_length_are_bytes_in_a_file():
    rows = np.array([["", "é", "a" * 300], ["b\0", "\n", "日本"]], np.dtypes.StringDType())
    stored = flat("label", rows)
    assert {name: array.dtype.kind for name, array in stored.items()} == {"label": "u", "label_ends": "i"}
    assert unflat(stored)["label"].tolist() == rows.tolist() and unflat(stored)["label"].dtype.kind == "T"
    ends = stored["label_ends"]
    for wrong in (ends.ravel()[[1, 0, 2, 3, 4, 5]].reshape(2, 3), ends[:1], ends + 1):
        with pytest.raises(ValueError, match="label_ends do not fit label"):
            unflat(stored | {"label_ends": wrong})


def test_the_same_rows():
    scores = np.array([1.0, np.nan, 3.0])
    assert same(scores, scores.copy()) and not same(scores, np.array([1.0, 2.0, 3.0]))
    assert same(np.array([1, 2]), np.array([1, 2])) and not same(np.array([1, 2]), np.array([1, 3]))
    rows = [[1, 2], [3]]
    assert same(Ragged.of(rows, np.int32), Ragged.of(rows, np.int32))
    assert not same(Ragged.of(rows, np.int32), Ragged.of([[1], [2, 3]], np.int32)), "the same values in other rows"
