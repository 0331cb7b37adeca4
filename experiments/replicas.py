"""How many examples must a replica have before its own statistics do?

Four replicas (logical processors under `tf.distribute.MirroredStrategy`) train a network on the
digits, each on ``size`` examples a step, with their statistics shared or each with its own. Then
the network is tested as its file would have it, with the averages of the first replica, and once
more after these were set to those of the training data under the trained weights.

"dense" has three hidden layers of 32 units: ``size`` values per channel and replica. "conv" has
three convolutions of 16 channels: 64, 16 and 4 times as many.
"""

from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.book.data import digits
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import recalibrate

REPLICAS = 4
EPOCHS = 4
EXAMPLES = 1280
SEEDS = range(8)
CASES = [
    {"net": net, "size": size, "synchronized": synchronized}
    for net in ("dense", "conv")
    for size in (2, 4, 8, 16, 32)
    for synchronized in (False, True)
]
QUICK = [case for case in CASES if case["net"] == "dense" and case["size"] == 4]


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return the test accuracies."""
    model, train = _trainer(**case)
    keras.utils.set_random_seed(seed)
    model.set_weights(_net(case["net"], False).get_weights())
    data = digits()
    x, y = data.x_train[:EXAMPLES].astype("float32"), data.y_train[:EXAMPLES]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(EXAMPLES, seed=seed)
    train(batches.batch(REPLICAS * case["size"], drop_remainder=True))
    found = {"accuracy": _accuracy(model)}
    recalibrate(model, x, batch_size=EXAMPLES)
    return found | {"recalibrated": _accuracy(model)}


@cache
def _strategy() -> tf.distribute.Strategy:
    """Return a strategy over logical processors, which must be made before anything runs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def _net(name: str, synchronized: bool) -> keras.Model:
    layers = [keras.Input((64,))]
    if name == "conv":
        layers.append(keras.layers.Reshape((8, 8, 1)))
    for strides in (1, 2, 2):
        layers += [
            keras.layers.Conv2D(16, 3, strides, padding="same", use_bias=False)
            if name == "conv"
            else keras.layers.Dense(32, use_bias=False),
            BatchNormalization(momentum=0.9, synchronized=synchronized),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


@cache
def _trainer(net: str, size: int, synchronized: bool) -> tuple[keras.Model, Any]:
    """Return a distributed network, and what trains it on batches."""
    strategy, batch_size = _strategy(), REPLICAS * size
    with strategy.scope():
        model = _net(net, synchronized)
        optimizer = keras.optimizers.SGD(0.1 * (batch_size / 32) ** 0.5)
        optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, model(x, training=True)) / batch_size
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    def epoch(batches: Any) -> None:
        for x, y in batches:
            strategy.run(step, (x, y))

    traced = tf.function(epoch)

    def train(batches: tf.data.Dataset) -> None:
        distributed = strategy.experimental_distribute_dataset(batches)
        for _ in range(EPOCHS):
            traced(distributed)

    return model, train


def _accuracy(model: keras.Model) -> float:
    data = digits()
    logits = model(data.x_test.astype("float32"), training=False)
    return float(np.mean(np.argmax(logits, axis=-1) == data.y_test))
