"""Does the noise of small ghost batches generalize better than the statistics of a large batch?

Two hidden layers of 64 ReLUs on Fashion-MNIST in 14 by 14 pixels, of which the first 2000 images
are trained on, so few that the network learns them by heart, or all 60,000. Batches of 512, 400
steps of gradient descent with momentum 0.9, the rate falling to zero along a cosine, each arm at
its own best rate. The batch is normalized in parts of ``ghost`` examples; one part of 512 is plain
batch normalization. In use, the moving averages of the parts' means and variances serve.

The control is ``noise``: an example is normalized by the whole batch's mean and variance, moved by
as much as those of the part *beside* its own are off. That noise is distributed like that of ghost
batches, and shared by as many examples, but comes from others, and no gradient flows through it.

Another arm has batches of 32 instead of 512, for as many passes over the 2000 images; for fairness,
plain batches of 512 have four times as many passes in yet another.
"""

from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, accuracy, deal, train

SEEDS = range(10)
RATES = [0.006, 0.03, 0.15, 0.75, 3.0]


def arm(
    ghost: int, examples: int = 2000, noise: bool = False, batch: int = 512, longer: int = 1
) -> dict[str, Any]:
    """Return all of a case but its rate."""
    steps = 400 * 512 // batch * longer
    how = {"ghost": ghost, "noise": noise, "batch": batch, "steps": steps}
    return {"data": "fashion", "examples": examples, **how}


GHOSTS = [512, 128, 32, 8]
NOISE, SMALL, LONG = arm(32, noise=True), arm(32, batch=32), arm(512, longer=4)
WHOLE = {ghost: arm(ghost, examples=60_000) for ghost in (512, 32)}
#: Each arm, with the rates that it is tried at: the long ones at those around their best.
GRID = [(part, RATES) for part in [*map(arm, GHOSTS), NOISE]]
GRID += [(part, RATES[1:]) for part in WHOLE.values()] + [(SMALL, RATES[:4]), (LONG, RATES[:3])]
QUICK = [
    arm(ghost, 1000, noise) | {"data": "digits", "steps": 40, "rate": 0.15}
    for ghost, noise in [(512, False), (32, False), (32, True)]
]
CASES = QUICK + [part | {"rate": rate} for part, rates in GRID for rate in rates]


