"""By how much does each layer multiply a gradient, with batch normalization and without?

Stacks of 30 dense layers without skip connections and without biases: weights, a normalization or
none, an activation. Weights are normal numbers of variance 2/n in a layer of n inputs (He's) before
ReLUs, otherwise of 1/n, times the square of "scale". The outputs of the last layer are multiplied
by random numbers and summed; ``factor`` is by how much the squared norm of the gradient of that in
the weighted sums of a layer grows per layer, towards the input: a line through the logarithms of
layers 6 to 25. ``layer 1`` is the logarithm (of base 10) of that of layer 1 over that of layer 30.
``signal`` is the growth, forwards, of the variance of the activations, per channel over the batch.

Inputs are normal numbers, Fashion-MNIST as a check, layers 1024 units wide. `expected` works the
factor out for layers that are infinitely wide. "layer" normalizes each example by itself, "moments"
divides each channel by the root of the mean square over the batch, and leaves the mean in.

Where it should fail: 64 units; a batch that is not small against the width; weights so small that
epsilon counts. And in training, on Fashion-MNIST, by plain gradient descent, with 64 units:
``range 1`` is, before step 1 (the first is step 0), the norm of the largest gradient of a layer's
weights, among the 29 layers from 64 units to 64, over that of the smallest. ``loss`` is the mean of
the last 100 of 301 steps.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bn_tutorial.layers import BatchNormalization
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, deal

SEEDS = range(5)
DEPTH = 30
BATCHES = [4, 6, 8, 16, 32, 128, 512]
USUAL: dict[str, Any] = {"data": "random", "norm": "batch", "activation": "relu"}
USUAL |= {"width": 1024, "batch": 128, "scale": 1.0}
RATES = [0.001, 0.01, 0.1, 1.0, 10.0]
LAYERS = [1, 5, 10, 15, 20, 25]
STEPS = [0, 1, 10, 100, 300]
QUICK = [USUAL | {"width": 256, "batch": 32, "norm": norm} for norm in ("batch", "none")]
CASES = [
    *QUICK,
    *(USUAL | {"activation": act, "batch": size} for act in ("relu", "linear") for size in BATCHES),
    *(USUAL | {"activation": activation} for activation in ("tanh", "small tanh", "sigmoid")),
    *(USUAL | {"norm": norm} for norm in ("none", "layer", "moments")),
    *(USUAL | {"scale": scale} for scale in (0.03, 0.1, 10.0)),
    *(USUAL | {"width": 64, "activation": activation} for activation in ("relu", "linear")),
    USUAL | {"data": "fashion"},
    *(USUAL | {"data": "fashion", "width": 64, "rate": rate} for rate in RATES),
]
ACTIVATIONS = {
    "relu": tf.nn.relu,
    "linear": tf.identity,
    "tanh": tf.tanh,
    "small tanh": lambda z: 10 * tf.tanh(z / 10),
    "sigmoid": tf.sigmoid,
}


class Stack:
    """Layers from random weights, which return their weighted sums and activations."""

    def __init__(self, case: dict[str, Any], inputs: int, rng: np.random.Generator) -> None:
        gain = case["scale"] * (2 if case["activation"] == "relu" else 1) ** 0.5
        sizes = [inputs] + [case["width"]] * DEPTH
        self.activation = ACTIVATIONS[case["activation"]]
        self.norms = [normalization(case["norm"]) for _ in range(DEPTH)]
        self.weights = [
            tf.Variable(gain / n**0.5 * rng.standard_normal((n, m), dtype=np.float32))
            for n, m in pairwise(sizes)
        ]

    def __call__(self, x: Any) -> tuple[list[Any], list[Any]]:
        sums, activations = [], [x]
        for weight, norm in zip(self.weights, self.norms, strict=True):
            sums.append(activations[-1] @ weight)
            activations.append(self.activation(norm(sums[-1])))
        return sums, activations[1:]


def normalization(name: str) -> Any:
    """Return what normalizes a layer, in training mode."""
    if name == "batch":
        layer = BatchNormalization()
        return lambda x: layer(x, training=True)
    if name == "layer":
        return lambda x: (x - _mean(x, 1)) * tf.math.rsqrt(tf.math.reduce_variance(x, 1, True))
    if name == "moments":
        return lambda x: x * tf.math.rsqrt(_mean(x**2, 0))
    return tf.identity


def _mean(x: Any, axis: int) -> Any:
    return tf.reduce_mean(x, axis, keepdims=True)


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Return the growth of gradients and of variances, or train."""
    rng = np.random.default_rng(seed)
    if "rate" in case:
        return trained(case, rng, seed)
    x = rng.standard_normal((case["batch"], case["width"]), dtype=np.float32)
    if case["data"] == "fashion":
        data = images("fashion", 10_000).x_train
        x = data[deal(len(data), case["batch"], 1, seed)[0]].reshape(case["batch"], -1)
    stack = Stack(case, x.shape[1], rng)
    with tf.GradientTape() as tape:
        sums, activations = stack(tf.constant(x))
        direction = rng.standard_normal((case["batch"], case["width"]), dtype=np.float32)
        along = tf.reduce_sum(activations[-1] * direction)
    gradients = [float(tf.reduce_sum(g**2)) for g in tape.gradient(along, sums)]
    spreads = [float(tf.reduce_mean(tf.math.reduce_variance(a, 0))) for a in activations]
    found = {f"layer {i}": np.log10(gradients[i - 1] / gradients[-1]) for i in LAYERS}
    return {"factor": 1 / slope(gradients), "signal": slope(spreads), **found}


