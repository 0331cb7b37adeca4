"""Is the loss smoother along the gradient with batch normalization, throughout a training?

Hidden layers of 100 units, five or twenty of them, on Fashion-MNIST in 14 by 14 pixels (digits for
a test), 500 steps (digits 40) of plain gradient descent in batches of 128, at several rates.
Weights start as normal numbers of deviation √2/√n in a layer of n inputs for ReLUs, 4/√n for
sigmoids without normalization, and "small" and "large" ones, of normalized ReLUs, at a quarter and
four times √2/√n: of these the outputs are the same (but for epsilon), the gradients are not.

At ten times (TIMES) the next batch gives a gradient g, at weights w. Against it go steps of half,
one, two and four times the rate η, and at the end of each the same batch gives a loss and a
gradient. Measured are, as in the paper, the ``range`` of these four losses, the largest ``change``
of the gradient, |g' - g|, and ``beta``, the largest |g' - g| / |w' - w|. Without units are

- ``own``: |g' - g| / |g| after one step, which is what the training makes;
- ``relative``: the same after a step as long as a hundredth of all weights, |w' - w| = |w| / 100,
  where w is the weights of the layers, and gamma and beta are left out of |w|, not of the step;
- ``growth``: |g| of the second hidden layer's weights by that of the last hidden layer's.

``loss`` is the mean of the last 50 steps. A training counts as one that learns if that is below 1.
"""

from functools import cache
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bn_tutorial.layers import BatchNormalization
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, deal

SEEDS = range(5)
#: Hidden layers, activation, the deviation of the weights times √n, whether it is normalized.
NETS: dict[str, tuple[int, str, float, bool]] = {
    "relu": (5, "relu", 2**0.5, False),
    "relu normalized": (5, "relu", 2**0.5, True),
    "small normalized": (5, "relu", 2**0.5 / 4, True),
    "large normalized": (5, "relu", 2**0.5 * 4, True),
    "sigmoid": (5, "sigmoid", 4.0, False),
    "sigmoid normalized": (5, "sigmoid", 1.0, True),
    "deep relu": (20, "relu", 2**0.5, False),
    "deep relu normalized": (20, "relu", 2**0.5, True),
}
RATES = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
#: Rates of a net: some on either side of its best one.
TRIED = {net: RATES[2:6] for net in NETS} | {
    "small normalized": RATES[:5],
    "large normalized": RATES[4:],
    "sigmoid": RATES[3:7],
    "sigmoid normalized": RATES[3:7],
    "deep relu": RATES[:4],
}
QUICK = [{"data": "digits", "net": net, "rate": 0.1} for net in ("relu", "relu normalized")]
CASES = QUICK + [
    {"data": "fashion", "net": net, "rate": rate} for net in NETS for rate in TRIED[net]
]
STEPS = {"digits": 40, "fashion": 500}
#: When it is measured, as shares of the steps.
TIMES = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.98])
LENGTHS = [0.5, 1.0, 2.0, 4.0]
PAPER = ["range", "change", "beta"]
#: What stands for a number that is not finite, or larger.
LARGEST = 1e9


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return each measure, followed by the number of the time, and the loss."""
    x, y = data(case["data"])
    model, train, probe = network(case["net"], x.shape[1])
    steps = STEPS[case["data"]]
    found: dict[str, Any] = {}
    start(model, case["net"], seed)
    order = tf.constant(deal(len(x), 128, steps, seed))
    rate, marks = tf.constant(case["rate"]), [*np.round(steps * TIMES).astype(int), steps]
    losses = []
    for number, (begin, end) in enumerate(pairwise(marks)):
        batch = tf.gather(x, order[begin]), tf.gather(y, order[begin])
        found |= {f"{name} {number}": value for name, value in probe(*batch, rate).items()}
        losses.append(train(x, y, order[begin:end], rate).numpy())
    found["loss"] = np.concatenate(losses)[-50:].mean()
    return {name: _finite(float(value)) for name, value in found.items()}


def _finite(value: float) -> float:
    return min(value, LARGEST) if np.isfinite(value) else LARGEST


@cache
def data(name: str) -> tuple[Any, Any]:
    """Return the images to train on, flat, and the labels."""
    split = images(name)
    x = split.x_train.reshape(len(split.x_train), -1)
    return tf.constant(x), tf.constant(split.y_train, tf.int32)


def start(model: keras.Model, net: str, seed: int) -> None:
    """Give a network fresh weights."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            scale = NETS[net][2] if layer.units == 100 else 1.0
            inputs, units = layer.kernel.shape
            layer.kernel.assign(rng.normal(0, scale / np.sqrt(inputs), (inputs, units)))
            layer.bias.assign(np.zeros(units))
        if isinstance(layer, BatchNormalization):
            layer.gamma.assign(np.ones(100))
            layer.beta.assign(np.zeros(100))


