"""What do messages between two processes cost, and what does synchronizing cost a step?

Two processes on one machine, joined by `tf.distribute.MultiWorkerMirroredStrategy`, time each kind
of step in turn and return ratios of medians.

With ``messages``: so many numbers are added up over the workers one message each, one after the
other; or in one message; against a single one. "large" is one message of a million numbers.

With ``layers``: a step of training of so many convolutions (8 channels, 16 by 16 positions, 32
examples a process), each followed by a batch normalization, synchronized or not.
"""

import json
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.book.cluster import Cluster
from bn_tutorial.layers import BatchNormalization

WORKERS = 2
TURNS, TIMES = 7, 20
SEEDS = range(5)  # which change nothing but the moment
CASES = [{"messages": 16}, *({"layers": number} for number in (1, 4, 12))]
QUICK = CASES[:1]


def run(case: dict[str, Any], seed: int) -> dict[str, float]:
    """Start the processes, and return the ratios that the first found."""
    command = [sys.executable, "-m", "experiments.messages", json.dumps(case)]
    with Cluster(command, WORKERS) as cluster:
        if any(cluster.wait(timeout=300)):
            raise RuntimeError(cluster.errors()[0])
        found: dict[str, float] = json.loads(cluster.outputs()[0].splitlines()[-1])
    return found


def ratios(kinds: dict[str, Any], unit: str) -> dict[str, float]:
    """Return the median time of each kind of step against that of one of them."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(TURNS + 1):
        for kind, step in kinds.items():
            start = time.perf_counter()
            for _ in range(TIMES):
                step()
            if turn:  # the first traces
                times[kind].append(time.perf_counter() - start)
    medians = {kind: float(np.median(values)) for kind, values in times.items()}
    return {kind: round(medians[kind] / medians[unit], 2) for kind in kinds if kind != unit}


def of_messages(strategy: Any, number: int) -> dict[str, float]:
    """Compare messages."""
    one, large = tf.ones(1), tf.ones(10**6)

    def sums(value: Any, times: int) -> Any:
        replica = tf.distribute.get_replica_context()
        for _ in range(times):
            value = replica.all_reduce("MEAN", value)
        return tf.reduce_max(value)

    def step(value: Any, times: int) -> Any:
        return tf.function(lambda: strategy.run(sums, (value, times)))

    kinds = {
        "one": step(one, 1),
        "apart": step(one, number),
        "together": step(tf.ones(number), 1),
        "large": step(large, 1),
    }
    return ratios(kinds, "one")


def of_layers(strategy: Any, number: int) -> dict[str, float]:
    """Compare steps of training."""
    x = tf.random.stateless_normal((32, 16, 16, 8), (0, 0))

    def step(norm: Any, **options: Any) -> Any:
        with strategy.scope():
            model = keras.Sequential([keras.Input((16, 16, 8))])
            for _ in range(number):
                model.add(keras.layers.Conv2D(8, 3, padding="same", use_bias=False))
                model.add(norm(**options))
                model.add(keras.layers.ReLU())
            optimizer = keras.optimizers.SGD(1e-3)
            optimizer.build(model.trainable_variables)

        def learn() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True)))
            optimizer.apply(tape.gradient(loss, model.trainable_variables))

        return tf.function(lambda: strategy.run(learn))

    theirs = keras.layers.BatchNormalization
    kinds = {
        "own": step(BatchNormalization),
        "synchronized": step(BatchNormalization, synchronized=True),
        "own, Keras": step(theirs),
        "synchronized, Keras": step(theirs, synchronized=True),
    }
    return ratios(kinds, "own")


if __name__ == "__main__":
    (kind, number), *_ = json.loads(sys.argv[1]).items()
    compare = {"messages": of_messages, "layers": of_layers}[kind]
    print(json.dumps(compare(tf.distribute.MultiWorkerMirroredStrategy(), number)))
