"""A batch without values leaves the averages as they are, and one value has no variance."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import MODES, PATHS, Peer, assert_close, build, compiled, data, runner

from bn_tutorial.layers import BatchNormalization


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), [((4, 5, 6), 1), ((3, 4, 5, 6), -1)])
def test_a_batch_that_is_masked_altogether_teaches_nothing(shape, axis, mode, path, take):
    take(path)
    layer = build(BatchNormalization, shape, axis)
    before = layer.get_weights()
    mask = tf.zeros(shape[:-1], bool)
    results = runner(layer, mode, mask=mask)(*data(shape))
    assert all(np.isfinite(result).all() for result in results)
    assert_close(layer.get_weights(), before, 0)


def test_keras_learns_from_masked_batches():
    layer = build(Peer, (6, 5), -1)
    before = layer.get_weights()
    layer(data((6, 5))[0], training=True, mask=tf.zeros([6], bool))
    np.testing.assert_allclose(layer.get_weights()[2], 0.99 * before[2], rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "size"), [*((mode, "known") for mode in MODES), ("graph", "unknown")]
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("shape", "axis"), [((0, 5), -1), ((0, 5, 6), 1), ((3, 0, 5, 6), -1)])
def test_an_empty_batch_teaches_nothing(shape, axis, mode, path, size, take):
    take(path)
    layer = build(BatchNormalization, shape, axis)
    before = layer.get_weights()
    x, dy = map(tf.constant, data(shape))

    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    if size == "unknown":
        spec = tf.TensorSpec([None if n == 0 else n for n in shape])
        run = tf.function(run, input_signature=[spec, spec])
    else:
        run = compiled(run, mode)
    y, dx, dgamma, dbeta = run(x, dy)
    assert y.shape == dx.shape == shape
    assert not np.any(dgamma)
    assert not np.any(dbeta)
    assert_close(layer.get_weights(), before, 0)
    assert layer(x).shape == shape


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_a_single_value_has_no_variance(path, mode, take):
    take(path)
    layer = BatchNormalization(momentum=0)
    layer.build((1, 3))
    x = np.array([[1.0, -2.0, 3e4]], np.float32)
    y, dx, dgamma, dbeta = runner(layer, mode)(x, np.ones_like(x))
    assert not y.any()
    assert not dx.any()
    assert not dgamma.any()
    assert (dbeta == 1).all()
    assert (layer.moving_mean.numpy() == x[0]).all()
    assert not layer.moving_variance.numpy().any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_the_stored_variance_is_the_biased_one(path, mode, take):
    take(path)
    layer = BatchNormalization(momentum=0)
    layer.build((4, 1))
    runner(layer, mode)(np.array([[1.0], [2.0], [3.0], [4.0]]), np.ones((4, 1), np.float32))
    np.testing.assert_allclose(layer.moving_variance.numpy(), [1.25], rtol=1e-6)  # not 5/3
