"""Where a tensor has its channels, and what is known of its sizes."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import tensorflow as tf


class Layout:
    """The axes and sizes of ``x``, as Python numbers where they are known in advance.

    Parameters
    ----------
    x
        Tensor of known rank, and of known size along ``axis``.
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
        self.known = known
        self.is_static = None not in known
        self.shape = known if self.is_static else tf.shape(x)

    @cached_property
    def count(self) -> Any:
        """How many values each channel has: a float, or a scalar tensor of float64."""
        sizes = [self.shape[i] for i in self.others]
        if self.is_static:
            return float(math.prod(sizes))
        return tf.reduce_prod(tf.cast(tf.stack(sizes), tf.float64))

    @cached_property
    def known_before(self) -> int:
        """The product of the sizes before the channels that are known."""
        return math.prod(1 if size is None else size for size in self.known[: self.axis])

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
