"""What weight decay does in front of a batch normalization: to lengths, to angles, to accuracy.

Two hidden layers of 64 ReLUs with batch normalization on the first 10,000 images of Fashion-MNIST
in 14 by 14 pixels, batches of 100, 3000 steps (30 passes); digits for 300 steps. The weights of a
channel in front of a normalization are a vector whose length the network does not feel. ``rate``
and ``decay`` are those of these vectors; gamma, beta and the last layer have a rate of 0.1 and no
decay, unless ``same`` gives all the same rate, or ``decayed`` names them. Rates are constant, or
fall to zero along a ``cosine``.

The optimizers are written out, as in the papers: "sgd", "momentum" 0.9 and "adam" with the decay
in the gradient, "adamw" with the decay beside it. With ``norms_of``, the vectors get, after each
step, the lengths that they have in a run of the same seed with that decay.

Measured: ``turn``, the angle in radians between such a vector before a step and after (root of the
mean square over steps and channels), and ``effective``, the mean rate over the squared length, in
ten of 30 parts of the training; over the last third ``first`` and ``second``, the angle in either
layer over the predicted one, the same of the last layer (``last``), and the mean accuracy on the
test images (``test``); at the end that accuracy (``final``).
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
from experiments.training import CROSS_ENTROPY, accuracy, deal

SEEDS = range(5)
STEPS = {"digits": 300, "fashion": 3000}
PARTS = 30
#: The square of the angle that is predicted, over 2 * rate * decay (nobody predicts "adam").
FACTORS = {"sgd": 1.0, "momentum": 1 / 1.9, "adam": 1.0, "adamw": 0.1 / 1.9}
GROUPS = ["kernels", "norms", "norms", "kernels", "norms", "norms", "last", "last"]


def sgd(rate: float, decay: float, **others: Any) -> dict[str, Any]:
    """Return a case of gradient descent at a constant rate, or what differs."""
    case = {"data": "fashion", "optimizer": "sgd", "rate": rate, "decay": decay, "cosine": False}
    how = {"same": False, "decayed": ["kernels"], "epsilon": 1e-5, "norms_of": None}
    return case | how | others


SETTLED = [sgd(0.1, 0.02), sgd(0.4, 0.005), sgd(1.6, 0.00125), sgd(0.4, 0.02), sgd(0.4, 0.00125)]
SETTLED += [
    sgd(rate, decay, optimizer="momentum") for rate, decay in [(0.04, 0.005), (0.1, 0.0005)]
]
SLOW = [sgd(0.025, 0.02), sgd(0.1, 0.0005)]
ADAMW, ADAM = (sgd(0.001, d, optimizer=o) for d, o in [(2.0, "adamw"), (0.005, "adam")])
LARGE_EPSILON = sgd(0.4, 0.005, epsilon=1.0)
SAME = [sgd(0.1, 0.02), *(sgd(r, d, same=True) for r, d in [(0.4, 0.005), (1.6, 0.00125)])]
WITHOUT = [sgd(0.1, 0.0), sgd(0.4, 0.0)]
#: No decay, decay, decay with the lengths of none, none with the lengths of decay.
LENGTHS = [sgd(0.4, 0.0), sgd(0.4, 0.005), sgd(0.4, 0.005, norms_of=0.0)]
LENGTHS += [sgd(0.4, 0.0, norms_of=0.005)]
RATES = [0.025, 0.1, 0.4, 1.6, 6.4]
ARMS: dict[str, dict[str, Any]] = {
    "none": {"decay": 0.0},
    "in front": {"decay": 0.005},
    "and last": {"decay": 0.005, "decayed": ["kernels", "last"]},
    "all": {"decay": 0.005, "decayed": ["kernels", "last", "norms"]},
}
QUICK = [sgd(0.4, 0.02, data="digits"), sgd(0.4, 0.02, data="digits", norms_of=0.0)]
CASES = [*QUICK, *SETTLED, *SLOW, ADAMW, ADAM, LARGE_EPSILON, *SAME[1:], *WITHOUT, *LENGTHS[2:]]
CASES += [sgd(rate, **arm, cosine=True) for arm in ARMS.values() for rate in RATES]
CASES += [case | {"cosine": True} for case in LENGTHS[2:]]


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; where lengths are borrowed, train the run that they come from first."""
    lengths = None
    if case["norms_of"] is not None:
        lengths = _train(case | {"decay": case["norms_of"]}, seed)[0]
    squares, turns, last, tests = _train(case, seed, lengths)
    found = {"test": float(np.mean(tests[-PARTS // 3 :])), "final": tests[-1]}
    for part in range(0, PARTS, 3):
        here = slice(part * len(turns) // PARTS, (part + 1) * len(turns) // PARTS)
        found[f"turn {part}"] = _rms(turns[here])
        found[f"effective {part}"] = float(np.mean(case["rate"] / squares[here]))
    if case["decay"]:
        predicted = np.sqrt(2 * case["rate"] * case["decay"] * FACTORS[case["optimizer"]])
        end = slice(len(turns) * 2 // 3, None)
        for name, part in [("first", turns[:, :64]), ("second", turns[:, 64:]), ("last", last)]:
            found[name] = _rms(part[end]) / float(predicted)
    return found


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


_images = cache(images)


def _train(case: dict[str, Any], seed: int, lengths: Any = None) -> tuple[Any, ...]:
    """Return of each step and channel squared lengths and angles, and the test accuracies."""
    keras.utils.set_random_seed(seed)
    x, x_test, y, y_test = _images(case["data"], 10_000)
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Flatten()])
    for _ in range(2):
        model.add(keras.layers.Dense(64, use_bias=False))
        model.add(BatchNormalization(momentum=0.9, epsilon=case["epsilon"]))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    steps = STEPS[case["data"]]
    given = np.zeros((steps, 0)) if lengths is None else lengths
    order = deal(len(x), 100, steps, seed)
    update, kernels = _optimizer(model, case), [model.layers[1].kernel, model.layers[4].kernel]

    @tf.function  # type: ignore[untyped-decorator]
    def advance(rows: Any, given: Any) -> Any:
        found = [tf.TensorArray(tf.float32, len(rows)) for _ in range(3)]
        for step in tf.range(len(rows)):
            with tf.GradientTape() as tape:
                logits = model(tf.gather(x, rows[step]), training=True)
                loss = CROSS_ENTROPY(tf.gather(y, rows[step]), logits)
            before = [kernel.value + 0.0 for kernel in (*kernels, model.layers[-1].kernel)]
            update(tape.gradient(loss, model.trainable_variables))
            if lengths is not None:
                for kernel, squares in zip(kernels, tf.split(given[step], 2), strict=True):
                    kernel.assign(kernel * tf.sqrt(squares) / tf.norm(kernel, axis=0))
            squares = [tf.reduce_sum(kernel**2, 0) for kernel in kernels]
            first, second, last = map(_angle, before, (*kernels, model.layers[-1].kernel))
            values = [tf.concat(squares, 0), tf.concat([first, second], 0), last]
            found = [array.write(step, value) for array, value in zip(found, values, strict=True)]
        return [array.stack() for array in found]

    parts, tests = [], []
    for rows, rest in zip(np.split(order, PARTS), np.split(given, PARTS), strict=True):
        parts.append(advance(tf.constant(rows), tf.constant(rest, tf.float32)))
        tests.append(accuracy(model, x_test, y_test))
    return *(np.concatenate(values) for values in zip(*parts, strict=True)), tests


def _angle(one: Any, two: Any) -> Any:
    """Return the angle between columns, from the chord, which small angles do not round off."""
    chord = tf.norm(tf.nn.l2_normalize(one, 0) - tf.nn.l2_normalize(two, 0), axis=0)
    return 2 * tf.asin(chord / 2)


def _optimizer(model: keras.Model, case: dict[str, Any]) -> Any:
    """Return a function that makes a step along gradients."""
    name = case["optimizer"]
    variables = model.trainable_variables
    steps = STEPS[case["data"]]
    slots = [[tf.Variable(tf.zeros(v.shape)) for v in variables] for _ in range(2)]
    count = tf.Variable(0.0)

    def update(gradients: list[Any]) -> None:
        left = 0.5 + 0.5 * tf.cos(np.pi * count / steps) if case["cosine"] else 1.0
        count.assign_add(1.0)
        for v, g, m, s, group in zip(variables, gradients, *slots, GROUPS, strict=True):
            own = group == "kernels" or case["same"]
            rate = (case["rate"] if own else 0.1) * left
            decay = case["decay"] if group in case["decayed"] else 0.0
            if name == "adamw":
                v.assign((1 - rate * decay) * v)
            else:
                g = g + decay * v
            if name == "momentum":
                g = m.assign(0.9 * m + g)
            if name.startswith("adam") and own:
                m.assign(0.9 * m + 0.1 * g)
                s.assign(0.999 * s + 0.001 * g**2)
                g = m / (1 - 0.9**count) / (tf.sqrt(s / (1 - 0.999**count)) + 1e-8)
            v.assign_sub(rate * g)

    return update


def best(record: Record, arm: str) -> NDArray[np.float64]:
    """Return the accuracies at the end of an arm under the cosine, at its best rate."""
    cases = [sgd(rate, **ARMS[arm], cosine=True) for rate in RATES]
    return max((record.values("final", **case) for case in cases), key=np.mean)


def gain(one: NDArray[np.float64], two: NDArray[np.float64]) -> tuple[float, float]:
    """Return by how much one is better than the other, in points, and the standard error."""
    points = 100 * (one - two)
    return float(points.mean()), float(points.std(ddof=1) / np.sqrt(len(points)))


def _angles(cases: list[dict[str, Any]]) -> Any:
    """Return a test of whether angles are the predicted ones."""

    def test(record: Record) -> tuple[bool, str]:
        found = [record.values(key, **case) for case in cases for key in ("first", "second")]
        low, high = np.min(found), np.max(found)
        return bool(low > 0.9 and high < 1.1), f"{low:.2f} to {high:.2f} of the predicted angle"

    return test


def _products(cases: list[dict[str, Any]]) -> Any:
    """Return a test of whether accuracy hangs on rate times decay."""

    def test(record: Record) -> tuple[bool, str]:
        means = [100 * record.values("test", **case).mean() for case in cases]
        others = [100 * record.values("test", **case).mean() for case in SETTLED[3:5]]
        apart = min(abs(other - mean) for other in others for mean in means)
        found = ", ".join(f"{mean:.1f}" for mean in means)
        return np.ptp(means) < 1 < apart, f"{found}; others at least {apart:.1f} points from them"

    return test


def _grows(record: Record) -> tuple[bool, str]:
    names = [f"effective {part}" for part in range(0, PARTS, 3)]
    found = np.array([[record.values(name, **case) for name in names] for case in WITHOUT])
    left = found[:, -1] / found[:, 0]
    return bool((np.diff(found, axis=1) < 0).all()), f"{left.min():.2f} to {left.max():.2f} is left"


def _lengths(record: Record) -> tuple[bool, str]:
    none, decay, held, lent = (100 * record.values("test", **case).mean() for case in LENGTHS)
    effect, rest, made = decay - none, held - none, lent - none
    holds = abs(rest) < abs(effect) / 4 and abs(made - effect) < abs(effect) / 4
    return bool(
        holds
    ), f"{effect:+.2f} points by decay, {rest:+.2f} and {made:+.2f} in the controls"


def _lengths_cosine(record: Record) -> tuple[bool, str]:
    none, *others = (record.values("final", **case | {"cosine": True}) for case in LENGTHS)
    gains = [gain(other, none) for other in others]
    better = [mean > 2 * error for mean, error in gains]
    words = ", ".join(f"{mean:+.2f} ({error:.2f})" for mean, error in gains)
    return better == [True, False, True], f"decay, and the controls: {words} points"


def _beats(one: str, two: str, wanted: bool) -> Any:
    """Return a test of whether an arm is better, each at its best rate."""

    def test(record: Record) -> tuple[bool, str]:
        mean, error = gain(best(record, one), best(record, two))
        return (mean > 2 * error) == wanted, f"{mean:+.2f} points, standard error {error:.2f}"

    return test


_WITHIN = "in every seed and both layers, over the last third, it is within 10% of the prediction"
_PRODUCT = (
    "the three mean accuracies over the last third are within one point, and those of a product"
    " four times as large or a quarter more than that from each"
)
CLAIMS = [
    Claim(
        "Without decay the effective rate falls all the time.",
        "arora2019theoretical",
        "in every seed it is lower in each of the ten measured parts than in the one before",
        _grows,
    ),
    Claim(
        "With decay the angle of a step settles at a value that rate, decay and momentum give.",
        "wan2021spherical",
        f"for seven settings of gradient descent, with momentum and without, {_WITHIN}",
        _angles(SETTLED),
    ),
    Claim(
        "The same, without momentum, with decay 0.0005 or a low rate.",
        "wan2021spherical",
        _WITHIN,
        _angles(SLOW),
    ),
    Claim(
        "The angle of AdamW settles at a value that rate, decay and beta_1 give.",
        "kosson2024rotational",
        _WITHIN,
        _angles([ADAMW]),
    ),
    Claim(
        "What counts in the end is the product of rate and decay.",
        "vanlaarhoven2017l2",
        _PRODUCT,
        _products(SETTLED[:3]),
    ),
    Claim(
        "The same, where the rate is that of all parameters.",
        "vanlaarhoven2017l2",
        _PRODUCT,
        _products(SAME),
    ),
    Claim(
        "Decay acts by the lengths alone (constant rate).",
        "hoffer2018norm",
        "with the lengths of the run without decay, less than a quarter of decay's effect on mean"
        " accuracy is left; without decay, but with the lengths of decay, all of it is there, give"
        " or take a quarter",
        _lengths,
    ),
    Claim(
        "Decay generalizes better, and that by the lengths alone (rate along a cosine).",
        "zhang2019three",
        "by more than two standard errors, decay is better than none, with the lengths of none it"
        " is not, and none with the lengths of decay is",
        _lengths_cosine,
    ),
    Claim(
        "Decay in front of a normalization does not regularize.",
        "vanlaarhoven2017l2",
        "each at its best rate along a cosine, decay is not better by more than two standard"
        " errors",
        _beats("in front", "none", wanted=False),
    ),
    Claim(
        "Gamma and beta are better left without decay.",
        "he2019bag",
        "each at its best rate along a cosine, decay of all but gamma and beta is better than of"
        " all by more than two standard errors",
        _beats("and last", "all", wanted=True),
    ),
]
