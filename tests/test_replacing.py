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
        (L.GroupNormalization, "got GroupNormalization.*function.*GroupNormalization"),
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


# Other layers, in a new model


def net(norm):
    """Every kind of call, with what ``norm`` makes of a name in the place of its normalizations."""
    x = keras.Input((6, 6, 4), name="image")
    conv = L.Conv2D(4, 1, name="conv")
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv, norm("b"), L.ReLU()], name="inner")
    y, shared = inner(norm("a")(x)), norm("c")
    y = shared(y) + shared(2.0 * y)
    y = L.TimeDistributed(norm("d"), name="along")(y)
    y = L.Masking(name="masking")(y)[:, 0]
    y = norm("e")(y, training=True)
    return keras.Model({"image": x}, [L.Dense(2, name="dense")(L.Flatten()(y)), y])


def batch(name):
    return L.BatchNormalization(name=name)


def grouped(name):
    return L.GroupNormalization(2, name=name)


def marked(model):
    """Set every weight to numbers of its own, and return them by the names of layer and weight."""
    weights = {}
    for index, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(index).uniform(0.5, 2, weight.shape))
        weights[tuple(weight.path.split("/")[-2:])] = weight.numpy()
    return weights


IMAGES = {"image": data()[0][..., [0, 1, 2, 0]]}


def test_another_kind_of_layer_takes_every_place():
    """As in a net that was written with it, and given the weights one by one."""
    old = net(batch)
    weights, made = marked(old), []

    def make(norm):
        made.append(norm.name)
        return grouped(norm.name)

    new, written = replace_batch_norm(old, make), net(grouped)
    assert made == ["a", "b", "c", "d", "e"]
    assert not find_batch_norms(new)
    for weight in written.weights:
        weight.assign(weights[tuple(weight.path.split("/")[-2:])])
    for got, expected in zip(new(IMAGES), written(IMAGES), strict=True):
        np.testing.assert_allclose(got, expected, **CLOSE)


