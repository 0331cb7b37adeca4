"""Far from zero the layer is right, where sums of float32 lose their digits."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import FAR, MODES, PATHS, WITHIN, Peer, data, errors_of, exact, masked_case, runner

from bn_tutorial.layers import BatchNormalization


@pytest.mark.parametrize(("center", "deviation"), FAR)
@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("float64", "graph"),
        ("float64", "jit"),
        ("blocks", "eager"),
        ("kernel", "graph"),
        ("kernel", "jit"),
        ("gpu", "graph"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((60, 10), -1), ((8, 3, 20), 1), ((8, 12, 12, 6), -1), ((8, 6, 12, 12), 1)]
)
def test_far_from_zero(shape, axis, path, mode, center, deviation, take):
    take(path)
    x, dy = data(shape, center=center, deviation=deviation)
    errors = errors_of(BatchNormalization, x, dy, axis, mode)
    assert max(errors.values()) < WITHIN, errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), [((200_000, 4), -1), ((16, 48, 48, 32), -1)])
def test_far_from_zero_large(shape, axis, mode):
    """On the paths that sizes choose by themselves; Keras errs by more than ten times as much."""
    x, dy = data(shape, center=1e5, deviation=0.1)
    errors = errors_of(BatchNormalization, x, dy, axis, mode)
    assert max(errors.values()) < WITHIN, errors
    errors = errors_of(Peer, x, dy, axis, mode)
    assert errors["y"] > 10 * WITHIN, errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_far_from_zero_with_a_mask(path, mode, take):
    take(path)
    shape = (7, 20, 6)
    x, dy, mask = masked_case(shape)
    x = (1e5 + x * 0.1).astype("float32")
    x[~mask] = -3  # far from the others
    layer = BatchNormalization(momentum=0)
    layer.build(shape)
    y = runner(layer, mode, mask=tf.constant(mask))(x, dy)[0]
    truth = exact(x[mask], dy[mask], -1)
    np.testing.assert_allclose(y[mask], truth.y, rtol=0, atol=WITHIN)
    np.testing.assert_allclose(layer.get_weights()[3], truth.variance, rtol=WITHIN)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("shape", "axis"), [((60, 5), -1), ((6, 5, 7), 1)])
def test_far_from_zero_in_inference(shape, axis, path, mode, take):
    take(path)
    x, dy = data(shape, center=1e5, deviation=0.1)
    truth = exact(x, dy, axis)
    layer = BatchNormalization(axis=axis)
    layer.build(shape)
    mean, variance = (moment.astype("float32") for moment in (truth.mean, truth.variance))
    layer.set_weights([*layer.get_weights()[:2], mean, variance])
    per_channel = [1] * len(shape)
    per_channel[axis] = -1
    expected = (x.astype("float64") - mean.reshape(per_channel)) / np.sqrt(
        variance.astype("float64").reshape(per_channel) + 1e-3
    )
    y = runner(layer, mode, training=False)(x, dy)[0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_one_far_channel_is_enough():
    shape = (40, 40, 40, 32)  # on the path where a sample decides
    x, dy = data(shape, center=0, deviation=1)
    x[..., 7] = x[..., 7] * 0.1 + 1e5
    errors = errors_of(BatchNormalization, x, dy, -1, "graph")
    assert max(errors[key] for key in ("y", "dx", "dgamma", "dbeta", "variance")) < WITHIN, errors


def test_a_sample_of_outliers_does_no_harm():
    """Where all that is sampled is far and the rest near, or the other way round."""
    shape = (64, 16, 32, 32)
    for inside, outside in ((1e4, 0), (0, 1e4)):
        x, dy = data(shape, center=outside, deviation=1)
        x[:8, :2] += inside - outside
        errors = errors_of(BatchNormalization, x, dy, -1, "graph")
        assert max(errors[key] for key in ("y", "dx", "dgamma", "variance")) < WITHIN, errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_where_squares_overflow_and_those_of_deviations_do_not(path, mode, take):
    """The mean of 10³⁶ is no float32, that of 10³² is."""
    take(path)
    x, dy = data((600, 9), center=1e18, deviation=1e16)
    layer = BatchNormalization(momentum=0)
    layer.build(x.shape)
    y = runner(layer, mode)(x, dy)[0]
    truth = exact(x, dy, -1)
    np.testing.assert_allclose(y, truth.y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(layer.get_weights()[3], truth.variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [(60, 10), (70_000, 9)])
def test_an_infinite_value_is_seen_as_in_keras(shape):
    x, _ = data(shape)
    x[7, 3] = np.inf
    averages = []
    for cls in (BatchNormalization, Peer):
        layer = cls(momentum=0)
        layer(x, training=True)
        averages.append(layer.get_weights()[2:])
    np.testing.assert_allclose(*averages, rtol=1e-4, atol=1e-6)
