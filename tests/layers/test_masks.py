"""Masks keep values out of the moments, and what cannot be summed out of everything."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import MODES, PATHS, Peer, assert_close, build, compiled, data, masked_case, runner

from bn_tutorial.layers import BatchNormalization


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("float64", "eager"),
        ("float64", "graph"),
        ("float64", "jit"),
        ("kernel", "graph"),
        ("gpu", "eager"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 5), -1), ((4, 5, 6), -1), ((4, 5, 6), 1), ((3, 4, 5, 6), -1), ((2, 3, 4, 2, 5), -1)],
)
def test_masks(shape, axis, path, mode, take):
    """Keras divides by Σ + 1e-7 instead of Σ: one float32 ulp."""
    expected = masked_history(Peer, shape, axis, "eager")
    take(path)
    assert_close(masked_history(BatchNormalization, shape, axis, mode), expected)


def masked_history(cls, shape, axis, mode):
    layer = build(cls, shape, axis)
    found = []
    for step, training in enumerate((True, True, False)):
        x, dy, mask = masked_case(shape, step)
        found += runner(layer, mode, training, tf.constant(mask))(x, dy)
    return [*found, *layer.get_weights()]


def test_a_mask_may_be_broadcast():
    x, _, mask = masked_case((4, 5, 6))
    layers = build(BatchNormalization, x.shape, -1), build(Peer, x.shape, -1)
    mine, theirs = (layer(x, training=True, mask=mask[:1]).numpy() for layer in layers)
    assert_close([mine, *layers[0].get_weights()], [theirs, *layers[1].get_weights()])


def test_one_channel_may_be_masked():
    """Keras squeezes its moments to scalars."""
    x, _, mask = masked_case((4, 5, 1))
    layer = BatchNormalization(momentum=0)
    layer(x, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean.numpy(), x[mask].mean(0), rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("float64", "eager"),
        ("float64", "graph"),
        ("float64", "jit"),
        ("kernel", "graph"),
        ("gpu", "eager"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis", "bad"),
    [
        ((8, 5), -1, np.nan),
        ((4, 5, 6), -1, np.inf),
        ((4, 5, 6), 1, np.nan),
        ((4, 5, 6), -1, np.finfo(np.float32).min),  # often written for what is to be masked
        ((4, 5, 6), 1, 2e19),  # its square overflows
        ((4, 5, 6), -1, 1e15),
    ],
)
def test_what_cannot_be_summed_does_not_leak_from_masked_places(
    shape, axis, bad, path, mode, training, take
):
    take(path)
    x, dy, mask = masked_case(shape)
    dy[~mask] = 0  # a masked loss
    zeros, poisoned = x.copy(), x.copy()
    zeros[~mask], poisoned[~mask] = 0, bad
    found = []
    for batch in (zeros, poisoned):
        layer = build(BatchNormalization, shape, axis)
        results = runner(layer, mode, training, tf.constant(mask))(batch, dy)
        if batch is poisoned:
            assert not results[1][~mask].any()
        results[1][~mask] = 0
        found.append([*results, *layer.get_weights()])
    assert all(np.isfinite(result).all() for result in found[1])
    assert_close(found[1], found[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kwargs", [{}, dict(synchronized=True)], ids=str)
def test_the_least_number_of_a_dtype_does_not_leak_from_masked_places(dtype, kwargs):
    x, _, mask = masked_case((4, 5, 6))
    x = tf.cast(x, dtype)
    hidden = tf.where(mask[..., None], x, x.dtype.min)
    found = []
    for batch in (x, hidden):
        layer = BatchNormalization(momentum=0, dtype=dtype, **kwargs)
        y = layer(batch, training=True, mask=tf.constant(mask))
        found.append([tf.boolean_mask(y, mask).numpy(), *layer.get_weights()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_finite_is_seen_where_it_is_not_masked(path, mode, take):
    take(path)
    x, dy, mask = masked_case((8, 5))
    mask[0] = True
    x[0, 1] = np.nan
    layer = build(BatchNormalization, x.shape, -1)
    y = runner(layer, mode, mask=tf.constant(mask))(x, dy)[0]
    assert np.isnan(y[:, 1]).all()
    assert np.isnan(layer.get_weights()[2][1])
    assert np.isfinite(np.delete(y, 1, 1)).all()


def test_a_mask_of_the_wrong_rank_is_refused():
    for cls in (BatchNormalization, Peer):
        with pytest.raises(ValueError, match=r"one dimension less.*mask.shape=\(4,\)"):
            cls()(np.zeros((4, 5, 6)), mask=np.ones(4, bool))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(("shape", "of_mask"), [((5, 4, 3), (5, 8)), ((1, 4, 3), (5, 4))])
def test_a_mask_of_another_size_is_none_in_inference(shape, of_mask, mode):
    x, mask = data(shape)[0], tf.ones(of_mask, bool)
    x[0, 0, 0] = np.nan
    ours, theirs = (build(cls, shape, -1) for cls in (BatchNormalization, Peer))
    got, expected = (compiled(layer, mode)(tf.constant(x), mask=mask) for layer in (ours, theirs))
    assert_close([got.numpy()], [expected.numpy()])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_mask_of_another_size_is_refused_in_training_as_in_keras(mode):
    for cls in (BatchNormalization, Peer):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"4.*8|8.*4"):
            compiled(build(cls, (5, 4, 3), -1), mode)(
                tf.ones((5, 4, 3)), training=True, mask=tf.ones((5, 8), bool)
            )


def test_keras_hands_masks_through():
    x = data((4, 5, 6))[0]
    x[:, 3:] = 0
    layers = [BatchNormalization(), Peer()]
    outputs = []
    for layer in layers:
        inputs = keras.Input((5, 6))
        model = keras.Model(inputs, layer(keras.layers.Masking()(inputs)))
        outputs.append(model(x, training=True))
    assert outputs[0]._keras_mask is not None
    assert_close(
        [outputs[0].numpy(), *layers[0].get_weights()],
        [outputs[1].numpy(), *layers[1].get_weights()],
    )
