"""A batch in training mode and in inference mode."""

from __future__ import annotations

import altair as alt

from ..style import BLUE, GREEN, GREY, ORANGE
from .toolkit import INK, finish, label, slider

__all__ = ["chart"]

# Our example, then its batch-mates: mean 4 and variance 9, as the stored statistics say.
BATCH = (3.0, -0.5, 1.5, 5.5, 6.0, 8.5)
MOVING_MEAN, MOVING_VARIANCE = 4.0, 9.0
EPSILON = 1e-3


def chart() -> alt.ConcatChart:
    """A batch of six examples of one feature, in training mode and in inference mode.

    Sliders: ``x1``, the example under study, its batch-mates ``x2`` to ``x6``, ``gamma`` and
    ``beta``. Each panel draws the output against the input: open for x̂, filled for y. Numbers: μ
    and σ² that the mode uses, x̂ and y of our example.
    """
    sliders = [
        slider(f"x{i}", f"x{'₁₂₃₄₅₆'[i - 1]}", -5, 15, 0.5, value)
        for i, value in enumerate(BATCH, start=1)
    ]
    sliders += [slider("gamma", "γ", 0, 2, 0.1, 1), slider("beta", "β", -2, 2, 0.1, 0)]
    names = [f"x{i}" for i in range(1, 7)]
    values = alt.param(name="values", expr=f"[{', '.join(names)}]")
    mean = alt.param(name="mean", expr=f"({' + '.join(names)}) / 6")
    squares = " + ".join(f"pow({name} - mean, 2)" for name in names)
    variance = alt.param(name="variance", expr=f"({squares}) / 6")
    panels = [
        _batch_panel("training", "Training mode", BLUE, "mean", "variance"),
        _batch_panel("inference", "Inference mode", GREEN, str(MOVING_MEAN), str(MOVING_VARIANCE)),
    ]
    return finish(
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
        label(f"{name}_{key}", text, height, color=ORANGE if height > -40 else INK)
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
        label(f"{name}_title", f"'{title}'", -74, weight="bold", color=colour),
        *labels,
    ]
    return alt.layer(*layers, name=name, width=270)
