"""Accuracy in training mode and in inference mode, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from ..style import BLUE, GREEN, GREY, ORANGE
from .toolkit import Preset, choice, finish, label, slider, text

__all__ = ["chart"]

_STEP = alt.X(
    "step:Q",
    scale=alt.Scale(type="log", domain=[1, 1000], nice=False),
    axis=alt.Axis(title="training steps", values=[1, 10, 100, 1000], format="d"),
)


_PRESETS = [
    Preset(
        "The same, recalibrated",
        "The same weights, with averages measured anew, answer nearly as well as in training mode.",
        {"recalibrate": True},
    ),
    Preset(
        "A shorter memory",
        "With momentum 0.9 inference mode is within a point of training mode by step 100.",
        {"momentum": 0.9, "log_steps": 2},
    ),
    Preset(
        "Too long a memory",
        "With momentum 0.999 inference mode still guesses after a thousand steps.",
        {"momentum": 0.999, "log_steps": 3},
    ),
    Preset(
        "Batches of four",
        "Inference mode passes training mode, whose batches are of four; seeds lie far apart.",
        {"batch": 4, "momentum": 0.9, "log_steps": 2.6, "recalibrate": True},
    ),
]


def chart(rows: Sequence[Mapping[str, float]]) -> alt.LayerChart:
    """Accuracy in training mode and in inference mode against the steps of training.

    Controls: ``momentum``, ``batch`` (its size), ``log_steps``, the decimal logarithm of the steps,
    and the box ``recalibrate``, which shows what the same weights do with fresh statistics. Lines
    are means over runs, bands reach from the lowest run to the highest; a dashed rule marks
    1/(1 - momentum) steps. Numbers: the accuracies after the chosen step, where the rule is, and
    the weight that the averages' start still has.

    Parameters
    ----------
    rows
        One for each batch size, momentum and step, of which each must occur with all others. Keys
        ``batch``, ``momentum``, ``step``; ``training``, ``evaluation`` and ``recalibrated``, means
        in %; and each of these three with ``_low`` and with ``_high``.

    Examples
    --------
    >>> from bn_tutorial.book.interactive.lagging_averages import chart
    >>> row = {"batch": 128, "momentum": 0.99, "step": 40}
    >>> for kind in ("training", "evaluation", "recalibrated"):
    ...     row |= {kind: 50.0, f"{kind}_low": 40.0, f"{kind}_high": 60.0}
    >>> [param.name for param in chart([row]).params]
    ['momentum', 'batch', 'log_steps', 'recalibrate', 'step']
    """
    momenta, batches = (sorted({row[name] for row in rows}) for name in ("momentum", "batch"))
    controls = [
        choice("momentum", "momentum", momenta, 0.99),
        choice("batch", "batch size", batches, 128),
        slider("log_steps", "log₁₀ steps", 0, 3, 0.2, 1.8),
        alt.param(name="recalibrate", value=False, bind=alt.binding_checkbox(name="recalibrate")),
    ]
    step = alt.param(name="step", expr="round(pow(10, log_steps))")
    chosen = alt.Chart({"values": [dict(row) for row in rows]}, height=240).transform_filter(
        "datum.batch == batch && datum.momentum == momentum"
    )
    fresh = chosen.transform_filter("recalibrate")
    weight = "format(100 * pow(momentum, step), '.0f')"
    right = {"align": "right", "color": GREY}
    layers = [
        *_rules(),
        *_curve(chosen, "training", "training mode: ", -40, BLUE),
        *_curve(chosen, "evaluation", "inference mode: ", -24, GREEN),
        *_curve(fresh, "recalibrated", "inference mode, recalibrated: ", -8, ORANGE),
        label("after", "'after ' + step + ' steps'", -56, weight="bold"),
        label("memory", "'1/(1 − momentum) = ' + round(1 / (1 - momentum))", -72, **right),
        label("start_weight", f"'weight of the start: ' + {weight} + ' %'", -56, **right),
    ]
    return finish(
        alt.layer(*layers, width=580).add_params(*controls, step),
        "accuracy in training mode and in inference mode, step by step",
        note="After 63 steps more than half of each average is still its start: inference mode "
        "guesses.",
        presets=_PRESETS,
        play="log_steps",
    )


def _height(field: str) -> alt.Y:
    return alt.Y(
        f"{field}:Q",
        scale=alt.Scale(domain=[0, 100], nice=False),
        axis=alt.Axis(title="accuracy, %", tickCount=5),
    )


def _rules() -> list[alt.Chart]:
    """1/(1 - momentum) steps, dashed, and the step that the numbers are of."""
    one = alt.Chart(alt.sequence(1, as_="i"))
    return [
        one.transform_calculate(step=step)
        .mark_rule(color=GREY, strokeDash=dashes, aria=False)
        .encode(_STEP)
        for step, dashes in (("1 / (1 - momentum)", [4, 4]), ("step", []))
    ]


def _curve(chosen: alt.Chart, kind: str, name: str, height: float, color: str) -> list[alt.Chart]:
    """One kind of accuracy: its range, its mean, and that after the step as dot and number."""
    dashes = [6, 4] if kind == "recalibrated" else []
    now = chosen.transform_filter("datum.step == step")
    number = f"'{name}' + format(datum.{kind}, '.1f') + ' %'"
    return [
        chosen.mark_area(color=color, opacity=0.15, aria=False).encode(
            _STEP, _height(f"{kind}_low"), alt.Y2(f"{kind}_high:Q")
        ),
        chosen.mark_line(color=color, strokeWidth=2, strokeDash=dashes, aria=False).encode(
            _STEP, _height(kind)
        ),
        now.mark_point(color=color, filled=True, size=80, opacity=1, aria=False).encode(
            _STEP, _height(kind)
        ),
        text(now.transform_calculate(text=number), kind, "text", height, color=color),
    ]
