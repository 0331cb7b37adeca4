"""Does batch normalization still help where noise makes the layers' inputs unstable again?

Five hidden layers of 100 units on Fashion-MNIST in 14 by 14 pixels (digits for a test), 1000 steps
(digits 60) of plain gradient descent in batches of 60, each network at rates of its own. Weights
start as normal numbers of deviation √2/√n in a layer of n inputs for ReLUs; for sigmoids it is
1/√n with batch normalization and 4/√n without, where 1/√n would not learn.

The noise comes after the normalization, before the activation. As in the paper each example has
its own, from a distribution that each unit draws anew in each step: with a strength a, a center
from -a to a and a stretch from 1 to 1 + a/2, both uniform. An example's value is multiplied by a
normal number of that mean and deviation a/5, and a uniform number is added, at most a/5 from the
center. "own" noise is the same in units of the deviation that the unit has in the batch, around
its mean: for networks without normalization, whose units may be smaller than the noise.

``early`` is the number of steps until the accuracy on 2000 test images, measured every 20 steps
without noise and with the moments of those images, is 0.75 for the first time, twice all steps
where that never happens; ``end`` is its mean over the last five times. ``mean step`` is by how much
the mean of an activation's input, noise included, changes in one step on 500 fixed images, in its
deviations, and ``deviation step`` by how much the logarithm of its deviation does: medians over
units and layers, means over the times. ``mean long`` and ``deviation long``: in 200 steps
(digits 40).
"""

from functools import cache
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
RATES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
SCALES = {("sigmoid", False): 4.0, ("sigmoid", True): 1.0} | {
    ("relu", normalized): 2**0.5 for normalized in (False, True)
}


def arm(activation: str, normalized: bool, noise: float = 0.0, own: bool = False) -> dict[str, Any]:
    """Return all of a case but the data and the rate."""
    return {"activation": activation, "normalized": normalized, "noise": noise, "own": own}


