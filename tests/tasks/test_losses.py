"""Losses against numbers worked out by hand and against the definition in plain numpy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import small

from fjt.core.errors import UserError
from fjt.core.options import DistillConfig, LossConfig
from fjt.data.glue import TASKS
from fjt.tasks import classification, multilabel, regression
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.masked_lm import MASKED_LM
from fjt.tasks.multi_regression import MULTI_REGRESSION
from fjt.tasks.multilabel import MULTI_LABEL
from fjt.tasks.multiple_choice import MULTIPLE_CHOICE
from fjt.tasks.problem import cosine_distance
from fjt.tasks.question_answering import QUESTION_ANSWERING
from fjt.tasks.regression import REGRESSION
from fjt.tasks.tagging import TAGGING


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
            classification.weigh(given, np.array([3, 1]))
    assert classification.weigh((0.0, 2), np.array([3, 1])).tolist() == [0, 2]


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


def test_class_weights_by_rule_by_hand():
    """Balanced: 12 / (3 count); the effective numbers for beta 0.5; a class without examples counts as one."""
    counts = np.array([9, 2, 1])
    np.testing.assert_allclose(classification.weigh(("balanced",), counts), [12 / 27, 2.0, 4.0])
    raw = np.array([0.5 / (1 - 0.5**9), 0.5 / 0.75, 1.0])
    np.testing.assert_allclose(classification.weigh(("effective", 0.5), counts), 3 * raw / raw.sum())
    assert classification.weigh(("effective", 0.5), np.array([4, 0])).tolist() == pytest.approx([1.0, 1.875])
    for wrong in (("effective",), ("effective", 1.0), ("effective", 0.0), ("even",)):
        with pytest.raises(UserError, match="'effective', beta"):
            classification.weigh(wrong, counts)
    for wrong, right in (("balance", "balanced"), ("efective", "effective")):
        with pytest.raises(UserError, match=f"{wrong}.*Did you mean {right}"):
            classification.weigh((wrong,), counts)


def test_focal_loss_by_hand():
    """(1 - p)^2 times each term; with label smoothing, each class's own factor; exponent 0 is cross-entropy."""
    focal = dataclasses.replace(hyper(), focal=np.float32(2.0))
    for label, probability in enumerate((1 / 8, 2 / 8, 5 / 8)):
        value, weight = cross_entropy(LOGITS, np.array([label], np.int32), focal)
        np.testing.assert_allclose(value, [-((1 - probability) ** 2) * math.log(probability)], rtol=1e-5)
        np.testing.assert_array_equal(weight, [1.0])
    label = np.array([1], np.int32)
    smooth, plain = hyper(smoothing=0.3), dataclasses.replace(hyper(smoothing=0.3), focal=np.float32(0.0))
    np.testing.assert_allclose(
        cross_entropy(LOGITS, label, plain)[0], cross_entropy(LOGITS, label, smooth)[0], rtol=1e-6
    )
    value, _ = cross_entropy(LOGITS, label, dataclasses.replace(smooth, focal=np.float32(1.0)))
    expected = -(0.1 * 7 / 8 * math.log(1 / 8) + 0.8 * 6 / 8 * math.log(2 / 8) + 0.1 * 3 / 8 * math.log(5 / 8))
    np.testing.assert_allclose(value, [expected], rtol=1e-5)
    logits, label = np.float32([[math.log(3), -math.log(3)]]), np.array([[1, 1]], np.int8)
    value, _ = binary_cross_entropy(
        logits, label, dataclasses.replace(hyper(weights=(1.0, 1.0)), focal=np.float32(2.0))
    )
    np.testing.assert_allclose(value, [(math.log(4 / 3) / 16 + math.log(4) * 9 / 16) / 2], rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_the_focal_loss_of_a_certain_example_has_a_finite_gradient(exponent):
    made = dataclasses.replace(hyper(), focal=jnp.float32(exponent))

    def total(logits):
        return classification.cross_entropy(logits, jnp.array([0]), made)[0].sum()

    slope = jax.grad(total)(jnp.array([[200.0, 0.0, -200.0]]))
    assert np.isfinite(slope).all()


def test_divergences_by_the_definition():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 3)).astype(np.float32)

    def kl(p, q):
        return (p * np.log(p / q)).sum(-1)

    p, q = scipy.special.softmax(one, -1), scipy.special.softmax(other, -1)
    np.testing.assert_allclose(CLASSIFICATION.divergence(one, other), kl(p, q) + kl(q, p), rtol=1e-5)
    p, q = (np.stack([x, 1 - x], -1) for x in (scipy.special.expit(one), scipy.special.expit(other)))
    np.testing.assert_allclose(MULTI_LABEL.divergence(one, other), (kl(p, q) + kl(q, p)).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(REGRESSION.divergence(one, other), ((one - other) ** 2).mean(-1), rtol=1e-5)


def soft(problem, logits, teacher, temperature, weights=(1.0, 1.0, 1.0)):
    """(mean over slots of the soft loss, its gradient)."""
    made = dataclasses.replace(hyper(weights=weights), temperature=np.float32(temperature))
    return jax.value_and_grad(lambda x: jnp.mean(problem.soft_loss(x, jnp.asarray(teacher), made)))(jnp.asarray(logits))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_losses_by_the_definition(temperature):
    """F.kl_div(log_softmax(s / T), softmax(t / T), reduction="batchmean") * T^2, whose gradient is T (q - p) / N.

    The loss of sets of labels is that of each label's yes and no.
    """
    logits, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32) * 3
    q, p = (scipy.special.softmax(x.astype(np.float64) / temperature, -1) for x in (logits, teacher))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum() / 5
    for problem in (CLASSIFICATION, TAGGING):
        value, slope = soft(problem, logits, teacher, temperature)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(slope, temperature * (q - p) / 5, rtol=1e-4, atol=1e-6)
    q, p = (scipy.special.expit(x.astype(np.float64) / temperature) for x in (logits, teacher))
    terms = p * (np.log(p) - np.log(q)) + (1 - p) * (np.log(1 - p) - np.log(1 - q))
    weights = np.array([1.0, 2.0, 0.5])
    value, slope = soft(MULTI_LABEL, logits, teacher, temperature, weights)
    np.testing.assert_allclose(value, temperature**2 * (terms * weights).mean(), rtol=1e-5)
    np.testing.assert_allclose(slope, temperature * (q - p) * weights / 15, rtol=1e-4, atol=1e-6)


