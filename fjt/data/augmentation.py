"""Changed copies of training texts: words dropped, swapped, inserted or replaced, and noise in their letters.

The changes are those of Wei & Zou 2019 (section 2), and letters as in Belinkov & Bisk 2018 (section 4.2).  A copy is a
pure function of the row's texts and (seed, place of the row among the training rows, number of the copy).  So a run
goes on with the same copies, and they do not depend on what other rows say; rows that config.data.clean, .fold or
.limit take away before it change its place, and with it the copy.
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.data.glue import Split

Words = list[str]
Synonyms = Mapping[str, Sequence[str]]  # {word in lower case: words that may take its place}
Change = Callable[[Words, float, np.random.Generator, Synonyms], Words]
PURPOSE = 3  # in the seed of the draws: other ones are those of data.limit and its kin


def _chosen(words: Words, rate: float, rng: np.random.Generator) -> list[int]:
    """The places of words, each with probability `rate`."""
    return np.flatnonzero(rng.random(len(words)) < rate).tolist()


def delete(words: Words, rate: float, rng: np.random.Generator, synonyms: Synonyms) -> Words:
    """The words without some of them; one stays at least."""
    dropped = _chosen(words, rate, rng)
    if len(dropped) == len(words):
        dropped.remove(int(rng.integers(len(words))))
    return [word for place, word in enumerate(words) if place not in dropped]


def swap(words: Words, rate: float, rng: np.random.Generator, synonyms: Synonyms) -> Words:
    """The words, some of them exchanged with another one."""
    words = list(words)
    for place in _chosen(words, rate, rng):
        other = int(rng.integers(len(words)))
        words[place], words[other] = words[other], words[place]
    return words


def insert(words: Words, rate: float, rng: np.random.Generator, synonyms: Synonyms) -> Words:
    """The words, and at random places synonyms of some, or these words again where the file has none."""
    added = [_synonym(words[place], rng, synonyms) for place in _chosen(words, rate, rng)]
    words = list(words)
    for word in added:
        words.insert(int(rng.integers(len(words) + 1)), word)
    return words


def synonym(words: Words, rate: float, rng: np.random.Generator, synonyms: Synonyms) -> Words:
    """The words, some of those that the file has replaced by a synonym."""
    places = set(_chosen(words, rate, rng))
    return [_synonym(word, rng, synonyms) if place in places else word for place, word in enumerate(words)]


def _synonym(word: str, rng: np.random.Generator, synonyms: Synonyms) -> str:
    """A synonym with the same first capital; the word itself where there is none."""
    known = synonyms.get(word.lower(), ())
    if not known:
        return word
    found = known[int(rng.integers(len(known)))]
    return found[:1].upper() + found[1:] if word[:1].isupper() else found


def noise(words: Words, rate: float, rng: np.random.Generator, synonyms: Synonyms) -> Words:
    """The words with a wrong letter in some: left out, doubled, exchanged with the next one, or another one."""
    words = list(words)
    for place in _chosen(words, rate, rng):
        word = words[place]
        at, kind = int(rng.integers(len(word))), int(rng.integers(4))
        other = string.ascii_lowercase[int(rng.integers(26))]
        before, letter, after = word[:at], word[at], word[at + 1 :]
        wrong = ("" if len(word) > 1 else letter, 2 * letter, after[:1] + letter, other)[kind]
        words[place] = before + wrong + (after[1:] if kind == 2 else after)
    return words


CHANGES: dict[str, Change] = {f.__name__: f for f in (delete, swap, insert, synonym, noise)}


def read_synonyms(path: str) -> dict[str, tuple[str, ...]]:
    """{word: its synonyms} of a text file with a word and its synonyms in each line, separated by tabs.

    Raises:
        UserError: the file cannot be read, or a line has fewer than two words.
    """
    found: dict[str, tuple[str, ...]] = {}
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"config.data.synonyms={path} cannot be read: {reason}.") from None
    for number, line in enumerate(lines, 1):
        word, *others = (part.strip() for part in line.split("\t"))
        if not line.strip():
            continue
        if not word or not others or not all(others):
            raise UserError(
                f"{path}, line {number}: {line!r:.60} should be a word and its synonyms, separated by tabs."
            )
        found[word.lower()] = (*found.get(word.lower(), ()), *others)
    if not found:
        raise UserError(f"{path} has no synonyms. Give a word and its synonyms in each line, separated by tabs.")
    return found


def check(given: tuple) -> tuple[tuple[str, float], ...]:
    """The value of config.data.augment.  Raises UserError for what is not pairs of a change and its rate."""
    for pair in given:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UserError(
                f"config.data.augment={given}: {pair!r} is not a pair of a change and its share of the words. Give "
                "pairs, such as (('delete', 0.1), ('swap', 0.1)), or (('delete', 0.1),) for one."
            )
        change, share = pair
        if change not in CHANGES:
            raise UserError(f"config.data.augment={given}: {change!r} is unknown.{suggest(str(change), CHANGES)}")
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise UserError(
                f"config.data.augment={given}: the share of the words that {change} changes, {share!r}, should be a "
                f"number above 0 and at most 1, such as ({change!r}, 0.1)."
            )
    return given


def augment(train: Split, changes: Sequence[tuple[str, float]], copies: int, seed: int, synonyms: Synonyms) -> Split:
    """The split, followed by changed copies of all its rows.  The ids of the copies end with ~1, ~2 and so on.

    Args:
        train: rows of whole texts.
        changes: (name in CHANGES, share of the words), applied one after another to both texts of a pair.
        copies: of each row.
        seed: of the draws.
        synonyms: for synonym and insert.
    """
    parts = [train]
    for copy in range(1, copies + 1):
        rngs = [np.random.Generator(np.random.PCG64([seed, PURPOSE, row, copy])) for row in range(len(train))]

        def change(text: str | None, rng: np.random.Generator) -> str | None:
            words = text.split() if text else []
            for name, rate in changes if words else ():
                words = CHANGES[name](words, rate, rng, synonyms)
            return " ".join(words) if words else text

        texts = tuple(map(change, train.text, rngs))
        pairs = None if train.text_pair is None else tuple(map(change, train.text_pair, rngs))
        ids = tuple(f"{one}~{copy}" for one in train.id)
        parts.append(dataclasses.replace(train, id=ids, text=texts, text_pair=pairs))
    return _join(parts)


def _join(parts: Sequence[Split]) -> Split:
    first = parts[0]

    def column(name: str) -> tuple | None:
        return None if getattr(first, name) is None else sum((getattr(part, name) for part in parts), ())

    return dataclasses.replace(
        first,
        id=column("id"),
        text=column("text"),
        text_pair=column("text_pair"),
        cluster=column("cluster"),
        label=np.concatenate([part.label for part in parts]),
    )
