"""Losses against numbers worked out by hand and against the definition in plain numpy."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.tasks import classification, multilabel, regression


def of_arrays(loss):
    """A loss of numpy arrays."""
    return lambda logits, label, hyper: loss(jnp.asarray(logits), jnp.asarray(label), hyper)


cross_entropy = of_arrays(classification.cross_entropy)
binary_cross_entropy = of_arrays(multilabel.binary_cross_entropy)
squared_error = of_arrays(regression.squared_error)


def hyper(smoothing=0.0, weights=(1.0, 1.0, 1.0)):
    made = small.make_hyper(smoothing=smoothing, classes=len(weights))
    return dataclasses.replace(made, class_weights=np.float32(weights))


# softmax([0, ln 2, ln 5]) = (1, 2, 5) / 8
LOGITS = np.array([[0.0, math.log(2), math.log(5)]], np.float32)


def test_cross_entropy_by_hand():
    for label, probability in enumerate((1 / 8, 2 / 8, 5 / 8)):
        value, weight = cross_entropy(LOGITS, np.array([label], np.int32), hyper())
        np.testing.assert_allclose(value, [-math.log(probability)], rtol=1e-6)
        np.testing.assert_array_equal(weight, [1.0])


def test_label_smoothing_by_hand():
    """Smoothing 0.3 over three classes: 0.8 of the label and 0.1 of each other one."""
    value, weight = cross_entropy(LOGITS, np.array([1], np.int32), hyper(smoothing=0.3))
    expected = -(0.1 * math.log(1 / 8) + 0.8 * math.log(2 / 8) + 0.1 * math.log(5 / 8))
    np.testing.assert_allclose(value, [expected], rtol=1e-6)
    np.testing.assert_array_equal(weight, [1.0])


def test_class_weights_that_leave_nothing_to_learn_are_refused():
    for given in ((0.0, 0), (1.0, -1.0), (1.0,)):
        with pytest.raises(UserError, match="2 numbers, one per label and not all 0"):
            classification.check_weights(given, 2)
    assert classification.check_weights((0.0, 2), 2).tolist() == [0, 2]


def test_class_weights_by_hand():
    """The weighted mean of PyTorch's documentation: sum w[y] l / sum w[y]."""
    logits, label = np.repeat(LOGITS, 2, axis=0), np.array([0, 2], np.int32)
    value, weight = cross_entropy(logits, label, hyper(weights=(3.0, 7.0, 0.5)))
    np.testing.assert_allclose(value, [3 * math.log(8), 0.5 * math.log(8 / 5)], rtol=1e-6)
    np.testing.assert_array_equal(weight, [3.0, 0.5])


def test_smoothing_and_weights_together():
    """PyTorch weights each class's term by its own weight, and divides by the labels' weights."""
    weights, smoothing, label = (3.0, 7.0, 0.5), 0.3, np.array([2], np.int32)
    value, weight = cross_entropy(LOGITS, label, hyper(smoothing, weights))
    logs = np.log([1 / 8, 2 / 8, 5 / 8])
    expected = -(0.1 * 3 * logs[0] + 0.1 * 7 * logs[1] + 0.8 * 0.5 * logs[2])
    np.testing.assert_allclose(value, [expected], rtol=1e-6)
    np.testing.assert_array_equal(weight, [0.5])


def test_large_logits_and_half_precision_stay_finite_and_in_float32():
    value, _ = cross_entropy(np.array([[1000.0, 0.0, -1000.0]], np.float16), np.array([1], np.int32), hyper())
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, [1000.0])


def test_squared_error_by_hand():
    value, weight = squared_error(np.array([[2.5], [-1.0]], np.float16), np.float32([2.0, 1.0]), hyper())
    np.testing.assert_array_equal(value, [0.25, 4.0])
    np.testing.assert_array_equal(weight, [1.0, 1.0])
    assert value.dtype == np.float32


def test_binary_cross_entropy_by_hand():
    """Logits ln 3 and -ln 3 are probabilities 3/4 and 1/4; the mean over the labels, each times its weight."""
    logits = np.float32([[math.log(3), -math.log(3)], [0.0, math.log(3)]])
    label = np.array([[1, 1], [0, 0]], np.int8)
    value, weight = binary_cross_entropy(logits, label, hyper(weights=(1.0, 1.0)))
    expected = [(math.log(4 / 3) + math.log(4)) / 2, (math.log(2) + math.log(4)) / 2]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(weight, [1.0, 1.0])
    value, _ = binary_cross_entropy(logits, label, hyper(smoothing=0.2, weights=(1.0, 3.0)))
    first = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    second = 3.0 * (0.9 * math.log(4) + 0.1 * math.log(4 / 3))
    np.testing.assert_allclose(value[0], (first + second) / 2, rtol=1e-6)


def test_binary_cross_entropy_of_large_logits_is_finite():
    value, _ = binary_cross_entropy(np.float16([[2000.0, -2000.0]]), np.int8([[0, 1]]), hyper(weights=(1.0, 1.0)))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, [2000.0])
