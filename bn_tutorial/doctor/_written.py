"""What is written into the graphs of functional models."""

from __future__ import annotations

import inspect
from typing import Any

from keras.src.models.functional import Functional

from ..models._graph import Graph, unwrapped

__all__ = ["modes_written", "trains_by_default"]


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


def trains_by_default(model: Any) -> str | None:
    """Return the name of a layer whose ``call`` has training=True by default, or None."""
    for layer in model._flatten_layers():
        parameter = inspect.signature(layer.call).parameters.get("training")
        if parameter is not None and parameter.default is True:
            return str(layer.name)
    return None
