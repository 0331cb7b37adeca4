"""What is in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np

from .._examined import Examined
from .._fit import COST, is_finite, momentum_of, unlikeness_of
from .._sampling import Sample, gap_between
from ..report import Finding
from .words import and_others, in_sigma

__all__ = [
    "data_shift",
    "outliers",
    "padding_counts",
    "replicas",
    "small_batch",
    "unlike_batches",
]

LARGER = (
    "larger batches, or train on with group normalization by replace_batch_norm; to fine-tune, "
    "freeze"
)


def small_batch(examined: Examined) -> Iterator[Finding]:
    """The statistics of a batch are noisy, or those of the few batches that averages remember."""
    found = []
    for norm in filter(is_finite, examined.seen):
        sample = norm.batch.sample
        varies = sample.variance > norm.epsilon
        if not varies.any() or not norm.layer.trainable:
            continue
        noise = float(np.sqrt(np.mean(sample.noise(norm.epsilon)[varies] ** 2)))
        values = sample.values.count / sample.batches
        momentum = min(momentum_of(norm), 1.0)
        averaged = noise * sqrt((1 - momentum) / (1 + momentum))
        if noise > 0.25 or values < 2 or averaged > 0.2:
            found.append((values < 2, noise, averaged, values, norm))
    if not found:
        return
    alone, noise, averaged, values, norm = max(found, key=lambda item: item[:2])
    evidence = {"values": values, "noise": noise, "averaged": averaged, "layers": len(found)}
    if alone:
        message = "one value per channel and step: in training the output is β, whatever comes in"
    else:
        message = (
            f"{values:,.0f} values per channel and step: a batch's mean is off by {in_sigma(noise)}"
        )
    rest, remedy = ("", LARGER) if alone else _of_the_rest(norm.batch.sample, noise)
    message += rest
    if averaged > 0.2:
        message += f"; the averages, which remember few batches, are off by {in_sigma(averaged)}"
        remedy = f"a larger momentum than {norm.layer.momentum:g}; {remedy}"
    severity = "error" if alone else "warning"
    yield Finding("small-batch", severity, norm.way, message + and_others(found), evidence, remedy)


def _of_the_rest(sample: Sample, noise: float) -> tuple[str, str]:
    """Say whether it is only the batches of what is left over that are small, and what to do."""
    size, share = sample.usual()
    usual = noise * sqrt(share / float(sample.shares.mean.item()))
    if usual > 0.25 or usual > 0.8 * noise:
        return "", LARGER
    return (
        f", and without the batches of fewer than {size} examples by {in_sigma(usual)}",
        "drop_remainder=True, or a batch size that leaves none over",
    )


def unlike_batches(examined: Examined) -> Iterator[Finding]:
    """The batches are no random draws from the same data."""
    found = []
    for norm in filter(is_finite, examined.seen):
        if (unlikeness := unlikeness_of(norm)) is not None:
            found.append((*unlikeness, norm))
    if found:
        off, ratio, norm = max(found, key=lambda item: item[0])
        yield Finding(
            "unlike-batches",
            "warning",
            norm.way,
            f"the means of the batches scatter by {in_sigma(off)}, in variance {ratio:.2g} times "
            "as much as those of random batches: they are sorted, or of one kind each"
            + and_others(found),
            {"scatter": off, "ratio": ratio, "layers": len(found)},
            "shuffle, or mix the kinds in each batch",
        )


def outliers(examined: Examined) -> Iterator[Finding]:
    """In a batch, one example makes most of the variance."""
    found = []
    for norm in filter(is_finite, examined.seen):
        sample = norm.batch.sample
        share = float(np.mean(sample.peaks.mean))
        if share > 0.6 and sample.example_means.count / sample.batches >= 8:
            found.append((share, norm))
    if found:
        share, norm = max(found, key=lambda item: item[0])
        yield Finding(
            "outliers",
            "warning",
            norm.way,
            f"one example makes {share:.0%} of the variance of its batch, on average: the others "
            "come out small beside it, and otherwise without it" + and_others(found),
            {"share": share, "layers": len(found)},
            "look at the largest examples; standardize or clip the data",
        )


def data_shift(examined: Examined) -> Iterator[Finding]:
    """Validation data have other statistics than training data."""
    shifted = []
    for norm in filter(is_finite, examined.seen):
        train, other = norm.inference.sample, norm.validation.sample
        if not other.batches or not np.isfinite(train.variance + other.variance).all():
            continue
        worth = _worth(other, train, norm.epsilon)
        gap = gap_between(other.mean, other.variance, train, norm.epsilon, worth)
        if gap.matters:
            shifted.append((norm, gap))
    if not shifted:
        return
    first = shifted[0][0] is examined.seen[0]
    norm, gap = max(shifted, key=lambda pair: pair[1].size)
    harms, losses, sentence = _on_validation(examined)
    adapts = harms and examined.is_better_adapted
    yield Finding(
        "data-shift",
        "warning" if first and harms else "note",
        norm.way,
        f"validation data are {in_sigma(gap.size)} off training data, in {len(shifted)} of "
        f"{len(examined.seen)} layers"
        + ("" if first else "; not in the first: shifted, or learnt by heart")
        + sentence,
        {"gap": gap.size, "layers": len(shifted), **losses},
        "prepare validation data as training data"
        + (
            "; if they are what it will meet, and as mixed, models.recalibrate(model, validation) "
            "adapts the averages"
            if adapts
            else ", if they are not"
        ),
    )


def _on_validation(examined: Examined) -> tuple[bool, dict[str, float], str]:
    """Return whether the loss suffers, which is True where there is none, both losses, a sentence.

    It is compared with that of training mode, which does not depend on the averages.
    """
    train = examined.batch_against_inference.loss
    if train is None or not examined.validation_losses:
        return True, {}, ""
    each, sizes = np.transpose(examined.validation_losses)
    loss = float(np.average(each, weights=sizes))
    harms = not loss - train[1] <= COST * abs(train[1])
    losses = {"loss_training": train[1], "loss_validation": loss}
    sentence = f"; the loss is {loss:.3g}, and in training {train[1]:.3g}"
    return harms, losses, sentence + ("" if harms else ": it does no harm")


def _worth(other: Any, sample: Any, epsilon: float) -> float:
    """Return how many batches of one sample the other one is worth."""
    a, b = np.mean(sample.noise(epsilon) ** 2), np.mean(other.noise(epsilon) ** 2)
    return float(other.batches * a / max(b, 1e-30)) or 1e-9


def padding_counts(examined: Examined) -> Iterator[Finding]:
    """A mask exists, but does not arrive."""
    for norm in examined.seen:
        if norm.mask_lost > 0:
            yield Finding(
                "padding-counts",
                "error",
                norm.way,
                f"{norm.mask_lost:.0%} of the positions are padding by a mask that does not arrive "
                "here: they count",
                {"share": norm.mask_lost},
                "set `supports_masking = True` in the layer that drops the mask",
            )


def replicas(examined: Examined) -> Iterator[Finding]:
    """Each replica has statistics of its own."""
    for norm in examined.norms:
        copies = getattr(getattr(norm.layer.moving_mean, "value", None), "values", ())
        if len(copies) < 2 or getattr(norm.layer, "synchronized", False):
            continue
        spread = np.sqrt(np.maximum(norm.variance, 0) + norm.epsilon)
        pairs = combinations([np.asarray(copy) / spread for copy in copies], 2)
        apart = max(float(np.sqrt(np.mean((one - other) ** 2))) for one, other in pairs)
        yield Finding(
            "replicas",
            "warning",
            norm.way,
            f"each of {len(copies)} replicas normalizes by its share of the batch; their averages "
            f"are up to {in_sigma(apart)} apart, and a file gets those of the first",
            {"replicas": len(copies), "apart": apart},
            "BatchNormalization(synchronized=True)",
        )
