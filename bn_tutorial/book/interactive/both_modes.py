"""A batch in training mode and in inference mode."""

from __future__ import annotations

from typing import Any, NamedTuple

import altair as alt

from ..style import BLUE, GREEN, GREY, ORANGE
from .toolkit import Handle, Preset, finish, grip, label, slider

__all__ = ["chart"]

# Our example, then its batch-mates. They lie lower than the stored statistics say, so that our
# example is above the mean on the left and below it on the right.
BATCH = (3.0, -3.0, -1.0, 0.5, 2.0, 4.5)
MOVING_MEAN, MOVING_VARIANCE = 4.0, 9.0
TYPICAL = (3.0, -0.5, 1.5, 5.5, 6.0, 8.5)  # a batch with just these statistics
EPSILON = 1e-3

_NAMES = [f"x{i}" for i in range(1, 7)]

_DOMAIN = [-6, 16]
_INPUT = alt.X(
    "x:Q",
    scale=alt.Scale(domain=_DOMAIN, nice=False),
    axis=alt.Axis(title="input x", values=[-5, 0, 5, 10, 15]),
)
_BOTTOM = alt.YValue("height")  # type: ignore[no-untyped-call]


def chart() -> alt.ConcatChart:
    """A batch of up to six examples of one feature, in training mode and in inference mode.

    Sliders: ``x1``, the example under study, its batch-mates ``x2`` to ``x6``, ``gamma``, ``beta``
    and ``size``, how many of the six are in the batch. Each panel draws the output against the
    input: open for x̂, filled for y. In a page the examples can be dragged, along the axis or where
    their outputs are. Numbers: μ and σ² that the mode uses, x̂ and y of our example.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.both_modes import chart
    >>> [panel.name for panel in chart().concat]
    ['training', 'inference']
    """
    sliders = [
        slider(name, f"x{subscript}", -5, 15, 0.5, value)
        for name, subscript, value in zip(_NAMES, "₁₂₃₄₅₆", BATCH, strict=True)
    ]
    sliders += [
        slider("gamma", "γ", 0, 2, 0.1, 1),
        slider("beta", "β", -2, 2, 0.1, 0),
        slider("size", "batch size", 1, len(BATCH), 1, len(BATCH)),
    ]
    statistics = [
        alt.param(name="values", expr=f"[{', '.join(_NAMES)}]"),
        alt.param(name="mean", expr=_mean_of("{}")),
        alt.param(name="variance", expr=_mean_of("pow({} - mean, 2)")),
    ]
    modes = [
        _Mode("training", "Training mode", BLUE, "mean", "variance"),
        _Mode("inference", "Inference mode", GREEN, str(MOVING_MEAN), str(MOVING_VARIANCE)),
    ]
    panels = alt.concat(*map(_panel, modes), columns=2, spacing=24)
    return finish(
        panels.add_params(*sliders, *statistics),
        "a batch in training mode and in inference mode",
        note="The same x₁ lies above the mean of its batch and below the stored mean. Drag the "
        "points on an axis: which of them move the diamond on the right?",
        presets=_presets(),
        handles={
            f"{mode.name}_{place}": Handle(f"{mode.name}_x", _NAMES)
            for mode in modes
            for place in ("input", "output")
        },
    )


def _mean_of(term: str) -> str:
    """The mean of a ``term`` in each example, over those that are in the batch."""
    terms = (f"(size > {i} ? {term.format(name)} : 0)" for i, name in enumerate(_NAMES))
    return f"({' + '.join(terms)}) / size"


def _presets() -> list[Preset]:
    def batch(*values: float) -> dict[str, float | bool]:
        return dict(zip(_NAMES, values, strict=True))

    return [
        Preset(
            "A typical batch",
            "This batch has the stored mean and variance: both modes draw the same line.",
            batch(*TYPICAL),
        ),
        Preset(
            "An outlier in the batch",
            "On the left one mate flattens the line and squeezes the other five together; "
            "on the right nobody else moves.",
            batch(*TYPICAL[:5], 15.0),
        ),
        Preset(
            "A batch of two",
            "Drag either of the two: as long as they are not close together, the outputs on the "
            "left stay at −1 and 1, whatever the inputs are.",
            {"x1": 3.0, "x2": 8.0, "size": 2},
        ),
        Preset(
            "A batch of one",
            "An example that is its own mean leaves training mode as β, wherever you drag it.",
            {"beta": 0.5, "size": 1},
        ),
        Preset(
            "Averages that lag",
            "The inputs have risen by 6 and the stored mean has not: on the left the outputs are "
            "around 0, on the right they are too high.",
            batch(*(value + 6 for value in TYPICAL)),
        ),
    ]


