"""What the layer does not know of what Keras's can do, in this version and in later ones."""

from __future__ import annotations

import inspect

import keras

# The arguments of Keras's layer that `call` honours, or that only `build` needs. Versions of Keras
# add others: a layer that has one of these at another value than its default is Keras's to compute.
KNOWN = {
    *("axis", "momentum", "epsilon", "center", "scale", "synchronized"),
    *("beta_initializer", "gamma_initializer", "beta_regularizer", "gamma_regularizer"),
    *("moving_mean_initializer", "moving_variance_initializer"),
    *("beta_constraint", "gamma_constraint"),
}
UNKNOWN = {
    name: parameter.default
    for name, parameter in inspect.signature(keras.layers.BatchNormalization).parameters.items()
    if name not in KNOWN and parameter.kind is not inspect.Parameter.VAR_KEYWORD
}


def unknown_arguments(layer: keras.layers.BatchNormalization) -> list[str]:
    """Return the arguments that `call` does not know and that may not have their default.

    Keras keeps an argument in an attribute of its name; one that it keeps elsewhere may be any.
    """
    names = []
    for name, default in UNKNOWN.items():
        value = getattr(layer, name, layer)
        if value is not default and (type(value) is not type(default) or value != default):
            names.append(name)
    return names