class Ghost(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalization of a matrix in parts of ``size`` rows, each by its own statistics."""

    def __init__(self, size: int, noise: bool) -> None:
        super().__init__()
        self.size, self.noise = size, noise

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the four variables of batch normalization."""
        channels = shape[-1:]
        self.gamma = self.add_weight(shape=channels, initializer="ones")
        self.beta = self.add_weight(shape=channels, initializer="zeros")
        self.averages = [
            self.add_weight(shape=channels, initializer=start, trainable=False)
            for start in ("zeros", "ones")
        ]

    def call(self, x: Any, training: bool = False) -> Any:
        """Normalize by the parts' statistics in training mode, by the averages otherwise."""
        parts, (mean, variance) = x, self.averages
        if training:
            parts = tf.reshape(x, (-1, self.size, x.shape[-1]))
            mean, variance = tf.nn.moments(parts, 1, keepdims=True)
            for average, value in zip(self.averages, (mean, variance), strict=True):
                average.assign(0.9 * average + 0.1 * tf.reduce_mean(value, (0, 1)))
        if training and self.noise:
            center, spread = tf.nn.moments(x, 0)
            mean = center + tf.stop_gradient(tf.roll(mean, 1, 0) - center)
            variance = spread * tf.stop_gradient(tf.roll(variance, 1, 0) / spread)
        out = self.gamma * (parts - mean) * tf.math.rsqrt(variance + 1e-3) + self.beta
        return tf.reshape(out, tf.shape(x))


_images = cache(images)


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return accuracies and the loss on the training images, both in inference mode.

    A training that diverges ends with an accuracy of 0.1, and counts with a loss of 10.
    """
    keras.utils.set_random_seed(seed)
    x_train, x_test, y_train, y_test = _images(case["data"], case["examples"])
    model = keras.Sequential([keras.Input(x_train.shape[1:]), keras.layers.Flatten()])
    for _ in range(2):
        model.add(keras.layers.Dense(64, use_bias=False))
        model.add(Ghost(case["ghost"], case["noise"]))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    rate = keras.optimizers.schedules.CosineDecay(case["rate"], case["steps"])
    order = deal(len(x_train), case["batch"], case["steps"], seed)
    train(model, keras.optimizers.SGD(rate, momentum=0.9), x_train, y_train, order)
    loss = float(CROSS_ENTROPY(y_train, model(x_train, training=False)))
    return {
        "test": accuracy(model, x_test, y_test),
        "train": accuracy(model, x_train, y_train),
        "loss": loss if np.isfinite(loss) else 10.0,
    }


def best(record: Record, part: dict[str, Any]) -> tuple[float, NDArray[np.float64]]:
    """Return the rate at which an arm is best in the mean, and its test accuracies there."""
    rates = next(rates for other, rates in GRID if other == part)
    found = [(rate, record.values("test", **part, rate=rate)) for rate in rates]
    return max(found, key=lambda pair: float(pair[1].mean()))


def gain(record: Record, one: dict[str, Any], two: dict[str, Any]) -> tuple[float, float]:
    """Return by how much an arm is better than another, in points, and the standard error."""
    points = 100 * (best(record, one)[1] - best(record, two)[1])
    return float(points.mean()), float(points.std(ddof=1) / np.sqrt(len(points)))


def _better(text: str, source: str, who: str, one: Any, *two: Any, wanted: bool = True) -> Claim:
    """Return a claim that an arm is, or is not, better than the best of others."""

    def test(record: Record) -> tuple[bool, str]:
        other = max(two, key=lambda part: best(record, part)[1].mean())
        mean, error = gain(record, one, other)
        return (mean > 2 * error) == wanted, f"{mean:+.2f} points, standard error {error:.2f}"

    criterion = f"each at its best rate, {who}, by more than two standard errors of the difference"
    return Claim(text, source, criterion, test)


def _regularizes(record: Record) -> tuple[bool, str]:
    cases = [arm(ghost) | {"rate": 0.15} for ghost in (512, 32, 8)]
    losses = np.array([record.values("loss", **case) for case in cases])
    gaps = np.array([record.values("train", **c) - record.values("test", **c) for c in cases])
    so = np.all((np.diff(losses, axis=0) > 0) & (np.diff(gaps, axis=0) < 0), axis=0)
    found = f"so in {so.sum()} of {so.size} seeds; mean losses {losses.mean(1).round(3)}"
    return bool(so.all()), f"{found}, gaps {gaps.mean(1).round(3)}"


CLAIMS = [
    _better(
        "A large batch that is normalized in small parts generalizes better (2000 images).",
        "hoffer2017train",
        "512 in parts of 32 beat 512 as a whole",
        arm(32),
        arm(512),
    ),
    _better(
        "The same, on all 60,000 images, which are not learned by heart in so few steps.",
        "hoffer2017train",
        "512 in parts of 32 beat 512 as a whole",
        WHOLE[32],
        WHOLE[512],
    ),
    _better(
        "Parts of a medium size are better than very small ones.",
        "summers2020four",
        "parts of 32 beat parts of 8",
        arm(32),
        arm(8),
    ),
    Claim(
        "That an example is seen together with random others regularizes.",
        "ioffe2015batch",
        "at the same rate of 0.15, in every seed, the training loss is higher, and the gap between"
        " training and test accuracy smaller, with parts of 32 than with 512, and of 8 than of 32",
        _regularizes,
    ),
    _better(
        "It is the noise: injected into statistics of the whole batch, it generalizes better, too.",
        "kosson2024ghost",
        "512 with the noise of parts of 32 beat 512 without",
        NOISE,
        arm(512),
    ),
    _better(
        "Injected noise generalizes better than ghost batches with as much of it.",
        "kosson2024ghost",
        "512 with the noise of parts of 32 beat 512 in parts of 32",
        NOISE,
        arm(32),
    ),
    _better(
        "Tuned, and with enough steps, a larger batch generalizes no worse.",
        "shallue2019measuring",
        "32 do not beat 512, which have as many passes, or four times as many",
        SMALL,
        arm(512),
        LONG,
        wanted=False,
    ),
    _better(
        "Normalized in parts of 32, a batch of 512 generalizes as well as one of 32.",
        "hoffer2017train",
        "32 do not beat 512 in parts of 32",
        SMALL,
        arm(32),
        wanted=False,
    ),
]
