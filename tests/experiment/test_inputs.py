"""What a run says about its texts before it trains."""

import numpy as np
import pytest

from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, ModelConfig
from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB
from fjt.experiment import inputs
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.masked_lm import MASKED_LM


class Heard(console.Silent):
    """A View that keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


LENGTH = ExperimentConfig(model=ModelConfig(max_length=16))


def warnings_of(texts, pairs=None, problem=CLASSIFICATION):
    """The warnings about a split of the texts."""
    split = Split(tuple(texts), tuple(texts), pairs, np.zeros(len(texts), np.int32))
    view = Heard()
    inputs._tokenize({"train": split}, tokenization.load_tokenizer(VOCAB), LENGTH, problem, "", view)
    return "\n".join(view.warnings)


def test_texts_without_a_token_are_counted():
    assert "2 of 3 train examples have no token" in warnings_of(["the", "\u200b", "\0"])
    assert "1 of 2 train examples have no token" in warnings_of(["", ""], ("the", "\u2060"))
    assert not warnings_of(["the", "a"])


def test_documents_without_a_token_that_can_be_masked_are_counted():
    assert "2 of 3 train documents have no token that can be masked" in warnings_of(
        ["the", "​", "[SEP]"], None, MASKED_LM
    )
    with pytest.raises(UserError, match="No document of train has a token that can be masked"):
        warnings_of(["[SEP]"], None, MASKED_LM)
