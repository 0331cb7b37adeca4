"""Drawings of TensorFlow graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, cast

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionStyle, FancyBboxPatch
from matplotlib.transforms import Bbox

from .style import BLUE, GREY, ORANGE

__all__ = ["draw_graph"]

# Curvatures of an edge, from straight to round, up before down; and how many pixels of air are
# to be between it and the box of an operation that it does not belong to.
_BENDS = [0, -0.15, 0.15, -0.25, 0.25, -0.35, 0.35, -0.5, 0.5]
_CLEARANCE = 8


def draw_graph(
    edges: Iterable[tuple[str, str, bool]],
    *,
    runs: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a graph of operations from left to right, as it would run.

    Data edges are solid, control edges dashed. An operation stands to the right of all that it
    waits for. An edge bends where it would run through the box of an operation that it does not
    belong to.

    Parameters
    ----------
    edges
        (source, target, control) for each edge, as `bn_tutorial.graph.edges` gives them. A cycle,
        such as a loop of TensorFlow 1, raises ``graphlib.CycleError``.
    runs
        Names of the operations to fetch. What a session must run for them is drawn boldly,
        the rest pale. By default everything is bold.
    labels
        Labels for some operations. If given, only these are drawn, those of one column in this
        order from top to bottom.
    ax
        Where to draw; by default a new figure.
    """
    edges = list(edges)
    bold = set(runs or ())
    # Also through operations that are not drawn.
    while new := {source for source, target, _ in edges if target in bold} - bold:
        bold |= new

    edges = [edge for edge in edges if labels is None or (edge[0] in labels and edge[1] in labels)]
    sources: dict[str, set[str]] = {name: set() for name in labels or ()}
    for source, target, _ in edges:
        sources.setdefault(source, set())
        sources.setdefault(target, set()).add(source)
    columns = _columns(sources)
    if runs is None:
        bold = set(sources)

    if ax is None:
        _, ax = plt.subplots()
    place = {
        name: (x, (len(column) - 1) / 2 - row)
        for x, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    boxes = {
        name: ax.text(
            *place[name],
            (labels or {}).get(name, name),
            ha="center",
            va="center",
            color="black" if name in bold else GREY,
            bbox={
                "boxstyle": "round,pad=0.4",
                "facecolor": "white",
                "edgecolor": "black" if name in bold else GREY,
                "linestyle": "solid" if name in bold else "dotted",
            },
        )
        for name in place
    }
    rows = max(map(len, columns), default=1)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-rows / 2, rows / 2))
    ax.set_axis_off()

    # Only now are the sizes of the boxes known, which the arrows go around and end at.
    ax.figure.canvas.draw()
    patches = {name: cast("FancyBboxPatch", box.get_bbox_patch()) for name, box in boxes.items()}
    for source, target, control in edges:
        obstacles = [
            patch.get_window_extent().padded(_CLEARANCE)
            for name, patch in patches.items()
            if name not in (source, target)
        ]
        start, end = ax.transData.transform([place[source], place[target]])
        ax.annotate(
            "",
            place[target],
            place[source],
            arrowprops={
                "arrowstyle": "-|>",
                "connectionstyle": _arc(start, end, obstacles),
                "color": GREY if target not in bold else ORANGE if control else BLUE,
                "linestyle": "dashed" if control else "solid",
                "linewidth": 2,
                "mutation_scale": 16,
                "patchA": patches[source],
                "patchB": patches[target],
            },
        )
    return ax


def _columns(sources: Mapping[str, set[str]]) -> list[list[str]]:
    """Sort operations into columns: each to the right of all its sources, in the given order."""
    order = list(sources)
    sorter = TopologicalSorter(sources)
    sorter.prepare()
    columns = []
    while sorter.is_active():
        ready = sorter.get_ready()
        columns.append(sorted(ready, key=order.index))
        sorter.done(*ready)
    return columns


def _arc(start: Any, end: Any, obstacles: Sequence[Bbox]) -> ConnectionStyle.Arc3:
    """The flattest arc between two points that meets no obstacle, or as few as can be."""
    return min(
        (ConnectionStyle.Arc3(rad=bend) for bend in _BENDS),
        key=lambda arc: sum(
            arc(start, end).intersects_bbox(box, filled=False) for box in obstacles
        ),
    )
