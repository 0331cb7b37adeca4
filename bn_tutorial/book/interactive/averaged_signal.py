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

_UPDATE = alt.X(
    "t:Q",
    scale=alt.Scale(domain=[0, len(SIGNAL)], nice=False),
    axis=alt.Axis(title="update", tickCount=10),
)
_VALUE = alt.Y(
    "value:Q",
    scale=alt.Scale(domain=[-2, 5], nice=False),
    axis=alt.Axis(title="value, average", tickCount=7),
)


def chart() -> alt.LayerChart:
    """A moving average of a noisy signal that jumps from 1 to 3 after 50 of its 100 values.

    Sliders: ``decay``, ``steps`` (how many updates so far), ``start`` (the value that the average
    starts from) and the box ``debias``: start from 0 and divide by 1 - decay^t. Numbers: the
    average, the weight that the start still has, window and half-life. A dot is filled as far as
    the average still remembers it.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.averaged_signal import chart
    >>> [param.name for param in chart().params]
    ['decay', 'steps', 'start', 'debias', 'signal']
    """
    controls = [
        slider("decay", "decay", 0, 0.99, 0.01, 0.9),
        slider("steps", "updates", 1, len(SIGNAL), 1, 60),
        slider("start", "start value", -2, 5, 0.5, 0),
        alt.param(name="debias", value=False, bind=alt.binding_checkbox(name="debias")),
    ]
    signal = alt.param(name="signal", value=SIGNAL.tolist())
    averages = _averages()
    last = averages.transform_filter("datum.t == steps")
    layers = [_level(), _values(), _line(averages), _diamond(last), *_numbers(last)]
    return finish(
        alt.layer(*layers, width=580).add_params(*controls, signal),
        "a moving average of a noisy signal that jumps",
    )


def _level() -> alt.Chart:
    """What the signal is without its noise."""
    corners = [(0, 1), (50.5, 1), (50.5, 3), (100, 3)]
    return (
        alt.Chart({"values": [{"t": t, "value": value} for t, value in corners]})
        .mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=1.5, aria=False)
        .encode(_UPDATE, _VALUE, order="t:Q")
    )


def _values() -> alt.Chart:
    """The signal, each value as opaque as the average remembers it."""
    return (
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
        .encode(_UPDATE, _VALUE, fillOpacity=alt.FillOpacity("memory:Q", scale=None))
    )


def _averages() -> alt.Chart:
    """The average after each update so far, in fields ``t`` and ``value``."""
    # The weighted sum that the recursion comes to, so that each average is exact by itself.
    return (
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


def _line(averages: alt.Chart) -> alt.Chart:
    return averages.mark_line(color=ORANGE, strokeWidth=2.5, clip=True, aria=False).encode(
        _UPDATE, _VALUE, order="t:Q"
    )


def _diamond(average: alt.Chart) -> alt.Chart:
    return average.mark_point(
        color=ORANGE, shape="diamond", filled=True, size=140, opacity=1, aria=False
    ).encode(_UPDATE, _VALUE)


def _numbers(average: alt.Chart) -> list[alt.Chart]:
    number = average.transform_calculate(
        text="'average after ' + steps + ' updates: ' + format(datum.value, '.4f')"
    )
    weight = "'weight of the start: ' + format(debias ? 0 : pow(decay, steps), '.4f')"
    window = "'window ' + format((1 + decay) / (1 - decay), '.1f')"
    half_life = "'half-life ' + format(log(0.5) / log(decay), '.1f')"
    return [
        text(number, "average", "text", -24, weight="bold", color=ORANGE),
        label("start_weight", weight, -8),
        label("window", window, -24, align="right"),
        label("half_life", half_life, -8, align="right"),
    ]
