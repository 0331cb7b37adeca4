"""Activation functions, their derivatives, and how saturated a layer is.

All functions take arrays of real numbers of any shape and work elementwise. Half and single
precision are computed in float64 and returned in the dtype that came in; integers become float64.
``TypeError`` is raised for data that are not real numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_float

__all__ = [
    "normal_mean",
    "relu",
    "relu_derivative",
    "saturated_share",
    "sigmoid",
    "sigmoid_derivative",
    "tanh",
    "tanh_derivative",
]


def sigmoid(z: ArrayLike) -> Array:
    r"""The logistic function, from 0 to 1.

    .. math:: g(z) = \frac{1}{1 + e^{-z}}

    Examples
    --------
    >>> from bn_tutorial.activations import sigmoid
    >>> sigmoid([-1000.0, 0.0, 1000.0])
    array([0. , 0.5, 1. ])
    """
    z, dtype = as_float(z, "z")
    # e^-|z| cannot overflow; the two branches are the same function written for either sign.
    small = np.exp(-np.abs(z))
    return (np.where(z >= 0, 1, small) / (1 + small)).astype(dtype)


def sigmoid_derivative(z: ArrayLike) -> Array:
    r"""The slope of the sigmoid: at most 1/4, at z = 0.

    .. math:: g'(z) = g(z)\,(1 - g(z)) = g(z)\,g(-z)

    Examples
    --------
    >>> from bn_tutorial.activations import sigmoid_derivative
    >>> sigmoid_derivative([-2.0, 0.0, 2.0]).round(3)
    array([0.105, 0.25 , 0.105])
    """
    z, dtype = as_float(z, "z")
    # g(-z) keeps the digits that 1 - g(z) would lose where g(z) is close to 1.
    return (sigmoid(z) * sigmoid(-z)).astype(dtype)


def tanh(z: ArrayLike) -> Array:
    r"""The hyperbolic tangent, from -1 to 1: a sigmoid stretched, :math:`2g(2z) - 1`.

    Examples
    --------
    >>> from bn_tutorial.activations import tanh
    >>> tanh([-1.0, 0.0, 1.0]).round(3)
    array([-0.762,  0.   ,  0.762])
    """
    z, dtype = as_float(z, "z")
    return np.tanh(z).astype(dtype)


def tanh_derivative(z: ArrayLike) -> Array:
    r"""The slope of the hyperbolic tangent: at most 1, at z = 0.

    .. math:: \tanh'(z) = 1 - \tanh^2 z = 4\,g'(2z)

    Examples
    --------
    >>> from bn_tutorial.activations import tanh_derivative
    >>> tanh_derivative([0.0, 1.0]).round(2)
    array([1.  , 0.42])
    """
    z, dtype = as_float(z, "z")
    return (4 * sigmoid_derivative(2 * z)).astype(dtype)


def relu(z: ArrayLike) -> Array:
    r"""The rectifier, :math:`\max(z, 0)`.

    Examples
    --------
    >>> from bn_tutorial.activations import relu
    >>> relu([-2.0, 0.0, 3.0])
    array([0., 0., 3.])
    """
    z, dtype = as_float(z, "z")
    return np.maximum(z, 0).astype(dtype)


def relu_derivative(z: ArrayLike) -> Array:
    """The slope of the rectifier: 1 where z > 0, else 0 (also at the kink, as in TensorFlow).

    Examples
    --------
    >>> from bn_tutorial.activations import relu_derivative
    >>> relu_derivative([-2.0, 0.0, 3.0])
    array([0., 0., 1.])
    """
    z, dtype = as_float(z, "z")
    return (z > 0).astype(dtype)


def normal_mean(
    function: Callable[[Array], Array], mean: float = 0.0, deviation: float = 1.0
) -> float:
    r"""The mean of ``function(z)`` for a normal z, by integration rather than by sampling.

    .. math:: \mathrm{E}[f(z)] = \int f(\mu + \sigma t)\,\varphi(t)\,dt

    with the standard normal density φ. The trapezoidal rule on [-12, 12] with a step of 1/100
    is exact to rounding for smooth functions, because φ and all its derivatives vanish there.

    Parameters
    ----------
    function
        Elementwise function of an array.
    mean, deviation
        Of the normal distribution; ``ValueError`` for a deviation below 0.

    Examples
    --------
    The mean of z² is the mean of z, squared, plus the variance:

    >>> import numpy as np
    >>> from bn_tutorial.activations import normal_mean
    >>> round(normal_mean(np.square, mean=3.0, deviation=2.0), 6)
    13.0
    """
    if not deviation >= 0:
        raise ValueError(f"a standard deviation must not be negative, got {deviation!r}")
    step = 0.01
    t = np.arange(-1200, 1201) * step
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    return float(np.sum(function(mean + deviation * t) * density) * step)


def saturated_share(
    z: ArrayLike,
    derivative: Callable[[Array], Array] = sigmoid_derivative,
    *,
    threshold: float = 0.05,
) -> float:
    """The share of units whose slope is below ``threshold`` times the slope at 0.

    Parameters
    ----------
    z
        Array of pre-activations, any shape; ``ValueError`` if empty.
    derivative
        The slope of the activation; it must not vanish at 0, as the rectifier's does.
    threshold
        From 0 to 1.

    Examples
    --------
    >>> from bn_tutorial.activations import saturated_share
    >>> saturated_share([-6.0, 0.0, 1.0, 6.0])
    0.5
    """
    z, _ = as_float(z, "z")
    if z.size == 0:
        raise ValueError(f"the share of no units is undefined: z has shape {z.shape}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold!r}")
    steepest = float(derivative(np.zeros(1))[0])
    if steepest <= 0:
        raise ValueError("derivative is 0 at z = 0: there is no slope to compare with")
    return float(np.mean(derivative(z) < threshold * steepest))
