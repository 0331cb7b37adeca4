"""Find the batch normalizations of a Keras model, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from ._types import Layer

__all__ = ["find_batch_norms"]


def find_batch_norms(
    model: Layer,
) -> list[tuple[str, keras.layers.BatchNormalization]]:
    """Return the batch normalizations inside a model, each with the way to it.

    Inside is what Keras tracks as a layer of it: what is in its graph or its stack, and what was
    assigned to its attributes, be it in a list, a tuple, a dictionary or a set. (An attribute of a
    Sequential model is no layer of it for Keras: its weights are not among the model's either.)

    Parameters
    ----------
    model
        A model of any kind, or a layer that holds others.

    Returns
    -------
    list
        For each, the way to it and the layer. The way is its name, or ``outer/name`` where it is
        in a nested model, a wrapper or another layer that holds layers; two different layers may
        have the same one. They come in the order in which Keras tracks them, each once, and
        subclasses too.

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

    To give all of them another momentum, and to see what was set:

    >>> for way, layer in find_batch_norms(model):
    ...     layer.momentum = 0.9
    ...     print(f"{way:10}  momentum {layer.momentum}  epsilon {layer.epsilon}")
    inner/norm  momentum 0.9  epsilon 0.001
    last        momentum 0.9  epsilon 0.001
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model must be a Keras model or layer, got {type(model).__name__}")
    return list(_batch_norms_inside(model, "", {id(model)}))


def _batch_norms_inside(layer: Any, way: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield what lies in a layer, but for what was ``seen`` already: layers may hold each other."""
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        if id(inner) not in seen:
            seen.add(id(inner))
            if isinstance(inner, keras.layers.BatchNormalization):
                yield way + inner.name, inner
            yield from _batch_norms_inside(inner, f"{way}{inner.name}/", seen)
