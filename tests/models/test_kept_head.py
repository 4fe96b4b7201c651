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


def test_label2id_counts_as_id2label_does():
    """Names compare as those of a table do, and LABEL_0 is no name in either of the two."""
    check, unnamed = kept_head.check_labels, {"0": "LABEL_0", "1": "LABEL_1"}
    check({"label2id": {"no": 0, "Yes": 1}, "id2label": unnamed}, ("no", "yes"), "there")
    check({"label2id": {"LABEL_0": 0, "LABEL_1": 1}, "id2label": {"0": "1.0", "1": "2.0"}}, ("1", "2"), "there")
    for found in ({"yes": 0, "no": 1}, {"yes": "0", "no": "1"}):
        with pytest.raises(UserError, match="labels yes, no, in this order"):
            check({"label2id": found}, ("no", "yes"), "there")
    with pytest.raises(UserError, match=r"there/config\.json: id2label=.* contradicts label2id="):
        check({"label2id": {"yes": 0, "no": 1}, "id2label": {"0": "no", "1": "yes"}}, ("no", "yes"), "there")
    for found in ({"no": 0, "yes": 0}, {"no": 0, "yes": None}):
        with pytest.raises(UserError):
            check({"label2id": found}, ("no", "yes"), "there")
