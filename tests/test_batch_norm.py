"""The textbook reference against exact arithmetic, TensorFlow, Keras and its own algebra."""

import inspect
import math
import re
from dataclasses import FrozenInstanceError
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bn_tutorial.batch_norm import (
    batch_norm_forward,
    batch_norm_inference,
    fold_weights,
    inference_affine,
    moments,
)
from bn_tutorial.fast_batch_norm import batch_norm_forward as fast_forward

EPS = np.finfo(np.float64).eps
# Two float64 programs that add at most 200 numbers of order 1 in different orders.
CLOSE = {"rtol": 1e-13, "atol": 1e-13}
SHAPES = [(7, 3), (5, 4, 3), (4, 3, 2, 5), (2, 3, 4, 2, 3)]
all_ranks = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")

WHOLE = st.integers(-(10**6), 10**6).map(float)
BATCHES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=WHOLE)
EPSILONS = st.floats(1e-6, 1e3)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 1.5, shape)


def parameters(channels, seed=1):
    """gamma, beta, moving_mean, moving_variance: none of them 0 or 1, some gammas negative."""
    rng = np.random.default_rng(seed)
    return (*rng.normal(0, 2, (3, channels)), rng.uniform(0.1, 4, channels))


def forward(x, epsilon=1e-3, **kwargs):
    """Normalize only: gamma is 1 and beta is 0."""
    channels = np.shape(x)[kwargs.get("axis", -1)]
    return batch_norm_forward(x, np.ones(channels), np.zeros(channels), epsilon=epsilon, **kwargs)


def rounding(x, epsilon):
    """What rounding the mean and the sums of a column may do to ``x_hat``."""
    return 8 * len(x) * EPS * (1 + np.abs(x).max(axis=0) / np.sqrt(x.var(axis=0) + epsilon))


def along(values, x, axis):
    return np.expand_dims(values, [i for i in range(x.ndim) if i != axis % x.ndim])


# Against exact arithmetic


def exact(column, epsilon):
    """Mean, variance and normalized values of a list of floats; only the last step rounds."""
    column = [Fraction(float(x)) for x in column]
    mean = sum(column) / len(column)
    variance = sum((x - mean) ** 2 for x in column) / len(column)
    deviation = math.sqrt(variance + Fraction(epsilon))
    return float(mean), float(variance), [float(x - mean) / deviation for x in column]


def test_by_hand():
    x = [[1, 10], [2, 10], [3, 10], [4, 10]]
    y, cache = batch_norm_forward(x, [2, 3], [-1, 7], epsilon=0.75)
    np.testing.assert_array_equal(cache.mean, [2.5, 10])
    np.testing.assert_array_equal(cache.variance, [1.25, 0])  # biased: 5/4, not 5/3
    np.testing.assert_allclose(
        cache.x_hat, np.transpose([[-1.5, -0.5, 0.5, 1.5], [0] * 4]) / math.sqrt(2), rtol=1e-15
    )
    np.testing.assert_allclose(y[3], [2 * 1.5 / math.sqrt(2) - 1, 7], rtol=1e-15)


@given(x=BATCHES, epsilon=EPSILONS)
def test_forward_equals_exact_arithmetic(x, epsilon):
    _, cache = forward(x, epsilon)
    for channel, column in enumerate(x.T):
        mean, variance, x_hat = exact(column, epsilon)
        bound = rounding(column, epsilon)
        assert cache.mean[channel] == mean  # the sums are exact
        assert cache.variance[channel] == pytest.approx(variance, rel=1e-13, abs=1e-18)
        assert np.all(np.abs(cache.x_hat[:, channel] - x_hat) <= bound)


@pytest.mark.parametrize("offset", [1e4, -1e6, 1e8])
def test_far_from_zero_float64_keeps_what_the_data_hold(offset):
    x = offset + np.random.default_rng(2).normal(0, 0.1, 64)
    y, cache = forward(x[:, None], 1e-5)
    mean, variance, x_hat = exact(x, 1e-5)
    # The mean of 64 numbers is off by at most 64 roundings; the variance by its square. The
    # one-pass variance would be off by EPS * offset², more than the variance itself.
    error = 64 * EPS * abs(offset)
    assert abs(cache.mean[0] - mean) <= error
    assert abs(cache.variance[0] - variance) <= error**2 + 64 * EPS * variance
    assert np.all(np.abs(y[:, 0] - x_hat) <= 2 * error / math.sqrt(variance))


