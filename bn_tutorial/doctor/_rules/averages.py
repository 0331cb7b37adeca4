"""How well the averages fit."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log

import numpy as np

from .._examined import Examined, Norm
from .._fit import (
    averages_cost,
    gap_of,
    gap_without_noise,
    is_at_start,
    is_finite,
    is_forced,
    is_trained,
    momentum_of,
)
from ..report import Finding
from .words import RECALIBRATE, in_sigma

__all__ = ["averages_lag", "averages_never_moved", "dropout_before", "frozen_mismatch"]


def averages_never_moved(examined: Examined) -> Iterator[Finding]:
    """The averages are at their start though the weights are not, and do not fit the data."""
    trained = is_trained(examined)
    for norm in filter(is_finite, examined.seen):
        gap = gap_of(norm)
        if not is_at_start(norm) or not gap.matters:
            continue
        evidence = {"gap": gap.size, "momentum": float(norm.layer.momentum)}
        if not trained:
            yield Finding(
                "averages-never-moved",
                "note",
                norm.way,
                "the averages are at their start, and so are the weights: a new model",
                evidence,
                "train it",
            )
            continue
        severity, cause, remedy = _why_it_never_moved(examined, norm)
        yield Finding(
            "averages-never-moved",
            severity,
            norm.way,
            f"the averages are as they were made though the weights are trained; {cause}",
            evidence,
            remedy,
        )


def _why_it_never_moved(examined: Examined, norm: Norm) -> tuple[str, str, str]:
    """Return the severity, the cause and the remedy."""
    if not norm.layer.trainable:
        return (
            "warning",
            "the layer is frozen",
            f"models.unfreeze(model), train on; or {RECALIBRATE}",
        )
    if is_forced(norm):
        return (
            "warning",
            "it stays in inference mode while the model trains",
            "hand `training` on in the `call` around it, and train on",
        )
    if norm.layer.momentum >= 1:
        return "error", "momentum is 1", f"set momentum to 0.99 or less; {RECALIBRATE} now"
    then = _after_training_with_the_start(examined)
    if norm.own_moves == 0:
        step = "`train_step` calls the model without training=True"
        return "error", step, f"self(x, training=True) in it; {then}"
    return (
        "error",
        "they move when the model is called with training=True, so the loop that trained it did "
        "not do so (or dropped the updates)",
        f"model(x, training=True) in the loop; {then}",
    )


def _after_training_with_the_start(examined: Examined) -> str:
    """Say whether the right averages are good for weights that were trained without them."""
    loss = examined.right_against_inference.loss
    if loss is None:
        return f"if it was trained in training mode, {RECALIBRATE} now, else train on first"
    if loss[0] < loss[1]:
        return f"train on, since the weights are used to these averages; {RECALIBRATE} after that"
    return f"{RECALIBRATE} now"


def averages_lag(examined: Examined) -> Iterator[Finding]:
    """The averages are further from the statistics of the data than chance explains."""
    costs = averages_cost(examined)
    for norm in filter(is_finite, examined.seen):
        gap = gap_of(norm)
        if not norm.layer.trainable or is_at_start(norm) or not gap.matters or is_forced(norm):
            continue
        target = max(float(np.sqrt(np.mean(gap.noise**2))), 1e-3)
        steps = ceil(
            log(max(gap.size / target, 1.0)) / -log(max(min(momentum_of(norm), 1 - 1e-9), 1e-9))
        )
        loss = examined.right_against_inference.loss
        evidence = {"gap": gap.size, "steps": float(steps)}
        message = (
            f"the averages are {in_sigma(gap.size)} off those of the data under the present weights"
        )
        if loss is not None:
            evidence |= {"loss_now": loss[0], "loss_recalibrated": loss[1]}
            message += f"; recalibrated, the loss is {loss[1]:.3g} instead of {loss[0]:.3g}"
        train_on = (
            f"train on: about {max(steps, 1)} more steps{_in_epochs(steps, examined)} at momentum "
            f"{norm.layer.momentum:g}"
        )
        helps = loss is None or loss[1] <= loss[0]
        yield Finding(
            "averages-lag",
            "error" if costs else "note",
            norm.way,
            message,
            evidence,
            f"{RECALIBRATE}, or {train_on}" if helps else train_on,
        )


def _in_epochs(steps: int, examined: Examined) -> str:
    if not examined.steps_per_epoch:
        return ""
    return f" ({steps / examined.steps_per_epoch:.2g} epochs)"


def frozen_mismatch(examined: Examined) -> Iterator[Finding]:
    """A frozen layer has averages that do not fit the data."""
    for norm in filter(is_finite, examined.seen):
        gap = gap_of(norm)
        if norm.layer.trainable or not gap.matters:
            continue
        costs = averages_cost(examined) and not is_at_start(norm)
        worth = "warning" if costs or gap.size > 0.5 else "note"
        yield Finding(
            "frozen-mismatch",
            "error" if costs and gap.size > 1 else worth,
            norm.way,
            f"the layer is frozen, with averages that are {in_sigma(gap.size)} off this data",
            {"gap": gap.size},
            f"feed what its averages were made from (preprocessing?), or {RECALIBRATE}",
        )


def dropout_before(examined: Examined) -> Iterator[Finding]:
    """What is random before it gives its inputs another variance in training."""
    for norm in filter(is_finite, examined.seen):
        random, still = norm.training.sample, norm.batch.sample
        if not norm.is_random_before or not random.batches:
            continue
        gap = gap_without_noise(norm)
        if not gap.matters or gap_of(norm).matters:
            continue
        ratio = float(np.mean(random.variance) / max(float(np.mean(still.variance)), 1e-30))
        yield Finding(
            "dropout-before",
            "warning",
            norm.way,
            f"dropout or noise makes its variance {ratio:.2g} times as large in training, and its "
            f"averages fit that: in inference they are {in_sigma(gap.size)} off",
            {"ratio": ratio, "gap": gap.size},
            f"dropout after the last batch normalization; {RECALIBRATE} now",
        )
