"""In which mode the layer and the model are."""

from __future__ import annotations

from collections.abc import Iterator

from .._examined import Examined
from .._fit import averages_cost, costs_loss, gap_of, is_at_start, is_finite, is_forced, is_trained
from .._noise import is_of_keras, is_own
from ..report import Finding
from .words import RECALIBRATE, UNTOLD, after_training_with_these, in_sigma

__all__ = ["inference_forced", "modes_disagree", "training_forced"]


def modes_disagree(examined: Examined, causes: str) -> Iterator[Finding]:
    """The model gives other outputs in inference mode than in training mode.

    Only a note where something that was found, with the codes ``causes``, explains it.
    """
    if not examined.finite_outputs:
        return
    differ = examined.batch_against_inference.size > 0.25
    by_norm = _by_batch_norm(examined, causes) if differ else None
    by_another = _by_another_layer(examined)
    if by_another and (by_norm is None or by_norm.severity == "note"):
        yield by_another
    elif by_norm:
        yield by_norm


def _by_another_layer(examined: Examined) -> Finding | None:
    """Say what differs in training mode although all batch normalizations do the same."""
    other = examined.training_against_batch
    apart = other.on_average if examined.is_random else other.size
    if apart <= (0.3 if examined.is_random else 0.05) or not _others_differ(examined):
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


def _others_differ(examined: Examined) -> bool:
    """Whether more does in training as in training than batch normalization and Keras's noise."""
    alike = all(
        (norm.training.moved or not norm.training.sample.batches)
        and len(norm.training.places) == len(norm.batch.places)
        for norm in examined.seen
    )
    seen = not any(norm.training.unseen for norm in examined.norms)
    return alike and seen and examined.others_against_batch.size > 0.05


def _by_batch_norm(examined: Examined, causes: str) -> Finding:
    """Say what the statistics of the batch change, and what helps."""
    now, right = examined.batch_against_inference, examined.batch_against_right
    evidence = {"apart": now.size, "with_right_averages": right.size}
    message = f"outputs in training and inference mode differ by {in_sigma(now.size)}"
    if now.loss is not None:
        evidence |= {"loss_inference": now.loss[0], "loss_batch": now.loss[1]}
        message += f" (loss {now.loss[0]:.3g} in inference, {now.loss[1]:.3g} in training)"
    if causes:
        severity, why, remedy = "note", f"; {causes} may explain it", f"as for {causes}"
    else:
        severity, why, remedy = _why_they_differ(examined)
    return Finding("modes-disagree", severity, "", message + why, evidence, remedy)


def _why_they_differ(examined: Examined) -> tuple[str, str, str]:
    """Return the severity, a sentence on what right averages would mend, and the remedy."""
    right, mend = examined.batch_against_right, examined.right_against_inference
    gaps = {norm.way: gap_of(norm) for norm in filter(is_finite, examined.seen)}
    # They are most of the difference if its square is 4 times what would be left, or more.
    averages = mend.size**2 > 3 * right.size**2 or (
        not mend.count and any(gap.matters for gap in gaps.values())
    )
    if averages:
        worst = sorted(gaps, key=lambda way: -gaps[way].size)[:3]
        why = f"; the averages furthest off are those of {', '.join(worst)}"
        if mend.loss is not None and not costs_loss(examined):
            why += f", and cost no loss (recalibrated {mend.loss[1]:.3g})"
            return "note", why, "leave the averages, if the weights were trained with them"
        return (
            "error" if examined.batch_against_inference.size > 0.5 else "warning",
            why,
            RECALIBRATE,
        )
    why = f", and with the right averages by {right.size:.2g}: "
    own = _others_differ(examined) or any(is_own(norm.layer) for norm in examined.seen)
    if own and right.on_average > 0.3:
        remedy = "look for a layer of your own that does more in training"
        return "warning", f"{why}they are not the cause", remedy
    why += "it is that each batch has statistics of its own"
    return "note", why, "larger batches, if it matters"


def inference_forced(examined: Examined) -> Iterator[Finding]:
    """The layer is called with training=False while its model trains."""
    trained = is_trained(examined)
    for norm in filter(is_finite, examined.seen):
        fits = not gap_of(norm).matters
        if not is_forced(norm) or (norm.untold and trained and is_at_start(norm) and not fits):
            continue  # of the latter, averages-never-moved says it
        cause, remedy, then = "it", "hand `training` on in the `call` around it", ""
        if norm.untold:
            cause, remedy = UNTOLD[norm.untold]
            cause, then = f"{cause}: it", "" if fits else after_training_with_these(examined)
        costs = not norm.untold or averages_cost(examined)
        yield Finding(
            "inference-forced",
            "note" if fits else "error" if costs else "warning",
            norm.way,
            f"{cause} stays in inference mode though the model trains"
            + ("; its averages fit, as in fine-tuning" if fits else ", so it normalizes nothing"),
            {},
            f"{remedy}; {then}" if then else remedy,
        )


def training_forced(examined: Examined) -> Iterator[Finding]:
    """The layer is called with training=True while its model does not train."""
    if examined.trains_by_default and examined.seen:
        layer = examined.trains_by_default
        of_keras = is_of_keras(layer)
        yield Finding(
            "training-forced",
            "note" if of_keras else "warning",
            examined.seen[0].way,
            f"the `call` of {layer.name} has training=True by default: model(x) trains",
            {},
            "model(x, training=False), or model.predict(x)"
            if of_keras
            else "`training=None` in its signature",
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
