"""What an examination found, and how it is shown."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SEVERITIES", "Finding", "LayerStatistics", "Report"]

SEVERITIES = ("error", "warning", "note")  # worst first


@dataclass(frozen=True)
class Finding:
    """One thing that an examination found.

    ``severity`` is ``"error"`` where results are wrong, ``"warning"`` where they may be, or will
    be elsewhere, and ``"note"`` where it is good to know. ``layer`` is the way to the batch
    normalization, as `~bn_tutorial.models.find_batch_norms` gives it; where several have the same,
    to the one that has most of it; ``""`` where it is the whole model. ``evidence`` has the numbers
    of ``message`` by name, and ``remedy`` says what to do.

    Examples
    --------
    >>> from bn_tutorial.doctor import Finding
    >>> finding = Finding("useless-bias", "note", "norm", "a bias before it", {}, "use_bias=False")
    >>> finding.chapter
    'wrong-useless-bias'

    One that `examine` returns has the numbers as well:

    >>> import keras, numpy as np
    >>> from bn_tutorial import doctor
    >>> nine = keras.initializers.Constant(9.0)
    >>> norm = keras.layers.BatchNormalization(beta_initializer=nine)
    >>> model = keras.Sequential([keras.Input((1,)), norm, keras.layers.ReLU()])
    >>> x = np.random.default_rng(0).normal(size=(64, 1))
    >>> findings = doctor.examine(model, x).findings
    >>> [always_on] = [it for it in findings if it.code == "always-on"]
    >>> always_on.severity, always_on.evidence
    ('warning', {'share': 1.0, 'layers': 1})
    """

    code: str
    severity: str
    layer: str
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {SEVERITIES}, got {self.severity!r}")

    @property
    def chapter(self) -> str:
        """Return the label of the section of the book that explains it."""
        return f"wrong-{self.code}"

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold: None where evidence is not finite."""
        evidence = {
            name: np.asarray(value).item() if math.isfinite(value) else None
            for name, value in self.evidence.items()
        }
        return {**vars(self), "evidence": evidence, "chapter": self.chapter}


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What a batch normalization stores, and what was measured: arrays of shape (channels,).

    ``mean`` and ``variance`` are those of all its inputs in training mode but without dropout,
    while every batch normalization uses the statistics of the batch.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from bn_tutorial import doctor
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    >>> [layer] = doctor.examine(model, np.arange(64.0)[:, None]).layers
    >>> layer.layer, float(layer.moving_mean[0]), float(layer.mean[0])
    ('norm', 0.0, 31.5)

    How far each average of the means lies from what it estimates, in standard deviations:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    >>> x = np.random.default_rng(0).normal([0, 4, 8], [1, 1, 4], size=(512, 3))
    >>> [layer] = doctor.examine(model, x).layers
    >>> gaps = abs(layer.moving_mean - layer.mean) / np.sqrt(layer.variance)
    >>> gaps.round().tolist()
    [0.0, 4.0, 2.0]
    """

    layer: str
    moving_mean: Array
    moving_variance: Array
    mean: Array
    variance: Array
    epsilon: float


@dataclass(frozen=True, eq=False)
class Report:
    """What an examination found, worst first; ``print`` shows it, and a notebook as a table.

    Shown, findings of one code and severity are one line, with the layer that has most of it.
    ``layers`` has the statistics of the batch normalizations that were called, in that order;
    ``steps`` and ``examples`` say how much of the data was used.

    Examples
    --------
    >>> from bn_tutorial.doctor import Finding, Report
    >>> bias = Finding("useless-bias", "note", "norm", "a bias before it", {}, "use_bias=False")
    >>> print(Report((bias,), (), 8, 256))
    0 batch normalizations, 8 batches, 256 examples
    note     useless-bias  norm
             a bias before it
             → use_bias=False

    That of `examine`, for a model whose validation data lie elsewhere. ``raise_if`` is for a test
    or a script that must not go on:

    >>> import keras, numpy as np
    >>> from bn_tutorial import doctor, models
    >>> norm = keras.layers.BatchNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), norm])
    >>> x = np.random.default_rng(0).normal(2.0, size=(512, 3))
    >>> report = doctor.examine(models.recalibrate(model, x), x, x + 1)
    >>> print(report)
    1 batch normalization, 16 batches, 512 examples
    warning  data-shift  norm
             validation data are 1 σ off training data, in 1 of 1 layers
             → prepare validation data as training data; if they are what
             it will meet, and as mixed, models.recalibrate(model, validation)
             adapts the averages
    >>> report.raise_if("error")
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerStatistics, ...]
    steps: int
    examples: int

    def raise_if(self, severity: str) -> None:
        """Raise `RuntimeError` with the report if there is a finding this bad, or worse.

        Examples
        --------
        >>> from bn_tutorial.doctor import Finding, Report
        >>> Report((Finding("useless-bias", "note", "norm", "…"),), (), 8, 256).raise_if("error")
        """
        if severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, got {severity!r}")
        bad = SEVERITIES[: SEVERITIES.index(severity) + 1]
        if any(finding.severity in bad for finding in self.findings):
            raise RuntimeError(str(self))

    def to_json(self) -> str:
        """Return the findings, and how much of the data was used, as JSON."""
        findings = [finding.as_dict() for finding in self.findings]
        whole = {"findings": findings, "steps": self.steps, "examples": self.examples}
        return json.dumps(whole, indent=2, ensure_ascii=False)

    def plot(self) -> Figure:
        """Draw the stored mean and deviation against the measured ones, layer by layer.

        Returns
        -------
        matplotlib.figure.Figure
            One dot per channel. A layer whose averages fit has its dots on the diagonal.

        Raises
        ------
        ModuleNotFoundError
            If Matplotlib is not installed: it comes with the extra ``figures``.
        """
        from ._plot import plot_layers  # Matplotlib loads when a figure is asked for

        return plot_layers(self.layers)

    def _examined(self) -> str:
        count = len(self.layers)
        norms = "1 batch normalization" if count == 1 else f"{count} batch normalizations"
        return f"{norms}, {self.steps} batches, {self.examples} examples"

    def _folded(self) -> list[tuple[Finding, str]]:
        """Return one finding of each severity and code, and where it was found."""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.code), []).append(finding)
        folded = []
        for same in groups.values():
            worst = max(same, key=lambda finding: finding.evidence.get("gap", 0.0))
            more = f" and {len(same) - 1} more" if len(same) > 1 else ""
            folded.append((worst, (worst.layer or "the whole model") + more))
        return folded

    def __str__(self) -> str:
        if not self.findings:
            return f"nothing found: {self._examined()}"
        width = max(len(finding.code) for finding in self.findings)
        lines = [self._examined()]
        for finding, where in self._folded():
            lines.append(f"{finding.severity:7}  {finding.code:{width}}  {where}")
            for text in (finding.message, f"→ {finding.remedy}"):
                lines.append(textwrap.indent(textwrap.fill(text, 90), " " * 9))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self.findings:
            return f"<p>{html.escape(str(self))}</p>"
        rows = [(f.severity, f.code, where, f.message, f.remedy) for f, where in self._folded()]
        head = ("severity", "code", "layer", "what was found", "what to do")
        return (
            f"<table><caption>{html.escape(self._examined())}</caption>"
            f"<thead><tr>{_cells(head, 'th')}</tr></thead><tbody>"
            + "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
            + "</tbody></table>"
        )


def _cells(values: tuple[str, ...], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
