"""One function a rule: it gets what was seen, and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .._examined import Examined
from ..report import Finding
from .averages import averages_lag, averages_never_moved, dropout_before, frozen_mismatch
from .batches import (
    data_shift,
    outliers,
    padding_counts,
    replicas,
    small_batch,
    unlike_batches,
)
from .modes import inference_forced, modes_disagree, training_forced
from .numbers import (
    always_on,
    dead_unit,
    half_precision,
    negative_variance,
    not_finite,
    small_variance,
)
from .places import not_examined, shared_layer, twice_a_step, useless_bias, wrong_axis

__all__ = ["RULES", "Rule", "modes_disagree"]

Rule = Callable[[Examined], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    not_examined,
    not_finite,
    negative_variance,
    averages_never_moved,
    averages_lag,
    frozen_mismatch,
    dropout_before,
    shared_layer,
    padding_counts,
    wrong_axis,
    training_forced,
    inference_forced,
    replicas,
    twice_a_step,
    small_batch,
    unlike_batches,
    outliers,
    data_shift,
    half_precision,
    small_variance,
    dead_unit,
    always_on,
    useless_bias,
)
