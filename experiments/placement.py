"""Where batch normalization goes: with dropout, before the activation or after it.

Fashion-MNIST in 14 by 14 pixels, batches of 64, 1000 steps of gradient descent with momentum 0.9,
the rate falling to zero along a cosine, each arm at its own best rate.

Dropout: ``depth`` hidden layers of ``width`` ReLUs. "early" dropout follows each hidden layer but
the last, so that behind each come a dense layer and a batch normalization; "late" dropout follows
the last, behind all batch normalizations. With two hidden layers, both are one dropout. The control
is the same without normalization, which shows what early dropout costs by itself.

"recalibrated" is the accuracy, and "recalibrated loss" the loss, after the moving averages were set
to the statistics of 6000 images without dropout. "shift" is what the last normalization's moving
variance was before, divided by what it is then, in the mean over channels.

Order: "before" is normalization, activation, "after" is activation, normalization, in three hidden
layers of 100 units ("dense"), or three convolutions of 8, 16 and 16 filters with stride 2 ("conv").
A training that diverges ends with an accuracy of 0.1, and counts with a loss of 10.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import recalibrate
from experiments.claims import Claim
from experiments.data import images
from experiments.records import Record
from experiments.training import CROSS_ENTROPY, accuracy, deal, train

SEEDS = range(5)


def dropped(
    place: str, dropout: float = 0.5, width: int = 64, depth: int = 2, normalized: bool = True
) -> dict[str, Any]:
    """Return all of a case with dropout but its data and rate."""
    how = {"dropout": dropout, "width": width, "depth": depth, "normalized": normalized}
    return {"place": place} | how


PLACES = ("early", "late")
ARMS: list[dict[str, Any]] = [
    {},
    {"depth": 5},
    {"dropout": 0.1},
    {"dropout": 0.8},
    {"width": 256},
    {"normalized": False},
    {"depth": 5, "normalized": False},
]
DROPPED = [dropped(place, **part) for part in ARMS for place in PLACES]
#: The rates of each setting hold the best of both orders.
ORDERED = {
    ("dense", "sigmoid"): [0.064, 0.256, 1.024, 4.096],
    ("dense", "tanh"): [0.004, 0.016, 0.064, 0.256],
    ("dense", "relu"): [0.004, 0.016, 0.064, 0.256, 1.024],
    ("conv", "sigmoid"): [0.016, 0.064, 0.256, 1.024],
    ("conv", "relu"): [0.004, 0.016, 0.064, 0.256],
}
QUICK = [dropped(place) | {"data": "digits", "steps": 200, "rate": 0.064} for place in PLACES]
RATES = [0.004, 0.016, 0.064, 0.256, 1.024]
CASES = QUICK + [
    part | {"data": "fashion", "steps": 1000, "rate": rate}
    for part in DROPPED
    for rate in (RATES[1:] if part["dropout"] == 0.1 else RATES[:4])
]
CASES.append(dropped("early", width=16) | {"data": "fashion", "steps": 1000, "rate": 0.064})
CASES += [
    {"net": net, "activation": activation, "order": order}
    | {"data": "fashion", "steps": 1000, "rate": rate}
    for (net, activation), rates in ORDERED.items()
    for order in ("before", "after")
    for rate in rates
]

_images = cache(images)


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return accuracy and loss on the test images, and what recalibration changes."""
    keras.utils.set_random_seed(seed)
    x_train, x_test, y_train, y_test = _images(case["data"])
    model = network(x_train.shape[1:], case)
    rate = keras.optimizers.schedules.CosineDecay(case["rate"], case["steps"])
    order = deal(len(x_train), 64, case["steps"], seed)
    train(model, keras.optimizers.SGD(rate, momentum=0.9), x_train, y_train, order)

    def loss() -> float:
        value = float(CROSS_ENTROPY(y_test, model(x_test, training=False)))
        return value if np.isfinite(value) else 10.0

    found = {"accuracy": accuracy(model, x_test, y_test), "loss": loss()}
    if case.get("normalized"):
        norm = [layer for layer in model.layers if isinstance(layer, BatchNormalization)][-1]
        stored = np.array(norm.moving_variance)
        recalibrate(model, x_train[:6000], batch_size=6000)
        found |= {"recalibrated": accuracy(model, x_test, y_test), "recalibrated loss": loss()}
        found["shift"] = float(np.mean(stored / np.array(norm.moving_variance)))
    return found


def network(shape: tuple[int, ...], case: dict[str, Any]) -> keras.Model:
    """Return the network of a case."""
    if "order" in case:
        return in_order(shape, **{name: case[name] for name in ("net", "activation", "order")})
    normalized, depth = case["normalized"], case["depth"]
    layers = [keras.Input(shape), keras.layers.Flatten()]
    for number in range(1, depth + 1):
        layers.append(keras.layers.Dense(case["width"], use_bias=not normalized))
        layers += [BatchNormalization(momentum=0.9)] * normalized + [keras.layers.ReLU()]
        if (number == depth) == (case["place"] == "late"):
            layers.append(keras.layers.Dropout(case["dropout"]))
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def in_order(shape: tuple[int, ...], net: str, activation: str, order: str) -> keras.Model:
    """Return three hidden layers, each normalized before its activation or after it."""
    layers = [keras.Input(shape)] + [keras.layers.Flatten()] * (net == "dense")
    after = order == "after"  # where a bias counts
    for filters in (8, 16, 16):
        layers.append(
            keras.layers.Dense(100, use_bias=after)
            if net == "dense"
            else keras.layers.Conv2D(filters, 3, 2, padding="same", use_bias=after)
        )
        pair = [BatchNormalization(momentum=0.9), keras.layers.Activation(activation)]
        layers += pair[::-1] if after else pair
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def best(record: Record, part: dict[str, Any], name: str = "accuracy") -> NDArray[np.float64]:
    """Return what was measured with the rate whose mean accuracy is the best, in each seed."""
    part = part | {"data": "fashion"}
    rates = [case["rate"] for case in CASES if part.items() <= case.items()]
    found = {rate: record.values("accuracy", **part, rate=rate).mean() for rate in rates}
    return record.values(name, **part, rate=max(found, key=lambda rate: found[rate]))


