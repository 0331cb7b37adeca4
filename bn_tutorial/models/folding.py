"""Fold the batch normalizations of a Keras model into the layers around them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import keras
from keras.src.models.functional import Functional

from ._commuting import axis_after, axis_before
from ._graph import (
    Graph,
    compute_dtypes,
    extra_arguments,
    input_of,
    repeat_call,
    unwrapped,
    wrapped_like,
)
from ._hosts import Host, is_host, takes_before, why_no_host
from ._norms import affine_map, is_batch_norm, normalized_axis, why_not_affine, why_not_unnormalized
from ._overridden import CONSTRUCTION, TRAINING, overridden
from ._types import FoldedModel, Model
from .find import find_batch_norms

__all__ = ["fold_batch_norm"]


def fold_batch_norm(model: Model) -> FoldedModel:
    r"""Return an equivalent model for inference, without the batch normalizations that fold away.

    In inference mode batch normalization is ``scale * x + shift`` in each channel (see
    `bn_tutorial.batch_norm.inference_affine`). The layer before it can do that itself,

    .. math:: \text{kernel}' = \text{scale}\cdot\text{kernel}, \qquad
              \text{bias}' = \text{scale}\cdot\text{bias} + \text{shift}

    (Jacob et al., 2018), or else the layer after it, with scale and shift along the inputs:

    .. math:: \text{kernel}' = \operatorname{diag}(\text{scale})\cdot\text{kernel}, \qquad
              \text{bias}' = \text{bias} + \text{shift}\cdot\text{kernel}

    **What folds.** A `keras.layers.BatchNormalization` or `bn_tutorial.layers.BatchNormalization`,
    or a subclass without a computation of its own, that is not called with ``training=True`` or
    a mask, folds

    - back, into Dense, EinsumDense, and convolutions of every kind (separable, depthwise and
      transposed too) without an activation;
    - or ahead, into Dense and convolutions with ``padding="valid"``, not transposed ones. (Where
      zeros are padded they follow the normalization, and the folded bias would be added there
      too.) Not where the moving mean is so many standard deviations from zero that the layer would
      lose more than 10⁻⁴ in rounding inputs that are not normalized.

    Between the two may lie dropout, noise, ``Identity``, cropping, repetition, permutation,
    up-sampling (``"nearest"`` or ``"bilinear"``), average pooling without padding, reshaping and
    flattening that leave the channels apart, and other batch normalizations that fold. Nothing
    else may use what lies between, the axis must be that of the channels, and all must compute in
    the same dtype, whose digits the new weights keep. The layer that takes it over is of exactly
    this class, called once, not quantized, without LoRA; each may be in a
    `keras.layers.TimeDistributed`. Where its channels do not come last, no other axis may have as
    many places: Keras might add the bias along that. Nested Sequential and functional models are
    folded inside.

    **Shared layers.** As in ``keras.Model(model.inputs, outputs)``, the layers that nothing is
    folded into are the *same objects* in both models, state and all. So train, quantize or set
    weights of either only after the folded model was saved and loaded again, which cuts the tie.

    **For inference.** The folded model is not compiled, and is not meant to be trained: it
    normalizes nothing any more, and the regularizers and constraints of what was folded into
    are gone.

    Parameters
    ----------
    model
        A functional model, or a Sequential model that is built. It stays as it is.

    Returns
    -------
    keras.Model
        A new model of the same name, Sequential or functional as ``model`` is, inputs and outputs
        in the same structure, with the same output in inference mode up to rounding. (Except where
        both the inputs are not finite and a mask says so.) A layer that was folded into is a new
        one of the same name, with a bias. What a subclass of `keras.Model` adds is not carried.
        The attribute ``not_folded`` maps each batch normalization that was kept to the reason, by
        the way to it that `find_batch_norms` gives, such as ``inner/name``. It is not saved.

    Raises
    ------
    TypeError
        If ``model`` is neither Sequential nor functional, or has its own ``call``, or another
        method of its own that could change what calling it or ``predict`` returns.
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

    In a network of convolutions. What cannot be folded stays, and the reason is given:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(4, 3, use_bias=False),
    ...     BatchNormalization(),
    ...     ReLU(),
    ...     keras.layers.Conv2D(4, 3, activation="relu"),
    ...     BatchNormalization(name="late"),
    ...     keras.layers.GlobalMaxPooling2D(),
    ...     Dense(2),
    ... ])
    >>> folded = fold_batch_norm(model)
    >>> model.count_params(), folded.count_params()
    (298, 286)
    >>> for way, reason in folded.not_folded.items():
    ...     print(f"{way}: {reason}")
    late: not folded back, ...
    >>> x = np.ones((2, 8, 8, 3))
    >>> np.allclose(folded(x), model(x), atol=1e-5)
    True
    """
    if reason := _why_opaque(model):
        raise TypeError(
            "model must be a Sequential or functional model that is called as Keras calls it, "
            f"got a {type(model).__name__}, which {reason}"
        )
    if _functional_of(model) is None:
        raise ValueError(f"model {model.name!r} is not built: give it an Input, or call it once")
    reasons: dict[int, str] = {}
    folded: FoldedModel = _Plan(_functional_of(model), reasons, {}).folded(model)
    norms = find_batch_norms(folded)
    folded.not_folded = MappingProxyType(  # a plain dict would be tracked as state
        {way: reasons.get(id(norm), "no call of it was found") for way, norm in norms}
    )
    return folded


def _why_opaque(model: Any) -> str | None:
    """Return why the calls inside a layer are not known, or None if it is a graph of layers."""
    for base in (keras.Sequential, Functional):
        if isinstance(model, base):
            own = overridden(model, base, CONSTRUCTION | TRAINING)
            return f"has its own {', '.join(own)}" if own else None
    return "is no Sequential or functional model"


def _functional_of(model: Any) -> Any:
    """Return the functional model that a model is, or that it keeps inside once it is built."""
    return model._functional if isinstance(model, keras.Sequential) else model


# What is folded


class _Plan:
    """What of the calls in a functional model is folded into what, nested models included.

    Parameters
    ----------
    functional
        The model.
    reasons
        Gets the reason for each batch normalization that is kept, by its id.
    done
        The nested models that were folded already, by the ids of the original ones.
    """

    def __init__(self, functional: Any, reasons: dict[int, str], done: dict[int, Any]) -> None:
        self._graph = Graph(functional)
        self._reasons, self._done = reasons, done
        self._dropped: set[int] = set()  # ids of the calls of what is folded
        self._hosts: dict[int, Host] = {}  # by the ids of the layers, as the next
        self._models: dict[int, Any] = {}
        kept = []
        for node in self._graph.nodes:
            if is_batch_norm(node.operation):
                if reason := why_not_affine(node):
                    self._keep(unwrapped(node.operation)[0], reason)
                elif reason := self._fold(node, ahead=False):
                    kept.append((node, reason))
            elif isinstance(node.operation, keras.layers.Layer):
                self._fold_inside(node)
        for node, before in reversed(kept):
            if after := self._fold(node, ahead=True):
                reason = f"not folded back, as {before}; nor ahead, as {after}"
                self._keep(unwrapped(node.operation)[0], reason)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is folded."""
        return not self._dropped and not self._models

    def _keep(self, norm: Any, reason: str) -> None:
        self._reasons[id(norm)] = reason

    def _fold_inside(self, node: Any) -> None:
        """Fold what lies in a nested model, or in one that is wrapped by a TimeDistributed."""
        operation = node.operation
        norms = find_batch_norms(operation)
        if not norms or id(operation) in self._models:
            return
        inner, _ = unwrapped(operation)
        if reason := self._why_not_inside(operation):
            for _, norm in norms:
                self._keep(norm, f"inside {operation.name!r}, which {reason}")
            return
        if id(inner) not in self._done:
            plan = _Plan(_functional_of(inner), self._reasons, self._done)
            self._done[id(inner)] = inner if plan.is_empty else plan.folded(inner)
        folded = self._done[id(inner)]
        if folded is not inner:
            self._models[id(operation)] = wrapped_like(operation, folded, node)

    def _why_not_inside(self, operation: Any) -> str | None:
        """Return why nothing can be folded inside a layer that holds batch normalizations."""
        inner, _ = unwrapped(operation)
        if reason := _why_opaque(inner):
            return f"{reason} ({type(inner).__name__})"
        if _functional_of(inner) is None:
            return "was called with what no functional model could be built for"
        if own := overridden(operation, type(operation), TRAINING):
            return f"was given its own {', '.join(own)}"
        calls = (node for node in self._graph.nodes if node.operation is operation)
        if any("training" in extra_arguments(node) for node in calls):
            return "is called with training=True; it folds where training is None"
        return None

    def _fold(self, node: Any, ahead: bool) -> str | None:
        """Fold a batch normalization into what lies behind or ahead of it, or return why not."""
        way = self._way(node, ahead)
        if isinstance(way, str):
            return way
        path, axis = way
        if reason := _why_not_along(path, ahead):
            return reason
        host = self._host(path[-1])
        if isinstance(host, str):
            return host
        fold = host.fold_before if ahead else host.fold_after
        if reason := fold(*affine_map(unwrapped(node.operation)[0]), axis):
            return reason
        self._hosts[id(host.operation)] = host
        self._dropped.add(id(node))
        return None

    def _way(self, node: Any, ahead: bool) -> tuple[list[Any], int] | str:
        """Return the calls from a batch normalization to the first that it does not commute with.

        And the axis that it normalizes there; or why there is no such call.
        """
        path, axis = [node], normalized_axis(node)
        while True:
            here = path[-1]
            tensor = here.outputs[0] if ahead else input_of(here)
            there = self._graph.user_of(tensor) if ahead else self._graph.maker_of(tensor)
            if there is None:
                name = tensor._keras_history.operation.name
                return f"{name!r} is an {'output' if ahead else 'input'} of the model"
            if self._graph.uses[id(tensor)] > 1:
                name = (here if ahead else there).operation.name
                return f"the output of {name!r} is used more than once, not here alone"
            path.append(there)
            if id(there) not in self._dropped:
                beyond = (axis_after if ahead else axis_before)(there, axis)
                if beyond is None:
                    return path, axis
                axis = beyond

    def _host(self, node: Any) -> Host | str:
        """Return a layer as one to fold into, or why it is none."""
        operation = node.operation
        if id(operation) in self._hosts:
            return self._hosts[id(operation)]
        if self._graph.calls[id(operation)] > 1:
            return f"{operation.name!r} is called more than once, where once would do"
        if reason := why_no_host(node):
            return reason
        try:
            return Host(node)
        except Exception as error:  # whatever a configuration of somebody's own may raise
            return f"{operation.name!r} cannot be made anew ({type(error).__name__}: {error})"

    # The folded model

    def folded(self, model: Any) -> Any:
        """Return ``model``, whose plan this is, folded: Sequential or functional as it is."""
        new = {**self._models, **{key: host.remade() for key, host in self._hosts.items()}}
        layers = [
            node for node in self._graph.nodes if isinstance(node.operation, keras.layers.Layer)
        ]
        if isinstance(model, keras.Sequential) and _are_calls_of(layers, model.layers):
            kept = [node.operation for node in layers if id(node) not in self._dropped]
            stack = [new.get(id(layer), layer) for layer in kept]
            folded = keras.Sequential([*model.inputs, *stack], name=model.name)
        else:
            folded = keras.Model(*self._connected(_functional_of(model), new), name=model.name)
        folded.dtype_policy = model.dtype_policy
        folded.supports_masking = model.supports_masking
        return folded

    def _connected(self, model: Any, new: dict[int, Any]) -> tuple[Any, Any]:
        """Return the inputs, and the outputs of what remains, connected as it was."""
        tensors = {id(tensor): tensor for tensor in model.inputs}  # what became of each
        for node in self._graph.nodes:
            if id(node) in self._dropped:
                tensors[id(node.outputs[0])] = tensors[id(input_of(node))]
            elif id(node.operation) not in new and all(
                tensors[id(tensor)] is tensor for tensor in node.input_tensors
            ):
                tensors.update((id(tensor), tensor) for tensor in node.outputs)
            else:
                repeat_call(node, new.get(id(node.operation), node.operation), tensors)
        outputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], model.output)
        return model.input, outputs


