"""Find the batch normalizations of a Keras model, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

__all__ = ["find_batch_norms"]


def find_batch_norms(
    model: keras.layers.Layer,
) -> list[tuple[str, keras.layers.BatchNormalization]]:
    """Return the batch normalizations inside a model, each with the way to it.

    Parameters
    ----------
    model
        A model of any kind, or a layer that holds others.

    Returns
    -------
    list of (str, keras.layers.BatchNormalization)
        Subclasses count too. They come in the order in which Keras tracks them, each once, with
        its name; ``outer/name`` for one in a nested model, a wrapper or another layer that holds
        layers. Two different layers may have the same name.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer.

    Examples
    --------
    >>> import keras
    >>> from bn_tutorial.models import find_batch_norms
    >>> from keras.layers import BatchNormalization, Dense
    >>> inner = keras.Sequential([Dense(3), BatchNormalization(name="norm")], name="inner")
    >>> model = keras.Sequential([keras.Input((2,)), inner, BatchNormalization(name="last")])
    >>> [way for way, layer in find_batch_norms(model)]
    ['inner/norm', 'last']
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model must be a Keras model or layer, got {type(model).__name__}")
    first_way: dict[int, tuple[str, Any]] = {}
    for way, layer in _ways_to_batch_norms(model):
        first_way.setdefault(id(layer), (way, layer))
    return list(first_way.values())


def _ways_to_batch_norms(model: Any) -> Iterator[tuple[str, Any]]:
    for layer in model._flatten_layers(include_self=False, recursive=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer.name, layer
        for way, inner in _ways_to_batch_norms(layer):
            yield f"{layer.name}/{way}", inner
