"""What is written into the graphs of functional models."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras.src.models.functional import Functional

from ..models._graph import Graph, unwrapped
from ._noise import is_of_keras

__all__ = ["modes_written", "repeated", "trains_by_default"]


def modes_written(model: Any) -> dict[int, bool]:
    """Return the mode that is written into a call in a functional model, by the id of the layer."""
    found = {}
    for layer in model._flatten_layers():
        if isinstance(layer, Functional):
            for node in Graph(layer).nodes:
                mode = node.arguments.kwargs.get("training")
                if mode is not None:
                    found[id(unwrapped(node.operation)[0])] = bool(mode)
    return found


def repeated(model: Any) -> set[int]:
    """Return the ids of the layers that a TimeDistributed calls for each step."""
    around = keras.layers.TimeDistributed
    wrappers = [layer for layer in model._flatten_layers() if isinstance(layer, around)]
    return {id(layer) for wrapper in wrappers for layer in wrapper._flatten_layers()}


def trains_by_default(model: Any) -> Any:
    """Return a layer whose ``call`` has training=True by default, rather no layer of Keras."""
    found = []
    for layer in model._flatten_layers():
        parameter = inspect.signature(layer.call).parameters.get("training")
        if parameter is not None and parameter.default is True:
            found.append(layer)
    return min(found, key=is_of_keras, default=None)
