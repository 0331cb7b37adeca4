"""Drawings of TensorFlow graphs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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

_Edge = tuple[str, str, bool]  # source, target, whether it is a control edge


def draw_graph(
    edges: Iterable[tuple[str, str, bool]],
    *,
    runs: Iterable[str] | None = None,
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
        (source, target, control) for each edge, as `bn_tutorial.tf1.edges` gives them.
    runs
        Names of the operations to fetch. What a session must run for them is drawn boldly,
        the rest pale. By default everything is bold.
    labels
        Labels for some operations. If given, only these are drawn, those of one column in this
        order from top to bottom.
    ax
        Where to draw; by default a new figure.

    Returns
    -------
    Axes
        ``ax``, or the new figure's.

    Raises
    ------
    ValueError
        For operations in ``runs`` that neither ``edges`` nor ``labels`` has; if there is none to
        draw; and, as ``graphlib.CycleError``, for a cycle such as a loop of TensorFlow 1.

    Examples
    --------
    >>> from bn_tutorial.book.graph_drawing import draw_graph
    >>> edges = [("x", "add", False), ("one", "add", False)]
    >>> ax = draw_graph(edges, labels={"x": "x", "add": "x + 1"})
    >>> [text.get_text() for text in ax.texts if text.get_text()]
    ['x', 'x + 1']
    """
    edges = list(edges)
    fetched = None if runs is None else list(runs)
    drawn = [edge for edge in edges if labels is None or {*edge[:2]} <= labels.keys()]
    places = _places(drawn, labels or ())
    _check(edges, places, fetched or ())
    bold = _needed(edges, places if fetched is None else fetched)

    if ax is None:
        _, ax = plt.subplots()
    boxes = _draw_boxes(ax, places, labels or {}, bold)
    _draw_arrows(ax, drawn, places, boxes, bold)
    return ax


def _check(edges: Sequence[_Edge], places: Collection[str], runs: Collection[str]) -> None:
    if not places:
        raise ValueError("there is no operation to draw: edges or labels are empty")
    known = {name for edge in edges for name in edge[:2]} | set(places)
    if unknown := set(runs) - known:
        raise ValueError(f"runs must name operations of the graph, got {sorted(unknown)}")


def _needed(edges: Sequence[_Edge], fetched: Iterable[str]) -> set[str]:
    """The operations that a session runs to fetch these, also those that are not drawn."""
    needed = set(fetched)
    while more := {source for source, target, _ in edges if target in needed} - needed:
        needed |= more
    return needed


def _places(edges: Iterable[_Edge], names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where each operation stands: in which column, and how high, with 0 in the middle."""
    sources: dict[str, set[str]] = {name: set() for name in names}
    for source, target, _ in edges:
        sources.setdefault(source, set())
        sources.setdefault(target, set()).add(source)
    return {
        name: (x, (len(column) - 1) / 2 - row)
        for x, column in enumerate(_columns(sources))
        for row, name in enumerate(column)
    }


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


def _draw_boxes(
    ax: Axes,
    places: Mapping[str, tuple[float, float]],
    labels: Mapping[str, str],
    bold: Collection[str],
) -> dict[str, FancyBboxPatch]:
    boxes = {}
    for name, place in places.items():
        color, style = ("black", "solid") if name in bold else (GREY, "dotted")
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white"}
        border = {"edgecolor": color, "linestyle": style}
        label = labels.get(name, name)
        text = ax.text(*place, label, ha="center", va="center", color=color, bbox=box | border)
        boxes[name] = cast("FancyBboxPatch", text.get_bbox_patch())

    right, top = (max(coordinates) + 0.5 for coordinates in zip(*places.values(), strict=True))
    ax.set(xlim=(-0.5, right), ylim=(-top, top))
    ax.set_axis_off()
    return boxes


def _draw_arrows(
    ax: Axes,
    edges: Iterable[_Edge],
    places: Mapping[str, tuple[float, float]],
    boxes: Mapping[str, FancyBboxPatch],
    bold: Collection[str],
) -> None:
    # Only a drawn box has the size that arrows go around and end at.
    ax.figure.canvas.draw()
    extents = {name: box.get_window_extent().padded(_CLEARANCE) for name, box in boxes.items()}
    for source, target, control in edges:
        obstacles = [box for name, box in extents.items() if name not in (source, target)]
        start, end = ax.transData.transform([places[source], places[target]])
        ax.annotate(
            "",
            places[target],
            places[source],
            arrowprops={
                "arrowstyle": "-|>",
                "connectionstyle": _arc(start, end, obstacles),
                "color": GREY if target not in bold else ORANGE if control else BLUE,
                "linestyle": "dashed" if control else "solid",
                "linewidth": 2,
                "mutation_scale": 16,
                "patchA": boxes[source],
                "patchB": boxes[target],
            },
        )


def _arc(start: Any, end: Any, obstacles: Sequence[Bbox]) -> ConnectionStyle.Arc3:
    """The flattest arc between two points that meets no obstacle, or as few as can be."""
    return min(
        (ConnectionStyle.Arc3(rad=bend) for bend in _BENDS),
        key=lambda arc: sum(
            arc(start, end).intersects_bbox(box, filled=False) for box in obstacles
        ),
    )
