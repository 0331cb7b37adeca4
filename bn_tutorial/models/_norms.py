"""Which batch normalizations compute what Keras's does in inference mode, and what that is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .._checks import Array
from ..layers import BatchNormalization
from ..layers._arguments import unknown_arguments
from ._graph import extra_arguments, input_of, unwrapped
from ._overridden import CONSTRUCTION, overridden

__all__ = [
    "affine_map",
    "epsilon_of",
    "is_batch_norm",
    "normalized_axis",
    "why_not_affine",
    "why_not_unnormalized",
]

# Arguments of newer versions of Keras that say nothing of inference.
IN_TRAINING = {"renorm", "renorm_clipping", "renorm_momentum"}


def is_batch_norm(operation: Any) -> bool:
    """Whether a layer is a batch normalization, maybe inside a TimeDistributed."""
    return isinstance(unwrapped(operation)[0], keras.layers.BatchNormalization)


def why_not_affine(node: Any) -> str | None:
    """Return why this call is not known to be a scale and a shift per channel, or None."""
    norm, _ = unwrapped(node.operation)
    base = keras.layers.BatchNormalization
    if isinstance(norm, BatchNormalization):
        base = BatchNormalization
    own = overridden(norm, base, CONSTRUCTION) or overridden(node.operation, type(node.operation))
    if own:
        return (
            f"it is a {type(norm).__name__} with its own {', '.join(own)}; "
            f"that of {base.__name__} would fold"
        )
    if unknown := set(unknown_arguments(norm)) - IN_TRAINING:
        return (
            f"it has {' and '.join(sorted(unknown))}, which would have to be at its default to fold"
        )
    extra = extra_arguments(node)
    if "training" in extra:
        return f"it is called with training={extra['training']}; it would fold with training=None"
    if extra or input_of(node) is None:
        return (
            f"it is called with {' and '.join(extra) or 'other inputs than one tensor'}, which may "
            "reach the layers after it; it would fold if it were called on one tensor alone"
        )
    if not norm.supports_masking:
        return (
            "it keeps masks from the layers after it; it would fold if supports_masking were True"
        )
    if not np.isfinite(affine_map(norm)).all():
        return (
            "its scale or shift is not a finite number: a weight of it is not, or its moving "
            "variance is below -epsilon"
        )
    return None


def normalized_axis(node: Any) -> int:
    """Return the axis that a call normalizes, counted from the front."""
    norm, wrapped = unwrapped(node.operation)
    axis: int = norm.axis % (len(node.outputs[0].shape) - wrapped)
    return axis + wrapped if axis else 0  # the batch axis lies in front of that of the wrapper


def affine_map(norm: Any) -> tuple[Array, Array]:
    """Return the scale and the shift of a batch normalization in inference mode, in float64.

    As `bn_tutorial.batch_norm.inference_affine`, but for numbers that are not finite.
    """
    mean, deviation = _moments(norm)
    gamma = norm.gamma.numpy().astype(np.float64) if norm.scale else np.ones_like(mean)
    beta = norm.beta.numpy().astype(np.float64) if norm.center else np.zeros_like(mean)
    with np.errstate(all="ignore"):
        scale = gamma / deviation
        return scale, beta - scale * mean


def why_not_unnormalized(norm: Any, dtype: str) -> str | None:
    """Return why the layer after it should not get its inputs in its place, or None.

    What is normalized lies near zero and keeps its digits in any dtype. Inputs that lie far from
    zero have fewer to lose, the more so in half precision, of which batch normalization makes
    float32 itself.
    """
    mean, deviation = _moments(norm)
    with np.errstate(all="ignore"):
        loss = epsilon_of(dtype) * float(np.abs(mean / deviation).max())
    if loss <= 1e-4:  # not what is not a number
        return None
    return (
        f"in {dtype} inputs would be rounded by {loss:.0e} of their standard deviation, where a "
        "mean nearer to zero would do"
    )


def epsilon_of(dtype: str) -> float:
    """Return the distance from 1 to the next number of a dtype."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)  # NumPy has no bfloat16


def _moments(norm: Any) -> tuple[Array, Array]:
    """Return the moving mean and the root of the moving variance and epsilon, in float64."""
    variance = norm.moving_variance.numpy().astype(np.float64)
    with np.errstate(all="ignore"):
        return norm.moving_mean.numpy().astype(np.float64), np.sqrt(variance + norm.epsilon)
