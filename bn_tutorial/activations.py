"""Activation functions, their derivatives, and how saturated a layer is.

All functions take arrays of real numbers of any shape and work elementwise. Half and single
precision are computed in float64 and returned in the dtype that came in; integers become float64.
``TypeError`` is raised for data that are not real numbers, or masked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_float, check_real

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

# Lobatto's rule, in [-1, 1]: the ends and the 14 extrema of a Legendre polynomial. With the ends, a
# jump beside one is seen too.
_POLYNOMIAL = np.polynomial.Legendre.basis(15)
NODES = np.concatenate([[-1.0], _POLYNOMIAL.deriv().roots(), [1.0]])
NODE_WEIGHTS = 2 / (15 * 16 * _POLYNOMIAL(NODES) ** 2)

# Where a panel is divided. Halves would mirror one another, and so might what both get wrong.
GOLDEN = (3 - 5**0.5) / 2

# How many panels at a time `normal_mean` works on: with this many, some hundred megabytes.
MOST_PANELS = 200_000


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

    with the standard normal density φ. The range of t from -12 to 12, outside of which φ is below
    1e-31, is divided into panels, and these are divided until Lobatto's rule gives the same on a
    panel and on its two parts. The differences that are left add up to at most 1e-11 E|f(z)|, for
    functions with kinks and jumps too. A peak of f that is narrower than half a unit of z, or than
    a thirtieth of the deviation where that is less, may be missed.

    Parameters
    ----------
    function
        Elementwise function of an array; it is called with arrays of rank 2.
    mean, deviation
        Of the normal distribution: a finite number, and one from 0 to 10,000.

    Raises
    ------
    TypeError
        For a function whose values are not real.
    ValueError
        For another mean or deviation, and where the bound on the error cannot be met: for a
        function that is infinite or NaN somewhere, that is noise, or whose values beyond 12
        deviations would change its mean, as those of exp(9 z).

    Examples
    --------
    The mean of z² is the mean of z, squared, plus the variance:

    >>> import numpy as np
    >>> from bn_tutorial.activations import normal_mean
    >>> round(normal_mean(np.square, mean=3.0, deviation=2.0), 6)
    13.0
    """
    if not -np.inf < mean < np.inf:
        raise ValueError(f"a mean must be finite, got {mean!r}")
    if not deviation >= 0:
        raise ValueError(f"a standard deviation must not be negative, got {deviation!r}")
    if deviation > 10_000:
        raise ValueError(f"a deviation above 10000 needs too many panels, got {deviation!r}")

    def integrand(t: Array) -> Array:
        return function(mean + deviation * t) * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    # No panel is wider than half a unit of t, or than 8 units of z.
    edges = np.linspace(-12, 12, 1 + max(48, int(np.ceil(3 * deviation))))
    left, right = edges[:-1], edges[1:]
    whole, sizes = _integrate(integrand, left, right)
    size = np.sum(sizes)
    if np.abs(integrand(edges[np.newaxis, [0, -1]])).max() > 1e-12 * size:
        raise ValueError("values of function beyond 12 deviations would change its mean")

    total, error, tolerance = 0.0, 0.0, 1e-12 * size / len(left)
    while len(left):
        if len(left) > MOST_PANELS:
            raise ValueError("function is too rough to be integrated to 11 digits")
        middle = left + GOLDEN * (right - left)
        lower, _ = _integrate(integrand, left, middle)
        upper, _ = _integrate(integrand, middle, right)
        difference = np.abs(lower + upper - whole)
        rough = difference > tolerance
        total += np.sum((lower + upper)[~rough])
        error += np.sum(difference[~rough])
        left, right = np.append(left[rough], middle[rough]), np.append(middle[rough], right[rough])
        whole = np.append(lower[rough], upper[rough])
    if error > 1e-11 * size:
        raise ValueError("function is too rough to be integrated to 11 digits")
    return float(total)


def _integrate(
    integrand: Callable[[Array], Array], left: Array, right: Array
) -> tuple[Array, Array]:
    """Integrals of ``integrand`` and of its absolute value over panels, by Lobatto's rule."""
    half = (right - left)[:, np.newaxis] / 2
    values = integrand(left[:, np.newaxis] + half * (1 + NODES)) * half
    check_real(values.dtype, "what function returns")
    if not np.isfinite(values).all():
        raise ValueError("function is infinite or NaN within 12 deviations of the mean")
    return values @ NODE_WEIGHTS, np.abs(values) @ NODE_WEIGHTS


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
        Array of pre-activations, any shape; ``ValueError`` if empty or with NaN.
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
    if np.isnan(z).any():
        raise ValueError("z holds NaN, which is neither saturated nor not")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold!r}")
    steepest = float(derivative(np.zeros(1))[0])
    if steepest <= 0:
        raise ValueError("derivative is 0 at z = 0: there is no slope to compare with")
    return float(np.mean(derivative(z) < threshold * steepest))
