"""What the modules share: checks, whose errors say what came and what would be right, and a mean
that is exact where the data are constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]


def as_float(value: ArrayLike, name: str) -> tuple[Array, np.dtype[Any]]:
    """Return ``value`` in the dtype to compute in, and the dtype to return results in.

    Half and single precision are computed in float64, so that a result is as good as the
    dtype that carries it; integers become float64.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold integers or floats, got dtype {array.dtype}")
    working = np.result_type(array.dtype, np.float64)
    result = array.dtype if array.dtype.kind == "f" else working
    return array.astype(working, copy=False), result


def check_epsilon(epsilon: float) -> float:
    """Return ``epsilon``, a finite number above zero."""
    if not 0 < epsilon < np.inf:
        raise ValueError(f"epsilon must be a finite number above 0, such as 1e-3, got {epsilon!r}")
    return epsilon


def check_decay(decay: float) -> float:
    """Return ``decay``, a number from 0 (remember nothing) to 1 (learn nothing)."""
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie in [0, 1], such as 0.99, got {decay!r}")
    return decay


def mean_over(x: Array, axis: int | tuple[int, ...] | None, *, keepdims: bool = False) -> Array:
    """Return the mean over ``axis``, and exactly the constant where ``x`` is constant.

    Summing rounds: the mean of three times 0.1 is not 0.1.
    """
    smallest = x.min(axis=axis, keepdims=keepdims)
    constant = smallest == x.max(axis=axis, keepdims=keepdims)
    return np.where(constant, smallest, x.mean(axis=axis, keepdims=keepdims))
