"""Derivatives of every order, in every direction, against those of the plain formula in float64.

The formula is written down once more here, in operations of which TensorFlow knows all derivatives.
What is differentiated is a function of x, gamma, beta and both moving averages, by
`keras.Layer.stateless_call`; two tests take the gradient for the layer's variables instead.
"""

import json
from itertools import cycle, product

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import MODES, PATHS, TWO_REPLICAS, Peer, alone, assert_close, build, compiled, data
from packaging.version import Version

from bn_tutorial.layers import BatchNormalization

CASES = {
    "dense": ((6, 3), -1, False),
    "channels first": ((3, 4, 2), 1, False),
    "images": ((2, 3, 3, 4), -1, False),
    "masked": ((6, 3), -1, True),
    "masked, channels first": ((3, 4, 2), 1, True),
}


def formula(axis, training, mask=None):
    """The function of x, gamma, beta and both moving averages, in float64."""

    def normalize(x, gamma, beta, *moments):
        per_channel = [1] * len(x.shape)
        per_channel[axis] = -1
        axes = [i for i in range(len(x.shape)) if i != axis % len(x.shape)]
        weights = tf.ones_like(x) if mask is None else tf.broadcast_to(mask[..., None], x.shape)
        weights = tf.cast(weights, tf.float64)

        def mean_of(values):
            return tf.reduce_sum(weights * values, axes, True) / tf.reduce_sum(weights, axes, True)

        if training:
            mean = mean_of(x)
            variance = mean_of((x - mean) ** 2)
        else:
            mean, variance = (tf.reshape(moment, per_channel) for moment in moments)
        y = (x - mean) / tf.sqrt(variance + 1e-3)
        return tf.reshape(gamma, per_channel) * y + tf.reshape(beta, per_channel)

    return normalize


def function_of(layer, training, mask=None):
    """What a layer computes, as a function of x, gamma, beta and both moving averages."""

    def normalize(x, gamma, beta, *moments):
        given = [gamma, beta], [*moments] or [moment.value for moment in layer.weights[2:]]
        return layer.stateless_call(*given, x, training=training, mask=mask)[0]

    return normalize


# Of a function of the tensors in `given`, with as many tensors in `directions`


def gradient(function, given, directions):
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = loss_of(function(*given))
    return tape.gradient(loss, given)


def forward(function, given, directions):
    with tf.autodiff.ForwardAccumulator(given, directions) as accumulator:
        y = function(*given)
    return [accumulator.jvp(y)]


def forward_over_reverse(function, given, directions):
    with tf.autodiff.ForwardAccumulator(given, directions) as accumulator:
        first = gradient(function, given, directions)
    return accumulator.jvp(first)


def reverse_over_reverse(function, given, directions):
    with tf.GradientTape() as tape:
        tape.watch(given)
        first = gradient(function, given, directions)
    return tape.gradient(first, given, directions)


def reverse_over_forward(function, given, directions):
    with tf.GradientTape() as tape:
        tape.watch(given)
        with tf.autodiff.ForwardAccumulator(given, directions) as accumulator:
            loss = loss_of(function(*given))
        along = accumulator.jvp(loss)
    return tape.gradient(along, given)


def third(function, given, directions):
    with tf.GradientTape() as tape:
        tape.watch(given)
        second = reverse_over_reverse(function, given, directions)
        curvature = sum(tf.reduce_sum(a * b) for a, b in zip(second, directions, strict=True))
    return tape.gradient(curvature, given)


def jacobian(function, given, directions):
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = function(*given)
    return tape.jacobian(y, given)


def loss_of(y):
    """A loss of which no derivative vanishes, and which rounds nothing."""
    y = tf.cast(y, tf.float64)
    weights = tf.reshape(tf.linspace(tf.constant(0.3, y.dtype), 1.7, tf.size(y)), y.shape)
    return tf.reduce_sum(weights * tf.sin(y))


DERIVATIVES = [
    gradient,
    forward,
    forward_over_reverse,
    reverse_over_reverse,
    reverse_over_forward,
    third,
]


def point_and_directions(layer, shape, training):
    """x and the weights on which the output depends, and where to go from there, in float64."""
    weights = layer.get_weights()[: 2 if training else 4]
    given = [data(shape)[0], *weights]
    rng = np.random.default_rng(1)
    directions = [0.5 * rng.normal(size=value.shape).astype("float32") for value in given]
    return [[tf.constant(v, tf.float64) for v in values] for values in (given, directions)]


# Each case in turn. XLA, which takes its time to compile them, has them on two paths.
PLACES = [(p, m) for p, m in product(PATHS, MODES) if m != "jit" or p in ("float64", "blocks")]
WHERE = [(case, *where) for case, where in zip(cycle(CASES), PLACES, strict=False)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("case", "path", "mode"), WHERE)
def test_derivatives(case, path, mode, training, take):
    """What passes through y is of float32: y, up to 8, is right to 2⁻²², and a sum adds to it.

    Each order multiplies it by derivatives that are larger than the sum of all.
    """
    take(path)
    shape, axis, masked = CASES[case]
    mask = tf.constant(np.random.default_rng(2).random(shape[:-1]) < 0.7) if masked else None
    layer = build(BatchNormalization, shape, axis)
    points = point_and_directions(layer, shape, training)
    points32 = [[tf.cast(v, tf.float32) for v in values] for values in points]
    for derivative in DERIVATIVES:
        expected = derivative(formula(axis, training, mask), *points)

        def run(derivative=derivative):
            return derivative(function_of(layer, training, mask), *points32)

        found = compiled(run, mode)()
        tolerance = 1e-5 if derivative is third else 3e-6
        assert_close([v.numpy() for v in found], [v.numpy() for v in expected], tolerance)


