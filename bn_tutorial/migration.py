r"""Weights of batch normalizations from TensorFlow 1 or PyTorch for Keras, and back to PyTorch.

In inference, all of them compute the same from the same four vectors,

.. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

but they differ in everything around it:

==============  =====================  ====================  =======================================
what            TensorFlow 1           PyTorch               `keras.layers.BatchNormalization`
==============  =====================  ====================  =======================================
γ, β            ``gamma, beta``        ``weight, bias``      ``gamma, beta``
μ               ``moving_mean``        ``running_mean``      ``moving_mean``
σ²              ``moving_variance``    ``running_var``       ``moving_variance``
the average is  biased, or, by the     unbiased: n/(n − 1)   biased
of variances    fused kernel,          times the batch's
                unbiased
momentum        of the old value,      of the new value,     of the old value, 0.99
                0.99, 0.999 or 0.5     0.1
epsilon         0.001                  0.00001               0.001
channels        last, as a rule        second                last, unless ``axis`` says otherwise
==============  =====================  ====================  =======================================

A file of weights says nothing of the last four rows. Where a layer was trained with other settings
than the defaults of its framework, they must be given, epsilon above all: it is part of every
output, while the momentum acts in further training alone.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from ._checks import Array, as_array, check_decay, check_epsilon, check_number, check_variance

__all__ = ["BatchNormWeights", "from_tf1_checkpoint", "from_torch", "to_torch"]


@dataclass(frozen=True, eq=False)
class BatchNormWeights:
    """One batch normalization with the conventions of Keras: its weights and its settings.

    ``keras.layers.BatchNormalization(**norm.settings)`` is the layer, and once it is built,
    ``layer.set_weights(norm.weights)`` gives it the weights. The axis of the channels is no part of
    either: pass ``axis=1`` where they come second.

    To take the weights of a layer of Keras that has all four:
    ``BatchNormWeights(*layer.get_weights(), epsilon=layer.epsilon, momentum=layer.momentum)``.

    The arrays are copies of those that came, of their dtype. bfloat16, of which NumPy itself knows
    nothing, becomes float32, which holds each of its values. What is not finite is taken as it is:
    a file may hold it, and it can be looked for here.

    Raises
    ------
    ValueError
        For arrays that are not all of one shape (channels,), a negative variance, an epsilon that
        is not above 0, or a momentum outside [0, 1].
    TypeError
        For arrays that do not hold floats (integers may be quantized: their scale is not known), or
        an epsilon or a momentum that is no number.

    Examples
    --------
    Without a gamma, ``scale`` is False and there are three weights:

    >>> import keras
    >>> import numpy as np
    >>> from bn_tutorial.migration import BatchNormWeights
    >>> beta, mean, variance = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 0.25]])
    >>> norm = BatchNormWeights(None, beta, mean, variance, epsilon=1e-3, momentum=0.99)
    >>> norm.settings
    {'epsilon': 0.001, 'momentum': 0.99, 'center': True, 'scale': False}
    >>> layer = keras.layers.BatchNormalization(**norm.settings)
    >>> layer.build((None, 2))
    >>> layer.set_weights(norm.weights)
    >>> print(keras.ops.convert_to_numpy(layer(np.array([[4.0, 3.5]]))).round(2))
    [[1. 2.]]
    """

    #: Scale of shape (channels,), or None.
    gamma: Array | None
    #: Shift of shape (channels,), or None.
    beta: Array | None
    #: Average of the means, of shape (channels,).
    moving_mean: Array
    #: Average of the variances, of shape (channels,).
    moving_variance: Array
    _: KW_ONLY
    #: Added to the variance.
    epsilon: float
    #: The weight of the old value in the averages, as in Keras.
    momentum: float
    #: Whether ``moving_variance`` is an average of unbiased variances Σ(x − μ)²/(n − 1), as opposed
    #: to Σ(x − μ)²/n; None where that is not known.
    unbiased: bool | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.moving_mean)
        if len(shape) != 1:
            raise ValueError(f"moving_mean must have shape (channels,), got {shape}")
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            value = getattr(self, name)
            if value is None and name in ("gamma", "beta"):
                continue
            array = _as_floats(value, name)
            if array.shape != shape:
                raise ValueError(
                    f"{name} must have the shape of moving_mean, {shape}, got {array.shape}"
                )
            object.__setattr__(self, name, array)
        check_variance(self.moving_variance)
        object.__setattr__(self, "epsilon", float(check_epsilon(self.epsilon)))
        object.__setattr__(self, "momentum", float(check_decay(self.momentum, "momentum")))

    @property
    def weights(self) -> list[Array]:
        """Return what ``set_weights`` of the layer takes, gamma and beta only where there are any.

        Examples
        --------
        >>> import numpy as np
        >>> from bn_tutorial.migration import BatchNormWeights
        >>> gamma, mean, variance = np.array([[2.0], [3.0], [4.0]])
        >>> norm = BatchNormWeights(gamma, None, mean, variance, epsilon=1e-3, momentum=0.99)
        >>> norm.weights
        [array([2.]), array([3.]), array([4.])]
        """
        arrays = self.gamma, self.beta, self.moving_mean, self.moving_variance
        return [array for array in arrays if array is not None]

    @property
    def settings(self) -> dict[str, Any]:
        """Return epsilon, momentum, center and scale, which the constructor of the layer takes.

        Examples
        --------
        >>> import numpy as np
        >>> from bn_tutorial.migration import BatchNormWeights
        >>> gamma, mean, variance = np.array([[2.0], [3.0], [4.0]])
        >>> norm = BatchNormWeights(gamma, None, mean, variance, epsilon=1e-3, momentum=0.99)
        >>> norm.settings
        {'epsilon': 0.001, 'momentum': 0.99, 'center': False, 'scale': True}
        """
        return {
            "epsilon": self.epsilon,
            "momentum": self.momentum,
            "center": self.beta is not None,
            "scale": self.gamma is not None,
        }


def from_tf1_checkpoint(
    source: Any,
    scope: str,
    *,
    epsilon: float = 1e-3,
    momentum: float | None = None,
    values_per_step: int | None = None,
) -> BatchNormWeights:
    """Read one batch normalization from a checkpoint of a TensorFlow 1 graph.

    ===============================  =================================  ========  ================
    written by                       names in the checkpoint            momentum  variance
    ===============================  =================================  ========  ================
    ``tf.layers``                    ``scope/gamma``, ``beta``,         0.99      unbiased if fused
                                     ``moving_mean``,
                                     ``moving_variance``
    ``slim``, ``tf.contrib.layers``  the same in ``scope/BatchNorm``;   0.999     unbiased if fused
                                     no ``gamma`` by default
    ``tf1.batch_norm_layer``         ``gamma`` and ``beta``; averages   0.5       biased
                                     ``…/moments/Squeeze/`` and
                                     ``…/moments/Squeeze_1/``
                                     ``ExponentialMovingAverage``
    ===============================  =================================  ========  ================

    Which variance `tf.layers` and slim averaged depends on the kernel, which no checkpoint names:
    the fused one, their default for images, returns the unbiased variance, and other inputs have
    the biased one.

    What optimizers keep (``gamma/Adam``), averages of the weights themselves
    (``gamma/ExponentialMovingAverage``) and what batch renormalization adds for training are no
    weights of the layer in inference and are left out.

    Parameters
    ----------
    source
        The prefix of a checkpoint, or a directory, whose latest one is read, as
        `tf.train.load_checkpoint` takes them; or a reader that it returned: an object with
        ``get_variable_to_shape_map()`` and ``get_tensor(name)``.
    scope
        The scope of the layer, or one around it and no other batch normalization. A layer that has
        exactly this scope is taken, whatever lies deeper. ``""`` is the whole checkpoint.
    epsilon
        What was added to the variance. A checkpoint does not contain it; 0.001 is the default of
        all three.
    momentum
        The weight of the old value in the averages, called decay in slim and in the classic layer.
        A checkpoint does not contain it; None stands for the default in the table.
    values_per_step
        Without it the variance is taken as it is, which keeps the outputs in inference as they
        were. With n, the number of values per channel in one step of training, the variance is
        taken for an average of unbiased ones, and made biased: (n − 1)/n times.

    Returns
    -------
    BatchNormWeights
        Its ``unbiased`` is None for a ``moving_variance`` as it is.

    Raises
    ------
    ValueError
        If there is no batch normalization in the scope, or more than one, or one of which a name is
        missing or there twice; the error lists the candidates. Also where a gamma or beta is absent
        and another vector of its shape is there, which may be the same under another name; and what
        `BatchNormWeights` raises, or for a ``values_per_step`` below 2, or one for a variance that
        is biased already.
    TypeError
        For a source that is neither a path nor a reader, or arrays that do not hold floats.

    Examples
    --------
    >>> import tempfile
    >>> import tensorflow as tf
    >>> from bn_tutorial import migration, tf1
    >>> with tf.Graph().as_default():
    ...     y = tf1.batch_norm_layer(tf.ones([4, 2]), False, "net/bn")
    ...     saver = tf.compat.v1.train.Saver()
    ...     with tempfile.TemporaryDirectory() as folder, tf.compat.v1.Session() as session:
    ...         session.run(tf.compat.v1.global_variables_initializer())
    ...         path = saver.save(session, folder + "/model")
    ...         norm = migration.from_tf1_checkpoint(path, "net/bn", momentum=0.9)
    >>> norm.settings
    {'epsilon': 0.001, 'momentum': 0.9, 'center': True, 'scale': True}
    >>> norm.weights[0], norm.unbiased
    (array([1., 1.], dtype=float32), False)
    """
    reader = _open(source)
    shapes = reader.get_variable_to_shape_map()
    layers = _layers(shapes, _TF1)
    _add_classic(layers, shapes)
    owner = _choose(layers, scope, shapes, _TF1)
    names = _names(layers[owner], owner, _TF1)
    _check_absent(names, owner, shapes, lambda name: tuple(shapes[name]), _TF1)

    classic = names["moving_mean"] != _join(owner, "moving_mean", "/")
    if momentum is None:
        slim = re.fullmatch(r"BatchNorm(_\d+)?", owner.rpartition("/")[2])
        momentum = 0.5 if classic else 0.999 if slim else 0.99
    weights = {key: reader.get_tensor(name) for key, name in names.items()}
    norm = _norm(weights, epsilon, momentum, unbiased=False if classic else None)
    return norm if values_per_step is None else _made_biased(norm, values_per_step)


def from_torch(
    state_dict: Mapping[str, Any],
    prefix: str = "",
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    values_per_step: int | None = None,
) -> BatchNormWeights:
    """Read one batch normalization from the ``state_dict`` of a PyTorch module.

    ``num_batches_tracked`` has no counterpart in Keras and is left out. The names of an instance
    normalization that tracks its statistics are the same: nothing here can tell them apart.

    Parameters
    ----------
    state_dict
        Names to tensors of PyTorch, on any device and also of bfloat16, or to arrays. What is None
        is not there.
    prefix
        The name of the module, or of one around it and no other batch normalization. A module of
        exactly this name is taken, whatever lies deeper. ``""`` is the whole ``state_dict``.
    eps
        What was added to the variance. A ``state_dict`` does not contain it; the default is
        PyTorch's, which is a hundredth of Keras's.
    momentum
        The weight of the new value in the averages, as PyTorch has it: 0.1 becomes 0.9. A
        ``state_dict`` does not contain it; the default is PyTorch's.
    values_per_step
        Without it the variance is taken as it is, which keeps the outputs in inference as they
        were. With n, the number of values per channel in one step of training, it is made biased,
        as in Keras: (n − 1)/n times. (That is exact once nothing is left of the 1 that the average
        starts from.)

    Returns
    -------
    BatchNormWeights
        With ``affine=False`` it has neither gamma nor beta, with ``bias=False`` no beta.

    Raises
    ------
    ValueError
        If there is no batch normalization with this prefix, or more than one, or one of which a
        name is missing; the error lists the candidates. With ``track_running_stats=False`` there is
        none: evaluation uses the statistics of the batch then, which a layer of Keras cannot. Also
        what `BatchNormWeights` raises, or for a momentum outside [0, 1] or None, the cumulative
        average, which Keras does not have, or a ``values_per_step`` below 2.
    TypeError
        For tensors that do not hold floats, or a ``state_dict`` that does not map names, such as
        the module itself; or an ``eps`` or a momentum that is no number.

    Examples
    --------
    >>> from bn_tutorial import migration
    >>> norm = migration.from_torch(
    ...     {
    ...         "body.1.weight": [2.0, 1.0],
    ...         "body.1.bias": [0.0, 0.5],
    ...         "body.1.running_mean": [1.0, -1.0],
    ...         "body.1.running_var": [4.0, 9.0],
    ...         "body.1.num_batches_tracked": 100,
    ...     },
    ...     "body.1",
    ... )
    >>> norm.settings
    {'epsilon': 1e-05, 'momentum': 0.9, 'center': True, 'scale': True}
    >>> norm.moving_variance, norm.unbiased
    (array([4., 9.]), True)
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"expected a state_dict, names to tensors, got {type(state_dict)}")
    if others := [name for name in state_dict if not isinstance(name, str)]:
        raise TypeError(f"expected a state_dict, names to tensors, got {others[0]!r} for a name")
    state_dict = {name: value for name, value in state_dict.items() if value is not None}
    layers = _layers(state_dict, _TORCH)
    owner = _choose(layers, prefix, state_dict, _TORCH)
    names = _names(layers[owner], owner, _TORCH)
    _check_absent(names, owner, state_dict, lambda name: np.shape(state_dict[name]), _TORCH)
    if "beta" in names and "gamma" not in names:
        raise ValueError(f"{names['beta']!r} without a weight: PyTorch writes both or the weight")
    weights = {key: state_dict[name] for key, name in names.items()}
    norm = _norm(weights, eps, _one_minus(momentum), unbiased=True)
    return norm if values_per_step is None else _made_biased(norm, values_per_step)


