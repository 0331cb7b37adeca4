"""The book's figures, one look: colours, style, and the pictures that more than one page needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import networkx as nx
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "RED", "draw_graph", "use_book_style"]

# From the palette of Okabe and Ito, which people with any colour vision can tell apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
RED = "#882255"
GREY = "#767676"


def use_book_style() -> None:
    """Make this notebook's figures look like the book's and come out the same every time.

    Figures become SVG with fixed ids, text kept as text and no date, so that a test can compare
    them character by character.
    """
    set_matplotlib_formats("svg", metadata={"Date": None})  # type: ignore[no-untyped-call]
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


def draw_graph(
    edges: Iterable[tuple[str, str, bool]],
    *,
    runs: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a graph of operations from left to right, as it would run.

    Data edges are solid, control edges dashed. An operation stands to the right of all that it
    waits for.

    Parameters
    ----------
    edges
        (source, target, control) for each edge, as `bn_tutorial.graph.edges` gives them.
    runs
        Names of the operations to fetch. What a session must run for them is drawn boldly,
        the rest pale. By default everything is bold.
    labels
        Shorter labels for some operations. If given, only these operations are drawn.
    ax
        Where to draw; by default a new figure.
    """
    graph = nx.DiGraph()
    for source, target, control in edges:
        if labels is None or (source in labels and target in labels):
            graph.add_edge(source, target, control=control)
    labels = {name: (labels or {}).get(name, name) for name in graph}
    bold = set(graph)
    if runs is not None:
        bold = set(runs).union(*(nx.ancestors(graph, name) for name in runs))

    if ax is None:
        _, ax = plt.subplots()
    for column, names in enumerate(nx.topological_generations(graph)):
        nx.set_node_attributes(graph, dict.fromkeys(names, column), "column")
    position = nx.multipartite_layout(graph, subset_key="column")
    for control, style in ((False, "solid"), (True, "dashed")):
        chosen = [
            (a, b) for a, b, is_control in graph.edges(data="control") if is_control == control
        ]
        nx.draw_networkx_edges(
            graph,
            position,
            edgelist=chosen,
            style=style,
            edge_color=[(ORANGE if control else BLUE) if b in bold else GREY for _, b in chosen],
            width=2,
            arrowsize=16,
            node_size=2600,
            ax=ax,
        )
    for name, (x, y) in position.items():
        ax.text(
            x,
            y,
            labels[name],
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
    ax.margins(0.15, 0.25)
    ax.set_axis_off()
    return ax
