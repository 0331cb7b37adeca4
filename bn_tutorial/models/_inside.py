"""The batch normalizations that something acts on which is given a model."""

from __future__ import annotations

from typing import Any

import keras

from .find import find_batch_norms

__all__ = ["batch_norms_of"]


def batch_norms_of(model: Any) -> list[tuple[str, Any]]:
    """Return the batch normalizations inside a model, or the one that it is, and the way to each.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer.
    """
    itself = isinstance(model, keras.layers.BatchNormalization)
    return [*([(model.name, model)] if itself else []), *find_batch_norms(model)]
