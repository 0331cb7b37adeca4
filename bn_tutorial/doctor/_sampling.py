r"""How far apart two statistics may be by chance, and how far apart they are.

The unit of all distances is what they do to the output: a mean that is off by one standard
deviation moves it by 1, and so does a variance that is off by a factor e².
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import log
from statistics import NormalDist

import numpy as np

from .._checks import Array
from ..models._measured import ExampleMoments, Measured

__all__ = ["Gap", "Sample", "gap_between"]

CHANCE = 1e-4  # that a layer is said to differ where nothing but chance is at work
ROUNDING = 1e-5  # of a float32 sum, and what it leaves in a difference


@dataclass
class Sample:
    """What a batch normalization was called on: all values, batch by batch, and by example.

    Values within an example are alike, as neighbouring pixels are, and so examples are what is
    counted as independent; where batches differ by more than that explains, batches are.
    """

    values: Measured = field(default_factory=Measured)
    means: Measured = field(default_factory=Measured)  # one per batch
    variances: Measured = field(default_factory=Measured)
    example_means: Measured = field(default_factory=Measured)  # one per example
    example_variances: Measured = field(default_factory=Measured)
    shares: Measured = field(default_factory=Measured)  # of one example in its batch
    peaks: Measured = field(default_factory=Measured)  # the largest share of an example in squares
    still: Measured = field(default_factory=Measured)  # 1 of a batch in which a channel is constant
    largest: float = 0.0
    sizes: Counter[int] = field(default_factory=Counter)  # of the batches, in examples

    def add(self, batch: ExampleMoments) -> None:
        """Add a batch."""
        there = batch.counts.min(axis=1) > 0
        if not there.any():
            return
        counts, mean, variance = batch.of_the_batch()
        means = batch.means[there]
        around = batch.variances[there] + (means - mean) ** 2
        nothing = np.zeros_like(mean)
        self.values.add(counts, mean, variance)
        self.means.add(1, mean, nothing)
        self.variances.add(1, variance, nothing)
        self.example_means.add(len(means), means.mean(0), means.var(0))
        self.example_variances.add(len(means), around.mean(0), around.var(0))
        self.shares.add(1, np.full(1, 1 / len(means)), np.zeros(1))
        squares = around * batch.counts[there]
        peaks = squares.max(0) / np.maximum(squares.sum(0), 1e-300)
        self.peaks.add(1, peaks, nothing)
        self.still.add(1, _is_constant(mean, variance).astype(float), nothing)
        self.largest = max(self.largest, batch.largest)
        self.sizes[len(means)] += 1

    @property
    def batches(self) -> int:
        return int(self.means.count)

    @property
    def mean(self) -> Array:
        return self.values.mean

    @property
    def variance(self) -> Array:
        return self.values.variance

    def scatter(self) -> tuple[Array, Array]:
        """Return the variances that the mean and the variance of one batch have by chance."""
        by_example, by_batch = self._by_example(), self._by_batch()
        if self.batches < 8:  # too few to judge by
            return by_example
        mean, variance = (np.maximum(*pair) for pair in zip(by_example, by_batch, strict=True))
        return mean, variance

    def noise(self, epsilon: float) -> Array:
        """Return the deviation of a batch's mean in σ, were the batch drawn at random."""
        return np.sqrt(self._by_example()[0] / (self.variance + epsilon))

    def usual(self) -> tuple[int, float]:
        """Return the usual size of a batch, and the mean share of an example from that size on."""
        usual = max(self.sizes, key=lambda size: (self.sizes[size], size))
        kept = {size: count for size, count in self.sizes.items() if size >= usual}
        return usual, sum(count / size for size, count in kept.items()) / sum(kept.values())

    def unlikeness(self) -> float:
        """Return how much more batches scatter than batches drawn at random: about 1 for those."""
        by_example, by_batch = self._by_example()[0], self._by_batch()[0]
        varies = by_example > 0
        return float(np.mean(by_batch[varies] / by_example[varies])) if varies.any() else 0.0

    def _by_example(self) -> tuple[Array, Array]:
        share = self.shares.mean
        return self.example_means.variance * share, self.example_variances.variance * share

    def _by_batch(self) -> tuple[Array, Array]:
        unbiased = self.batches / max(self.batches - 1, 1)
        return self.means.variance * unbiased, self.variances.variance * unbiased


def _is_constant(mean: Array, variance: Array) -> Array:
    return np.asarray(variance <= (ROUNDING * mean) ** 2)


@dataclass(frozen=True)
class Gap:
    """How far statistics are from those of a sample, per channel, and what chance explains."""

    mean: Array
    scale: Array
    chance: Array  # the deviation of both by chance: shape (2, channels)
    noise: Array  # of one batch's statistics: shape (2, channels)

    @property
    def size(self) -> float:
        """The root mean square over channels of what it does to the output."""
        return float(np.sqrt(np.mean(self.mean**2 + self.scale**2)))

    @property
    def is_real(self) -> bool:
        """Whether chance hardly explains it."""
        apart = np.abs([self.mean, self.scale]) / self.chance
        return bool(apart.max() > -NormalDist().inv_cdf(CHANCE / (2 * apart.size)))

    @property
    def is_large(self) -> bool:
        """Whether it is larger than the differences that batches make in training."""
        usual = float(np.sqrt(np.mean(np.sum(self.noise**2, axis=0))))
        largest = float(np.max(np.abs([self.mean, self.scale])))
        return self.size > max(usual, 0.01) or largest > max(0.5, 3 * float(self.noise.max()))

    @property
    def matters(self) -> bool:
        return self.is_real and self.is_large


def gap_between(
    mean: Array,
    variance: Array,
    sample: Sample,
    epsilon: float,
    batches: float,
    against: tuple[Array, Array] | None = None,
) -> Gap:
    """Return how far a mean and a variance are from those of a sample.

    ``batches`` says of how many batches, as it were, the former are the average. ``against`` are
    other statistics of the sample than those of all its values. A channel that has one value in one
    of both, and other values in the other so seldom that chance explains it, counts as no gap.
    """
    true_mean, true_variance = against or (sample.mean, sample.variance)
    spread = true_variance + epsilon
    noise = np.stack(sample.scatter()) / np.stack([spread, 4 * spread**2])
    rounding = ROUNDING**2 * (1 + np.stack([true_mean**2 / spread, np.zeros_like(spread)]))
    chance = noise * (1 / sample.batches + 1 / batches) + rounding
    known = np.logical_not(_is_too_rare(mean, variance, sample, batches))
    with np.errstate(invalid="ignore"):
        return Gap(
            known * (mean - true_mean) / np.sqrt(spread),
            known * 0.5 * np.log((variance + epsilon) / spread),
            np.sqrt(chance),
            np.sqrt(noise),
        )


def _is_too_rare(mean: Array, variance: Array, sample: Sample, batches: float) -> Array:
    """Tell channels that are constant on one side, and nearly so on the other.

    Of values with a mean that is d off a constant, at least d² / (d² + variance) are another value
    (Cantelli). A share of -log(p) / n of them is not met in n examples with probability p.
    """
    apart = (mean - sample.mean) ** 2
    examples = sample.example_means.count

    def seldom(constant: Array, variance: Array, count: float) -> Array:
        share = apart / np.maximum(apart + variance, 1e-300)
        return np.logical_and.reduce([constant, share > 0, share * count <= -log(CHANCE)])

    return np.logical_or(
        seldom(_is_constant(sample.mean, sample.variance), variance, examples),
        seldom(_is_constant(mean, variance), sample.variance, examples * batches / sample.batches),
    )
