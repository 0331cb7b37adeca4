"""What a type checker knows of Keras's models and layers, which bring no types of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import keras

if TYPE_CHECKING:

    class Layer(Protocol):
        """What every layer of Keras has, and hardly anything else."""

        name: str

        def get_config(self) -> Any: ...
        def get_weights(self) -> Any: ...

    class Model(Layer, Protocol):
        """A layer that holds others."""

        def get_layer(self, name: str) -> Any: ...
        @property
        def layers(self) -> Any: ...

    class FoldedModel(keras.Model):  # type: ignore[misc]
        """A Keras model with the attribute that folding gives it."""

        not_folded: Mapping[str, str]

    AnyLayer = TypeVar("AnyLayer", bound=Layer)

else:  # while a program runs, and in the manual, they are Keras's own
    Layer = AnyLayer = keras.layers.Layer
    Model = FoldedModel = keras.Model
