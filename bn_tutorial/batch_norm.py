r"""Batch normalization in NumPy: the textbook reference, written to be read.

Per channel, over the m values that it has in a batch (Ioffe and Szegedy, 2015, Algorithm 1):

.. math::

   \mu = \frac1m \sum_i x_i, \qquad
   \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, \qquad
   \hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
   y_i = \gamma \hat x_i + \beta

Conventions that all functions share:

- ``x`` has rank 2 or more. ``axis`` is its channel axis (as in Keras), and statistics are taken
  over all the others: a dense input (batch, features) has one pair of statistics per feature,
  an image batch (batch, height, width, channels) one pair per channel.
- ``gamma``, ``beta``, means and variances have shape (channels,).
- Whatever the dtype of ``x``, the computation runs in float64 and is rounded once, to the dtype
  of ``x`` (float64 for integers). Statistics stay in float64: a variance of float16 data need
  not fit into float16.
- ``TypeError`` is raised for data that are not real numbers, or masked; ``ValueError`` for an
  empty batch, an axis out of range, parameters that do not have one value per channel,
  ``epsilon`` ≤ 0 or a negative variance.
- NaN and infinity spoil their channel, and no other one. So do float64 values beyond some 10¹⁵⁴:
  their squares overflow, of which NumPy warns, and with an infinite variance ``y`` is ``beta``.
- An empty batch has no statistics. TensorFlow's fused kernel returns an empty output for it, with
  NaN for mean and variance, which moving averages would keep for good; here it is an error.
  Inference mode, which needs none, takes empty batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ._checks import (
    Array,
    as_float,
    batch_axes,
    channel_axis,
    channel_values,
    check_epsilon,
    check_not_empty,
    check_variance,
    mean_over,
)

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
    """What the forward pass keeps for the moving averages and for the backward pass.

    The moving averages need ``mean`` and ``variance`` (biased), and a backward pass needs the rest
    too. ``x_hat`` is the normalized batch, of the shape of ``x``; ``mean``, ``variance`` and
    ``gamma`` have shape (channels,). All arrays are float64, and ``axis`` is 0 or more.

    Examples
    --------
    >>> from bn_tutorial.batch_norm import batch_norm_forward
    >>> y, cache = batch_norm_forward([[1.0], [2.0], [6.0]], gamma=[2.0], beta=[5.0])
    >>> cache.x_hat.round(3)
    array([[-0.926],
           [-0.463],
           [ 1.389]])
    >>> bool((y == cache.gamma * cache.x_hat + 5.0).all())
    True
    """

    x_hat: Array
    mean: Array
    variance: Array
    gamma: Array
    axis: int
    epsilon: float


def moments(x: ArrayLike, *, axis: int = -1) -> tuple[Array, Array]:
    r"""Mean and biased variance per channel, in two passes.

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

    Examples
    --------
    >>> from bn_tutorial.batch_norm import moments
    >>> moments([[1.0, 10.0], [3.0, 10.0], [3.0, 30.0], [9.0, 30.0]])
    (array([ 4., 20.]), array([  9., 100.]))
    """
    x, _ = as_float(x, "x")
    axis = channel_axis(x, axis)
    check_not_empty(x, axis)
    axes = batch_axes(x, axis)
    mean = mean_over(x, axes)
    variance = np.mean((x - _align(mean, x, axis)) ** 2, axis=axes)
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

    Examples
    --------
    >>> from bn_tutorial.batch_norm import batch_norm_forward
    >>> y, cache = batch_norm_forward([[1.0], [2.0], [6.0]], gamma=[2.0], beta=[5.0])
    >>> y.round(3)
    array([[3.149],
           [4.074],
           [7.777]])
    >>> cache.mean, cache.variance.round(3)
    (array([3.]), array([4.667]))
    """
    check_epsilon(epsilon)
    x, dtype = as_float(x, "x")
    axis = channel_axis(x, axis)
    gamma = channel_values(gamma, "gamma", x, axis)
    beta = channel_values(beta, "beta", x, axis)

    mean, variance = moments(x, axis=axis)
    x_hat = (x - _align(mean, x, axis)) / _align(np.sqrt(variance + epsilon), x, axis)
    y = _align(gamma, x, axis) * x_hat + _align(beta, x, axis)

    return y.astype(dtype), BatchNormCache(x_hat, mean, variance, gamma, axis, epsilon)


