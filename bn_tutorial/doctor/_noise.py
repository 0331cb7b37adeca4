"""The noise that Keras's own layers make in training, and how to do without it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

__all__ = ["is_of_keras", "is_own", "silenced"]


def is_of_keras(layer: Any) -> bool:
    """Whether nobody but Keras has written what a layer does."""
    return type(layer).__module__.partition(".")[0] == "keras"


def is_own(norm: Any) -> bool:
    """Whether what a batch normalization does is neither Keras's code nor this package's."""
    return type(norm).__module__.partition(".")[0] not in ("keras", __name__.partition(".")[0])


@contextmanager
def silenced(layers: Iterable[Any]) -> Iterator[None]:
    """Let some layers do what they do in inference, whatever they are told."""
    layers = [layer for layer in layers if "call" not in vars(layer)]
    try:
        for layer in layers:
            vars(layer)["call"] = partial(_in_inference, layer.call)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _in_inference(call: Any, *args: Any, **given: Any) -> Any:
    bound = inspect.signature(call).bind(*args, **given)
    if "training" in bound.signature.parameters:
        bound.arguments["training"] = False
    return call(*bound.args, **bound.kwargs)
