"""How `layers.BatchNormalization` computes: moments, output and gradient, wherever the channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

# From LARGE elements on, what the fused kernel saves outweighs what it takes to start it; from HUGE
# on, what one pass over the data takes outweighs a look at a sample.
LARGE = 2**17
HUGE = 2**20
# What a batch of unknown size is taken for.
LIKELY_BATCH = 128
# Data lie far from zero where |mean| > FAR·√(variance + ε), in a sample of one in SAMPLE of them.
SAMPLE = 256
FAR = 4.0
# Up to |μ|/σ = NEAR, x·s + (β − μ·s) is as good as (x − μ)·s + β, and takes one pass less.
NEAR = 64.0


class Normalized(NamedTuple):
    """The output, and the moments that the moving averages take with the number of values."""

    y: Any
    mean: Any
    variance: Any
    count: Any


class Layout:
    """Where ``x`` has its channels, how many values each has, and what is fast there.

    Parameters
    ----------
    x
        Tensor of float16, bfloat16, float32 or float64.
    axis
        Axis of the channels, not negative.
    """

    def __init__(self, x: Any, axis: int) -> None:
        sizes = x.shape.as_list()
        self.axis = axis
        self.channels: int = sizes[axis]
        self.before = list(range(axis))
        self.after = list(range(axis + 1, len(sizes)))
        self.last = not self.after

        eager = tf.executing_eagerly()
        # A function traced with jit_compile=True, or for a TPU.
        self.xla = not eager and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        size = math.prod(LIKELY_BATCH if n is None else n for n in sizes)
        self.large = size >= LARGE and not self.xla
        self.huge = size >= HUGE
        # On a CPU the fused kernel transposes what does not have its channels last. An eager
        # operation costs so much by itself that the kernel is worth it in training anyway.
        fast = (self.large and self.last) or bool(tf.config.get_visible_devices("GPU"))
        fusible = x.dtype != tf.float64 and not self.xla
        self.fused = fusible and fast
        self.fused_training = fusible and (fast or (eager and (self.last or not self.large)))

        # Python numbers where they are known in advance.
        self.static = None not in sizes
        self.shape = sizes if self.static else tf.shape(x)
        if not self.static:
            sizes = [self.shape[i] if n is None else n for i, n in enumerate(sizes)]
        self.count: Any = math.prod(n for i, n in enumerate(sizes) if i != axis)
        self.count = (
            float(self.count)
            if self.static
            else tf.cast(self.count, tf.float64 if x.dtype == tf.float64 else tf.float32)
        )
        # What the fused kernel takes: images, with as many dimensions in front as there are.
        if self.last:
            self.image = [sizes[0], math.prod(sizes[1:axis]), 1, self.channels]
        else:
            self.image = [
                math.prod(sizes[:axis]),
                self.channels,
                sizes[axis + 1],
                math.prod(sizes[axis + 2 :]),
            ]
        if len(sizes) == 4 and axis in (1, 3):
            self.image = []

    def spread(self, vector: Any) -> Any:
        """Return a vector of channels in a shape that broadcasts with ``x``."""
        return tf.reshape(vector, [self.channels] + [1] * len(self.after)) if self.after else vector

    def mask(self, mask: Any) -> Any:
        """Return a mask of all dimensions but the last in a shape that `sum` counts right."""
        mask = tf.cast(mask, tf.bool)[..., tf.newaxis]
        if not self.last:
            return tf.broadcast_to(mask, self.shape)
        if self.static and mask.shape[:-1] == self.shape[:-1]:
            return mask
        return tf.broadcast_to(mask, tf.concat([self.shape[:-1], [1]], 0))

    def sum(self, x: Any) -> Any:
        """Sum over all but the channels."""
        if self.last:
            if not self.xla:
                return tf.raw_ops.BiasAddGrad(out_backprop=x)  # reduce_sum, faster
            if self.huge and self.static:
                # XLA sums the columns of an expression slowly, and multiplies matrices fast.
                x = tf.reshape(x, [-1, self.channels])
                return tf.linalg.matvec(x, tf.ones(x.shape[:1], x.dtype), transpose_a=True)
        elif not self.xla:
            x = tf.reduce_sum(x, self.after)
            return tf.reduce_sum(x, self.before) if self.before else x
        return tf.reduce_sum(x, self.before + self.after)

    def first(self, x: Any) -> Any:
        """Return one value of each channel, or 0 if there is none."""
        if self.static and self.count:
            value = x[(0,) * self.axis + (slice(None),) + (0,) * len(self.after)]
        else:
            value = x[(slice(1),) * self.axis + (slice(None),) + (slice(1),) * len(self.after)]
            value = tf.reduce_sum(value, self.before + self.after)
        return tf.stop_gradient(value)

    def sample(self, x: Any) -> Any:
        """Return one in SAMPLE of the values of each channel or more, a few at least."""
        axes = (self.before + self.after)[:2]
        part, least = (SAMPLE, 16) if len(axes) == 1 else (math.isqrt(SAMPLE), 2)
        slices = [slice(None)] * len(x.shape)
        for axis in axes:
            size = -(-self.shape[axis] // part)
            slices[axis] = slice(max(size, least) if self.static else tf.maximum(size, least))
        return x[tuple(slices)]


def at_least_one(count: Any) -> Any:
    """Return a count to divide by."""
    return max(count, 1.0) if isinstance(count, float) else tf.maximum(count, 1)


def shift_if_far(layout: Layout, x: Any, epsilon: float) -> tuple[Any, Any]:
    """Return ``x`` − K and K, where K is 0 in channels of which a sample is not far from zero.

    The mean of any m of n values is within σ·√(n/m − 1) of the mean of all. So the mean of the
    result is below 16·σ if K is not 0, else below 16·(1 + FAR)·√(σ² + ε), whatever the data are.
    """
    sample = tf.stop_gradient(layout.sample(x))
    sample = sample if sample.dtype == tf.float64 else tf.cast(sample, tf.float32)
    mean, variance = tf.nn.moments(sample, layout.before + layout.after)
    # In half precision x − K is exact if all x are near K; the sums are float32 and bear more.
    limit = FAR if x.dtype == sample.dtype else 4 * FAR
    far = tf.square(mean) > limit**2 * (variance + epsilon)
    constant = tf.cast(tf.where(far, mean, 0), x.dtype)
    shifted = tf.cond(tf.reduce_any(far), lambda: x - layout.spread(constant), lambda: x)
    return shifted, constant


def clean(layout: Layout, x: Any, mask: Any) -> Any:
    """Return ``x`` with 0 for masked values that are not a number, or whose squares overflow.

    What weighs 0 in a sum must be finite, its square and the sum of many such squares as well.
    """
    limit = math.sqrt(x.dtype.max) / 2**15

    def cleaned() -> Any:
        return tf.where(mask | (tf.abs(x) < limit), x, 0)

    if not layout.large:
        return cleaned()
    return tf.cond(tf.nn.l2_loss(x) < limit**2 / 2, lambda: x, cleaned)


def fused_kernel(
    layout: Layout,
    x: Any,
    scale: Any,
    shift: Any,
    moments: tuple[Any, Any] | None,
    epsilon: float,
) -> tuple[Any, Any, Any]:
    """Call TensorFlow's fused kernel: with given moments, or with its own, which it returns."""
    mean, variance = moments or [tf.zeros([0], scale.dtype)] * 2
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, layout.image) if layout.image else x,
        scale=scale,
        offset=shift,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format="NHWC" if layout.last else "NCHW",
        is_training=moments is None,
    )
    return tf.reshape(y, layout.shape) if layout.image else y, mean, variance


