"""Set the moving averages of a model to the statistics of data."""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from .._checks import Array
from ._batches import Batch, batches_of
from ._inside import batch_norms_of
from ._measured import Measured, moments_of_examples
from ._observing import observing, on_batch_statistics
from ._state import Randomness, build_on, kept
from ._types import AnyLayer

__all__ = ["recalibrate"]


def recalibrate(
    model: AnyLayer, data: Any, steps: int | None = None, *, batch_size: int | None = None
) -> AnyLayer:
    """Set the moving averages of every batch normalization to what they estimate.

    That is the mean and the biased variance of what the layer sees in ``data`` under the present
    weights, while all batch normalizations use the statistics of the batch and everything else,
    dropout above all, is as in inference. Each value counts the same, whichever batch it is in: the
    statistics of the first layer are those of all data at once. They are merged in float64.

    Nothing else of the model changes, nor if this fails: neither weights, optimizer, metrics and
    random seeds, nor ``trainable``, compiled functions and what layers hold in attributes. (A model
    that was not built yet is built. What an object of another kind in an attribute of a layer does
    to itself when the model is called, it does.)

    The same idea elsewhere: *Precise BN* (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021)
    merges the moments of batches of one size as it is done here. PyTorch's
    ``torch.optim.swa_utils.update_bn`` stores the plain average of the batches' means and of their
    unbiased variances, with dropout on, which leaves out how far these means lie apart.

    Parameters
    ----------
    model
        A model of any kind, in which `find_batch_norms` finds them; or a layer that holds some, or
        is one. It must run eagerly.
    data
        What it was trained on, mixed: arrays (``x``, or a tuple ``(x, y)``, of which y is not
        used), which are taken in their order, or what yields batches of them, such as a
        `tf.data.Dataset`, a `keras.utils.PyDataset`, a list or a generator. Take batches as large
        as in training; of smaller ones, or of one class each, the deeper layers see something else.
    steps
        How many batches, at most; all if None.
    batch_size
        For arrays; 32 if None.

    Returns
    -------
    keras.layers.Layer
        ``model`` itself. Frozen layers are set as well: they do not learn, but now fit the data. A
        layer that is called more than once gets the statistics of all its calls. (Keras calls the
        cell of a recurrent layer once more on the first step in time, to learn the shape of its
        outputs, in training too. So that step counts twice, unless ``unroll=True``.)

    Warns
    -----
    UserWarning
        If moving averages are left alone: those of a layer that was not called in inference mode or
        whose inputs were masked altogether, and variables called ``moving_mean`` or
        ``moving_variance`` that belong to no batch normalization of Keras.

    Raises
    ------
    TypeError
        If ``model`` is neither a model nor a layer, or ``data`` yields no batches.
    ValueError
        If there are no batches, or, without ``steps``, of a `tf.data.Dataset` or a
        `keras.utils.PyDataset` that says so, no end of them (another iterable without an end is
        read for ever); if no batch normalization is called on any value, or one in a graph that
        cannot be run eagerly, such as that of `tf.vectorized_map`; or if a statistic is not a
        finite number in the dtype of its average. What the model itself raises is passed on.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from bn_tutorial.models import recalibrate
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), norm])
    >>> model = recalibrate(model, np.float32([[1], [2], [6]]))
    >>> norm.moving_mean.numpy()
    array([3.], dtype=float32)
    >>> norm.moving_variance.numpy().round(3)
    array([4.667], dtype=float32)

    After a short training the averages lag: at a momentum of 0.99, two thirds of them are still
    what they were 40 steps before. The model has learned more than inference shows:

    >>> keras.utils.set_random_seed(0)
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.05), "mse")
    >>> x = np.random.default_rng(0).normal(3.0, size=(256, 4))
    >>> y = x.sum(axis=1) - 12.0
    >>> history = model.fit(x, y, epochs=5, verbose=0)
    >>> before = model.evaluate(x, y, verbose=0)
    >>> after = recalibrate(model, x).evaluate(x, y, verbose=0)
    >>> print(f"loss {before:.0f}, recalibrated {after:.0f}")
    loss 56, recalibrated 0
    """
    batch_norms_of(model)  # raises where there is no model, before any data is taken
    batches = batches_of(data, steps, batch_size)
    first = next(batches)
    build_on(model, first[0])
    norms = batch_norms_of(model)
    seen = _measured(model, [norm for _, norm in norms], itertools.chain([first], batches))
    measured = [(way, norm, seen[id(norm)]) for way, norm in norms if seen[id(norm)].count]
    if not measured:
        names = ", ".join(way for way, _ in norms)
        raise ValueError(
            f"no batch normalization of the model is called on any value; it has {names or 'none'}"
        )
    values = [
        (average, _as_stored(average, value, found.counts, way))
        for way, norm, found in measured
        for average, value in _statistics(norm, found)
    ]
    for average, value in values:
        average.assign(value)
    if left := [
        *(way for way, norm in norms if not seen[id(norm)].count),
        *_of_others(model, norms),
    ]:
        warnings.warn(f"left alone, since it saw no value: {', '.join(left)}", stacklevel=2)
    return model


def _measured(model: Any, norms: list[Any], batches: Iterable[Batch]) -> dict[int, Measured]:
    """Return what each layer sees in the batches, by its id. The model stays as it is."""
    seen: dict[int, Measured] = defaultdict(Measured)

    def see(norm: Any, call: Any, inputs: Any, given: dict[str, Any]) -> Any:
        if in_stateless_scope():  # Keras asks for shapes, and there are no values
            return call(inputs, **given)
        if not tf.executing_eagerly():
            raise ValueError(
                f"{norm.name!r} is called in a graph that cannot be run eagerly, such as that of "
                "tf.vectorized_map, so that what it sees has no values"
            )
        batch = moments_of_examples(norm, inputs, given.get("mask"))
        seen[id(norm)].add(*batch.of_the_batch())
        return on_batch_statistics(norm, call, inputs, given)

    of_the_model = Randomness()  # and of the data another: batches may be drawn at random
    with kept(model):
        for x, _, _ in batches:
            with of_the_model.apart(), observing(norms, see):
                model(x, training=False)
    return seen


def _statistics(norm: Any, found: Measured) -> Iterator[tuple[Any, Array]]:
    """Yield each average of a layer and what it estimates."""
    yield norm.moving_mean, found.mean
    yield norm.moving_variance, found.variance
    if getattr(norm, "renorm", False):  # which derives the variance from a deviation of its own
        deviation = np.sqrt(found.variance + norm.epsilon)
        yield norm.moving_stddev, deviation
        yield norm.renorm_mean, found.mean
        yield norm.renorm_stddev, deviation


def _as_stored(average: Any, value: Array, counts: Array, way: str) -> Any:
    """Return a statistic in the dtype of its average; raise if it is not a finite number there.

    A channel without values keeps its average.
    """
    with np.errstate(over="ignore"):
        stored = keras.ops.convert_to_tensor(value, average.dtype)
    if not np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(stored, "float32"))).all():
        raise ValueError(
            f"the {average.name} of {way} would not be finite in {average.dtype}: look for values "
            "that are not numbers, or too large, in the data and in the weights before it"
        )
    return keras.ops.where(counts > 0, stored, average)


def _of_others(model: Any, norms: list[tuple[str, Any]]) -> list[str]:
    """Return the names of moving averages of what is no batch normalization of Keras."""
    known = {id(variable) for _, norm in norms for variable in norm.variables}
    return [
        variable.path
        for variable in model.variables
        if id(variable) not in known
        and any(name in variable.name for name in ("moving_mean", "moving_variance"))
    ]
