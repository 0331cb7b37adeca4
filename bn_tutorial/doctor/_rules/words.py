"""What several rules say in the same words."""

from __future__ import annotations

from typing import Any

from .._examined import Examined

__all__ = ["RECALIBRATE", "UNTOLD", "after_training_with_these", "and_others", "in_sigma"]

RECALIBRATE = "models.recalibrate(model, train)"

# Why `fit` calls a layer in inference mode, and what to do.
UNTOLD = {
    "train_step": (
        "the model's own step of training calls it without training=True",
        "self(x, training=True) in `train_step`",
    ),
    "call": (
        "the model's `call` has no argument `training`, so `fit` does not say that it trains",
        "`training=None` in the signature of `call`, handed on",
    ),
}


def after_training_with_these(examined: Examined) -> str:
    """Say whether the right averages are good for weights that were trained with these."""
    loss = examined.right_against_inference.loss
    if loss is None:
        return f"if it was trained in training mode, {RECALIBRATE} now, else train on first"
    if loss[0] < loss[1]:
        return f"train on, since the weights are used to these averages; {RECALIBRATE} after that"
    return f"{RECALIBRATE} now"


def and_others(found: list[Any]) -> str:
    """Say in how many more layers than the first one something was found."""
    return f" (and so in {len(found) - 1} more layers)" if len(found) > 1 else ""


def in_sigma(size: float) -> str:
    """Write a distance in standard deviations."""
    return f"{size:,.0f} σ" if size >= 10 else f"{size:.2g} σ"
