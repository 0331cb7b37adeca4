"""How experiments train, where nothing else is said: a loss in steps, and an accuracy."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def deal(examples: int, batch_size: int, steps: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the examples of each step, of shape (steps, batch_size).

    Each pass over the data is shuffled anew; what makes no full batch goes over into the next.
    """
    rng, wanted = np.random.default_rng(seed), steps * batch_size
    passes = [rng.permutation(examples) for _ in range(-(-wanted // examples))]
    return np.concatenate(passes)[:wanted].reshape(steps, batch_size)


def train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    x: NDArray[Any],
    y: NDArray[Any],
    order: NDArray[np.int64],
    every: int | None = None,
    measure: Callable[[], Any] = lambda: None,
) -> tuple[NDArray[np.float32], list[Any]]:
    """Train a model that returns logits, a batch of ``order`` a step.

    Stops early where a loss is not finite any more.

    Parameters
    ----------
    order
        The numbers of the examples of each step, see `deal`.
    every, measure
        After so many steps, a divisor of their number, ``measure()`` is called.

    Returns
    -------
    losses
        Of each step that was made, before it.
    measured
        What ``measure`` returned, in its order.

    Raises
    ------
    ValueError
        If ``every`` does not divide the number of steps.
    """
    every = every or len(order)
    if len(order) % every:
        raise ValueError(f"every must divide the {len(order)} steps, got {every}")
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(x), tf.constant(y, tf.int32)

    def advance(rows: Any) -> Any:
        losses = tf.TensorArray(tf.float32, len(rows))
        for step in tf.range(len(rows)):
            batch = tf.gather(images, rows[step])
            with tf.GradientTape() as tape:
                logits = model(batch, training=True)
                loss = CROSS_ENTROPY(tf.gather(labels, rows[step]), logits)
            optimizer.apply(tape.gradient(loss, model.trainable_variables))
            losses = losses.write(step, loss)
        return losses.stack()

    traced = tf.function(advance)
    losses: list[NDArray[np.float32]] = []
    measured = []
    for rows in np.split(order, len(order) // every):
        losses.append(traced(tf.constant(rows, tf.int32)).numpy())
        measured.append(measure())
        if not np.isfinite(losses[-1]).all():
            break
    return np.concatenate(losses), measured


def accuracy(model: keras.Model, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the share of right answers in inference mode, all images at once."""
    logits = model(tf.constant(x), training=False)
    return float(np.mean(np.argmax(logits, axis=-1) == y))
