"""Examine what costs nothing, while a model trains."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import keras
import numpy as np

from ..models.find import find_batch_norms
from ._examined import Norm
from ._fit import is_at_start
from .report import Finding

__all__ = ["Watch"]


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback for ``fit`` that warns, once each, of what can be seen without more passes.

    That averages stay as they were made (``averages-never-moved``), that averages or parameters are
    not finite (``not-finite``) or a variance is negative (``negative-variance``), and that the
    training that is left is too short for the momentum (``averages-lag``), where Keras knows how
    many steps an epoch has (of a generator by ``steps_per_epoch`` alone). With another model it
    begins anew.

    Parameters
    ----------
    every
        How many training steps lie between two looks, at least; the first comes after so many.
        (With ``steps_per_execution``, it can look after so many steps alone.) An epoch's end is a
        look as well.

    Attributes
    ----------
    findings
        What it warned of, of the model that it was given last, as a list of `Finding`.

    Examples
    --------
    At a momentum of 0.5, 10 steps are enough, and there is nothing to warn of:

    >>> import keras, numpy as np
    >>> from bn_tutorial import doctor
    >>> norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
    >>> model = keras.Sequential([keras.Input((2,)), norm])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(160, 2))
    >>> watch = doctor.Watch()
    >>> history = model.fit(x, x, epochs=2, verbose=0, callbacks=[watch])
    >>> watch.findings
    []

    At 0.99, Keras's default, they are not. What it warns of stands in ``findings`` as well:

    >>> import warnings
    >>> norm.momentum = 0.99
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     history = model.fit(x, x, epochs=2, verbose=0, callbacks=[watch])
    >>> for finding in watch.findings:
    ...     print(f"{finding.code}: {finding.message}")
    averages-lag: after the 10 steps to come, 90% of its averages will be what
    they are now, at a momentum of 0.99
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        every = operator.index(every)
        if every < 1:
            raise ValueError(f"every must be 1 or more, got {every}")
        self.every = every
        self.findings: list[Finding] = []
        self._steps = 0  # of this training
        self._looked = 0  # so many steps were done then
        self._batch = -1  # the last one, counted from the start of the epoch

    def set_model(self, model: Any) -> None:
        """Take a model, of which nothing is said yet if it is another one."""
        if model is not self.model:
            self.findings = []
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin to count."""
        self._steps = self._looked = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Say before the first one whether there is time enough for the averages."""
        self._batch = -1
        epochs, steps = (self.params or {}).get("epochs"), (self.params or {}).get("steps")
        if self._steps or not epochs or not steps:
            return
        to_come = (epochs - epoch) * steps
        for way, norm in self._norms():
            left = norm.momentum**to_come
            if norm.trainable and 0.01 < left < 1:
                self._warn(
                    Finding(
                        "averages-lag",
                        "warning",
                        way,
                        f"after the {to_come} steps to come, {left:.0%} of its averages "
                        f"will be what they are now, at a momentum of {norm.momentum:g}",
                        {"steps": to_come, "left": left},
                        "a smaller momentum, or models.recalibrate(model, train) at the end",
                    )
                )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look, every so many steps."""
        if steps := (self.params or {}).get("steps"):
            batch = min(batch, steps - 1)  # a last execution that is shorter counts as a whole one
        self._steps += batch - self._batch  # more than one with steps_per_execution
        self._batch = batch
        if self._steps - self._looked >= self.every:
            self._looked = self._steps
            self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look."""
        self._look()

    def _norms(self) -> list[tuple[str, Any]]:
        return find_batch_norms(self.model)

    def _look(self) -> None:
        for way, norm in self._norms():
            if not norm.built:
                continue
            names = [v.name for v in norm.variables if not np.isfinite(v.numpy()).all()]
            if names:
                self._warn(
                    Finding(
                        "not-finite",
                        "error",
                        way,
                        f"{' and '.join(names)}: not finite",
                        {"steps": self._steps},
                        "stop; look for the first values that are not finite",
                    )
                )
            elif (norm.moving_variance.numpy() < 0).any():
                self._warn(
                    Finding(
                        "negative-variance",
                        "error",
                        way,
                        "the moving variance is negative",
                        {"steps": self._steps},
                        "models.recalibrate(model, train)",
                    )
                )
            if norm.trainable and is_at_start(Norm(way, norm)):
                self._warn(
                    Finding(
                        "averages-never-moved",
                        "error",
                        way,
                        f"the averages are as they were made, after {self._steps} steps",
                        {"steps": self._steps},
                        "call it with training=True in training; momentum < 1",
                    )
                )

    def _warn(self, finding: Finding) -> None:
        known = {(known.code, known.layer) for known in self.findings}
        if (finding.code, finding.layer) in known:
            return
        self.findings.append(finding)
        where = finding.layer
        warnings.warn(
            f"{finding.code}: {where}: {finding.message} → {finding.remedy}", stacklevel=2
        )