def _shifts(record: Record) -> tuple[bool, str]:
    early, late = (
        np.array([best(record, dropped(place, dropout), "shift") for dropout in (0.1, 0.5, 0.8)])
        for place in PLACES
    )
    holds = (early > late).all() and (np.diff(early, axis=0) > 0).all() and (late < 1.05).all()
    found = [", ".join(f"{mean:.2f}" for mean in shifts.mean(1)) for shifts in (early, late)]
    return bool(holds), f"dropout 0.1, 0.5, 0.8: early {found[0]}; late {found[1]}"


def _costs(part: dict[str, Any], record: Record) -> tuple[bool, str]:
    early, late = (best(record, part | {"place": place}) for place in PLACES)
    return bool((early < late).all()), f"early {early.mean():.3f}, late {late.mean():.3f}"


def _because(depth: int, record: Record) -> tuple[bool, str]:
    early, late = (best(record, dropped(place, depth=depth)).mean() for place in PLACES)
    mended = best(record, dropped("early", depth=depth), "recalibrated").mean()
    plain = [best(record, dropped(p, depth=depth, normalized=False)).mean() for p in PLACES]
    holds = mended - early > (late - early) / 2 and plain[1] - plain[0] < late - early
    found = f"early {early:.3f}, recalibrated {mended:.3f}, late {late:.3f}"
    return bool(holds), f"{found}; without normalization {plain[0]:.3f} and {plain[1]:.3f}"


def _narrow(record: Record) -> tuple[bool, str]:
    cases = [dropped("early", width=width) for width in (16, 64, 256)]
    shifts = [record.values("shift", **case, data="fashion", rate=0.064) for case in cases]
    found = ", ".join(f"{shift.mean():.2f}" for shift in shifts)
    return bool((np.diff(shifts, axis=0) < 0).all()), found


def gains(record: Record) -> NDArray[np.float64]:
    """Return by how much "after" is more accurate than "before", of shape (settings, seeds)."""
    settings = [{"net": net, "activation": activation} for net, activation in ORDERED]
    after, before = (
        np.array([best(record, setting | {"order": order}) for setting in settings])
        for order in ("after", "before")
    )
    return after - before


def _order(holds: Callable[[Any], bool], record: Record) -> tuple[bool, str]:
    found = [
        f"{net} {activation} {gain.mean():+.3f} ({np.sum(gain > 0)} of {len(gain)} seeds)"
        for (net, activation), gain in zip(ORDERED, gains(record), strict=True)
    ]
    return bool(holds(gains(record))), "after less before: " + ", ".join(found)


CLAIMS = [
    Claim(
        "Dropout in front of batch normalization makes the variance in training larger than in"
        " use, dropout behind all of them does not.",
        "li2019understanding",
        "in each seed: early above late and growing with the dropout, late below 1.05",
        _shifts,
    ),
    *(
        Claim(
            "Dropout in front of batch normalization costs accuracy against dropout behind all.",
            "li2019understanding",
            f"{words}: early below late in each seed",
            partial(_costs, {key: value for key, value in part.items() if key != "place"}),
        )
        for words, part in [
            ("dropout 0.5, two layers", dropped("early")),
            ("dropout 0.5, five layers", dropped("early", depth=5)),
            ("dropout 0.1, two layers", dropped("early", 0.1)),
            ("dropout 0.5, 256 units", dropped("early", width=256)),
        ]
    ),
    *(
        Claim(
            "That is because the stored variance is not that in use.",
            "li2019understanding",
            f"{depth} layers: recalibrating wins back half of the difference of the means, and the"
            " difference is smaller without normalization",
            partial(_because, depth),
        )
        for depth in (2, 5)
    ),
    Claim(
        "Wide layers make the shift of the variance smaller.",
        "li2019understanding",
        "early dropout 0.5, rate 0.064: the shift falls from 16 to 64 to 256 units in each seed",
        _narrow,
    ),
    Claim(
        "Batch normalization belongs before the activation.",
        "ioffe2015batch",
        "before is better than after in each seed of all five settings",
        partial(_order, lambda gains: (gains < 0).all()),
    ),
    Claim(
        "Another position than before the activation can train better.",
        "hasani2019position",
        "after is better than before in each seed of one setting at least",
        partial(_order, lambda gains: (gains > 0).all(1).any()),
    ),
    Claim(
        "The position that helps one network does not help another.",
        "hasani2019position",
        "in each seed after is better in one setting, and before in another",
        partial(_order, lambda gains: (gains > 0).all(1).any() and (gains < 0).all(1).any()),
    ),
]
