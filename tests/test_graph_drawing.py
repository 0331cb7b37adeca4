"""What the figures show, and that they come out the same every time."""

import graphlib

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.path import Path
from matplotlib.text import Annotation

from bn_tutorial.book.graph_drawing import draw_graph
from bn_tutorial.book.style import BLUE, GREY, ORANGE

mpl.use("agg")

# b waits for a; c reads both and waits for b; d is on a branch of its own.
EDGES = [("a", "b", False), ("a", "c", False), ("b", "c", True), ("a", "d", False)]


@pytest.fixture(autouse=True)
def _own_figures_and_style():
    with mpl.rc_context():
        yield
    plt.close("all")


def boxes(ax):
    return {text.get_text(): text for text in ax.texts if not isinstance(text, Annotation)}


def arrows(ax):
    """(source, target, line style, colour) of each arrow; its ends are the boxes' positions."""
    at = {text.get_position(): label for label, text in boxes(ax).items()}
    return sorted(
        (
            at[arrow.xyann],
            at[arrow.xy],
            arrow.arrow_patch.get_linestyle(),
            to_hex(arrow.arrow_patch.get_edgecolor()).upper(),
        )
        for arrow in ax.texts
        if isinstance(arrow, Annotation)
    )


def test_every_operation_is_drawn_and_control_edges_are_dashed():
    ax = draw_graph(iter(EDGES))
    assert sorted(boxes(ax)) == ["a", "b", "c", "d"]
    assert arrows(ax) == [
        ("a", "b", "solid", BLUE),
        ("a", "c", "solid", BLUE),
        ("a", "d", "solid", BLUE),
        ("b", "c", "dashed", ORANGE),
    ]


def test_an_operation_stands_to_the_right_of_all_that_it_waits_for():
    position = {label: text.get_position() for label, text in boxes(draw_graph(EDGES)).items()}
    assert all(position[source][0] < position[target][0] for source, target, _ in EDGES)
    assert len(set(position.values())) == 4


def bold(ax):
    found = set()
    for label, text in boxes(ax).items():
        style = text.get_color(), text.get_bbox_patch().get_linestyle()
        assert style in {("black", "solid"), (GREY, "dotted")}
        if style[0] == "black":
            found.add(label)
    return found


@pytest.mark.parametrize(
    ("runs", "expected"), [(None, "abcd"), (["c"], "abc"), (["a"], "a"), (["b", "d"], "abd")]
)
def test_what_a_session_must_run_is_bold(runs, expected):
    ax = draw_graph(EDGES, runs=runs)
    assert bold(ax) == set(expected)
    for _, target, _, colour in arrows(ax):
        assert (colour == GREY) == (target not in expected)


def test_labels_choose_what_is_drawn_and_how_it_is_called():
    ax = draw_graph(EDGES, labels={"c": "product", "b": "update", "lonely": "no edges"})
    assert arrows(ax) == [("update", "product", "dashed", ORANGE)]
    assert boxes(ax)["no edges"].get_position()[0] == boxes(ax)["update"].get_position()[0]


def test_labels_order_a_column_from_top_to_bottom():
    for order in ["b", "d"], ["d", "b"]:
        drawn = boxes(draw_graph(EDGES, labels={name: name for name in ["a", *order]}))
        heights = [drawn[name].get_position()[1] for name in order]
        assert heights == sorted(heights, reverse=True)


def test_an_operation_that_runs_is_bold_also_where_the_path_to_it_is_not_drawn():
    chain = [("a", "hidden", False), ("hidden", "b", False), ("b", "c", False)]
    ax = draw_graph(chain, runs=["b"], labels={name: name for name in "abc"})
    assert bold(ax) == {"a", "b"}


# Narrow boxes and wide ones; all in one row; rows that a straight edge would run through.
CHAIN = [("a", "b", False), ("b", "c", False), ("c", "d", False)]


@pytest.mark.parametrize(
    ("edges", "labels"),
    [
        ([*CHAIN, ("a", "c", False)], {}),
        ([*CHAIN, ("a", "d", False)], {"b": "a wide box", "c": "1 / √(σ² + ε)"}),
        ([*CHAIN, ("a", "c", False), ("b", "d", False)], {"b": "tall\n\nbox"}),
        ([*CHAIN, ("e", "d", False), ("f", "d", True), ("e", "c", False)], {"b": "wide box"}),
    ],
)
def test_an_edge_runs_through_no_box_but_its_own(edges, labels):
    names = sorted({name for edge in edges for name in edge[:2]})
    ax = draw_graph(edges, labels={name: labels.get(name, name) for name in names})
    ax.figure.canvas.draw()
    for arrow in (text for text in ax.texts if isinstance(text, Annotation)):
        shaft, *_ = arrow.arrow_patch.get_path().to_polygons(closed_only=False)
        points = Path(shaft).interpolated(100).vertices
        for box in boxes(ax).values():
            if box.get_position() not in (arrow.xy, arrow.xyann):
                extent = box.get_bbox_patch().get_window_extent()
                assert not extent.count_contains(points), box.get_text()


def test_a_graph_is_drawn_where_it_is_told_to_be():
    _, (left, right) = plt.subplots(ncols=2)
    assert draw_graph(EDGES, ax=right) is right
    assert (len(left.texts), len(right.texts)) == (0, 8)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["c", "e", "add"], r"runs must name operations of the graph, got \['add', 'e'\]"),
        ("mul", r"got \['l', 'm', 'u'\]"),  # one name instead of a list
    ],
)
def test_a_session_cannot_run_what_the_graph_lacks(runs, message):
    with pytest.raises(ValueError, match=message):
        draw_graph(EDGES, runs=runs)


@pytest.mark.parametrize(("edges", "labels"), [([], None), (EDGES, {})])
def test_a_graph_without_operations_raises(edges, labels):
    with pytest.raises(ValueError, match="no operation to draw: edges or labels are empty"):
        draw_graph(edges, labels=labels)


def test_a_loop_raises():
    with pytest.raises(graphlib.CycleError):
        draw_graph([("a", "b", False), ("b", "a", False)])