def test_far_from_zero_float32_is_right_to_the_last_digit():
    x = (1e4 + np.random.default_rng(3).uniform(-0.1, 0.1, (64, 1))).astype(np.float32)
    y, _ = forward(x, 1e-5)
    assert y.dtype == np.float32
    # Half a unit in the last place, and what float64 loses in the mean of 1e4.
    x_hat = exact(x[:, 0], 1e-5)[2]
    np.testing.assert_allclose(y[:, 0], x_hat, rtol=2**-24, atol=64 * EPS * 1e4 / 0.05)


# Against TensorFlow and Keras


@all_ranks
def test_equals_tensorflow(shape):
    x = normal(*shape)
    gamma, beta, moving_mean, moving_variance = parameters(shape[-1])
    mean, variance = tf.nn.moments(x, list(range(x.ndim - 1)))
    for ours, theirs in zip(moments(x), (mean, variance), strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    np.testing.assert_allclose(
        batch_norm_forward(x, gamma, beta, epsilon=0.01)[0],
        tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.01),
        **CLOSE,
    )
    np.testing.assert_allclose(
        batch_norm_inference(x, gamma, beta, moving_mean, moving_variance, epsilon=0.01),
        tf.nn.batch_normalization(x, moving_mean, moving_variance, beta, gamma, 0.01),
        **CLOSE,
    )


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 2, 5)], ids=str)
def test_equals_keras_in_training_and_inference(shape, axis):
    x = normal(*shape)
    gamma, beta, moving_mean, moving_variance = parameters(shape[axis])
    layer = keras.layers.BatchNormalization(axis=axis, momentum=0.75, epsilon=0.01, dtype="float64")
    layer.build(shape)
    layer.set_weights([gamma, beta, moving_mean, moving_variance])

    y, cache = batch_norm_forward(x, gamma, beta, axis=axis, epsilon=0.01)
    np.testing.assert_allclose(y, layer(x, training=True), **CLOSE)
    moving_mean = 0.75 * moving_mean + 0.25 * cache.mean
    moving_variance = 0.75 * moving_variance + 0.25 * cache.variance
    np.testing.assert_allclose(moving_mean, layer.moving_mean, **CLOSE)
    np.testing.assert_allclose(moving_variance, layer.moving_variance, **CLOSE)
    y = batch_norm_inference(x, gamma, beta, moving_mean, moving_variance, axis=axis, epsilon=0.01)
    np.testing.assert_allclose(y, layer(x, training=False), **CLOSE)


def test_a_constant_channel_may_be_served():
    y = batch_norm_inference([[3.0], [5.0]], [1.0], [0.0], [3.0], [0.0], epsilon=0.25)
    np.testing.assert_array_equal(y, [[0], [4]])  # (5 - 3) / √0.25


def test_caches_are_told_apart_and_hashed_by_identity():
    x = normal(4, 3)
    one, other = (batch_norm_forward(x, np.ones(3), np.zeros(3))[1] for _ in range(2))
    assert len({one, other, one}) == 2


def test_equals_the_fused_kernel_which_reports_the_unbiased_variance():
    x = normal(4, 5, 6, 3).astype(np.float32)
    gamma, beta, *_ = parameters(3)
    y, cache = batch_norm_forward(x, gamma, beta)
    fused, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
        x, gamma.astype(np.float32), beta.astype(np.float32)
    )
    close = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums of 120 numbers
    np.testing.assert_allclose(y, fused, **close)
    np.testing.assert_allclose(cache.mean, mean, **close)
    np.testing.assert_allclose(cache.variance * 120 / 119, variance, **close)


@pytest.mark.parametrize(
    "function",
    [batch_norm_forward, batch_norm_inference, inference_affine, fold_weights, fast_forward],
)
def test_defaults_are_those_of_keras(function):
    layer = keras.layers.BatchNormalization()
    parameters = inspect.signature(function).parameters
    assert parameters["epsilon"].default == layer.epsilon
    if "axis" in parameters:
        assert parameters["axis"].default == layer.axis


# What defines the transform


@given(x=BATCHES, epsilon=EPSILONS)
def test_normalized_channels_have_mean_0_and_variance_just_below_1(x, epsilon):
    x_hat = forward(x, epsilon)[1].x_hat
    bound = rounding(x, epsilon)
    variance = x.var(axis=0)
    assert np.all(np.abs(x_hat.mean(axis=0)) <= bound)
    assert np.all(np.abs(x_hat.var(axis=0) - variance / (variance + epsilon)) <= 8 * bound)


@given(x=BATCHES, shift=WHOLE, epsilon=EPSILONS)
def test_a_shift_of_the_input_changes_nothing(x, shift, epsilon):
    bound = rounding(x + shift, epsilon) + rounding(x, epsilon)
    assert np.all(np.abs(forward(x + shift, epsilon)[0] - forward(x, epsilon)[0]) <= bound)


