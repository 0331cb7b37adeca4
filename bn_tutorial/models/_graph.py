"""The graph of a functional model: who computes what, who uses it, and how a layer is called."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import keras
from keras.src.ops.node import Node

__all__ = [
    "Graph",
    "compute_dtypes",
    "extra_arguments",
    "input_of",
    "repeat_call",
    "unwrapped",
    "wrapped_like",
]


class Graph:
    """The calls in a functional model, its nodes, in an order in which they can be computed."""

    def __init__(self, model: Any) -> None:
        by_depth = model._nodes_by_depth
        nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
        self.nodes = [node for node in nodes if not node.is_input]
        self.calls = Counter(id(node.operation) for node in self.nodes)
        self.uses = Counter(id(tensor) for node in self.nodes for tensor in node.input_tensors)
        self.uses.update(id(tensor) for tensor in model.outputs)
        self._maker = {id(tensor): node for node in self.nodes for tensor in node.outputs}
        self._user = {id(tensor): node for node in self.nodes for tensor in node.input_tensors}

    def maker_of(self, tensor: Any) -> Any:
        """Return the call that computes a tensor, or None if it is an input of the model."""
        return self._maker.get(id(tensor))

    def user_of(self, tensor: Any) -> Any:
        """Return a call that uses a tensor, or None if it is nothing but an output of the model."""
        return self._user.get(id(tensor))


def input_of(node: Any) -> Any:
    """Return the one tensor that a layer is called on, or None if it is another structure."""
    value = next(iter(_arguments(node).values()), None)
    return value if isinstance(value, keras.KerasTensor) else None


def extra_arguments(node: Any) -> dict[str, Any]:
    """Return what a layer is called with besides its inputs, but for None and False.

    Keras adds the mask that the inputs carry to the arguments. That is none besides them.
    """
    carried = getattr(input_of(node), "_keras_mask", None)
    _, *extra = _arguments(node).items()
    return {
        name: value
        for name, value in extra
        if value is not None and value is not False and value is not carried
    }


def _arguments(node: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, the inputs first."""
    first, *others = inspect.signature(node.operation.call).parameters
    given = dict(zip([first, *others], node.arguments.args, strict=False))
    given |= node.arguments.kwargs
    return {first: given.pop(first, None), **given}


def unwrapped(operation: Any) -> tuple[Any, int]:
    """Return the layer inside a TimeDistributed and 1, the axes it adds; or the layer and 0."""
    if type(operation) is keras.layers.TimeDistributed:
        return operation.layer, 1
    return operation, 0


def wrapped_like(operation: Any, layer: Any, node: Any) -> Any:
    """Return a layer for the place of the one that ``operation`` is or wraps, built for a call."""
    if type(operation) is keras.layers.TimeDistributed:
        layer = keras.layers.TimeDistributed(
            layer, name=operation.name, dtype=operation.dtype_policy
        )
        layer.supports_masking = operation.supports_masking
    if not layer.built:
        layer.build(input_of(node).shape)
    return layer


def repeat_call(node: Any, operation: Any, tensors: dict[int, Any]) -> None:
    """Add a call like another one to the graph, of an operation that gives the same shapes.

    ``tensors`` says what became of each tensor, by the id of the original, and gets the outputs.
    The operation is not called: one of somebody's own may do more when it is called.
    """
    args, kwargs = keras.tree.map_structure(
        lambda value: tensors.get(id(value), value), (node.arguments.args, node.arguments.kwargs)
    )
    outputs = [
        keras.KerasTensor(tensor.shape, tensor.dtype, tensor.sparse, tensor.ragged)
        for tensor in node.outputs
    ]
    for old, new in zip(node.outputs, outputs, strict=True):
        tensors[id(old)] = new
        if (mask := getattr(old, "_keras_mask", None)) is not None:
            new._keras_mask = tensors.get(id(mask), mask)
    Node(operation=operation, call_args=args, call_kwargs=kwargs, outputs=outputs)


def compute_dtypes(operation: Any) -> set[str]:
    """Return the dtypes that a layer, and the one that it may wrap, compute in."""
    return {operation.compute_dtype, unwrapped(operation)[0].compute_dtype}
