"""Activations and their slopes against TensorFlow, SciPy, complex steps and closed forms."""

import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bn_tutorial.activations import (
    normal_mean,
    relu,
    relu_derivative,
    saturated_share,
    sigmoid,
    sigmoid_derivative,
    tanh,
    tanh_derivative,
)

EPS = np.finfo(np.float64).eps
ACTIVATIONS = [
    pytest.param(sigmoid, sigmoid_derivative, tf.sigmoid, id="sigmoid"),
    pytest.param(tanh, tanh_derivative, tf.tanh, id="tanh"),
    pytest.param(relu, relu_derivative, tf.nn.relu, id="relu"),
]
FUNCTIONS = [sigmoid, sigmoid_derivative, tanh, tanh_derivative, relu, relu_derivative]
Z = arrays(
    np.float64, array_shapes(min_dims=0), elements=st.floats(-300, 300, allow_subnormal=False)
)
MEANS, DEVIATIONS = st.floats(-5, 5), st.floats(0.1, 3)


def complex_step(function, z):
    """The derivative, to rounding: nothing is subtracted (Squire and Trapp, 1998)."""
    return function(z + 1e-20j).imag / 1e-20


@pytest.mark.parametrize(("function", "derivative", "peer"), ACTIVATIONS)
@given(z=Z)
def test_values_and_slopes_equal_tensorflows(function, derivative, peer, z):
    data = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(data)
        value = peer(data)
    np.testing.assert_allclose(function(z), value, rtol=4 * EPS)
    # TensorFlow forms a slope from 1 - g or 1 - g²: right relative to 1, not to a small slope.
    np.testing.assert_allclose(derivative(z), tape.gradient(value, data), rtol=0, atol=10 * EPS)


@given(z=Z)
def test_sigmoid_equals_scipys(z):
    np.testing.assert_allclose(sigmoid(z), scipy.special.expit(z), rtol=4 * EPS)


@pytest.mark.parametrize(
    ("derivative", "function"),
    [
        (sigmoid_derivative, lambda z: np.exp(z) / (1 + np.exp(z))),
        (tanh_derivative, lambda z: (np.exp(2 * z) - 1) / (np.exp(2 * z) + 1)),
    ],
    ids=["sigmoid", "tanh"],
)
@given(z=st.floats(-300, 0))
def test_slopes_keep_their_digits_where_they_are_tiny(derivative, function, z):
    expected = complex_step(function, z)
    for side in z, -z:
        assert derivative(side) == pytest.approx(expected, rel=16 * EPS, abs=0)


def test_values_at_known_points():
    assert sigmoid(0.0) == 0.5
    assert sigmoid(math.log(3)) == pytest.approx(0.75, rel=EPS)
    assert sigmoid_derivative(0.0) == 0.25
    assert sigmoid_derivative(-6.0) == pytest.approx(0.002467, abs=5e-7)
    assert tanh(math.log(2)) == pytest.approx(0.6, rel=EPS)
    assert tanh_derivative(0.0) == 1
    assert tanh_derivative(math.log(2)) == pytest.approx(0.64, rel=4 * EPS)
    np.testing.assert_array_equal(relu([-2.0, 0.0, 3.0]), [0, 0, 3])
    np.testing.assert_array_equal(relu_derivative([-2.0, 0.0, 3.0]), [0, 0, 1])


@pytest.mark.parametrize("z", [1000.0, 1e307, math.inf])
def test_extreme_inputs_saturate_without_a_warning(z):
    both = np.array([-z, z])
    np.testing.assert_array_equal(sigmoid(both), [0, 1])
    np.testing.assert_array_equal(tanh(both), [-1, 1])
    np.testing.assert_array_equal(sigmoid_derivative(both), [0, 0])
    np.testing.assert_array_equal(tanh_derivative(both), [0, 0])
    np.testing.assert_array_equal(relu(both), [0, z])
    np.testing.assert_array_equal(relu_derivative(both), [0, 1])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_floats_are_computed_in_float64_and_rounded_once(function, dtype):
    z = np.linspace(-9, 9, 101).astype(dtype).reshape(1, 101)
    value = function(z)
    assert (value.dtype, value.shape) == (dtype, (1, 101))
    np.testing.assert_array_equal(value, function(z.astype(np.float64)).astype(dtype))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_integers_become_float64_before_they_can_overflow(function):
    z = np.array([-128, 0, 1, 127], np.int8)
    assert function(z).dtype == np.float64
    np.testing.assert_array_equal(function(z), function(z.astype(np.float64)))


