"""The arithmetic of `bn_tutorial.layers.BatchNormalization`.

The whole idea:

- `normalize_with` takes given moments: inference. `normalize_batch` takes those of the batch, and
  returns them: training, by the fused kernel or by plain operations.
- Far from zero, x − μ and x² lose digits. So a constant K near the data, the *center*, is
  subtracted first: μ(x) = K + μ(x − K), and σ² is the same. Where data lie near zero, K is 0 and
  the pass over them is saved.
- σ² is the mean of (x − μ)², in a second pass. Only replicas, which agree in one message, take the
  mean of (x − K)² less the square of the mean of x − K.
- What a mask hides weighs 0 in every sum and in the gradient through the moments.
- The gradient is in closed form (Ioffe and Szegedy, 2015, section 3), and K a constant in it.
- All sums of half precision are float32.

Throughout, `layout` says where the channels are, and `path` which operations are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from ._dispatch import Path
from ._layout import Layout
from ._sums import Sums, at_least_one, channel_sum, sums_of

# Data lie far from zero where |mean| > FAR·√(variance + ε), in a sample.
FAR = 4.0
# Up to |μ|/σ = NEAR, x·s + (β − μ·s) is as good as (x − μ)·s + β, and takes one pass less.
NEAR = 64.0


class Normalized(NamedTuple):
    """The output, and the moments that the moving averages take with the number of values."""

    y: Any
    mean: Any
    variance: Any
    count: Any


class Moments(NamedTuple):
    """Mean and variance of each channel, and ``part`` − ``rest`` = x − mean.

    Of a mean that was found here, all is subtracted: ``rest`` is 0. Of one that replicas agreed on,
    nothing is, which saves a pass over the data.
    """

    mean: Any
    variance: Any
    part: Any
    rest: Any


def normalize_with(
    layout: Layout,
    path: Path,
    x: Any,
    scale: Any,
    offset: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
) -> Any:
    """Return ``x`` normalized by given moments."""
    if path.use_fused:
        return _fused_kernel(layout, x, scale, offset, (mean, variance), epsilon)[0]
    inverse = tf.math.rsqrt(variance + epsilon)
    factor = scale * inverse

    def near_zero() -> Any:
        return x * layout.broadcast(factor) + layout.broadcast(offset - mean * factor)

    def anywhere() -> Any:
        return (x - layout.broadcast(mean)) * layout.broadcast(factor) + layout.broadcast(offset)

    if x.dtype == tf.float64:
        return near_zero()
    if not path.look_first:
        return anywhere()
    return tf.cond(tf.reduce_all(tf.abs(mean) * inverse < NEAR), near_zero, anywhere)


def normalize_batch(
    layout: Layout,
    path: Path,
    x: Any,
    scale: Any,
    offset: Any,
    epsilon: float,
    mask: Any = None,
    all_reduce: Callable[[Any], Any] | None = None,
) -> Normalized:
    """Return ``x`` normalized by its own moments, and these.

    Parameters
    ----------
    mask
        As `Layout.expand_mask` returns it, or None: what is false does not count.
    all_reduce
        Function that returns the sum of a tensor over all replicas, or None: their moments are
        those of all their values together.
    """
    if path.use_fused:
        return _normalize_fused(layout, path, x, scale, offset, epsilon)
    if mask is not None:
        x = without_masked_nans(path, x, mask)
    sums = sums_of(layout, path, mask, all_reduce, x.dtype)
    if path.center_if_far:
        x, center = _centered_if_far(layout, x, epsilon)
        count = sums.count
    else:
        center, count = _center_of(layout, path, tf.stop_gradient(x), sums, mask)
        x = x - layout.broadcast(center)
    moments = _agreed_moments if sums.over_replicas else _own_moments
    normalize = _with_gradient(layout, path, sums, moments, at_least_one(count), epsilon)
    y, mean, variance = normalize(x, scale, offset)
    return Normalized(y, center + mean, variance, count)


def without_masked_nans(path: Path, x: Any, mask: Any) -> Any:
    """Return ``x`` with 0 for masked values that are not a number, or whose squares overflow.

    What weighs 0 in a sum must be finite, its square and the sum of many such squares as well.
    """
    limit = math.sqrt(x.dtype.max) / 2**15

    def cleaned() -> Any:
        return tf.where(mask | (tf.abs(x) < limit), x, 0)

    if not path.look_first:
        return cleaned()
    return tf.cond(tf.nn.l2_loss(x) < limit**2 / 2, lambda: x, cleaned)


# The center


def _center_of(layout: Layout, path: Path, x: Any, sums: Sums, mask: Any) -> tuple[Any, Any]:
    """Return a center for ``x``, and how many values each channel has; replicas agree on both."""
    center = _own_center(layout, path, x, sums, mask)
    if not sums.over_replicas:
        return center, sums.count
    count = tf.broadcast_to(tf.convert_to_tensor(sums.count, x.dtype), center.shape)
    total, count = sums.agree(tf.math.multiply_no_nan(center, count), count)
    return total / at_least_one(count), count


def _own_center(layout: Layout, path: Path, x: Any, sums: Sums, mask: Any) -> Any:
    """Return a value near those of ``x`` that count."""
    if mask is None and not sums.over_replicas:
        return layout.first_value(x)
    if mask is None:
        return tf.reduce_mean(layout.subsample(x), layout.others)
    if path.xla:
        # A value of x: XLA may compute a mean anew for each use of x − K, and round it otherwise.
        largest = tf.reduce_max(tf.where(mask, x, x.dtype.min), layout.others)
        return tf.where(largest > x.dtype.min, largest, 0)
    return sums.total(x) / at_least_one(sums.count)


def _centered_if_far(layout: Layout, x: Any, epsilon: float) -> tuple[Any, Any]:
    """Return ``x`` − K and K, where K is 0 in channels of which a sample is not far from zero.

    The mean of any m of n values is within σ·√(n/m − 1) of the mean of all. So the mean of the
    result is below 16·σ if K is not 0, else below 16·(1 + FAR)·√(σ² + ε), whatever the data are.
    """
    sample = tf.stop_gradient(layout.subsample(x))
    sample = sample if sample.dtype == tf.float64 else tf.cast(sample, tf.float32)
    mean, variance = tf.nn.moments(sample, layout.others)
    # In half precision x − K is exact if all x are near K; the sums are float32 and bear more.
    limit = FAR if x.dtype == sample.dtype else 4 * FAR
    far = tf.square(mean) > limit**2 * (variance + epsilon)
    center = tf.cast(tf.where(far, mean, 0), x.dtype)
    centered = tf.cond(tf.reduce_any(far), lambda: x - layout.broadcast(center), lambda: x)
    return centered, center


# The moments of what is centered


def _own_moments(layout: Layout, sums: Sums, x: Any, n: Any) -> Moments:
    """Return the moments in two passes."""
    mean = sums.total(x) / n
    deviations = x - layout.broadcast(mean)
    variance = sums.total(tf.square(deviations)) / n
    return Moments(mean, variance, deviations, tf.zeros_like(mean))


def _agreed_moments(layout: Layout, sums: Sums, x: Any, n: Any) -> Moments:
    """Return the moments of all replicas' values together, for one message."""
    total, squares = sums.agree(sums.total(x), sums.total(tf.square(x)))
    mean = total / n
    variance = tf.maximum(squares / n - tf.square(mean), 0)
    return Moments(mean, variance, x, mean)


