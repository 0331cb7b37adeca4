"""What the tests of the layer share: its peer, shapes, paths, and how to run and compare.

Tolerances. Outputs, averages and gradients, relative to the largest, are within 1e-6 of exact ones
(`test_accuracy`). Keras's are sums of float32, which in another order differ by a few units in the
last place, and its gradient is a sum of terms that may be larger than it is: at the sizes used here
the two agree within 1e-5. float64 leaves 1e-12. A half-precision result is a float32 one, rounded:
where rounding falls on the other side, they differ by one unit in the last place, 2⁻¹⁰ in float16
and 2⁻⁷ in bfloat16.
"""

import inspect
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from bn_tutorial.layers._dispatch import LARGE, SMALL, WIDE
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
    "float64": dict(elements=1),
    "blocks": dict(elements=SMALL),
    "kernel": dict(elements=LARGE, channels=WIDE),
    "gpu": dict(elements=LARGE, gpu=True),
}
MODES = ["eager", "graph", "jit"]


def compiled(function, mode):
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "jit")


def build(cls, shape, axis, seed=0, **kwargs):
    """A layer with random weights, the same for each class."""
    layer = cls(axis=axis, **kwargs)
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.weights])
    return layer


def data(shape, seed=0, center=1.0, deviation=2.0):
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(center, deviation, shape), rng.normal(0, 1, shape)
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


FAR = [(1e4, 0.1), (-1e5, 0.1)]
WITHIN = 1e-3  # what the docstring promises


def exact(x, dy, axis):
    """Output, gradients for x, gamma (1) and beta, and moments, all in float64."""
    return SimpleNamespace(**record_pytorch.exact(x, dy, axis))


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


def masked_case(shape, seed=0, share=0.6):
    x, dy = data(shape, seed)
    return x, dy, np.random.default_rng(seed + 100).random(shape[:-1]) < share


@cache
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).reshape(-1, 8, 8, 1).astype("float32")[:600], labels[:600]


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


# How a program begins that `alone` runs: with two logical processors, and batches split at a row.
TWO_REPLICAS = """
import json
import numpy as np
import tensorflow as tf
from bn_tutorial.layers import BatchNormalization
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def split(value, row):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            value[:row] if context.replica_id_in_sync_group == 0 else value[row:]
        )
    )

"""
