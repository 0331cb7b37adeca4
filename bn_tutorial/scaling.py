"""Feature scaling: four transforms that are mixed up, one function each.

All four are affine, ``(x - shift) / divisor``, and differ only in shift and divisor. They share
these conventions:

- ``axis`` is the axis over which a statistic is taken: 0 treats each column as a feature,
  ``None`` treats the whole array as one.
- ``reference`` is the data that the statistics come from, by default ``x`` itself. Pass the
  training split to transform the test split without looking at it.
- A constant feature has a range and a deviation of 0, by which nothing can be divided. It is
  shifted and not divided, so it stays constant (0 after centring) and does not become NaN. The
  same holds for values that differ by no more than rounding may leave of equal ones, such as 0.1
  and 0.3 - 0.2: a deviation of at most ``m ε |μ|`` counts as 0 (m values of mean μ, where ε is the
  precision of the arithmetic, as in scikit-learn's ``StandardScaler``), and so does a range of at
  most ``10 ε |μ|``.
- Those bounds are relative, so the magnitude of a feature does not matter: 1e-200 and -1e-200
  become 1 and -1, as 1e200 and -1e200 do. Scikit-learn leaves the former as they are, since their
  squares vanish, and cannot standardize the latter, whose squares overflow. Its ``MinMaxScaler``
  and ``MaxAbsScaler`` take a range or maximum below 10 ε for that of a constant, whatever the
  feature's size.
- Integers become float64; floats keep their dtype and are computed in float64 at least.
- ``TypeError`` is raised for data that are not real numbers, or masked; ``ValueError`` for an empty
  reference, NaN or infinity (one would spread to every example), an axis out of range, a
  ``reference`` that does not have the features of ``x``, or a result too large for its dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_float, mean_over

__all__ = ["max_abs_scale", "mean_normalize", "min_max_scale", "standardize"]

# Overflow raises a ValueError below; NumPy need not warn of it too.
_overflow_raises = np.errstate(over="ignore", invalid="ignore")


@_overflow_raises
def min_max_scale(
    x: ArrayLike,
    feature_range: tuple[float, float] = (0.0, 1.0),
    *,
    axis: int | None = 0,
    reference: ArrayLike | None = None,
) -> Array:
    r"""Map the reference's minimum and maximum to the ends of ``feature_range``.

    .. math:: x' = a + (b - a)\,\frac{x - \min x}{\max x - \min x}

    Parameters
    ----------
    x
        Array of real numbers, any shape.
    feature_range
        (a, b) with a < b, finite; (0, 1) and (-1, 1) are the common ones.
    axis, reference
        See the module.

    Returns
    -------
    Array
        Of the shape of ``x``. Values of ``x`` outside the reference's range land outside
        ``feature_range``; a constant feature lands on ``a``.

    Examples
    --------
    >>> from bn_tutorial.scaling import min_max_scale
    >>> train = [[1.0], [2.0], [6.0]]
    >>> min_max_scale(train)
    array([[0. ],
           [0.2],
           [1. ]])
    >>> min_max_scale([[11.0]], reference=train)
    array([[2.]])
    """
    low, high = feature_range
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"feature_range must be finite and increasing, got {feature_range!r}")
    x, reference, dtype = _check_data(x, reference, axis)
    unit = _shift_and_divide(x, reference, axis, np.min, _range)
    # A weighted mean of the ends, and not low + (high - low) * unit, hits both ends exactly.
    return _cast_result((1 - unit) * low + unit * high, x, dtype)


@_overflow_raises
def max_abs_scale(
    x: ArrayLike, *, axis: int | None = 0, reference: ArrayLike | None = None
) -> Array:
    r"""Divide by the largest absolute value of the reference: feature scaling by a number.

    .. math:: x' = \frac{x}{\max |x|}

    Nothing is shifted, so zeros stay zeros, and the reference lands in [-1, 1]. A feature that
    is zero throughout stays zero.

    Parameters
    ----------
    x
        Array of real numbers, any shape.
    axis, reference
        See the module.

    Examples
    --------
    >>> from bn_tutorial.scaling import max_abs_scale
    >>> max_abs_scale([[-4.0], [0.0], [2.0]])
    array([[-1. ],
           [ 0. ],
           [ 0.5]])
    """
    x, reference, dtype = _check_data(x, reference, axis)
    largest = np.abs(reference).max(axis=axis, keepdims=True)
    return _cast_result(x / np.where(largest == 0, 1, largest), x, dtype)


@_overflow_raises
def mean_normalize(
    x: ArrayLike, *, axis: int | None = 0, reference: ArrayLike | None = None
) -> Array:
    r"""Shift the reference's mean to 0 and divide by its range.

    .. math:: x' = \frac{x - \mu}{\max x - \min x}

    The reference lands inside [-1, 1], its mean on 0, its range on 1. Scikit-learn has no
    scaler for it.

    Parameters
    ----------
    x
        Array of real numbers, any shape.
    axis, reference
        See the module.

    Examples
    --------
    >>> from bn_tutorial.scaling import mean_normalize
    >>> mean_normalize([[1.0], [2.0], [6.0]])
    array([[-0.4],
           [-0.2],
           [ 0.6]])
    """
    x, reference, dtype = _check_data(x, reference, axis)
    scaled = _shift_and_divide(x, reference, axis, mean_over, _range)
    return _cast_result(scaled, x, dtype)


@_overflow_raises
def standardize(x: ArrayLike, *, axis: int | None = 0, reference: ArrayLike | None = None) -> Array:
    r"""Shift the reference's mean to 0 and divide by its standard deviation: the z-score.

    .. math:: x' = \frac{x - \mu}{\sigma}, \qquad \sigma^2 = \frac1m \sum_{i=1}^m (x_i - \mu)^2

    The variance is the biased one (divided by m), as in scikit-learn's ``StandardScaler`` and
    in batch normalization, which adds ε under the root.

    Parameters
    ----------
    x
        Array of real numbers, any shape.
    axis, reference
        See the module.

    Examples
    --------
    >>> from bn_tutorial.scaling import standardize
    >>> standardize([[1.0], [2.0], [6.0]]).round(3)
    array([[-0.926],
           [-0.463],
           [ 1.389]])
    """
    x, reference, dtype = _check_data(x, reference, axis)
    scaled = _shift_and_divide(x, reference, axis, mean_over, _deviation)
    return _cast_result(scaled, x, dtype)


def _check_data(
    x: ArrayLike, reference: ArrayLike | None, axis: int | None
) -> tuple[Array, Array, np.dtype[Any]]:
    """Return ``x`` and the reference, both checked, and the dtype of the result."""
    x, dtype = as_float(x, "x")
    reference = x if reference is None else as_float(reference, "reference")[0]
    for name, array in (("x", x), ("reference", reference)):
        if axis is not None and not -array.ndim <= axis < array.ndim:
            raise ValueError(f"axis {axis} is out of range for {name} of shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} holds NaN or infinity, which one statistic would spread to every "
                "example: drop or fill those values first"
            )
    if reference.size == 0:
        raise ValueError(f"statistics need at least one example, got shape {reference.shape}")
    if axis is not None and (
        np.delete(x.shape, axis).tolist() != np.delete(reference.shape, axis).tolist()
    ):
        raise ValueError(
            f"x and reference must agree on every axis but {axis}, "
            f"got shapes {x.shape} and {reference.shape}"
        )
    return x, reference, dtype


def _range(x: Array, axis: int | None, *, keepdims: bool) -> Array:
    """The range, and exactly 0 where it is that of a constant."""
    return _zero_if_rounding(np.ptp(x, axis=axis, keepdims=keepdims), 10, x, axis)


def _deviation(x: Array, axis: int | None, *, keepdims: bool) -> Array:
    """The standard deviation, and exactly 0 where it is that of a constant."""
    count = x.size if axis is None else x.shape[axis]
    return _zero_if_rounding(np.std(x, axis=axis, keepdims=keepdims), count, x, axis)


def _zero_if_rounding(spread: Array, roundings: int, x: Array, axis: int | None) -> Array:
    """Return ``spread``, and 0 where so many roundings of equal values may leave as much."""
    bound = roundings * np.finfo(x.dtype).eps * np.abs(mean_over(x, axis, keepdims=True))
    return np.where(spread <= bound, 0, spread)


def _shift_and_divide(
    x: Array,
    reference: Array,
    axis: int | None,
    shift: Callable[..., Array],
    divisor: Callable[..., Array],
) -> Array:
    """Return ``(x - shift) / divisor``, both statistics of the reference; ``x - shift`` where the
    divisor is 0.
    """
    # All is brought near 1 first: of features of extreme size, sums and squares would overflow or
    # vanish. A power of two rounds nothing.
    _, exponent = np.frexp(np.abs(reference).max(axis=axis, keepdims=True))
    reference = np.ldexp(reference, -exponent)

    start = shift(reference, axis=axis, keepdims=True)
    spread = divisor(reference, axis=axis, keepdims=True)
    divided = (np.ldexp(x, -exponent) - start) / np.where(spread == 0, 1, spread)
    return np.where(spread == 0, x - np.ldexp(start, exponent), divided)


def _cast_result(result: Array, x: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``result`` in ``dtype`` and in the shape of ``x``: a reference may have more axes."""
    result = result.reshape(x.shape).astype(dtype)
    if not np.isfinite(result).all():
        raise ValueError(f"the result overflows {dtype}: divide the data first")
    return result
