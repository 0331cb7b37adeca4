"""The statistics of what a batch normalization is called on, over many batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from .._checks import Array

__all__ = ["ExampleMoments", "Measured", "moments_of_examples"]

BLOCK = 2**21  # values that are looked at in float64 at a time


def _nothing() -> Array:
    return np.zeros(())


@dataclass
class Measured:
    """Counts, means and summed squared deviations of values per channel, in float64.

    Batches are merged as by Chan, Golub and LeVeque (1983), so that nothing is lost far from zero.
    """

    counts: Array = field(default_factory=_nothing)
    mean: Array = field(default_factory=_nothing)
    squares: Array = field(default_factory=_nothing)

    def add(self, count: float | Array, mean: Array, variance: Array) -> None:
        """Merge ``count`` more values per channel, of a mean and a biased variance."""
        total = self.counts + count
        share = count / np.maximum(total, 1)
        apart = mean - self.mean
        self.mean = self.mean + apart * share
        self.squares = self.squares + variance * count + apart**2 * self.counts * share
        self.counts = total

    @property
    def count(self) -> float:
        """How many values there are in the channel that has most."""
        return float(np.max(self.counts))

    @property
    def variance(self) -> Array:
        """The biased variance of all values, 0 where there are none."""
        return self.squares / np.maximum(self.counts, 1)


class ExampleMoments(NamedTuple):
    """Counts, means and biased variances of each example of a batch: arrays (N, channels).

    The moments of no values are 0.
    """

    counts: Array
    means: Array
    variances: Array
    largest: float  # of the absolute values

    def of_the_batch(self) -> tuple[Array, Array, Array]:
        """Return the counts, the means and the biased variances of all examples together."""
        counts = self.counts.sum(0)
        there = np.maximum(counts, 1)
        means = (self.means * self.counts).sum(0) / there
        around = self.variances + (self.means - means) ** 2
        return counts, means, (around * self.counts).sum(0) / there


def moments_of_examples(norm: Any, inputs: Any, mask: Any = None) -> ExampleMoments:
    """Return the moments of what a batch normalization was called on, in float64.

    A few examples are looked at at a time, so that the copies in float64 stay small.
    """
    inputs = tf.convert_to_tensor(inputs)
    if mask is not None:
        mask = tf.broadcast_to(tf.cast(mask, "bool")[..., tf.newaxis], inputs.shape)
    size = max(BLOCK // max(int(np.prod(inputs.shape[1:])), 1), 1)
    parts = [
        _moments(norm, inputs[i : i + size], None if mask is None else mask[i : i + size])
        for i in range(0, max(inputs.shape[0], 1), size)
    ]
    counts, means, variances, largest = zip(*parts, strict=True)
    return ExampleMoments(
        np.concatenate(counts), np.concatenate(means), np.concatenate(variances), max(largest)
    )


def _moments(norm: Any, inputs: Any, mask: Any) -> tuple[Array, Array, Array, float]:
    x = tf.cast(inputs, "float64")
    axis = norm.axis % x.shape.rank
    inside = [a for a in range(1, x.shape.rank) if a != axis]
    channels = (x.shape[0], x.shape[axis])
    if mask is None:
        counts = np.full(channels, np.prod([x.shape[a] for a in inside], dtype="float64"))
    else:
        x = tf.where(mask, x, 0.0)
        counts = np.asarray(tf.reduce_sum(tf.cast(mask, "float64"), inside))
    there = np.maximum(counts, 1)
    means = np.asarray(tf.reduce_sum(x, inside)) / there
    shape = [size if a in (0, axis) else 1 for a, size in enumerate(x.shape)]
    squares = tf.square(x - np.reshape(means, shape))
    if mask is not None:
        squares = tf.where(mask, squares, 0.0)
    variances = np.asarray(tf.reduce_sum(squares, inside)) / there
    return counts, means, variances, float(tf.reduce_max(tf.abs(x))) if counts.size else 0.0
