"""Fold the batch normalizations of a Keras model into the layers before them."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import SafeModeScope

from .._checks import Array
from ..batch_norm import inference_affine
from .find import find_batch_norms

__all__ = ["fold_batch_norm"]

# The axis or axes of a kernel that hold the output channels.
_CHANNELS_OF_KERNEL = {
    keras.layers.Dense: (-1,),
    keras.layers.Conv1D: (-1,),
    keras.layers.Conv2D: (-1,),
    keras.layers.Conv3D: (-1,),
    keras.layers.DepthwiseConv2D: (-2, -1),  # inputs × multiplier
    keras.layers.Conv2DTranspose: (-2,),
}


def fold_batch_norm(model: keras.Model) -> keras.Model:
    r"""Return an equivalent model for inference, without the batch normalizations that fold away.

    In inference mode batch normalization is ``scale * x + shift`` in each channel (see
    `bn_tutorial.batch_norm.inference_affine`), and the layer before it can do that itself:

    .. math:: \text{kernel}' = \text{scale}\cdot\text{kernel}, \qquad
              \text{bias}' = \text{scale}\cdot\text{bias} + \text{shift}

    (Jacob et al., 2018). A ``keras.layers.BatchNormalization``, or a subclass of it, is folded if

    - its input comes from a Dense, Conv1D, Conv2D, Conv3D, DepthwiseConv2D or Conv2DTranspose
      layer (of exactly this class, not quantized), or from another that was folded into one;
    - that layer has no activation, and nothing else uses its output;
    - its axis is that layer's channel axis;
    - both are called once, and not with ``training=True``.

    Any other is kept as it is. Nested models and wrapped layers are copied whole.

    Parameters
    ----------
    model
        A Sequential model that is built, or a functional model. It stays as it is.

    Returns
    -------
    keras.Model
        A new model with copies of all other weights, which has the outputs of ``model`` in
        inference mode, up to rounding. Layers keep their names; one that had no bias has
        one now. Its attribute ``not_folded`` maps the name of each batch normalization that was
        kept to the reason, ``inner/name`` if it lies in a nested model or a wrapper.

    Raises
    ------
    TypeError
        If ``model`` is neither Sequential nor functional, or has a ``call`` of its own.
    ValueError
        If a Sequential model is not built.

    Examples
    --------
    >>> import keras
    >>> import numpy as np
    >>> from keras.layers import BatchNormalization, Dense, ReLU
    >>> from bn_tutorial.models import fold_batch_norm
    >>> model = keras.Sequential([keras.Input((4,)), Dense(3), BatchNormalization(), ReLU()])
    >>> folded = fold_batch_norm(model)
    >>> [type(layer).__name__ for layer in folded.layers]
    ['Dense', 'ReLU']
    >>> x = np.ones((2, 4))
    >>> np.allclose(folded(x), model(x), atol=1e-6)
    True
    >>> dict(folded.not_folded)
    {}
    """
    functional = _functional_inside(model)
    folds_into, not_folded = _plan(functional)
    copy = _copy_functional if functional is model else _copy_sequential
    folded = copy(model, folds_into)

    norms = defaultdict(list)
    for name, layer_name in folds_into.items():
        norms[layer_name].append(model.get_layer(name))
    for layer in folded.layers:
        original = model.get_layer(layer.name)
        if layer.name in norms:
            layer.set_weights(_folded_weights(original, norms[layer.name]))
        else:
            layer.set_weights(original.get_weights())
    folded.not_folded = MappingProxyType(not_folded)  # a plain dict would be tracked as state
    return folded


def _functional_inside(model: Any) -> Any:
    """Return the functional model that ``model`` is, or that a Sequential model keeps inside."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if not model.built or model._functional is None:
            raise ValueError(
                f"model {model.name!r} is not built: give it an Input, or call it once"
            )
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    raise TypeError(
        "model must be a keras.Sequential or functional model without a call of its own, "
        f"got {type(model).__name__}"
    )


# What is folded, and into which layer


class _Graph:
    """Who computes what in a functional model, and who uses it."""

    def __init__(self, model: Any) -> None:
        by_depth = model._nodes_by_depth
        self.nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
        self.calls = Counter(id(node.operation) for node in self.nodes)
        self.uses = Counter(id(tensor) for node in self.nodes for tensor in node.input_tensors)
        self.uses.update(id(tensor) for tensor in model.outputs)
        self._maker = {id(t): node.operation for node in self.nodes for t in node.outputs}

    def maker_of(self, tensor: Any) -> Any:
        """Return the layer or operation that computes a tensor."""
        return self._maker[id(tensor)]


