"""The layers that commute with a scale and a shift per channel in inference mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers as kl

from ._graph import extra_arguments, input_of
from ._overridden import overridden

__all__ = ["axis_after", "axis_before", "channel_axis"]

Shape = tuple[int | None, ...]


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis that holds the channels of a tensor of this rank."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def axis_before(node: Any, axis: int) -> int | None:
    """Return which axis of the input is ``axis`` of the output, if the layer commutes.

    It commutes if a scale and a shift along the former axis do to its output what they do along
    the latter, whatever their values. None if it does not.
    """
    layer = node.operation
    rule = _RULES.get(type(layer))
    if rule is None or overridden(layer, type(layer)) or input_of(node) is None:
        return None
    if extra_arguments(node):
        return None
    return rule(layer, input_of(node).shape, node.outputs[0].shape, axis)


def axis_after(node: Any, axis: int) -> int | None:
    """Return which axis of the output is ``axis`` of the input, if the layer commutes."""
    for after in range(1, len(node.outputs[0].shape)):
        if axis_before(node, after) == axis:
            return after
    return None


def _same(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    return axis


def _linear(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    return axis if layer.activation is keras.activations.linear else None


def _per_channel(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    """Weighted sums over the other axes, whose weights add up to one."""
    return axis if axis == channel_axis(layer, len(after)) else None


def _pool(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    return _per_channel(layer, before, after, axis) if layer.padding == "valid" else None


def _global_pool(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    channels = channel_axis(layer, len(before))
    return channels if axis == (channels if layer.keepdims else 1) else None


def _up_sample(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    known = getattr(layer, "interpolation", "nearest") in ("nearest", "bilinear")
    return _per_channel(layer, before, after, axis) if known else None


def _permute(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    return int(layer.dims[axis - 1]) if axis else None


def _repeat(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    return 1 if axis == 2 else None


def _reshape(layer: Any, before: Shape, after: Shape, axis: int) -> int | None:
    """Values keep their order, so channels stay apart where as many values lie behind them."""
    inner = after[axis:]
    if not axis or None in inner:
        return None
    for candidate in range(len(before) - 1, 0, -1):
        behind = before[candidate:]
        if None not in behind and behind[0] == inner[0] and _size(behind) == _size(inner):
            return candidate
    return None


def _size(shape: Shape) -> int:
    return math.prod(size for size in shape if size is not None)


_RULES: dict[type, Callable[[Any, Shape, Shape, int], int | None]] = {
    kl.Activation: _linear,
    kl.ActivityRegularization: _same,
    kl.AlphaDropout: _same,
    kl.AveragePooling1D: _pool,
    kl.AveragePooling2D: _pool,
    kl.AveragePooling3D: _pool,
    kl.Cropping1D: _per_channel,
    kl.Cropping2D: _per_channel,
    kl.Cropping3D: _per_channel,
    kl.Dropout: _same,
    kl.Flatten: _reshape,
    kl.GaussianDropout: _same,
    kl.GaussianNoise: _same,
    kl.GlobalAveragePooling1D: _global_pool,
    kl.GlobalAveragePooling2D: _global_pool,
    kl.GlobalAveragePooling3D: _global_pool,
    kl.Identity: _same,
    kl.Permute: _permute,
    kl.RepeatVector: _repeat,
    kl.Reshape: _reshape,
    kl.SpatialDropout1D: _same,
    kl.SpatialDropout2D: _same,
    kl.SpatialDropout3D: _same,
    kl.UpSampling1D: _up_sample,
    kl.UpSampling2D: _up_sample,
    kl.UpSampling3D: _up_sample,
}