def slope(values: list[float]) -> float:
    """Return by how much the layers 6 to 25 multiply, each."""
    within = slice(5, 25)
    return float(np.exp(np.polyfit(np.arange(DEPTH)[within], np.log(values[within]), 1)[0]))


def trained(case: dict[str, Any], rng: np.random.Generator, seed: int) -> dict[str, float]:
    """Train, and return the range of the gradients' norms before some steps."""
    data = images("fashion", 10_000)
    x, y = tf.constant(data.x_train.reshape(10_000, -1)), tf.constant(data.y_train, tf.int64)
    stack = Stack(case, x.shape[1], rng)
    last = tf.Variable(rng.normal(0, 1 / 8, (64, 10)).astype("float32"))
    weights = [*stack.weights, last]

    def step(rows: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = stack(tf.gather(x, rows))[1][-1] @ last
            loss = CROSS_ENTROPY(tf.gather(y, rows), logits)
        gradients = tape.gradient(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(case["rate"] * gradient)
        norms = tf.stack([tf.norm(gradient) for gradient in gradients[1:-1]])
        return tf.reduce_max(norms) / tf.reduce_min(norms), loss

    traced = tf.function(step)
    ranges, losses = np.transpose([traced(rows) for rows in deal(10_000, case["batch"], 301, seed)])
    found = {f"range {steps}": float(ranges[steps]) for steps in STEPS}
    return found | {"loss": float(np.mean(losses[-100:]))}


def expected(activation: str, batch: NDArray[Any]) -> NDArray[Any]:
    """Return the factor in infinitely wide layers, for batches of more than 3."""
    if activation == "linear":
        return np.asarray((batch - 2) / (batch - 3))
    # Two normalized values of a channel correlate by rho; both are positive with probability p;
    # r is the mean product of their ReLUs over that of one with itself.
    rho = -1 / (batch - 1)
    p = 1 / 4 + np.arcsin(rho) / (2 * np.pi)
    r = (np.sqrt(1 - rho**2) + rho * (np.pi / 2 + np.arcsin(rho))) / np.pi
    return np.asarray((batch - 2 + 2 * p + r) / ((batch - 3) * (1 - r)))


def excess(record: Record, **changed: Any) -> tuple[float, float]:
    """Return how far the mean factor is above 1, and how far the expected one."""
    case = USUAL | changed
    factor = record.values("factor", **case).mean()
    theory = expected(case["activation"], np.array(float(case["batch"])))
    return float(factor) - 1, float(theory) - 1


def as_expected(*changes: dict[str, Any]) -> Callable[[Record], tuple[bool, str]]:
    """Return the test that factors less 1 are those of the theory, up to a tenth."""

    def test(record: Record) -> tuple[bool, str]:
        pairs = [excess(record, **changed) for changed in changes]
        words = [f"{1 + found:.4g} for {1 + theory:.4g}" for found, theory in pairs]
        return all(abs(f - t) <= t / 10 for f, t in pairs), ", ".join(words)

    return test


def above(lowest: float, name: str, values: list[Any]) -> Callable[[Record], tuple[bool, str]]:
    """Return the test that all factors are above a number, whatever ``name`` is."""

    def test(record: Record) -> tuple[bool, str]:
        factors = [record.values("factor", **USUAL | {name: value}) for value in values]
        words = [f"{value}: {f.min():.4g}" for value, f in zip(values, factors, strict=True)]
        return min(f.min() for f in factors) > lowest, "lowest of " + ", ".join(words)

    return test


def itself(record: Record) -> tuple[bool, str]:
    """Test that what others leave of the growth is at most a tenth."""
    norms = ("batch", "none", "layer")
    factors = [record.values("factor", **USUAL | {"norm": norm}) for norm in norms]
    most = (factors[0].mean() - 1) / 10
    words = [f"{n}: {f.min():.3f} to {f.max():.3f}" for n, f in zip(norms, factors, strict=True)]
    return all(bool((abs(f - 1) <= most).all()) for f in factors[1:]), ", ".join(words)


def linear_regime(record: Record) -> tuple[bool, str]:
    """Test that a tanh of a tenth of the values has at most a tenth of the growth."""
    full, small = (
        record.values("factor", **USUAL | {"activation": activation}).mean()
        for activation in ("tanh", "small tanh")
    )
    return small - 1 <= (full - 1) / 10, f"{full:.4g} for tanh, {small:.4g} near its middle"


def narrower(steps: int) -> Callable[[Record], tuple[bool, str]]:
    """Return the test that at some rate the range is a tenth, in every seed, after some steps."""

    def test(record: Record) -> tuple[bool, str]:
        holds, words = False, []
        for rate in RATES:
            first, then = (record.values(f"range {i}", rate=rate) for i in (0, steps))
            holds |= bool((then <= first / 10).all())
            words.append(f"rate {rate:g}: {first.mean():.0f} to {then.mean():.3g}")
        return holds, ", ".join(words)

    return test


TENTH = "Growth per layer less 1, mean of seeds: within a tenth of that of infinite width, for "
CLAIMS = [
    Claim(text, "yang2019mean", criterion, test)
    for text, criterion, test in [
        (
            "Batch normalization itself makes gradients grow with depth.",
            "In every seed without it, or with layer normalization: at most a tenth of the growth.",
            itself,
        ),
        (
            "No activation function takes the growth away.",
            "In batches of 128: above 1 per layer in every seed with each of five activations.",
            above(1.0, "activation", list(ACTIVATIONS)),
        ),
        (
            "No variance of the first weights takes the growth away.",
            "Weights of 0.1, 1 and 10 times He's: above 1.1 per layer in every seed.",
            above(1.1, "scale", [0.1, 1.0, 10.0]),
        ),
        (
            "Not even one so small that epsilon counts.",
            "Weights of 0.03 times He's: above 1.1 per layer in every seed.",
            above(1.1, "scale", [0.03]),
        ),
        (
            "Close to the linear regime gradients grow less.",
            "tanh of a tenth of the values (then times ten): at most a tenth of the growth.",
            linear_regime,
        ),
        (
            "In wide layers of ReLUs mean field theory predicts the growth.",
            TENTH + "batches of 4 to 512.",
            as_expected(*({"batch": size} for size in BATCHES)),
        ),
        (
            "In wide linear layers mean field theory predicts the growth.",
            TENTH + "batches of 4 to 32.",
            as_expected(*({"activation": "linear", "batch": size} for size in BATCHES[:5])),
        ),
        (
            "In linear layers also where the batch is not small against the width.",
            TENTH + "batches of 128 and 512.",
            as_expected(*({"activation": "linear", "batch": size} for size in BATCHES[5:])),
        ),
        (
            "In layers of 64 ReLUs, and from images, it predicts the growth as well.",
            TENTH + "batches of 128.",
            as_expected({"width": 64}, {"data": "fashion"}),
        ),
        (
            "One step of training makes the range of the gradients far smaller.",
            "At some rate of five: to at most a tenth, in every seed.",
            narrower(1),
        ),
        (
            "Ten steps of training do.",
            "At some rate of five: to at most a tenth, in every seed.",
            narrower(10),
        ),
    ]
]
