"""What several rules say in the same words."""

from __future__ import annotations

from typing import Any

__all__ = ["RECALIBRATE", "and_others", "in_sigma"]

RECALIBRATE = "models.recalibrate(model, train)"


def and_others(found: list[Any]) -> str:
    """Say in how many more layers than the first one something was found."""
    return f" (and so in {len(found) - 1} more layers)" if len(found) > 1 else ""


def in_sigma(size: float) -> str:
    """Write a distance in standard deviations."""
    return f"{size:,.0f} σ" if size >= 10 else f"{size:.2g} σ"
