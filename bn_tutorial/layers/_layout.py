"""Where a tensor has its channels, and what is known of its sizes."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import tensorflow as tf

# One value in SAMPLE is enough to see where data lie.
SAMPLE = 256


class Layout:
    """The axes and sizes of ``x``, as Python numbers where they are known in advance.

    Parameters
    ----------
    x
        Tensor of float16, bfloat16, float32 or float64.
    axis
        Axis of the channels, not negative.
    """

    def __init__(self, x: Any, axis: int) -> None:
        known = x.shape.as_list()
        self.axis = axis
        self.channels: int = known[axis]
        self.before, self.after = list(range(axis)), list(range(axis + 1, len(known)))
        self.others = self.before + self.after
        self.channels_last = not self.after
        self.is_static = None not in known
        self.shape = known if self.is_static else tf.shape(x)
        self.sizes = [self.shape[i] if size is None else size for i, size in enumerate(known)]
        self.count_dtype = tf.float64 if x.dtype == tf.float64 else tf.float32

    @cached_property
    def count(self) -> Any:
        """How many values each channel has: a float, or a scalar tensor."""
        count: Any = math.prod(size for i, size in enumerate(self.sizes) if i != self.axis)
        return float(count) if self.is_static else tf.cast(count, self.count_dtype)

    @cached_property
    def image(self) -> list[Any] | None:
        """The shape in which the fused kernel takes ``x``; None where ``x`` has it already."""
        sizes, axis = self.sizes, self.axis
        if len(sizes) == 4 and axis in (1, 3):
            return None
        if self.channels_last:  # with as many dimensions in front as there are
            return [sizes[0], math.prod(sizes[1:axis]), 1, self.channels]
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 2 :])
        return [before, self.channels, sizes[axis + 1], after]

    def broadcast(self, vector: Any) -> Any:
        """Return one value per channel in a shape that broadcasts with ``x``."""
        if self.channels_last:
            return vector
        return tf.reshape(vector, [self.channels] + [1] * len(self.after))

    def expand_mask(self, mask: Any) -> Any:
        """Return a mask of all dimensions but the last with as many places as there are to count.

        Channels that are not last are masked each on its own.
        """
        mask = tf.cast(mask, tf.bool)[..., tf.newaxis]
        if not self.channels_last:
            return tf.broadcast_to(mask, self.shape)
        if self.is_static and mask.shape[:-1] == self.shape[:-1]:
            return mask
        return tf.broadcast_to(mask, tf.concat([self.shape[:-1], [1]], 0))

    def first_value(self, x: Any) -> Any:
        """Return the first value of each channel, or 0 where there is none."""
        if self.is_static and self.count:
            return x[(0,) * self.axis + (slice(None),) + (0,) * len(self.after)]
        values = x[(slice(1),) * self.axis + (slice(None),) + (slice(1),) * len(self.after)]
        return tf.reduce_sum(values, self.others)

    def subsample(self, x: Any) -> Any:
        """Return one in `SAMPLE` of the values of each channel or more, a few at least."""
        axes = self.others[:2]
        part, least = (SAMPLE, 16) if len(axes) == 1 else (math.isqrt(SAMPLE), 2)
        slices = [slice(None)] * len(x.shape)
        for axis in axes:
            size = -(-self.shape[axis] // part)
            slices[axis] = slice(max(size, least) if self.is_static else tf.maximum(size, least))
        return x[tuple(slices)]
