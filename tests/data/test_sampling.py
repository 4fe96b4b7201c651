"""Synthetic examples: how many, which classes, where they lie."""

import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.data import batches, sampling

LABEL = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 12, 4))).astype(np.int32)
FEATURES = (np.random.default_rng(1).normal(size=(56, 6)) + LABEL[:, None]).astype(np.float32)


def examples(label=LABEL):
    tokens = np.arange(2 * len(label), dtype=np.int32)
    return batches.Examples(tokens, np.zeros(len(tokens), np.int8), np.arange(0, len(tokens) + 1, 2), label, 0)


@pytest.mark.parametrize("kind", ["smote", "borderline"])
def test_all_classes_are_as_large_as_the_largest_and_the_real_ones_stay(kind):
    extended, features = sampling.extend(examples()), sampling.synthesize(FEATURES, LABEL, kind, 0)
    assert np.bincount(extended.label).tolist() == [40, 40, 40] and len(features) == len(extended) == 120
    np.testing.assert_array_equal(features[:56], FEATURES)
    np.testing.assert_array_equal(extended.label[:56], LABEL)
    np.testing.assert_array_equal(features, sampling.synthesize(FEATURES, LABEL, kind, 0))
    assert np.any(features != sampling.synthesize(FEATURES, LABEL, kind, 1))


def test_a_synthetic_example_lies_between_two_of_its_class():
    """On the line from a real example to a real neighbour, for each class: the labels are in `extend`'s order."""
    extended, features = sampling.extend(examples()), sampling.synthesize(FEATURES, LABEL, "smote", 0)
    for x, label in zip(features[56:], extended.label[56:], strict=True):
        own = FEATURES[LABEL == label].astype(np.float64)
        gaps = np.linalg.norm(own - x, axis=1)
        detour = gaps[:, None] + gaps[None] - np.linalg.norm(own[:, None] - own[None], axis=-1)
        assert np.abs(detour[np.triu_indices(len(own), 1)]).min() < 1e-4
    others = FEATURES[LABEL == 0]  # of another class it is no such point
    gaps = np.linalg.norm(others - features[-1], axis=1)
    detour = gaps[:, None] + gaps[None] - np.linalg.norm(others[:, None] - others[None], axis=-1)
    assert np.abs(detour[np.triu_indices(len(others), 1)]).min() > 1e-3


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 0, 1]])
def test_a_class_needs_two_examples(label):
    with pytest.raises(UserError, match="two classes with two training rows each"):
        sampling.extend(examples(np.array(label, np.int32)))


def test_classes_without_a_border_are_refused():
    far = FEATURES + 1000.0 * LABEL[:, None].astype(np.float32)
    with pytest.raises(UserError, match="lies near other classes"):
        sampling.synthesize(far, LABEL, "borderline", 0)


def test_a_few_rows_suffice_and_each_example_has_bits_of_its_own():
    few = np.array([0, 0, 0, 0, 1, 1], np.int32)
    assert len(sampling.synthesize(FEATURES[:6], few, "borderline", 0)) == 8
    extended = sampling.extend(examples(few))
    assert extended.numbers is None and len(extended) == 8
