"""One look for the book's figures: colours, style, and SVG that comes out the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
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
    "portable_svg",
    "use_book_style",
]

# From the palette of Okabe and Ito, which people with any colour vision can tell apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
RED = "#882255"
GREY = "#767676"

_TAG = re.compile(r"<[^>]*>")
_DIGITS = re.compile(r"-?\d+\.\d{3,}")
_ID = re.compile(r'(\sid="|\burl\(#|href="#)(\w+)')


def use_book_style() -> None:
    """Give all figures the book's look, and those of a notebook the same SVG in every run.

    A notebook's figures become SVG with fixed ids, text kept as text, coordinates that the last
    digits of a computation do not change, and neither date nor version, so that a test can compare
    them character by character. Outside of IPython, only Matplotlib's settings change.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from bn_tutorial.book.style import use_book_style
    >>> with plt.rc_context():  # whose end brings the former look back
    ...     use_book_style()
    ...     plt.rcParams["figure.figsize"]
    [7.0, 3.2]
    """
    # Only a notebook needs IPython: the rest of this module works without it.
    from IPython.core.getipython import get_ipython

    if shell := get_ipython():
        _show_portable_svg(shell)
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


def _show_portable_svg(shell: Any) -> None:
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")  # type: ignore[no-untyped-call]
    shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, _svg_of)


def _svg_of(figure: Figure) -> str:
    """The figure as SVG, without the date and without Matplotlib's version."""
    from IPython.core.pylabtools import print_figure

    metadata = {"Date": None, "Creator": None}
    return portable_svg(print_figure(figure, fmt="svg", metadata=metadata))  # type: ignore[no-untyped-call]


def portable_svg(svg: str) -> str:
    """The same SVG with what all processors agree on: coordinates with two decimals, other ids.

    Matplotlib makes an id of all digits of what it names, Vega of a counter that goes on from one
    picture to the next. Here an id is made of the rounded picture and a number, so that different
    pictures can stand in one document. Text stays as it is.

    Examples
    --------
    >>> from bn_tutorial.book.style import portable_svg
    >>> portable_svg('<text id="p0123456789" x="7.12345">0.12345</text>')
    '<text id="svg4ad0a340-0" x="7.12">0.12345</text>'
    """
    svg = _TAG.sub(lambda tag: _DIGITS.sub(lambda it: f"{float(it[0]):.2f}", tag[0]), svg)
    names = dict.fromkeys(re.findall(r'<[^>]*\sid="(clip\d+|\w*[0-9a-f]{10})"', svg))
    counted = _rename(svg, {name: str(number) for number, name in enumerate(names)})
    picture = sha256(counted.encode()).hexdigest()[:8]
    return _rename(svg, {name: f"svg{picture}-{number}" for number, name in enumerate(names)})


def _rename(svg: str, names: Mapping[str, str]) -> str:
    """The same SVG with other ``names`` for ids, where they are given and where they are used."""
    return _TAG.sub(
        lambda tag: _ID.sub(lambda it: it[1] + names.get(it[2], it[2]), tag[0]),
        svg,
    )
