"""The figure of a report."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .report import LayerStatistics

__all__ = ["plot_layers"]


def plot_layers(layers: Sequence[LayerStatistics]) -> Figure:
    """Draw stored against measured statistics: a row per layer, means left and deviations right."""
    rows = max(len(layers), 1)
    figure, axes = plt.subplots(rows, 2, figsize=(7, 2.4 * rows), squeeze=False, layout="tight")
    for row, layer in zip(axes, layers, strict=False):
        deviations = [np.sqrt(np.maximum(v, 0)) for v in (layer.variance, layer.moving_variance)]
        pairs = (layer.mean, layer.moving_mean), tuple(deviations)
        for ax, name, (measured, stored) in zip(row, ("mean", "deviation"), pairs, strict=True):
            finite = np.isfinite(measured) & np.isfinite(stored)
            ax.scatter(measured[finite], stored[finite], s=14)
            ends = np.concatenate([measured[finite], stored[finite], [0.0]])
            ax.axline((0, 0), slope=1, lw=0.8, ls="--", color="gray", zorder=0)
            ax.set(xlabel=f"measured {name}", ylabel=f"stored {name}")
            if finite.any():
                margin = 0.05 * (np.ptp(ends) or 1.0)
                ax.set(xlim=(ends.min() - margin, ends.max() + margin))
                ax.set(ylim=ax.get_xlim())
        row[0].set_title(layer.layer, loc="left", fontsize="medium")
    return figure
