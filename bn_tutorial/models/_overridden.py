"""What a class, or a single layer, does in another way than the class of Keras that it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Set
from typing import Any

__all__ = ["CONSTRUCTION", "TRAINING", "overridden"]

# What a subclass may have of its own although calls of its instances do the same.
CONSTRUCTION = {"__init__", "get_config", "from_config"}
TRAINING = {
    *("train_step", "test_step", "fit", "evaluate", "train_on_batch", "test_on_batch"),
    *("train_function", "test_function", "make_train_function", "make_test_function"),
    *("loss", "optimizer", "metrics", "metrics_names", "reset_metrics", "get_metrics_result"),
    *("compute_loss", "compute_metrics", "stateless_compute_loss"),
    *("compile", "compile_from_config", "get_compile_config"),
    *("save", "save_weights", "load_weights", "summary"),
}

_IN_EVERY_CLASS = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__static_attributes__", "__firstlineno__", "__orig_bases__", "__parameters__"),
}
_IN_EVERY_LAYER = {"build", "quantize"}  # Keras wraps them for each layer


def overridden(thing: Any, base: Any, harmless: Set[str] = frozenset()) -> list[str]:
    """Return the names of ``base`` that mean something else in ``thing``, but for ``harmless``.

    That is what its class or a class between has of its own, and what was assigned to
    ``thing`` itself in place of a method.
    """
    assigned = {name for name in vars(thing) if callable(getattr(base, name, None))}
    assigned -= _IN_EVERY_LAYER
    cls: Any = type(thing)
    return sorted((assigned | _overridden_in_class(cls, base)) - harmless)


@functools.cache
def _overridden_in_class(cls: Any, base: Any) -> frozenset[str]:
    """Return the names of ``base`` that mean something else in its subclass ``cls``."""
    if cls is base:
        return frozenset()
    meaning = inspect.getattr_static
    return frozenset(
        name
        for name in set(dir(base)) - _IN_EVERY_CLASS
        if meaning(cls, name) is not meaning(base, name)
    )