def batch_norm_backward(dy: ArrayLike, cache: BatchNormCache) -> tuple[Array, Array, Array]:
    r"""Carry a gradient back through `batch_norm_forward`, through mean and variance too.

    With :math:`d_i = \partial L / \partial y_i`, per channel:

    .. math::

       \begin{gathered}
       \frac{\partial L}{\partial \beta} = \sum_i d_i, \qquad
       \frac{\partial L}{\partial \gamma} = \sum_i d_i \hat x_i, \\
       \frac{\partial L}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
           \left(d_i - \frac1m \sum_j d_j - \hat x_i \, \frac1m \sum_j d_j \hat x_j\right)
       \end{gathered}

    The chain rule of Ioffe and Szegedy (2015, section 3) with all its steps put into one another.
    Per channel, ``dx`` sums to 0, and its product with ``x_hat`` is
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
        The gradient with respect to the input, of the shape and dtype of ``dy`` (float64 for
        integers).
    dgamma, dbeta
        The gradients with respect to scale and offset, float64 arrays of shape (channels,): a sum
        over a batch of float16 need not fit into float16.

    Raises
    ------
    TypeError
        If ``dy`` does not hold real numbers.
    ValueError
        If ``dy`` has another shape than the output of the forward pass.

    Examples
    --------
    >>> from bn_tutorial.batch_norm import batch_norm_backward, batch_norm_forward
    >>> _, cache = batch_norm_forward([[1.0], [2.0], [6.0]], gamma=[2.0], beta=[5.0])
    >>> dx, dgamma, dbeta = batch_norm_backward([[0.5], [-1.0], [0.3]], cache)
    >>> dx.round(3)
    array([[ 0.644],
           [-0.805],
           [ 0.161]])
    >>> dgamma.round(3), dbeta.round(3)
    (array([0.417]), array([-0.2]))
    """
    dy, dtype = as_float(dy, "dy")
    x_hat, axis = cache.x_hat, cache.axis
    if dy.shape != x_hat.shape:
        raise ValueError(
            f"dy must have the shape of the output of the forward pass, {x_hat.shape}, "
            f"got {dy.shape}"
        )
    axes = batch_axes(dy, axis)
    m = math.prod(dy.shape[i] for i in axes)

    dbeta = np.sum(dy, axis=axes)
    dgamma = np.sum(dy * x_hat, axis=axes)

    scale = cache.gamma / np.sqrt(cache.variance + cache.epsilon)
    through_mean = _align(dbeta / m, dy, axis)
    through_variance = _align(dgamma / m, dy, axis) * x_hat
    dx = _align(scale, dy, axis) * (dy - through_mean - through_variance)

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

    Examples
    --------
    >>> from bn_tutorial.batch_norm import batch_norm_inference
    >>> y = batch_norm_inference([[5.0]], [2.0], [1.0], moving_mean=[3.0], moving_variance=[4.0])
    >>> y.round(3)
    array([[3.]])
    """
    check_epsilon(epsilon)
    x, dtype = as_float(x, "x")
    axis = channel_axis(x, axis)
    gamma = channel_values(gamma, "gamma", x, axis)
    beta = channel_values(beta, "beta", x, axis)
    mean = channel_values(moving_mean, "moving_mean", x, axis)
    variance = check_variance(channel_values(moving_variance, "moving_variance", x, axis))

    x_hat = (x - _align(mean, x, axis)) / _align(np.sqrt(variance + epsilon), x, axis)
    y = _align(gamma, x, axis) * x_hat + _align(beta, x, axis)

    return y.astype(dtype)


def inference_affine(
    gamma: ArrayLike,
    beta: ArrayLike,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    epsilon: float = 1e-3,
) -> tuple[Array, Array]:
    r"""The one affine map that inference mode is: ``y = scale * x + shift`` per channel.

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

    Examples
    --------
    >>> from bn_tutorial.batch_norm import inference_affine
    >>> scale, shift = inference_affine([2.0], [1.0], moving_mean=[3.0], moving_variance=[4.0])
    >>> scale.round(3), shift.round(3)
    (array([1.]), array([-2.]))
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
    scale = values["gamma"] / np.sqrt(check_variance(values["moving_variance"]) + epsilon)
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
        Arrays of the shapes and dtypes of those passed (float64 for integers).

    Examples
    --------
    >>> import numpy as np
    >>> from bn_tutorial.batch_norm import batch_norm_inference, fold_weights
    >>> x, kernel, bias = np.eye(3), np.array([[1.0], [2.0], [4.0]]), np.array([0.5])
    >>> gamma, beta, mean, variance = [2.0], [1.0], [3.0], [4.0]
    >>> new_kernel, new_bias = fold_weights(kernel, bias, gamma, beta, mean, variance)
    >>> y = batch_norm_inference(x @ kernel + bias, gamma, beta, mean, variance)
    >>> np.allclose(x @ new_kernel + new_bias, y)
    True
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


def _align(values: Array, x: Array, axis: int) -> Array:
    """Reshape ``values``, one per channel, so that they broadcast along ``axis`` of ``x``."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)
