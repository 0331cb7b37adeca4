"""Find the batch normalizations of a Keras model, wherever they are."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["find_batch_norms"]


def find_batch_norms(model: keras.layers.Layer) -> dict[str, keras.layers.BatchNormalization]:
    """Return the batch normalizations inside ``model``, by the way to them.

    Parameters
    ----------
    model
        A model of any kind, or a layer that holds others.

    Returns
    -------
    dict
        Each ``keras.layers.BatchNormalization`` or subclass of it, in the order in which Keras
        tracks them. One that lies in a nested model, a wrapper or a layer that holds others is
        named ``outer/name``.
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers(include_self=False, recursive=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            found[layer.name] = layer
        for way, inner in find_batch_norms(layer).items():
            found[f"{layer.name}/{way}"] = inner
    return found