@cache
def network(net: str, inputs: int) -> tuple[Any, ...]:
    """Return a network, what trains it and what measures the loss around it, traced once."""
    hidden, activation, _, normalized = NETS[net]
    model = keras.Sequential([keras.Input((inputs,))])
    for _ in range(hidden):
        model.add(keras.layers.Dense(100))
        if normalized:
            model.add(BatchNormalization(epsilon=1e-5))
        model.add(keras.layers.Activation(activation))
    model.add(keras.layers.Dense(10))
    weights = model.trainable_variables
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    places = [i for i, w in enumerate(weights) if any(w is kernel for kernel in kernels)]

    images, labels = tf.TensorSpec((None, inputs)), tf.TensorSpec((None,), tf.int32)

    @tf.function(input_signature=[images, labels])  # type: ignore[untyped-decorator]
    def gradient(x: Any, y: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = CROSS_ENTROPY(y, model(x, training=True))
        return loss, tape.gradient(loss, weights)

    @tf.function(
        input_signature=[images, labels, tf.TensorSpec((None, 128), tf.int64), tf.TensorSpec(())]
    )  # type: ignore[untyped-decorator]
    def train(x: Any, y: Any, order: Any, rate: Any) -> Any:
        losses = tf.TensorArray(tf.float32, tf.shape(order)[0])
        for step in tf.range(tf.shape(order)[0]):
            loss, found = gradient(tf.gather(x, order[step]), tf.gather(y, order[step]))
            for weight, slope in zip(weights, found, strict=True):
                weight.assign_sub(rate * slope)
            losses = losses.write(step, loss)
        return losses.stack()

    def probe(x: Any, y: Any, rate: Any) -> dict[str, Any]:
        _, before = gradient(x, y)
        norm = tf.linalg.global_norm(before)
        relative = tf.linalg.global_norm(kernels) / (100 * norm)
        old = [tf.identity(weight) for weight in weights]
        losses, changes = [], []
        for length in [*(rate * length for length in LENGTHS), relative]:
            for weight, value, slope in zip(weights, old, before, strict=True):
                weight.assign(value - length * slope)
            loss, after = gradient(x, y)
            losses.append(loss)
            changes.append(
                tf.linalg.global_norm([a - b for a, b in zip(after, before, strict=True)])
            )
        for weight, value in zip(weights, old, strict=True):
            weight.assign(value)
        moved = rate * norm * tf.constant(LENGTHS)
        return {
            "range": tf.reduce_max(losses[:4]) - tf.reduce_min(losses[:4]),
            "change": tf.reduce_max(changes[:4]),
            "beta": tf.reduce_max(tf.stack(changes[:4]) / moved),
            "own": changes[1] / norm,
            "relative": changes[4] / norm,
            "growth": tf.norm(before[places[1]]) / tf.norm(before[places[-2]]),
        }

    return model, train, probe


def best(record: Record, net: str) -> float:
    """Return the rate at which a net has the smallest loss in the end, in the mean."""
    return min(TRIED[net], key=lambda rate: loss(record, net, rate).mean())


def loss(record: Record, net: str, rate: float) -> NDArray[np.float64]:
    """Return the loss in the end, of each seed."""
    return record.values("loss", data="fashion", net=net, rate=rate)


def curve(record: Record, net: str, name: str, rate: float) -> NDArray[np.float64]:
    """Return a measure at the ten times, the median of the seeds."""
    case = {"data": "fashion", "net": net, "rate": rate}
    return np.array(
        [np.median(record.values(f"{name} {time}", **case)) for time in range(len(TIMES))]
    )


def shared(record: Record, plain: str, normalized: str) -> list[float]:
    """Return the rates at which both of two nets learn from each seed."""
    both = [rate for rate in TRIED[plain] if rate in TRIED[normalized]]
    return [
        rate
        for rate in both
        if all((loss(record, net, rate) < 1).all() for net in (plain, normalized))
    ]


def same(plain: str, normalized: str, names: list[str], times: slice) -> Any:
    """Return the test that measures are smaller with normalization, at each time and rate."""

    def test(record: Record) -> tuple[bool, str]:
        words, holds = [], True
        for rate in shared(record, plain, normalized):
            for name in names:
                ours, other = (curve(record, net, name, rate)[times] for net in (normalized, plain))
                holds &= bool((ours < other).all())
                words.append(f"{name} at rate {rate:g} {np.sum(ours < other)} of {len(ours)}")
        return holds and bool(words), "smaller: " + ", ".join(words)

    return test


def own(plain: str, normalized: str, name: str) -> Any:
    """Return the test that a measure is smaller with normalization, each at its best rate."""

    def test(record: Record) -> tuple[bool, str]:
        nets = (normalized, plain)
        rates = [best(record, net) for net in nets]
        ours, other = (
            curve(record, net, name, r)[LATER] for net, r in zip(nets, rates, strict=True)
        )
        words = f"{np.median(ours):.2f} with (rate {rates[0]:g}), "
        words += f"{np.median(other):.2f} without ({rates[1]:g}), median of times"
        return bool((ours < other).all()), f"{words}; smaller at {np.sum(ours < other)} of 7"

    return test


def grows(record: Record) -> tuple[bool, str]:
    """Test that gradients grow towards the input of the deep net, with normalization only."""
    plain, ours = (
        record.values("growth 0", data="fashion", net=net)
        for net in ("deep relu", "deep relu normalized")
    )
    words = f"{ours.min():.1f} to {ours.max():.1f} with, {plain.min():.1f} to {plain.max():.1f}"
    return bool(ours.min() >= 10 and plain.max() <= 3), words + " without"


START, LATER = slice(0, 1), slice(3, None)
EACH = "median of five seeds smaller at each rate at which both learn, "
TENTH = "at each of seven times from a tenth of the steps on"
RELUS = ("relu", "relu normalized")
CLAIMS = [
    Claim(text, source, criterion, test)
    for text, source, criterion, test in [
        *(
            (
                f"With batch normalization {what}",
                "santurkar2018how",
                f"five layers of ReLUs, {EACH}{TENTH}",
                same(*RELUS, [name], LATER),
            )
            for name, what in [
                ("range", "the loss varies less along the gradient"),
                ("change", "the gradient changes less along itself"),
                ("beta", "the effective beta-smoothness is smaller, that is, better"),
            ]
        ),
        (
            "All three are so throughout, from the start",
            "santurkar2018how",
            f"five layers of ReLUs, {EACH}before the first step",
            same(*RELUS, PAPER, START),
        ),
        (
            "So are they in a deep network",
            "santurkar2018how",
            f"twenty layers of ReLUs, {EACH}{TENTH}",
            same("deep relu", "deep relu normalized", PAPER, LATER),
        ),
        (
            "So are they with sigmoids",
            "santurkar2018how",
            f"five layers of sigmoids, {EACH}{TENTH}",
            same("sigmoid", "sigmoid normalized", PAPER, LATER),
        ),
        (
            "The effective beta-smoothness is so however large the weights were at the start",
            "santurkar2018how",
            f"normalized ReLUs with a quarter of the weights, {EACH}at each of ten times",
            same("relu", "small normalized", ["beta"], slice(None)),
        ),
        (
            "The gradient is a better guide for the step that a network makes at its own best rate",
            "santurkar2018how",
            f"five layers of ReLUs, |g' - g| / |g| after one step, medians smaller {TENTH}",
            own(*RELUS, "own"),
        ),
        (
            "It is also after a step as long as a hundredth of the weights",
            "santurkar2018how",
            f"five layers of ReLUs, |g' - g| / |g| at each one's best rate, smaller {TENTH}",
            own(*RELUS, "relative"),
        ),
        (
            "At the start gradients explode with depth, because of batch normalization",
            "yang2019mean",
            "twenty layers of ReLUs: from the last hidden layer to the second |g| grows tenfold or"
            " more with it in each run, and at most threefold without it",
            grows,
        ),
    ]
]
