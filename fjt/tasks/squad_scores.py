"""Exact match and F1 of answers by the rules of SQuAD 2.0's official evaluation.

Version 1.1's rules differ where nothing is left of a text once it is normalized: it scores 0 there.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from fjt.data import squad

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """The text in lower case, without punctuation and articles, with one blank between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_of(predicted: str, true: str) -> float:
    """1.0 if two answers are equal once normalized."""
    return float(normalize(predicted) == normalize(true))


def f1_of(predicted: str, true: str) -> float:
    """F1 of the words of two normalized answers; where one has none, whether both have none."""
    found, wanted = normalize(predicted).split(), normalize(true).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def best(score: Callable[[str, str], float], predicted: str, answers: Sequence[str]) -> float:
    """The score against the answer that fits best.

    Args:
        score: of a predicted and a true answer.
        predicted: the predicted answer, "" for none.
        answers: the true ones; without any that has words, no answer is right.
    """
    return max(score(predicted, answer) for answer in ([a for a in answers if normalize(a)] or [""]))


def each(score: Callable[[str, str], float], predicted: np.ndarray, label: np.ndarray) -> Float[np.ndarray, " N"]:
    """The score of each question.  predicted, label: as `fjt.data.squad` spells labels."""
    return np.array([_score(score, found, true) for found, true in zip(predicted, label, strict=True)])


@functools.lru_cache(maxsize=1 << 16)  # the runs of a study often give the same answer
def _score(score: Callable[[str, str], float], predicted: str, label: str) -> float:
    found = squad.texts_of(predicted)
    return best(score, found[0] if found else "", squad.texts_of(label))


def f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """The mean over questions of the F1 of words."""
    return float(each(f1_of, predicted, label).mean())


def exact_match(predicted: np.ndarray, label: np.ndarray) -> float:
    """The share of questions whose answer is exact."""
    return float(each(exact_of, predicted, label).mean())