def _plan(model: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the layer to fold each batch normalization into, and the reasons to keep others.

    Both by name; what lies in a nested model or a wrapper is kept.
    """
    graph = _Graph(model)
    layers = {node.operation.name: node.operation for node in graph.nodes}
    folds_into: dict[str, str] = {}
    not_folded: dict[str, str] = {}
    for node in graph.nodes:
        layer = node.operation
        if isinstance(layer, keras.layers.BatchNormalization):
            source = graph.maker_of(node.input_tensors[0])
            target = layers[folds_into.get(source.name, source.name)]
            if reason := _reason_to_keep(graph, node, source, target):
                not_folded[layer.name] = reason
            else:
                folds_into[layer.name] = target.name
        elif isinstance(layer, keras.layers.Layer):
            for inner, _ in find_batch_norms(layer):
                not_folded[f"{layer.name}/{inner}"] = f"inside {layer.name!r}"
    return folds_into, not_folded


def _reason_to_keep(graph: _Graph, node: Any, source: Any, target: Any) -> str | None:
    """Return why a batch normalization cannot be folded into ``target``, or None if it can.

    ``node`` is its call. ``source`` computes its input; ``target`` is the same layer, or the one
    that ``source``, a batch normalization itself, is folded into.
    """
    norm, tensor = node.operation, node.input_tensors[0]
    if graph.calls[id(norm)] > 1:
        return "called more than once"
    if node.arguments.kwargs.get("training"):
        return "called with training=True"
    if type(target) not in _CHANNELS_OF_KERNEL:
        return f"follows {source.name!r}, a {type(source).__name__}"
    if graph.calls[id(target)] > 1:
        return f"follows {target.name!r}, which is called more than once"
    if graph.uses[id(tensor)] > 1:
        return f"is not alone in using the output of {source.name!r}"
    if target.activation is not keras.activations.linear:
        return f"follows the activation of {target.name!r}"
    if norm.axis % len(tensor.shape) != _output_axis(target, len(tensor.shape)):
        return f"its axis {norm.axis} is not the channel axis of {target.name!r}"
    if target.quantization_mode is not None or getattr(target, "lora_enabled", False):
        return f"follows {target.name!r}, which is quantized or has LoRA enabled"
    return None


def _output_axis(layer: Any, rank: int) -> int:
    """Return the axis of a layer's output that holds its channels."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


# The copy


def _copy_functional(model: Any, folds_into: dict[str, str]) -> Any:
    """Return a copy of a functional model without what is folded, its weights still new."""
    return keras.models.clone_model(
        model,
        input_tensors=keras.tree.map_structure(_copy_input, model.input),
        clone_function=lambda layer: _copy_layer(layer, folds_into),
        call_function=lambda layer, x, *args, **kwargs: (
            x if layer.name in folds_into else layer(x, *args, **kwargs)
        ),
    )


def _copy_sequential(model: Any, folds_into: dict[str, str]) -> Any:
    """Return a copy of a Sequential model without what is folded, its weights still new."""
    kept = [
        _copy_layer(layer, folds_into) for layer in model.layers if layer.name not in folds_into
    ]
    copy = keras.Sequential(
        [_copy_input(model.inputs[0]), *kept], name=model.name, trainable=model.trainable
    )
    if model.compiled:
        copy.compile_from_config(model.get_compile_config())
    return copy


def _copy_input(tensor: Any) -> Any:
    """Return the output of a copy of the input layer that ``tensor`` comes from."""
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _copy_layer(layer: Any, folds_into: dict[str, str]) -> Any:
    """Return a copy of a layer, with a bias if something is folded into it."""
    config = layer.get_config()
    if layer.name in folds_into.values():
        config["use_bias"] = True
    with SafeModeScope(False):  # a Lambda of the caller's own process is no danger
        return type(layer).from_config(config)


def _folded_weights(layer: Any, norms: list[Any]) -> list[Array]:
    """Return the kernel and the bias that do what ``layer`` and then ``norms`` do."""
    kernel, *biases = (weight.astype(np.float64) for weight in layer.get_weights())
    shape: tuple[int, ...] = tuple(
        size if axis - kernel.ndim in _CHANNELS_OF_KERNEL[type(layer)] else 1
        for axis, size in enumerate(kernel.shape)
    )
    bias: Array = biases[0] if biases else np.zeros(int(np.prod(shape)))
    for norm in norms:
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        gamma = norm.gamma.numpy() if norm.scale else np.ones_like(mean)
        beta = norm.beta.numpy() if norm.center else np.zeros_like(mean)
        scale, shift = inference_affine(gamma, beta, mean, variance, epsilon=norm.epsilon)
        kernel *= scale.reshape(shape)
        bias = scale * bias + shift
    return [kernel, bias]
