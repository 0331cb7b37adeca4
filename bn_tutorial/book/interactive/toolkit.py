"""What the interactive figures are made of, and how they get into a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from ..style import GREY, portable_svg

__all__ = [
    "INK",
    "MIME",
    "VEGA_LITE",
    "Handle",
    "Preset",
    "choice",
    "finish",
    "grip",
    "label",
    "show",
    "slider",
    "text",
]

# The kind of output that a specification is, and the version of Vega-Lite that it is written in.
MIME = "application/vnd.vegalite.v5+json"
VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]

INK = "#222222"


def show(chart: alt.LayerChart | alt.VConcatChart | alt.ConcatChart) -> None:
    """Show a chart in a notebook: live where the page can run it, and as a still picture.

    JupyterLab and the book's pages run the Vega-Lite specification; presets, handles and the
    button that plays work in the pages only. Print, PDF and a page without JavaScript take the
    SVG, which comes out the same on every machine. Outside of IPython, the chart's description is
    printed.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import show
    >>> from bn_tutorial.book.interactive import both_modes
    >>> show(both_modes.chart())
    <interactive figure: a batch in training mode and in inference mode>
    """
    import vl_convert
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    plain = f"<interactive figure: {chart.description}>"
    if get_ipython() is None:
        print(plain)  # `display` would print all three forms in full
        return
    spec = chart.to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    display(  # type: ignore[no-untyped-call]
        {
            MIME: spec,
            "image/svg+xml": portable_svg(svg),
            "text/plain": plain,
        },
        raw=True,
    )


def slider(
    name: str, label: str, low: float, high: float, step: float, value: float
) -> alt.Parameter:
    """A number ``name`` that the reader sets, beside a ``label``.

    It goes from ``low`` to ``high`` by ``step``, and stands at ``value`` to begin with.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import slider
    >>> gamma = slider("gamma", "γ", 0, 4, 0.1, 1)
    >>> gamma.param.value, gamma.param.bind.name
    (1, 'γ')
    """
    return alt.param(
        name=name, value=value, bind=alt.binding_range(min=low, max=high, step=step, name=label)
    )


def choice(name: str, label: str, options: list[float], value: float) -> alt.Parameter:
    """A number ``name`` that the reader chooses among ``options``, at first ``value``.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import choice
    >>> choice("momentum", "momentum", [0.9, 0.99], 0.99).param.bind.options
    [0.9, 0.99]
    """
    return alt.param(name=name, value=value, bind=alt.binding_select(options=options, name=label))


def label(name: str, expression: str, height: float, **style: Any) -> alt.Chart:
    """A line of text that depends on sliders only, and so needs no data.

    ``expression`` is one of Vega's that gives the text; for the rest see `text`.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import label
    >>> line = label("sum", "'γ + β = ' + (gamma + beta)", -8)
    >>> line.to_dict()["transform"]
    [{'calculate': "'γ + β = ' + (gamma + beta)", 'as': 'text'}]
    """
    one = alt.Chart(alt.sequence(1, as_="i")).transform_calculate(text=expression)
    return text(one, name, "text", height, **style)


def text(
    chart: alt.Chart,
    name: str,
    field: str,
    height: float,
    *,
    align: str = "left",
    weight: str = "normal",
    color: str = INK,
) -> alt.Chart:
    """A line of text from a ``field`` of a chart, at the left or right edge of a panel.

    It stands ``height`` pixels below the panel's top, above it if negative; ``align`` names the
    edge. ``name`` is how the SVG tells the line from the figure's other lines.

    Examples
    --------
    >>> import altair as alt
    >>> from bn_tutorial.book.interactive.toolkit import text
    >>> line = text(alt.Chart(), "total", "sum", -8, align="right")
    >>> line.name, line.mark.align
    ('total', 'right')
    """
    return (
        chart.mark_text(align=align, fontWeight=weight, color=color)
        .encode(
            x=alt.value("width" if align == "right" else 0),
            y=alt.value(height),
            text=alt.Text(f"{field}:N"),
        )
        .properties(name=name)
    )


class Preset(NamedTuple):
    """A situation to look at: a button with a ``title`` puts the controls there.

    ``settings`` has the values of controls; the others go back to where they began. ``note`` is
    the sentence that says what to look at.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import Preset
    >>> Preset("A steep unit", "Few dots meet a slope.", {"gamma": 4}).settings
    {'gamma': 4}
    """

    title: str
    note: str
    settings: Mapping[str, float | bool]


class Handle(NamedTuple):
    """What the points of a `grip` set, dragged along the ``scale``, such as ``"training_x"``.

    Point number ``datum.i`` sets that of the ``controls``; without ``i`` all set the first. Where
    the data have fields ``origin`` and ``unit``, the value is (position - origin) / unit.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.toolkit import Handle
    >>> Handle("training_x", ["x1", "x2"]).controls[1]
    'x2'
    """

    scale: str
    controls: Sequence[str]


def grip(chart: alt.Chart, name: str, *position: Any) -> alt.Chart:
    """Invisible discs over points of a chart, wide enough for a finger to drag them.

    ``position`` is the encoding of the points. ``name`` is what `finish` calls the handle.

    Examples
    --------
    >>> import altair as alt
    >>> from bn_tutorial.book.interactive.toolkit import grip
    >>> grip(alt.Chart(), "mates", alt.X("x:Q")).name
    'mates_grip'
    """
    return (
        chart.mark_point(shape="circle", filled=True, color=GREY, size=700, opacity=0, aria=False)
        .encode(*position)
        .properties(name=f"{name}_grip")
    )


def finish(
    chart: Any,
    description: str,
    *,
    note: str = "",
    presets: Sequence[Preset] = (),
    handles: Mapping[str, Handle] | None = None,
    play: str | None = None,
) -> Any:
    """The chart with its description, in the look that all figures share.

    ``note`` says what to look at before a preset is chosen. ``handles`` are named like their
    grips. ``play`` names the slider that is time.

    Examples
    --------
    >>> import altair as alt
    >>> from bn_tutorial.book.interactive.toolkit import finish
    >>> finish(alt.Chart(), "nothing at all").config.background
    'white'
    """
    usermeta = {
        "note": note,
        "presets": [preset._asdict() for preset in presets],
        "handles": {
            f"{name}_grip_marks": handle._asdict() for name, handle in (handles or {}).items()
        },
        "play": play,
    }
    return chart.properties(description=description, padding=4, usermeta=usermeta).configure(
        font="Liberation Sans, Arial, sans-serif",  # vl-convert carries the first
        background="white",
        axis=alt.AxisConfig(
            gridColor="#e6e6e6",
            domainColor=GREY,
            tickColor=GREY,
            labelColor=INK,
            titleColor=INK,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            labelSeparation=5,  # on a phone, every other label
        ),
        view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(fontSize=12),
    )
