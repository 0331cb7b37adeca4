r"""Batch normalization in NumPy for large inputs: `bn_tutorial.batch_norm` in blocks.

The textbook function moves some 38 times the size of a float32 input between memory and
processor. This one reads the input twice and writes the output once: three times. It works
through blocks that fit into a processor's cache, some channels at a time:

1. Each block is copied into a small float64 buffer. There the mean :math:`\mu_b` and the sum of
   squared deviations :math:`S_b` of its :math:`n_b` values per channel are taken in two passes, and
   merged into those of the n values before (Chan, Golub and LeVeque, 1983):

   .. math::

      \mu \leftarrow \mu + \frac{n_b}{n + n_b}\,\delta, \qquad
      S \leftarrow S + S_b + \frac{n\,n_b}{n + n_b}\,\delta^2, \qquad
      \delta = \mu_b - \mu

2. With the statistics of these channels complete, each block is read again, normalized in the
   buffer, and rounded once, into its place in the output.

Conventions and errors are those of `bn_tutorial.batch_norm`, but where squares overflow the channel
becomes NaN. On some ten thousand values or fewer, which fit into the cache anyway, the textbook
function is faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._checks import (
    Array,
    as_array,
    channel_axis,
    channel_values,
    check_epsilon,
    check_not_empty,
    float_dtypes,
)

__all__ = ["batch_norm_forward"]

# Elements of the float64 buffer: 256 kB, which the second-level cache of any processor holds.
BLOCK = 1 << 15

# A block has room for at least so many values of each of its channels. Merging the statistics of a
# block costs some twenty operations per channel: on a batch of 256 by 32,768 channels, blocks with
# one value per channel took five times as long as those with 16. More than 16 gained little.
VALUES_PER_CHANNEL = 16


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

    Besides the arrays that it returns it needs less than 512 KiB, half of it for a block; and
    float64 copies of ``gamma`` and ``beta`` where they are no float64 arrays, or share memory with
    ``out``. With few values per channel, ``mean`` and ``variance`` are themselves large: half the
    size of a float32 ``x`` with eight values per channel. Fastest when ``x`` and ``out`` have the
    same layout in memory, whatever that is.

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

    Examples
    --------
    In place, so that no array of the size of ``x`` is made:

    >>> import numpy as np
    >>> from bn_tutorial.fast_batch_norm import batch_norm_forward
    >>> x = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    >>> _, mean, variance = batch_norm_forward(x, gamma=[2.0], beta=[5.0], out=x)
    >>> x.round(3)
    array([[3.149],
           [4.074],
           [7.777]], dtype=float32)
    >>> mean, variance.round(3)
    (array([3.]), array([4.667]))
    """
    check_epsilon(epsilon)
    x = as_array(x, "x")
    working, dtype = float_dtypes(x.dtype, "x")
    axis = channel_axis(x, axis)
    gamma = channel_values(gamma, "gamma", x, axis)
    beta = channel_values(beta, "beta", x, axis)
    check_not_empty(x, axis)
    y = np.empty_like(x, dtype=dtype) if out is None else _check_out(out, x, dtype)
    gamma, beta = (a.copy() if np.may_share_memory(a, y) else a for a in (gamma, beta))

    # The axes in the order in which memory runs.
    order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
    source, target, axis = x.transpose(order), y.transpose(order), order.index(axis)
    buffer = np.empty(min(BLOCK, x.size), dtype=working)

    mean, variance = np.empty((2, source.shape[axis]), working)
    for channels, blocks in _block_slices(source.shape, axis):
        mean[channels], variance[channels] = _moments(source, axis, blocks, buffer)
        scale = gamma[channels] / np.sqrt(variance[channels] + epsilon)
        for block in blocks:
            values = _copy_block(source[block], axis, buffer)
            values -= mean[channels, np.newaxis]
            values *= scale[:, np.newaxis]
            values += beta[channels, np.newaxis]
            target[block] = values.reshape(target[block].shape)
    return y, mean, variance


def _moments(
    x: Array, axis: int, blocks: list[tuple[slice, ...]], buffer: Array
) -> tuple[Array, Array]:
    """Mean and biased variance per channel of some channels, merged from those of their blocks."""
    # From one of the values, the deviations of a constant are exactly 0, and so is their sum.
    first = tuple(part if i == axis else part.start for i, part in enumerate(blocks[0]))
    mean = x[first].astype(buffer.dtype)
    squares, n = np.zeros_like(mean), 0
    for block in blocks:
        values = _copy_block(x[block], axis, buffer)
        n_b = values.shape[0] * values.shape[2]
        values -= mean[:, np.newaxis]
        delta = np.einsum("acb->c", values) / n_b
        values -= delta[:, np.newaxis]
        squares += np.einsum("acb,acb->c", values, values) + delta**2 * (n * n_b / (n + n_b))
        mean += delta * (n_b / (n + n_b))
        n += n_b
    return mean, squares / n


def _block_slices(
    shape: tuple[int, ...], axis: int
) -> Iterator[tuple[slice, list[tuple[slice, ...]]]]:
    """For some channels at a time: their slice, and all blocks of these channels.

    A block is a tuple of slices, one per axis, and has ``BLOCK`` elements at most. It takes as much
    as it can of the last axis, along which memory runs, then of the one before, and so on; of the
    channels it takes so few that there is room for ``VALUES_PER_CHANNEL`` values of each.
    """
    lengths, left = [], BLOCK
    for i, size in reversed(list(enumerate(shape))):
        most = min(left, BLOCK // VALUES_PER_CHANNEL) if i == axis else left
        lengths.append(max(min(size, most), 1))
        left = max(left // lengths[-1], 1)
    slices = [
        [slice(start, start + length) for start in range(0, size, length)]
        for size, length in zip(shape, reversed(lengths), strict=True)
    ]
    for channels in slices[axis]:
        yield channels, list(product(*slices[:axis], [channels], *slices[axis + 1 :]))


def _copy_block(block: Array, axis: int, buffer: Array) -> Array:
    """Copy a block to the buffer, and return it there as (before, channels, after)."""
    values = buffer[: block.size].reshape(block.shape)
    np.copyto(values, block)
    return values.reshape(-1, block.shape[axis], int(np.prod(block.shape[axis + 1 :])))


def _check_out(out: Array, x: Array, dtype: np.dtype[Any]) -> Array:
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
