"""How deep, and at how large a rate, do stacks of layers train with batch normalization?

Stacks of 3, 10 and 30 hidden layers of 64 units, sigmoids or ReLUs, on 20,000 images of
Fashion-MNIST in 14 by 14 pixels, shifted and scaled as a whole: 600 steps of plain gradient
descent (200 on digits), in batches of 64, at rates from 0.01 to 30, each about three times the one
before. A rate **works** if in every seed the mean training loss of the last 100 steps is below half
of what guessing has, which is ln 10. A loss above 10, or none that is finite, counts as 10.

Weights start as normal numbers of variance 1/n in a layer of n inputs (Glorot and Bengio's where
it has as many outputs), before ReLUs of 2/n (He's). Two controls without batch normalization:
"large sigmoid" starts with a variance of 16/n, for a sigmoid's slope is at most a quarter, and
"centered sigmoid" also with biases that take off what inputs of one half add up to, the mean value
of a sigmoid. Such a layer is one of tanh with variance 1/n and no bias.

Where it should fail: three layers of ReLUs need no help, and with 100 layers the gradients of batch
normalization itself explode at initialization.
"""

from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.layers import BatchNormalization
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, accuracy, deal

SEEDS = range(5)
RATES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
PLAIN = ["relu", "sigmoid", "centered sigmoid"]
NORMALIZED = ["normalized relu", "normalized sigmoid"]
QUICK = [
    {"data": "digits", "net": net, "depth": 3, "rate": 0.1}
    for net in ("centered sigmoid", "normalized sigmoid")
]
CASES: list[dict[str, Any]] = QUICK + [
    {"data": "fashion", "net": net, "depth": depth, "rate": rate}
    for nets, depths, rates in [
        (PLAIN, (3, 10, 30), RATES[:-1]),
        (NORMALIZED, (3, 10, 30), RATES[1:]),
        (["large sigmoid"], (10,), RATES[:-1]),
        (["relu"], (100,), [0.001, 0.003, 0.01, 0.03]),
        (["normalized relu"], (100,), [0.01, 0.1, 1.0]),
    ]
    for net in nets
    for depth in depths
    for rate in rates
]
STEPS = {"digits": 200, "fashion": 600}
GOAL = float(np.log(10) / 2)


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return the loss of the last 100 steps and the accuracy on the test images."""
    x_train, x_test, y_train, y_test = data(case["data"])
    model, fresh, train = trainer(x_train.shape[1:], case["net"], case["depth"])
    model.set_weights(fresh)
    begin(model, case["net"], seed)
    order = deal(len(x_train), 64, STEPS[case["data"]], seed)
    losses = train(x_train, y_train, tf.constant(order), tf.constant(case["rate"]))
    loss = np.nan_to_num(np.mean(losses[-100:]), nan=10.0)
    return {"loss": float(min(loss, 10.0)), "accuracy": accuracy(model, x_test, y_test)}


@cache
def data(name: str) -> tuple[Any, ...]:
    """Return images, of mean 0 and variance 1 over all pixels to train on, and labels."""
    x_train, x_test, y_train, y_test = images(name, 20_000)
    mean, deviation = x_train.mean(), x_train.std()
    scaled = (tf.constant((x - mean) / deviation) for x in (x_train, x_test))
    return (*scaled, tf.constant(y_train, tf.int64), y_test)


@cache
def trainer(shape: tuple[int, ...], net: str, depth: int) -> tuple[Any, ...]:
    """Return a network, its weights, and what trains it, traced once."""
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    for _ in range(depth):
        model.add(keras.layers.Dense(64))
        if net in NORMALIZED:
            model.add(BatchNormalization(momentum=0.9))
        model.add(keras.layers.Activation(net.split()[-1]))
    model.add(keras.layers.Dense(10))
    weights = model.trainable_variables

    def train(x: Any, y: Any, order: Any, rate: Any) -> Any:
        losses = tf.TensorArray(tf.float32, len(order))
        for step in tf.range(len(order)):
            with tf.GradientTape() as tape:
                logits = model(tf.gather(x, order[step]), training=True)
                loss = CROSS_ENTROPY(tf.gather(y, order[step]), logits)
            for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign_sub(rate * gradient)
            losses = losses.write(step, loss)
        return losses.stack()

    return model, model.get_weights(), tf.function(train)


def begin(model: keras.Model, net: str, seed: int) -> None:
    """Give the dense layers the weights with which they start."""
    rng = np.random.default_rng(seed)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer in dense:
        kernel = rng.normal(size=layer.kernel.shape) / np.sqrt(layer.kernel.shape[0])
        if "relu" in net and layer is not dense[-1]:
            kernel *= np.sqrt(2)
        if net in ("large sigmoid", "centered sigmoid"):
            # A sigmoid of z is (1 + tanh(z / 2)) / 2. Twice, for tanh is halved, and twice, for z
            # is; no sigmoid comes before the pixels, and none behind the logits.
            kernel *= 2 if layer in (dense[0], dense[-1]) else 4
        if net == "centered sigmoid" and layer is not dense[0]:
            layer.bias.assign(-kernel.sum(axis=0) / 2)
        layer.kernel.assign(kernel)


def largest(record: Record, net: str, depth: int) -> float:
    """Return the largest rate that works, or 0."""
    case = {"data": "fashion", "net": net, "depth": depth}
    rates = [other["rate"] for other in CASES if case.items() <= other.items()]
    works = [rate for rate in rates if (record.values("loss", rate=rate, **case) < GOAL).all()]
    return max(works, default=0.0)


def lowest(record: Record, net: str, depth: int) -> float:
    """Return the lowest loss of all rates and seeds."""
    return float(record.values("loss", data="fashion", net=net, depth=depth).min())


def sigmoids_train(record: Record) -> tuple[bool, str]:
    """Test that some rate works with batch normalization, and none in any seed without."""
    rates = [largest(record, "normalized sigmoid", depth) for depth in (10, 30)]
    losses = [lowest(record, "sigmoid", depth) for depth in (10, 30)]
    words = "10 and 30 layers: up to rate {:g} and {:g} with, lowest loss {:.2f} and {:.2f} without"
    return min(rates) > 0 and min(losses) > GOAL, words.format(*rates, *losses)


def unsuited(record: Record) -> tuple[bool, str]:
    """Test that no rate works for ten layers of sigmoids, from three starts."""
    rates = {net: largest(record, net, 10) for net in [*PLAIN[1:], "large sigmoid"]}
    found = ", ".join(f"{net}: {rate:g}" for net, rate in rates.items())
    return not any(rates.values()), f"largest rates that work, where 0 is none: {found}"


def larger_rates(normalized: str, *plain: str) -> Any:
    """Return the test that five times the rate works, whichever of the others is the best."""

    def test(record: Record) -> tuple[bool, str]:
        rates = [
            (largest(record, normalized, depth), max(largest(record, net, depth) for net in plain))
            for depth in (3, 10, 30)
        ]
        found = ", ".join(f"{ours:g} with and {others:g} without" for ours, others in rates)
        # Where none works without it, the smallest rate that was tried stands for it.
        return all(o >= 5 * max(p, RATES[0]) for o, p in rates), f"3, 10, 30 layers: {found}"

    return test


def hundred_fail(record: Record) -> tuple[bool, str]:
    """Test that no rate works in any seed for 100 layers with batch normalization."""
    losses = [lowest(record, net, 100) for net in ("normalized relu", "relu")]
    return losses[0] > GOAL, "lowest loss {:.2f} with, {:.2f} without".format(*losses)


FIVE = "With 3, 10 and 30 layers: the largest rate that works is at least 5 times that without it, "
CLAIMS = [
    Claim(
        "Batch normalization makes deep networks of sigmoids train, which do not without it.",
        "ioffe2015batch",
        "With 10 and with 30 layers some rate works, and without it none does in any seed.",
        sigmoids_train,
    ),
    Claim(
        "Sigmoids are unsuited to deep networks that start from random weights.",
        "glorot2010understanding",
        "Without batch normalization no rate works for 10 layers, from any of three starts.",
        unsuited,
    ),
    Claim(
        "It allows much larger learning rates in networks of ReLUs.",
        "bjorck2018understanding",
        FIVE + "from He's weights.",
        larger_rates("normalized relu", "relu"),
    ),
    Claim(
        "It allows much larger learning rates in networks of sigmoids.",
        "ioffe2015batch",
        FIVE + "whichever of the two starts is the better one.",
        larger_rates("normalized sigmoid", "sigmoid", "centered sigmoid"),
    ),
    Claim(
        "Very deep stacks with batch normalization do not train.",
        "yang2019mean",
        "With 100 layers of ReLUs no rate of three works in any seed.",
        hundred_fail,
    ),
]
