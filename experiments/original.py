"""The first experiment of the paper: three hidden layers of 100 sigmoids, on small images.

Batches of 60, as there. The paper trains on MNIST for 50,000 steps; here it is Fashion-MNIST in
14 by 14 pixels for 10,000 steps (digits for 300), plain gradient descent, each network at rates
of its own. Weights start as normal numbers of deviation 1/√n in a layer of n inputs, "large"
ones at 4/√n, since the slope of a sigmoid is at most a quarter; those of ReLUs at √2/√n.

The accuracy on the test images is measured every 100 steps. ``early`` and ``late`` are the steps
until it is 0.80 and 0.85 for the first time, twice all steps where that never happens. ``end`` is
its mean over the last 1000 steps, which jumps less than the last one. (The rate never falls.)

ReLUs are where less is to be expected: they do not saturate, and their start is a good one.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.layers import BatchNormalization
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, deal

SEEDS = range(5)
#: Activation, the deviation of the weights times √n, whether it is normalized, and the rates.
NETS: dict[str, tuple[str, float, bool, list[float]]] = {
    "plain": ("sigmoid", 1.0, False, [1.0, 3.0, 10.0]),
    "large": ("sigmoid", 4.0, False, [0.3, 1.0, 3.0, 10.0]),
    "normalized": ("sigmoid", 1.0, True, [0.1, 0.3, 1.0, 3.0, 10.0]),
    "relu": ("relu", 2**0.5, False, [0.03, 0.1, 0.3, 1.0]),
    "relu normalized": ("relu", 2**0.5, True, [0.03, 0.1, 0.3, 1.0, 3.0]),
}
QUICK = [{"data": "digits", "net": net, "rate": 1.0} for net in ("large", "normalized")]
CASES = QUICK + [
    {"data": "fashion", "net": net, "rate": rate}
    for net, (*_, rates) in NETS.items()
    for rate in rates
]
STEPS = {"digits": 300, "fashion": 10_000}
EVERY = 100


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return the steps to two accuracies, and the accuracy at the end."""
    x_train, x_test, y_train, y_test = data(case["data"])
    model, fresh, train, answers = trainer(x_train.shape[1:], case["net"])
    model.set_weights(fresh)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            deviation = NETS[case["net"]][1] / np.sqrt(layer.kernel.shape[0])
            layer.kernel.assign(rng.normal(0, deviation, layer.kernel.shape))
    steps = STEPS[case["data"]]
    accuracies = []
    for rows in np.split(deal(len(x_train), 60, steps, seed), steps // EVERY):
        train(x_train, y_train, tf.constant(rows), tf.constant(case["rate"]))
        accuracies.append(np.mean(answers(x_test) == y_test))

    def first(goal: float) -> float:
        reached = np.array(accuracies) >= goal
        return float(EVERY * (np.argmax(reached) + 1) if reached.any() else 2 * steps)

    return {"early": first(0.80), "late": first(0.85), "end": float(np.mean(accuracies[-10:]))}


@cache
def data(name: str) -> tuple[Any, ...]:
    """Return images and labels as tensors."""
    x_train, x_test, y_train, y_test = images(name)
    return tf.constant(x_train), tf.constant(x_test), tf.constant(y_train, tf.int64), y_test


@cache
def trainer(shape: tuple[int, ...], net: str) -> tuple[Any, ...]:
    """Return a network, its weights, what trains it and what it answers, traced once."""
    activation, _, normalized, _ = NETS[net]
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    for _ in range(3):
        model.add(keras.layers.Dense(100))
        if normalized:
            model.add(BatchNormalization(momentum=0.9))
        model.add(keras.layers.Activation(activation))
    model.add(keras.layers.Dense(10))
    weights = model.trainable_variables

    def train(x: Any, y: Any, order: Any, rate: Any) -> None:
        for step in tf.range(len(order)):
            with tf.GradientTape() as tape:
                logits = model(tf.gather(x, order[step]), training=True)
                loss = CROSS_ENTROPY(tf.gather(y, order[step]), logits)
            for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign_sub(rate * gradient)

    def answers(x: Any) -> Any:
        return tf.argmax(model(x, training=False), axis=-1)

    return model, model.get_weights(), tf.function(train), tf.function(answers)


def best(record: Record, net: str, name: str) -> tuple[Any, float]:
    """Return the values of all seeds at the rate whose mean is best, and that rate."""
    of_rate = {r: record.values(name, data="fashion", net=net, rate=r) for r in NETS[net][-1]}
    sign = -1 if name == "end" else 1
    rate = min(of_rate, key=lambda r: sign * of_rate[r].mean())
    return of_rate[rate], rate


def same_rate(record: Record) -> tuple[bool, str]:
    """Test that 0.80 takes fewer steps in every seed, at each of two rates."""
    holds, words = True, []
    for rate in (1.0, 3.0):
        plain, normalized = (
            record.values("early", data="fashion", net=net, rate=rate)
            for net in ("plain", "normalized")
        )
        holds &= bool((normalized < plain).all())
        words.append(f"rate {rate:g}: {normalized.mean():.0f} with, {plain.mean():.0f} without")
    return holds, "; ".join(words)


def against(net: str, name: str, normalized: str = "normalized") -> Callable[..., tuple[bool, str]]:
    """Return the test for half as many steps, or for a higher end, each net at its best rate."""

    def test(record: Record) -> tuple[bool, str]:
        (plain, slow), (ours, fast) = (best(record, one, name) for one in (net, normalized))
        unit = ".4f" if name == "end" else ".0f"
        found = (
            f"{ours.mean():{unit}} with (rate {fast:g}), {plain.mean():{unit}} without ({slow:g})"
        )
        holds = (ours > plain).all() if name == "end" else ours.mean() <= plain.mean() / 2
        return bool(holds), found

    return test


HALF = "Each at its best rate: in the mean at most half as many steps until the test accuracy is "
HIGHER = "Each at its best rate: a higher mean test accuracy in the last 1000 steps, in every seed."
CLAIMS = [
    Claim(text, "ioffe2015batch", criterion, test)
    for text, criterion, test in [
        (
            "With batch normalization a network of sigmoids learns faster at the same rate.",
            "At rates 1 and 3: in every seed fewer steps until the test accuracy is 0.80.",
            same_rate,
        ),
        (
            "It needs a fraction of the steps, also if each side has its own rate.",
            HALF + "0.80.",
            against("plain", "early"),
        ),
        ("That lead lasts.", HALF + "0.85.", against("plain", "late")),
        ("It ends with a higher accuracy.", HIGHER, against("plain", "end")),
        (
            "It needs a fraction of the steps of a network with weights that suit sigmoids.",
            HALF + "0.80, without it from weights four times as large.",
            against("large", "early"),
        ),
        (
            "It ends with a higher accuracy than one with weights that suit sigmoids.",
            HIGHER + " Without it from weights four times as large.",
            against("large", "end"),
        ),
        (
            "A network of ReLUs needs a fraction of the steps as well.",
            HALF + "0.85.",
            against("relu", "late", "relu normalized"),
        ),
    ]
]
