"""The layers that a scale and a shift per channel can be folded into."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from .._checks import Array
from ._commuting import channel_axis
from ._graph import extra_arguments, input_of, unwrapped, wrapped_like
from ._norms import epsilon_of
from ._overridden import overridden

__all__ = ["Host", "is_host", "takes_before", "why_no_host"]

Weights = dict[str, Array]


class _Kind(NamedTuple):
    """Where a layer keeps what: attributes, and axes counted from the back."""

    kernel: str = "kernel"  # what makes the output channels
    output_axes: tuple[int, ...] = (-1,)  # of that kernel
    first_kernel: str | None = "kernel"  # what takes the input channels, or None: never folded
    input_axis: int = -2  # of that one


_CONVOLUTION = _Kind()
_DEPTHWISE = _Kind(output_axes=(-2, -1))  # inputs × multiplier
_SEPARABLE = _Kind("pointwise_kernel", first_kernel="depthwise_kernel")
_TRANSPOSED = _Kind(output_axes=(-2,), first_kernel=None)
_KINDS = {
    keras.layers.Dense: _Kind(),
    keras.layers.Conv1D: _CONVOLUTION,
    keras.layers.Conv2D: _CONVOLUTION,
    keras.layers.Conv3D: _CONVOLUTION,
    keras.layers.DepthwiseConv1D: _DEPTHWISE,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
    keras.layers.SeparableConv1D: _SEPARABLE,
    keras.layers.SeparableConv2D: _SEPARABLE,
    keras.layers.Conv1DTranspose: _TRANSPOSED,
    keras.layers.Conv2DTranspose: _TRANSPOSED,
    keras.layers.Conv3DTranspose: _TRANSPOSED,
    keras.layers.EinsumDense: _Kind(first_kernel=None),
}


def is_host(operation: Any) -> bool:
    """Whether a layer, maybe inside a TimeDistributed, is of a kind that can be folded into."""
    return type(unwrapped(operation)[0]) in _KINDS


def takes_before(operation: Any) -> bool:
    """Whether its kind of layer can take what comes before it, be it not padded."""
    return is_host(operation) and _kind(unwrapped(operation)[0]).first_kernel is not None


def why_no_host(node: Any) -> str | None:
    """Return why nothing can be folded into this call of a layer of a known kind, or None."""
    layer, _ = unwrapped(node.operation)
    name = repr(node.operation.name)
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return f"{name} is quantized or has LoRA enabled, where neither would do"
    weights = {*_kernels(layer), *([] if layer.bias is None else ["bias"])}
    variables = [getattr(layer, weight) for weight in weights]
    plain = all(isinstance(variable, keras.Variable) for variable in variables)
    of_activation = getattr(layer.activation, "weights", [])
    rest = {id(v) for v in layer.weights} - {id(v) for v in [*variables, *of_activation]}
    if not plain or rest:
        return f"{name} has other weights than a kernel and a bias, where no others would do"
    for each in (node.operation, layer):
        if own := overridden(each, type(each)):
            return f"{each.name!r} was given its own {', '.join(own)}, where Keras's would do"
    if input_of(node) is None or extra_arguments(node):
        return f"{name} is called with more than its inputs, where one tensor would do"
    return None


class Host:
    """A layer to fold into: its kernel and bias in float64, and how they change.

    Parameters
    ----------
    node
        The layer's only call.

    Raises
    ------
    Exception
        If the layer cannot be made anew from its configuration, whatever that raised.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self.operation = node.operation
        self.layer, self._wrapped = unwrapped(self.operation)
        self._kind = _kind(self.layer)
        self._shape = input_of(node).shape
        self._rank = len(node.outputs[0].shape)
        names = [*_kernels(self.layer), *([] if self.layer.bias is None else ["bias"])]
        self.weights: Weights = {
            name: getattr(self.layer, name).numpy().astype(np.float64) for name in names
        }
        # What the equation of an EinsumDense calls the axes of the output, "." in an ellipsis.
        self._letters = ""
        self._bias_axes = set(getattr(self.layer, "bias_axes", None) or "")
        if isinstance(self.layer, keras.layers.EinsumDense):
            letters = self.layer.equation.partition("->")[2].replace("...", "{}")
            self._letters = letters.format("." * (self._rank + 2 - len(letters)))
        self.remade()  # raises now, if ever, and not when others rely on it

    # After it

    def fold_after(self, scale: Array, shift: Array, axis: int) -> str | None:
        """Take over ``scale * y + shift`` along an axis of the output, or return why not."""
        kernel = self.weights[self._kind.kernel]
        axes = self._kernel_axes(axis)
        if axes is None:
            return f"axis {axis} is not the channel axis of {self.operation.name!r}, which would do"
        sizes = [n if i - kernel.ndim in axes else 1 for i, n in enumerate(kernel.shape)]
        behind = (1,) * (self._rank - 1 - axis) if self._letters else ()  # that bias is broadcast
        bias = scale.reshape(-1, *behind) * self.weights.get("bias", 0.0)
        return self._take(
            {
                self._kind.kernel: kernel * scale.reshape(sizes),
                "bias": bias + shift.reshape(-1, *behind),
            },
            axes,
            self._letters[axis : axis + 1],
        )

    def _kernel_axes(self, axis: int) -> tuple[int, ...] | None:
        """Return the axes of the kernel that make ``axis`` of the output, or None."""
        if not self._letters:
            own = channel_axis(self.layer, self._rank - self._wrapped) + self._wrapped
            return self._kind.output_axes if axis == own else None
        kernel = self.layer.equation.partition(",")[2].partition("->")[0]
        if kernel.count(self._letters[axis]) != 1:  # an ellipsis, or an axis of the input alone
            return None
        return (kernel.index(self._letters[axis]) - len(kernel),)

    # Before it

    def fold_before(self, scale: Array, shift: Array, axis: int) -> str | None:
        """Take over ``scale * x + shift`` along an axis of the input, or return why not."""
        if axis != channel_axis(self.layer, len(self._shape) - self._wrapped) + self._wrapped:
            return f"axis {axis} is not the channel axis of {self.operation.name!r}, which would do"
        if getattr(self.layer, "padding", "valid") != "valid":
            return (
                f"{self.operation.name!r} pads with zeros (padding={self.layer.padding!r}), to "
                "which no shift is added, where padding='valid' would do"
            )
        first = self._kind.first_kernel or ""
        kernel = self.weights[first]
        response = self._response(kernel * self._per_input(kernel, shift))
        return self._take(
            {
                first: kernel * self._per_input(kernel, scale),
                "bias": self.weights.get("bias", 0.0) + response,
            },
            (self._kind.input_axis,),
        )

    def _per_input(self, kernel: Array, values: Array) -> Array:
        """Return one value per input channel in the shape of the last two axes of the kernel.

        With groups, the filters fall into as many groups, each with input channels of its own.
        """
        if self._kind is not _CONVOLUTION:
            return values[:, np.newaxis]
        by_group = values.reshape(-1, kernel.shape[-2]).T
        return by_group.repeat(kernel.shape[-1] // by_group.shape[-1], axis=-1)

    def _response(self, products: Array) -> Array:
        """Return the outputs, without a bias, to constant inputs: sums of kernel * constant."""
        if self._kind is not _DEPTHWISE and self._kind is not _SEPARABLE:
            return products.sum(axis=tuple(range(products.ndim - 1)))
        response = products.sum(axis=tuple(range(products.ndim - 2))).reshape(-1)
        if self._kind is _DEPTHWISE:
            return response
        pointwise = self.weights["pointwise_kernel"]
        return response @ pointwise.reshape(pointwise.shape[-2:])

    # The new layer

    def _take(self, changed: Weights, scaled: tuple[int, ...], letter: str = "") -> str | None:
        """Take these weights, unless the layer cannot compute with them: then return why.

        The kernel was ``scaled`` along these axes, counted from the back.
        """
        dtype, name = self.layer.compute_dtype, repr(self.operation.name)
        for weight, value in changed.items():
            if not _keeps_digits(value, dtype, None if weight == "bias" else scaled):
                return f"the {weight} of {name} would leave the range of {dtype}"
        if places := self._places_elsewhere(changed["bias"]):
            return (
                f"Keras might add the bias of {name} along another axis that has, or may have, "
                f"{places} places, where channels that come last would do"
            )
        self.weights.update(changed)
        self._bias_axes.update(letter)
        return None

    def _places_elsewhere(self, bias: Array) -> int:
        """Return how long a bias is that Keras would add along another axis than its own, or 0.

        On TensorFlow `keras.ops.add` takes what has a single axis of more than one place for a
        bias of the last axis, if that has as many places, and else of axis 1.
        """
        long = [i - bias.ndim for i, places in enumerate(bias.shape) if places > 1]
        if len(long) != 1:
            return 0
        shape = self._node.outputs[0].shape
        shape = [shape[0], *shape[1 + self._wrapped :]]
        own = len(shape) + long[0] if self._letters else channel_axis(self.layer, len(shape))
        places: int = bias.shape[long[0]]
        for axis in (len(shape) - 1, 1):
            if axis == own:
                break
            if shape[axis] in (None, places):
                return places
        return 0

    def remade(self) -> Any:
        """Return a new layer of the same class and name, with the weights and a bias."""
        layer = self.layer
        config = {
            key: "zeros" if key.endswith("_initializer") else value
            for key, value in layer.get_config().items()
            if not key.endswith(("_regularizer", "_constraint"))
        }
        if self._letters:
            config["bias_axes"] = "".join(sorted(self._bias_axes)) or None
        else:
            config["use_bias"] = True
        config |= {"activation": layer.activation, "dtype": layer.dtype_policy}
        new = type(layer).from_config(config)
        # What a configuration does not hold.
        new.autocast, new.supports_masking = layer.autocast, layer.supports_masking
        outermost = wrapped_like(self.operation, new, self._node)
        for name, value in self.weights.items():
            getattr(new, name).assign(value)
        return outermost


def _keeps_digits(value: Array, dtype: str, scaled: tuple[int, ...] | None) -> bool:
    """Whether a weight, and twice as much, is a number in a dtype, with the digits that count.

    Those of the largest values of each channel along which a kernel was scaled, however small
    they are, for what they are multiplied with may be large. What a bias (None) loses by being
    too small for the dtype is less than what the outputs lose.
    """

    def rounded(value: Array) -> Array:
        as_float64: Array = keras.ops.cast(keras.ops.cast(value, dtype), "float64").numpy()
        return as_float64

    with np.errstate(all="ignore"):
        if not np.isfinite(rounded(2 * value)).all():
            return False
        if scaled is None:
            return True
        others = tuple(i for i in range(value.ndim) if i - value.ndim not in scaled)
        largest = np.abs(value).max(axis=others, keepdims=True)
        return bool((np.abs(rounded(value) - value) <= epsilon_of(dtype) * largest).all())


def _kind(layer: Any) -> _Kind:
    return _KINDS[type(layer)]


def _kernels(layer: Any) -> list[str]:
    """Return the names of the attributes that hold the kernels of a layer."""
    return sorted({_kind(layer).kernel, _kind(layer).first_kernel or _kind(layer).kernel})