# Plain operations


def _with_gradient(
    layout: Layout,
    path: Path,
    sums: Sums,
    moments_of: Callable[[Layout, Sums, Any, Any], Moments],
    n: Any,
    epsilon: float,
) -> Any:
    """Return the function of x, scale and offset that normalizes, with its gradient."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalize(x: Any, scale: Any, offset: Any) -> Any:
        mean, variance, part, rest = moments_of(layout, sums, x, n)
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = scale * inverse
        y = part * layout.broadcast(factor) + layout.broadcast(offset - rest * factor)

        def gradient(dy: Any, *_: Any) -> tuple[Any, Any, Any]:
            doffset = channel_sum(layout, path, dy)
            dscale = (channel_sum(layout, path, dy * part) - rest * doffset) * inverse
            total, stretch = sums.agree(doffset, dscale)
            slope = stretch * inverse / n
            level = total / n - rest * slope
            through_moments = part * layout.broadcast(slope) + layout.broadcast(level)
            dx = (dy - sums.weigh(through_moments)) * layout.broadcast(factor)
            return dx, dscale, doffset

        return (y, mean, variance), gradient

    return normalize


# The fused kernel


def _normalize_fused(
    layout: Layout, path: Path, x: Any, scale: Any, offset: Any, epsilon: float
) -> Normalized:
    """Normalize with TensorFlow's fused kernel, whose gradient is fused as well.

    The kernel's sums lose digits far from zero, so it is given centered data there.
    """
    if path.center_if_far or x.dtype != tf.float32:
        x, center = _centered_if_far(layout, x, epsilon)
    else:
        center = tf.stop_gradient(layout.first_value(x))
        x = x - layout.broadcast(center)
    y, mean, variance = _fused_kernel(layout, x, scale, offset, None, epsilon)
    # The kernel returns Σ(x − μ)²/(n − 1), or NaN if that is 0/0.
    n = at_least_one(layout.count)
    variance = tf.math.multiply_no_nan(variance, (n - 1) / n)
    return Normalized(y, tf.cast(center, mean.dtype) + mean, variance, layout.count)


def _fused_kernel(
    layout: Layout,
    x: Any,
    scale: Any,
    offset: Any,
    moments: tuple[Any, Any] | None,
    epsilon: float,
) -> tuple[Any, Any, Any]:
    """Call TensorFlow's fused kernel: with given moments, or with its own, which it returns."""
    mean, variance = moments or [tf.zeros([0], scale.dtype)] * 2
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, layout.image) if layout.image else x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format="NHWC" if layout.channels_last else "NCHW",
        is_training=moments is None,
    )
    return tf.reshape(y, layout.shape) if layout.image else y, mean, variance
