"""See what the batch normalizations of a model are called with, while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ._state import eagerly

__all__ = ["observing", "on_batch_statistics"]

# Gets the layer, its own call, the inputs and the arguments. Returns the outputs.
See = Callable[[Any, Callable[..., Any], Any, dict[str, Any]], Any]


@contextmanager
def observing(norms: Iterable[Any], see: See) -> Iterator[None]:
    """Let ``see`` answer the calls of some layers, eagerly, so that there are values to see."""
    norms = list(norms)
    own = [vars(norm).get("call") for norm in norms]
    try:
        for norm in norms:
            vars(norm)["call"] = partial(_ask, see, norm, norm.call)
        with eagerly():
            yield
    finally:
        for norm, call in zip(norms, own, strict=True):
            vars(norm).pop("call", None)
            if call is not None:
                vars(norm)["call"] = call


def _ask(
    see: See, norm: Any, call: Callable[..., Any], inputs: Any, *args: Any, **given: Any
) -> Any:
    names = ("training", "mask")  # as in the signature of Keras's layer
    return see(norm, call, inputs, dict(zip(names, args, strict=False)) | given)


def on_batch_statistics(
    norm: Any, call: Callable[..., Any], inputs: Any, given: dict[str, Any]
) -> Any:
    """Answer a call of a batch normalization by its training mode, whatever else the model does.

    Of a subclass whose call cannot be told its mode, it is that call. Batch renormalization, which
    would correct the batch by averages of before, does not.
    """
    asked = given | {"training": True}
    try:
        inspect.signature(call).bind(inputs, **asked)
    except TypeError:
        asked = given
    attributes = vars(norm)  # set here, since the property would tell all variables
    changed = {"_trainable": True} | ({"renorm": False} if "renorm" in attributes else {})
    before = {name: attributes[name] for name in changed}
    attributes.update(changed)
    try:
        return call(inputs, **asked)
    finally:
        attributes.update(before)
