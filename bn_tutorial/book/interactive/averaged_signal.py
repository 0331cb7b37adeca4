"""A moving average of a noisy signal that jumps."""

from __future__ import annotations

import altair as alt
import numpy as np

from ..style import BLUE, GREY, ORANGE
from .toolkit import finish, label, slider, text

__all__ = ["chart"]

# The signal that is averaged: noise around 1, then around 3.
LEVEL = np.repeat([1.0, 3.0], 50)
SIGNAL = np.round(LEVEL + np.random.default_rng(3).normal(scale=0.7, size=100), 2)


def chart() -> alt.LayerChart:
    """A moving average of a noisy signal that jumps from 1 to 3 after 50 of its 100 values.

    Sliders: ``decay``, ``steps`` (how many updates so far), ``start`` (the value that the average
    starts from) and the box ``debias``: start from 0 and divide by 1 - decay^t. Numbers: the
    average, the weight that the start still has, window and half-life. A dot is filled as far as
    the average still remembers it.
    """
    controls = [
        slider("decay", "decay", 0, 0.99, 0.01, 0.9),
        slider("steps", "updates", 1, len(SIGNAL), 1, 60),
        slider("start", "start value", -2, 5, 0.5, 0),
        alt.param(name="debias", value=False, bind=alt.binding_checkbox(name="debias")),
    ]
    signal = alt.param(name="signal", value=SIGNAL.tolist())
    x = alt.X(
        "t:Q",
        scale=alt.Scale(domain=[0, len(SIGNAL)], nice=False),
        axis=alt.Axis(title="update", tickCount=10),
    )
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=[-2, 5], nice=False),
        axis=alt.Axis(title="value, average", tickCount=7),
    )
    values = (
        alt.Chart(alt.sequence(1, len(SIGNAL) + 1, as_="t"), height=230)
        .transform_calculate(
            value="signal[datum.t - 1]",
            memory="datum.t > steps ? 0 : pow(decay, steps - datum.t)",
        )
        .mark_point(
            shape="circle",
            stroke=BLUE,
            strokeWidth=1,
            strokeOpacity=0.45,
            fill=BLUE,
            size=40,
            opacity=1,
            aria=False,
        )
        .encode(x, y, fillOpacity=alt.FillOpacity("memory:Q", scale=None))
    )
    level = (
        alt.Chart(
            {"values": [{"t": t, "value": v} for t, v in ((0, 1), (50.5, 1), (50.5, 3), (100, 3))]}
        )
        .mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=1.5, aria=False)
        .encode(x, y, order="t:Q")
    )
    # The weighted sum that the recursion comes to, so that each average is exact by itself.
    averages = (
        alt.Chart(alt.sequence(0, len(SIGNAL) + 1, as_="t"))
        .transform_filter("datum.t <= steps && !(debias && datum.t == 0)")
        .transform_calculate(k="sequence(datum.t + 1)")
        .transform_flatten(["k"])
        .transform_calculate(
            term="datum.k == datum.t ? (debias ? 0 : start) * pow(decay, datum.t)"
            " : (1 - decay) * pow(decay, datum.k) * signal[datum.t - datum.k - 1]"
        )
        .transform_aggregate(value="sum(term)", groupby=["t"])
        .transform_calculate(value="debias ? datum.value / (1 - pow(decay, datum.t)) : datum.value")
    )
    line = averages.mark_line(color=ORANGE, strokeWidth=2.5, clip=True, aria=False).encode(
        x, y, order="t:Q"
    )
    now = averages.transform_filter("datum.t == steps")
    point = now.mark_point(
        color=ORANGE, shape="diamond", filled=True, size=140, opacity=1, aria=False
    ).encode(x, y)
    number = now.transform_calculate(
        text="'average after ' + steps + ' updates: ' + format(datum.value, '.4f')"
    )
    labels = [
        text(number, "average", "text", -24, weight="bold", color=ORANGE),
        label(
            "start_weight",
            "'weight of the start: ' + format(debias ? 0 : pow(decay, steps), '.4f')",
            -8,
        ),
        label("window", "'window ' + format((1 + decay) / (1 - decay), '.1f')", -24, align="right"),
        label(
            "half_life", "'half-life ' + format(log(0.5) / log(decay), '.1f')", -8, align="right"
        ),
    ]
    chart = alt.layer(level, values, line, point, *labels, width=580)
    return finish(
        chart.add_params(*controls, signal), "a moving average of a noisy signal that jumps"
    )
