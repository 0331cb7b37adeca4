"""Figures with sliders, which compute in the page and in JupyterLab, without a server.

Each function describes a figure in Vega-Lite, as an Altair chart; `show` puts it into a notebook.
The arithmetic is written out once more, in Vega's expressions: the tests hold it to the package.
"""

from __future__ import annotations

import re
from statistics import NormalDist
from typing import Any

import altair as alt
import numpy as np

from .plots import BLUE, GREEN, GREY, ORANGE, round_coordinates

__all__ = ["batch", "moving_average", "show", "unit"]

# The kind of output that a specification is, and the version of Vega-Lite that it is written in.
MIME = "application/vnd.vegalite.v5+json"
VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]

INK = "#222222"


def show(chart: alt.LayerChart | alt.VConcatChart | alt.ConcatChart) -> None:
    """Show a chart in a notebook: live where the page can run it, and as a still picture.

    JupyterLab and the book's pages run the Vega-Lite specification. Print, PDF and a page without
    JavaScript take the SVG, which comes out the same on every machine.
    """
    import vl_convert
    from IPython.display import display

    spec = chart.to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    display(  # type: ignore[no-untyped-call]
        {
            MIME: spec,
            "image/svg+xml": _portable(svg),
            "text/plain": f"<interactive figure: {chart.description}>",
        },
        raw=True,
    )


def _portable(svg: str) -> str:
    """The same SVG with rounded coordinates, and clip paths counted from 0 in each picture."""
    clips: dict[str, str] = {}
    svg = re.sub(r"\bclip\d+", lambda name: clips.setdefault(name[0], f"clip{len(clips)}"), svg)
    return round_coordinates(svg)