@given(x=BATCHES, power=st.integers(-20, 20), sign=st.sampled_from([-1, 1]), epsilon=EPSILONS)
def test_a_change_of_units_changes_nothing_but_epsilons(x, power, sign, epsilon):
    factor = sign * 2.0**power  # a power of two, so that both sides round alike
    np.testing.assert_array_equal(
        forward(factor * x, factor**2 * epsilon)[0], sign * forward(x, epsilon)[0]
    )


@given(x=BATCHES, random=st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(x, random):
    order = random.sample(range(len(x)), len(x))
    assert np.all(np.abs(forward(x[order])[0] - forward(x)[0][order]) <= rounding(x, 1e-3))


@given(x=BATCHES, epsilon=EPSILONS)
def test_gamma_and_beta_can_give_the_input_back(x, epsilon):
    mean, variance = moments(x)
    y, _ = batch_norm_forward(x, np.sqrt(variance + epsilon), mean, epsilon=epsilon)
    assert np.all(np.abs(y - x) <= 8 * EPS * np.abs(x).max(axis=0))


@given(value=st.floats(-1e300, 1e300), m=st.integers(1, 9))
def test_a_constant_channel_comes_out_as_beta(value, m):
    y, cache = batch_norm_forward(np.full((m, 2), value), [3, -2], [5, 0.5])
    np.testing.assert_array_equal(y, np.full((m, 2), [5, 0.5]))
    np.testing.assert_array_equal(cache.variance, 0)


@all_ranks
def test_moving_the_channel_axis_moves_the_data_and_nothing_else(shape):
    x = normal(*shape)
    gamma, beta, *moving = parameters(shape[-1])
    y, cache = batch_norm_forward(x, gamma, beta)
    served = batch_norm_inference(x, gamma, beta, *moving)
    for axis in range(-x.ndim, x.ndim):
        moved = np.moveaxis(x, -1, axis)
        moved_y, moved_cache = batch_norm_forward(moved, gamma, beta, axis=axis)
        np.testing.assert_allclose(moved_y, np.moveaxis(y, -1, axis), **CLOSE)
        np.testing.assert_allclose(moved_cache.x_hat, np.moveaxis(cache.x_hat, -1, axis), **CLOSE)
        assert moved_cache.axis == axis % x.ndim
        for ours, expected in zip(moments(moved, axis=axis), moments(x), strict=True):
            np.testing.assert_allclose(ours, expected, **CLOSE)
        np.testing.assert_array_equal(
            batch_norm_inference(moved, gamma, beta, *moving, axis=axis),
            np.moveaxis(served, -1, axis),
        )


def test_the_cache_holds_what_made_the_output():
    x = normal(4, 3, 5)
    gamma, beta, *_ = parameters(3)
    y, cache = batch_norm_forward(x, gamma, beta, axis=-2, epsilon=0.02)
    np.testing.assert_array_equal(y, along(gamma, x, 1) * cache.x_hat + along(beta, x, 1))
    np.testing.assert_array_equal(cache.gamma, gamma)
    assert (cache.axis, cache.epsilon) == (1, 0.02)
    for kept, expected in zip((cache.mean, cache.variance), moments(x, axis=1), strict=True):
        np.testing.assert_array_equal(kept, expected)
    with pytest.raises(FrozenInstanceError):
        cache.epsilon = 1.0


# Inference mode


def test_inference_with_the_batchs_own_statistics_is_training():
    x = normal(6, 4)
    gamma, beta, *_ = parameters(4)
    y, cache = batch_norm_forward(x, gamma, beta)
    served = batch_norm_inference(x, gamma, beta, cache.mean, cache.variance)
    np.testing.assert_array_equal(served, y)


@pytest.mark.parametrize("m", [0, 1, 5])
def test_inference_treats_each_example_alone(m):
    x = normal(5, 4)
    served = batch_norm_inference(x, *parameters(4))
    np.testing.assert_array_equal(batch_norm_inference(x[:m], *parameters(4)), served[:m])


@all_ranks
def test_inference_is_one_affine_map(shape):
    x = normal(*shape)
    scale, shift = inference_affine(*parameters(shape[-1]), epsilon=0.02)
    served = batch_norm_inference(x, *parameters(shape[-1]), epsilon=0.02)
    np.testing.assert_allclose(scale * x + shift, served, **CLOSE)


def test_a_folded_dense_layer_is_the_two_layers():
    x, kernel, bias = normal(9, 6), normal(6, 4, seed=4), normal(4, seed=5)
    expected = batch_norm_inference(x @ kernel + bias, *parameters(4), epsilon=0.02)
    folded_kernel, folded_bias = fold_weights(kernel, bias, *parameters(4), epsilon=0.02)
    # The sums reach some hundreds before they cancel.
    np.testing.assert_allclose(x @ folded_kernel + folded_bias, expected, rtol=1e-12, atol=1e-12)


def test_a_folded_convolution_is_the_two_layers():
    x, kernel, bias = normal(2, 6, 5, 3), normal(3, 2, 3, 4, seed=4), normal(4, seed=5)
    conv = tf.nn.conv2d(x, kernel, strides=1, padding="SAME") + bias
    expected = batch_norm_inference(conv, *parameters(4), epsilon=0.02)
    kernel, bias = fold_weights(kernel, bias, *parameters(4), epsilon=0.02)
    folded = tf.nn.conv2d(x, kernel, strides=1, padding="SAME") + bias
    np.testing.assert_allclose(folded, expected, rtol=1e-12, atol=1e-12)


# Dtypes


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_floats_are_computed_in_float64_and_rounded_once(dtype):
    x = (300 * normal(400, 3)).astype(dtype)  # the variance, 202500, does not fit into float16
    gamma, beta, *rest = (value.astype(dtype) for value in parameters(3))
    wide = [value.astype(np.float64) for value in (gamma, beta, *rest)]
    y, cache = batch_norm_forward(x, gamma, beta)
    assert y.dtype == dtype
    assert {cache.x_hat.dtype, cache.mean.dtype, cache.variance.dtype} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(
        y, batch_norm_forward(x.astype(np.float64), *wide[:2])[0].astype(dtype)
    )
    served = batch_norm_inference(x, gamma, beta, *rest)
    assert served.dtype == dtype
    np.testing.assert_array_equal(
        served, batch_norm_inference(x.astype(np.float64), *wide).astype(dtype)
    )


def test_integers_become_float64():
    x = np.array([[1, -5], [4, 100]], np.int8)  # 105² does not fit into int8
    y, _ = forward(x)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, forward(x.astype(np.float64))[0])