def infer(
    layout: Layout, x: Any, scale: Any, shift: Any, mean: Any, variance: Any, epsilon: float
) -> Any:
    """Normalize ``x`` by given moments."""
    if layout.fused:
        return fused_kernel(layout, x, scale, shift, (mean, variance), epsilon)[0]
    inverse = tf.math.rsqrt(variance + epsilon)
    factor = scale * inverse

    def near() -> Any:
        return x * layout.spread(factor) + layout.spread(shift - mean * factor)

    def anywhere() -> Any:
        return (x - layout.spread(mean)) * layout.spread(factor) + layout.spread(shift)

    if x.dtype == tf.float64:
        return near()
    if not layout.large:
        return anywhere()
    return tf.cond(tf.reduce_all(tf.abs(mean) * inverse < NEAR), near, anywhere)


def fused(layout: Layout, x: Any, scale: Any, shift: Any, epsilon: float) -> Normalized:
    """Normalize with TensorFlow's fused kernel and its gradient.

    The kernel's sums lose digits far from zero, so it is given shifted data there.
    """
    if layout.huge or x.dtype != tf.float32:
        x, constant = shift_if_far(layout, x, epsilon)
    else:
        constant = layout.first(x)
        x = x - layout.spread(constant)
    y, mean, variance = fused_kernel(layout, x, scale, shift, None, epsilon)
    # The kernel returns Σ(x − μ)²/(n − 1), or NaN if that is 0/0.
    n = at_least_one(layout.count)
    variance = tf.math.multiply_no_nan(variance, (n - 1) / n)
    return Normalized(y, tf.cast(constant, mean.dtype) + mean, variance, layout.count)


