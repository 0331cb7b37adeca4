"""Where the layer stands."""

from __future__ import annotations

from collections.abc import Iterator

from .._examined import Examined
from .._fit import is_finite
from .._sampling import gap_between
from ..report import Finding
from .words import and_others, in_sigma

__all__ = ["not_examined", "shared_layer", "twice_a_step", "useless_bias", "wrong_axis"]


def wrong_axis(examined: Examined) -> Iterator[Finding]:
    """The axis is not that of the channels of the convolution before, or after."""
    for norm in examined.seen:
        rank = len(norm.shape)
        if norm.channel_axis is None or norm.layer.axis % rank == norm.channel_axis:
            continue
        axis = norm.layer.axis % rank
        alone = norm.shape[norm.channel_axis] == 1  # as the channel of a spectrogram
        doubt = "note" if alone else "warning"
        yield Finding(
            "wrong-axis",
            "error" if norm.axis_from_before else doubt,
            norm.way,
            f"axis {axis} is normalized, of size {len(norm.mean)}, but the "
            f"convolution next to it has its channels on axis {norm.channel_axis}",
            {"axis": axis, "channel_axis": norm.channel_axis},
            f"BatchNormalization(axis={norm.channel_axis})"
            + ("" if norm.axis_from_before else ", unless it is meant so"),
        )


def shared_layer(examined: Examined) -> Iterator[Finding]:
    """The layer is called at several places, which share one pair of averages."""
    for norm in filter(is_finite, examined.seen):
        places = list(norm.batch.places.values())
        if len(places) < 2:
            continue
        gaps = [
            gap_between(p.mean, p.variance, places[0], norm.epsilon, p.batches) for p in places[1:]
        ]
        worst = max(gaps, key=lambda gap: gap.size)
        yield Finding(
            "shared-layer",
            "warning" if worst.matters else "note",
            norm.way,
            f"it is called at {len(places)} places, whose statistics "
            + (f"are {in_sigma(worst.size)} apart" if worst.matters else "are alike"),
            {"places": len(places), "gap": worst.size},
            "a batch normalization without TimeDistributed, which sees all steps at once"
            if norm.is_repeated
            else "a batch normalization for each place",
        )


def twice_a_step(examined: Examined) -> Iterator[Finding]:
    """The averages move more than once in a step."""
    for norm in examined.seen:
        moves = norm.moves if norm.own_moves is None else norm.own_moves
        if moves > 1:
            again = moves - norm.moves_forward
            yield Finding(
                "twice-a-step",
                "warning" if again else "note",
                norm.way,
                f"the averages move {moves} times a step"
                + (f", {norm.moves_forward} times in one forward pass" if again else ""),
                {"moves": moves},
                "momentum ** (1 / moves); or keep batch normalization out of what is recomputed",
            )


def useless_bias(examined: Examined) -> Iterator[Finding]:
    """The layer before adds a bias, which the mean takes away."""
    found = [norm for norm in examined.seen if norm.has_bias_before]
    if found:
        yield Finding(
            "useless-bias",
            "note",
            found[0].way,
            "the layer before has a bias, which the mean takes away" + and_others(found),
            {"layers": len(found)},
            "use_bias=False",
        )


def not_examined(examined: Examined) -> Iterator[Finding]:
    """What nobody could look at."""
    for norm in examined.norms:
        calls = norm.batch
        if calls.unseen or not calls.sample.batches:
            message = "the model does not call it on any value"
            remedy = "examine the model around it, or call it outside of the graph"
            if calls.unseen:
                message = "it is called inside a graph, where nobody can look"
            elif norm.own_moves:
                message += ", but the model's own step of training moves its averages"
                remedy = "examine the model that it is in; if it shall not learn, training=False"
            yield Finding(
                "not-examined", "note", norm.way, message, {"calls": calls.unseen}, remedy
            )
    if examined.step_failed:
        yield Finding(
            "not-examined",
            "note",
            "",
            f"its own `train_step` was not looked at, since it raised {examined.step_failed}",
            {},
            "call `fit` on a batch first",
        )
