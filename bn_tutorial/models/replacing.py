"""Put the package's batch normalization in the place of Keras's, in a model that exists."""

from __future__ import annotations

from typing import Any

import keras

from ..layers import BatchNormalization
from ._types import AnyLayer
from .find import find_batch_norms

__all__ = ["replace_batch_norm"]


def replace_batch_norm(model: AnyLayer) -> AnyLayer:
    """Make every batch normalization of Keras in a model a `bn_tutorial.layers.BatchNormalization`.

    In place: each remains the object that it was and changes its class, so that weights, settings,
    the places where it is used and the state of an optimizer are what they were. (PyTorch's
    ``convert_sync_batchnorm`` does so with other layers.) A compiled model uses the new class from
    its next ``fit``, ``evaluate`` or ``predict`` on.

    What was traced elsewhere before stays as it was traced: a `tf.function` of your own, or an
    outer model that was trained already and is not ``model`` itself. Compile that model again.

    Parameters
    ----------
    model
        A model of any kind, built or not, or a layer. `find_batch_norms` says what is found in it.

    Returns
    -------
    keras.layers.Layer
        ``model`` itself. In it, every layer that was exactly a `keras.layers.BatchNormalization`
        is of the class of this package; instances of other subclasses are left alone.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer.

    Examples
    --------
    >>> import keras
    >>> from bn_tutorial import layers
    >>> from bn_tutorial.models import replace_batch_norm
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), norm])
    >>> replace_batch_norm(model) is model
    True
    >>> isinstance(norm, layers.BatchNormalization)
    True
    """
    whole: Any = model
    inside = [norm for _, norm in find_batch_norms(model)]
    for layer in [whole, *inside]:
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = BatchNormalization
    for layer in whole._flatten_layers():
        if isinstance(layer, keras.Model):
            # They were traced with the old class. The next call makes them anew.
            layer.train_function = layer.test_function = layer.predict_function = None
    return model
