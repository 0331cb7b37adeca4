"""In which mode the layer and the model are."""

from __future__ import annotations

from collections.abc import Iterator

from .._examined import Examined
from .._fit import gap_of, is_finite, is_forced
from ..report import Finding
from .words import RECALIBRATE, in_sigma

__all__ = ["inference_forced", "modes_disagree", "training_forced"]


def modes_disagree(examined: Examined) -> Iterator[Finding]:
    """The model gives other outputs in inference mode than in training mode."""
    if not examined.finite_outputs:
        return
    by_norm = _by_batch_norm(examined) if examined.batch_against_inference.size > 0.25 else None
    by_another = _by_another_layer(examined)
    if by_another and (by_norm is None or by_norm.severity == "note"):
        yield by_another
    elif by_norm:
        yield by_norm


def _by_another_layer(examined: Examined) -> Finding | None:
    """Say what differs in training mode although all batch normalizations do the same."""
    other = examined.training_against_batch
    normal = all(norm.training.moved or not norm.training.sample.batches for norm in examined.seen)
    normal = normal and not any(norm.training.unseen for norm in examined.norms)
    apart = other.on_average if examined.is_random else other.size
    if not normal or apart <= (0.3 if examined.is_random else 0.05):
        return None
    return Finding(
        "modes-disagree",
        "error",
        "",
        f"outputs in training and inference mode differ by {in_sigma(apart)}, and not by batch "
        "normalization: another layer does something else in training",
        {"apart": apart},
        "look at the layers of your own; a dropout divides what it keeps by the share that it "
        "keeps",
    )


def _by_batch_norm(examined: Examined) -> Finding:
    """Say what the statistics of the batch change, and whether right averages would mend it."""
    now, right = examined.batch_against_inference, examined.batch_against_right
    evidence = {"apart": now.size, "with_right_averages": right.size}
    message = f"outputs in training and inference mode differ by {in_sigma(now.size)}"
    if now.loss is not None:
        evidence |= {"loss_inference": now.loss[0], "loss_batch": now.loss[1]}
        message += f" (loss {now.loss[0]:.3g} in inference, {now.loss[1]:.3g} in training)"
    if now.size > 2 * right.size:
        worst = sorted(filter(is_finite, examined.seen), key=lambda norm: -gap_of(norm).size)[:3]
        severity, remedy = "error" if now.size > 0.5 else "warning", RECALIBRATE
        message += "; the averages furthest off are those of " + ", ".join(n.way for n in worst)
    elif right.on_average > 0.3:
        severity, remedy = "warning", "look for a layer of your own that does more in training"
        message += f", and with the right averages by {right.size:.2g}: they are not the cause"
    else:
        severity, remedy = "note", "larger batches, if it matters"
        message += (
            f", and with the right averages by {right.size:.2g}: it is the noise of the batches' "
            "statistics"
        )
    return Finding("modes-disagree", severity, "", message, evidence, remedy)


def inference_forced(examined: Examined) -> Iterator[Finding]:
    """The layer is called with training=False while its model trains."""
    for norm in filter(is_finite, examined.seen):
        if not is_forced(norm):
            continue
        fits = not gap_of(norm).matters
        yield Finding(
            "inference-forced",
            "note" if fits else "error",
            norm.way,
            "it stays in inference mode though the model trains"
            + ("; its averages fit, as in fine-tuning" if fits else ", so it normalizes nothing"),
            {},
            "hand `training` on in the `call` around it",
        )


def training_forced(examined: Examined) -> Iterator[Finding]:
    """The layer is called with training=True while its model does not train."""
    if examined.trains_by_default and examined.seen:
        name = examined.trains_by_default
        yield Finding(
            "training-forced",
            "warning",
            examined.seen[0].way,
            f"the `call` of {name} has training=True by default: model(x) trains",
            {},
            "`training=None` in its signature",
        )
    for norm in examined.seen:
        if norm.inference.moved:
            yield Finding(
                "training-forced",
                "error",
                norm.way,
                "it stays in training mode in inference: each answer depends on the batch",
                {},
                "hand `training` on in the `call` that decides it, then " + RECALIBRATE,
            )
        elif norm.written is not None:
            code = "training-forced" if norm.written else "inference-forced"
            yield Finding(
                code,
                "warning" if norm.written else "note",
                norm.way,
                f"training={norm.written} is written into the graph: model(x) follows it; fit, "
                "evaluate, predict and model(x, training=…) do not",
                {},
                "build the model without it",
            )
