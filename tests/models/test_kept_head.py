"""Which labels a classifier must have to be kept."""

import pytest

from fjt.core.errors import UserError
from fjt.models import kept_head


def test_a_classifier_is_kept_only_for_its_own_labels():
    """A model that numbers the classes otherwise would be scored wrongly, without a word."""
    names = ("entailment", "neutral", "contradiction")
    kept = ({"0": "Entailment", "1": "Neutral", "2": "Contradiction"}, {"0": "LABEL_0", "1": "LABEL_1"}, None)
    for found in kept:
        kept_head.check_labels({"id2label": found}, names, "there")
    reverse = {"id2label": dict(zip("012", reversed(names), strict=True))}
    with pytest.raises(UserError, match=r"there has the labels contradiction, neutral, entailment.*has entailment"):
        kept_head.check_labels(reverse, names, "there")
