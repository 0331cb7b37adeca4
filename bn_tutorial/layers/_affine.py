"""(x − center)·factor + offset, per channel, and what its gradient is made of.

TensorFlow has a kernel for each that takes one pass over the data: the fused ones for inference.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ._dispatch import Path
from ._layout import Layout
from ._sums import add_up, block_length, channel_sum


def affine(
    layout: Layout, path: Path, x: Any, center: Any, factor: Any, offset: Any, near: Any = True
) -> Any:
    """Return (``x`` − ``center``)·``factor`` + ``offset`` in the dtype of ``x``.

    Parameters
    ----------
    center, factor, offset
        One number per channel, of the dtype of ``x``.
    near
        Whether all ``center``·``factor`` are small, known or as a tensor. Then
        x·factor + (offset − center·factor) is as good, and takes one pass less.
    """
    if path.use_kernel:
        # Images stay as they are, for TensorFlow takes a ReLU behind them into the kernel.
        as_it_is = len(x.shape) == 4
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x if as_it_is else tf.reshape(x, [1, 1, -1, layout.channels]),
            scale=factor,
            offset=offset,
            mean=center,
            variance=tf.ones_like(factor),
            epsilon=0.0,
            is_training=False,
        )
        return y if as_it_is else tf.reshape(y, layout.shape)
    center, factor, offset, shift = map(
        layout.broadcast, (center, factor, offset, offset - center * factor)
    )
    if near is True:
        return x * factor + shift
    if near is False:
        return (x - center) * factor + offset
    return tf.cond(near, lambda: x * factor + shift, lambda: (x - center) * factor + offset)


def affine_gradient(
    layout: Layout, path: Path, dy: Any, x: Any, center: Any, factor: Any, near: Any = True
) -> tuple[Any, Any, Any]:
    """Return ``dy``·``factor``, and Σ ``dy``·(``x`` − ``center``) and Σ ``dy`` per channel.

    The parameters are those of `affine`, but ``center`` and the sums are float64.
    """
    block = block_length(layout.known_before)
    if path.use_kernel and block:
        return _gradient_in_blocks(layout, path, block, dy, x, center, factor)
    total = channel_sum(layout, path, dy)
    if near is True:
        products = channel_sum(layout, path, dy * x) - center * total
    else:
        products = channel_sum(layout, path, dy * (x - layout.broadcast(tf.cast(center, x.dtype))))
    return dy * layout.broadcast(factor), products, total


def _gradient_in_blocks(
    layout: Layout, path: Path, block: int, dy: Any, x: Any, center: Any, factor: Any
) -> tuple[Any, Any, Any]:
    """Return the same from the kernel, for which each place in a block is a channel of its own.

    So it adds no more than a block of values by itself.
    """

    def as_channels(values: Any) -> Any:
        return tf.reshape(values, [1, 1, block, -1])

    def per_channel(sums: Any) -> Any:
        return add_up(path, tf.reshape(sums, [-1, layout.channels]), [0])

    images = as_channels(x)
    times = tf.shape(images)[3:] // layout.channels
    rounded = tf.cast(center, x.dtype)
    dx, products, totals, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=as_channels(dy),
        x=images,
        scale=tf.tile(factor, times),
        reserve_space_1=tf.tile(rounded, times),
        reserve_space_2=tf.ones_like(images[0, 0, 0]),
        reserve_space_3=tf.zeros([0]),
        epsilon=0.0,
        is_training=False,
    )
    total = per_channel(totals)
    products = per_channel(products) + (tf.cast(rounded, center.dtype) - center) * total
    return tf.reshape(dx, layout.shape), products, total
