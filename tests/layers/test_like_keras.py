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
    data,
    history,
    history_of_the_peer,
    runner,
)

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
