"""The batches of whatever a Keras model can be trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["batches_of", "examples_in"]

Batch = tuple[Any, Any, Any]


def batches_of(
    data: Any,
    steps: int | None = None,
    batch_size: int | None = None,
    name: str = "data",
    *,
    shuffled: bool = False,
) -> Iterator[Batch]:
    """Yield up to ``steps`` batches ``(x, y, sample_weight)``; what is not there is None.

    ``data`` is an array or a dictionary of arrays (``x``), a tuple ``(x, y)`` or ``(x, y, w)`` of
    them, or yields batches of these forms: a `tf.data.Dataset`, a Keras `PyDataset`, a list, a
    generator. In a tuple or a dictionary, ``x`` may be of any structure of arrays. The last batch
    may be smaller. ``shuffled`` arrays are mixed first, as ``fit`` does it.
    """
    for value, argument in ((steps, "steps"), (batch_size, "batch_size")):
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (is_integer and value >= 1):
            raise ValueError(f"{argument} must be a positive integer or None, got {value!r}")
    if _is_arrays(data):
        raw: Iterable[Any] = _slices(data, batch_size or 32, name, shuffled)
    elif batch_size is not None:
        raise ValueError(
            f"batch_size is for arrays; {name} is a {type(data).__name__}, which yields batches"
        )
    else:
        raw = _yielded(data, steps is None, name)
    found = False
    for batch in itertools.islice(raw, steps):
        found = True
        yield keras.utils.unpack_x_y_sample_weight(batch)
    if not found:
        raise ValueError(f"{name} has no batches")


def examples_in(x: Any) -> int:
    """Return the number of examples in a batch of inputs, of any structure."""
    return int(np.shape(keras.tree.flatten(x)[0])[0])


def _is_arrays(data: Any, inside: bool = False) -> bool:
    """Whether this is arrays of all examples, and not something that yields batches."""
    if isinstance(data, Mapping | tuple) or (inside and isinstance(data, list)):
        values = list(data.values() if isinstance(data, Mapping) else data)
        return bool(values) and all(value is None or _is_arrays(value, True) for value in values)
    return hasattr(data, "shape") and hasattr(data, "__getitem__")


def _slices(data: Any, batch_size: int, name: str, shuffled: bool) -> Iterator[Any]:
    """Yield batches of arrays, the last one maybe smaller."""
    shapes = keras.tree.map_structure(
        lambda array: None if array is None else tuple(np.shape(array)), data
    )
    arrays = [array for array in keras.tree.flatten(data) if array is not None]
    sizes = {tuple(np.shape(array))[:1] for array in arrays}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"{name} must be arrays with one row per example each, got the shapes {shapes}"
        )
    [(size,)] = sizes
    if not size:
        raise ValueError(f"{name} has no examples: the shapes are {shapes}")
    order = np.random.default_rng(0).permutation(size) if shuffled else np.arange(size)
    for start in range(0, size, batch_size):
        rows = np.sort(order[start : start + batch_size])
        yield keras.tree.map_structure(lambda array, rows=rows: _rows_of(array, rows), data)


def _rows_of(array: Any, rows: Any) -> Any:
    if array is None:
        return None
    return tf.gather(array, rows) if tf.is_tensor(array) else array[rows]


def _yielded(data: Any, to_the_end: bool, name: str) -> Iterable[Any]:
    """Return what yields the batches, of which there must be an end if it is asked for."""
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        endless = count is None
        raw: Iterable[Any] = (data[i] for i in (itertools.count() if endless else range(count)))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        cardinality = data.cardinality() if isinstance(data, tf.data.Dataset) else None
        endless = cardinality is not None and cardinality == tf.data.INFINITE_CARDINALITY
        raw = data
    else:
        raise TypeError(
            f"{name} must be arrays, a tf.data.Dataset, a keras.utils.PyDataset or another "
            f"iterable of batches, got {_described(data)}"
        )
    if endless and to_the_end:
        raise ValueError(f"{name} has no end: say with steps how many batches to take")
    return raw


def _described(data: Any) -> str:
    """Return what something is, and for a dictionary what is in it."""
    kind = type(data).__name__
    if not isinstance(data, Mapping):
        return kind
    return f"a {kind} with " + ", ".join(f"{k!r}: {type(v).__name__}" for k, v in data.items())
