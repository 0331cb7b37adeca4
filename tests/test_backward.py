"""The backward pass against autodiff, central differences, Keras and its own algebra.

Upstream gradients are random: with an array of ones ``dx`` and ``dgamma`` vanish, and a wrong
gradient passes (``test_ones_make_a_check_vacuous``).
"""

import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bn_tutorial.batch_norm import batch_norm_backward, batch_norm_forward

EPS = np.finfo(np.float64).eps
# Two float64 programs, relative to the largest entry. Measured: 3e-13 on a batch of 12544 values,
# 1e-14 on small ones.
EXACT = 1e-11
SHAPES = [(7, 3), (5, 4, 3), (4, 3, 2, 5), (2, 3, 4, 2, 3)]
SHAPES_AND_AXES = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]
all_axes = pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES, ids=str)

WHOLE = st.integers(-(10**3), 10**3).map(float)
PAIRS = array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: st.tuples(*[arrays(np.float64, shape, elements=WHOLE)] * 2)
)
EPSILONS = st.floats(1e-6, 1e3)


def case(shape, axis=-1, seed=0):
    """x, gamma, beta, dy: no gamma is 0 or 1, some are negative."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1.5, shape)
    gamma, beta = rng.normal(0, 2, (2, shape[axis]))
    return x, gamma, beta, rng.normal(0.5, 1, shape)


def ours(x, gamma, beta, dy, **kwargs):
    """dx, dgamma, dbeta from the function under test."""
    return batch_norm_backward(dy, batch_norm_forward(x, gamma, beta, **kwargs)[1])


def autodiff(x, gamma, beta, dy, axis=-1, epsilon=1e-3):
    """The same from TensorFlow, which sees nothing but the four steps."""
    x, gamma, beta = map(tf.constant, (x, gamma, beta))
    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        mean = tf.reduce_mean(x, others, keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, others, keepdims=True)
        x_hat = (x - mean) / tf.sqrt(variance + epsilon)
        y = tf.reshape(gamma, shape) * x_hat + tf.reshape(beta, shape)
    return [g.numpy() for g in tape.gradient(y, [x, gamma, beta], output_gradients=dy)]


def assert_equal(got, expected, tolerance=EXACT):
    """Each gradient, relative to the largest entry that it has."""
    for name, a, b in zip(("dx", "dgamma", "dbeta"), got, expected, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=name)


# Against others


def test_by_hand():
    x = [[-2.0], [1.0], [1.0], [4.0]]  # mean 1, variance 4.5
    dx, dgamma, dbeta = ours(x, [10.0], [7.0], [[4.0], [0.0], [0.0], [0.0]], epsilon=4.5)
    # The root is 3, x_hat = -1, 0, 0, 1. The mean of dy is 1, that of dy·x_hat is -1.
    np.testing.assert_allclose(dgamma, [-4], rtol=1e-15)
    np.testing.assert_allclose(dbeta, [4], rtol=1e-15)
    expected = 10 / 3 * np.array([[4 - 1 - 1], [-1], [-1], [0 - 1 + 1]])
    np.testing.assert_allclose(dx, expected, rtol=1e-15, atol=1e-15)


@all_axes
@pytest.mark.parametrize("epsilon", [1e-3, 1e-9, 2.0])
def test_equals_autodiff(shape, axis, epsilon):
    arguments = case(shape, axis)
    assert_equal(
        ours(*arguments, axis=axis, epsilon=epsilon),
        autodiff(*arguments, axis=axis, epsilon=epsilon),
    )


def test_equals_autodiff_on_a_large_batch():
    arguments = case((16, 28, 28, 4))
    assert_equal(ours(*arguments), autodiff(*arguments))


def test_equals_autodiff_where_a_channel_is_constant_or_the_batch_has_one_example():
    x, gamma, beta, dy = case((5, 3))
    x[:, 1] = 4
    assert_equal(ours(x, gamma, beta, dy), autodiff(x, gamma, beta, dy))
    dx, dgamma, _ = ours(x[:1], gamma, beta, dy[:1])
    np.testing.assert_array_equal(dx, np.zeros((1, 3)))  # one example is its own mean
    np.testing.assert_array_equal(dgamma, np.zeros(3))


@pytest.mark.parametrize("epsilon", [1e-3, 2.0])
@pytest.mark.parametrize(("shape", "axis"), [((6, 3), -1), ((3, 4, 2), 1)], ids=str)
def test_equals_central_differences(shape, axis, epsilon):
    x, gamma, beta, dy = case(shape, axis)

    def loss(*arguments):
        return np.sum(batch_norm_forward(*arguments, axis=axis, epsilon=epsilon)[0] * dy)

    numeric = []
    for position, argument in enumerate((x, gamma, beta)):
        slope = np.empty_like(argument)
        for place in np.ndindex(argument.shape):
            above, below = ([x, gamma, beta] for _ in range(2))
            above[position], below[position] = argument.copy(), argument.copy()
            above[position][place] += 1e-4
            below[position][place] -= 1e-4
            slope[place] = (loss(*above) - loss(*below)) / 2e-4
        numeric.append(slope)
    # The formula is off by the square of the step, and by rounding over the step: 1e-8, 1e-12.
    assert_equal(ours(x, gamma, beta, dy, axis=axis, epsilon=epsilon), numeric, 1e-7)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 2, 5)], ids=str)
def test_equals_the_gradient_of_the_keras_layer(shape, axis):
    x, gamma, beta, dy = case(shape, axis)
    layer = keras.layers.BatchNormalization(axis=axis, epsilon=0.01, dtype="float64")
    layer.build(shape)
    layer.set_weights([gamma, beta, np.zeros_like(gamma), np.ones_like(gamma)])
    x_tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x_tensor)
        y = layer(x_tensor, training=True)
    expected = tape.gradient(
        y, [x_tensor, layer.gamma.value, layer.beta.value], output_gradients=tf.constant(dy)
    )
    assert_equal(ours(x, gamma, beta, dy, axis=axis, epsilon=0.01), [g.numpy() for g in expected])


def test_equals_the_gradient_of_the_fused_kernel():
    x, gamma, beta, dy = (value.astype(np.float32) for value in case((4, 5, 6, 3)))
    arguments = [tf.constant(value) for value in (x, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = tf.compat.v1.nn.fused_batch_norm(*arguments)[0]
    expected = tape.gradient(y, arguments, output_gradients=tf.constant(dy))
    # float32 sums of 120 numbers
    assert_equal(ours(x, gamma, beta, dy), [g.numpy() for g in expected], 1e-5)


@all_axes
def test_moving_the_channel_axis_moves_the_data_and_nothing_else(shape, axis):
    x, gamma, beta, dy = case(shape)
    dx, dgamma, dbeta = ours(x, gamma, beta, dy)
    moved = ours(np.moveaxis(x, -1, axis), gamma, beta, np.moveaxis(dy, -1, axis), axis=axis)
    assert_equal(moved, (np.moveaxis(dx, -1, axis), dgamma, dbeta), 1e-13)


# What the gradient must be, whatever the batch


@given(pair=PAIRS, epsilon=EPSILONS)
def test_dx_sums_to_zero_and_is_nearly_orthogonal_to_x_hat(pair, epsilon):
    x, dy = pair
    m, channels = x.shape
    gamma = np.linspace(-2, 3, channels)
    _, cache = batch_norm_forward(x, gamma, np.zeros(channels), epsilon=epsilon)
    dx, dgamma, _ = batch_norm_backward(dy, cache)
    size = np.abs(gamma) * np.abs(dy).max(axis=0) / np.sqrt(cache.variance + epsilon)
    # x_hat itself is off by what rounding the mean does, see test_batch_norm.rounding.
    noise = 8 * m * EPS * (1 + np.abs(x).max(axis=0) / np.sqrt(cache.variance + epsilon))
    bound = 8 * m**2 * size * noise + 1e-300
    assert np.all(np.abs(dx.sum(axis=0)) <= bound)
    left = gamma * dgamma * epsilon / (cache.variance + epsilon) ** 1.5
    assert np.all(np.abs((dx * cache.x_hat).sum(axis=0) - left) <= bound)


@given(pair=PAIRS, factors=st.tuples(WHOLE, WHOLE))
def test_is_linear_in_dy(pair, factors):
    x, dy = pair
    other, (a, b) = np.cos(np.arange(dy.size)).reshape(dy.shape), factors
    channels = x.shape[1]
    _, cache = batch_norm_forward(x, np.linspace(-2, 3, channels), np.zeros(channels))
    both = batch_norm_backward(a * dy + b * other, cache)
    apart = zip(batch_norm_backward(dy, cache), batch_norm_backward(other, cache), strict=True)
    scale = (abs(a) * np.abs(dy).max() + abs(b)) * len(x) ** 2
    for got, (first, second) in zip(both, apart, strict=True):
        # 1/√ε bounds the factor on the way, and 3 is the largest gamma.
        atol = 100 * EPS * scale * 3 / np.sqrt(1e-3) + 1e-300
        np.testing.assert_allclose(got, a * first + b * second, rtol=0, atol=atol)


@pytest.mark.parametrize("power", [-9, 4, 20])
def test_a_change_of_units_divides_dx_and_nothing_else(power):
    x, gamma, beta, dy = case((6, 3))
    factor = 2.0**power  # a power of two, so that both sides round alike
    dx, dgamma, dbeta = ours(x, gamma, beta, dy, epsilon=0.5)
    scaled = ours(factor * x, gamma, beta, dy, epsilon=0.5 * factor**2)
    for got, expected in zip(scaled, (dx / factor, dgamma, dbeta), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_gamma_of_zero_stops_dx_but_not_dgamma():
    x, gamma, beta, dy = case((6, 3))
    gamma[1] = 0
    dx, dgamma, _ = ours(x, gamma, beta, dy)
    assert np.all(dx[:, 1] == 0)
    assert np.all(dx[:, [0, 2]] != 0)
    assert np.all(dgamma != 0)


def test_ones_make_a_check_vacuous():
    x, gamma, beta, dy = case((7, 4, 3))
    dx, dgamma, dbeta = ours(x, gamma, beta, np.ones_like(dy))
    np.testing.assert_allclose(dx, 0, rtol=0, atol=1e-13)
    np.testing.assert_allclose(dgamma, 0, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(dbeta, 28)
    # The upstream gradients of these tests leave something to compare.
    assert all(np.abs(gradient).min() > 1e-3 for gradient in ours(x, gamma, beta, dy)[1:])


# Dtypes and shapes


@pytest.mark.parametrize(
    ("x_dtype", "dy_dtype"),
    [*itertools.product([np.float16, np.float32, np.float64], repeat=2)],
)
def test_is_computed_in_float64_and_dx_is_rounded_once(x_dtype, dy_dtype):
    x, gamma, beta, dy = case((400, 3))
    x, dy = (300 * x).astype(x_dtype), (300 * dy).astype(dy_dtype)  # sums exceed float16
    wide = ours(x.astype(np.float64), gamma, beta, dy.astype(np.float64))
    dx, dgamma, dbeta = ours(x, gamma, beta, dy)
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (dy_dtype, np.float64, np.float64)
    np.testing.assert_array_equal(dx, wide[0].astype(dy_dtype))
    np.testing.assert_array_equal(dgamma, wide[1])
    np.testing.assert_array_equal(dbeta, wide[2])


def test_integers_become_float64():
    x, gamma, beta, _ = case((4, 3))
    dy = np.full((4, 3), 100, np.int8)  # the sum does not fit into int8
    dy[0] = -100
    got = ours(x, gamma, beta, dy)
    assert got[0].dtype == np.float64
    for a, b in zip(got, ours(x, gamma, beta, dy.astype(np.float64)), strict=True):
        np.testing.assert_array_equal(a, b)


@all_axes
def test_shapes(shape, axis):
    dx, dgamma, dbeta = ours(*case(shape, axis), axis=axis)
    assert dx.shape == shape
    assert dgamma.shape == dbeta.shape == (shape[axis],)


def test_no_channels_give_empty_gradients():
    dx, dgamma, dbeta = ours(np.ones((4, 0)), [], [], np.ones((4, 0)))
    assert (dx.shape, dgamma.shape, dbeta.shape) == ((4, 0), (0,), (0,))


def test_leaves_its_arguments_alone():
    x, gamma, beta, dy = case((4, 3))
    _, cache = batch_norm_forward(x, gamma, beta)
    before = [value.copy() for value in (dy, cache.x_hat, cache.mean, cache.variance, cache.gamma)]
    first = batch_norm_backward(dy, cache)
    after = (dy, cache.x_hat, cache.mean, cache.variance, cache.gamma)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(batch_norm_backward(dy, cache), first, strict=True):
        np.testing.assert_array_equal(a, b)


# Bad input


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (4, 1), (3, 4), (4, 3, 1)], ids=str)
def test_dy_of_another_shape_raises(shape):
    _, cache = batch_norm_forward(np.ones((4, 3)), np.ones(3), np.ones(3))
    message = f"dy must have the shape of the output of the forward pass, (4, 3), got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        batch_norm_backward(np.ones(shape), cache)


@pytest.mark.parametrize("value", ["a", 1j, True, None], ids=str)
def test_dy_must_be_real_numbers(value):
    _, cache = batch_norm_forward(np.ones((4, 3)), np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="dy must hold integers or floats, got dtype"):
        batch_norm_backward(np.full((4, 3), value), cache)
