"""An examination leaves everything as it was, bit for bit, also when it fails on the way."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context

from bn_tutorial import doctor
from bn_tutorial.models import find_batch_norms
from bn_tutorial.models._state import KERAS_SEEDS

L = keras.layers
RENORM = {"renorm": True} if hasattr(L.BatchNormalization(), "renorm") else {}  # from Keras 3.13 on


class Fuse(L.Layer):
    """Hands on what it gets, until it blows, at the call that is set for all of them."""

    left, error = 0, None  # of the class: what is in a layer is given back

    def call(self, inputs):
        blow()
        return inputs


def blow():
    Fuse.left -= 1
    if Fuse.left == 0:
        raise Fuse.error


@pytest.fixture(autouse=True)
def _no_fuse_is_set():
    yield
    Fuse.left, Fuse.error = 0, None


def loss_of(y, outputs):
    """A loss that has a fuse too."""
    if Fuse.error is OUT_OF_LOSS:
        blow()
    return tf.reduce_mean((y - outputs) ** 2, axis=-1)


OUT_OF_LOSS = ArithmeticError("of the loss")


class Diary(keras.Model):
    """Writes into itself at each call, and draws from all generators that there are."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.fuse = L.Dense(5), L.BatchNormalization(), Fuse()
        self.noise, self.last = L.GaussianNoise(0.1), L.Dense(1)
        self.seeds = keras.random.SeedGenerator(3)
        self.steps = tf.Variable(0.0, trainable=False)
        self.count, self.shapes, self.by_mode, self.modes = 0, [], {"all": [0]}, set()
        self.sums = np.zeros(3)

    def call(self, x, training=None):
        self.count += 1
        self.shapes.append(tuple(x.shape))
        self.by_mode["all"][0] += 1
        self.by_mode[training] = self.count
        self.modes.add(training)
        self.sums += 1
        self.latest = x
        self.steps.assign_add(1.0)
        noise = random.random() + np.random.rand() + tf.random.normal([])  # noqa: NPY002
        noise += keras.random.normal(()) + keras.random.normal((), seed=self.seeds)
        noise += tf.random.get_global_generator().normal([])
        x = self.fuse(self.norm(self.first(x), training=training))
        return self.last(self.noise(x, training=training)) + 0.01 * noise


class Stepper(keras.Model):
    """Trains by a step of its own, which keeps a record."""

    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([L.Dense(5), L.BatchNormalization(), Fuse(), L.Dropout(0.3)])
        self.last = L.Dense(1)
        self.mean, self.record = keras.metrics.Mean("mean"), []

    def call(self, x, training=None):
        return self.last(self.body(x, training=training))

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        self.record.append(len(self.record))
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True), weight)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        self.mean.update_state(loss)
        return {"mean": self.mean.result()}


def sequential():
    norms = L.BatchNormalization(), L.BatchNormalization(trainable=False)
    layers = [L.Dense(6), norms[0], Fuse(), L.Dropout(0.3), L.Dense(6), norms[1], L.Dense(1)]
    return keras.Sequential([keras.Input((4,)), *layers])


def functional():
    inner = keras.Sequential([L.Dense(5), L.BatchNormalization(), L.AlphaDropout(0.2), Fuse()])
    inputs = keras.Input((4,))
    z = L.Concatenate()([inner(inputs), L.SpectralNormalization(L.Dense(3))(inputs)])
    return keras.Model(inputs, L.Dense(1)(L.BatchNormalization(**RENORM)(z)))


BUILDS = {
    "sequential": sequential,
    "functional, nested": functional,
    "subclassed, with a state of its own": Diary,
    "with a train_step of its own": Stepper,
}


def trained(name):
    """A model that was trained a little, in such a way that it is the same each time."""
    keras.utils.set_random_seed(1)
    tf.random.set_global_generator(tf.random.Generator.from_seed(2))
    model = BUILDS[name]()
    settings = {"metrics": ["mae"]} if name != "with a train_step of its own" else {}
    eager = name != "sequential"  # the others' records are of calls that are not traced
    if eager:
        settings["run_eagerly"] = True
    model.compile(keras.optimizers.Adam(0.01), loss_of, jit_compile=False, **settings)
    model.fit(*data(), batch_size=16, verbose=0)
    return model