def to_torch(
    norm: BatchNormWeights, prefix: str = "", *, values_per_step: int | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Write one batch normalization as PyTorch names it: a ``state_dict``, and arguments.

    ``torch.nn.BatchNorm2d(**arguments)`` is the module. ``load_state_dict`` takes tensors alone:
    ``{name: torch.from_numpy(array) for name, array in state_dict.items()}``. The module keeps its
    own ``num_batches_tracked``, which matters with ``momentum=None`` alone.

    PyTorch expects the channels second; weights per channel are the same wherever they are.

    Parameters
    ----------
    norm
        The weights and settings.
    prefix
        The name of the module in the ``state_dict``; ``""`` for the ``state_dict`` of the module
        itself.
    values_per_step
        Without it the variance is written as it is, which keeps the outputs in inference as they
        were. With n, the number of values per channel in one step of training, it is made
        unbiased, as in PyTorch: n/(n − 1) times.

    Returns
    -------
    state_dict : dict
        ``weight``, ``bias``, ``running_mean`` and ``running_var``, each an array of shape
        (channels,). Where there is either a gamma or a beta, the other is written as ones or zeros,
        and would be trained: PyTorch before ``bias=False`` has both or neither.
    arguments : dict
        ``num_features``, ``eps``, ``momentum`` (PyTorch's: the weight of the new value) and
        ``affine``.

    Raises
    ------
    ValueError
        For a ``values_per_step`` below 2, or one for a variance that is unbiased already, or that
        would be too large for its dtype.
    TypeError
        For anything but `BatchNormWeights`, such as the layer itself.

    Examples
    --------
    >>> import numpy as np
    >>> from bn_tutorial.migration import BatchNormWeights, to_torch
    >>> weights = np.array([[2.0], [0.5], [3.0], [4.0]])
    >>> norm = BatchNormWeights(*weights, epsilon=1e-3, momentum=0.99)
    >>> state_dict, arguments = to_torch(norm, "body.1", values_per_step=5)
    >>> state_dict["body.1.running_var"]
    array([5.])
    >>> arguments
    {'num_features': 1, 'eps': 0.001, 'momentum': 0.01, 'affine': True}
    """
    if not isinstance(norm, BatchNormWeights):
        raise TypeError(
            "expected BatchNormWeights, which can be made of the weights of a layer, "
            f"got {type(norm).__name__}"
        )
    variance = norm.moving_variance.copy()
    if values_per_step is not None:
        if norm.unbiased:
            raise ValueError("values_per_step is for a biased variance, and this one is unbiased")
        with np.errstate(over="ignore"):
            variance /= _bias(values_per_step)
        if (np.isinf(variance) > np.isinf(norm.moving_variance)).any():
            raise ValueError(f"the unbiased variance would not be finite in {variance.dtype}")
    affine = norm.gamma is not None or norm.beta is not None
    arrays = {}
    if affine:
        ones, zeros = np.ones_like(norm.moving_mean), np.zeros_like(norm.moving_mean)
        arrays["weight"] = ones if norm.gamma is None else norm.gamma.copy()
        arrays["bias"] = zeros if norm.beta is None else norm.beta.copy()
    arrays |= {"running_mean": norm.moving_mean.copy(), "running_var": variance}
    arguments = {
        "num_features": variance.size,
        "eps": norm.epsilon,
        "momentum": _one_minus(norm.momentum),
        "affine": affine,
    }
    prefix = _stripped(prefix, ".")
    return {_join(prefix, name, "."): array for name, array in arrays.items()}, arguments


class _Convention(NamedTuple):
    """How a framework names the weights of a batch normalization."""

    separator: str
    #: The name of each weight, by its name in Keras.
    leaves: dict[str, str]
    #: What else it writes of the same shape.
    besides: tuple[str, ...]
    #: Why there may be no averages.
    without: str


_TF1 = _Convention(
    "/",
    {name: name for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    ("renorm_mean", "renorm_stddev"),
    "a Saver of the trainable variables alone leaves the averages out",
)
_TORCH = _Convention(
    ".",
    {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    (),
    "with track_running_stats=False PyTorch has none, and evaluates with those of the batch",
)
_AVERAGES = ("moving_mean", "moving_variance")
_SQUEEZED = re.compile(r"(?P<path>.+)/moments/Squeeze(?P<second>_1)?/ExponentialMovingAverage")

# By scope, and by the name of a weight in Keras: the names in the file that it may have.
_Layers = dict[str, dict[str, list[str]]]


def _join(scope: str, name: str, separator: str) -> str:
    return f"{scope}{separator}{name}" if scope else name


def _stripped(scope: str, separator: str) -> str:
    """The scope without a separator at its end."""
    if not isinstance(scope, str):
        raise TypeError(f"the name of a scope or module must be a string, got {scope!r}")
    return scope.removesuffix(separator)


def _layers(names: Iterable[str], convention: _Convention) -> _Layers:
    """Every scope that has an average, and the names of the weights there."""
    layers: _Layers = {}
    for name in names:
        scope, _, leaf = name.rpartition(convention.separator)
        for key, expected in convention.leaves.items():
            if leaf == expected:
                layers.setdefault(scope, {})[key] = [name]
    return {scope: found for scope, found in layers.items() if {*_AVERAGES} & found.keys()}


def _add_classic(layers: _Layers, names: Iterable[str]) -> None:
    """Add the layers whose averages are of tensors, which are named after operations."""
    present = {*names}
    for name in sorted(present):
        match = _SQUEEZED.fullmatch(name)
        owners = _operation_scopes(match["path"]) if match else []
        owner = next((each for each in owners if {f"{each}/gamma", f"{each}/beta"} <= present), "")
        if match and owner:
            key = "moving_variance" if match["second"] else "moving_mean"
            found = layers.setdefault(
                owner, {leaf: [f"{owner}/{leaf}"] for leaf in ("gamma", "beta")}
            )
            found.setdefault(key, []).append(name)


def _operation_scopes(path: str) -> list[str]:
    """The ends of a path that may be the scope of an operation, which gamma and beta have too.

    The path is the scope of the variable and that of the operation, such as ``net/bn/net/bn``. They
    end alike, but that the operation's may count (``net/bn/net/bn_1``); the first may be empty.
    """
    parts = path.split("/")
    last = re.sub(r"_\d+$", "", parts[-1])
    return [
        "/".join(parts[start:])
        for start in range(len(parts))
        if start == 0 or parts[start - 1] in (last, parts[-1])
    ]


def _choose(layers: _Layers, scope: str, names: Iterable[str], convention: _Convention) -> str:
    """The one layer that has this scope, or that lies within it."""
    separator = convention.separator
    scope = _stripped(scope, separator)
    inside = _join(scope, "", separator)
    within = sorted(each for each in layers if each == scope or each.startswith(inside))
    if scope in layers or len(within) == 1:
        return scope if scope in layers else within[0]
    if within:
        raise ValueError(f"{scope!r} contains several batch normalizations, name one: {within}")
    there = sorted(name for name in names if name.startswith(inside))
    raise ValueError(
        f"no batch normalization in {scope!r}, whose names are {there}; those with averages are "
        f"{sorted(layers)} ({convention.without})"
    )


def _names(found: dict[str, list[str]], owner: str, convention: _Convention) -> dict[str, str]:
    """The one name of each weight that is there."""
    missing = [convention.leaves[key] for key in _AVERAGES if key not in found]
    if missing:
        there = sorted(name for names in found.values() for name in names)
        raise ValueError(f"the batch normalization {owner!r} has no {missing[0]}, only {there}")
    for key, names in found.items():
        if len(names) > 1:
            raise ValueError(f"{owner!r} has more than one {convention.leaves[key]}: {names}")
    return {key: name for key, [name] in found.items()}


def _check_absent(
    found: dict[str, str],
    owner: str,
    names: Iterable[str],
    shape_of: Callable[[str], tuple[int, ...]],
    convention: _Convention,
) -> None:
    """Raise where a gamma or beta is absent that may be there under another name."""
    absent = [convention.leaves[key] for key in ("gamma", "beta") if key not in found]
    separator, shape = convention.separator, shape_of(found["moving_mean"])
    known = {*found.values()} | {_join(owner, name, separator) for name in convention.besides}
    others = sorted(
        name
        for name in names
        if name.startswith(_join(owner, "", separator))
        and not any(name == each or name.startswith(each + separator) for each in known)
        and shape_of(name) == shape
    )
    if absent and others:
        raise ValueError(
            f"the batch normalization {owner!r} has no {' and no '.join(absent)}, and {others} "
            "may be that by another name"
        )


def _norm(
    weights: Mapping[str, Any], epsilon: float, momentum: float, unbiased: bool | None
) -> BatchNormWeights:
    """The batch normalization of these weights, of which gamma and beta may be absent."""
    return BatchNormWeights(
        **{"gamma": None, "beta": None, **weights},
        epsilon=epsilon,
        momentum=momentum,
        unbiased=unbiased,
    )


def _made_biased(norm: BatchNormWeights, values_per_step: int) -> BatchNormWeights:
    """The same with the biased variance."""
    if norm.unbiased is False:
        raise ValueError("values_per_step is for an unbiased variance, and this one is biased")
    variance = norm.moving_variance * _bias(values_per_step)
    return replace(norm, moving_variance=variance, unbiased=False)


def _bias(values_per_step: int) -> float:
    """(n − 1)/n, by which the biased variance of n values is smaller."""
    n = operator.index(values_per_step)
    if n < 2:
        raise ValueError(f"values_per_step must be 2 or more, got {n}: one value has no variance")
    return (n - 1) / n


def _one_minus(momentum: float) -> float:
    """The weight of the other value, in decimal: 1 − 0.9 is 0.1 and not 0.09999999999999998."""
    if momentum is None:
        raise ValueError(
            "momentum=None, PyTorch's cumulative average, has no counterpart in Keras: pass the "
            "weight of the new value for further training, such as 0.1"
        )
    if not 0 <= check_number(momentum, "momentum") <= 1:
        raise ValueError(f"momentum must lie in [0, 1], such as 0.1, got {momentum!r}")
    return float(1 - Decimal(repr(float(momentum))))


def _as_floats(value: Any, name: str) -> Array:
    """A copy of an array or of a tensor of PyTorch, which is not imported for that."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.array(as_array(value, name))
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats, got dtype {array.dtype}")
    return array


def _open(source: Any) -> Any:
    """The reader of a checkpoint."""
    if hasattr(source, "get_variable_to_shape_map") and hasattr(source, "get_tensor"):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"expected the path of a checkpoint or a reader, got {source!r}")
    import tensorflow as tf  # only where a file must be opened

    return tf.train.load_checkpoint(source)