def train(
    layout: Layout,
    x: Any,
    scale: Any,
    shift: Any,
    epsilon: float,
    mask: Any = None,
    all_reduce: Callable[[Any], Any] | None = None,
) -> Normalized:
    """Normalize ``x`` by its own moments: with the fused kernel where it suits, else without.

    The plain operations have their gradient in closed form. Their moments are those of shifted
    data, so that the sums lose no digits far from zero.
    """
    if layout.fused_training and mask is None and all_reduce is None:
        return fused(layout, x, scale, shift, epsilon)
    count = layout.count
    if mask is not None:
        x = clean(layout, x, mask)
        weights = tf.cast(mask, x.dtype)
        count = tf.reduce_sum(weights) if layout.last else layout.sum(weights)

    def total(values: Any) -> Any:
        if mask is None:
            return layout.sum(values)
        if layout.last and layout.large:
            rows = tf.reshape(values, [-1, layout.channels])
            return tf.reshape(tf.matmul(tf.reshape(weights, [1, -1]), rows), [-1])
        return layout.sum(values * weights)

    if mask is None and all_reduce is None and layout.huge and not layout.xla:
        shifted, constant = shift_if_far(layout, x, epsilon)
    else:
        if mask is not None and layout.xla:
            # A value of x: XLA may compute a mean anew for each use of x − K, and round it
            # otherwise.
            constant = tf.reduce_max(tf.where(mask, x, x.dtype.min), layout.before + layout.after)
            constant = tf.where(constant > x.dtype.min, constant, 0)
        elif mask is not None:
            constant = total(tf.stop_gradient(x)) / at_least_one(count)
        elif all_reduce is not None:
            constant = tf.reduce_mean(layout.sample(x), layout.before + layout.after)
        else:
            constant = layout.first(x)
        if all_reduce is not None:
            count = tf.broadcast_to(tf.convert_to_tensor(count, x.dtype), constant.shape)
            constant = tf.math.multiply_no_nan(constant, count)
            constant, count = tf.unstack(all_reduce(tf.stack([constant, count])))
            constant = constant / at_least_one(count)
        constant = tf.stop_gradient(constant)
        shifted = x - layout.spread(constant)
    n = at_least_one(count)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalize(x: Any, scale: Any, shift: Any) -> Any:
        if all_reduce is None:
            mean = total(x) / n
            centered = x - layout.spread(mean)
            variance = total(tf.square(centered)) / n
            offset = tf.zeros_like(mean)
        else:  # one message for both
            sums = tf.stack([total(x), total(tf.square(x))])
            mean, squares = tf.unstack(all_reduce(sums) / n)
            centered, offset = x, mean
            variance = tf.maximum(squares - tf.square(mean), 0)
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = scale * inverse
        y = centered * layout.spread(factor) + layout.spread(shift - offset * factor)

        def gradient(dy: Any, *_: Any) -> tuple[Any, Any, Any]:
            dshift = layout.sum(dy)
            dscale = (layout.sum(dy * centered) - offset * dshift) * inverse
            sums = dshift, dscale
            if all_reduce is not None:
                sums = tf.unstack(all_reduce(tf.stack(sums)))
            slope = sums[1] * inverse / n
            level = sums[0] / n - offset * slope
            through_moments = centered * layout.spread(slope) + layout.spread(level)
            if mask is not None:
                through_moments = through_moments * weights
            return (dy - through_moments) * layout.spread(factor), dscale, dshift

        return (y, mean, variance), gradient

    y, mean, variance = normalize(shifted, scale, shift)
    return Normalized(y, constant + mean, variance, count)