def test_the_soft_loss_of_scores():
    logits, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    for problem, columns in ((REGRESSION, 1), (MULTI_REGRESSION, 3)):
        value, _ = soft(problem, logits[:, :columns], teacher[:, :columns], 1.0)
        np.testing.assert_allclose(value, ((logits - teacher)[:, :columns] ** 2).mean(), rtol=1e-5)


def test_a_teacher_that_agrees_costs_nothing_and_one_that_is_certain_is_finite():
    certain = np.array([[1e4, 0.0, -1e4]], np.float32)
    for problem in (CLASSIFICATION, MULTI_LABEL, REGRESSION):
        value, slope = soft(problem, certain, certain, 2.0)
        assert value == 0 and not np.any(slope)
        for numbers in soft(problem, -certain, certain, 2.0):
            assert np.isfinite(numbers).all()


def test_the_loss_of_labels_and_teachers_is_their_weighted_mean():
    """With a weight of 0, it is that of the labels to the bit."""
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 5, 3)).astype(np.float32)
    batch = {"label": jnp.asarray(rng.integers(0, 3, 5)), "teacher": jnp.asarray(teacher)}
    made = dataclasses.replace(hyper(smoothing=0.1, weights=(1.0, 2.0, 0.5)), temperature=np.float32(2.0))
    value, weight = CLASSIFICATION.loss(jnp.asarray(logits), batch, made)
    apart = CLASSIFICATION.soft_loss(jnp.asarray(logits), batch["teacher"], made)
    for share in (0.0, 0.3, 1.0):
        both = dataclasses.replace(made, soft_weight=np.float32(share))
        found, same = CLASSIFICATION.distilled_loss(jnp.asarray(logits), batch, both)
        np.testing.assert_allclose(found, (1 - share) * value + share * weight * apart, rtol=1e-5)
        np.testing.assert_array_equal(same, weight)
        assert share or np.array_equal(found, value)


def test_the_distance_of_vectors():
    """3-4-5: a cosine of 24/25.  A vector of zeros has no direction, and a finite gradient."""
    one, other = jnp.array([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]]), jnp.array([[8.0, 6.0], [-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_distance(one, other), [1 / 25, 2.0, 1.0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: cosine_distance(x, other).sum())(one)).all()
    label = jnp.array([1, 0, 1])
    batch = {"label": label, "teacher": one, "vectors": one, "teacher_vectors": other}
    made = dataclasses.replace(hyper(weights=(1.0, 3.0)), soft_weight=np.float32(0.5), temperature=np.float32(2.0))
    value, weight = CLASSIFICATION.distilled_loss(other, batch, made)
    both, _ = CLASSIFICATION.distilled_loss(other, batch, dataclasses.replace(made, hidden_weight=np.float32(0.7)))
    np.testing.assert_allclose(both - value, 0.7 * weight * np.array([1 / 25, 2.0, 1.0]), rtol=1e-5)


def test_teachers_that_a_problem_cannot_use_are_refused():
    given, task = DistillConfig(runs=("runs/a",)), TASKS["stsb"]
    for problem in (CLASSIFICATION, MULTI_LABEL, TAGGING, REGRESSION, MULTI_REGRESSION):
        problem.check_distill(given, task)
        problem.check_distill(DistillConfig(), task)
    for problem in (QUESTION_ANSWERING, MULTIPLE_CHOICE, MASKED_LM):
        with pytest.raises(UserError, match=r"cannot learn from the predictions of other runs"):
            problem.check_distill(given, task)
    with pytest.raises(UserError, match=r"distill\.temperature=3\.0.*has no temperature"):
        REGRESSION.check_distill(dataclasses.replace(given, temperature=3.0), task)
    with pytest.raises(UserError, match=r"distill\.hidden=1\.0: the vectors of 2 runs have no mean"):
        CLASSIFICATION.check_distill(DistillConfig(runs=("a", "b"), hidden=1.0), task)
    with pytest.raises(UserError, match=r"distill\.weight=0\.0: there are no teachers"):
        CLASSIFICATION.check_distill(DistillConfig(weight=0.0), task)


def test_options_that_a_problem_does_not_have_are_refused():
    for problem, options in ((REGRESSION, {"focal": 1.0}), (REGRESSION, {"class_weights": ("balanced",)})):
        with pytest.raises(UserError, match=f"has no {next(iter(options))}"):
            problem.check_loss(LossConfig(**options), TASKS["stsb"])
    for problem in (REGRESSION, CLASSIFICATION, MULTI_LABEL):
        problem.check_loss(LossConfig(r_drop=1.0), TASKS["stsb"])
