"""What is written into the graphs of functional models."""

from __future__ import annotations

from typing import Any

import keras

from ..models._graph import Graph, unwrapped

__all__ = ["modes_written"]


def modes_written(model: Any) -> dict[int, bool]:
    """Return the mode that is written into a call in a functional model, by the id of the layer."""
    found = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.src.models.functional.Functional):
            for node in Graph(layer).nodes:
                mode = node.arguments.kwargs.get("training")
                if mode is not None:
                    found[id(unwrapped(node.operation)[0])] = bool(mode)
    return found
