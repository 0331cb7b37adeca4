"""Examine the batch normalizations of a model."""

from __future__ import annotations

import itertools
import time
from typing import Any

import keras

from ..models._batches import batches_of, examples_in
from ..models._inside import batch_norms_of
from ..models._state import build_on, unchanged, variables_of
from ..models._types import Layer
from ._examined import Examined, Norm, Passes
from ._rules import RULES, modes_disagree
from ._written import modes_written, repeated, trains_by_default
from .report import SEVERITIES, Finding, LayerStatistics, Report

__all__ = ["examine"]

# How many batches, if nobody says: until there are so many examples, within these bounds.
ENOUGH_EXAMPLES = 512
FEWEST, MOST = 8, 64

SLOW = 5.0  # seconds, after which there is a progress bar

# What makes the modes of a model differ.
EXPLAINS = {
    *("averages-never-moved", "averages-lag", "frozen-mismatch", "dropout-before", "small-batch"),
    *("shared-layer", "padding-counts", "inference-forced", "training-forced", "replicas"),
    *("not-finite", "negative-variance", "unlike-batches", "outliers"),
}


def examine(
    model: Layer,
    train: Any,
    validation: Any = None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
) -> Report:
    """Find what is wrong with the batch normalizations of a Keras model.

    The model runs eagerly on batches of ``train``: with the statistics of the batch, in inference
    mode, and by turns in training mode and in inference mode with the averages that the data would
    give; three forward passes for each batch, and one step with gradients. (A model that has a
    ``train_step`` or ``compute_loss`` of its own, or a ``call`` without ``training``, takes a step
    of training once; one with noise of Keras's layers runs once more without it.) What its batch
    normalizations are called on is compared with what they store. A difference counts if it is
    neither chance, by the scatter of the examples and of the batches, nor as small as the
    differences that training itself makes from batch to batch.

    All of the model is as it was when this returns, or raises: weights, averages, optimizer, seeds,
    ``trainable``, compiled functions, metrics. Two things cannot be given back: what a generator
    has yielded, and what a call does outside of the model. A model that is not built is built.

    Parameters
    ----------
    model
        A model of any kind, in which `~bn_tutorial.models.find_batch_norms` finds them; or a layer
        that holds some, or is one.
    train
        What it is trained on, in the batches in which it is trained: arrays (``x``, or a tuple
        ``(x, y)`` or ``(x, y, sample_weight)``), which are shuffled as ``fit`` does it, or what
        yields batches of them, such as a `tf.data.Dataset`, a `keras.utils.PyDataset`, a list or a
        generator. (So a list is a list of batches; several inputs make a tuple ``([a, b], y)``, or
        a dictionary.) With ``y`` and a compiled loss, the report has losses.
    validation
        Other data, to be compared with ``train``, in any of these forms; or None.
    steps
        How many batches of each, at most. If None, as many as have 512 examples, at least 8 and
        at most 64.
    steps_per_epoch
        How many steps an epoch has; to say in epochs how long averages still need.
    batch_size
        For arrays; 32 if None.

    Returns
    -------
    Report
        The findings, worst first, and the statistics of each layer.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer, or data yield no batches.
    ValueError
        If there are no batches, or ``steps_per_epoch`` is no positive number. What the model raises
        on the data is raised as it is.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from bn_tutorial import doctor
    >>> keras.utils.set_random_seed(0)
    >>> stack = keras.layers.Dense(4), keras.layers.BatchNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), *stack])
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> [(finding.code, finding.severity) for finding in doctor.examine(model, x).findings]
    [('averages-never-moved', 'note'), ('useless-bias', 'note'), ('modes-disagree', 'note')]

    A model that was trained for too few steps, and data to validate on that lie elsewhere:

    >>> norm = keras.layers.BatchNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(2.0, size=(512, 3))
    >>> y = x.sum(axis=1)
    >>> history = model.fit(x, y, verbose=0)
    >>> report = doctor.examine(model, (x, y), (x + 1, y + 3), steps_per_epoch=16)
    >>> for finding in report.findings:
    ...     print(f"{finding.severity:7}  {finding.code:14}  {finding.layer}")
    error    averages-lag    norm
    warning  data-shift      norm
    note     modes-disagree
    >>> print(report.findings[0].remedy)
    models.recalibrate(model, train), or train on: about ... more steps
    (... epochs) at momentum 0.99
    """
    _refuse_what_cannot_be_called(model)
    if steps_per_epoch is not None and not steps_per_epoch > 0:
        raise ValueError(f"steps_per_epoch must be positive, got {steps_per_epoch}")
    batches = batches_of(
        train, MOST if steps is None else steps, batch_size, "train", shuffled=True
    )
    first = next(batches)
    build_on(model, first[0])
    written = modes_written(model)
    norms = [Norm(way, norm, written.get(id(norm))) for way, norm in batch_norms_of(model)]
    again = repeated(model)
    for norm in norms:
        norm.is_repeated = id(norm.layer) in again
    progress = _Progress(steps)
    examples = 0
    with unchanged(model):
        passes = Passes(model, norms, variables_of(model))
        passes.own_step(first)
        for step, batch in enumerate(itertools.chain([first], batches)):
            passes.train(batch, step)
            examples += examples_in(batch[0])
            progress.show(step + 1)
            if steps is None and examples >= ENOUGH_EXAMPLES and step + 1 >= FEWEST:
                break
        else:
            passes.examined.is_whole = step + 1 < (MOST if steps is None else steps)
        progress.end()
        if validation is not None:
            for batch in batches_of(validation, step + 1, batch_size, "validation", shuffled=True):
                passes.validate(batch)
        examined = passes.examined
        examined.steps_per_epoch = steps_per_epoch
        examined.trains_by_default = trains_by_default(model)
        findings = [finding for rule in RULES for finding in rule(examined)]
        findings += modes_disagree(examined, _causes(findings))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(tuple(findings), _statistics(examined), examined.steps, examples)


def _refuse_what_cannot_be_called(model: Any) -> None:
    """Raise a TypeError for what is no model, or only holds models, as many a GAN does."""
    norms = batch_norms_of(model)
    if isinstance(model, keras.Model) and type(model).call is keras.Model.call:
        inside = sorted({way.split("/")[0] for way, _ in norms})
        raise TypeError(
            f"{type(model).__name__} has no `call`; examine what is in it, on what that is called "
            f"on: {', '.join(inside)}"
        )


def _causes(findings: list[Finding]) -> str:
    """Return the codes of what was found and makes the modes of a model differ."""
    found = {
        finding.code
        for finding in findings
        if finding.severity != "note" or finding.code == "averages-never-moved"  # a new model
    }
    return ", ".join(sorted(found & EXPLAINS))


def _statistics(examined: Examined) -> tuple[LayerStatistics, ...]:
    return tuple(
        LayerStatistics(
            norm.way,
            norm.mean,
            norm.variance,
            norm.batch.sample.mean,
            norm.batch.sample.variance,
            norm.epsilon,
        )
        for norm in examined.seen
    )


class _Progress:
    """A bar that appears when it takes long."""

    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._began = time.monotonic()
        self._bar: Any = None
        self._done = 0

    def show(self, done: int) -> None:
        """Show that so many batches are done."""
        if self._bar is None and time.monotonic() - self._began > SLOW:
            self._bar = keras.utils.Progbar(self._steps, unit_name="batch")
        self._done = done
        if self._bar is not None:
            self._bar.update(done)

    def end(self) -> None:
        """Complete the bar, wherever it stands."""
        if self._bar is not None:
            self._bar.target = self._done
            self._bar.update(self._done, finalize=True)