@pytest.mark.parametrize("function", [*FUNCTIONS, saturated_share])
@pytest.mark.parametrize("z", ["a", 1j, True, None, [None, 1.0]], ids=str)
def test_data_must_be_real_numbers(function, z):
    with pytest.raises(TypeError, match="z must hold integers or floats, got dtype"):
        function(z)


# Means over a normal distribution


@given(mean=MEANS, deviation=DEVIATIONS)
def test_normal_mean_equals_closed_forms(mean, deviation):
    variance = deviation**2
    for function, expected in [
        (lambda z: 0 * z + 7, 7),
        (lambda z: z, mean),
        (lambda z: z**2, mean**2 + variance),
        (lambda z: (z - mean) ** 4, 3 * variance**2),
        (np.cos, math.cos(mean) * math.exp(-variance / 2)),
        (lambda z: np.exp(z / 3), math.exp(mean / 3 + variance / 18)),
    ]:
        # Rounding of a sum whose terms are at most some hundred.
        assert normal_mean(function, mean, deviation) == pytest.approx(
            expected, rel=1e-13, abs=1e-12
        )


@given(mean=MEANS, deviation=DEVIATIONS)
def test_normal_mean_of_a_slope_obeys_steins_identity(mean, deviation):
    """E[f'(z)] = E[(z - μ) f(z)] / σ²: the derivatives and the integral check each other."""
    for function, derivative in (sigmoid, sigmoid_derivative), (tanh, tanh_derivative):
        covariance = normal_mean(lambda z, f=function: (z - mean) * f(z), mean, deviation)
        slope = normal_mean(derivative, mean, deviation)
        assert slope == pytest.approx(covariance / deviation**2, rel=1e-11, abs=1e-13)


def test_normal_mean_at_a_kink():
    # At a kink the trapezoidal rule errs by h²/12 times the jump of the slope of the integrand,
    # here by 0.01² / 12 / √(2π).
    exact = 1 / math.sqrt(2 * math.pi)
    assert normal_mean(relu) == pytest.approx(exact, abs=1.01 * 1e-4 / 12 * exact)


def test_normal_mean_equals_sampling():
    z = np.random.default_rng(0).normal(-2, 1.5, 100_000)
    samples = sigmoid_derivative(z)
    error = samples.std() / math.sqrt(len(z))
    assert abs(normal_mean(sigmoid_derivative, -2, 1.5) - samples.mean()) < 3 * error


def test_normal_mean_without_deviation_is_the_value():
    assert normal_mean(sigmoid, -6, 0) == pytest.approx(sigmoid(-6.0), rel=1e-14)


@pytest.mark.parametrize("deviation", [-1, math.nan])
def test_a_negative_deviation_raises(deviation):
    with pytest.raises(ValueError, match=f"deviation must not be negative, got {deviation}"):
        normal_mean(sigmoid, 0, deviation)


# Saturation


def test_saturated_share_by_hand():
    # The slope of the sigmoid falls below 0.05 · 0.25 = 0.0125 at z = ±4.357, that of tanh below
    # 0.05 at half of that.
    z = np.array([[-5.0, -4.36, -4.35, -2.18], [-2.17, 0.0, 4.35, 4.36]])
    assert saturated_share(z) == 3 / 8
    assert saturated_share(z, tanh_derivative) == 6 / 8
    assert saturated_share(z, threshold=0) == 0
    assert saturated_share(z, threshold=1) == 7 / 8  # all but the steepest
    assert saturated_share([-6]) == 1
    assert saturated_share(z, lambda z: 40 * sigmoid_derivative(z)) == 3 / 8  # relative to 0


def test_the_share_of_no_units_raises():
    with pytest.raises(ValueError, match=r"share of no units is undefined: z has shape \(0, 3\)"):
        saturated_share(np.empty((0, 3)))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_outside_0_to_1_raises(threshold):
    with pytest.raises(ValueError, match=rf"threshold must lie in \[0, 1\], got {threshold}"):
        saturated_share([1.0], threshold=threshold)


def test_a_slope_that_vanishes_at_0_raises():
    with pytest.raises(ValueError, match="derivative is 0 at z = 0"):
        saturated_share([1.0], relu_derivative)
