"""How well the averages fit."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log

import numpy as np

from .._examined import Examined, Norm
from .._fit import (
    averages_cost,
    costs_loss,
    gap_of,
    gap_without_noise,
    is_at_start,
    is_finite,
    is_forced,
    is_trained,
    momentum_of,
    unlikeness_of,
)
from ..report import Finding
from .words import RECALIBRATE, UNTOLD, after_training_with_these, in_sigma

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
    then = after_training_with_these(examined)
    if not norm.layer.trainable:
        recalibrate = f"; or {RECALIBRATE}" if costs_loss(examined) else ""
        return "warning", "the layer is frozen", f"models.unfreeze(model), train on{recalibrate}"
    if norm.layer.momentum >= 1:
        return "error", "momentum is 1", f"set momentum to 0.99 or less; {then}"
    if norm.untold:
        cause, remedy = UNTOLD[norm.untold]
        return "error", cause, f"{remedy}; {then}"
    if is_forced(norm):
        return (
            "warning",
            "it stays in inference mode while the model trains",
            "hand `training` on in the `call` around it, and train on",
        )
    return (
        "error",
        "they move when the model is called with training=True, so what trained it did not do so "
        "(or dropped the updates), or they were not loaded with the weights",
        f"model(x, training=True) in the loop, or load them with the weights; {then}",
    )


def averages_lag(examined: Examined) -> Iterator[Finding]:
    """The averages are further from the statistics of the data than chance explains."""
    costs = averages_cost(examined)
    for norm in filter(is_finite, examined.seen):
        gap = gap_of(norm)
        if not norm.layer.trainable or is_at_start(norm) or not gap.matters or is_forced(norm):
            continue
        evidence, recalibrated = _losses(examined)
        message = f"the averages are {in_sigma(gap.size)} off those of the data under the present "
        message += f"weights{recalibrated}"
        steps, remedy = _until_they_fit(examined, norm)
        if is_part := not examined.is_whole and unlikeness_of(norm) is not None:
            message += "; these batches are unlike each other, so others may be unlike them"
            remedy = "shuffle, and examine it again"
        yield Finding(
            "averages-lag",
            "error" if costs and not is_part else "note",
            norm.way,
            message,
            {"gap": gap.size, **steps, **evidence},
            remedy,
        )


def _losses(examined: Examined) -> tuple[dict[str, float], str]:
    """Return the losses with the averages as they are and as they should be, and a sentence."""
    loss = examined.right_against_inference.loss
    if loss is None:
        return {}, ""
    return (
        {"loss_now": loss[0], "loss_recalibrated": loss[1]},
        f"; recalibrated, the loss is {loss[1]:.3g} instead of {loss[0]:.3g}",
    )


def _until_they_fit(examined: Examined, norm: Norm) -> tuple[dict[str, float], str]:
    """Return how many steps averages need until chance explains the rest, and what to do."""
    momentum, gap = momentum_of(norm), gap_of(norm)
    if momentum >= 1:
        then = after_training_with_these(examined)
        return {}, f"set momentum to 0.99 or less: at {norm.layer.momentum:g} they stay; {then}"
    target = max(float(np.sqrt(np.mean(gap.noise**2))), 1e-3)
    steps = ceil(log(max(gap.size / target, 1.0)) / -log(max(momentum, 1e-9)))
    epochs = _in_epochs(steps, examined)
    at = f"at momentum {norm.layer.momentum:g}"
    train_on = f"train on: about {max(steps, 1)} more steps{epochs} {at}"
    loss = examined.right_against_inference.loss
    helps = loss is None or loss[1] <= loss[0]
    return {"steps": float(steps)}, f"{RECALIBRATE}, or {train_on}" if helps else train_on


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
        helps = costs_loss(examined)
        worth = "warning" if costs or (helps and gap.size > 0.5) else "note"
        evidence, recalibrated = _losses(examined)
        yield Finding(
            "frozen-mismatch",
            "error" if costs and gap.size > 1 else worth,
            norm.way,
            f"the layer is frozen, with averages that are {in_sigma(gap.size)} off this data"
            + recalibrated,
            {"gap": gap.size, **evidence},
            "feed what its averages were made from (preprocessing?), or "
            + (RECALIBRATE if helps else "leave them, if the weights were trained with them"),
        )


def dropout_before(examined: Examined) -> Iterator[Finding]:
    """What is random before it gives its inputs another variance in training."""
    for norm in filter(is_finite, examined.seen):
        random, still = norm.training.sample, norm.batch.sample
        if not norm.random_before or not random.batches:
            continue
        gap = gap_without_noise(norm)
        if not gap.matters or gap_of(norm).matters:
            continue
        ratio = float(np.mean(random.variance) / max(float(np.mean(still.variance)), 1e-30))
        evidence, recalibrated = _losses(examined)
        costs = costs_loss(examined)
        yield Finding(
            "dropout-before",
            "warning" if costs else "note",
            norm.way,
            f"what is random in {', '.join(sorted(norm.random_before))} makes its variance "
            f"{ratio:.2g} times as large in training, and its averages fit that: in inference they "
            f"are {in_sigma(gap.size)} off{recalibrated}",
            {"ratio": ratio, "gap": gap.size, **evidence},
            "dropout and noise after the last batch normalization"
            + (f"; {RECALIBRATE} now" if costs else ", if it matters"),
        )