def test_folding_keeps_the_dtype_of_kernel_and_bias():
    kernel, bias = fold_weights(np.ones((2, 3), np.float32), np.ones(3, np.float16), *parameters(3))
    assert (kernel.dtype, bias.dtype) == (np.float32, np.float16)


# Bad input

X = np.ones((4, 3))
ONES = np.ones(3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, axis: moments(x, axis=axis),
        lambda x, axis: batch_norm_forward(x, ONES, ONES, axis=axis),
        lambda x, axis: batch_norm_inference(x, ONES, ONES, ONES, ONES, axis=axis),
    ],
    ids=["moments", "forward", "inference"],
)
@pytest.mark.parametrize(
    ("x", "axis", "error", "message"),
    [
        ([["a"]], -1, TypeError, "x must hold integers or floats, got dtype <U1"),
        (X * 1j, -1, TypeError, "got dtype complex128"),
        (X > 0, -1, TypeError, "got dtype bool"),
        (X.astype(object), -1, TypeError, "got dtype object"),
        (np.ma.masked_array(X, X[0, 0] == X), -1, TypeError, "x has masked values"),
        (1.0, -1, ValueError, r"a batch axis and a channel axis, got shape \(\)"),
        (ONES, -1, ValueError, r"a batch axis and a channel axis, got shape \(3,\)"),
        (X, 2, ValueError, r"axis must lie in \[-2, 1\] for x of shape \(4, 3\), got 2"),
        (X, -3, ValueError, r"axis must lie in \[-2, 1\] for x of shape \(4, 3\), got -3"),
    ],
)
def test_bad_data_raise(call, x, axis, error, message):
    with pytest.raises(error, match=message):
        call(x, axis)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (0, 0, 3)], ids=str)
def test_an_empty_batch_has_no_moments(shape):
    for call in (moments, forward):
        with pytest.raises(ValueError, match=r"an empty batch has no mean: x has shape \(.*0, 3\)"):
            call(np.ones(shape))


def test_squares_that_overflow_spoil_their_channel_alone():
    x = np.array([[1e200, 1.0], [-1e200, 3.0]])
    with pytest.warns(RuntimeWarning, match="overflow"):
        y, cache = batch_norm_forward(x, [2, 2], [5, 0])
    with np.errstate(all="ignore"):
        fast, _, _ = fast_forward(x, [2, 2], [5, 0])
    expected, _ = batch_norm_forward(x[:, 1:], [2], [0])
    assert cache.variance[0] == np.inf
    np.testing.assert_array_equal(y, np.hstack([np.full((2, 1), 5), expected]))
    np.testing.assert_allclose(fast, np.hstack([np.full((2, 1), np.nan), expected]), rtol=1e-15)