#: The strengths of noise, and the rates, of the normalized networks and of the others.
GRID = [
    (arm(activation, normalized, noise, own), rates)
    for activation, high, low in [
        ("sigmoid", RATES[2:5], RATES[3:6]),
        ("relu", RATES[1:5], RATES[1:4]),
    ]
    for normalized, noise, own, rates in [
        (False, 0.0, False, low),
        (False, 0.5, False, low),
        (False, 0.5, True, low),
        (True, 0.0, False, high),
        (True, 0.5, False, high),
        (True, 2.0, False, high),
        (True, 4.0, False, high),
    ]
]
QUICK = [
    arm("relu", normalized, 0.5) | {"data": "digits", "rate": 0.3} for normalized in (False, True)
]
CASES = QUICK + [part | {"data": "fashion", "rate": rate} for part, rates in GRID for rate in rates]
STEPS = {"digits": 60, "fashion": 1000}
EVERY = 20
#: What is a longer time, in units of EVERY.
LONG = {"digits": 2, "fashion": 10}


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return how fast, how well, and by how much the layers' inputs changed.

    Where a training diverges, the accuracy is that of guessing from there on, 0.1 about.
    """
    x_train, x_test, y_train, y_test = data(case["data"])
    steps = STEPS[case["data"]]
    layers, train, look, answers = network(
        x_train.shape[1], case["activation"], case["normalized"], case["own"]
    )
    start(layers, SCALES[case["activation"], case["normalized"]], seed)
    noise, rate = tf.constant(case["noise"]), tf.constant(case["rate"])
    order = tf.constant(deal(len(x_train), 60, steps, seed))
    accuracies, seen = [], []
    for step in range(0, steps, EVERY):
        for begin, end in ((step, step + 1), (step + 1, step + EVERY)):
            seen.append(look(x_train[:500], noise, tf.constant([seed, begin])))
            train(x_train, y_train, order[begin:end], rate, noise, tf.constant([seed, begin]))
        accuracies.append(np.mean(answers(x_test[:2000]).numpy() == y_test[:2000]))
    reached = np.array(accuracies) >= 0.75
    return {
        "early": float(EVERY * (np.argmax(reached) + 1) if reached.any() else 2 * steps),
        "end": float(np.mean(accuracies[-5:])),
        **changes(np.array(seen), LONG[case["data"]]),
    }


def changes(seen: NDArray[np.float32], long: int) -> dict[str, float]:
    """Return what became of moments, (looks, 2, layers, units), in a step and over a longer time.

    The change of a mean is in deviations, that of a deviation of its logarithm, as a share.
    """
    before, after = seen[::2], seen[1::2]
    shares = {}
    for name, old, new in (("step", before, after), ("long", before[:-long], before[long:])):
        means = np.abs(new[:, 0] - old[:, 0]) / old[:, 1]
        deviations = np.abs(np.log(new[:, 1] / old[:, 1]))
        for what, change in (("mean", means), ("deviation", deviations)):
            of_times = np.median(np.nan_to_num(change, nan=100, posinf=100), axis=(1, 2))
            shares[f"{what} {name}"] = float(np.clip(of_times, 0, 100).mean())
    return shares


@cache
def data(name: str) -> tuple[Any, ...]:
    """Return images, flat, and labels."""
    split = images(name)
    x_train, x_test = (tf.constant(x.reshape(len(x), -1)) for x in (split.x_train, split.x_test))
    return x_train, x_test, tf.constant(split.y_train, tf.int32), split.y_test


def start(layers: list[tuple[Any, Any]], scale: float, seed: int) -> None:
    """Give a network fresh weights."""
    rng = np.random.default_rng(seed)
    for dense, norm in layers:
        inputs, units = dense.kernel.shape
        deviation = (1.0 if units == 10 else scale) / np.sqrt(inputs)
        dense.kernel.assign(rng.normal(0, deviation, (inputs, units)))
        dense.bias.assign(np.zeros(units))
        if norm:
            norm.gamma.assign(np.ones(units))
            norm.beta.assign(np.zeros(units))


def disturbed(z: Any, noise: Any, own: bool, draw: Any) -> Any:
    """Return values of shape (examples, units) with noise; ``draw`` are two integers, its seed."""
    units, draws = z.shape[1:], [draw + tf.constant([0, 1_000_000 * i]) for i in range(4)]
    center = noise * tf.random.stateless_uniform(units, draws[0], -1.0)
    stretch = 1 + noise / 2 * tf.random.stateless_uniform(units, draws[1])
    scatter = noise / 5
    added = center + scatter * tf.random.stateless_uniform(tf.shape(z), draws[2], -1.0)
    factor = stretch + scatter * tf.random.stateless_normal(tf.shape(z), draws[3])
    if not own:
        return factor * z + added
    mean, variance = (tf.stop_gradient(moment) for moment in tf.nn.moments(z, 0))
    return mean + factor * (z - mean) + tf.sqrt(variance) * added


@cache
def network(inputs: int, activation: str, normalized: bool, own: bool) -> tuple[Any, ...]:
    """Return the layers, what trains them, looks at their moments and answers, traced once."""
    layers = []
    for size, units in [(inputs, 100), *[(100, 100)] * 4, (100, 10)]:
        dense, norm = keras.layers.Dense(units), BatchNormalization(epsilon=1e-5)
        dense.build((None, size))
        norm.build((None, units))
        layers.append((dense, norm if normalized and units == 100 else None))
    weights = [w for pair in layers for part in pair if part for w in part.trainable_variables]
    function = keras.activations.get(activation)

    def forward(x: Any, noise: Any = None, draw: Any = None) -> tuple[Any, list[Any]]:
        moments = []
        for i, (dense, norm) in enumerate(layers[:-1]):
            z = norm(dense(x), training=True) if norm else dense(x)
            z = (
                z
                if noise is None
                else disturbed(z, noise, own, draw + tf.constant([0, 10_000 * i]))
            )
            moments.append(tf.nn.moments(z, 0))
            x = function(z)
        return layers[-1][0](x), moments

    def train(x: Any, y: Any, order: Any, rate: Any, noise: Any, draw: Any) -> None:
        for step in tf.range(tf.shape(order)[0]):
            with tf.GradientTape() as tape:
                logits, _ = forward(tf.gather(x, order[step]), noise, draw + tf.stack([0, step]))
                loss = CROSS_ENTROPY(tf.gather(y, order[step]), logits)
            for weight, slope in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign_sub(rate * slope)

    def look(x: Any, noise: Any, draw: Any) -> Any:
        means, variances = zip(*forward(x, noise, draw)[1], strict=True)
        return tf.stack([means, tf.sqrt(variances)])

    def answers(x: Any) -> Any:
        return tf.argmax(forward(x)[0], axis=-1)

    steps = tf.TensorSpec((None, 60), tf.int64)
    signature = [
        tf.TensorSpec((None, inputs)),
        tf.TensorSpec((None,), tf.int32),
        steps,
        tf.TensorSpec(()),
        tf.TensorSpec(()),
        tf.TensorSpec((2,), tf.int32),
    ]
    return layers, tf.function(train, input_signature=signature), *map(tf.function, (look, answers))


def best(record: Record, part: dict[str, Any], name: str = "early") -> float:
    """Return the rate at which a network is best in the mean."""
    rates = next(rates for other, rates in GRID if other == part)
    sign = -1 if name == "end" else 1
    return min(rates, key=lambda rate: sign * found(record, part, name, rate).mean())


def found(
    record: Record, part: dict[str, Any], name: str, rate: float | None = None
) -> NDArray[np.float64]:
    """Return a measure of all seeds, at a rate or at the one that is best by ``early`` or "end"."""
    rate = rate or best(record, part, "end" if name == "end" else "early")
    return record.values(name, data="fashion", **part, rate=rate)


def fast(activation: str, noise: float = 0.5) -> Any:
    """Return the test for at most half as many steps again as with normalization alone."""

    def test(record: Record) -> tuple[bool, str]:
        noisy, calm = (found(record, arm(activation, True, n), "early") for n in (noise, 0.0))
        words = f"{noisy.mean():.0f} steps with noise, {calm.mean():.0f} without"
        return bool(noisy.mean() <= 1.5 * calm.mean()), words

    return test


def beats(activation: str, noise: float = 0.5) -> Any:
    """Return the test for fewer steps than without normalization and noise."""

    def test(record: Record) -> tuple[bool, str]:
        noisy, plain = (
            found(record, arm(activation, normalized, n), "early")
            for normalized, n in ((True, noise), (False, 0.0))
        )
        words = f"{noisy.mean():.0f} steps normalized and noisy, {plain.mean():.0f} plain"
        return bool((noisy < plain).all()), words

    return test


def moves(times: str, noise: float = 0.5) -> Any:
    """Return the test for inputs that move more than without normalization and noise."""

    def test(record: Record) -> tuple[bool, str]:
        holds, words = True, []
        for activation in ("sigmoid", "relu"):
            for what in ("mean", "deviation"):
                noisy, plain = (
                    found(record, arm(activation, normalized, n), f"{what} {times}")
                    for normalized, n in ((True, noise), (False, 0.0))
                )
                holds &= bool((noisy > plain).all())
                words.append(f"{activation}, {what}: {noisy.mean():.3f} and {plain.mean():.3f}")
        return holds, "normalized and noisy, and plain: " + "; ".join(words)

    return test


def hurts(activation: str, own: bool) -> Any:
    """Return the test for noise that keeps a plain network from the accuracy, or slows it."""

    def test(record: Record) -> tuple[bool, str]:
        noisy, plain = (
            found(record, arm(activation, False, *noise), "early") for noise in ((0.5, own), ())
        )
        words = f"{noisy.mean():.0f} steps with noise, {plain.mean():.0f} without"
        least = 1.5 * plain.mean() if own else 2 * STEPS["fashion"]
        return bool(noisy.mean() >= least), words

    return test


STEPS_TO = "each at its best rate, steps until the accuracy is 0.75: "
CLAIMS = [
    Claim(text, "santurkar2018how", criterion, test)
    for text, criterion, test in [
        *(
            claim
            for activation in ("sigmoid", "relu")
            for claim in [
                (
                    f"A normalized network is about as fast with noise ({activation})",
                    STEPS_TO + "at most half as many again as without noise, in the mean",
                    fast(activation),
                ),
                (
                    f"With that noise it is faster than one without normalization ({activation})",
                    STEPS_TO + "fewer from every seed than without normalization and noise",
                    beats(activation),
                ),
                (
                    f"The same noise keeps a plain network from training ({activation})",
                    "0.75 is never reached, from no seed and at no rate",
                    hurts(activation, own=False),
                ),
                (
                    f"It harms a plain network in the units' own deviations too ({activation})",
                    STEPS_TO + "at least half as many again as without noise, in the mean",
                    hurts(activation, own=True),
                ),
                (
                    f"Noise eight times as strong leaves it faster than plain ({activation})",
                    STEPS_TO + "strength 4, fewer from every seed than plain without noise",
                    beats(activation, 4.0),
                ),
            ]
        ),
        (
            "And yet the inputs of its layers are less stable than those of the plain network",
            "each at its best rate, both activations: means and deviations change more in a step,"
            " from every seed",
            moves("step"),
        ),
        (
            "They are less stable over a longer time as well",
            "the same in 200 steps",
            moves("long"),
        ),
    ]
]