def test_batch_normalizations_can_stay_or_be_others():
    old = net(batch)
    marked(old)
    expected, before = old(IMAGES), old.get_weights()
    kept = replace_batch_norm(old, lambda norm: norm)
    assert [type(norm) for _, norm in find_batch_norms(kept)] == [L.BatchNormalization] * 5
    for got, wanted in zip(kept(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert not {id(weight) for weight in kept.weights} & {id(weight) for weight in old.weights}
    keras.tree.map_structure(np.testing.assert_array_equal, before, old.get_weights())


def test_the_mask_goes_to_what_takes_one():
    x = keras.Input((5, 4))
    old = keras.Model(x, batch("a")(L.Masking()(x), training=True))
    steps = np.random.default_rng(2).normal(size=(3, 5, 4))
    steps[:, 3:] = 0
    renewed = replace_batch_norm(old, lambda norm: BatchNormalization(name=norm.name))
    np.testing.assert_allclose(renewed(steps), old(steps), **CLOSE)
    assert np.abs(old(steps) - batch("a")(steps, training=True)).max() > 0.1
    layered = replace_batch_norm(old, lambda norm: L.LayerNormalization())
    np.testing.assert_allclose(layered(steps), L.LayerNormalization()(steps), **CLOSE)


def test_scale_and_shift_go_along_where_they_fit():
    def by_position(norm):
        return L.LayerNormalization(axis=[1, 2])  # has gamma and beta of another shape

    model = keras.Sequential([keras.Input((5, 4)), batch("a")])
    marked(model)
    (layer,) = replace_batch_norm(model, by_position).layers
    np.testing.assert_array_equal(layer.gamma, np.ones((5, 4)))
    (layer,) = replace_batch_norm(model, lambda norm: L.LayerNormalization(center=False)).layers
    np.testing.assert_array_equal(layer.gamma, model.layers[0].gamma)
    assert layer.beta is None


NEW = {
    "identity": L.Identity,
    "activation": lambda: L.Activation("tanh"),
    "dropout": lambda: L.Dropout(0.5),
    "no parameters": L.UnitNormalization,
    "several": lambda: keras.Sequential([keras.Input((4,)), L.ReLU(), L.UnitNormalization()]),
}


@pytest.mark.parametrize("kind", NEW)
def test_layers_that_keras_builds_when_they_are_made(kind):
    first, norms, x = L.Dense(4), (batch("a"), batch("b")), np.eye(4, dtype="float32")
    old = keras.Sequential([keras.Input((4,)), first, *norms])
    new = replace_batch_norm(old, lambda norm: NEW[kind]())
    expected = NEW[kind]()(NEW[kind]()(first(x)))
    np.testing.assert_allclose(new(x), expected, **CLOSE)
    assert len(new.weights) == 2


def test_a_new_layer_is_trainable_as_it_was_made():
    old = keras.Sequential([keras.Input((4,)), batch("a"), batch("b")])
    old.layers[0].trainable = False
    new = replace_batch_norm(old, lambda norm: L.LayerNormalization(trainable=norm.name == "a"))
    assert [layer.trainable for layer in new.layers] == [True, False]


def test_a_compiled_model_trains_on():
    *_, model = trained(functional)
    new = replace_batch_norm(model, lambda norm: L.GroupNormalization(2, axis=norm.axis))
    x, y = data()
    losses = new.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_layers_without_state_and_what_is_frozen_go_along():
    """A lambda, which Keras would not make anew by its settings, is taken as it is."""
    stack = L.Dense(4), batch("a"), L.Lambda(lambda x: 2 * keras.ops.abs(x)), L.Dropout(0.5)
    model = keras.Sequential([keras.Input((4,)), *stack])
    model.layers[0].trainable = False
    new = replace_batch_norm(model, lambda norm: norm)
    x = np.random.default_rng(3).normal(size=(5, 4))
    np.testing.assert_array_equal(new(x), model(x))
    assert [layer.trainable for layer in new.layers] == [False, True, True, True]
    shared = [a is b for a, b in zip(new.layers, model.layers, strict=True)]
    assert shared == [False, False, True, False]


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def own_step():
    x = keras.Input((6, 6, 3))
    return OwnStep(x, batch("a")(x))


def with_own_call():
    model = block()
    model.layers[0].call = lambda x: x
    return model


REUSED = L.LayerNormalization(name="reused")
PLAIN = L.ReLU(name="plain")
OF_ANOTHER = L.LayerNormalization(name="of_another")
OF_ANOTHER.build((None, 3))


def two():
    return keras.Sequential([keras.Input((3,)), batch("a"), batch("b")])


def with_plain():
    return keras.Sequential([keras.Input((3,)), batch("a"), PLAIN])


def around():
    return keras.Sequential([keras.Input((5, 6, 6, 3)), L.TimeDistributed(block())])


def sharing():
    norm, x = batch("a"), keras.Input((5, 4))
    return keras.Model(x, norm(x) + L.TimeDistributed(norm)(x))


class Forgetful(L.Dense):
    def get_config(self):
        return super().get_config() | {"units": 1}


@pytest.mark.parametrize(
    ("make", "norm", "error", "words"),
    [
        (Subclassed, grouped, TypeError, "Subclassed"),
        (own_step, grouped, TypeError, "OwnStep.*keras.Model\\(model.inputs, model.outputs"),
        (around, grouped, TypeError, "TimeDistributed"),
        (with_own_call, grouped, TypeError, "own call"),
        (sharing, lambda name: L.LayerNormalization(), ValueError, "a/gamma.*more than one layer"),
        (lambda: keras.Sequential([L.BatchNormalization()]), grouped, ValueError, "not built"),
        (block, lambda name: None, TypeError, "return a layer for 'batch_norm.*None"),
        (two, lambda name: REUSED, ValueError, "new layer for 'b'.* got 'reused', which is in use"),
        (with_plain, lambda name: PLAIN, ValueError, "new layer for 'a'.* 'plain', .* in use"),
        (two, lambda name: OF_ANOTHER, ValueError, "'of_another', which has weights already"),
        (two, lambda name: keras.Sequential([OF_ANOTHER]), ValueError, "has weights already"),
        (
            lambda: keras.Sequential([keras.Input((3,)), Forgetful(2)]),
            grouped,
            ValueError,
            "forgetful.*\\(3, 1\\).*\\(3, 2\\)",
        ),
        (lambda: None, grouped, TypeError, "NoneType"),
    ],
)
def test_what_cannot_be_made_anew_is_refused(make, norm, error, words):
    with pytest.raises(error, match=words):
        replace_batch_norm(make(), lambda old: norm(old.name))
