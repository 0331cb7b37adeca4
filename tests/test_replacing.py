"""Models after `replace_batch_norm` against the models that they were."""

import keras
import numpy as np
import pytest

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, replace_batch_norm

L = keras.layers
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # a few roundings of float32


def block(shape=(6, 6, 3), name="inner"):
    stack = L.Conv2D(4, 3), L.BatchNormalization(momentum=0.6), L.ReLU()
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def functional():
    x = keras.Input((6, 6, 3))
    y = L.BatchNormalization(axis=-1, epsilon=0.01, momentum=0.5)(block()(x))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


def wrapped():
    norm = L.TimeDistributed(L.BatchNormalization(momentum=0.5))
    stack = L.TimeDistributed(L.Dense(3)), norm, L.Flatten(), L.Dense(2)
    return keras.Sequential([keras.Input((6, 6, 3)), *stack])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [L.Conv2D(4, 3), L.BatchNormalization(momentum=0.5)]
        self.head = {"flatten": L.Flatten(), "dense": L.Dense(2)}

    def call(self, x, training=None):
        for layer in self.blocks:
            x = layer(x)
        return self.head["dense"](self.head["flatten"](x))


MODELS = {"functional": functional, "wrapped": wrapped, "subclassed": Subclassed}


def data(size=64):
    rng = np.random.default_rng(0)
    return rng.normal(2, 3, (size, 6, 6, 3)).astype("float32"), rng.normal(size=(size, 2))


def trained(make, *, replace_at=None):
    """What three epochs of training lead to, where the classes are replaced before one of them."""
    keras.utils.set_random_seed(0)
    model, (x, y) = make(), data()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse", jit_compile=False)
    losses = []
    for epoch in range(3):
        if epoch == replace_at:
            replace_batch_norm(model)
        losses += model.fit(x, y, shuffle=False, verbose=0).history["loss"]
    evaluated = model.evaluate(x, y, verbose=0)
    return losses, evaluated, [weight.numpy() for weight in model.weights], model


