"""What a patient of the doctor is: a model that is sick in one way, and its cure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bn_tutorial.doctor import examine


@dataclass
class Patient:
    """A model with one disease.

    ``layer`` is the way to the batch normalization that is sick, such as ``block/norm``, or None
    where any will do. ``cure`` treats the model in place, or returns one that takes its place;
    the data and the options may change with it.
    """

    model: Any
    train: Any
    cure: Callable[[Any], Any]
    validation: Any = None
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # more arguments of `examine`


# What makes a patient, by the code of its disease and its clothes.
WARD: dict[tuple[str, str], Callable[[], Patient]] = {}


def patient(code: str, clothes: str) -> Callable[[Callable[[], Patient]], Callable[[], Patient]]:
    """Admit what a function makes to the ward."""

    def admit(make: Callable[[], Patient]) -> Callable[[], Patient]:
        assert (code, clothes) not in WARD
        WARD[code, clothes] = make
        return make

    return admit


def course(make: Callable[[], Patient]) -> list[list[tuple[str, str, str]]]:
    """Return the code, the severity and the layer of all findings, before the cure and after it."""
    ill = make()

    def findings(model: Any) -> list[tuple[str, str, str]]:
        report = examine(model, ill.train, ill.validation, **ill.options)
        return [(finding.code, finding.severity, finding.layer) for finding in report.findings]

    before = findings(ill.model)
    return [before, findings(ill.cure(ill.model) or ill.model)]
