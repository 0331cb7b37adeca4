"""What the modules share: the checks of dtypes, axes, values per channel, epsilon and decay, whose
errors say what came and what would be right; and a mean that is exact where the data are constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]


def as_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``value`` as an array, which has no place for what a masked array hides."""
    if np.ma.is_masked(value):
        raise TypeError(f"{name} has masked values, which would count: fill them or leave them out")
    return np.asarray(value)


def check_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise ``TypeError`` unless ``dtype``, that of the data called ``name``, holds real numbers.

    Booleans do not count as numbers.
    """
    if dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold integers or floats, got dtype {dtype}")


def float_dtypes(dtype: np.dtype[Any], name: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the dtype to compute in, and the dtype to return results in, for data of ``dtype``.

    Half and single precision are computed in float64, so that a result is as good as the
    dtype that carries it; integers become float64.
    """
    check_real(dtype, name)
    working = np.result_type(dtype, np.float64)
    return working, dtype if dtype.kind == "f" else working


def as_float(value: ArrayLike, name: str) -> tuple[Array, np.dtype[Any]]:
    """Return ``value`` in the dtype to compute in, and the dtype to return results in."""
    array = as_array(value, name)
    working, result = float_dtypes(array.dtype, name)
    return array.astype(working, copy=False), result


def channel_axis(x: Array, axis: int) -> int:
    """Return ``axis``, the channel axis of ``x``, counted from the front."""
    if x.ndim < 2:
        raise ValueError(f"x needs a batch axis and a channel axis, got shape {x.shape}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis must lie in [{-x.ndim}, {x.ndim - 1}] for x of shape {x.shape}, got {axis}"
        )
    return axis % x.ndim


def batch_axes(x: Array, axis: int) -> tuple[int, ...]:
    """Return all axes of ``x`` but its channel axis: those that statistics are taken over."""
    return tuple(i for i in range(x.ndim) if i != axis)


def check_not_empty(x: Array, axis: int) -> None:
    """Raise ``ValueError`` unless ``x`` has at least one value per channel."""
    if 0 in (x.shape[i] for i in batch_axes(x, axis)):
        raise ValueError(f"an empty batch has no mean: x has shape {x.shape}")


def channel_values(values: ArrayLike, name: str, x: Array, axis: int) -> Array:
    """Return ``values`` as floats, one per channel of ``x``."""
    array, _ = as_float(values, name)
    if array.shape != (x.shape[axis],):
        raise ValueError(
            f"{name} must have shape ({x.shape[axis]},), one value per channel of x "
            f"(shape {x.shape}, axis {axis}), got {array.shape}"
        )
    return array


def check_variance(variance: Array) -> Array:
    """Return ``variance``, none of whose values is negative."""
    if (variance < 0).any():
        raise ValueError(f"a variance cannot be negative, got {variance.min()}")
    return variance


def check_number(value: float, name: str) -> float:
    """Return ``value``, one real number."""
    array = as_array(value, name)
    # NumPy does not know bfloat16 for a float.
    if array.ndim or not (array.dtype.kind in "iuf" or array.dtype.name == "bfloat16"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return value


def check_epsilon(epsilon: float) -> float:
    """Return ``epsilon``, a finite number above zero."""
    if not 0 < check_number(epsilon, "epsilon") < np.inf:
        raise ValueError(f"epsilon must be a finite number above 0, such as 1e-3, got {epsilon!r}")
    return epsilon


def check_decay(decay: float, name: str = "decay") -> float:
    """Return ``decay``, a number from 0 (remember nothing) to 1 (learn nothing)."""
    if not 0 <= check_number(decay, name) <= 1:
        raise ValueError(f"{name} must lie in [0, 1], such as 0.99, got {decay!r}")
    return decay


def mean_over(x: Array, axis: int | tuple[int, ...] | None, *, keepdims: bool = False) -> Array:
    """Return the mean over ``axis``, and exactly the constant where ``x`` is constant.

    Summing rounds: the mean of three times 0.1 is not 0.1.
    """
    smallest = x.min(axis=axis, keepdims=keepdims)
    constant = smallest == x.max(axis=axis, keepdims=keepdims)
    return np.where(constant, smallest, x.mean(axis=axis, keepdims=keepdims))
