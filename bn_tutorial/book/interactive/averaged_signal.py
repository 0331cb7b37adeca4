"""A moving average of a noisy signal that jumps."""

from __future__ import annotations

import altair as alt
import numpy as np

from ..style import BLUE, GREY, ORANGE
from .toolkit import Handle, Preset, finish, grip, label, slider, text

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
    the average still remembers it. In a page the diamond can be dragged through the updates, the
    start value up and down, and a button plays the updates.

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
    first = alt.Chart(alt.sequence(1, as_="t")).transform_calculate(value="start")
    shown = first.transform_filter("!debias")
    layers = [_level(), _values(), _line(averages), _ring(shown), _diamond(last)]
    grips = [grip(shown, "start", _UPDATE, _VALUE), grip(last, "average", _UPDATE, _VALUE)]
    return finish(
        alt.layer(*layers, *grips, *_numbers(last), width=580).add_params(*controls, signal),
        "a moving average of a noisy signal that jumps",
        note="Ten updates after the jump the average is still on its way. Drag the diamond along "
        "its line, or press Play.",
        presets=_presets(),
        handles={"start": Handle("y", ["start"]), "average": Handle("x", ["steps"])},
        play="steps",
    )


def _presets() -> list[Preset]:
    return [
        Preset(
            "Decay 0.99 after 10 updates",
            "Nine tenths of the average are still the value that it started from.",
            {"decay": 0.99, "steps": 10},
        ),
        Preset(
            "The same, debiased",
            "Divided by the sum of its weights, the average stands among the ten values at once.",
            {"decay": 0.99, "steps": 10, "debias": True},
        ),
        Preset(
            "A wrong start",
            "Started at 5, the line falls for some thirty updates; drag the ring at its start.",
            {"start": 5, "steps": 40},
        ),
        Preset(
            "A long window and a jump",
            "All fifty updates after the jump have not brought the average to the new level.",
            {"decay": 0.98, "steps": 100},
        ),
        Preset(
            "Hardly any memory",
            "Few dots are filled: the line is hardly late, and it jitters with the noise.",
            {"decay": 0.5, "steps": 100},
        ),
    ]


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


def _ring(first: alt.Chart) -> alt.Chart:
    """Where the average starts."""
    return first.mark_point(
        shape="circle", stroke=ORANGE, strokeWidth=2.5, fill="white", size=90, opacity=1, aria=False
    ).encode(_UPDATE, _VALUE)


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
        text(number, "average", "text", -40, weight="bold", color=ORANGE),
        label("start_weight", weight, -24),
        label("window", window, -8),
        label("half_life", half_life, -8, align="right"),
    ]
