"""The layer against its peers: Keras's own, PyTorch's, and float64 where both are wrong.

Tolerances. Two orders in which to add n float32 numbers differ by n·2⁻²⁴ at worst, in practice by a
few units in the last place: at the sizes used here outputs (of the order of 1) and gradients
(relative to the largest) agree within 1e-5. float64 leaves 1e-12. A half-precision result is a
float32 one, rounded: where rounding falls on the other side, they differ by one unit in the last
place, 2⁻¹⁰ in float16 and 2⁻⁷ in bfloat16.
"""

import inspect
import json
import math
import os
import subprocess
import sys
import zipfile
from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from packaging.version import Version
from sklearn.datasets import load_digits

from bn_tutorial.layers import BatchNormalization, _normalize
from bn_tutorial.models import fold_batch_norm
from tools import record_pytorch

Peer = keras.layers.BatchNormalization

needs_renorm = pytest.mark.skipif(
    "renorm" not in inspect.signature(Peer).parameters,
    reason=f"Keras {keras.__version__} has no renorm",
)

SHAPES = [
    ((6, 5), -1),
    ((4, 5, 6), -1),
    ((4, 5, 6), 1),
    ((3, 4, 5, 6), -1),
    ((3, 4, 5, 6), 1),
    ((3, 4, 5, 6), 2),
    ((3, 4, 5, 6), 0),
    ((2, 3, 4, 2, 5), -1),
    ((2, 3, 4, 2, 5), 1),
    ((2, 3, 4, 2, 5), -2),
]
# What sizes, devices and modes choose between, forced upon small inputs.
PATHS = {
    "plain": dict(LARGE=math.inf, HUGE=math.inf),
    "large": dict(LARGE=0, HUGE=math.inf),
    "huge": dict(LARGE=0, HUGE=0),
    "gpu": dict(LARGE=0, HUGE=0, gpu=True),
}
MODES = ["eager", "graph", "jit"]


@pytest.fixture
def take(monkeypatch):
    """Send what follows down one path."""

    def take_path(name):
        path = dict(PATHS[name])
        if path.pop("gpu", False):
            monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
        for key, value in path.items():
            monkeypatch.setattr(_normalize, key, value)

    return take_path


def compiled(function, mode):
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "jit")


def build(cls, shape, axis, seed=0, **kwargs):
    """A layer with random weights, the same for each class."""
    layer = cls(axis=axis, **kwargs)
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.weights])
    return layer


def data(shape, seed=0, center=1.0, spread=2.0):
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(center, spread, shape), rng.normal(0, 1, shape)
    return x.astype("float32"), dy.astype("float32")


def runner(layer, mode="eager", training=True, mask=None, dtype="float32"):
    """A function of x and dy: the output, and the gradients for x and the trainable weights."""

    @tf.function(jit_compile=mode == "jit", autograph=False)
    def in_graph(x, dy):
        return run(x, dy)

    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training, mask=mask)
        weights = [weight.value for weight in (layer.gamma, layer.beta) if weight is not None]
        return y, *tape.gradient(y, [x, *weights], tf.cast(dy, y.dtype))

    def call(x, dy):
        results = (run if mode == "eager" else in_graph)(tf.constant(x, dtype), tf.constant(dy))
        return [tf.cast(result, tf.float64).numpy() for result in results]

    return call


def assert_close(results, expected, tolerance=1e-5):
    """Equal within tolerance times the largest number, at least 1, of each array."""
    assert len(results) == len(expected)
    for result, value in zip(results, expected, strict=True):
        assert np.shape(result) == np.shape(value)
        np.testing.assert_allclose(
            result, value, rtol=0, atol=tolerance * max(1, np.abs(value).max(initial=0))
        )