def unit() -> alt.VConcatChart:
    """One sigmoid unit before normalization, after step 3 and after step 4.

    Sliders: the ``mean`` and ``spread`` of its input z (normally distributed), ``gamma``, ``beta``
    and ``log_epsilon``, the decimal logarithm of ε. Each row has the density of the unit's input,
    30 examples on the sigmoid, the sigmoid's slope, and the mean slope as a number.
    """
    sliders = [
        _slider("mean", "mean of z", -8, 8, 0.5, -6),
        _slider("spread", "spread of z", 0, 4, 0.1, 1),
        _slider("gamma", "γ", 0, 4, 0.1, 1),
        _slider("beta", "β", -8, 8, 0.5, 0),
        _slider("log_epsilon", "log₁₀ ε", -5, 1, 0.5, -3),
    ]
    normalized = alt.param(
        name="normalized", expr="spread / sqrt(spread * spread + pow(10, log_epsilon))"
    )
    rows = [
        _unit_row("before", "Before: z", ORANGE, "mean", "spread"),
        _unit_row("step3", "After step 3: x̂", GREEN, "0", "normalized"),
        _unit_row("step4", "After step 4: y = γ x̂ + β", BLUE, "beta", "(gamma * normalized)"),
    ]
    return _finish(
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
    # Drawn along t, the bell survives a spread of 0: it becomes a spike.
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
        _label(f"{name}_title", f"'{title}'", -22, weight="bold", color=colour),
        _label(
            f"{name}_moments",
            f"'mean ' + format({centre}, '.1f') + ', spread ' + format({deviation}, '.2f')",
            -8,
        ),
        _text(mean_slope, f"{name}_slope", "text", -22, align="right", weight="bold"),
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
        layers += [_text(mean_slope, "step4_scaled", "scaled", -8, align="right")]
    return alt.layer(*layers, name=name, width=600)


# The signal that is averaged: noise around 1, then around 3.
LEVEL = np.repeat([1.0, 3.0], 50)
SIGNAL = np.round(LEVEL + np.random.default_rng(3).normal(scale=0.7, size=100), 2)


def moving_average() -> alt.LayerChart:
    """A moving average of a noisy signal that jumps from 1 to 3 after 50 of its 100 values.

    Sliders: ``decay``, ``steps`` (how many updates so far), ``start`` (the value that the average
    starts from) and the box ``debias``: start from 0 and divide by 1 - decay^t. Numbers: the
    average, the weight that the start still has, window and half-life. A dot is filled as far as
    the average still remembers it.
    """
    controls = [
        _slider("decay", "decay", 0, 0.99, 0.01, 0.9),
        _slider("steps", "updates", 1, len(SIGNAL), 1, 60),
        _slider("start", "start value", -2, 5, 0.5, 0),
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
        _text(number, "average", "text", -24, weight="bold", color=ORANGE),
        _label(
            "start_weight",
            "'weight of the start: ' + format(debias ? 0 : pow(decay, steps), '.4f')",
            -8,
        ),
        _label(
            "window", "'window ' + format((1 + decay) / (1 - decay), '.1f')", -24, align="right"
        ),
        _label(
            "half_life", "'half-life ' + format(log(0.5) / log(decay), '.1f')", -8, align="right"
        ),
    ]
    chart = alt.layer(level, values, line, point, *labels, width=580)
    return _finish(
        chart.add_params(*controls, signal), "a moving average of a noisy signal that jumps"
    )


# Our example, then its batch-mates: mean 4 and variance 9, as the stored statistics say.
BATCH = (3.0, -0.5, 1.5, 5.5, 6.0, 8.5)
MOVING_MEAN, MOVING_VARIANCE = 4.0, 9.0
EPSILON = 1e-3


def batch() -> alt.ConcatChart:
    """A batch of six examples of one feature, in training mode and in inference mode.

    Sliders: ``x1``, the example under study, its batch-mates ``x2`` to ``x6``, ``gamma`` and
    ``beta``. Each panel draws the output against the input: open for x̂, filled for y. Numbers: μ
    and σ² that the mode uses, x̂ and y of our example.
    """
    sliders = [
        _slider(f"x{i}", f"x{'₁₂₃₄₅₆'[i - 1]}", -5, 15, 0.5, value)
        for i, value in enumerate(BATCH, start=1)
    ]
    sliders += [_slider("gamma", "γ", 0, 2, 0.1, 1), _slider("beta", "β", -2, 2, 0.1, 0)]
    names = [f"x{i}" for i in range(1, 7)]
    values = alt.param(name="values", expr=f"[{', '.join(names)}]")
    mean = alt.param(name="mean", expr=f"({' + '.join(names)}) / 6")
    squares = " + ".join(f"pow({name} - mean, 2)" for name in names)
    variance = alt.param(name="variance", expr=f"({squares}) / 6")
    panels = [
        _batch_panel("training", "Training mode", BLUE, "mean", "variance"),
        _batch_panel("inference", "Inference mode", GREEN, str(MOVING_MEAN), str(MOVING_VARIANCE)),
    ]
    return _finish(
        alt.concat(*panels, columns=2, spacing=24).add_params(*sliders, values, mean, variance),
        "a batch in training mode and in inference mode",
    )


def _batch_panel(name: str, title: str, colour: str, mean: str, variance: str) -> alt.LayerChart:
    """Output against input; ``mean`` and ``variance`` are expressions."""
    domain = [-6, 16]
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(title="input x", values=[-5, 0, 5, 10, 15]),
    )
    scale = alt.Scale(domain=[-4, 4], nice=False)
    axis = alt.Axis(title="output", tickCount=8) if name == "training" else alt.Axis(title=None)
    x_hat, y = (alt.Y(f"{field}:Q", scale=scale, axis=axis) for field in ("x_hat", "y"))

    def normalized(chart: alt.Chart) -> alt.Chart:
        return chart.transform_calculate(
            x_hat=f"(datum.x - {mean}) / sqrt({variance} + {EPSILON})"
        ).transform_calculate(y="gamma * datum.x_hat + beta")

    maps = normalized(alt.Chart({"values": [{"x": end} for end in domain]}, height=240))
    examples = normalized(
        alt.Chart(alt.sequence(len(BATCH), as_="i")).transform_calculate(x="values[datum.i]")
    )
    ours, mates = (examples.transform_filter(f"datum.i {test} 0") for test in ("==", ">"))
    spread = (
        alt.Chart(alt.sequence(1, as_="i"))
        .transform_calculate(x=f"{mean} - sqrt({variance})", x2=f"{mean} + sqrt({variance})")
        .mark_rect(color=GREY, opacity=0.18, clip=True, aria=False)
        .encode(x, alt.X2("x2:Q"))
    )
    centre = (
        alt.Chart(alt.sequence(1, as_="i"))
        .transform_calculate(x=mean)
        .mark_rule(color=GREY, strokeDash=[3, 3], aria=False)
        .encode(x)
    )
    circle = {"shape": "circle", "size": 55, "stroke": colour, "strokeWidth": 1.5}
    diamond = {"shape": "diamond", "size": 150, "stroke": ORANGE, "strokeWidth": 2}
    points = [
        chart.mark_point(fill=fill, opacity=1, clip=True, aria=False, **style).encode(x, field)
        for chart, style in ((mates, circle), (ours, diamond))
        for field, fill in ((x_hat, "white"), (y, style["stroke"]))
    ]
    normalized_x1 = f"(x1 - {mean}) / sqrt({variance} + {EPSILON})"
    numbers = {
        "mean": f"'μ = ' + format({mean}, '.2f')",
        "variance": f"'σ² = ' + format({variance}, '.2f')",
        "x_hat": f"'x̂₁ = ' + format({normalized_x1}, '.4f')",
        "y": f"'y₁ = ' + format(gamma * {normalized_x1} + beta, '.4f')",
    }
    labels = [
        _label(f"{name}_{key}", text, height, color=ORANGE if height > -40 else INK)
        for height, (key, text) in zip((-56, -40, -24, -8), numbers.items(), strict=True)
    ]
    layers = [
        spread,
        centre,
        maps.mark_line(
            color=colour, strokeWidth=1.2, strokeDash=[5, 4], clip=True, aria=False
        ).encode(x, x_hat),
        maps.mark_line(color=colour, strokeWidth=2, clip=True, aria=False).encode(x, y),
        ours.mark_rule(color=ORANGE, strokeWidth=1, clip=True, aria=False).encode(y),
        *points,
        ours.mark_text(color=ORANGE, dy=-17, fontWeight="bold", aria=False).encode(
            x, y, text=alt.value("x₁")
        ),
        _label(f"{name}_title", f"'{title}'", -74, weight="bold", color=colour),
        *labels,
    ]
    return alt.layer(*layers, name=name, width=270)


def _slider(
    name: str, label: str, low: float, high: float, step: float, value: float
) -> alt.Parameter:
    """A number that the reader sets."""
    return alt.param(
        name=name, value=value, bind=alt.binding_range(min=low, max=high, step=step, name=label)
    )


def _label(name: str, expression: str, height: float, **style: Any) -> alt.Chart:
    """A line of text that depends on sliders only."""
    one = alt.Chart(alt.sequence(1, as_="i")).transform_calculate(text=expression)
    return _text(one, name, "text", height, **style)


def _text(
    chart: alt.Chart,
    name: str,
    field: str,
    height: float,
    *,
    align: str = "left",
    weight: str = "normal",
    color: str = INK,
) -> alt.Chart:
    """A line of text at the left or right edge of a panel, ``height`` below its top."""
    return (
        chart.mark_text(align=align, fontWeight=weight, color=color)
        .encode(
            x=alt.value("width" if align == "right" else 0),
            y=alt.value(height),
            text=alt.Text(f"{field}:N"),
        )
        .properties(name=name)
    )


def _finish(chart: Any, description: str) -> Any:
    """One look for all figures."""
    return chart.properties(description=description, padding=4).configure(
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
        ),
        view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(fontSize=12),
    )
