"""The arithmetic of `bn_tutorial.layers.BatchNormalization`.

The whole idea:

- `normalize_with` takes given moments: inference. `normalize_batch` takes those of the batch, and
  returns them: training.
- Every sum is one of `_sums`, good to all digits of the data, and what there is one of per channel
  is float64.
- Near zero σ² is the mean of x² less μ². Where |μ| is more than `NEAR`·σ, x² loses the digits of
  σ², and a constant K, the rounded mean, is subtracted first: μ(x) = K + μ(x − K), and σ² is the
  same. Replicas always do, for they cannot each decide.
- What a mask hides weighs 0 in every sum and in the gradient through the moments.
- The gradient is in closed form (Ioffe and Szegedy, 2015, section 3). All higher derivatives, and
  forward mode, are those of the plain formula in float64 (`_derivatives`).

Throughout, `layout` says where the channels are, and `path` which operations are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from ._affine import affine, affine_gradient
from ._derivatives import with_derivatives_of
from ._dispatch import Path
from ._layout import Layout
from ._sums import Sums, at_least_one, sums_of

# Up to |μ| = NEAR·σ the digits that μ takes from x are no more than what rounding does anyway.
NEAR = 3.0


class Normalized(NamedTuple):
    """The output, and the moments that the moving averages take with the number of values."""

    y: Any
    mean: Any
    variance: Any
    count: Any


class Moments(NamedTuple):
    """Mean and variance of ``count`` values of each channel, and ``part`` − ``rest`` = x − mean."""

    mean: Any
    variance: Any
    count: Any
    part: Any
    rest: Any


# Inference


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
    """Return ``x`` normalized by given moments, in its dtype."""

    def formula(*given: Any) -> Any:
        x, scale, offset, mean, variance = _in_dtype(tf.float64, *given)
        factor = scale * tf.math.rsqrt(variance + epsilon)
        return x * layout.broadcast(factor) + layout.broadcast(offset - mean * factor)

    def fast(x: Any, *given: Any) -> tuple[Any, Callable[[Any], Any]]:
        scale, offset, mean, variance = _in_dtype(x.dtype, *given)
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = scale * inverse
        near = False if path.in_float64 else tf.reduce_all(tf.abs(mean) * inverse < NEAR)

        def gradient(dy: Any) -> tuple[Any, ...]:
            center = tf.cast(mean, tf.float64)
            found = affine_gradient(layout, path, dy, x, center, factor, near)
            dx, dfactor, doffset = _in_dtype(x.dtype, *found)
            dvariance = -0.5 * dfactor * factor * tf.square(inverse)
            return dx, *_like(given, dfactor * inverse, doffset, -factor * doffset, dvariance)

        return (affine(layout, path, x, mean, factor, offset, near),), gradient

    given = (x, scale, offset, mean, variance)
    if path.in_float64 and tf.executing_eagerly():  # TensorFlow Lite, which takes graphs, has none
        return tf.cast(formula(*given), x.dtype)
    (y,) = with_derivatives_of(formula, fast)(*given)
    return y


# Training


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
    """Return ``x`` normalized by its own moments, in its dtype, and these, in float64.

    Parameters
    ----------
    mask
        As `Layout.expand_mask` returns it, or None: what is false does not count.
    all_reduce
        Function that returns the sum of a tensor over all replicas, or None: their moments are
        those of all their values together.
    """
    sums = sums_of(layout, path, mask, all_reduce)

    def formula(x: Any, scale: Any, offset: Any) -> Any:
        x, scale, offset = _in_dtype(tf.float64, x, scale, offset)
        mean, variance = _plain_moments(layout, sums, x)
        factor = scale * tf.math.rsqrt(variance + epsilon)
        return (x - layout.broadcast(mean)) * layout.broadcast(factor) + layout.broadcast(offset)

    def fast(x: Any, *given: Any) -> tuple[Any, Callable[[Any], Any]]:
        values = tf.cast(x, tf.float64) if path.in_float64 else x
        mean, variance, count, part, exact_rest = _moments(layout, path, sums, values, x.dtype)
        scale, offset, rest = _in_dtype(values.dtype, *given, exact_rest)
        inverse = tf.math.rsqrt(tf.cast(variance, values.dtype) + epsilon)
        factor = scale * inverse

        def gradient(dy: Any) -> tuple[Any, ...]:
            dy = tf.cast(dy, values.dtype)
            found = affine_gradient(layout, path, dy, part, exact_rest, factor)
            dx, dfactor, doffset = _in_dtype(dy.dtype, *found)
            dscale = dfactor * inverse
            total, stretch = _in_dtype(dy.dtype, *sums.agree(doffset, dscale))
            per_value = factor / tf.cast(at_least_one(count), dy.dtype)
            dx -= sums.weigh(
                affine(layout, path, part, rest, per_value * inverse * stretch, per_value * total)
            )
            return tf.cast(dx, x.dtype), *_like(given, dscale, doffset)

        y = tf.cast(affine(layout, path, part, rest, factor, offset), x.dtype)
        agreed = (count,) if sums.over_replicas else ()
        return (y, mean, variance, *agreed), gradient

    y, mean, variance, *agreed = with_derivatives_of(formula, fast)(x, scale, offset)
    return Normalized(y, mean, variance, agreed[0] if agreed else sums.count)


def _moments(layout: Layout, path: Path, sums: Sums, x: Any, dtype: Any) -> Moments:
    """Return the moments of what counts, here or over all replicas.

    ``dtype`` is that of the inputs, which ``x`` may have more digits than. Replicas take paths of
    their own, by the sizes that they have, and must subtract the same center on each.
    """
    total, count = sums.total(x), sums.count
    if sums.over_replicas:
        count = tf.broadcast_to(tf.cast(count, total.dtype), tf.shape(total))
        total, count = sums.agree(total, count)
    n = at_least_one(count)
    mean = total / n

    def from_center() -> tuple[Any, ...]:
        center = tf.cast(tf.cast(mean, dtype), x.dtype)
        part = x - layout.broadcast(center)
        rest, square = (total / n for total in sums.agree(sums.total(part), sums.squares(part)))
        variance = tf.maximum(square - tf.square(rest), 0)
        exact = tf.cast(center, mean.dtype) + rest
        return tf.where(tf.math.is_finite(exact), exact, mean), variance, part, rest

    if sums.over_replicas:
        mean, variance, part, rest = from_center()
    elif path.in_float64:
        part, rest = x - layout.broadcast(mean), tf.zeros_like(mean)
        variance = sums.squares(part) / n
    else:
        variance = sums.squares(x) / n - tf.square(mean)
        near = tf.reduce_all(
            (tf.square(mean) <= NEAR**2 * variance) & (variance < variance.dtype.max)
        )
        mean, variance, part, rest = tf.cond(near, lambda: (mean, variance, x, mean), from_center)
    return Moments(mean, variance, count, part, rest)


def _plain_moments(layout: Layout, sums: Sums, x: Any) -> tuple[Any, Any]:
    """Return mean and variance of float64 as they are defined."""

    def mean_of(values: Any) -> Any:
        total = tf.reduce_sum(sums.weigh(values), layout.others)
        return sums.agree(total)[0] / n

    n = at_least_one(sums.count)
    if sums.over_replicas:
        n = at_least_one(sums.agree(tf.cast(sums.count, tf.float64))[0])
    mean = mean_of(x)
    return mean, mean_of(tf.square(x - layout.broadcast(mean)))


def without_masked_nans(x: Any, mask: Any) -> Any:
    """Return ``x`` with 0 for masked values that are not a number, or whose squares overflow.

    What a gradient or a loss weighs with 0 must be finite.
    """
    limit = math.sqrt(x.dtype.max) / 2**15
    return tf.where(mask | (tf.abs(x) < limit), x, 0)


def _in_dtype(dtype: Any, *values: Any) -> list[Any]:
    return [tf.cast(value, dtype) for value in values]


def _like(given: Any, *values: Any) -> list[Any]:
    """Return each of the values in the dtype of what is given beside it."""
    return [tf.cast(value, like.dtype) for like, value in zip(given, values, strict=True)]
