"""Fold the batch normalizations of a Keras model into the layers before them."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import SafeModeScope

from .._checks import Array
from ..batch_norm import inference_affine

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
    """
    graph = _graph_of(model)
    hosts, not_folded = _plan(graph)

    affine: dict[str, list[Any]] = {}
    for name, host in hosts.items():
        affine.setdefault(host, []).append(model.get_layer(name))

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in affine:
            config["use_bias"] = True
        with SafeModeScope(False):  # a Lambda of the caller's own process is no danger
            return type(layer).from_config(config)

    def entrance(tensor: Any) -> Any:
        layer = tensor._keras_history.operation
        return type(layer).from_config(layer.get_config()).output

    if graph is model:
        folded = keras.models.clone_model(
            model,
            input_tensors=keras.tree.map_structure(entrance, model.input),
            clone_function=copy,
            call_function=lambda layer, x, *args, **kwargs: (
                x if layer.name in hosts else layer(x, *args, **kwargs)
            ),
        )
    else:
        first = entrance(model.inputs[0])
        kept = [copy(layer) for layer in model.layers if layer.name not in hosts]
        folded = keras.Sequential([first, *kept], name=model.name, trainable=model.trainable)
        if model.compiled:
            folded.compile_from_config(model.get_compile_config())

    for layer in folded.layers:
        original = model.get_layer(layer.name)
        if layer.name in affine:
            _assign_folded(layer, original, affine[layer.name])
        else:
            layer.set_weights(original.get_weights())
    folded.not_folded = MappingProxyType(not_folded)  # a plain dict would be tracked as state
    return folded


def _graph_of(model: Any) -> Any:
    """The functional model that ``model`` is, or that a Sequential model keeps inside."""
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


def _plan(graph: Any) -> tuple[dict[str, str], dict[str, str]]:
    """For each batch normalization: the name of the layer to fold it into, or why there is none."""
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
    ]
    made_by = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
    calls = Counter(id(node.operation) for node in nodes)
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in graph.outputs)

    hosts: dict[str, str] = {}
    not_folded: dict[str, str] = {}
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, keras.layers.BatchNormalization):
            for inner in _inside(layer):
                not_folded[f"{layer.name}/{inner}"] = f"inside {layer.name!r}"
            continue
        tensor = node.input_tensors[0]
        source = made_by[id(tensor)]
        name = hosts.get(source.name, source.name)
        host = next((n.operation for n in nodes if n.operation.name == name), source)
        if calls[id(layer)] > 1:
            reason = "called more than once"
        elif node.arguments.kwargs.get("training"):
            reason = "called with training=True"
        elif type(host) not in _CHANNELS_OF_KERNEL:
            reason = f"follows {source.name!r}, a {type(source).__name__}"
        elif calls[id(host)] > 1:
            reason = f"follows {host.name!r}, which is called more than once"
        elif uses[id(tensor)] > 1:
            reason = f"is not alone in using the output of {source.name!r}"
        elif host.activation is not keras.activations.linear:
            reason = f"follows the activation of {host.name!r}"
        elif layer.axis % len(tensor.shape) != _channel_axis(host, len(tensor.shape)):
            reason = f"its axis {layer.axis} is not the channel axis of {host.name!r}"
        elif host.quantization_mode is not None or getattr(host, "lora_enabled", False):
            reason = f"follows {host.name!r}, which is quantized or has LoRA enabled"
        else:
            hosts[layer.name] = host.name
            continue
        not_folded[layer.name] = reason
    return hosts, not_folded


def _inside(layer: Any) -> list[str]:
    """Names of the batch normalizations inside a nested model or a wrapper."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    found = []
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(inner, keras.layers.BatchNormalization):
            found.append(inner.name)
        found += [f"{inner.name}/{name}" for name in _inside(inner)]
    return found


def _channel_axis(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _assign_folded(layer: Any, original: Any, norms: list[Any]) -> None:
    """Give ``layer`` the weights that do what ``original`` and then ``norms`` do."""
    kernel, *bias = (weight.astype(np.float64) for weight in original.get_weights())
    shape: tuple[int, ...] = tuple(
        size if axis - kernel.ndim in _CHANNELS_OF_KERNEL[type(layer)] else 1
        for axis, size in enumerate(kernel.shape)
    )
    offset: Array = bias[0] if bias else np.zeros(int(np.prod(shape)))
    for norm in norms:
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        gamma = norm.gamma.numpy() if norm.scale else np.ones_like(mean)
        beta = norm.beta.numpy() if norm.center else np.zeros_like(mean)
        scale, shift = inference_affine(gamma, beta, mean, variance, epsilon=norm.epsilon)
        kernel *= scale.reshape(shape)
        offset = scale * offset + shift
    layer.set_weights([kernel, offset])
