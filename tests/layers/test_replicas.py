"""With ``synchronized=True`` the moments are those of all replicas' values."""

import json

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    MODES,
    TWO_REPLICAS,
    WITHIN,
    Peer,
    alone,
    assert_close,
    build,
    data,
    exact,
    runner,
)

from bn_tutorial.layers import BatchNormalization


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
    x, dy = data(shape, center=1e5, deviation=0.1)
    mask = np.arange(20) < 15
    layer = BatchNormalization(synchronized=True, momentum=0)
    layer.build(shape)
    y = runner(layer, mode, mask=tf.constant(mask[None]) if masked else None)(x, dy)[0]
    x, dy, y = (v[:, mask] if masked else v for v in (x, dy, y))
    np.testing.assert_allclose(y, exact(x, dy, -1).y, rtol=0, atol=WITHIN)


def test_two_replicas_synchronize():
    """Two logical processors find what one finds in the whole batch, however it is split."""
    program = """
rng = np.random.default_rng(0)
results = []
for center, sizes, masked, axis in (
    (3, (4, 4), 0, 2),
    (1e5, (6, 2), 0, 2),
    (3, (8, 0), 0, 2),
    (3, (5, 3), 1, 2),
    (3, (5, 3), 1, 1),
):
    x = (rng.normal(center, 1, (8, 7, 5))).astype("float32")
    dy = rng.normal(size=x.shape).astype("float32")
    mask = rng.random((8, 7)) < 0.7 if masked else np.ones((8, 7), bool)
    with strategy.scope():
        layer = BatchNormalization(axis, synchronized=True, momentum=0)
        layer.build((None, 7, 5))

    def step(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask if masked else None)
        return (y, *tape.gradient(y, [x, *layer.trainable_variables], dy))

    pieces = [split(value, sizes[0]) for value in (x, dy, mask)]
    results_of = strategy.experimental_local_results
    found = [results_of(result) for result in tf.function(strategy.run)(step, pieces)]
    y, dx = (np.concatenate([v.numpy() for v in found[i]]) for i in (0, 1))
    dgamma, dbeta = (sum(v.numpy() for v in found[i]) for i in (2, 3))
    whole = BatchNormalization(axis, momentum=0, dtype="float64")
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
    errors = json.loads(alone(TWO_REPLICAS + program).splitlines()[-1])
    assert len(errors) == 5
    assert np.max(errors) < 1e-5, errors
