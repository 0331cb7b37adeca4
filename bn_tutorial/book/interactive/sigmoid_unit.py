"""One sigmoid unit before normalization, after step 3 and after step 4."""

from __future__ import annotations

from statistics import NormalDist

import altair as alt

from ..style import BLUE, GREEN, GREY, ORANGE
from .toolkit import INK, Handle, Preset, finish, grip, label, slider, text

__all__ = ["chart"]

# All curves share this axis, on which each runs from 0 to 1 at most.
_HEIGHT = alt.Y("height:Q", scale=alt.Scale(domain=[0, 1.08], nice=False), axis=None, stack=None)


def chart() -> alt.VConcatChart:
    """One sigmoid unit before normalization, after step 3 and after step 4.

    Sliders: the ``mean`` and the standard ``deviation`` of its input z (normally distributed),
    ``gamma``, ``beta`` and ``log_epsilon``, the decimal logarithm of ε. Each row has the density
    of the unit's input, 30 examples on the sigmoid, the sigmoid's slope, and the mean slope as a
    number. In a page the bells of the first and the last row can be dragged: by the ring at the
    top to the side, by the ring at the shoulder wider.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.sigmoid_unit import chart
    >>> [row.name for row in chart().vconcat]
    ['before', 'step3', 'step4']
    """
    sliders = [
        slider("mean", "mean of z", -8, 8, 0.5, -6),
        slider("deviation", "deviation of z", 0, 4, 0.1, 1),
        slider("gamma", "γ", 0, 4, 0.1, 2),
        slider("beta", "β", -8, 8, 0.5, 0.5),
        slider("log_epsilon", "log₁₀ ε", -5, 1, 0.5, -3),
    ]
    normalized = alt.param(
        name="normalized", expr="deviation / sqrt(deviation * deviation + pow(10, log_epsilon))"
    )
    rows = [
        _row("before", "Before: z", ORANGE, "mean", "deviation"),
        _row("step3", "After step 3: x̂", GREEN, "0", "normalized"),
        _row("step4", "After step 4: y = γ x̂ + β", BLUE, "beta", "(gamma * normalized)"),
    ]
    return finish(
        alt.vconcat(*rows, spacing=6).add_params(*sliders, normalized),
        "one unit before normalization, after step 3 and after step 4",
        note="All dots of the first row lie on the flat end. Drag its bell by the rings: the "
        "other rows hardly notice.",
        presets=_presets(),
        handles={
            "before_top": Handle("before_x", ["mean"]),
            "before_shoulder": Handle("before_x", ["deviation"]),
            "step4_top": Handle("step4_x", ["beta"]),
            "step4_shoulder": Handle("step4_x", ["gamma"]),
        },
    )


def _presets() -> list[Preset]:
    return [
        Preset(
            "Just normalized",
            "With γ = 1 and β = 0 step 4 does nothing: the third row repeats the second.",
            {"gamma": 1, "beta": 0},
        ),
        Preset(
            "γ and β undo step 3",
            "With β at the old mean and γ at the old deviation the third row is the first again.",
            {"gamma": 1, "beta": -6},
        ),
        Preset(
            "Spread too wide",
            "Before, dots lie on both flat ends; step 3 gathers them on the hill.",
            {"mean": 0, "deviation": 4, "gamma": 1, "beta": 0},
        ),
        Preset(
            "A steep unit",
            "In the third row fewer dots meet a slope, but it counts γ times: compare γ × mean "
            "slope with the mean slope of the second row.",
            {"gamma": 4, "beta": 0},
        ),
        Preset(
            "ε takes over",
            "The variance of z is smaller than ε, so that step 3 leaves a narrow bell.",
            {"mean": 0, "deviation": 0.2, "gamma": 1, "beta": 0, "log_epsilon": -0.5},
        ),
    ]


def _row(name: str, title: str, color: str, mean: str, deviation: str) -> alt.LayerChart:
    """What a sigmoid makes of a normal input; ``mean`` and ``deviation`` are expressions."""
    x = _input_axis(visible=name == "step4")  # the rows share the axis of the last
    z = f"{mean} + {deviation} * datum.t"
    moments = f"'mean ' + format({mean}, '.1f') + ', deviation ' + format({deviation}, '.2f')"
    mean_slope = _mean_slope(z)
    layers = [
        _slope(x),
        _sigmoid(x),
        _density(x, z, color),
        _examples(x, z, color),
        label(f"{name}_title", f"'{title}'", -22, weight="bold", color=color),
        label(f"{name}_moments", moments, -8),
        text(mean_slope, f"{name}_slope", "text", -22, align="right", weight="bold"),
    ]
    if name == "before":
        layers += [_curve_names(x), *_rings(x, name, mean, deviation, "1", color)]
    if name == "step4":
        layers.append(text(mean_slope, "step4_scaled", "scaled", -8, align="right"))
        layers += _rings(x, name, mean, deviation, "normalized", color)
    return alt.layer(*layers, name=name, width=600)


