"""One look for the book's figures: colours, style, and SVG that comes out the same everywhere."""

from __future__ import annotations

import re
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "RED",
    "round_coordinates",
    "use_book_style",
]

# From the palette of Okabe and Ito, which people with any colour vision can tell apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
RED = "#882255"
GREY = "#767676"


def use_book_style() -> None:
    """Make this notebook's figures look like the book's and come out the same every time.

    Figures become SVG with fixed ids, text kept as text, coordinates that the last digits of a
    computation do not change, and neither date nor version, so that a test can compare them
    character by character.
    """
    # Only a notebook has these: the rest of this module works without IPython.
    from IPython.core.getipython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")  # type: ignore[no-untyped-call]
    shell: Any = get_ipython()
    shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, _portable_svg)
    plt.rcParams.update(
        {
            "svg.hashsalt": "bn_tutorial",
            "svg.fonttype": "none",
            "figure.figsize": (7.0, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, RED, GREY]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "lines.linewidth": 2,
            "legend.frameon": False,
        }
    )


def _portable_svg(figure: Figure) -> str:
    """The figure as SVG, without the date and without Matplotlib's version."""
    from IPython.core.pylabtools import print_figure

    metadata = {"Date": None, "Creator": None}
    return round_coordinates(print_figure(figure, fmt="svg", metadata=metadata))  # type: ignore[no-untyped-call]


def round_coordinates(svg: str) -> str:
    """The same SVG with two decimals of a point, on which all processors agree."""
    # Numbers inside of tags are coordinates; those between tags are labels and stay.
    return re.sub(
        r"<[^>]*>",
        lambda tag: re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag[0]),
        svg,
    )
