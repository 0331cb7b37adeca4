"""Run a model and leave no trace of it."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

__all__ = ["Randomness", "build_on", "eagerly", "kept", "unchanged", "variables_of"]

KERAS_SEEDS = "global_seed_generator"  # what Keras calls it; before 3.13 it has no constant


def build_on(model: Any, x: Any) -> None:
    """Let a model make what its first call makes, as far as it has not."""
    layers = model._flatten_layers()
    built = [layer for layer in layers if layer.built]
    if len(built) < len(layers):
        with _kept(variables_of(model), built), eagerly():
            model(x, training=False)


@contextmanager
def eagerly() -> Iterator[None]:
    """Run functions of TensorFlow as Python, and trace none."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Give a model back as it came: its variables, what its layers hold, and all random seeds."""
    with kept(model), Randomness().apart():
        yield


@contextmanager
def kept(model: Any) -> Iterator[None]:
    """Give a model back as it came: its variables, and what its layers hold."""
    with _kept(variables_of(model), model._flatten_layers()):
        yield


def variables_of(model: Any) -> list[tf.Variable]:
    """Return all variables that a model can reach, those of its optimizer and metrics too.

    Of one that is distributed, that is the variable of each replica.
    """
    found: list[tf.Variable] = []
    tracked = [
        thing
        for layer in model._flatten_layers()  # an unbuilt model need not lead to all of them
        for thing in tf.train.TrackableView(layer).descendants()
    ]
    for thing in [*tracked, *model.variables, *model.metrics_variables]:
        variable = thing if isinstance(thing, tf.Variable) else getattr(thing, "value", None)
        if isinstance(variable, tf.Variable):
            found += getattr(variable, "values", [variable])
    return list({id(variable): variable for variable in found}.values())


@contextmanager
def _kept(variables: Iterable[tf.Variable], layers: Iterable[Any]) -> Iterator[None]:
    """Give back the values of variables, and what layers and their losses hold."""
    values = [(variable, tf.identity(variable)) for variable in variables]
    things = [thing for layer in layers for thing in (layer, getattr(layer, "_compile_loss", None))]
    attributes = [(vars(thing), dict(vars(thing))) for thing in things if thing is not None]
    contents: dict[int, tuple[Any, Any]] = {}
    for _, before in attributes:
        _note(before.values(), contents)
    try:
        yield
    finally:
        for now, before in attributes:
            for name in now.keys() - before.keys():
                del now[name]
            now.update(before)
        for container, content in contents.values():
            _refill(container, content)
        for variable, value in values:
            variable.assign(value)


def _note(values: Iterable[Any], contents: dict[int, tuple[Any, Any]]) -> None:
    """Copy what is in the containers and arrays among ``values``, and in those in them."""
    for value in values:
        if id(value) in contents:
            continue
        if isinstance(value, np.ndarray):
            contents[id(value)] = value, value.copy()
        elif isinstance(value, list | dict | set):
            # Of the plain kind: Keras would track what is in a copy of one of its containers.
            contents[id(value)] = value, _kind_of(value)(getattr(value, "__wrapped__", value))
            _note(list(value.values() if isinstance(value, dict) else value), contents)


def _refill(container: Any, content: Any) -> None:
    """Put back what a container held, if it holds something else.

    Without telling Keras, which tracks what is put into its containers. TensorFlow is to know.
    """
    if isinstance(container, np.ndarray):
        if container.flags.writeable:
            container[...] = content
        return
    if _identities(container) == _identities(content):
        return
    kind = _kind_of(container)
    fill = "extend" if kind is list else "update"
    if hasattr(container, "tracker"):
        kind.clear(container)
        getattr(kind, fill)(container, content)
    else:
        container.clear()
        getattr(container, fill)(content)


def _kind_of(container: Any) -> Any:
    """Return the kind of container of Python that this is one of."""
    kinds = (list, OrderedDict, dict, set)  # an OrderedDict has an order besides its dict
    return next(kind for kind in kinds if isinstance(container, kind))


def _identities(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [(key, id(value)) for key, value in container.items()]
    return [id(value) for value in container]


class Randomness:
    """Random numbers apart from those that a program draws, of all generators that it shares."""

    def __init__(self) -> None:
        self._state: Mapping[str, Any] = {}

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Draw others than the program will, and go on with these the next time."""
        before = _random_state()
        # From other seeds of tf.random.set_seed, lest the kernels of those to come be advanced.
        own = self._state or {**before, "seeds": before["seeds"] and random.Random(0)}
        _set_random_state(own)
        try:
            yield
        finally:
            self._state = _random_state()
            _set_random_state(before)


def _random_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, Keras and TensorFlow."""
    shared = global_state.get_global_attribute(KERAS_SEEDS)
    generator = stateful_random_ops.global_generator
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (others may draw so)
        "keras": shared and (shared, tf.identity(shared.state.value)),
        "tensorflow": generator and (generator, tf.identity(generator.state)),
        "seeds": getattr(context.context(), "_rng", None),  # of tf.random.set_seed, if called
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    shared, value = state["keras"] or (None, None)
    global_state.set_global_attribute(KERAS_SEEDS, shared)
    if shared is not None:
        shared.state.assign(value)
    generator, value = state["tensorflow"] or (None, None)
    stateful_random_ops.global_generator = generator
    if generator is not None:
        generator.state.assign(value)
    if state["seeds"] is not None:
        context.context()._rng = state["seeds"]
