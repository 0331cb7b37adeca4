"""How soon is a network in evaluation mode as good as it is in training mode?

Four convolutions of 16 channels, each with batch normalization, learn the digits: the network and
the optimizer of the first screen of `book/wrong.ipynb`, with a rate that goes with the square root
of the batch size, from 0.1 at 128.

What acts in training is the batch alone, so one training serves for all momenta. The layers have
momentum 0, so that they hold the moments of the last batch, and moving averages of several momenta
are taken of these, from 0 and 1. After so many steps three kinds of accuracies are measured, all on
384 test images:

- "training": in training mode, in batches of the size of training, dealt at random;
- a momentum: in evaluation mode, with the moving averages of that momentum;
- "recalibrated": in evaluation mode, with the statistics of 128 training images under the present
  weights, taken in batches of the size of training.
"""

from functools import partial
from itertools import count, product
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, recalibrate
from bn_tutorial.moving_average import ExponentialMovingAverage
from experiments.data import images
from experiments.records import Record
from experiments.training import accuracy, deal, train

SEEDS = range(5)
#: Times at even distances on a logarithmic axis, five for each factor of ten.
TIMES = [round(10 ** (i / 5)) for i in range(16)]
BATCHES = [4, 8, 32, 128]
CASES = [
    {"batch": 32, "steps": 10},
    *({"batch": batch, "steps": TIMES[-1]} for batch in BATCHES),
]
QUICK = CASES[:1]
MOMENTA = [0.5, 0.9, 0.99, 0.999]
TESTED, RECALIBRATED = 384, 128


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Train once; return the accuracy of each kind at each time."""
    keras.utils.set_random_seed(seed)
    data, batch = images("digits"), case["batch"]
    model = network()
    variables = statistics(model)
    averages = {momentum: started(variables, momentum) for momentum in MOMENTA}
    dealt = deal(len(data.x_test), batch, TESTED // batch, seed)
    x_test, y_test = data.x_test[dealt.ravel()], data.y_test[dealt.ravel()]
    in_training = tf.function(partial(model, training=True))
    found, steps = {}, count(1)

    def measure() -> None:
        moments = values_of(variables)
        for average in averages.values():
            average.apply(moments)
        if (step := next(steps)) not in TIMES:
            return
        parts = [in_training(part) for part in np.split(x_test, len(dealt))]
        answers = np.argmax(np.concatenate(parts), axis=-1)
        found[f"training, {step}"] = float(np.mean(answers == y_test))
        for momentum, average in averages.items():
            put(average, variables)
            found[f"{momentum}, {step}"] = accuracy(model, x_test, y_test)
        recalibrate(model, data.x_train[:RECALIBRATED], batch_size=batch)
        found[f"recalibrated, {step}"] = accuracy(model, x_test, y_test)

    optimizer = keras.optimizers.SGD(0.1 * (batch / 128) ** 0.5, momentum=0.9)
    order = deal(len(data.x_train), batch, case["steps"], seed)
    train(model, optimizer, data.x_train, data.y_train, order, 1, measure)
    return found


def network(norm: Any = BatchNormalization, momentum: float = 0.0) -> keras.Model:
    """Return four convolutions, each with its ``norm``, and a linear layer on their means."""
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for _ in range(4):
        model.add(keras.layers.Conv2D(16, 3, padding="same", use_bias=False))
        model.add(norm(momentum=momentum))
        model.add(keras.layers.Activation("silu"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    return model


def statistics(model: keras.Model) -> dict[str, Any]:
    """Return the variables in which the layers hold their statistics, by a name."""
    norms = find_batch_norms(model)
    means = {f"mean of {way}": norm.moving_mean for way, norm in norms}
    return means | {f"variance of {way}": norm.moving_variance for way, norm in norms}


def values_of(variables: dict[str, Any]) -> dict[str, Any]:
    """Return what variables hold, by their names."""
    return {name: variable.numpy() for name, variable in variables.items()}


def started(variables: dict[str, Any], momentum: float) -> ExponentialMovingAverage:
    """Return moving averages that start from what the variables of a new model hold."""
    averages = ExponentialMovingAverage(momentum)
    averages.initialize(values_of(variables))
    return averages


def put(averages: ExponentialMovingAverage, variables: dict[str, Any]) -> None:
    """Put moving averages into the variables."""
    for name, variable in variables.items():
        variable.assign(averages.average(name))


def measured(record: Record) -> list[dict[str, float]]:
    """Return the accuracies in %: their means over the seeds, and the lowest and the highest.

    A row for each batch size, momentum and time.
    """
    rows = []
    for batch, momentum, step in product(BATCHES, MOMENTA, TIMES):
        row = {"batch": batch, "momentum": momentum, "step": step}
        for kind in ("training", "evaluation", "recalibrated"):
            name = momentum if kind == "evaluation" else kind
            values = 100 * record.values(f"{name}, {step}", batch=batch, steps=TIMES[-1])
            ends = {"": values.mean(), "_low": values.min(), "_high": values.max()}
            row |= {kind + end: round(float(value), 1) for end, value in ends.items()}
        rows.append(row)
    return rows
