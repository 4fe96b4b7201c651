"""Changed copies: what each change does, and that a copy depends on its own address alone."""

import collections

import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.data import augmentation
from fjt.data.glue import Split

TEXT = "The old film was a fine surprise for everyone in town".split()
SYNONYMS = {"film": ("movie", "picture"), "old": ("aged",), "fine": ("good",)}


def rng(seed=0):
    return np.random.default_rng(seed)


def many(change, rate, words=TEXT, synonyms=SYNONYMS, times=400):
    return [augmentation.CHANGES[change](list(words), rate, rng(i), synonyms) for i in range(times)]


def test_delete_keeps_order_and_a_share():
    found = many("delete", 0.3)
    assert 0.66 < np.mean([len(words) for words in found]) / len(TEXT) < 0.74
    for words in found:
        places = iter(TEXT)
        assert words and all(word in places for word in words)
    assert all(len(words) == 1 for words in many("delete", 1.0))


def test_swap_keeps_the_words():
    found = many("swap", 0.2)
    assert all(collections.Counter(words) == collections.Counter(TEXT) for words in found)
    assert any(words != TEXT for words in found)


def test_insert_adds_synonyms_or_words_again():
    for words in many("insert", 0.3):
        added = collections.Counter(words) - collections.Counter(TEXT)
        assert not collections.Counter(TEXT) - collections.Counter(words)
        assert set(added) <= set(TEXT) - {"film", "old", "fine"} | {"movie", "picture", "aged", "good"}
    assert np.mean([len(words) for words in many("insert", 0.3)]) > 1.2 * len(TEXT)


def test_synonyms_keep_the_first_capital():
    (found,) = many("synonym", 1.0, words=["Film", "film", "town"], synonyms={"film": ("movie",)}, times=1)
    assert found == ["Movie", "movie", "town"]
    assert {words[2] for words in many("synonym", 1.0)} == {"movie", "picture"}


def test_noise_changes_one_letter_of_a_word():
    lengths = set()
    for words in many("noise", 1.0, words=["surprise"], times=300):
        (word,) = words
        lengths.add(len(word) - 8)
        assert len(set(word) ^ set("surprise")) <= 2
    assert lengths == {-1, 0, 1}
    assert all(word for words in many("noise", 1.0, words=["a", "b"]) for word in words)


def split(texts, pairs=None):
    ids = tuple(map(str, range(len(texts))))
    return Split(ids, tuple(texts), pairs, np.arange(len(texts)), tuple("ab" * len(texts))[: len(texts)])


CHANGES = (("delete", 0.3), ("noise", 0.5))


def test_copies_are_behind_the_rows_and_depend_on_their_own_address():
    texts = ["one two three four five", "six seven eight nine ten", "eleven"]
    made = augmentation.augment(split(texts, ("p q r s t", None, "u v w")), CHANGES, 2, 7, {})
    assert made.text[:3] == tuple(texts) and len(made) == 9 and made.text_pair[1::3] == (None,) * 3
    assert made.id == ("0", "1", "2", "0~1", "1~1", "2~1", "0~2", "1~2", "2~2")
    assert made.label.tolist() == [0, 1, 2] * 3 and made.cluster == ("a", "b", "a") * 3
    assert made.text[3:6] != made.text[6:9] != made.text[:3] and made.text_pair[3] != "p q r s t"
    other = augmentation.augment(split(["of another text", *texts[1:]], ("x", None, "y")), CHANGES, 1, 7, {})
    assert (other.text[4], other.text[5]) == (made.text[4], made.text[5])
    assert augmentation.augment(split(texts), CHANGES, 1, 8, {}).text[3:] != made.text[3:6]


def test_an_empty_text_stays():
    assert augmentation.augment(split(["", "  "]), CHANGES, 1, 0, {}).text == ("", "  ") * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [((("drop", 0.1),), "'drop' is unknown"), (("delete",), "'delete' is not a pair of a change"),
     (("delete=1.5",), "'delete=1.5' is not a pair.*Give pairs, such as"), (("delete", 0.1), "'delete' is not a pair"),
     ((("delete", 0.1), ("swap", 0.0)), "that swap changes, 0.0, should be a number above 0 and at most 1"),
     ((("delete", 1.5),), "1.5, should be a number above 0"), ((("delete", -0.1),), "-0.1, should be a number above 0"),
     ((("delete", float("nan")),), "nan, should be a number above 0"),
     ((("delete", "0.1"),), "'0.1', should be a number above 0"), ((("noize", 0.1),), "Did you mean noise")],
)  # fmt: skip
def test_changes_that_are_none(given, words):
    with pytest.raises(UserError, match=words):
        augmentation.check(given)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"film\tmovie\nbad line\n", "line 2: 'bad line'"), (b"film\t\n", "line 1"), (b"", "has no synonyms"),
     (b"\xff\xfe\x00", "not UTF-8"), (b"\tmovie\n", "line 1")],
)  # fmt: skip
def test_files_of_synonyms_with_faults(content, words, tmp_path):
    (tmp_path / "synonyms.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        augmentation.read_synonyms(str(tmp_path / "synonyms.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        augmentation.read_synonyms(str(tmp_path / "none.txt"))


def test_a_file_of_synonyms(tmp_path):
    (tmp_path / "synonyms.txt").write_text("Film\tmovie\tpicture\n\nold\taged\nfilm\tflick\n", encoding="utf-8-sig")
    found = augmentation.read_synonyms(str(tmp_path / "synonyms.txt"))
    assert found == {"film": ("movie", "picture", "flick"), "old": ("aged",)}