def history(layer, shape, run_training, run_inference, steps=3):
    """Outputs and gradients of some steps of training, the averages after, then inference."""
    found = []
    for step in range(steps):
        found += run_training(*data(shape, seed=step))
    found += [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    return found + run_inference(*data(shape, seed=steps))


@cache
def history_of_the_peer(shape, axis):
    layer = build(Peer, shape, axis)
    return history(layer, shape, runner(layer), runner(layer, training=False))


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("plain", "eager"),
        ("plain", "graph"),
        ("plain", "jit"),
        ("large", "eager"),
        ("large", "graph"),
        ("huge", "eager"),
        ("huge", "graph"),
        ("huge", "jit"),
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
    x = tf.cast(data((600, 3), center=100, spread=30)[0], dtype)
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
    [*(((3, 4, 5, 6), -1, path) for path in PATHS), ((4, 5, 6), 1, "plain")],
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
    spread = [1] * len(x.shape)
    spread[axis] = -1
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
    y = (x - mean) / tf.sqrt(variance + 1e-3)
    return tf.reshape(gamma, spread) * y + tf.reshape(beta, spread)


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


# Masks


def masked_case(shape, seed=0, share=0.6):
    x, dy = data(shape, seed)
    return x, dy, np.random.default_rng(seed + 100).random(shape[:-1]) < share


@pytest.mark.parametrize(
    ("path", "mode"),
    [("plain", "eager"), ("plain", "graph"), ("plain", "jit"), ("huge", "graph"), ("gpu", "eager")],
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
    [("plain", "eager"), ("plain", "graph"), ("plain", "jit"), ("huge", "graph"), ("gpu", "eager")],
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


# Nothing to learn from


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


# Far from zero


FAR = [(1e4, 0.1), (-1e5, 0.1)]
WITHIN = 1e-3  # what the docstring promises


def exact(x, dy, axis, epsilon=1e-3):
    """Output, gradients for x, gamma (1) and beta, and moments, all in float64."""
    x, dy = x.astype("float64"), dy.astype("float64")
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + epsilon)
    y = (x - mean) * inverse
    dgamma, dbeta = (dy * y).sum(axes), dy.sum(axes)
    dx = inverse * (dy - dy.mean(axes, keepdims=True) - y * (dy * y).mean(axes, keepdims=True))
    return SimpleNamespace(
        y=y, dx=dx, dgamma=dgamma, dbeta=dbeta, mean=mean.ravel(), variance=variance.ravel()
    )


def errors_of(cls, x, dy, axis, mode):
    layer = cls(axis=axis, momentum=0)
    layer.build(x.shape)
    y, dx, dgamma, dbeta = runner(layer, mode)(x, dy)
    truth = exact(x, dy, axis)
    mean, variance = (weight.astype("float64") for weight in layer.get_weights()[2:])
    return {
        "y": np.abs(y - truth.y).max(),
        "dx": np.abs(dx - truth.dx).max() / np.abs(truth.dx).max(),
        "dgamma": np.abs(dgamma - truth.dgamma).max() / np.abs(truth.dgamma).max(),
        "dbeta": np.abs(dbeta - truth.dbeta).max() / np.abs(truth.dbeta).max(),
        "variance": np.abs(variance / truth.variance - 1).max(),
        "mean, in ulp / 1000": np.abs(
            (mean - truth.mean) / np.spacing(truth.mean, dtype="float32")
        ).max()
        / 1000,
    }


@pytest.mark.parametrize(("center", "spread"), FAR)
@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("plain", "graph"),
        ("plain", "jit"),
        ("large", "eager"),
        ("huge", "graph"),
        ("huge", "jit"),
        ("gpu", "graph"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((60, 10), -1), ((8, 3, 20), 1), ((8, 12, 12, 6), -1), ((8, 6, 12, 12), 1)]
)
def test_far_from_zero(shape, axis, path, mode, center, spread, take):
    take(path)
    x, dy = data(shape, center=center, spread=spread)
    errors = errors_of(BatchNormalization, x, dy, axis, mode)
    assert max(errors.values()) < WITHIN, errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), [((200_000, 4), -1), ((16, 48, 48, 32), -1)])
