"""What a run says about its texts before it trains."""

import numpy as np

from fjt.core import console
from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB
from fjt.experiment import inputs


class Heard(console.Silent):
    """A View that keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def warnings_of(texts, pairs=None):
    """The warnings about a split of the texts."""
    split = Split(tuple(texts), tuple(texts), pairs, np.zeros(len(texts), np.int32))
    view = Heard()
    inputs._tokenize({"train": split}, tokenization.load_tokenizer(VOCAB), 16, None, "", view)
    return "\n".join(view.warnings)


def test_texts_without_a_token_are_counted():
    assert "2 of 3 train examples have no token" in warnings_of(["the", "\u200b", "\0"])
    assert "1 of 2 train examples have no token" in warnings_of(["", ""], ("the", "\u2060"))
    assert not warnings_of(["the", "a"])
