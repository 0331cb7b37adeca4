r"""How far apart two statistics may be by chance, and how far apart they are.

The unit of all distances is what they do to the output: a mean that is off by one standard
deviation moves it by 1, and so does a variance that is off by a factor e².
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    largest: float = 0.0

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
        self.largest = max(self.largest, batch.largest)

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
        pairs = (self.means, self.example_means), (self.variances, self.example_variances)
        return tuple(self._scatter(batches, examples) for batches, examples in pairs)  # type: ignore[return-value]

    def _scatter(self, batches: Measured, examples: Measured) -> Array:
        by_example = examples.variance / (examples.count / batches.count)
        if batches.count < 8:  # too few to judge by
            return by_example
        return np.maximum(by_example, batches.variance * batches.count / (batches.count - 1))

    def noise(self, epsilon: float) -> Array:
        """Return the deviation of one batch's mean, in standard deviations of the values."""
        return np.sqrt(self.scatter()[0] / (self.variance + epsilon))


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
    other statistics of the sample than those of all its values.
    """
    true_mean, true_variance = against or (sample.mean, sample.variance)
    spread = true_variance + epsilon
    noise = np.stack(sample.scatter()) / np.stack([spread, 4 * spread**2])
    rounding = ROUNDING**2 * (1 + np.stack([true_mean**2 / spread, np.zeros_like(spread)]))
    chance = noise * (1 / sample.batches + 1 / batches) + rounding
    with np.errstate(invalid="ignore"):
        return Gap(
            (mean - true_mean) / np.sqrt(spread),
            0.5 * np.log((variance + epsilon) / spread),
            np.sqrt(chance),
            np.sqrt(noise),
        )
