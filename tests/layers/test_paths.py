"""Which path is taken, and what runs on it.

No test has a GPU: what one would choose is told from circumstances that pretend it.
"""

from collections import Counter
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import MODES, WITHIN, data

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.layers._dispatch import (
    LARGE,
    LIKELY_BATCH,
    SMALL,
    SMALL_IN_GRAPH,
    WIDE,
    Circumstances,
    Path,
    choose_path,
    circumstances_of,
    path_for,
)
from bn_tutorial.layers._layout import Layout

WIDE_AND_LARGE = Circumstances(elements=LARGE, channels=WIDE, channels_last=True)
BY_KERNEL = Path(in_float64=False, in_blocks=True, use_kernel=True, xla=False)
IN_BLOCKS = replace(BY_KERNEL, use_kernel=False)
IN_FLOAT64 = replace(IN_BLOCKS, in_float64=True, in_blocks=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(), BY_KERNEL),
        (dict(elements=LARGE - 1), IN_BLOCKS),
        (dict(channels=WIDE - 1), IN_BLOCKS),
        (dict(channels_last=False), IN_BLOCKS),
        (dict(eager=True), BY_KERNEL),
        (dict(elements=SMALL, eager=True), IN_BLOCKS),
        (dict(elements=SMALL - 1, eager=True), IN_FLOAT64),
        (dict(elements=SMALL_IN_GRAPH), IN_BLOCKS),
        (dict(elements=SMALL_IN_GRAPH - 1), IN_FLOAT64),
        (dict(elements=SMALL_IN_GRAPH - 1, channels_last=False), IN_FLOAT64),
        (dict(float64=True), replace(IN_BLOCKS, in_float64=True)),
        (dict(xla=True), replace(IN_BLOCKS, xla=True)),
        (dict(elements=SMALL_IN_GRAPH - 1, xla=True), replace(IN_FLOAT64, xla=True)),
    ],
    ids=str,
)
def test_which_path_is_taken_when(given, expected):
    assert choose_path(replace(WIDE_AND_LARGE, **given)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(), replace(IN_BLOCKS, in_blocks=False)),
        (dict(xla=True), replace(IN_BLOCKS, in_blocks=False, xla=True)),
        (dict(elements=SMALL_IN_GRAPH - 1), IN_FLOAT64),
        (dict(float64=True), IN_FLOAT64),
    ],
    ids=str,
)
def test_which_path_a_pretended_gpu_would_take(given, expected):
    assert choose_path(replace(WIDE_AND_LARGE, gpu=True, **given)) == expected


@pytest.mark.parametrize(
    ("shape", "axis", "dtype", "expected"),
    [
        ((8, 4, 6), -1, "float32", Circumstances(8 * 4 * 6, 6, True)),
        ((8, 4, 6), 1, "float32", Circumstances(8 * 4 * 6, 4, False)),
        ((8, 6), 1, "float64", Circumstances(8 * 6, 6, True, float64=True)),
        ((None, 5, 6), -1, "float32", Circumstances(SMALL, 6, True)),  # which may be many
        ((None, 5000, 6), -1, "float32", Circumstances(LIKELY_BATCH * 5000 * 6, 6, True)),
    ],
    ids=str,
)
def test_the_circumstances_of_a_tensor(shape, axis, dtype, expected):
    found = []

    def look(x):
        found.append(circumstances_of(x, Layout(x, axis % len(shape))))
        return x

    tf.function(look).get_concrete_function(tf.TensorSpec(shape, dtype))
    assert found == [expected]
    if None not in shape:
        eager = tf.zeros(shape, dtype)
        layout = Layout(eager, axis % len(shape))
        assert circumstances_of(eager, layout) == replace(expected, eager=True)


def operations(function, *shapes):
    """How often each type of operation, with its attribute ``is_training``, is traced."""
    specs = (tf.TensorSpec(shape) for shape in shapes)
    definition = tf.function(function).get_concrete_function(*specs).graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return Counter((n.op, n.attr["is_training"].b) for n in nodes if "FusedBatchNorm" in n.op)


FORWARD, BACKWARD = ("FusedBatchNormV3", False), ("FusedBatchNormGradV3", False)


@pytest.mark.parametrize(
    ("shape", "axis", "fused"),
    [
        ((8, 32, 32, 16), -1, True),
        ((None, 32, 32, 16), -1, True),
        ((128, 1024), -1, True),
        ((4, 8, 8, 64, 8), -1, True),
        ((60, 100), -1, False),
        ((2**17, 1), -1, False),
        ((8, 16, 32, 32), 1, False),
    ],
)
def test_the_fused_kernel_is_used_where_it_is_fast_and_only_to_infer(shape, axis, fused):
    """Its own moments, and its gradient through them, have other errors than those promised."""
    layer = BatchNormalization(axis=axis)
    layer.build(shape)

    def gradient(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return tape.gradient(y, x)

    assert operations(lambda x: layer(x), shape) == ({FORWARD: 1} if fused else {})
    for training in (True, False):
        found = operations(lambda x, training=training: gradient(x, training), shape)
        # In training a second time, for what the moments pass on.
        expected = {FORWARD: 1 + training, BACKWARD: 1} if fused else {}
        assert found == expected


def test_the_fused_kernel_is_not_used_under_xla():
    layer = BatchNormalization()
    layer.build((128, 1024))
    inner = tf.function(layer, jit_compile=True)
    assert operations(lambda x: inner(x, training=True), (128, 1024)) == {}


def test_xla_is_seen_when_tracing():
    seen = []

    def look(x):
        seen.append(path_for(x, Layout(x, 1)).xla)
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


def test_keras_compiles_with_xla(monkeypatch):
    seen = []
    find = BatchNormalization._sum_over_replicas  # called wherever a step of training is traced

    def look(self):
        x = tf.ones((64, 6))
        seen.append(path_for(x, Layout(x, 1)).xla)
        return find(self)

    monkeypatch.setattr(BatchNormalization, "_sum_over_replicas", look)
    x, _ = data((64, 6), center=1e5, deviation=0.1)
    model = keras.Sequential([keras.Input((6,)), BatchNormalization(momentum=0)])
    model.compile("sgd", "mse", jit_compile=True)
    model.fit(x, x * 0, batch_size=64, epochs=1, verbose=0)
    assert seen
    assert all(seen)
    np.testing.assert_allclose(
        model.layers[0].get_weights()[3], x.astype("float64").var(0), rtol=WITHIN
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_relu_behind_the_kernel_changes_nothing(mode):
    """TensorFlow takes it into the kernel, with images."""
    x, _ = data((8, 32, 32, 16))
    layer = BatchNormalization()
    layer.build(x.shape)
    layer.moving_mean.assign(np.full(16, 0.5))

    def run(x):
        return tf.nn.relu(layer(x))

    function = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    expected = np.maximum((x.astype("float64") - 0.5) / np.sqrt(1.001), 0)
    # Values of up to 9 are rounded twice, and by some processors otherwise than by others.
    np.testing.assert_allclose(function(x), expected, rtol=2**-22, atol=1e-6)