def _input_axis(*, visible: bool) -> alt.X:
    ticks = list(range(-10, 11, 2))
    axis = (
        alt.Axis(title="input of the sigmoid", values=ticks)
        if visible
        else alt.Axis(title=None, labels=False, ticks=False, values=ticks)
    )
    return alt.X("z:Q", scale=alt.Scale(domain=[-10, 10], nice=False), axis=axis)


def _curve() -> alt.Chart:
    return alt.Chart(alt.sequence(-10, 10.1, 0.2, as_="z"), height=95)


def _slope(x: alt.X) -> alt.Chart:
    """The sigmoid's slope, times 4, so that its top is at 1."""
    # It is e^-|z| / (1 + e^-|z|)²: this way no digits are lost where the curve is flat.
    return (
        _curve()
        .transform_calculate(small="exp(-abs(datum.z))")
        .transform_calculate(height="4 * datum.small / pow(1 + datum.small, 2)")
        .mark_area(color=GREY, opacity=0.28, aria=False)
        .encode(x, _HEIGHT)
    )


def _sigmoid(x: alt.X) -> alt.Chart:
    return (
        _curve()
        .transform_calculate(height="1 / (1 + exp(-datum.z))")
        .mark_line(color=INK, strokeWidth=1.2, aria=False)
        .encode(x, _HEIGHT)
    )


def _density(x: alt.X, z: str, color: str) -> alt.Chart:
    """The bell of the input ``z``; drawn along t, it survives a deviation of 0 as a spike."""
    return (
        alt.Chart(alt.sequence(-4, 4.01, 0.1, as_="t"))
        .transform_calculate(z=z, height="exp(-datum.t * datum.t / 2)")
        .mark_line(color=color, strokeWidth=2, clip=True, aria=False)
        .encode(x, _HEIGHT, order="t:Q")
    )


def _examples(x: alt.X, z: str, color: str) -> alt.Chart:
    """Thirty examples on the sigmoid, at quantiles of the input ``z``."""
    quantiles = [{"t": round(NormalDist().inv_cdf((i + 0.5) / 30), 3)} for i in range(30)]
    return (
        alt.Chart({"values": quantiles})
        .transform_calculate(z=z)
        .transform_calculate(height="1 / (1 + exp(-datum.z))")
        .mark_point(
            shape="circle",
            filled=True,
            color=color,
            stroke="white",
            strokeWidth=0.7,
            size=50,
            opacity=1,
            clip=True,
            aria=False,
        )
        .encode(x, _HEIGHT)
    )


def _rings(x: alt.X, row: str, mean: str, deviation: str, unit: str, color: str) -> list[alt.Chart]:
    """Rings at the top and at one shoulder of the bell, to drag it by.

    The shoulder stands a ``deviation`` to the right, which is the dragged control times ``unit``.
    """
    one = alt.Chart(alt.sequence(1, as_="i"))
    top = one.transform_calculate(z=mean, height="1")
    shoulder = one.transform_calculate(
        z=f"{mean} + {deviation}", height="exp(-0.5)", origin=mean, unit=unit
    )
    style = {"shape": "circle", "stroke": color, "strokeWidth": 2, "fill": "white", "size": 70}
    places = {"top": top, "shoulder": shoulder}
    rings = [
        place.mark_point(**style, opacity=1, clip=True, aria=False).encode(x, _HEIGHT)
        for place in places.values()
    ]
    grips = [grip(place, f"{row}_{name}", x, _HEIGHT) for name, place in places.items()]
    return rings + grips


def _mean_slope(z: str) -> alt.Chart:
    """The slope's mean over the input ``z``, as the lines ``text`` and ``scaled`` (by γ)."""
    return (
        alt.Chart(alt.sequence(-8, 8.01, 0.1, as_="t"))
        .transform_calculate(weight="exp(-datum.t * datum.t / 2)", small=f"exp(-abs({z}))")
        .transform_calculate(slope="datum.weight * datum.small / pow(1 + datum.small, 2)")
        .transform_aggregate(weight="sum(weight)", slope="sum(slope)")
        .transform_calculate(slope="datum.slope / datum.weight")
        .transform_calculate(
            text="'mean slope ' + format(datum.slope, '.4f')",
            scaled="'γ × mean slope ' + format(gamma * datum.slope, '.4f')",
        )
    )


def _curve_names(x: alt.X) -> alt.Chart:
    names = [
        {"z": 7, "height": 0.85, "text": "sigmoid"},
        {"z": 0, "height": 0.15, "text": "its slope"},
    ]
    return (
        alt.Chart({"values": names})
        .mark_text(color=INK, aria=False)
        .encode(x, _HEIGHT, text="text:N")
    )
