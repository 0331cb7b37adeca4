r"""Batch normalization in NumPy for large inputs: `bn_tutorial.batch_norm` in blocks.

The textbook function moves some 38 times the size of a float32 input between memory and
processor. This one reads the input twice and writes the output once: three times. It works
through blocks that fit into a processor's cache:

1. Each block is copied into a small float64 buffer. There the mean :math:`\mu_b` and the sum of
   squared deviations :math:`S_b` of its :math:`n_b` values a channel are taken in two passes, and
   merged into those of the n values before (Chan, Golub and LeVeque, 1983):

   .. math::

      \mu \leftarrow \mu + \frac{n_b}{n + n_b}\,\delta, \qquad
      S \leftarrow S + S_b + \frac{n\,n_b}{n + n_b}\,\delta^2, \qquad
      \delta = \mu_b - \mu

2. With the statistics complete, each block is read again, normalized in the buffer, and rounded
   once, into its place in the output.

Conventions and errors are those of `bn_tutorial.batch_norm`. On some ten thousand values or
fewer, which fit into the cache anyway, the textbook function is faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_float, check_epsilon
from .batch_norm import _channel_axis, _channel_values

__all__ = ["batch_norm_forward"]

# Elements of the float64 buffer: 256 kB, which the second-level cache of any processor holds.
BLOCK = 1 << 15


def batch_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    *,
    axis: int = -1,
    epsilon: float = 1e-3,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Normalize a batch with its own statistics: training mode, fast and in little memory.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    All arithmetic is in float64, so the result is as good as that of
    `bn_tutorial.batch_norm.batch_norm_forward`: float32 results of the two differ by the last bit
    at most, unless γx̂ and β cancel. A constant channel comes out as ``beta``.

    Besides ``out`` it needs 256 kB for a block, and some float64 arrays of shape (channels,).
    Fastest when ``x`` and ``out`` have the same layout in memory, whatever that is.

    Parameters
    ----------
    x
        Array of rank 2 or more, with any strides; it is never copied as a whole.
    gamma, beta
        Arrays of shape (channels,), the learned scale and offset.
    axis
        The channel axis.
    epsilon
        Added to the variance, above 0.
    out
        Where to write ``y``: an array of the shape of ``x`` and the dtype of the result. It may
        be ``x`` itself (in place), but must not overlap with ``x`` otherwise. A new array by
        default.

    Returns
    -------
    y
        Array of the shape and dtype of ``x`` (float64 for integers); ``out`` where it is given.
    mean, variance
        Float64 arrays of shape (channels,); the variance is the biased one. There is no cache for
        a backward pass: its normalized batch alone would be twice as large as a float32 ``x``.
    """
    check_epsilon(epsilon)
    x = np.asarray(x)
    nothing, dtype = as_float(np.empty(0, x.dtype), "x")
    axis = _channel_axis(x, axis)
    gamma = _channel_values(gamma, "gamma", x, axis)
    beta = _channel_values(beta, "beta", x, axis).copy()  # it might lie in ``out``
    if 0 in (size for i, size in enumerate(x.shape) if i != axis):
        raise ValueError(f"an empty batch has no mean: x has shape {x.shape}")
    y = np.empty_like(x, dtype=dtype) if out is None else _checked(out, x, dtype)

    # The axes in the order in which memory runs.
    order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
    blocks, target, axis = x.transpose(order), y.transpose(order), order.index(axis)
    buffer = np.empty(min(BLOCK, x.size), dtype=nothing.dtype)

    mean, variance = _moments(blocks, axis, buffer)
    scale = gamma / np.sqrt(variance + epsilon)
    for place in _places(blocks.shape, axis):
        channels = place[axis]
        values = _load(blocks[place], axis, buffer)
        values -= mean[channels, np.newaxis]
        values *= scale[channels, np.newaxis]
        values += beta[channels, np.newaxis]
        target[place] = values.reshape(target[place].shape)
    return y, mean, variance


def _moments(x: Array, axis: int, buffer: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, merged from the blocks."""
    count = np.zeros(x.shape[axis], buffer.dtype)
    mean, squares = np.zeros_like(count), np.zeros_like(count)
    for place in _places(x.shape, axis):
        channels = place[axis]
        values = _load(x[place], axis, buffer)
        n, n_b = count[channels], values.shape[0] * values.shape[2]

        # Deviations from one of the values: those of a constant are exactly 0, and so is their sum.
        first = values[0, :, 0].copy()
        values -= first[:, np.newaxis]
        shift = np.einsum("acb->c", values) / n_b
        values -= shift[:, np.newaxis]
        squares_b = np.einsum("acb,acb->c", values, values)

        delta = np.where(n == 0, 0, first + shift - mean[channels])
        mean[channels] = np.where(n == 0, first + shift, mean[channels] + delta * (n_b / (n + n_b)))
        squares[channels] += squares_b + delta**2 * (n * n_b / (n + n_b))
        count[channels] += n_b
    return mean, squares / count


def _places(shape: tuple[int, ...], axis: int) -> Iterator[tuple[slice, ...]]:
    """Where the blocks of an array lie: as long in memory as they can be, with several values a
    channel."""
    steps, room = [], BLOCK
    for i, size in reversed(list(enumerate(shape))):
        steps.append(max(min(size, room, BLOCK // 16 if i == axis else room), 1))
        room = max(room // steps[-1], 1)
    return product(
        *(
            [slice(i, i + step) for i in range(0, size, step)]
            for size, step in zip(shape, reversed(steps), strict=True)
        )
    )


def _load(block: Array, axis: int, buffer: Array) -> Array:
    """Copy a block to the buffer, and return it there as (before, channels, after)."""
    values = buffer[: block.size].reshape(block.shape)
    np.copyto(values, block)
    return values.reshape(-1, block.shape[axis], int(np.prod(block.shape[axis + 1 :])))


def _checked(out: Array, x: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``out`` if the result can be written there."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have the dtype of the result, {dtype}, got {out.dtype}")
    if out.shape != x.shape:
        raise ValueError(f"out must have the shape of x, {x.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    same = (out.__array_interface__["data"], out.strides) == (
        x.__array_interface__["data"],
        x.strides,
    )
    # NumPy's stubs know only the two extremes of the effort.
    if not same and np.may_share_memory(out, x, max_work=10_000):  # type: ignore[arg-type]
        raise ValueError("out overlaps with x: pass x itself, or an array that shares no memory")
    return out