def _are_calls_of(nodes: list[Any], layers: list[Any]) -> bool:
    """Whether each layer is called once, in this order, and no other."""
    return [id(node.operation) for node in nodes] == [id(layer) for layer in layers]


def _why_not_along(path: list[Any], ahead: bool) -> str | None:
    """Return why what starts a path cannot be folded into what ends it, a layer of any kind."""
    first, last = path[0], path[-1].operation
    if not (takes_before if ahead else is_host)(last):
        wanted = "a Dense layer or a convolution" + " with padding='valid'" * ahead
        return f"{last.name!r} is a {type(unwrapped(last)[0]).__name__}, where {wanted} would do"
    if not ahead and unwrapped(last)[0].activation is not keras.activations.linear:
        return f"the activation of {last.name!r} comes between, where one after it would do"
    tensors = [each.outputs[0] for each in path]
    if ahead:
        tensors = [input_of(first), *tensors[:-1]]
    dtypes = {tensor.dtype for tensor in tensors}
    computed = set[str]().union(*(compute_dtypes(each.operation) for each in path))
    if len(dtypes) > 1 or len(computed) > 1:
        names = ", ".join(sorted(dtypes | computed))
        return f"the dtypes from {last.name!r} to it are {names}, where one for all would do"
    if ahead:
        return why_not_unnormalized(unwrapped(first.operation)[0], *computed)
    return None
