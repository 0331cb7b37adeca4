"""Residual networks: with batch normalization, without, and with branches that start small.

A convolution of stride 2 makes 7 by 7 places of images of 14 by 14 pixels (Fashion-MNIST, shifted
and scaled as a whole; 4 by 4 of digits), then come 4 or 32 blocks of 8 channels, a mean over the
places and a dense layer. A branch is a ReLU and a convolution of 3 by 3 with He's weights. Nets:

- "plain": blocks x + branch(x), without batch normalization;
- "normalized": with it in front of the ReLU of each branch, and once more behind all blocks;
- "zero": plain, each branch times a number that is learned and starts at 0 (SkipInit);
- "zero gamma": with batch normalization at the end of each branch, whose gamma starts at 0;
- "constant": plain, each branch times 1/√blocks, a number that is not learned;
- "after": batch normalization of each sum, which makes a branch no smaller against the rest;
- "stages": normalized, and before blocks 9, 17 and 25 the whole of x passes through batch
  normalization, ReLU and a convolution, as where a network changes its channels;
- "relu after": batch normalization ends the branch, and a ReLU follows each sum.

Training: 200 steps of gradient descent with momentum 0.9, in batches of 32. ``loss`` is the mean
over the last 50 steps; one above 10, or none that is finite, counts as 10. A rate **works** if in
every seed the loss is below three quarters of what guessing has, which is ln 10.

With "rate" 0, at initialization: ``ratio 8`` is the variance of the eighth branch over that of the
x it is added to, per channel over 256 images and all places, with 16 channels; ``slope`` is that of
its logarithm against the logarithm of the block's number, from block 4 to block 32.
"""

from collections.abc import Callable
from functools import cache, partial
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
BLOCKS = [1, 2, 4, 8, 16, 24, 32]
RATES = {
    "plain": [3e-7, 1e-6, 3e-6, 1e-5, 1e-4],
    "normalized": [0.03, 0.1, 0.3, 1.0],
    "zero": [0.003, 0.01, 0.03, 0.1, 0.3],
    "zero gamma": [0.03, 0.1, 0.3, 1.0],
    "constant": [0.003, 0.01, 0.03, 0.1, 0.3],
    "after": [0.01, 0.03, 0.1, 0.3],
}
SHALLOW = RATES | {"plain": [0.003, 0.01, 0.03, 0.1, 0.3]}
MEASURED = ["plain", "normalized", "after", "stages", "relu after"]
QUICK = [
    {"data": "digits", "net": net, "blocks": 4, "rate": 0.03} for net in ("normalized", "zero")
]
CASES = [
    *QUICK,
    *({"data": "fashion", "net": net, "blocks": 32, "rate": 0.0} for net in MEASURED),
    *(
        {"data": "fashion", "net": net, "blocks": blocks, "rate": rate}
        for blocks, nets in [(4, ["plain", "normalized", "zero"]), (32, list(RATES))]
        for net in nets
        for rate in (SHALLOW if blocks == 4 else RATES)[net]
    ),
]
HE = "he_normal"
GOAL = float(3 / 4 * np.log(10))


