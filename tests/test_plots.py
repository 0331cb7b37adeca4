"""What the figures show, and that they come out the same every time."""

import graphlib
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_hex, to_rgb
from matplotlib.path import Path
from matplotlib.text import Annotation

from bn_tutorial.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, draw_graph, use_book_style

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


def test_a_loop_raises():
    with pytest.raises(graphlib.CycleError):
        draw_graph([("a", "b", False), ("b", "a", False)])


@pytest.fixture
def svg(tmp_path, monkeypatch):
    """What a notebook in the book's style stores for a figure."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # its history stays out of the user's home
    InteractiveShell.instance()
    use_book_style()
    return InteractiveShell.instance().display_formatter.formatters["image/svg+xml"]


def test_figures_in_the_book_style_come_out_the_same_without_a_date(svg):
    def figure():
        ax = draw_graph(EDGES)
        ax.fill_between([0, 1], [0, 1], hatch="/", label="clip paths and hatches have ids")
        return svg(ax.figure)

    first, second = figure(), figure()
    assert first == second
    assert "<svg" in first
    assert "date>" not in first
    assert ">a</text>" in first  # text is kept as text


def test_figures_in_the_book_style_do_not_show_rounding_noise(svg):
    def figure(noise):
        fig = plt.figure(layout="none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.plot(np.linspace(0, 9, 99) * (1 + noise), np.zeros(99), ".")
        ax.text(0.5, 0, "0.12345")
        ax.set(xlim=(0, fig.get_figwidth() * 72), ylim=(-1, 1))
        return svg(fig)

    assert figure(1e-7) == figure(0) == figure(-1e-7)
    assert figure(1e-2) != figure(0)
    assert ">0.12345</text>" in figure(0)


# What red, green and blue (linear) become for who lacks a kind of cone: Machado, Oliveira and
# Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency (2009).
EYES = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colour, eyes):
    """Where an sRGB colour lies in CIELAB, in which 2.3 is a difference that one just notices."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(eyes) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ seen / [0.9505, 1, 1.089])  # no colour of ours is nearly black
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_all_eyes_can_tell_the_colours_apart(eyes):
    places = [lab(colour, EYES[eyes]) for colour in (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2))
    assert nearest > 10
