"""A new model like another one, with other layers in the place of its batch normalizations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from typing import Any

import keras
from keras.src.models.functional import Functional

from ._graph import unwrapped
from ._inside import batch_norms_of
from ._norms import is_batch_norm
from ._overridden import TRAINING, overridden

__all__ = ["Rebuilding"]


class Rebuilding:
    """The copy of a model in which other layers stand in the place of batch normalizations.

    Parameters
    ----------
    make
        Is given a batch normalization and returns the layer for its place.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._copies: list[tuple[Any, Any]] = []  # layers, and those made anew by their settings
        self._others: list[tuple[Any, Any]] = []  # batch normalizations, and layers of other kinds
        self._layers: list[Any] = []  # of the model

    def of(self, model: Any) -> Any:
        """Return the new model."""
        batch_norms_of(model)  # raises if it is no model
        self._layers = model._flatten_layers()
        for layer in self._layers:
            if layer is model or isinstance(layer, (keras.Sequential, Functional)):
                _check_graph(layer)
        if not model.built:
            raise ValueError(
                f"model {model.name!r} is not built: give it an Input, or call it once"
            )
        new = keras.models.clone_model(
            model,
            clone_function=self._anew,
            call_function=None if isinstance(model, keras.Sequential) else self._call,
            recursive=True,
        )
        self._check_apart()
        for old, copy in self._copies:
            _copy_variables(old, copy)
        for norm, other in self._others:
            _copy_scale_and_shift(norm, other)
        return new

    def _anew(self, operation: Any) -> Any:
        """Return what takes the place of a layer, or of an operation without state: itself."""
        if not isinstance(operation, keras.layers.Layer) or _is_stateless(operation):
            return operation
        if is_batch_norm(operation):
            norm, wrapped = unwrapped(operation)
            other = self._other(norm)
            if other is not norm:
                self._others.append((norm, other))
                if not wrapped:
                    return other
                return keras.layers.TimeDistributed(other, name=operation.name)
        elif batch_norms_of(operation):
            _check_graph(operation)
        _check_untouched(operation)
        copy = type(operation).from_config(operation.get_config())
        self._copies.append((operation, copy))
        return copy

    def _other(self, norm: Any) -> Any:
        """Return the layer for the place of a batch normalization, maybe itself."""
        other = self._make(norm)
        if not isinstance(other, keras.layers.Layer):
            raise TypeError(f"cls must return a layer for {norm.name!r}, got {other!r}")
        if other is norm:
            return norm
        used = [*self._layers, *(given for _, given in self._others)]
        is_used = any(other is layer for layer in used)
        if is_used or other.weights:  # which may be those of another model
            raise ValueError(
                f"cls must return a new layer for {norm.name!r}, or it itself, got {other.name!r}, "
                f"which {'is in use' if is_used else 'has weights already'}"
            )
        return other

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer that is made anew, one of another kind only with what it knows."""
        if any(unwrapped(operation)[0] is other for _, other in self._others):
            known = inspect.signature(unwrapped(operation)[0].call).parameters
            kwargs = {name: value for name, value in kwargs.items() if name in known}
        return operation(*args, **kwargs)

    def _check_apart(self) -> None:
        """Raise a ValueError if a weight would be two."""
        owners: dict[int, Any] = {}
        for old, new in [*self._copies, *self._others]:
            for weight in old.weights:
                if owners.setdefault(id(weight), new) is not new:
                    raise ValueError(
                        f"weight {weight.path!r} belongs to more than one layer, {old.name!r} "
                        "among them; in a new model each would have its own"
                    )


def _is_stateless(layer: Any) -> bool:
    """Whether a layer can be part of two models, as it has nothing to remember."""
    return layer.built and not layer.variables and len(layer._flatten_layers()) == 1


def _check_graph(model: Any) -> None:
    """Raise a TypeError unless a copy of a model computes what its layers do, and no more."""
    if type(model) not in (keras.Sequential, Functional):
        raise TypeError(
            "a new model can be made of what is exactly a Sequential or functional model, got "
            f"{model.name!r}, a {type(model).__name__} (of one with inputs and outputs, "
            "keras.Model(model.inputs, model.outputs) makes a functional model)"
        )
    _check_untouched(model, TRAINING)


def _check_untouched(layer: Any, harmless: Set[str] = frozenset()) -> None:
    """Raise a TypeError if methods were assigned to a layer itself."""
    if own := overridden(layer, type(layer), harmless):
        raise TypeError(
            f"{layer.name!r} was given its own {', '.join(own)}, which a copy would not have"
        )


def _copy_variables(old: Any, copy: Any) -> None:
    """Set all variables of a layer to those of the one that it was made after."""
    shapes, made = ([tuple(v.shape) for v in layer.variables] for layer in (old, copy))
    if shapes != made:
        raise ValueError(
            f"layer {old.name!r} made anew by its get_config has variables of shapes {made}, where "
            f"it had {shapes}"
        )
    for variable, value in zip(copy.variables, old.variables, strict=True):
        variable.assign(value)


def _copy_scale_and_shift(norm: Any, other: Any) -> None:
    """Set gamma and beta of a layer to those of a batch normalization, if it has such."""
    for name in ("gamma", "beta"):
        value, variable = (getattr(layer, name, None) for layer in (norm, other))
        if value is not None and variable is not None and variable.shape == value.shape:
            variable.assign(value)