@pytest.mark.parametrize("kind", MODELS)
def test_a_replaced_model_trains_as_before(kind):
    expected = trained(MODELS[kind])
    for epoch in (0, 2):  # before anything is traced, and with the state of the optimizer
        got = trained(MODELS[kind], replace_at=epoch)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-4)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-4)
        for a, b in zip(got[2], expected[2], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        found = find_batch_norms(got[3])
        assert found
        assert all(type(norm) is BatchNormalization for _, norm in found)


@pytest.mark.parametrize("kind", MODELS)
def test_every_traced_function_uses_the_new_class(kind, monkeypatch):
    """Also the compiled ones, which were traced with the old class."""
    *_, model = trained(MODELS[kind])
    x, y = data()
    model.predict(x, verbose=0)
    calls = []
    call = BatchNormalization.call

    def counted(self, inputs, training=None, mask=None):
        calls.append(training)
        return call(self, inputs, training=training, mask=mask)

    monkeypatch.setattr(BatchNormalization, "call", counted)
    assert replace_batch_norm(model) is model
    model.predict(x, verbose=0)
    assert calls
    assert not any(calls)
    calls.clear()
    model.evaluate(x, y, verbose=0)
    assert calls
    calls.clear()
    model.fit(x, y, verbose=0)
    assert any(calls)


def test_a_compiled_model_inside():
    inner = block()
    inner.compile("sgd", "mse", jit_compile=False)
    inner.predict(data()[0], verbose=0)
    old = inner.predict_function
    replace_batch_norm(keras.Sequential([keras.Input((6, 6, 3)), inner]))
    inner.predict(data()[0], verbose=0)
    assert inner.predict_function is not old


def test_state_settings_and_identity_are_kept():
    model = functional()
    norms = [norm for _, norm in find_batch_norms(model)]
    norms[1].trainable = False
    ids, weights = [id(weight) for weight in model.weights], model.get_weights()
    configs = [norm.get_config() for norm in norms]
    x, _ = data()
    expected = model(x).numpy()
    replace_batch_norm(model)
    assert [norm for _, norm in find_batch_norms(model)] == norms
    assert [norm.get_config() for norm in norms] == configs
    assert [id(weight) for weight in model.weights] == ids
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(model(x), expected, **CLOSE)


# Keras reads variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saved_it_is_the_class_of_this_package(tmp_path):
    *_, model = trained(functional, replace_at=1)
    x, y = data()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [type(norm) for _, norm in find_batch_norms(loaded)] == [BatchNormalization] * 2
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    fresh = functional()
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(fresh(x), model(x), **CLOSE)
    loaded.fit(x, y, verbose=0)
    copy = keras.models.clone_model(model)
    assert [type(norm) for _, norm in find_batch_norms(copy)] == [BatchNormalization] * 2


def test_a_model_that_is_not_built():
    model = replace_batch_norm(keras.Sequential([L.Dense(3), L.BatchNormalization()]))
    y = model(np.arange(8.0).reshape(4, 2), training=True)
    np.testing.assert_allclose(np.mean(y, axis=0), np.zeros(3), atol=1e-5)
    assert type(model.layers[1]) is BatchNormalization
    assert model.layers[1].built


def test_only_the_class_of_keras_is_replaced():
    class Own(L.BatchNormalization):
        pass

    class OfOurs(BatchNormalization):
        pass

    norms = [Own(), OfOurs(), BatchNormalization(), L.BatchNormalization()]
    others = [L.LayerNormalization(), L.GroupNormalization(1), L.Dense(2)]
    classes = [Own, OfOurs, BatchNormalization, BatchNormalization, *map(type, others)]
    model = keras.Sequential([*norms, *others])
    assert [type(layer) for layer in replace_batch_norm(model).layers] == classes


def test_a_batch_normalization_itself():
    norm = L.BatchNormalization()
    assert replace_batch_norm(norm) is norm
    assert type(norm) is BatchNormalization
    np.testing.assert_allclose(np.ravel(norm(np.float32([[1], [3]]), training=True)), [-1, 1], 1e-3)


@pytest.mark.skipif(not hasattr(L.BatchNormalization(), "renorm"), reason="no renorm in this Keras")
def test_an_argument_that_the_class_leaves_to_keras():
    settings = {"renorm": True, "momentum": 0.5}
    x = data()[0]
    keras_layer = L.BatchNormalization(**settings)
    ours = replace_batch_norm(L.BatchNormalization(**settings))
    for training in [True, True, False]:
        a, b = (layer(x, training=training) for layer in (keras_layer, ours))
        np.testing.assert_array_equal(a, b)


class Loud(L.BatchNormalization):
    """A subclass that does something of its own."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) + 1


@pytest.mark.parametrize("kind", MODELS)
def test_back_to_keras_and_to_a_subclass(kind):
    keras.utils.set_random_seed(0)
    model, (x, _) = MODELS[kind](), data()
    expected, ids = model(x).numpy(), [id(weight) for weight in model.weights]
    for cls in (BatchNormalization, L.BatchNormalization, BatchNormalization):
        assert replace_batch_norm(model, cls) is model
        assert {type(norm) for _, norm in find_batch_norms(model)} == {cls}
        np.testing.assert_allclose(model(x), expected, **CLOSE)
    replace_batch_norm(model, Loud)
    assert {type(norm) for _, norm in find_batch_norms(model)} == {Loud}
    assert [id(weight) for weight in model.weights] == ids
    assert np.abs(model(x) - expected).max() > 0.01
    replace_batch_norm(model)  # of which a class that is neither remains
    assert {type(norm) for _, norm in find_batch_norms(model)} == {Loud}


def test_a_trained_model_goes_back_to_keras():
    expected = trained(functional)
    *_, model = trained(functional, replace_at=1)
    replace_batch_norm(model, L.BatchNormalization)
    x, y = data()
    found, wanted = (
        m.fit(x, y, shuffle=False, verbose=0).history["loss"] for m in (model, expected[3])
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


class Made(L.BatchNormalization):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.more = 1


class Built(BatchNormalization):
    def build(self, shape):
        super().build(shape)
        self.more = self.add_weight(shape=())


class Called(L.BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (L.GroupNormalization, "got GroupNormalization.*new model"),
        (lambda norm: norm, "got <lambda>"),
        (L.BatchNormalization(), "got BatchNormalization"),
        (None, "got NoneType"),
        (Made, "Made has its own __init__"),
        (Built, "Built has its own build"),
        (Called, "inputs, training, mask.* Called has self, inputs, training$"),
    ],
)
def test_a_class_that_cannot_take_the_place_is_refused(cls, words):
    model = functional()
    with pytest.raises(TypeError, match=words):
        replace_batch_norm(model, cls)
    assert {type(norm) for _, norm in find_batch_norms(model)} == {L.BatchNormalization}


@pytest.mark.parametrize("thing", [None, "model.keras", [L.BatchNormalization()]])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        replace_batch_norm(thing)
