"""Gradients written by hand (attention's weights, LayerNorm, GELU) against those that JAX derives from the formula."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import special

from fjt.core import prng
from fjt.models import layers

RATE = np.float64(0.25)


def inputs(seed=0):
    """Scores f64[2, 3, 5, 7] with masked keys, values f64[2, 3, 7, 4] and a bool keep of 3 in 4 entries."""
    rng = np.random.default_rng(seed)
    scores, v = rng.normal(size=(2, 3, 5, 7)), rng.normal(size=(2, 3, 7, 4))
    scores[..., 5:] = np.where(rng.random((2, 3, 5, 2)) < 0.5, np.finfo(np.float64).min, scores[..., 5:])
    return jnp.array(scores), jnp.array(v), jnp.array(rng.random(scores.shape) >= RATE)


def plain(scores, v, keep, rate):
    """`layers.weigh` written out, for JAX to differentiate."""
    return jnp.matmul(prng.thin(jax.nn.softmax(scores, axis=-1), keep, rate), v)


def gradients(function, keep, seed=0):
    scores, v, mask = inputs(seed)
    toward = jnp.array(np.random.default_rng(seed + 1).normal(size=(2, 3, 5, 4)))
    arguments = (mask, RATE) if keep else (None, None)
    return jax.grad(lambda scores, v: jnp.sum(function(scores, v, *arguments) * toward), argnums=(0, 1))(scores, v)


@pytest.mark.parametrize("keep", [False, True])
def test_weigh_and_its_gradient_are_those_of_the_formula(keep):
    with jax.enable_x64(True):
        scores, v, mask = inputs()
        arguments = (mask, RATE) if keep else (None, None)
        np.testing.assert_allclose(layers.weigh(scores, v, *arguments), plain(scores, v, *arguments), rtol=1e-13)
        for found, expected in zip(gradients(layers.weigh, keep), gradients(plain, keep), strict=True):
            assert np.any(expected)
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-14)


def test_a_gradient_that_forgets_dropout_is_rejected():
    """The mutant: the backward pass weighs by the probabilities as they were before dropout."""
    with jax.enable_x64(True):
        expected = gradients(plain, True)

        @jax.custom_vjp
        def mutant(scores, v, keep, rate):
            return layers._weigh_forward(scores, v, keep, rate)[0]

        def backward(saved, g):
            probabilities, v, _, _, y = saved
            inner = jnp.sum(g * y, axis=-1, keepdims=True)
            dv = jnp.matmul(jnp.swapaxes(probabilities, -1, -2), g)
            return probabilities * (jnp.matmul(g, jnp.swapaxes(v, -1, -2)) - inner), dv, None, None

        mutant.defvjp(layers._weigh_forward, backward)
        for found, right in zip(gradients(mutant, True), expected, strict=True):
            assert np.max(np.abs(found - right)) > 1e-2


def normalized(x, scale, bias, epsilon):
    """`layers.normalize` written out, for JAX to differentiate."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred / deviation * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)


def test_normalize_and_its_gradient_are_those_of_the_formula():
    """With an epsilon large enough to matter."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, toward = (jnp.array(rng.normal(size=(3, 5, 8))) for _ in range(2))
        scale, bias = (jnp.array(rng.normal(size=8)) for _ in range(2))
        np.testing.assert_allclose(layers.normalize(x, scale, bias, 0.1), normalized(x, scale, bias, 0.1), rtol=1e-12)
        found, expected = (
            jax.grad(lambda *a, f=f: jnp.sum(f(*a, 0.1) * toward), argnums=(0, 1, 2))(x, scale, bias)
            for f in (layers.normalize, normalized)
        )
        for leaf, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(leaf, right, rtol=1e-11, atol=1e-14)


def test_gelu_and_its_gradient_by_the_error_function():
    x = np.linspace(-6, 6, 101)
    cdf, pdf = 0.5 * (1 + special.erf(x / math.sqrt(2))), np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    with jax.enable_x64(True):
        np.testing.assert_allclose(layers.gelu(jnp.array(x)), x * cdf, atol=1e-14)
        np.testing.assert_allclose(jax.vmap(jax.grad(layers.gelu))(jnp.array(x)), cdf + x * pdf, atol=1e-14)


def test_composed_hooks_both_enter_everywhere():
    """Three of each field, each of which adds a number of its own."""

    def hooks(number):
        return layers.Hooks(
            kernel=lambda site, kernel: kernel + number,
            enter=lambda site, x: x + number,
            linear=lambda site, x, y: y + number,
            key_value=lambda layer, k, v: (k + number, v + number),
            block=lambda name, layer, h, residual, norm, tokens: h + number,
            embed=lambda words, batch: words + number,
            first_position=number,
            every_token=number == 10,
            key_gate=one_gate if number == 10 else layers.Hooks.key_gate,  # at most one method has such keys
        )

    def one_gate(layer, h, tokens):
        return 111

    both = layers.compose(hooks(1), hooks(10), hooks(100))
    found = {
        "kernel": both.kernel(None, 0),
        "enter": both.enter(None, 0),
        "linear": both.linear(None, 0, 0),
        "key_value": both.key_value(0, 0, 0),
        "block": both.block("", 0, 0, 0, None, None),
        "embed": both.embed(0, None),
        "first_position": both.first_position,
        "every_token": 110 + both.every_token,
        "key_gate": both.key_gate(0, None, None),
    }
    assert set(found) == {field.name for field in dataclasses.fields(layers.Hooks)}
    assert found == dict.fromkeys(found, 111) | {"key_value": (111, 111)}


@pytest.mark.parametrize("scale", [np.ones(4, np.float32), np.ones(3, np.int32), [1.0, 1.0, 1.0]])
def test_types_and_shapes_are_checked_at_each_call(scale):
    """Which tests/conftest.py asks for: a scale of another length, of whole numbers, or none of an array's."""
    x, bias = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    assert layers.normalize(x, np.ones(3, np.float32), bias, 1e-6).shape == (2, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'scale'"):
        layers.normalize(x, scale, bias, 1e-6)
