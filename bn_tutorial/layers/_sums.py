"""How the values of a channel are summed: all of them, those under a mask, over replicas.

A float32 number has 24 bits, so a sum of n of them, one after the other, may lose as many digits as
n has. Here no more than 64 values are added in the precision of the data. The sums of the blocks
are added in float64, or, where they are no more than 64 themselves, like the values. So the error
of a sum is below 2·64·2⁻²⁴ of the sum of the absolute values, however many there are. It is faster
than one long sum, too, in which each addition waits for the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from ._dispatch import Path
from ._layout import Layout

BLOCK = 32
# Lengths that will do, the best first.
BLOCKS = sorted(range(BLOCK // 2, 2 * BLOCK + 1), key=lambda length: abs(length - BLOCK))


class Sums(NamedTuple):
    """What counts, and how it is added up, to float64."""

    #: Return values with 0 in the place of those that do not count.
    weigh: Callable[[Any], Any]
    #: Return the sum, per channel, of the values here that count.
    total: Callable[[Any], Any]
    #: Return the sum, per channel, of the squares of the values here that count.
    squares: Callable[[Any], Any]
    #: How many values count here, per channel or for all channels alike.
    count: Any
    #: Return the sums over all replicas of some totals, sent in one message, in float64: the
    #: message must be the same on each, whatever path it takes.
    agree: Callable[..., tuple[Any, ...]] = lambda *totals: totals
    over_replicas: bool = False


def sums_of(layout: Layout, path: Path, mask: Any, all_reduce: Callable[[Any], Any] | None) -> Sums:
    """Return the sums of all values, or of those that a ``mask`` lets through.

    Parameters
    ----------
    mask
        As `Layout.expand_mask` returns it, or None.
    all_reduce
        Function that returns the sum of a tensor over all replicas, or None.
    """

    def weigh(values: Any) -> Any:
        return values if mask is None else tf.where(mask, values, 0)

    sums = Sums(
        weigh=weigh,
        total=lambda values: channel_sum(layout, path, weigh(values)),
        squares=lambda values: channel_sum_of_squares(layout, path, weigh(values)),
        count=layout.count if mask is None else _count_of(layout, mask),
    )
    if all_reduce is None:
        return sums

    def agree(*totals: Any) -> tuple[Any, ...]:
        message = tf.stack([tf.cast(total, tf.float64) for total in totals])
        return tuple(tf.unstack(all_reduce(message)))

    return sums._replace(agree=agree, over_replicas=True)


def _count_of(layout: Layout, mask: Any) -> Any:
    """Return how many values a mask lets through: of each channel, or of all alike."""
    axes = None if layout.channels_last else layout.others
    return tf.cast(tf.math.count_nonzero(mask, axes), tf.float64)


def channel_sum(layout: Layout, path: Path, values: Any) -> Any:
    """Return the sum per channel of ``values``, in float64."""
    if path.in_float64 or (path.xla and not _has_many_blocks(layout)):
        return tf.reduce_sum(tf.cast(values, tf.float64), layout.others)
    if not path.in_blocks:
        return tf.cast(tf.reduce_sum(values, layout.others), tf.float64)
    return _sum_of_blocks(layout, path, values, tf.reduce_sum, tf.identity)


def channel_sum_of_squares(layout: Layout, path: Path, values: Any) -> Any:
    """Return the sum per channel of the squares of ``values``, in float64."""
    if not path.in_blocks or path.xla:  # which fuses the square with the sum
        return channel_sum(layout, path, tf.square(values))
    return _sum_of_blocks(layout, path, values, _norm, tf.square)


def _norm(values: Any, axis: Any) -> Any:
    """Return √Σ values², for which TensorFlow has a kernel that does not store the squares."""
    return tf.raw_ops.EuclideanNorm(input=values, axis=axis)


def _sum_of_blocks(
    layout: Layout,
    path: Path,
    values: Any,
    reduce: Callable[[Any, Any], Any],
    undo: Callable[[Any], Any],
) -> Any:
    """Return Σ ``undo(reduce(block))`` in float64 over blocks of the values of each channel."""
    sizes = [layout.known[axis] for axis in layout.after]
    if None not in sizes and math.prod(sizes) >= BLOCK // 2:
        rows = tf.reshape(values, [-1, layout.channels, math.prod(sizes)])
        blocks, axes = _in_blocks(rows, 2, math.prod(sizes), reduce), [0, 2]
    else:
        per_row = reduce(values, layout.after) if layout.after else values
        rows = tf.reshape(per_row, [-1, layout.channels])
        blocks, axes = _in_blocks(rows, 0, layout.known_before, reduce), [0]
    return add_up(path, blocks, axes, reduce, undo)


def _has_many_blocks(layout: Layout) -> bool:
    """Whether blocks are worth their while for XLA, which is slow to sum few of them."""
    if None in layout.known[layout.axis + 1 :]:
        return False
    return not layout.is_static or layout.count > BLOCK * BLOCKS[-1]


def add_up(
    path: Path,
    blocks: Any,
    axes: list[int],
    reduce: Callable[[Any, Any], Any] = tf.reduce_sum,
    undo: Callable[[Any], Any] = tf.identity,
) -> Any:
    """Return Σ ``undo(blocks)`` in float64; few enough are added in their own precision first.

    Not for XLA, which would make one long sum of two in the same precision.
    """
    if (
        not path.xla
        and blocks.shape.is_fully_defined()
        and math.prod(blocks.shape[i] for i in axes) <= BLOCKS[-1]
    ):
        return undo(tf.cast(reduce(blocks, axes), tf.float64))
    return tf.reduce_sum(undo(tf.cast(blocks, tf.float64)), axes)


def _in_blocks(rows: Any, axis: int, divisor: int, reduce: Callable[[Any, Any], Any]) -> Any:
    """Return ``rows`` with the blocks along an axis reduced; what makes no whole block stays.

    ``divisor`` is known to divide the length along the axis.
    """

    def reduced(rows: Any, block: int) -> Any:
        sizes = [-1, *rows.shape[1:]]
        before, after = sizes[:axis], sizes[axis + 1 :]
        length = rows.shape[axis] // block if axis else -1
        return reduce(tf.reshape(rows, [*before, length, block, *after]), axis + 1)

    if block := block_length(divisor):
        return reduced(rows, block)
    length = rows.shape[axis] or tf.shape(rows)[axis]
    whole, rest = tf.split(rows, [length - length % BLOCK, length % BLOCK], axis)
    return tf.concat([reduced(whole, BLOCK), rest], axis)


def block_length(divisor: int) -> int | None:
    """Return the best length of blocks that divides ``divisor``, or None."""
    return next((length for length in BLOCKS if divisor % length == 0), None)


def at_least_one(count: Any) -> Any:
    """Return a count to divide by."""
    return max(count, 1.0) if isinstance(count, float) else tf.maximum(count, 1)