class _Mode(NamedTuple):
    """A mode and what it normalizes with: ``mean`` and ``variance`` are expressions."""

    name: str
    title: str
    color: str
    mean: str
    variance: str

    def normalized(self, x: str) -> str:
        return f"({x} - {self.mean}) / sqrt({self.variance} + {EPSILON})"

    def outputs(self, chart: alt.Chart) -> alt.Chart:
        """Give each input ``x`` of a chart the fields ``x_hat`` and ``y``."""
        return chart.transform_calculate(x_hat=self.normalized("datum.x")).transform_calculate(
            y="gamma * datum.x_hat + beta"
        )

    def axis(self, field: str) -> alt.Y:
        """The vertical axis, whose title the left panel has for both."""
        left = self.name == "training"
        return alt.Y(
            f"{field}:Q",
            scale=alt.Scale(domain=[-4, 4], nice=False),
            axis=alt.Axis(title="output", tickCount=8) if left else alt.Axis(title=None),
        )


def _panel(mode: _Mode) -> alt.LayerChart:
    """Output against input."""
    examples = mode.outputs(
        # Ours comes last, and so lies on top.
        alt.Chart(alt.sequence(len(BATCH) - 1, -1, -1, as_="i"))
        .transform_filter("datum.i < size")
        .transform_calculate(x="values[datum.i]")
    )
    ours, mates = (examples.transform_filter(f"datum.i {test} 0") for test in ("==", ">"))
    y = mode.axis("y")
    layers = [
        *_moments(mode),
        *_maps(mode),
        ours.mark_rule(color=ORANGE, strokeWidth=1, clip=True, aria=False).encode(y),
        *_points(mates, mode, mode.color, shape="circle", size=55, strokeWidth=1.5),
        *_points(ours, mode, ORANGE, shape="diamond", size=150, strokeWidth=2),
        ours.mark_text(color=ORANGE, dy=-17, fontWeight="bold", aria=False).encode(
            _INPUT, y, text=alt.value("x₁")
        ),
        _inputs(mates, mode.color, shape="circle", size=70),
        _inputs(ours, ORANGE, shape="diamond", size=110),
        grip(examples, f"{mode.name}_output", _INPUT, y),
        grip(examples, f"{mode.name}_input", _INPUT, _BOTTOM),
        *_labels(mode),
    ]
    return alt.layer(*layers, name=mode.name, width=270)


def _inputs(examples: alt.Chart, color: str, **style: Any) -> alt.Chart:
    """The examples on the axis."""
    return examples.mark_point(
        filled=True, color=color, stroke="white", strokeWidth=1, opacity=1, aria=False, **style
    ).encode(_INPUT, _BOTTOM)


def _moments(mode: _Mode) -> list[alt.Chart]:
    """The mean as a line, in a band of one standard deviation to each side."""
    one = alt.Chart(alt.sequence(1, as_="i"))
    low, high = (f"{mode.mean} {sign} sqrt({mode.variance})" for sign in "-+")
    band = (
        one.transform_calculate(x=low, x2=high)
        .mark_rect(color=GREY, opacity=0.18, clip=True, aria=False)
        .encode(_INPUT, alt.X2("x2:Q"))
    )
    center = (
        one.transform_calculate(x=mode.mean)
        .mark_rule(color=GREY, strokeDash=[3, 3], aria=False)
        .encode(_INPUT)
    )
    return [band, center]


def _maps(mode: _Mode) -> list[alt.Chart]:
    """The straight lines on which all x̂ and all y lie."""
    ends = mode.outputs(alt.Chart({"values": [{"x": end} for end in _DOMAIN]}, height=240))
    dashed = ends.mark_line(
        color=mode.color, strokeWidth=1.2, strokeDash=[5, 4], clip=True, aria=False
    )
    solid = ends.mark_line(color=mode.color, strokeWidth=2, clip=True, aria=False)
    return [dashed.encode(_INPUT, mode.axis("x_hat")), solid.encode(_INPUT, mode.axis("y"))]


def _points(examples: alt.Chart, mode: _Mode, color: str, **style: Any) -> list[alt.Chart]:
    """The examples' x̂, open, and their y, filled."""
    return [
        examples.mark_point(
            fill=fill, stroke=color, opacity=1, clip=True, aria=False, **style
        ).encode(_INPUT, mode.axis(field))
        for field, fill in (("x_hat", "white"), ("y", color))
    ]


def _labels(mode: _Mode) -> list[alt.Chart]:
    """The panel's title and its numbers, those of our example in its colour."""
    x_hat = mode.normalized("x1")
    mean = f"'μ = ' + format({mode.mean}, '.2f')"
    variance = f"'σ² = ' + format({mode.variance}, '.2f')"
    ours = f"'x̂₁ = ' + format({x_hat}, '.4f')"
    output = f"'y₁ = ' + format(gamma * {x_hat} + beta, '.4f')"
    return [
        label(f"{mode.name}_title", f"'{mode.title}'", -74, weight="bold", color=mode.color),
        label(f"{mode.name}_mean", mean, -56),
        label(f"{mode.name}_variance", variance, -40),
        label(f"{mode.name}_x_hat", ours, -24, color=ORANGE),
        label(f"{mode.name}_y", output, -8, color=ORANGE),
    ]
