"""Freeze the batch normalizations of a model, or let them learn again."""

from __future__ import annotations

from ._inside import batch_norms_of
from ._traces import forget_traces
from ._types import AnyLayer

__all__ = ["freeze", "unfreeze"]


def freeze(model: AnyLayer) -> AnyLayer:
    """Freeze every batch normalization of a model, and nothing else.

    Frozen (``trainable = False``), a batch normalization of Keras is always in inference mode: it
    normalizes by its moving averages, which stay as they are, whatever ``training`` says. Nor does
    an optimizer change its γ and β. So a model is tuned to little data, or in small batches.

    On a compiled model this takes effect from the next ``fit`` on, since ``model``, and each model
    in it, traces its functions anew. Neither is it compiled again nor does the optimizer forget
    anything. What was traced elsewhere before goes on as it was traced: a `tf.function` of your
    own, or an outer model that was trained already and is not ``model`` itself. Freeze through that
    model, or compile it again.

    Parameters
    ----------
    model
        A model of any kind, built or not, in which `find_batch_norms` finds them; or a layer that
        holds some, or is one.

    Returns
    -------
    keras.layers.Layer
        ``model`` itself.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer.

    Examples
    --------
    >>> import keras
    >>> from bn_tutorial.models import freeze
    >>> layers = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
    >>> model = freeze(keras.Sequential([keras.Input((4,)), *layers]))
    >>> [layer.trainable for layer in layers]
    [True, False]

    To tune a model in batches of two: the rest of it learns, the averages stay.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(5.0, size=(8, 4))
    >>> model.compile("sgd", "mse")
    >>> kernel = layers[0].kernel.numpy()
    >>> history = model.fit(x, x[:, :3], batch_size=2, verbose=0)
    >>> bool((layers[0].kernel.numpy() != kernel).any())
    True
    >>> layers[1].moving_mean.numpy(), layers[1].gamma.numpy()
    (array([0., 0., 0.], dtype=float32), array([1., 1., 1.], dtype=float32))
    """
    return _set_trainable(model, False)


def unfreeze(model: AnyLayer) -> AnyLayer:
    """Let every batch normalization of a model learn: the opposite of `freeze`.

    They use the statistics of the batch in training again, and their moving averages move.

    An optimizer trains the variables that it was built for, when the model was first trained or
    before. If γ and β were frozen then, the next ``fit`` raises a ValueError of Keras, *Unknown
    variable*: compile the model again, with a new optimizer. If they were frozen later, it goes on.

    γ and β stay as they are where ``trainable`` of the model that is trained is False, whatever
    that of a layer in it says, although moving averages move. If only that of a model in between is
    False, they are trained.

    Parameters
    ----------
    model
        A model of any kind, built or not, in which `find_batch_norms` finds them; or a layer that
        holds some, or is one.

    Returns
    -------
    keras.layers.Layer
        ``model`` itself.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer.

    Examples
    --------
    >>> import keras
    >>> from bn_tutorial.models import freeze, unfreeze
    >>> norm = keras.layers.BatchNormalization()
    >>> model = freeze(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), norm]))
    >>> unfreeze(model) is model
    True
    >>> norm.trainable
    True

    After training with them frozen, with a new optimizer, which knows γ and β:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(5.0, size=(8, 4))
    >>> model = freeze(model)
    >>> model.compile("sgd", "mse", run_eagerly=True)
    >>> history = model.fit(x, x, verbose=0)
    >>> unfreeze(model).compile("sgd", "mse", run_eagerly=True)
    >>> history = model.fit(x, x, verbose=0)
    >>> bool((norm.moving_mean.numpy() != 0).all())
    True
    """
    return _set_trainable(model, True)


def _set_trainable(model: AnyLayer, trainable: bool) -> AnyLayer:
    for _, norm in batch_norms_of(model):
        norm.trainable = trainable
    forget_traces(model)
    return model
