"""The messages in the tables of `book/wrong.ipynb` are what TensorFlow and Keras say, each of what
the row says that it comes of."""

import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute.values import PerReplica

from tools.rules import ROOT, read

L, v1 = keras.layers, tf.compat.v1
BATCH = np.ones((4, 3), np.float32)
CAUSES: list[Callable[[], object]] = []


def cause(program: Callable[[], object]) -> Callable[[], object]:
    """Add a program to those that end with a message, or warn with it, in the order of the book."""
    CAUSES.append(program)
    return program


def in_a_graph(program: Callable[[tf.compat.v1.Session], object]) -> Callable[[], object]:
    """A program that gets a session of a graph of its own."""

    def run() -> object:
        with tf.Graph().as_default(), v1.Session() as session:
            return program(session)

    run.__name__ = program.__name__
    return run


def network(channels: int = 3, **options: object) -> keras.Model:
    """A normalization that is called bn, and nothing else."""
    return keras.Sequential([keras.Input((channels,)), L.BatchNormalization(name="bn", **options)])


def averaged() -> tf.Operation:
    """The update of the moving average of a variable that is called mean."""
    mean = v1.get_variable("mean", [3], use_resource=True)
    return tf.train.ExponentialMovingAverage(0.9).apply([mean])


# Of a program for TensorFlow 1

for name in ("layers", "placeholder", "Session", "get_variable", "contrib"):
    CAUSES.append(lambda name=name: getattr(tf, name))


@cause
def placeholder_outside_of_a_graph():
    v1.placeholder(tf.float32)


@cause
def old_layer():
    v1.layers.batch_normalization(BATCH)


@cause
@in_a_graph
def axes_in_an_array(_):
    tf.nn.moments(v1.placeholder(tf.float32, [4, 5, 3]), np.arange(2))


@cause
@in_a_graph
def mode_not_fed(session):
    train_phase = v1.placeholder(tf.bool, [], "train_phase")
    session.run(tf.cond(train_phase, lambda: 1.0, lambda: 2.0))


@cause
@in_a_graph
def neither_initialized_nor_restored(session):
    session.run(averaged())


@cause
@in_a_graph
def reference_variable_not_initialized(session):
    session.run(v1.get_variable("mean", [3], use_resource=False))


@cause
@in_a_graph
def average_not_saved(session):
    averaged()
    session.run(v1.global_variables_initializer())
    with tempfile.TemporaryDirectory() as folder:
        path = v1.train.Saver(v1.trainable_variables()).save(session, f"{folder}/some")
        v1.train.Saver().restore(session, path)


@cause
@in_a_graph
def built_twice(_):
    for _ in range(2):
        v1.get_variable("bn/beta", [3])


# Of Keras 3


@cause
def axes_in_a_list():
    L.BatchNormalization(axis=[0, 1, 2])(np.ones((4, 5, 5, 3)))


@cause
def mode_by_position():
    L.BatchNormalization()(BATCH, True)


@cause
def mode_in_a_tensor():
    norm = network().layers[0]
    tf.function(lambda x, mode: norm(x, training=mode))(BATCH, tf.constant(True))


@cause
def made_in_each_call():
    normalized = tf.function(lambda x: L.BatchNormalization()(x, training=True))
    normalized(BATCH)


@cause
def argument_of_an_older_keras():
    L.BatchNormalization(fused=True)


@cause
def built_for_others():
    network().layers[0](np.ones((4, 5), np.float32))


@cause
def weights_without_averages():
    network().layers[0].set_weights([np.ones(3), np.zeros(3)])


def saved_and_loaded(saved: keras.Model, loaded: keras.Model) -> None:
    """Load the weights of one model into another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.weights.h5")
        saved.save_weights(path)
        loaded.load_weights(path)


@cause
def saved_without_gamma():
    saved_and_loaded(network(scale=False), network())


@cause
def saved_with_other_channels():
    saved_and_loaded(network(3), network(5))


class Own(L.BatchNormalization):
    """A layer that is not registered."""


def model_loaded(suffix: str) -> None:
    """Load a model with a layer of one's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, f"model{suffix}"))
        keras.Sequential([keras.Input((3,)), Own()]).save(path)
        keras.models.load_model(path)


@cause
def own_class_in_a_keras_file():
    model_loaded(".keras")


@cause
def own_class_in_an_h5_file():
    model_loaded(".h5")


def trained(model: keras.Model, weights: list, optimizer: keras.Optimizer) -> None:
    """A step of training of these weights."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(BATCH, training=True) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


@cause
def gradients_of_the_averages():
    model = network()
    trained(model, model.weights, keras.optimizers.SGD())


@cause
def unfrozen_too_late():
    model, optimizer = network(), keras.optimizers.SGD()
    model.trainable = False
    optimizer.build(model.trainable_variables)
    model.trainable = True
    trained(model, model.trainable_variables, optimizer)


class KnowsNoMask(L.Layer):
    """Hands on what it gets, and no mask."""

    def call(self, inputs):
        return inputs


@cause
def mask_in_front_of_a_layer_that_knows_none():
    layers = [keras.Input((4, 3)), L.Masking(), KnowsNoMask(), L.BatchNormalization()]
    keras.Sequential(layers)


@cause
def values_of_replicas_for_a_tensor():
    tf.constant(PerReplica([tf.ones(3), tf.ones(3)]))  # as a strategy of two returns it


def messages_of_the_book() -> list[str]:
    """The messages in the first columns of the tables."""
    [text] = [
        cell.source
        for cell in read(ROOT / "book" / "wrong.ipynb").cells
        if "(wrong-messages)=" in cell.source
    ]
    rows = re.findall(r"^\| (``.*?) \| ", text, re.MULTILINE)
    return [message.strip() for row in rows for message in re.findall("``(.+?)``", row)]


def said_by(program: Callable[[], object]) -> str:
    """What a program ends with, or else what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            program()
        except Exception as error:
            return str(error)
    return "\n".join(str(warning.message) for warning in caught)


def stands_in(message: str, said: str) -> bool:
    """Whether a message stands in a text word for word, with … for anything."""
    pattern = ".*".join(re.escape(part.strip()) for part in message.split("…"))
    return re.search(pattern, said, re.DOTALL) is not None


# In the same order.
QUOTED = [*zip(messages_of_the_book(), CAUSES, strict=True)]


@pytest.mark.parametrize(
    ("message", "program"), QUOTED, ids=[program.__name__ for _, program in QUOTED]
)
def test_a_program_says_what_the_book_quotes(message, program):
    said = said_by(program)
    assert stands_in(message, said), said