def test_far_from_zero_large(shape, axis, mode):
    """On the paths that sizes choose by themselves; Keras errs by more than ten times as much."""
    x, dy = data(shape, center=1e5, spread=0.1)
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
    x, dy = data(shape, center=1e5, spread=0.1)
    truth = exact(x, dy, axis)
    layer = BatchNormalization(axis=axis)
    layer.build(shape)
    mean, variance = (moment.astype("float32") for moment in (truth.mean, truth.variance))
    layer.set_weights([*layer.get_weights()[:2], mean, variance])
    spread = [1] * len(shape)
    spread[axis] = -1
    expected = (x.astype("float64") - mean.reshape(spread)) / np.sqrt(
        variance.astype("float64").reshape(spread) + 1e-3
    )
    y = runner(layer, mode, training=False)(x, dy)[0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_one_far_channel_is_enough():
    shape = (40, 40, 40, 32)  # on the path where a sample decides
    x, dy = data(shape, center=0, spread=1)
    x[..., 7] = x[..., 7] * 0.1 + 1e5
    errors = errors_of(BatchNormalization, x, dy, -1, "graph")
    assert max(errors[key] for key in ("y", "dx", "dgamma", "dbeta", "variance")) < WITHIN, errors


def test_a_sample_of_outliers_does_no_harm():
    """Where all that is sampled is far and the rest near, or the other way round."""
    shape = (64, 16, 32, 32)
    for inside, outside in ((1e4, 0), (0, 1e4)):
        x, dy = data(shape, center=outside, spread=1)
        x[:8, :2] += inside - outside
        errors = errors_of(BatchNormalization, x, dy, -1, "graph")
        assert max(errors[key] for key in ("y", "dx", "dgamma", "variance")) < WITHIN, errors


# Kernels


def operations(function, *shapes):
    """The types of all operations of a traced function, also of those that it calls."""
    graph = (
        tf.function(function)
        .get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))
        .graph
    )
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return {node.op for node in nodes}


@pytest.mark.parametrize(
    ("shape", "axis", "fused"),
    [
        ((32, 32, 32, 64), -1, True),
        ((None, 32, 32, 64), -1, True),
        ((256, 1024), -1, True),
        ((32, 64, 64, 32, 8), -1, True),
        ((60, 100), -1, False),
        ((32, 64, 32, 32), 1, False),
    ],
)
def test_the_fused_kernel_is_used_where_it_is_fast(shape, axis, fused):
    layer = BatchNormalization(axis=axis)
    layer.build(shape)

    def train(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, x)

    found = operations(train, shape)
    assert ("FusedBatchNormV3" in found) == ("FusedBatchNormGradV3" in found) == fused
    assert ("FusedBatchNormV3" in operations(lambda x: layer(x), shape)) == fused


def test_xla_is_seen_when_tracing():
    seen = []

    def look(x):
        seen.append(_normalize.Layout(x, 1).xla)
        return x

    x = tf.ones((2, 3))
    inner = tf.function(look)
    for function in (
        look,
        tf.function(look),
        tf.function(look, jit_compile=True),
        tf.function(lambda x: inner(x) + 1, jit_compile=True),
    ):
        function(x)
    assert seen == [False, False, True, True]


def test_keras_compiles_with_xla():
    x, _ = data((64, 6), center=1e5, spread=0.1)
    model = keras.Sequential([keras.Input((6,)), BatchNormalization(momentum=0)])
    model.compile("sgd", "mse", jit_compile=True)
    model.fit(x, x * 0, batch_size=64, epochs=1, verbose=0)
    np.testing.assert_allclose(
        model.layers[0].get_weights()[3], x.astype("float64").var(0), rtol=WITHIN
    )


# In Keras


def small_model(cls, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            cls(**kwargs),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, use_bias=False),
            cls(**kwargs),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, use_bias=False),
            cls(**kwargs),
            layers.Dense(10),
        ]
    )


@cache
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).reshape(-1, 8, 8, 1).astype("float32")[:600], labels[:600]