once = functools.cache(trained)


def data(seed=0):
    x = np.random.default_rng(seed).normal(size=(64, 4)).astype("float32")
    return x, x[:, :1] ** 2


def things_of(model):
    return [*model._flatten_layers(), model.optimizer, model._compile_loss, *model.metrics]


def variables_of(model):
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def exact(value):
    """What a value is, down to the bit, and which one it is."""
    if isinstance(value, dict):
        return id(value), [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, set):
        return id(value), sorted((exact(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return id(value), [exact(item) for item in value]
    if isinstance(value, tf.Variable | keras.Variable | tf.Tensor | np.ndarray):
        return id(value), np.asarray(value).tobytes()
    if isinstance(value, int | float | str):
        return value
    return id(value)


def state_of(model):
    """All that an examination could change, and things that are to live as long as it is kept."""
    values = [value for thing in things_of(model) for value in vars(thing).values()]
    state = {
        "variables": [(v.path, v.trainable, np.asarray(v).tobytes()) for v in variables_of(model)],
        "trainable": [layer.trainable for layer in model._flatten_layers()],
        "attributes": [
            {name: exact(value) for name, value in vars(thing).items()}
            for thing in things_of(model)
        ],
        "eagerly": tf.config.functions_run_eagerly(),
        "layer": keras.layers.Layer.__call__,
        "callbacks": list(context.context().op_callbacks),
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "keras": exact(global_state.get_global_attribute("global_seed_generator")),
    }
    return state, values


def assert_unchanged(model, before):
    after = state_of(model)[0]
    for name, was in before[0].items():
        if name != "attributes":
            assert after[name] == was, name
    for thing, was, now in zip(
        things_of(model), before[0]["attributes"], after["attributes"], strict=True
    ):
        differ = {name for name in was | now if was.get(name) != now.get(name)}
        assert not differ, (thing, differ)
    assert not any("call" in vars(norm) for _, norm in find_batch_norms(model))


@pytest.mark.parametrize("name", BUILDS)
def test_examined(name):
    model = once(name)
    before = state_of(model)
    x, y = data()
    doctor.examine(model, (x, y, np.ones(64)), data(1), batch_size=16)
    assert_unchanged(model, before)


# Where: in a first pass (or a training step of the model's own), with other averages, in a step
# with gradients, in the second batch, on the validation data.
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (2, KeyboardInterrupt),
        (3, ValueError),
        (5, ValueError),
        (8, KeyboardInterrupt),
        (14, OSError),
    ],
)
@pytest.mark.parametrize("name", BUILDS)
def test_a_layer_that_fails(name, call, error):
    model = once(name)
    before = state_of(model)
    Fuse.left, Fuse.error = call, error("here")
    with pytest.raises(error, match="here"):
        doctor.examine(model, data(), data(1), batch_size=16)
    assert Fuse.left == 0
    assert_unchanged(model, before)


def test_a_train_step_that_fails():
    """What `fit` prepares for it may be missing, so that is no error; an interrupt is."""
    model = once("with a train_step of its own")
    before = state_of(model)
    Fuse.left, Fuse.error = 1, ValueError("here")
    doctor.examine(model, data(), batch_size=16)
    assert Fuse.left < 0
    assert_unchanged(model, before)
    Fuse.left, Fuse.error = 1, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        doctor.examine(model, data(), batch_size=16)
    assert_unchanged(model, before)


@pytest.mark.parametrize("call", [2, 3])
@pytest.mark.parametrize("name", BUILDS)
def test_a_loss_that_fails(name, call, monkeypatch):
    model = once(name)
    before = state_of(model)
    monkeypatch.setattr(Fuse, "call", lambda self, inputs: inputs)
    Fuse.left, Fuse.error = call, OUT_OF_LOSS
    with pytest.raises(ArithmeticError, match="of the loss"):
        doctor.examine(model, data(), batch_size=16)
    assert Fuse.left == 0
    monkeypatch.undo()
    assert_unchanged(model, before)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_data_that_fail(which):
    def broken():
        yield data()
        raise OSError("the disk")

    model = once("with a train_step of its own")
    before = state_of(model)
    with pytest.raises(OSError, match="the disk"):
        doctor.examine(model, **{"train": [data(), data()], "validation": None, which: broken()})
    assert_unchanged(model, before)


def numbers():
    """What comes next out of each generator."""
    return [
        random.random(),
        np.random.rand(),  # noqa: NPY002
        np.ravel(tf.random.normal([2])).tolist(),
        np.ravel(tf.function(lambda: tf.random.normal([2]))()).tolist(),
        np.ravel(keras.random.normal((2,))).tolist(),
        np.ravel(tf.random.get_global_generator().normal([2])).tolist(),
    ]


@pytest.mark.parametrize("first", [True, False], ids=["drawn from before", "not drawn from"])
@pytest.mark.parametrize("fails", [True, False], ids=["fails", "ends"])
def test_the_random_numbers_that_follow(first, fails):
    model = once("subclassed, with a state of its own")

    def course(examines):
        keras.utils.set_random_seed(7)
        global_state.set_global_attribute(KERAS_SEEDS, None)  # Keras 3.12 goes on with it
        tf.random.set_global_generator(tf.random.Generator.from_seed(8))
        found = numbers() if first else []
        if examines:
            Fuse.left, Fuse.error = (6 if fails else 0), ValueError()
            try:
                doctor.examine(model, data(), data(1), batch_size=16)
            except ValueError:
                assert fails
        return found + numbers() + numbers()

    assert course(True) == course(False)


@pytest.mark.parametrize("name", BUILDS)
def test_training_goes_on_as_without_it(name):
    def course(examines):
        model = trained(name)
        if examines:
            doctor.examine(model, data(), data(1), batch_size=16)
        history = model.fit(*data(), batch_size=16, verbose=0).history
        variables = [(v.path, np.asarray(v).tobytes()) for v in variables_of(model)]
        return history, [value for _, value in variables], model.predict(data()[0], verbose=0)

    with_it, without = course(True), course(False)
    assert with_it[:2] == without[:2]
    np.testing.assert_array_equal(with_it[2], without[2], strict=True)


@pytest.mark.parametrize("name", sorted(set(BUILDS) - {"subclassed, with a state of its own"}))
def test_training_begins_as_without_it(name):
    """Also of a model that the examination has built, unless what builds it draws and counts."""

    def course(examines):
        keras.utils.set_random_seed(1)
        tf.random.set_global_generator(tf.random.Generator.from_seed(2))
        model = BUILDS[name]()
        model.compile("adam", "mse", jit_compile=False, run_eagerly=True)
        if examines:
            doctor.examine(model, data(), batch_size=16)
        model.fit(*data(), batch_size=16, verbose=0)
        return [np.asarray(v).tobytes() for v in variables_of(model)]

    assert course(True) == course(False)


def test_a_trace_of_before_is_not_lost():
    """What was compiled stays compiled, and goes on without a new trace."""
    traces = []

    class Traced(L.Layer):
        def call(self, inputs):
            traces.append(tf.executing_eagerly())
            return inputs

    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(), Traced()])
    model.compile("sgd", "mse", jit_compile=False)
    x = data()[0]
    model.fit(x, x, batch_size=32, verbose=0)
    model.predict(x, batch_size=32, verbose=0)
    functions = model.train_function, model.predict_function
    del traces[:]
    doctor.examine(model, x)
    assert traces
    assert all(traces)
    del traces[:]
    model.fit(x, x, batch_size=32, verbose=0)
    model.predict(x, batch_size=32, verbose=0)
    assert not traces
    assert (model.train_function, model.predict_function) == functions
