"""A model that runs leaves no trace, of whatever kind its state is."""

import random
from collections import OrderedDict

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.models import _state

L = keras.layers


class Busy(keras.Model):
    """It changes whatever a model can hold, each time it is called."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)
        self.calls = 0
        self.seen = [[0], {"key": [1]}]
        self.table, self.numbers = {"calls": 0}, {0}
        self.order = OrderedDict(first=0, last=0)
        inputs = keras.Input((2,))
        self.inner = keras.Model(inputs, L.ReLU()(inputs))
        self.counts = np.zeros(2)
        self.raw = tf.Variable(1.0)
        self.kept = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(3)
        self.late = L.Dense(2)  # called in training only

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, training=False):
        self.calls += 1
        self.seen[0].append(1)
        self.seen[1]["key"].append(2)
        self.table["calls"] += 1
        self.table[self.calls] = x
        self.numbers.add(self.calls)
        self.order[self.calls] = self.order.pop("first", 0)
        self.inner._nodes_by_depth[-self.calls] = []  # a dictionary in a wrapper of TensorFlow
        self.counts += 1
        self.raw.assign_add(1.0)
        self.kept.assign_add(1.0)
        self.latest = x
        keras.random.normal((), seed=self.seeds)
        self.add_loss(keras.ops.sum(x))
        return self.late(x) if training else self.dense(x)

    def state(self):
        return (
            self.calls,
            [list(self.seen[0]), list(self.seen[1]["key"])],
            [list(self.table), self.table["calls"]],
            sorted(self.numbers),
            list(self.order.items()),
            sorted(self.inner._nodes_by_depth),
            self.counts.tolist(),
            float(self.raw),
            float(self.kept),
            self.seeds.state.numpy().tolist(),
            hasattr(self, "latest"),
            len(self.losses),
            [weight.numpy().tolist() for weight in self.weights],
        )


X = np.ones((3, 2), "float32")


@pytest.mark.parametrize("context", [_state.unchanged, _state.kept])
@pytest.mark.parametrize("fails", [False, True])
def test_all_that_a_model_holds_is_given_back(context, fails):
    model = Busy()
    model(X)
    del model.latest
    model._clear_losses()
    before = model.state()
    try:
        with context(model):
            model(X)
            model(X)
            for now, then in zip(model.state()[:10], before[:10], strict=True):
                assert now != then
            assert model.latest is not None
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert model.state() == before


def test_what_was_built_already_keeps_its_state_while_the_rest_is_built():
    model = Busy()
    model(X)
    model._clear_losses()
    before = model.state()
    assert not model.late.built
    _state.build_on(model, X)
    assert model.state() == before
    outer = keras.Sequential([model, L.Dense(4)])
    _state.build_on(outer, X)
    assert [layer.built for layer in outer.layers] == [True, True]
    assert model.state() == before
    assert outer(X).shape == (3, 4)


@pytest.mark.parametrize("cls", [L.GRU, L.LSTM, L.SimpleRNN])
def test_a_recurrent_layer_with_a_state(cls):
    """Its variables are in containers that Keras has locked. It goes on where it stood."""
    keras.utils.set_random_seed(0)
    one, other = cls(2, stateful=True), cls(2, stateful=True)
    x = np.full((5, 4, 3), 0.1, "float32")
    for layer in (one, other):
        layer.build(x.shape)
    other.set_weights(one.get_weights())
    with _state.kept(one):
        inside = one(x)
    first, second = other(x), other(x)
    assert np.abs(first - second).max() > 1e-3
    for found, expected in ((inside, first), (one(x), first), (one(x), second)):
        np.testing.assert_array_equal(found, expected)


def test_optimizer_and_metrics_are_among_the_variables():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    model.fit(X, X, verbose=0)
    found = {id(variable) for variable in _state.variables_of(model)}
    for variable in [*model.weights, *model.optimizer.variables, *model.metrics_variables]:
        assert id(variable.value) in found


def draws():
    """A number of each generator that a program shares."""
    return [
        random.random(),
        float(np.random.rand()),  # noqa: NPY002
        float(keras.random.uniform(())),
        float(tf.random.uniform(())),
        float(tf.random.get_global_generator().uniform(())),
    ]


def test_a_program_draws_the_same_numbers_and_the_model_goes_on_with_its_own():
    def seeded():
        keras.utils.set_random_seed(1)
        tf.random.set_global_generator(tf.random.Generator.from_seed(1))

    seeded()
    expected = [draws(), draws(), draws()]
    seeded()
    apart = _state.Randomness()
    found, others = [], []
    for _ in range(3):
        for _ in range(2):
            with apart.apart():
                others.append(draws())
        found.append(draws())
    assert found == expected
    for of_one_kind in zip(*others, strict=True):
        assert len({*of_one_kind}) == 6


def test_generators_that_the_model_makes_first_are_not_left():
    keras.backend.clear_session(free_memory=False)
    shared = keras.src.backend.common.global_state.get_global_attribute
    assert shared("global_seed_generator") is None
    with _state.Randomness().apart():
        keras.random.uniform(())
        assert shared("global_seed_generator") is not None
    assert shared("global_seed_generator") is None
