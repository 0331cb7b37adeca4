"""What one training step computes: what feeds a batch normalization, and what it feeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

__all__ = ["Trace", "tracing"]

# What hands values on, as they are or in another shape.
RESHAPES = {"Reshape", "Squeeze", "ExpandDims", "Transpose", "Pack", "ConcatV2"}
HANDS_ON = {"Identity", "Cast", "StopGradient"} | RESHAPES
RELUS = {"Relu", "Relu6"}
ADDS = {"BiasAdd", "AddV2", "Add"}


@dataclass
class Trace:
    """The operations that ran eagerly, by the numbers that TensorFlow gives to tensors."""

    makers: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    random: dict[int, frozenset[str]] = field(default_factory=dict)  # and whose chance it is
    noisy: dict[int, Any] = field(default_factory=dict)  # the innermost layers that drew numbers
    variables: dict[int, tuple[int, ...]] = field(default_factory=dict)  # their shapes
    masks: dict[int, Any] = field(default_factory=dict)
    layers: dict[int, Any] = field(default_factory=dict)  # the innermost that returned it
    calls: list[tuple[Any, list[int]]] = field(default_factory=list)  # a layer, and its inputs
    relus: dict[int, str] = field(default_factory=dict)
    inside: list[Any] = field(default_factory=list)  # the layers whose calls have not ended

    def saw_operation(
        self, op_type: Any, inputs: Any, attrs: Any, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Take a note of an operation; TensorFlow calls this for each."""
        kind = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
        sources = tuple(number(tensor) for tensor in inputs)
        if kind == "ReadVariableOp":
            self.variables.update((number(out), tuple(out.shape)) for out in outputs)
        chance = frozenset[str]().union(*(self.random.get(source, ()) for source in sources))
        if "Random" in kind:
            chance |= {self._drawing()}
        for out in outputs:
            me = number(out)
            self.makers[me] = kind, sources
            if chance:
                self.random[me] = chance
            if kind in HANDS_ON and sources and sources[0] in self.variables:
                self.variables[me] = tuple(out.shape)
            for source in sources:
                if (mask := self.masks.get(source)) is not None and _may_carry(mask, out):
                    self.masks[me] = mask
        if kind in RELUS:
            self.relus[sources[0]] = kind

    def _drawing(self) -> str:
        """Take a note of the layer that draws random numbers; return its name."""
        if not self.inside:
            return "the model"
        layer = self.inside[-1]
        self.noisy[id(layer)] = layer
        return str(layer.name)

    def saw_layer(self, layer: Any, inputs: Any, outputs: Any) -> None:
        """Take a note of the call of a layer, which ended."""
        for out in _tensors(outputs):
            self.layers.setdefault(number(out), layer)
            if (mask := getattr(out, "_keras_mask", None)) is not None:
                self.masks[number(out)] = mask
        self.calls.append((layer, [number(tensor) for tensor in _tensors(inputs)]))

    def bias_of(self, tensor: Any) -> bool:
        """Whether the last thing that was done to a tensor is to add a bias per channel."""
        at = number(tensor)
        while (made := self.makers.get(at)) and made[0] in HANDS_ON and made[1]:
            at = made[1][0]
        kind, sources = made or ("", ())
        if kind not in ADDS:
            return False
        added = [self.variables[source] for source in sources if source in self.variables]
        return any(sum(size > 1 for size in shape) <= 1 for shape in added)

    def backwards(self, tensor: int) -> Iterator[int]:
        """Yield the tensors that one is made of without mixing its axes, nearest first."""
        queue, seen = [tensor], set()
        while queue:
            at = queue.pop(0)
            if at in seen:
                continue
            seen.add(at)
            yield at
            kind, sources = self.makers.get(at, ("", ()))
            if kind not in RESHAPES:
                queue += sources

    def relu_after(self, tensor: Any) -> str | None:
        """Return the kind of ReLU that a tensor goes to, or None."""
        if (found := self.relus.get(number(tensor))) is not None:
            return found
        for at, (kind, sources) in self.makers.items():
            if kind in HANDS_ON and sources[:1] == (number(tensor),) and at in self.relus:
                return self.relus[at]
        return None


def number(tensor: Any) -> int:
    """Return the number of an eager tensor, which no other one gets, or -1."""
    return int(getattr(tensor, "_id", -1))


@contextmanager
def tracing() -> Iterator[Trace]:
    """Take notes of all that runs eagerly."""
    trace = Trace()
    call = keras.layers.Layer.__call__

    def noted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        trace.inside.append(layer)
        try:
            outputs = call(layer, *args, **kwargs)
        finally:
            trace.inside.pop()
        trace.saw_layer(layer, args[:1] or list(kwargs.values())[:1], outputs)
        return outputs

    op_callbacks.add_op_callback(trace.saw_operation)
    keras.layers.Layer.__call__ = noted
    try:
        yield trace
    finally:
        keras.layers.Layer.__call__ = call
        op_callbacks.remove_op_callback(trace.saw_operation)


def _tensors(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if tf.is_tensor(leaf)]


def _may_carry(mask: Any, out: Any) -> bool:
    """Whether a tensor has the steps of a mask: as an axis, maybe of another length, or merged.

    What is reduced over the steps, as by pooling, has not.
    """
    examples, steps = mask.shape[:2]
    if out.shape.rank > len(mask.shape) and out.shape[0] == examples:
        return max(out.shape[1:-1]) > 1
    return out.shape.rank > 1 and out.shape[0] == examples * steps and steps > 1