class Times(keras.layers.Layer):  # type: ignore[misc]
    """Multiplies by a number that is learned, or is not."""

    def __init__(self, start: float, learned: bool) -> None:
        super().__init__()
        self.number = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(start), trainable=learned
        )

    def call(self, x: Any) -> Any:
        return self.number * x


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once, or return the ratios of the variances of branches at initialization."""
    x, y = data(case["data"])
    order = deal(len(x), 32, 200, seed)
    if not case["rate"]:
        keras.utils.set_random_seed(seed)
        return ratios(case["net"], case["blocks"], tf.gather(x, order[:8].ravel()))
    model, train = trainer(tuple(x.shape[1:]), case["net"], case["blocks"])
    keras.utils.set_random_seed(seed)
    model.set_weights(network(tuple(x.shape[1:]), case["net"], case["blocks"]).get_weights())
    losses = train(x, y, tf.constant(order), tf.constant(case["rate"]))
    loss = np.nan_to_num(np.mean(losses[-50:]), nan=10.0, posinf=10.0)
    return {"loss": float(min(loss, 10.0))}


@cache
def data(name: str) -> tuple[Any, Any]:
    """Return images to train on, of mean 0 and variance 1 over all pixels, and labels."""
    split = images(name, 6400)
    x = (split.x_train - split.x_train.mean()) / split.x_train.std()
    return tf.constant(x), tf.constant(split.y_train, tf.int64)


def network(
    shape: tuple[int, ...], net: str, blocks: int, channels: int = 8, inside: Any = None
) -> keras.Model:
    """Return a new network; append what is added in each block to ``inside``, if that is given."""
    convolution = partial(
        keras.layers.Conv2D, channels, 3, padding="same", use_bias=False, kernel_initializer=HE
    )
    batch_norm, relu = partial(BatchNormalization, momentum=0.9), keras.layers.ReLU
    before = [batch_norm, relu] if net in ("normalized", "stages") else [relu]
    behind: dict[str, list[Any]] = {
        "zero": [partial(Times, 0.0, True)],
        "constant": [partial(Times, blocks**-0.5, False)],
        "zero gamma": [partial(batch_norm, gamma_initializer="zeros")],
        "relu after": [batch_norm],
    }
    total = {"after": [batch_norm], "relu after": [relu]}.get(net, [])

    inputs = keras.Input(shape)
    x = convolution(strides=2)(inputs)
    for block in range(blocks):
        if net == "stages" and block in (8, 16, 24):
            x = through(x, [*before, convolution])
        branch = through(x, [*before, convolution, *behind.get(net, [])])
        if inside is not None:
            inside.append((x, branch))
        x = through(keras.layers.Add()([x, branch]), total)
    x = keras.layers.GlobalAveragePooling2D()(through(x, before))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def through(x: Any, layers: list[Any]) -> Any:
    """Return what comes of ``x`` behind new layers of these kinds."""
    for layer in layers:
        x = layer()(x)
    return x


@cache
def trainer(shape: tuple[int, ...], net: str, blocks: int) -> tuple[keras.Model, Any]:
    """Return a network, and what trains it, traced once."""
    model = network(shape, net, blocks)
    weights = model.trainable_variables
    sums = [tf.Variable(tf.zeros(weight.shape)) for weight in weights]

    def train(x: Any, y: Any, order: Any, rate: Any) -> Any:
        for sum_ in sums:
            sum_.assign(tf.zeros_like(sum_))
        losses = tf.TensorArray(tf.float32, len(order))
        for step in tf.range(len(order)):
            with tf.GradientTape() as tape:
                logits = model(tf.gather(x, order[step]), training=True)
                loss = CROSS_ENTROPY(tf.gather(y, order[step]), logits)
            gradients = tape.gradient(loss, weights)
            for weight, sum_, gradient in zip(weights, sums, gradients, strict=True):
                weight.assign_sub(rate * sum_.assign(0.9 * sum_ + gradient))
            losses = losses.write(step, loss)
        return losses.stack()

    return model, tf.function(train)


def ratios(net: str, blocks: int, x: Any) -> dict[str, float]:
    """Return the variance of branches over that of what they are added to, and the slope."""
    inside: list[Any] = []
    model = network(tuple(x.shape[1:]), net, blocks, 16, inside)
    pairs = keras.Model(model.inputs, inside)(x, training=True)
    spread = [[float(np.mean(np.var(part, axis=(0, 1, 2)))) for part in pair] for pair in pairs]
    skip, branch = np.transpose(spread)
    ratio, numbers = branch / skip, np.arange(1, blocks + 1)
    slope = np.polyfit(np.log(numbers[3:]), np.log(ratio[3:]), 1)[0]
    return {"slope": float(slope), **{f"ratio {i}": float(ratio[i - 1]) for i in BLOCKS}}


def losses(record: Record, net: str, blocks: int = 32) -> dict[float, NDArray[np.float64]]:
    """Return the losses of all seeds at each rate."""
    rates = (SHALLOW if blocks == 4 else RATES)[net]
    case = {"data": "fashion", "net": net, "blocks": blocks}
    return {rate: record.values("loss", rate=rate, **case) for rate in rates}


def best(record: Record, net: str, blocks: int = 32) -> tuple[float, float]:
    """Return the mean loss at the rate where it is lowest, and that rate."""
    return min((loss.mean(), rate) for rate, loss in losses(record, net, blocks).items())


def works(record: Record, net: str, blocks: int = 32) -> float:
    """Return the largest rate that works, or 0."""
    of_rates = losses(record, net, blocks).items()
    return max((rate for rate, loss in of_rates if (loss < GOAL).all()), default=0.0)


def deep_need_it(record: Record) -> tuple[bool, str]:
    """Test that 32 blocks train with batch normalization, 4 do either way, 32 plain ones do not."""
    rates = {(n, b): works(record, n, b) for n in ("normalized", "plain") for b in (4, 32)}
    words = [f"{net}, {blocks} blocks: {rate:g}" for (net, blocks), rate in rates.items()]
    plain = rates.pop(("plain", 32))
    lowest = best(record, "plain")[0]
    return min(rates.values()) > 0 == plain, "; ".join(words) + f", lowest mean loss {lowest:.2f}"


def can_train(record: Record) -> tuple[bool, str]:
    """Test that some rate works where branches start at 0."""
    rate, (loss, at) = works(record, "zero"), best(record, "zero")
    return rate > 0, f"up to rate {rate:g}, lowest mean loss {loss:.3f} (rate {at:g})"


def as_good(net: str, blocks: int = 32) -> Callable[[Record], tuple[bool, str]]:
    """Return the test for a loss at most a tenth above that with batch normalization."""

    def test(record: Record) -> tuple[bool, str]:
        (ours, fast), (theirs, slow) = (best(record, n, blocks) for n in (net, "normalized"))
        words = f"loss {ours:.3f} (rate {fast:g}), normalized {theirs:.3f} ({slow:g})"
        return ours <= 1.1 * theirs, words

    return test


def larger_rates(record: Record) -> tuple[bool, str]:
    """Test that a larger rate works with batch normalization than with numbers that start at 0."""
    ours, theirs = (works(record, net) for net in ("normalized", "zero"))
    return ours > theirs, f"up to rate {ours:g} with, {theirs:g} with a number that starts at 0"


def small_branches(record: Record) -> tuple[bool, str]:
    """Test that where branches are not small, no rate works."""
    loss, rate = best(record, "after")
    words = (
        f"lowest mean loss {loss:.3f} (rate {rate:g}); up to rate {works(record, 'after'):g} works"
    )
    return works(record, "after") == 0, words


def less_good(record: Record) -> tuple[bool, str]:
    """Test that normalized sums are not as good as normalized branches."""
    good, words = as_good("after")(record)
    return not good, words


def inverse(*nets: str) -> Callable[[Record], tuple[bool, str]]:
    """Return the test for a slope near -1 in each net."""

    def test(record: Record) -> tuple[bool, str]:
        slopes = [record.values("slope", net=net, rate=0.0) for net in nets]
        words = [
            f"{net}: {slope.mean():.2f} ± {slope.std(ddof=1) / len(slope) ** 0.5:.2f}"
            for net, slope in zip(nets, slopes, strict=True)
        ]
        return all(abs(slope.mean() + 1) <= 0.25 for slope in slopes), "; ".join(words)

    return test


TENTH = " each at its best rate: a mean loss at most a tenth above."
SLOPE = "Mean slope of log ratio against log block, blocks 4 to 32: within 0.25 of -1"
CLAIMS = [
    Claim(
        "Deep residual networks do not train without a normalization, shallow ones do.",
        "de2020batch",
        "With it some rate works for 4 and 32 blocks; without, for 4, and none of five for 32.",
        deep_need_it,
    ),
    Claim(
        "They do train without it, if a number that starts at 0 ends each branch.",
        "de2020batch",
        "32 blocks: some rate works.",
        can_train,
    ),
    Claim(
        "A number that starts at 0 at the end of each branch does as well.",
        "de2020batch",
        "32 blocks," + TENTH,
        as_good("zero"),
    ),
    Claim(
        "So it does in a shallow network.",
        "de2020batch",
        "4 blocks," + TENTH,
        as_good("zero", 4),
    ),
    Claim(
        "The number need not be learned: 1/√blocks, at which branches start small, will do.",
        "de2020batch",
        "32 blocks," + TENTH,
        as_good("constant"),
    ),
    Claim(
        "Batch normalization whose gamma starts at 0 at the end of each branch does as well.",
        "goyal2017accurate",
        "32 blocks," + TENTH,
        as_good("zero gamma"),
    ),
    Claim(
        "Batch normalization allows larger rates than a number that starts at 0.",
        "de2020batch",
        "32 blocks: the largest rate that works is larger.",
        larger_rates,
    ),
    Claim(
        "Batch normalization that leaves branches as large as the rest does not make them train.",
        "de2020batch",
        "32 blocks, batch normalization after each sum: no rate works.",
        small_branches,
    ),
    Claim(
        "It does less than one that makes branches small.",
        "de2020batch",
        "32 blocks, each at its best rate: a mean loss more than a tenth above.",
        less_good,
    ),
    Claim(
        "It makes the variance of the branch of block l about 1/l of that of the rest.",
        "de2020batch",
        SLOPE + ".",
        inverse("normalized"),
    ),
    Claim(
        "Also where a ReLU follows each sum.",
        "de2020batch",
        SLOPE + ".",
        inverse("relu after"),
    ),
    Claim(
        "Also over the depth of a network of four stages.",
        "de2020batch",
        SLOPE + ", counting the blocks of all stages.",
        inverse("stages"),
    ),
]