@pytest.mark.parametrize("training", [False, True])
def test_derivatives_under_a_mask_can_be_vectorized(training):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4, 2)), tf.float32)
    mask = tf.constant([[True, True, False, True]] * 3)

    def per_example_and_curvature(cls):
        layer = build(cls, (None, 4, 2), -1)

        def first(values):
            return gradient(lambda x: layer(x, training=training, mask=mask), [values], None)[0]

        curvature = tf.function(lambda values: jacobian(first, [values], None)[0])
        return tf.vectorized_map(first, x), curvature(x[0])

    found, expected = map(per_example_and_curvature, (BatchNormalization, Peer))
    assert_close([v.numpy() for v in found], [v.numpy() for v in expected])


@pytest.mark.parametrize("path", PATHS)
def test_jacobian(path, take):
    """TensorFlow takes the gradient for all outputs at once, by operations for many of them."""
    take(path)
    shape, axis = (5, 2), -1
    layer = build(BatchNormalization, shape, axis)
    for training in (True, False):
        points = point_and_directions(layer, shape, training)
        points32 = [[tf.cast(v, tf.float32) for v in values] for values in points]
        found = jacobian(function_of(layer, training), *points32)
        expected = jacobian(formula(axis, training), *points)
        assert_close([v.numpy() for v in found], [v.numpy() for v in expected], 1e-6)


LINE = np.linspace(-1, 2, 2**17, dtype="float32")[:, None]  # large enough to be summed in blocks


@pytest.mark.parametrize("mode", MODES)
def test_the_variables_of_a_layer_have_derivatives(mode):
    """d mean(y)/d moving_mean = -1/√(1 + epsilon), forward and in reverse."""
    layer = BatchNormalization()
    layer.build(LINE.shape)
    average = layer.moving_mean.value

    def run():
        with (
            tf.GradientTape() as tape,
            tf.autodiff.ForwardAccumulator(average, tf.ones(1)) as accumulator,
        ):
            tape.watch(average)
            mean = tf.reduce_mean(tf.cast(layer(LINE), tf.float64))
        return tape.gradient(mean, average), accumulator.jvp(mean)

    for derivative in compiled(run, mode)():
        np.testing.assert_allclose(derivative, -1 / np.sqrt(1.001), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("derivative", [forward_over_reverse, reverse_over_reverse])
@pytest.mark.parametrize(("training", "expected"), [(True, 3197.667), (False, 5987.978)])
def test_the_curvature_of_a_large_batch(training, expected, derivative, mode, monkeypatch):
    """1000·vᵀHv of the mean of y⁴ with v = sin(0, 1, 2, …), and inference with averages 0 and 1."""
    monkeypatch.setitem(globals(), "loss_of", lambda y: tf.reduce_mean(y**4))
    layer = BatchNormalization()
    layer.build(LINE.shape)
    v = np.sin(np.arange(len(LINE)))[:, None]

    def curvature(normalize, dtype):
        x, direction = (tf.constant(value, dtype) for value in (LINE, v))
        (along,) = derivative(normalize, [x], [direction])
        return 1000 * tf.reduce_sum(tf.cast(direction, tf.float64) * tf.cast(along, tf.float64))

    of_layer = function_of(layer, training)
    weights = [weight.value for weight in layer.weights]
    found = compiled(lambda: curvature(lambda x: of_layer(x, *weights), tf.float32), mode)()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    of_formula = formula(-1, training)
    exact = [tf.cast(weight, tf.float64) for weight in weights]
    np.testing.assert_allclose(
        curvature(lambda x: of_formula(x, *exact), tf.float64), expected, rtol=2e-7
    )


def test_second_derivatives_of_keras():
    """Before TensorFlow 2.22 they are wrong: `tf.nn.moments` stops a gradient that is 0 the first
    time only.
    """
    shape = (6, 3)
    layer = build(Peer, shape, -1)
    points = point_and_directions(layer, shape, True)
    expected = reverse_over_reverse(formula(-1, True), *points)
    points32 = [[tf.cast(v, tf.float32) for v in values] for values in points]
    found = reverse_over_reverse(function_of(layer, True), *points32)
    is_wrong = np.abs(found[0] - tf.cast(expected[0], tf.float32)).max() > 1e-2
    assert is_wrong == (Version(tf.__version__) < Version("2.22.0rc0"))


def test_second_derivatives_of_two_replicas():
    """They are those of the whole batch, as the moments are."""
    program = """
rng = np.random.default_rng(0)
x, v = rng.normal(size=(2, 8, 5)).astype("float32")
with strategy.scope():
    layer = BatchNormalization(synchronized=True)
    layer.build((None, 5))

def step(x, v):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**4)
        dx = inner.gradient(loss, x)
    return outer.gradient(dx, x, v)

found = tf.function(strategy.run)(step, [split(value, 6) for value in (x, v)])
print(json.dumps(np.concatenate(strategy.experimental_local_results(found)).tolist()))
"""
    found = np.array(json.loads(alone(TWO_REPLICAS + program).splitlines()[-1]))
    x, v = np.random.default_rng(0).normal(size=(2, 8, 5)).astype("float32").astype("float64")
    x = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = formula(-1, True)(x, tf.ones(5, tf.float64), tf.zeros(5, tf.float64))
            loss = tf.reduce_sum(y**4)
        dx = inner.gradient(loss, x)
    assert_close([found], [outer.gradient(dx, x, tf.constant(v)).numpy()], 3e-6)
