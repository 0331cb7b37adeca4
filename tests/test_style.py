"""The look of the figures, and that they come out the same every time."""

import itertools
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_rgb

from bn_tutorial.book.graph_drawing import draw_graph
from bn_tutorial.book.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    portable_svg,
    use_book_style,
)

mpl.use("agg")


@pytest.fixture(autouse=True)
def _own_figures_and_style():
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def svg(tmp_path, monkeypatch):
    """What a notebook in the book's style stores for a figure."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # its history stays out of the user's home
    InteractiveShell.instance()
    use_book_style()
    return InteractiveShell.instance().display_formatter.formatters["image/svg+xml"]


def test_figures_in_the_book_style_come_out_the_same_without_a_date(svg):
    def figure():
        ax = draw_graph([("a", "b", False), ("a", "c", False), ("b", "c", True)])
        ax.fill_between([0, 1], [0, 1], hatch="/", label="clip paths and hatches have ids")
        return svg(ax.figure)

    first, second = figure(), figure()
    assert first == second
    assert "<svg" in first
    assert "date>" not in first
    assert ">a</text>" in first  # text is kept as text


def test_outside_of_ipython_only_the_settings_change(monkeypatch):
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: None)
    use_book_style()
    assert plt.rcParams["svg.hashsalt"] == "bn_tutorial"


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


HASHED = "p0123456789"


@pytest.mark.parametrize(
    ("svg", "what_stays"),
    [
        (f'<g id="{HASHED}"/><text>color #{HASHED} 0.12345</text>', f">color #{HASHED} 0.12345<"),
        (f'<g id="{HASHED}"/><a href="https://x.org/p#{HASHED}"/>', f'"https://x.org/p#{HASHED}"'),
        (f'<g id="{HASHED}" data-id="{HASHED}"/>', f'data-id="{HASHED}"'),
        (f'<g id="0"/><g id="{HASHED}"/>', '<g id="0"/>'),
        (f'<g id="{HASHED}"/><path fill="#0072B2"/>', "#0072B2"),
    ],
)
def test_what_is_no_id_stays(svg, what_stays):
    portable = portable_svg(svg)
    assert what_stays in portable
    assert f'id="{HASHED}"' not in portable.replace("data-id", "")


def test_ids_are_renamed_wherever_they_are_used():
    used = f'<path id="{HASHED}"/><g clip-path="url(#{HASHED})"/><use xlink:href="#{HASHED}"/>'
    names = re.findall(r'(?:id="|#)([\w-]+)', portable_svg(used))
    assert len(names) == 3
    assert len(set(names)) == 1


def test_pictures_in_one_document_share_an_id_only_if_they_are_the_same():
    def ids(width):
        rectangle = f'<rect width="{width}"/>'
        svg = portable_svg(f'<clipPath id="{HASHED}">{rectangle}</clipPath><g id="clip3"/>')
        return re.findall(r'id="(.*?)"', svg)

    assert len({*ids(1.111111), *ids(1.111112)}) == 2  # the same, once they are rounded
    assert len({*ids(1), *ids(2)}) == 4


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
