r"""Batch normalization in NumPy: the textbook reference, written to be read.

For each channel, over the m values that a batch gives it (Ioffe and Szegedy, 2015, Algorithm 1):

.. math::

   \mu = \frac1m \sum_i x_i, \qquad
   \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, \qquad
   \hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
   y_i = \gamma \hat x_i + \beta

Conventions that all functions share:

- ``x`` has rank 2 or more. ``axis`` is its channel axis (as in Keras), and statistics are taken
  over all the others: a dense input (batch, features) has one pair of statistics a feature, an
  image batch (batch, height, width, channels) one pair a channel.
- ``gamma``, ``beta``, means and variances have shape (channels,).
- Whatever the dtype of ``x``, the computation runs in float64 and is rounded once, to the dtype
  of ``x`` (float64 for integers). Statistics stay in float64: a variance of float16 data need
  not fit into float16.
- ``TypeError`` is raised for data that are not real numbers; ``ValueError`` for an empty batch,
  an axis out of range, parameters that do not have one value a channel, ``epsilon`` ≤ 0 or a
  negative variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_float, check_epsilon, mean_over

__all__ = [
    "BatchNormCache",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "fold_weights",
    "inference_affine",
    "moments",
]


@dataclass(frozen=True, eq=False)
class BatchNormCache:
    """What the forward pass leaves for those who come after it.

    The moving averages need ``mean`` and ``variance`` (biased), and a backward pass needs the rest
    too. ``x_hat`` is the normalized batch, of the shape of ``x``; ``mean``, ``variance`` and
    ``gamma`` have shape (channels,). All arrays are float64, and ``axis`` is 0 or more.
    """

    x_hat: Array
    mean: Array
    variance: Array
    gamma: Array
    axis: int
    epsilon: float


def moments(x: ArrayLike, *, axis: int = -1) -> tuple[Array, Array]:
    r"""Mean and biased variance of each channel, in two passes.

    .. math:: \mu = \frac1m \sum_i x_i, \qquad \sigma^2 = \frac1m \sum_i (x_i - \mu)^2

    The second pass subtracts the mean before it squares. The shorter
    :math:`\mathrm{E}[x^2] - \mathrm{E}[x]^2` loses all digits far from zero (Chan, Golub and
    LeVeque, 1983).

    Parameters
    ----------
    x
        Array of rank 2 or more.
    axis
        The channel axis, the one that is kept.

    Returns
    -------
    mean, variance
        Float64 arrays of shape (channels,).
    """
    x, _ = as_float(x, "x")
    axis = _channel_axis(x, axis)
    others = tuple(i for i in range(x.ndim) if i != axis)
    if 0 in (x.shape[i] for i in others):
        raise ValueError(f"an empty batch has no mean: x has shape {x.shape}")
    mean = mean_over(x, others)
    variance = np.mean((x - _along(mean, x, axis)) ** 2, axis=others)
    return mean, variance


def batch_norm_forward(
    x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, *, axis: int = -1, epsilon: float = 1e-3
) -> tuple[Array, BatchNormCache]:
    r"""Normalize a batch with its own statistics: training mode.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Parameters
    ----------
    x
        Array of rank 2 or more.
    gamma, beta
        Arrays of shape (channels,), the learned scale and offset.
    axis
        The channel axis.
    epsilon
        Added to the variance, above 0; a constant channel comes out as ``beta``.

    Returns
    -------
    y
        Array of the shape and dtype of ``x``.
    cache
        The statistics and the normalized batch, see `BatchNormCache`.
    """
    check_epsilon(epsilon)
    x, dtype = as_float(x, "x")
    axis = _channel_axis(x, axis)
    gamma = _channel_values(gamma, "gamma", x, axis)
    beta = _channel_values(beta, "beta", x, axis)

    mean, variance = moments(x, axis=axis)
    x_hat = (x - _along(mean, x, axis)) / _along(np.sqrt(variance + epsilon), x, axis)
    y = _along(gamma, x, axis) * x_hat + _along(beta, x, axis)

    return y.astype(dtype), BatchNormCache(x_hat, mean, variance, gamma, axis, epsilon)


def batch_norm_backward(dy: ArrayLike, cache: BatchNormCache) -> tuple[Array, Array, Array]:
    r"""Carry a gradient back through `batch_norm_forward`, through mean and variance too.

    With :math:`d_i = \partial L / \partial y_i`, in each channel:

    .. math::

       \frac{\partial L}{\partial \beta} = \sum_i d_i, \qquad
       \frac{\partial L}{\partial \gamma} = \sum_i d_i \hat x_i, \qquad
       \frac{\partial L}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
           \left(d_i - \frac1m \sum_j d_j - \hat x_i \, \frac1m \sum_j d_j \hat x_j\right)

    The chain rule of Ioffe and Szegedy (2015, section 3) with all its steps put into one another.
    In each channel ``dx`` sums to 0, and its product with ``x_hat`` is
    ``gamma * dgamma * epsilon / (variance + epsilon) ** 1.5``: nearly 0 as well.

    Parameters
    ----------
    dy
        The gradient of the loss with respect to the output, of the shape of that output. An array
        of ones is a poor test: ``dx`` and ``dgamma`` are then 0 whatever the batch.
    cache
        What `batch_norm_forward` returned beside the output.

    Returns
    -------
    dx
        The gradient with respect to the input, of the shape and dtype of ``dy``.
    dgamma, dbeta
        The gradients with respect to scale and offset, float64 arrays of shape (channels,): a sum
        over a batch of float16 need not fit into float16.

    Raises
    ------
    TypeError
        If ``dy`` does not hold real numbers.
    ValueError
        If ``dy`` has another shape than the output of the forward pass.
    """
    dy, dtype = as_float(dy, "dy")
    x_hat, axis = cache.x_hat, cache.axis
    if dy.shape != x_hat.shape:
        raise ValueError(
            f"dy must have the shape of the output of the forward pass, {x_hat.shape}, "
            f"got {dy.shape}"
        )
    others = tuple(i for i in range(dy.ndim) if i != axis)
    m = math.prod(dy.shape[i] for i in others)

    dbeta = np.sum(dy, axis=others)
    dgamma = np.sum(dy * x_hat, axis=others)

    scale = cache.gamma / np.sqrt(cache.variance + cache.epsilon)
    common = _along(dbeta / m, dy, axis)
    stretch = _along(dgamma / m, dy, axis) * x_hat
    dx = _along(scale, dy, axis) * (dy - common - stretch)

    return dx.astype(dtype), dgamma, dbeta


def batch_norm_inference(
    x: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    axis: int = -1,
    epsilon: float = 1e-3,
) -> Array:
    r"""Normalize with statistics that were gathered before: inference mode.

    .. math::

       y = \gamma\,\frac{x - \mu_{\text{moving}}}
           {\sqrt{\sigma^2_{\text{moving}} + \epsilon}} + \beta

    An example's output depends on that example alone, so the batch may be of any size, also 0.

    Parameters
    ----------
    x
        Array of rank 2 or more.
    gamma, beta, moving_mean, moving_variance
        Arrays of shape (channels,).
    axis
        The channel axis.
    epsilon
        Added to the variance, above 0; the one that training used.

    Returns
    -------
    y
        Array of the shape and dtype of ``x``.
    """
    check_epsilon(epsilon)
    x, dtype = as_float(x, "x")
    axis = _channel_axis(x, axis)
    gamma = _channel_values(gamma, "gamma", x, axis)
    beta = _channel_values(beta, "beta", x, axis)
    mean = _channel_values(moving_mean, "moving_mean", x, axis)
    variance = _variance(_channel_values(moving_variance, "moving_variance", x, axis))

    x_hat = (x - _along(mean, x, axis)) / _along(np.sqrt(variance + epsilon), x, axis)
    y = _along(gamma, x, axis) * x_hat + _along(beta, x, axis)

    return y.astype(dtype)


def inference_affine(
    gamma: ArrayLike,
    beta: ArrayLike,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    epsilon: float = 1e-3,
) -> tuple[Array, Array]:
    r"""The one affine map that inference mode is: ``y = scale * x + shift`` in each channel.

    .. math::

       \text{scale} = \frac{\gamma}{\sqrt{\sigma^2_{\text{moving}} + \epsilon}}, \qquad
       \text{shift} = \beta - \text{scale}\cdot\mu_{\text{moving}}

    Parameters
    ----------
    gamma, beta, moving_mean, moving_variance
        Arrays of shape (channels,).
    epsilon
        Added to the variance, above 0.

    Returns
    -------
    scale, shift
        Float64 arrays of shape (channels,).
    """
    check_epsilon(epsilon)
    values = {
        name: as_float(value, name)[0]
        for name, value in {
            "gamma": gamma,
            "beta": beta,
            "moving_mean": moving_mean,
            "moving_variance": moving_variance,
        }.items()
    }
    shapes = {name: value.shape for name, value in values.items()}
    if len(set(shapes.values())) != 1 or values["gamma"].ndim != 1:
        raise ValueError(f"all four parameters must have the same shape (channels,), got {shapes}")
    scale = values["gamma"] / np.sqrt(_variance(values["moving_variance"]) + epsilon)
    return scale, values["beta"] - scale * values["moving_mean"]


def fold_weights(
    kernel: ArrayLike,
    bias: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    epsilon: float = 1e-3,
) -> tuple[Array, Array]:
    r"""Fold inference mode into the dense or convolution layer before it.

    .. math:: \text{kernel}' = \text{scale}\cdot\text{kernel}, \qquad
              \text{bias}' = \text{scale}\cdot\text{bias} + \text{shift}

    with scale and shift from `inference_affine`. The new layer alone computes what the layer and
    its batch normalization computed together.

    Parameters
    ----------
    kernel
        Array whose last axis is the output channels: (inputs, channels) for a dense layer,
        (height, width, inputs, channels) for a convolution.
    bias
        Array of shape (channels,); zeros where the layer has none.
    gamma, beta, moving_mean, moving_variance
        Arrays of shape (channels,).
    epsilon
        Added to the variance, above 0.

    Returns
    -------
    kernel, bias
        Arrays of the shapes and dtypes of those passed.
    """
    scale, shift = inference_affine(gamma, beta, moving_mean, moving_variance, epsilon=epsilon)
    kernel, kernel_dtype = as_float(kernel, "kernel")
    bias, bias_dtype = as_float(bias, "bias")
    if kernel.ndim < 2 or kernel.shape[-1:] != scale.shape or bias.shape != scale.shape:
        raise ValueError(
            f"kernel must have shape (..., {scale.size}) and bias ({scale.size},) for "
            f"{scale.size} channels, got {kernel.shape} and {bias.shape}"
        )
    return (scale * kernel).astype(kernel_dtype), (scale * bias + shift).astype(bias_dtype)


def _channel_axis(x: Array, axis: int) -> int:
    """Return the channel axis counted from the front."""
    if x.ndim < 2:
        raise ValueError(f"x needs a batch axis and a channel axis, got shape {x.shape}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis must lie in [{-x.ndim}, {x.ndim - 1}] for x of shape {x.shape}, got {axis}"
        )
    return axis % x.ndim


def _channel_values(values: ArrayLike, name: str, x: Array, axis: int) -> Array:
    """Return ``values`` as one float a channel of ``x``."""
    array, _ = as_float(values, name)
    if array.shape != (x.shape[axis],):
        raise ValueError(
            f"{name} must have shape ({x.shape[axis]},), one value a channel of x "
            f"(shape {x.shape}, axis {axis}), got {array.shape}"
        )
    return array


def _variance(variance: Array) -> Array:
    if (variance < 0).any():
        raise ValueError(f"a variance cannot be negative, got {variance.min()}")
    return variance


def _along(values: Array, x: Array, axis: int) -> Array:
    """Shape one value a channel so that it broadcasts against ``x``."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)
