"""One sigmoid unit before normalization, after step 3 and after step 4."""

from __future__ import annotations

from statistics import NormalDist

import altair as alt

from ..style import BLUE, GREEN, GREY, ORANGE
from .toolkit import INK, finish, label, slider, text

__all__ = ["chart"]


def chart() -> alt.VConcatChart:
    """One sigmoid unit before normalization, after step 3 and after step 4.

    Sliders: the ``mean`` and the standard ``deviation`` of its input z (normally distributed),
    ``gamma``, ``beta`` and ``log_epsilon``, the decimal logarithm of ε. Each row has the density
    of the unit's input, 30 examples on the sigmoid, the sigmoid's slope, and the mean slope as a
    number.
    """
    sliders = [
        slider("mean", "mean of z", -8, 8, 0.5, -6),
        slider("deviation", "deviation of z", 0, 4, 0.1, 1),
        slider("gamma", "γ", 0, 4, 0.1, 1),
        slider("beta", "β", -8, 8, 0.5, 0),
        slider("log_epsilon", "log₁₀ ε", -5, 1, 0.5, -3),
    ]
    normalized = alt.param(
        name="normalized", expr="deviation / sqrt(deviation * deviation + pow(10, log_epsilon))"
    )
    rows = [
        _unit_row("before", "Before: z", ORANGE, "mean", "deviation"),
        _unit_row("step3", "After step 3: x̂", GREEN, "0", "normalized"),
        _unit_row("step4", "After step 4: y = γ x̂ + β", BLUE, "beta", "(gamma * normalized)"),
    ]
    return finish(
        alt.vconcat(*rows, spacing=6).add_params(*sliders, normalized),
        "one unit before normalization, after step 3 and after step 4",
    )


def _unit_row(name: str, title: str, colour: str, centre: str, deviation: str) -> alt.LayerChart:
    """What a sigmoid makes of a normal input; ``centre`` and ``deviation`` are expressions."""
    z = f"{centre} + {deviation} * datum.t"
    ticks = list(range(-10, 11, 2))
    x = alt.X(
        "z:Q",
        scale=alt.Scale(domain=[-10, 10], nice=False),
        axis=alt.Axis(title="input of the sigmoid", values=ticks)
        if name == "step4"
        else alt.Axis(title=None, labels=False, ticks=False, values=ticks),
    )
    y = alt.Y("height:Q", scale=alt.Scale(domain=[0, 1.08], nice=False), axis=None, stack=None)

    curve = alt.Chart(alt.sequence(-10, 10.1, 0.2, as_="z"), height=95)
    # The slope is e^-|z| / (1 + e^-|z|)²: this way no digits are lost where the curve is flat.
    slope = (
        curve.transform_calculate(small="exp(-abs(datum.z))")
        .transform_calculate(height="4 * datum.small / pow(1 + datum.small, 2)")
        .mark_area(color=GREY, opacity=0.28, aria=False)
        .encode(x, y)
    )
    sigmoid = (
        curve.transform_calculate(height="1 / (1 + exp(-datum.z))")
        .mark_line(color=INK, strokeWidth=1.2, aria=False)
        .encode(x, y)
    )
    # Drawn along t, the bell survives a deviation of 0: it becomes a spike.
    density = (
        alt.Chart(alt.sequence(-4, 4.01, 0.1, as_="t"))
        .transform_calculate(z=z, height="exp(-datum.t * datum.t / 2)")
        .mark_line(color=colour, strokeWidth=2, clip=True, aria=False)
        .encode(x, y, order="t:Q")
    )
    quantiles = [{"t": round(NormalDist().inv_cdf((i + 0.5) / 30), 3)} for i in range(30)]
    examples = (
        alt.Chart({"values": quantiles})
        .transform_calculate(z=z)
        .transform_calculate(height="1 / (1 + exp(-datum.z))")
        .mark_point(
            shape="circle",
            filled=True,
            color=colour,
            stroke="white",
            strokeWidth=0.7,
            size=50,
            opacity=1,
            clip=True,
            aria=False,
        )
        .encode(x, y)
    )
    mean_slope = (
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
    layers = [slope, sigmoid, density, examples]
    layers += [
        label(f"{name}_title", f"'{title}'", -22, weight="bold", color=colour),
        label(
            f"{name}_moments",
            f"'mean ' + format({centre}, '.1f') + ', deviation ' + format({deviation}, '.2f')",
            -8,
        ),
        text(mean_slope, f"{name}_slope", "text", -22, align="right", weight="bold"),
    ]
    if name == "before":
        names = [
            {"z": 7, "height": 0.85, "text": "sigmoid"},
            {"z": 0, "height": 0.15, "text": "its slope"},
        ]
        layers += [
            alt.Chart({"values": names})
            .mark_text(color=INK, aria=False)
            .encode(x, y, text="text:N")
        ]
    elif name == "step4":
        layers += [text(mean_slope, "step4_scaled", "scaled", -8, align="right")]
    return alt.layer(*layers, name=name, width=600)
