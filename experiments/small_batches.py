"""Does batch normalization fail in small batches, and does group normalization not care?

"conv" has three convolutions of 16, 32 and 32 filters with stride 2, on Fashion-MNIST in 14 by 14
pixels, so that pairs of images give 98, 32 and 8 values per channel. "dense" has three hidden
layers of 64 units, where a pair gives 2. 20,480 images are seen in batches of 2, 8 or 32, in 10,240
to 640 steps of gradient descent with momentum 0.9, the rate falling to zero along a cosine. Layer
normalization is group normalization with one group: all positions and channels of an image.

The rate is 0.0016 for each example of a batch, times ``factor``. So one grid holds three rules: the
same rate for all sizes, a rate proportional to the size, and the best rate of each size.

"recalibrated" is the accuracy after the moving averages were set to the statistics of 2000 images
under the trained weights: what is missing then is not due to the averages. The control for what
comes of fewer steps sees four times as many images in batches of 32.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import recalibrate
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import accuracy, deal

SEEDS = range(5)
SIZES, SEEN = [2, 8, 32], 20_480
FACTORS = [1 / 16, 1 / 4, 1, 4]
NORMS: dict[str, Callable[[], keras.layers.Layer]] = {
    "none": keras.layers.Identity,
    "batch": lambda: BatchNormalization(momentum=0.9),
    "group": lambda: keras.layers.GroupNormalization(4),
    "layer": lambda: keras.layers.GroupNormalization(1),
}


def arm(net: str, norm: str, size: int, seen: int = SEEN, data: str = "fashion") -> dict[str, Any]:
    """Return all of a case but its factor."""
    return {"data": data, "net": net, "norm": norm, "size": size, "seen": seen}


ARMS = [arm(net, norm, size) for net in ("conv", "dense") for norm in NORMS for size in SIZES]
QUICK = [arm("dense", norm, 8, 4096, "digits") | {"factor": 1.0} for norm in ("batch", "group")]
CASES = QUICK + [
    part | {"factor": factor}
    for part in [*ARMS, arm("conv", "group", 32, 4 * SEEN)]
    for factor in FACTORS
    # What costs the most and is known to lose is left out.
    if part["net"] == "dense" or part["size"] == 32 or factor > FACTORS[0]
]

_images = cache(images)


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return the accuracy, and the one with recalibrated averages."""
    x_train, x_test, _, y_test = _images(case["data"])
    model, train = _trainer(*(case[name] for name in ("data", "net", "norm", "size")))
    keras.utils.set_random_seed(seed)  # after the network that is made only once
    order = deal(len(x_train), case["size"], case["seen"] // case["size"], seed)
    train(order, 0.0016 * case["size"] * case["factor"])
    found = {"accuracy": accuracy(model, x_test, y_test)}
    if case["norm"] == "batch":
        recalibrate(model, x_train[:2000], batch_size=2000)
        found["recalibrated"] = accuracy(model, x_test, y_test)
    return found


def network(shape: tuple[int, ...], net: str, norm: str) -> keras.Model:
    """Return three hidden layers, each with a normalization and ReLU, and a dense layer."""
    layers = [keras.Input(shape)] + [keras.layers.Flatten()] * (net == "dense")
    for filters in (16, 32, 32):
        layers.append(
            keras.layers.Dense(64, use_bias=norm == "none")
            if net == "dense"
            else keras.layers.Conv2D(filters, 3, 2, padding="same", use_bias=norm == "none")
        )
        layers += [NORMS[norm](), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


@cache
def _trainer(data: str, net: str, norm: str, size: int) -> tuple[keras.Model, Callable[..., None]]:
    """Return a network, and what trains it from new weights: traced once for all rates."""
    x, _, y, _ = _images(data)
    pictures, classes = tf.constant(x), tf.constant(y, tf.int32)
    model = network(x.shape[1:], net, norm)
    variables = [variable.value for variable in model.trainable_variables]
    speeds = [tf.Variable(tf.zeros_like(variable)) for variable in variables]

    def advance(rows: Any, rates: Any) -> None:
        for step in tf.range(len(rates)):
            labels = tf.gather(classes, rows[step])
            with tf.GradientTape() as tape:
                logits = model(tf.gather(pictures, rows[step]), training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_mean(losses)
            slopes = tape.gradient(loss, variables)
            for variable, speed, slope in zip(variables, speeds, slopes, strict=True):
                variable.assign_sub(rates[step] * speed.assign(0.9 * speed + slope))

    # Compiled by XLA, pairs take a third of the time, and large batches take longer.
    traced = tf.function(advance, jit_compile=size == 2)

    def train(order: NDArray[np.int64], rate: float) -> None:
        for speed in speeds:
            speed.assign(tf.zeros_like(speed))
        model.set_weights(network(x.shape[1:], net, norm).get_weights())
        rates = rate * (1 + np.cos(np.pi * np.arange(len(order)) / len(order))) / 2
        traced(tf.constant(order, tf.int32), tf.constant(rates, tf.float32))

    return model, train


def best(record: Record, part: dict[str, Any], name: str = "accuracy") -> NDArray[np.float64]:
    """Return what was measured with the factor whose mean accuracy is the best, in each seed."""
    factors = [case["factor"] for case in CASES if part.items() <= case.items()]
    found = {f: record.values("accuracy", **part, factor=f).mean() for f in factors}
    return record.values(name, **part, factor=max(found, key=lambda f: found[f]))


#: What each rule for the rate allows: the factors of the sizes 2, 8 and 32.
RULES: dict[str, list[tuple[float, ...]]] = {
    "the same rate for all sizes": [(4, 1, 1 / 4), (1, 1 / 4, 1 / 16)],
    "a rate proportional to the size": [(factor,) * 3 for factor in FACTORS[1:]],
}


def means(record: Record, net: str, norm: str, rule: str) -> NDArray[np.float64]:
    """Return the mean accuracies with the three sizes, under what does best of a rule's rates."""
    if rule not in RULES:
        return np.array([best(record, arm(net, norm, size)).mean() for size in SIZES])
    rows = [
        [
            record.values("accuracy", **arm(net, norm, size), factor=factor).mean()
            for size, factor in zip(SIZES, factors, strict=True)
        ]
        for factors in RULES[rule]
    ]
    return np.array(max(rows, key=sum))


def _falls(net: str, record: Record) -> tuple[bool, str]:
    pairs, large = (best(record, arm(net, "batch", size)) for size in (2, 32))
    found = f"{pairs.mean():.3f} in pairs, {large.mean():.3f} in batches of 32"
    return bool((large - pairs > 0.01).all()), found


def _flat(rule: str, record: Record) -> tuple[bool, str]:
    rows = {net: means(record, net, "group", rule) for net in ("conv", "dense")}
    found = "; ".join(f"{net} {', '.join(f'{x:.3f}' for x in row)}" for net, row in rows.items())
    return bool(max(np.ptp(row) for row in rows.values()) < 0.01), found


def _usual(net: str, record: Record) -> tuple[bool, str]:
    batch, group, layer = (best(record, arm(net, norm, 32)).mean() for norm in list(NORMS)[1:])
    found = f"batch {batch:.3f}, group {group:.3f}, layer {layer:.3f}"
    return bool(abs(batch - group) < 0.01 and group > layer), found


CLAIMS = [
    Claim(
        "The smaller the batch, the larger the error of batch normalization.",
        "wu2018group",
        f"{net}: pairs lose a point against batches of 32 in each seed, both at their best rates",
        partial(_falls, net),
    )
    for net in ("conv", "dense")
]
CLAIMS += [
    Claim(
        "The accuracy of group normalization is stable over a wide range of batch sizes.",
        "wu2018group",
        f"{rule}: in both networks the means with 2, 8 and 32 lie within a point",
        partial(_flat, rule),
    )
    for rule in [*RULES, "the best rate of each size"]
]
CLAIMS += [
    Claim(
        "In batches of usual size, group normalization is comparable to batch normalization, and"
        " better than other relatives.",
        "wu2018group",
        f"{net}, batches of 32: means within a point of each other, and above layer normalization",
        partial(_usual, net),
    )
    for net in ("conv", "dense")
]
