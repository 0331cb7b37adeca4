"""What the numbers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._examined import Examined, Norm
from .._fit import is_finite
from ..report import Finding
from .words import RECALIBRATE, and_others

__all__ = [
    "always_on",
    "dead_unit",
    "half_precision",
    "negative_variance",
    "not_finite",
    "small_variance",
]


def not_finite(examined: Examined) -> Iterator[Finding]:
    """An average, γ or β is not a number; or what the first layer gets is not."""
    for norm in examined.norms:
        layer = norm.layer
        names = [
            variable.name
            for variable in layer.variables
            if not np.isfinite(np.asarray(variable.numpy(), "float64")).all()
        ]
        if names:
            only = set(names) <= {"moving_mean", "moving_variance"}
            yield Finding(
                "not-finite",
                "error",
                norm.way,
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not finite",
                {"variables": len(names)},
                RECALIBRATE if only else "load a checkpoint from before",
            )
    if not examined.finite_inputs:
        yield Finding("not-finite", "error", "", "the data are not finite", {}, "mend the data")
        return
    for norm in examined.seen:
        sample = norm.batch.sample
        if not (np.isfinite(sample.mean).all() and np.isfinite(sample.variance).all()):
            yield Finding(
                "not-finite",
                "error",
                norm.way,
                "its inputs are not finite, though the data are: look at the weights before it",
                {},
                "load a checkpoint from before",
            )
            return


def negative_variance(examined: Examined) -> Iterator[Finding]:
    """A moving variance is below 0."""
    for norm in examined.norms:
        if (share := float(np.mean(norm.variance < 0))) > 0:
            yield Finding(
                "negative-variance",
                "error",
                norm.way,
                f"the moving variance is negative in {share:.0%} of the channels, down to "
                f"{np.nanmin(norm.variance):.3g}",
                {"share": share, "lowest": float(np.nanmin(norm.variance))},
                RECALIBRATE,
            )


def half_precision(examined: Examined) -> Iterator[Finding]:
    """Averages in half precision, or values near the end of float16."""
    for norm in examined.seen:
        kind = str(norm.layer.moving_mean.dtype)
        if kind in ("float16", "bfloat16"):
            yield Finding(
                "half-precision",
                "warning",
                norm.way,
                f"the averages are {kind}, in which small steps of momentum round to none",
                {"momentum": float(norm.layer.momentum)},
                'dtype="mixed_float16" keeps variables in float32',
            )
            continue
        largest = norm.batch.sample.largest
        if "float16" in norm.batch.dtypes and largest > 65504 / 8:
            yield Finding(
                "half-precision",
                "warning",
                norm.way,
                f"values up to {largest:.3g} come in as float16, which ends at 65504",
                {"largest": largest},
                "smaller inputs or weights, or bfloat16",
            )


def small_variance(examined: Examined) -> Iterator[Finding]:
    """What comes in hardly varies, against ε."""
    found = []
    for norm in filter(is_finite, examined.seen):
        sample = norm.batch.sample
        relative = sample.variance / norm.epsilon
        if (relative < 1).any():
            # Of a variance of ε/10000 the output has a standard deviation of a hundredth.
            constant, rare = relative < 1e-4, (relative < 1) & (sample.still.mean > 0.5)
            low, seldom = float(np.mean(relative < 1)), float(np.mean(constant | rare))
            found.append((float(np.mean(constant)), low, seldom, norm))
    if not found:
        return
    nothing, share, seldom, norm = max(found, key=lambda item: item[:2])
    remedies = ["larger inputs or a smaller epsilon"] if seldom < share else []
    if seldom:
        remedies.append(
            "constant channels: look at what is before; those that are seldom another value, as a "
            "column of a one-hot code may be: leave them out, a smaller epsilon makes them worse"
        )
    yield Finding(
        "small-variance",
        "warning" if nothing >= 0.1 else "note",
        norm.way,
        f"in {share:.0%} of the channels the variance is below ε = {norm.epsilon:g}, so they come "
        f"out smaller than others; {nothing:.0%} are as good as constant" + and_others(found),
        {"share": share, "constant": nothing, "layers": len(found)},
        "; ".join(remedies),
    )


def dead_unit(examined: Examined) -> Iterator[Finding]:
    """The ReLU after it never lets a channel through."""
    yield from _stuck(
        examined,
        "dead-unit",
        lambda norm: norm.batch.highest <= 0,
        "never active",
        "a larger β, a smaller learning rate, or an activation with a slope below 0",
    )


def always_on(examined: Examined) -> Iterator[Finding]:
    """The ReLU after it lets all of a channel through."""
    yield from _stuck(
        examined,
        "always-on",
        lambda norm: norm.batch.lowest > 0,
        "always active, so that the ReLU does nothing",
        "look at β and γ",
    )


def _stuck(
    examined: Examined, code: str, stuck: Callable[[Norm], Any], what: str, remedy: str
) -> Iterator[Finding]:
    found = [
        (float(np.mean(stuck(norm))), norm)
        for norm in filter(is_finite, examined.seen)
        if norm.relu_after and norm.batch.sample.values.count >= 64
    ]
    found = [item for item in found if item[0]]
    if found:
        share, norm = max(found, key=lambda item: item[0])
        yield Finding(
            code,
            "warning" if share >= 0.1 else "note",
            norm.way,
            f"{share:.0%} of the channels are {what}" + and_others(found),
            {"share": share, "layers": len(found)},
            remedy,
        )
