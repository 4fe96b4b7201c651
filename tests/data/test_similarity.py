"""Nearly equal texts: hand-made similarities, every pair of a brute force found, and equal results each time."""

import itertools

import numpy as np
import pytest

from fjt.data import similarity


def made(count=200, seed=0):
    """Texts of which many are another one with one to four words replaced."""
    rng, words = np.random.default_rng(seed), [f"w{i}" for i in range(500)]
    found = [list(rng.choice(words, rng.integers(8, 40))) for _ in range(count // 2)]
    for _ in range(count - len(found)):
        copy = list(found[rng.integers(len(found))])
        for place in rng.integers(0, len(copy), rng.integers(1, 5)):
            copy[place] = str(rng.choice(words))
        found.append(copy)
    return [" ".join(map(str, text)) for text in found]


def test_the_pairs_are_those_of_a_brute_force():
    texts = made()
    pairs = [{*itertools.pairwise(text.split())} for text in texts]
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if texts[i] != texts[j] and len(pairs[i] & pairs[j]) >= similarity.THRESHOLD * len(pairs[i] | pairs[j])
    }
    found = similarity.find_pairs([(text,) for text in texts])
    assert 20 < len(expected) < 200 and {tuple(pair) for pair in found.tolist()} == expected
    assert found.tolist() == sorted(found.tolist(), key=lambda pair: pair[::-1])
    np.testing.assert_array_equal(found, similarity.find_pairs([(text,) for text in texts]))


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        # 9 pairs each, of which 8 are shared: 8 / 10
        ("a b c d e f g h i j", "a b c d e f g h i k", True),
        # 8 pairs each, of which 7 are shared: 7 / 9
        ("a b c d e f g h i", "a b c d e f g h k", False),
        ("A b, c", "a  B c!", True),
        ("one", "One.", True),
        ("one", "two", False),
        ("", "one", False),
        ("!!!", "???", False),  # no words at all
        ("我爱北京天安门广场上的人们啊", "我爱北京天安门广场上的人们呀", True),  # 13 pairs of characters, 12 shared
    ],
)
def test_two_texts(one, other, near):
    assert len(similarity.find_pairs([(one,), (other,)])) == near


def test_of_rows_with_several_texts_each_is_compared():
    long = " ".join(f"w{i}" for i in range(100))
    assert not len(similarity.find_pairs([("is it red", long), ("who are you", long)]))
    assert not len(similarity.find_pairs([(long, "is it red"), (long, "who are you")]))
    assert not len(similarity.find_pairs([(long, "is it red"), ("is it red", long)]))
    assert similarity.find_pairs([("a", long), ("b", long), ("a", f"{long} more")]).tolist() == [[0, 2]]
    assert not len(similarity.find_pairs([(long,), (long, "")]))


def test_equal_rows_are_compared_once():
    text = " ".join("abcdefghijkl")
    keys = [(text,), (text,), (f"{text} m",), (f"{text} m",)]
    assert similarity.find_pairs(keys).tolist() == [[0, 2]]
    assert not len(similarity.find_pairs([])) and not len(similarity.find_pairs([("",), ("a",)]))
