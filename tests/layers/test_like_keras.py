"""The layer against Keras's own: outputs, gradients, averages, dtypes, options, all paths."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    PATHS,
    SHAPES,
    Peer,
    assert_close,
    build,
    compiled,
    data,
    history,
    history_of_the_peer,
    runner,
)
from packaging.version import Version

from bn_tutorial.layers import BatchNormalization


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("float64", "eager"),
        ("float64", "graph"),
        ("float64", "jit"),
        ("blocks", "eager"),
        ("blocks", "graph"),
        ("kernel", "eager"),
        ("kernel", "graph"),
        ("kernel", "jit"),
        ("gpu", "eager"),
        ("gpu", "graph"),
    ],
)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_outputs_gradients_and_averages_are_those_of_keras(shape, axis, path, mode, take):
    take(path)
    layer = build(BatchNormalization, shape, axis)
    runs = runner(layer, mode), runner(layer, mode, training=False)
    assert_close(history(layer, shape, *runs), history_of_the_peer(shape, axis))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5, 6), -1), ((4, 5, 6), 1)])
@pytest.mark.parametrize(
    ("policy", "ulp"), [("mixed_float16", 2**-10), ("mixed_bfloat16", 2**-7), ("float64", 2e-13)]
)
def test_dtypes(policy, ulp, shape, axis, mode, path, take):
    histories = []
    for cls in (Peer, BatchNormalization):
        if cls is BatchNormalization:
            take(path)
        layer = build(cls, shape, axis, dtype=policy)
        assert layer(np.zeros(shape)).dtype == layer.compute_dtype
        runs = (
            runner(layer, mode, training, dtype=layer.compute_dtype) for training in (True, False)
        )
        histories.append(history(layer, shape, *runs))
        assert {weight.dtype for weight in layer.weights} == {layer.variable_dtype}
    assert_close(histories[1], histories[0], 2 * ulp)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("path", PATHS)
def test_the_moments_of_half_precision_are_those_of_float32(dtype, path, take):
    """In float16 the sum of the squares would be infinite, in bfloat16 two digits would remain."""
    take(path)
    x = tf.cast(data((600, 3), center=100, deviation=30)[0], dtype)
    layer = BatchNormalization(momentum=0, dtype="mixed_" + dtype)
    y = layer(x, training=True)
    exact = x.numpy().astype("float64")
    assert y.dtype == dtype
    np.testing.assert_allclose(layer.moving_mean.numpy(), exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), exact.var(0), rtol=1e-5)


def test_integers_are_computed_in_float32():
    x = np.arange(12).reshape(4, 3)
    layers = build(BatchNormalization, x.shape, -1), build(Peer, x.shape, -1)
    for training in (True, False):
        mine, theirs = (layer(x, training=training).numpy() for layer in layers)
        assert_close([mine], [theirs])


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(center=False),
        dict(scale=False),
        dict(center=False, scale=False),
        dict(momentum=0),
        dict(momentum=0.5, epsilon=0.1),
        dict(momentum=1),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("shape", "axis", "path"),
    [*(((3, 4, 5, 6), -1, path) for path in PATHS), ((4, 5, 6), 1, "float64")],
)
def test_options(kwargs, path, shape, axis, take):
    take(path)
    layers = [build(cls, shape, axis, **kwargs) for cls in (BatchNormalization, Peer)]
    assert_close(
        *(
            history(layer, shape, runner(layer, "graph"), runner(layer, "graph", False))
            for layer in layers
        )
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_frozen_layer_infers(path, take):
    take(path)
    layer, peer = (build(cls, (6, 5), -1, trainable=False) for cls in (BatchNormalization, Peer))
    before = layer.get_weights()
    assert_close(*(runner(some)(*data((6, 5))) for some in (layer, peer)))
    assert_close(layer.get_weights(), before, 0)
    layer.trainable = True
    layer(data((6, 5))[0], training=True)
    assert np.abs(layer.get_weights()[2] - before[2]).max() > 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_unknown_size(training, path, take):
    take(path)
    layer, peer = (build(cls, (None, 5, 6), -1) for cls in (BatchNormalization, Peer))
    run = {}
    for some in (layer, peer):

        def call(x, some=some):
            return some(x, training=training)

        run[some] = tf.function(call, input_signature=[tf.TensorSpec([None, None, 6])])
    for n in (3, 7, 1):
        x = data((n, 5, 6))[0]
        assert_close([run[layer](x).numpy()], [run[peer](x).numpy()])
    assert_close(layer.get_weights(), peer.get_weights())


def differentiable(x, gamma, beta, axis):
    """The formula, straightforwardly, in float64."""
    axes = [i for i in range(len(x.shape)) if i != axis % len(x.shape)]
    per_channel = [1] * len(x.shape)
    per_channel[axis] = -1
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
    y = (x - mean) / tf.sqrt(variance + 1e-3)
    return tf.reshape(gamma, per_channel) * y + tf.reshape(beta, per_channel)


def second_derivatives(normalize, x, gamma, dy, direction):
    """As penalties on a gradient need them."""
    with tf.GradientTape() as outer:
        outer.watch([x, gamma])
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = normalize(x)
        dx = inner.gradient(y, x, dy)
        penalty = tf.reduce_sum(dx * direction + dx**2)
    return outer.gradient(penalty, [x, gamma])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 3), -1), ((3, 4, 2), 1), ((2, 3, 3, 4), -1)])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivatives(shape, axis, path, mode, take):
    """Before TensorFlow 2.22 those of Keras are wrong: `tf.nn.moments` stops a gradient that is 0
    the first time only.
    """
    x, dy = data(shape)
    direction = data(shape, seed=1)[0]
    layers = [build(cls, shape, axis) for cls in (Peer, BatchNormalization)]
    gamma, beta = (tf.constant(weight, tf.float64) for weight in layers[0].get_weights()[:2])
    expected = second_derivatives(
        lambda x: differentiable(x, gamma, beta, axis),
        *(tf.constant(v, tf.float64) for v in (x, gamma, dy, direction)),
    )
    take(path)
    found = []
    for layer in layers:

        def run(layer=layer):
            return second_derivatives(
                lambda x: layer(x, training=True),
                tf.constant(x),
                layer.gamma.value,
                tf.constant(dy),
                tf.constant(direction),
            )

        found.append([gradient.numpy() for gradient in compiled(run, mode)()])
    assert_close(found[1], [v.numpy() for v in expected], 1e-5)
    keras_is_wrong = np.abs(found[0][0] - expected[0]).max() > 1e-2
    assert keras_is_wrong == (Version(tf.__version__) < Version("2.22.0rc0"))
