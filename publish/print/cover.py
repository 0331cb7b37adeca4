"""The cover: curves of all places and widths above, one bell below."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

INK, PAPER, GOLD = "#12233f", "#f4f1ea", "#f0b35a"


def draw_cover(path: Path, *, chinese: bool = False) -> None:
    """Draw the front cover, 1600 by 2400 pixels, into the file ``path``."""
    figure = plt.figure(figsize=(8, 12), facecolor=INK)
    text: dict[str, Any] = {"fontsize": 44, "ha": "left", "va": "top"}
    if chinese:
        figure.text(0.1, 0.91, "TensorFlow", color=PAPER, **text)
        text["font"] = Path(__file__).parent / "fonts" / "NotoSerifCJKsc-Bold.otf"
        figure.text(0.1, 0.83, "批归一化", color=PAPER, **text)
        figure.text(0.1, 0.68, "逐项验证", color=GOLD, **text)
    else:
        figure.text(0.1, 0.91, "Batch\nNormalization\nin TensorFlow,", color=PAPER, **text)
        figure.text(0.1, 0.68, "verified", color=GOLD, style="italic", **text)
    z = np.linspace(-8, 8, 400)
    before = figure.add_axes((0, 0.34, 1, 0.24))
    after = figure.add_axes((0, 0.08, 1, 0.24))
    for mean, deviation in [(-5, 0.7), (-2.6, 1.6), (0.6, 0.5), (2.4, 2.2), (5.2, 1.0)]:
        curve = np.exp(-(((z - mean) / deviation) ** 2) / 2) / deviation
        before.fill_between(z, curve, color=PAPER, alpha=0.12, linewidth=0)
        before.plot(z, curve, color=PAPER, linewidth=1.5)
    bell = np.exp(-(z**2) / 2)
    after.fill_between(z, bell, color=GOLD, alpha=0.25, linewidth=0)
    after.plot(z, bell, color=GOLD, linewidth=3)
    for axes in (before, after):
        axes.set(xlim=(-8, 8), ylim=(0, None))
        axes.axis("off")
    figure.savefig(path, dpi=200, facecolor=INK)
    plt.close(figure)
