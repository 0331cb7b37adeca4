"""Which path is taken, and what runs on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import WITHIN, data

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.layers._dispatch import HUGE, LARGE, Circumstances, choose_path, path_for
from bn_tutorial.layers._layout import Layout


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
        seen.append(path_for(x, Layout(x, 1), True, False, False).xla)
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
    x, _ = data((64, 6), center=1e5, deviation=0.1)
    model = keras.Sequential([keras.Input((6,)), BatchNormalization(momentum=0)])
    model.compile("sgd", "mse", jit_compile=True)
    model.fit(x, x * 0, batch_size=64, epochs=1, verbose=0)
    np.testing.assert_allclose(
        model.layers[0].get_weights()[3], x.astype("float64").var(0), rtol=WITHIN
    )


SMALL, OTHERWISE = LARGE - 1, dict(channels_last=True, training=True)


@pytest.mark.parametrize(
    ("given", "fused"),
    [
        (dict(elements=SMALL), False),
        (dict(elements=LARGE), True),
        (dict(elements=LARGE, channels_last=False), False),
        (dict(elements=LARGE, channels_last=False, gpu=True), True),
        (dict(elements=SMALL, gpu=True), True),
        (dict(elements=SMALL, eager=True), True),
        (dict(elements=SMALL, eager=True, training=False), False),
        (dict(elements=SMALL, eager=True, channels_last=False), True),
        (dict(elements=LARGE, eager=True, channels_last=False), False),
        *((dict(elements=HUGE, gpu=True, **{no: True}), False) for no in ("float64", "xla")),
        *((dict(elements=HUGE, **{no: True}), False) for no in ("masked", "synchronized")),
        *(
            (dict(elements=HUGE, training=False, **{yes: True}), True)
            for yes in ("masked", "synchronized")
        ),
    ],
    ids=str,
)
def test_when_the_fused_kernel_is_taken(given, fused):
    assert choose_path(Circumstances(**OTHERWISE | given)).use_fused == fused


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("xla", [True, False])
def test_what_size_decides(xla, masked, training):
    small, large, huge = (
        choose_path(Circumstances(size, True, training, xla=xla, masked=masked))
        for size in (SMALL, LARGE, HUGE)
    )
    assert [path.look_first for path in (small, large, huge)] == [False, not xla, not xla]
    assert not small.multiply_by_mask
    assert not large.center_if_far
    assert huge.center_if_far == (not xla and not (training and masked))
    assert huge.multiply_by_ones == xla
    assert huge.multiply_by_mask == large.multiply_by_mask == (not xla)
