"""How well the averages of a batch normalization fit what it is called on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .._checks import Array
from ._examined import Calls, Examined, Norm
from ._sampling import Gap, Sample, gap_between

__all__ = [
    "averages_cost",
    "costs_loss",
    "gap_of",
    "gap_without_noise",
    "is_at_start",
    "is_finite",
    "is_forced",
    "is_trained",
    "momentum_of",
    "unlikeness_of",
]

COST = 0.1  # of the standard deviation of the outputs


def momentum_of(norm: Norm) -> float:
    """Return the weight that the old average has after one training step."""
    return float(norm.layer.momentum) ** max(norm.moves_forward, 1)


def gap_of(norm: Norm) -> Gap:
    """Return how far the averages are from the statistics in training mode.

    There are several right answers, of which the nearest counts: the mean of the batches'
    variances, to which training leads, or the variance of all values; with what is random in
    training mode, or without.
    """
    return _nearest(norm, norm.training, norm.batch)


def gap_without_noise(norm: Norm) -> Gap:
    """Return how far the averages are from the statistics without what is random in training."""
    return _nearest(norm, norm.batch)


def _nearest(norm: Norm, *modes: Calls) -> Gap:
    momentum = min(momentum_of(norm), 1.0)
    batches = (1 + momentum) / max(1 - momentum, 1e-9)  # that an average is worth
    gaps = [
        gap_between(norm.mean, norm.variance, calls.sample, norm.epsilon, batches, against)
        for calls in modes
        if calls.sample.batches
        for against in (None, _as_averaged(norm, calls))
    ]
    return min(gaps, key=lambda gap: (gap.matters, gap.size))


def _as_averaged(norm: Norm, calls: Calls) -> tuple[Array, Array]:
    """Return what the averages tend to: later calls in a step weigh more than earlier ones."""
    places: list[Sample] = [calls.places[place] for place in sorted(calls.places)]
    momentum = min(float(norm.layer.momentum), 1 - 1e-9)
    weights = momentum ** np.arange(len(places))[::-1]
    weights = weights / weights.sum()
    mean = sum(w * place.means.mean for w, place in zip(weights, places, strict=True))
    variance = sum(w * place.variances.mean for w, place in zip(weights, places, strict=True))
    return np.asarray(mean), np.asarray(variance)


def is_finite(norm: Norm) -> bool:
    """Whether all numbers that a rule about statistics needs are finite, and no variance is < 0."""
    sample = norm.batch.sample
    numbers = (norm.mean, norm.variance, sample.mean, sample.variance)
    return all(np.isfinite(values).all() for values in numbers) and bool((norm.variance >= 0).all())


def is_forced(norm: Norm) -> bool:
    """Whether a layer that is not frozen does not move its averages while its model trains."""
    calls = norm.training
    can_move = norm.layer.trainable and norm.layer.momentum < 1
    return can_move and (bool(norm.untold) or (bool(calls.sample.batches) and not calls.moved))


def unlikeness_of(norm: Norm) -> tuple[float, float] | None:
    """Return by how many σ the means of batches scatter, and how many times more than by chance.

    None where chance may explain it. Of several places, each is compared with itself.
    """
    places = [place for place in norm.batch.places.values() if place.batches]
    batches = min(place.batches for place in places)
    ratio = float(np.mean([place.unlikeness() for place in places]))
    scatter = [place.means.variance / (place.variance + norm.epsilon) for place in places]
    off = float(np.sqrt(np.mean(scatter)))
    is_unlike = batches >= 4 and ratio > (3 if batches >= 8 else 5) and off > 0.1
    return (off, ratio) if is_unlike else None


def is_at_start(norm: Norm) -> bool:
    """Whether the averages are exactly what they were made with."""
    layer = norm.layer
    pairs = (
        (norm.mean, layer.moving_mean_initializer),
        (norm.variance, layer.moving_variance_initializer),
    )
    return all(_is_initial(value, initializer) for value, initializer in pairs)


def is_trained(examined: Examined) -> bool:
    """Whether the weights of a model are not those that it was made with, as far as one can see.

    Told by the steps of its optimizer, and by biases and parameters that are no longer at their
    constant start.
    """
    optimizer = getattr(examined.model, "optimizer", None)
    if optimizer is not None and _as_array(optimizer.iterations) > 0:
        return True
    for layer in examined.model._flatten_layers():
        for name in ("bias", "gamma", "beta"):
            value = vars(layer).get(name, getattr(layer, f"_{name}", None))
            initializer = getattr(layer, f"{name}_initializer", None)
            if value is None or initializer is None or not hasattr(value, "shape"):
                continue
            if not _is_initial(_as_array(value), initializer, default=True):
                return True
    return False


def averages_cost(examined: Examined) -> bool:
    """Whether the outputs in inference mode suffer from the averages.

    They do if they are further from those with the right averages than the statistics of a single
    batch bring them, and the loss, if there is one, is a tenth higher for it, or more.
    """
    now = examined.right_against_inference
    if not examined.finite_outputs or not now.count:
        return examined.batch_against_inference.size > COST
    if now.size <= max(examined.batch_against_right.size, COST):
        return False
    return costs_loss(examined)


def costs_loss(examined: Examined) -> bool:
    """Whether the loss is a tenth higher with the present averages than with the right ones.

    True where there is no loss.
    """
    loss = examined.right_against_inference.loss
    return loss is None or loss[0] - loss[1] > COST * abs(loss[1])


def _as_array(variable: Any) -> Array:
    """Return the value of a variable, of the first replica where there are several."""
    return np.asarray(tf.convert_to_tensor(variable))


def _is_initial(value: Any, initializer: Any, default: bool = False) -> bool:
    """Whether a value is what a constant initializer makes; ``default`` for other initializers."""
    constant = keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant
    if not isinstance(initializer, constant):
        return default
    start = keras.ops.convert_to_numpy(initializer(np.shape(value), "float32"))
    return np.array_equal(value, start)
