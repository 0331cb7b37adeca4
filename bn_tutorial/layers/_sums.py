"""How the values of a channel are summed: all of them, those under a mask, over replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from ._dispatch import Path
from ._layout import Layout


class Sums(NamedTuple):
    """What counts, and how it is added up."""

    #: Return values with 0 in the place of those that do not count.
    weigh: Callable[[Any], Any]
    #: Return the sum, per channel, of the values here that count.
    total: Callable[[Any], Any]
    #: How many values count here, per channel or for all channels alike.
    count: Any
    #: Return the sums over all replicas of some totals, sent in one message.
    agree: Callable[..., tuple[Any, ...]] = lambda *totals: totals
    over_replicas: bool = False


def sums_of(
    layout: Layout, path: Path, mask: Any, all_reduce: Callable[[Any], Any] | None, dtype: Any
) -> Sums:
    """Return the sums of all values, or of those that a ``mask`` lets through.

    Parameters
    ----------
    mask
        As `Layout.expand_mask` returns it, or None.
    all_reduce
        Function that returns the sum of a tensor over all replicas, or None.
    dtype
        Of the values.
    """
    if mask is None:
        sums = Sums(
            weigh=lambda values: values,
            total=lambda values: channel_sum(layout, path, values),
            count=layout.count,
        )
    else:
        sums = _sums_under(layout, path, tf.cast(mask, dtype))
    if all_reduce is None:
        return sums
    return sums._replace(
        agree=lambda *totals: tuple(tf.unstack(all_reduce(tf.stack(totals)))), over_replicas=True
    )


def _sums_under(layout: Layout, path: Path, weights: Any) -> Sums:
    """Return the sums of what has the weight 1 and not 0."""

    def by_matrices(values: Any) -> Any:
        rows = tf.reshape(values, [-1, layout.channels])
        return tf.reshape(tf.matmul(tf.reshape(weights, [1, -1]), rows), [-1])

    def one_by_one(values: Any) -> Any:
        return channel_sum(layout, path, values * weights)

    return Sums(
        weigh=lambda values: values * weights,
        total=by_matrices if path.multiply_by_mask else one_by_one,
        count=(
            tf.reduce_sum(weights) if layout.channels_last else channel_sum(layout, path, weights)
        ),
    )


def channel_sum(layout: Layout, path: Path, values: Any) -> Any:
    """Return the sum per channel of ``values``, by the operation that is fastest."""
    if path.multiply_by_ones and layout.is_static:
        # XLA sums the columns of an expression slowly, and multiplies matrices fast.
        rows = tf.reshape(values, [-1, layout.channels])
        return tf.linalg.matvec(rows, tf.ones(rows.shape[:1], rows.dtype), transpose_a=True)
    if path.xla:
        return tf.reduce_sum(values, layout.others)
    if layout.channels_last:
        return tf.raw_ops.BiasAddGrad(out_backprop=values)  # reduce_sum, faster
    values = tf.reduce_sum(values, layout.after)
    return tf.reduce_sum(values, layout.before) if layout.before else values


def at_least_one(count: Any) -> Any:
    """Return a count to divide by."""
    return max(count, 1.0) if isinstance(count, float) else tf.maximum(count, 1)
