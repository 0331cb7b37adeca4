"""Put other layers in the place of the batch normalizations in a model that exists."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from ..layers import BatchNormalization
from ._inside import batch_norms_of
from ._rebuilding import Rebuilding
from ._traces import forget_traces
from ._types import AnyLayer

__all__ = ["replace_batch_norm"]


def replace_batch_norm(
    model: AnyLayer,
    cls: type[keras.layers.BatchNormalization]
    | Callable[[Any], keras.layers.Layer] = BatchNormalization,
) -> AnyLayer:
    """Make every batch normalization in a model one of this package, or put another layer there.

    **By a class of batch normalizations, in place.** Each remains the object that it was and
    changes its class, so that weights, settings, the places where it is used and the state of an
    optimizer are what they were. (PyTorch's ``convert_sync_batchnorm`` does so with other layers.)
    A compiled model uses the new class from its next ``fit``, ``evaluate`` or ``predict`` on. What
    was traced elsewhere before stays as it was traced: a `tf.function` of your own, or an outer
    model that was trained already and is not ``model`` itself. Compile that model again.

    **By a function, in a new model.** Another kind of layer has other weights and is called with
    other arguments. So the function is called with each batch normalization and returns a new layer
    for its place, one without weights as yet, or that batch normalization itself to leave it there.
    `keras.models.clone_model` makes the model, compiled as the old one was, if it was, with a new
    optimizer. (A loss that is a lambda it refuses, as when it loads one.) All other layers get the
    weights that they had, and the new ones γ and β if they have such of the same shape. A new layer
    gets those of the arguments ``training`` and ``mask`` that its ``call`` takes. It is trainable
    as the function made it, also where it takes the place of a frozen one.

    The weights were trained with batch statistics. With a group or layer normalization the outputs
    are others until you have trained the model further.

    Parameters
    ----------
    model
        A model of any kind, built or not, in which `find_batch_norms` finds them, or a layer that
        holds some, or is one; for a function a Sequential model that is built, or a functional one,
        and nested ones of these kinds.
    cls
        The class of this package, that of Keras for the way back, or a subclass of either that
        makes its instances as Keras does. Or a function as described.

    Returns
    -------
    keras.layers.Layer
        Given a class, ``model`` itself. In it, every layer whose class was exactly that of Keras or
        that of this package is a ``cls``; instances of other subclasses are left alone. Given a
        function, a new model, which shares with ``model`` only layers that have no variables.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer, ``cls`` is a class of other layers, or one with
        its own ``__init__`` or ``build``, which would not run, or a ``call`` with other parameters.
        Given a function: if it returns no layer, or ``model`` or what holds a batch normalization
        inside it is no Sequential or functional model that is called as Keras calls it.
    ValueError
        If a Sequential model is not built, or a layer that is made anew by its ``get_config`` has
        other weights than it had; or if a function returns a layer that is in use or has weights.

    Examples
    --------
    >>> import keras
    >>> from bn_tutorial import layers
    >>> from bn_tutorial.models import replace_batch_norm
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), norm])
    >>> replace_batch_norm(model) is model
    True
    >>> isinstance(norm, layers.BatchNormalization)
    True
    >>> model = replace_batch_norm(model, keras.layers.BatchNormalization)
    >>> isinstance(norm, layers.BatchNormalization)
    False

    A model that was trained predicts the same with the other class, and ``fit`` goes on where its
    optimizer was:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> model.compile("adam", "mse")
    >>> history = model.fit(x, np.tile(x, 2)[:, :6], verbose=0)
    >>> before = model(x)
    >>> model = replace_batch_norm(model)
    >>> np.allclose(model(x), before, atol=1e-5)
    True
    >>> int(model.optimizer.iterations)
    2

    Group normalization in its place, in a new model:

    >>> def grouped(norm):
    ...     return keras.layers.GroupNormalization(groups=2, axis=norm.axis)
    >>> [layer.name for layer in replace_batch_norm(model, grouped).layers][1:]
    ['group_normalization']
    """
    if callable(cls) and not isinstance(cls, (type, keras.layers.Layer)):
        return Rebuilding(cls).of(model)
    norms = [norm for _, norm in batch_norms_of(model)]
    _check_class(cls)
    for norm in norms:
        if type(norm) in (keras.layers.BatchNormalization, BatchNormalization):
            norm.__class__ = cls
    forget_traces(model)
    return model


def _check_class(cls: Any) -> None:
    """Raise a TypeError unless what a layer is made of by Keras is all that ``cls`` needs."""
    base = keras.layers.BatchNormalization
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(
            "cls must be keras.layers.BatchNormalization or a subclass of it, got "
            f"{getattr(cls, '__name__', type(cls).__name__)}; for a layer of another kind give a "
            "function that returns it, such as lambda norm: keras.layers.GroupNormalization(8)"
        )
    for name in ("__new__", "__init__", "build"):
        if inspect.getattr_static(cls, name) is not inspect.getattr_static(base, name):
            raise TypeError(
                f"cls must make its instances as Keras does, but {cls.__name__} has its own "
                f"{name}, which would not run on layers that exist"
            )
    made: Any = cls
    parameters, expected = (list(inspect.signature(c.call).parameters) for c in (made, base))
    if parameters != expected:
        raise TypeError(
            f"cls must have a call with the parameters {', '.join(expected)}, but that of "
            f"{cls.__name__} has {', '.join(parameters)}"
        )