def train(cls, epochs=2, **kwargs):
    model = small_model(cls)
    model.compile(
        keras.optimizers.SGD(0.005, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    x, y = digits()
    losses = model.fit(x, y, batch_size=96, epochs=epochs, shuffle=False, verbose=0)
    return model, losses.history["loss"]


@pytest.mark.parametrize("kwargs", [{}, dict(run_eagerly=True)], ids=str)
def test_a_model_trains_to_the_same_losses(kwargs):
    """Noise grows in training, by leaps where a ReLU flips: 3e-6 in Keras's weights make 1e-3."""
    (_, losses), (_, expected) = (train(cls, **kwargs) for cls in (BatchNormalization, Peer))
    np.testing.assert_allclose(losses[0], expected[0], rtol=2e-5)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    assert losses[1] < losses[0]


# Keras calls NumPy in a way that NumPy 2 deprecates.
stores_in_old_ways = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SETTINGS = dict(
    axis=1, momentum=0.9, epsilon=1e-4, center=False, beta_initializer="ones",
    gamma_initializer=keras.initializers.Constant(2.0), moving_mean_initializer="ones",
    moving_variance_initializer="zeros", gamma_regularizer=keras.regularizers.L2(0.1),
    gamma_constraint=keras.constraints.NonNeg(), synchronized=True, name="bn", dtype="float64",
    trainable=False,
)  # fmt: skip


def test_the_configuration_is_that_of_keras():
    mine, theirs = BatchNormalization(**SETTINGS), Peer(**SETTINGS)
    config, expected = mine.get_config(), theirs.get_config()
    # dtypes carry the identity of an object
    assert json.dumps(config).count("float64") == json.dumps(expected).count("float64")
    assert {**config, "dtype": 0} == {**expected, "dtype": 0}
    again = BatchNormalization.from_config(config)
    assert {**again.get_config(), "dtype": 0} == {**config, "dtype": 0}
    for layer in (mine, theirs):
        layer.build((2, 3, 4))
    assert [w.name for w in mine.weights] == [w.name for w in theirs.weights]
    assert BatchNormalization().get_config().keys() == Peer().get_config().keys()


def test_weights_have_the_names_and_the_order_of_keras():
    mine, theirs = (build(cls, (2, 3), -1, name="bn") for cls in (BatchNormalization, Peer))
    for a, b in zip(mine.weights, theirs.weights, strict=True):
        assert (a.name, a.shape, a.dtype, a.trainable) == (b.name, b.shape, b.dtype, b.trainable)
    mine.set_weights(theirs.get_weights())


def shake(model):
    """Give every weight a value of its own."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    return model


@stores_in_old_ways
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize(
    ("saved", "loading"), [(BatchNormalization, Peer), (Peer, BatchNormalization)]
)
@pytest.mark.parametrize(
    ("kwargs", "weights"), [({}, 4), pytest.param(dict(renorm=True), 7, marks=needs_renorm)]
)
def test_weights_are_exchanged(kwargs, weights, saved, loading, suffix, tmp_path):
    model, other = shake(small_model(saved, **kwargs)), small_model(loading, seed=1, **kwargs)
    assert [len(layer.weights) for layer in model.layers if type(layer) is saved] == [weights] * 3
    path = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    other.load_weights(path)
    assert_close(other.get_weights(), model.get_weights(), 0)
    x = digits()[0][:9]
    assert_close([other.predict(x, verbose=0)], [model.predict(x, verbose=0)])


@stores_in_old_ways
def test_a_saved_model_loads(tmp_path):
    model = shake(small_model(BatchNormalization, epsilon=0.01))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    mine = [layer for layer in again.layers if type(layer) is BatchNormalization]
    assert [layer.epsilon for layer in mine] == [0.01] * 3
    assert_close(again.get_weights(), model.get_weights(), 0)
    assert "bn_tutorial>BatchNormalization" in str(
        zipfile.ZipFile(tmp_path / "model.keras").read("config.json")
    )


@stores_in_old_ways
def test_a_saved_model_loads_without_this_package(tmp_path):
    model = shake(small_model(BatchNormalization, epsilon=0.01))
    model.save(tmp_path / "model.keras")
    x = digits()[0][:3]
    program = (
        "import keras, json, sys\n"
        "from sklearn.datasets import load_digits\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r}, custom_objects="
        "{'bn_tutorial>BatchNormalization': keras.layers.BatchNormalization})\n"
        "assert 'bn_tutorial' not in sys.modules\n"
        "assert type(model.layers[1]) is keras.layers.BatchNormalization\n"
        "assert model.layers[1].epsilon == 0.01\n"
        "x = load_digits().data[:3].reshape(3, 8, 8, 1) / 16\n"
        "print(json.dumps(model.predict(x, verbose=0).tolist()))\n"
    )
    assert_close([np.array(json.loads(alone(program)))], [model.predict(x, verbose=0)])


def test_a_model_is_exported(tmp_path):
    model = shake(small_model(BatchNormalization))
    model.export(tmp_path / "exported", verbose=0)
    served = tf.saved_model.load(tmp_path / "exported")
    x = digits()[0][:3]
    assert_close([served.serve(x).numpy()], [model.predict(x, verbose=0)])


def test_stateless_calls():
    layer, peer = (build(cls, (6, 5), -1) for cls in (BatchNormalization, Peer))
    before = layer.get_weights()
    found = []
    for some in (layer, peer):
        y, state = some.stateless_call(
            [w.value for w in some.trainable_variables],
            [w.value for w in some.non_trainable_variables],
            data((6, 5))[0],
            training=True,
        )
        found.append([y.numpy(), *(np.array(value) for value in state)])
    assert_close(*found)
    assert_close(layer.get_weights(), before, 0)


def test_symbolic_calls():
    y = BatchNormalization(dtype="mixed_float16")(keras.Input((5, 6)))
    assert (y.shape, y.dtype) == ((None, 5, 6), "float16")
    assert BatchNormalization().compute_output_shape((None, 3)) == (None, 3)


def alone(program):
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_backend_is_refused():
    program = (
        "import keras\n"
        "keras.backend.backend = lambda: 'jax'\n"
        "try:\n"
        "    import bn_tutorial.layers\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "TensorFlow backend of Keras, but Keras runs on jax" in alone(program)


# What newer versions of Keras add


@needs_renorm
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(renorm_clipping=dict(rmax=1.1, rmin=0.9, dmax=0.1), renorm_momentum=0.5),
        dict(scale=False, center=False, dtype="mixed_float16"),
        dict(synchronized=True, masked=True),
        dict(trainable=False),
        dict(renorm=False, renorm_momentum=0.5, renorm_clipping=dict(dmax=0.1)),
    ],
    ids=str,
)
def test_renorm_is_that_of_keras(kwargs, mode, take):
    take("huge")
    kwargs = dict(renorm=True) | kwargs
    shape = (4, 5, 6)
    mask = tf.constant(masked_case(shape)[2]) if kwargs.pop("masked", False) else None
    found, moved = [], []
    for cls in (BatchNormalization, Peer):
        layer = build(cls, shape, -1, **kwargs)
        before = layer.get_weights()
        runs = (runner(layer, mode, training, mask) for training in (True, False))
        found.append([*history(layer, shape, *runs), *layer.get_weights()])
        changes = zip(before, layer.get_weights(), strict=True)
        moved.append([bool(np.any(old != new)) for old, new in changes])
    assert_close(*found, tolerance=1e-6)
    averages = 5 if kwargs["renorm"] else 2
    assert moved == [[False] * (len(before) - averages) + [layer.trainable] * averages] * 2


@needs_renorm
def test_the_configuration_of_renorm_is_that_of_keras():
    kwargs = dict(renorm=True, renorm_clipping=dict(rmax=3), renorm_momentum=0.9, name="bn")
    config, expected = (cls(**kwargs).get_config() for cls in (BatchNormalization, Peer))
    assert config == expected
    assert kwargs.items() <= BatchNormalization.from_config(config).get_config().items()


@needs_renorm
@pytest.mark.parametrize("cls", [BatchNormalization, Peer])
def test_renorm_is_folded_by_its_averages(cls):
    """Two fold into the layers before them, one stays because of an activation."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            cls(renorm=True, momentum=0.5),
            layers.Conv2D(8, 3, activation="relu"),
            cls(renorm=True, momentum=0.5, name="kept"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
            cls(renorm=True, momentum=0.5, scale=False),
        ]
    )
    model.compile("sgd", "mse")
    x = digits()[0][:96]
    model.fit(x, np.ones((96, 10)), batch_size=16, verbose=0)
    folded = fold_batch_norm(model)
    assert list(folded.not_folded) == ["kept"]
    assert_close(folded.get_layer("kept").get_weights(), model.get_layer("kept").get_weights(), 0)
    expected = model.predict(x, verbose=0)
    assert np.abs(expected - model(x, training=True)).max() > 1e-2
    assert_close([folded.predict(x, verbose=0)], [expected])


@pytest.mark.parametrize("kept_as", ["factor", "_factor"])
def test_an_argument_that_a_later_keras_adds_is_left_to_keras(kept_as):
    """The layer of a Keras to come has an argument by which it multiplies its output."""
    program = f"""
import keras
import numpy as np

class Future(keras.layers.BatchNormalization):
    def __init__(self, momentum=0.99, factor=None, **kwargs):
        super().__init__(momentum=momentum, **kwargs)
        self.{kept_as} = factor

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * (self.{kept_as} or 1)

keras.layers.BatchNormalization = Future
from bn_tutorial.layers import BatchNormalization
x = np.array([[1.0], [3.0], [8.0]], "float32")
for kwargs in ({{}}, dict(factor=3), dict(momentum=0.5)):
    for training in (True, False):
        layers = BatchNormalization(**kwargs), Future(**kwargs)
        a, b = (layer(x, training=training).numpy() for layer in layers)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
# An empty batch tells whose code ran.
for kwargs in ({{}}, dict(factor=3)):
    layer = BatchNormalization(**kwargs)
    layer(x[:0], training=True)
    print("Keras" if np.isnan(layer.moving_mean).any() else "ours")
"""
    expected = ["ours", "Keras"] if kept_as == "factor" else ["Keras", "Keras"]
    assert alone(program).split() == expected


# Replicas


def test_one_replica_synchronizes_with_itself():
    shape = (6, 4, 5)
    x, dy = data(shape)
    found = []
    for cls in (Peer, BatchNormalization):
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            layer = build(cls, shape, -1, synchronized=True)

        def step(layer=layer):
            batch = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(batch)
                loss = tf.reduce_sum(layer(batch, training=True) * dy)
            dx, *gradients = tape.gradient(loss, [batch, *layer.trainable_variables])
            return loss, dx, *gradients

        run = tf.function(lambda step=step, strategy=strategy: strategy.run(step))
        results = [tf.convert_to_tensor(r).numpy() for r in run()]
        found.append([*results, *layer.get_weights()])
    assert_close(found[1], found[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_far_from_zero_and_without_a_strategy(mode, masked):
    shape = (8, 20, 6)
    x, dy = data(shape, center=1e5, spread=0.1)
    mask = np.arange(20) < 15
    layer = BatchNormalization(synchronized=True, momentum=0)
    layer.build(shape)
    y = runner(layer, mode, mask=tf.constant(mask[None]) if masked else None)(x, dy)[0]
    x, dy, y = (v[:, mask] if masked else v for v in (x, dy, y))
    np.testing.assert_allclose(y, exact(x, dy, -1).y, rtol=0, atol=WITHIN)


def test_two_replicas_synchronize():
    """Two logical processors find what one finds in the whole batch, however it is split."""
    program = """
import json
import numpy as np
import tensorflow as tf
import keras
from bn_tutorial.layers import BatchNormalization
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
results = []
for center, sizes, masked in ((3, (4, 4), 0), (1e5, (6, 2), 0), (3, (8, 0), 0), (3, (5, 3), 1)):
    x = (rng.normal(center, 1, (8, 7, 5))).astype("float32")
    dy = rng.normal(size=x.shape).astype("float32")
    mask = rng.random((8, 7)) < 0.7 if masked else np.ones((8, 7), bool)
    with strategy.scope():
        layer = BatchNormalization(synchronized=True, momentum=0)
        layer.build((None, 7, 5))

    def step(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask if masked else None)
        return (y, *tape.gradient(y, [x, *layer.trainable_variables], dy))

    pieces = [
        strategy.experimental_distribute_values_from_function(
            lambda context, v=v: tf.constant(
                v[: sizes[0]] if context.replica_id_in_sync_group == 0 else v[sizes[0] :]
            )
        )
        for v in (x, dy, mask)
    ]
    results_of = strategy.experimental_local_results
    found = [results_of(result) for result in tf.function(strategy.run)(step, pieces)]
    y, dx = (np.concatenate([v.numpy() for v in found[i]]) for i in (0, 1))
    dgamma, dbeta = (sum(v.numpy() for v in found[i]) for i in (2, 3))
    whole = BatchNormalization(momentum=0, dtype="float64")
    whole.build(x.shape)
    x64 = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x64)
        y64 = whole(x64, training=True, mask=mask if masked else None)
    expected = tape.gradient(
        y64, [x64, *(w.value for w in whole.trainable_variables)], tf.constant(dy, tf.float64)
    )
    errors = [np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(
        (y, dx, dgamma, dbeta, *layer.get_weights()[2:]),
        (y64, *expected, *whole.get_weights()[2:]),
    )]
    results.append([float(error) for error in errors])
print(json.dumps(results))
"""
    errors = json.loads(alone(program).splitlines()[-1])
    assert len(errors) == 4
    assert np.max(errors) < 1e-5, errors


# PyTorch


def test_pytorch_recorded():
    compare_with_pytorch(json.loads(record_pytorch.GOLDEN.read_text()))


def test_pytorch_live():
    """Where PyTorch is installed: the golden file is what it says, and the layer agrees with it."""
    pytest.importorskip("torch", reason="PyTorch is not installed: the recorded numbers stand in")
    live, golden = record_pytorch.record(), json.loads(record_pytorch.GOLDEN.read_text())
    compare_with_pytorch(live)
    assert live["seed"] == golden["seed"]
    assert live["cases"].keys() == golden["cases"].keys()
    for name, case in golden["cases"].items():
        assert case["inputs"] == live["cases"][name]["inputs"]
        for step, again in zip(case["steps"], live["cases"][name]["steps"], strict=True):
            assert_close(list(again.values()), list(step.values()))


def compare_with_pytorch(recorded):
    """The same numbers, once the conventions are made the same.

    PyTorch's momentum is the weight of the new value, and it stores the unbiased variance; both
    averages start from 1, so after k batches of n values each with old weight m it stands at
    m^k + s·n/(n − 1) where Keras's stands at m^k + s.
    """
    assert recorded["cases"].keys() == record_pytorch.CASES.keys()
    for case in recorded["cases"].values():
        shape, momentum = case["shape"], 1 - case["momentum"]
        layer = BatchNormalization(
            axis=1, momentum=momentum, epsilon=case["eps"],
            center=case["affine"], scale=case["affine"],
        )  # fmt: skip
        layer.build(shape)
        inputs = {key: np.array(value, "float32") for key, value in case["inputs"].items()}
        if case["affine"]:
            layer.gamma.assign(inputs["gamma"])
            layer.beta.assign(inputs["beta"])
        batches = [inputs[key].reshape(-1, *shape) for key in ("x", "dy")]
        n = math.prod(shape) / shape[1]
        for k, step in enumerate(case["steps"]):
            training = k < record_pytorch.STEPS
            if not training:  # PyTorch normalizes with the variance that it stores
                layer.moving_variance.assign(step["running_var"])
            which = min(k, record_pytorch.STEPS - 1)
            results = runner(layer, training=training)(batches[0][which], batches[1][which])
            expected = [
                np.array(step[key]) for key in ("y", "dx", "dgamma", "dbeta") if key in step
            ]
            assert_close([result.ravel() for result in results], expected)
            variance = np.array(step["running_var"])
            if training:
                start = momentum ** (k + 1)
                variance = start + (variance - start) * (n - 1) / n
            assert_close(layer.get_weights()[-2:], [np.array(step["running_mean"]), variance])
