"""Activations and their slopes against TensorFlow, SciPy, complex steps and closed forms."""

import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import assume, given
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


@pytest.mark.parametrize("function", [*FUNCTIONS, saturated_share])
def test_masked_data_are_refused_and_a_mask_of_nothing_is_not(function):
    z = np.ma.masked_greater([0.5, 2.0], 1)
    with pytest.raises(TypeError, match="z has masked values, which would count"):
        function(z)
    np.testing.assert_array_equal(function(z[:1]), function([0.5]))


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


@given(mean=MEANS, deviation=DEVIATIONS, at=st.floats(-5, 5))
def test_normal_mean_at_a_kink_and_a_jump_equals_closed_forms(mean, deviation, at):
    t = (mean - at) / deviation
    density = math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    share = math.erfc(-t / math.sqrt(2)) / 2  # of values above the jump
    assume(abs(t) < 8.5)  # beyond, what 12 deviations leave out would count
    for function, expected in [
        (relu, deviation * (density + t * share)),
        (relu_derivative, share),
        (lambda z: z > 0, share),
        (np.sign, 2 * share - 1),
    ]:
        size = 1 if function is np.sign else expected
        result = normal_mean(lambda z, f=function: f(z - at), mean, deviation)
        # The closed form of the rectifier cancels where t is far below 0.
        assert result == pytest.approx(expected, rel=0, abs=1e-11 * size + 1e-16 * deviation)


@pytest.mark.parametrize("mean", [0.0, 0.7, 33.3])
@pytest.mark.parametrize("deviation", [1, 3, 100, 1000])
def test_normal_mean_with_a_kink_and_a_jump_in_every_period(mean, deviation):
    def series(terms):
        """Of a periodic function: its cosines and sines have means in closed form."""
        return sum(a * math.exp(-((k * deviation) ** 2) / 2) for k, a in terms)

    even = 2 / math.pi - series(
        (k, 4 / math.pi * math.cos(k * mean) / (k**2 - 1)) for k in range(2, 60, 2)
    )
    odd = series((k, 4 / math.pi * math.sin(k * mean) / k) for k in range(1, 60, 2))
    absolute = normal_mean(lambda z: np.abs(np.sin(z)), mean, deviation)
    assert absolute == pytest.approx(even, rel=1e-11)
    assert normal_mean(lambda z: np.sign(np.sin(z)), mean, deviation) == pytest.approx(
        odd, abs=1e-11
    )


@pytest.mark.parametrize("deviation", [0.01, 30, 300, 1000, 10_000])
@pytest.mark.parametrize("center", [0, 0.37], ids=["at 0", "elsewhere"])
def test_normal_mean_of_a_narrow_slope(deviation, center):
    """Against the trapezoidal rule with a step of a tenth of z, exact to rounding here."""
    center, mean = center * deviation, 0.21 * deviation
    step = min(0.1, deviation / 100)
    z = np.arange(round(-12 * deviation / step), round(12 * deviation / step)) * step + mean
    density = np.exp(-(((z - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    for function in sigmoid_derivative, tanh_derivative, sigmoid:
        expected = np.sum(function(z - center) * density) * step
        result = normal_mean(lambda z, f=function: f(z - center), mean, deviation)
        assert result == pytest.approx(expected, rel=1e-11)


def test_normal_mean_equals_sampling():
    z = np.random.default_rng(0).normal(-2, 1.5, 100_000)
    samples = sigmoid_derivative(z)
    error = samples.std() / math.sqrt(len(z))
    assert abs(normal_mean(sigmoid_derivative, -2, 1.5) - samples.mean()) < 3 * error


def test_normal_mean_without_deviation_is_the_value():
    assert normal_mean(sigmoid, -6, 0) == pytest.approx(sigmoid(-6.0), rel=1e-14)


def test_normal_mean_takes_functions_of_any_result():
    assert normal_mean(lambda z: 7) == pytest.approx(7, rel=1e-13)
    assert normal_mean(np.zeros_like) == 0
    assert normal_mean(lambda z: z.astype(np.float32) > 0) == pytest.approx(0.5, rel=1e-7)


@pytest.mark.parametrize(
    ("mean", "deviation", "message"),
    [
        (0, -1, "deviation must not be negative, got -1"),
        (0, math.nan, "deviation must not be negative, got nan"),
        (0, 10_001, "deviation above 10000 needs too many panels, got 10001"),
        (0, math.inf, "deviation above 10000 needs too many panels, got inf"),
        (math.nan, 1, "a mean must be finite, got nan"),
        (math.inf, 1, "a mean must be finite, got inf"),
        (-math.inf, 1, "a mean must be finite, got -inf"),
    ],
)
def test_a_normal_distribution_that_is_none_raises(mean, deviation, message):
    with pytest.raises(ValueError, match=message):
        normal_mean(sigmoid, mean, deviation)


def noise(z):
    return np.random.default_rng(z.size).normal(size=z.shape)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: np.exp(9 * z), "values of function beyond 12 deviations would change its mean"),
        (lambda z: np.exp(-9 * z), "values of function beyond 12 deviations would change its mean"),
        (lambda z: np.where(z > 3, np.nan, z), "infinite or NaN within 12 deviations"),
        (lambda z: np.where(z == 0, np.inf, z), "infinite or NaN within 12 deviations"),
        (noise, "too rough to be integrated to 11 digits"),
        # Infinite at 0.1, between all nodes: its integral diverges.
        (lambda z: 1 / np.abs(z - 0.1), "infinite or NaN|too rough"),
    ],
    ids=["growing", "falling", "NaN", "infinite", "noise", "pole"],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:overflow")
def test_a_function_without_an_error_bound_raises(function, message):
    with pytest.raises(ValueError, match=message):
        normal_mean(function)


def test_a_function_with_complex_values_raises():
    with pytest.raises(TypeError, match=r"what function returns must .*complex128"):
        normal_mean(lambda z: np.exp(1j * z))


def test_what_is_just_small_enough_at_12_deviations_is_integrated():
    assert normal_mean(lambda z: np.exp(4 * z)) == pytest.approx(math.exp(8), rel=1e-11)


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


def test_what_is_not_a_number_has_no_share():
    with pytest.raises(ValueError, match="z holds NaN"):
        saturated_share([0.0, np.nan])
    assert saturated_share([0.0, np.inf, -np.inf]) == 2 / 3


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_outside_0_to_1_raises(threshold):
    with pytest.raises(ValueError, match=rf"threshold must lie in \[0, 1\], got {threshold}"):
        saturated_share([1.0], threshold=threshold)


def test_a_slope_that_vanishes_at_0_raises():
    with pytest.raises(ValueError, match="derivative is 0 at z = 0"):
        saturated_share([1.0], relu_derivative)