def test_the_fused_kernel_returns_nan_for_an_empty_batch():
    ones = tf.ones(3)
    y, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(tf.ones([0, 2, 2, 3]), ones, ones)
    assert y.shape == (0, 2, 2, 3)
    assert np.isnan([mean, variance]).all()


def with_parameter(function, position, value):
    """Call ``function`` with one of its parameters (gamma, beta, …) replaced by ``value``."""
    leading, count = {
        batch_norm_forward: ([X], 2),
        batch_norm_inference: ([X], 4),
        inference_affine: ([], 4),
        fold_weights: ([np.ones((2, 3)), ONES], 4),
    }[function]
    values = [ONES] * count
    values[position] = value
    return function(*leading, *values)


NAMES = ["gamma", "beta", "moving_mean", "moving_variance"]
SLOTS = [
    (function, position)
    for function, count in [
        (batch_norm_forward, 2),
        (batch_norm_inference, 4),
        (inference_affine, 4),
        (fold_weights, 4),
    ]
    for position in range(count)
]
all_slots = pytest.mark.parametrize(
    ("function", "position"),
    SLOTS,
    ids=[f"{function.__name__} {NAMES[position]}" for function, position in SLOTS],
)


@all_slots
@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 3)], ids=str)
def test_a_channel_mismatch_raises(function, position, shape):
    name = NAMES[position]
    if function in (batch_norm_forward, batch_norm_inference):
        message = f"{name} must have shape (3,), one value per channel of x (shape (4, 3), "
        message += f"axis 1), got {shape}"
    else:
        message = f"'{name}': {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        with_parameter(function, position, np.ones(shape))


@pytest.mark.parametrize("shape", [(), (1, 3)], ids=str)
def test_an_affine_map_needs_vectors(shape):
    with pytest.raises(
        ValueError, match=re.escape(f"same shape (channels,), got {{'gamma': {shape}")
    ):
        inference_affine(*np.ones((4, *shape)))


@all_slots
@pytest.mark.parametrize("value", [["a"] * 3, [1j] * 3, [True] * 3, [None] * 3], ids=str)
def test_parameters_must_be_real_numbers(function, position, value):
    with pytest.raises(TypeError, match=f"{NAMES[position]} must hold integers or floats, got"):
        with_parameter(function, position, value)


@pytest.mark.parametrize("function", [batch_norm_inference, inference_affine, fold_weights])
def test_a_negative_variance_raises(function):
    with pytest.raises(ValueError, match=r"a variance cannot be negative, got -0\.5"):
        with_parameter(function, 3, [1, -0.5, 0])


@pytest.mark.parametrize(
    "call",
    [
        lambda epsilon: batch_norm_forward(X, ONES, ONES, epsilon=epsilon),
        lambda epsilon: batch_norm_inference(X, ONES, ONES, ONES, ONES, epsilon=epsilon),
        lambda epsilon: inference_affine(ONES, ONES, ONES, ONES, epsilon=epsilon),
        lambda epsilon: fold_weights(X, ONES, ONES, ONES, ONES, ONES, epsilon=epsilon),
    ],
    ids=["forward", "inference", "affine", "fold"],
)
@pytest.mark.parametrize("epsilon", [0, 0.0, -1e-3, np.nan, np.inf])
def test_epsilon_must_be_a_finite_number_above_zero(call, epsilon):
    with pytest.raises(ValueError, match=f"finite number above 0, such as 1e-3, got {epsilon!r}"):
        call(epsilon)


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [(ONES, ONES), (np.ones((3, 2)), ONES), (X, np.ones(2)), (X, 1.0)],
    ids=["vector", "kernel transposed", "bias too short", "bias scalar"],
)
def test_a_kernel_that_does_not_fit_raises(kernel, bias):
    message = r"kernel must have shape \(..., 3\) and bias \(3,\) for 3 channels, got \("
    with pytest.raises(ValueError, match=message):
        fold_weights(kernel, bias, ONES, ONES, ONES, ONES)


@pytest.mark.parametrize(("kernel", "bias"), [([["a"] * 3], ONES), (X, [None] * 3)], ids=str)
def test_a_kernel_of_no_numbers_raises(kernel, bias):
    with pytest.raises(TypeError, match=r"(kernel|bias) must hold integers or floats, got dtype"):
        fold_weights(kernel, bias, ONES, ONES, ONES, ONES)
