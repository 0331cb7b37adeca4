"""What frozen batch normalizations do, before and after a model was trained."""

import keras
import numpy as np
import pytest

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, freeze, unfreeze

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(2, 3, (64, 3)).astype("float32"), RNG.normal(size=(64, 1)).astype("float32")


class Subclassed(keras.Model):
    def __init__(self, norm):
        super().__init__()
        self.stack = [L.Dense(3), norm, L.Dense(1)]

    def call(self, x, training=None):  # without it `fit` runs a model in inference mode
        for layer in self.stack:
            x = layer(x)
        return x


def nested(norm):
    inner = keras.Sequential([keras.Input((3,)), L.Dense(3), norm])
    return keras.Sequential([keras.Input((3,)), inner, L.Dense(1)])


MODELS = {
    "Sequential": lambda norm: keras.Sequential([keras.Input((3,)), L.Dense(3), norm, L.Dense(1)]),
    "nested": nested,
    "subclassed": Subclassed,
}


def compiled(model, optimizer="adam"):
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def moved(model, norm):
    """Which of γ and β, and of the averages, an epoch changes; and the rest of the model."""
    model(X[:1])
    before = [weight.numpy() for weight in norm.weights]
    others = [w for w in model.weights if not any(w is own for own in norm.weights)]
    other = [weight.numpy() for weight in others]
    model.fit(X, Y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, norm.get_weights(), strict=True)]
    assert changed[0] == changed[1]
    assert changed[2] == changed[3]
    assert all(not np.array_equal(a, b.numpy()) for a, b in zip(other, others, strict=True))
    return changed[1:3]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cls", [L.BatchNormalization, BatchNormalization])
def test_it_takes_effect_at_the_next_fit_without_compiling(kind, cls):
    norm = cls()
    model = compiled(MODELS[kind](norm))
    assert moved(model, norm) == [True, True]
    optimizer, state = model.optimizer, len(model.optimizer.variables)
    assert freeze(model) is model
    assert moved(model, norm) == [False, False]
    assert unfreeze(model) is model
    assert moved(model, norm) == [True, True]
    assert model.optimizer is optimizer
    assert len(optimizer.variables) == state
    assert int(optimizer.iterations.numpy()) == 6


def test_trainable_alone_has_no_effect_on_what_is_traced():
    """What Keras does: the reason why `freeze` lets the model trace anew."""
    norm = L.BatchNormalization()
    model = compiled(MODELS["Sequential"](norm))
    model.fit(X, Y, verbose=0)
    norm.trainable = False
    assert moved(model, norm) == [True, True]
    compiled(model, model.optimizer)
    assert moved(model, norm) == [False, False]


def test_the_optimizer_goes_on_from_its_state():
    """What is not frozen trains as in a model that is made and compiled with what there is."""
    results = []
    for anew in (False, True):
        keras.utils.set_random_seed(0)
        norm = L.BatchNormalization()
        model = compiled(MODELS["Sequential"](norm))
        model.fit(X, Y, shuffle=False, verbose=0)
        if anew:  # by Keras's own means, with the same optimizer
            norm.trainable = False
            compiled(model, model.optimizer)
        else:
            freeze(model)
        model.fit(X, Y, shuffle=False, verbose=0)
        results.append(
            [variable.numpy() for variable in [*model.weights, *model.optimizer.variables]]
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", MODELS)
def test_frozen_it_is_in_inference_mode(kind):
    norm = L.BatchNormalization()
    model = MODELS[kind](norm)
    model(X)
    training, inference = model(X, training=True).numpy(), model(X, training=False).numpy()
    assert np.abs(training - inference).max() > 0.1
    freeze(model)
    norm.moving_mean.assign([1, 2, 3])
    np.testing.assert_array_equal(model(X, training=True), model(X, training=False))
    assert norm.moving_mean.numpy().tolist() == [1, 2, 3]
    unfreeze(model)
    np.testing.assert_array_equal(model(X, training=True), training)


def test_an_outer_model_that_was_trained_goes_on_as_it_was_traced():
    norm = L.BatchNormalization()
    model = compiled(MODELS["nested"](norm))
    assert moved(model, norm) == [True, True]
    freeze(model.layers[0])
    assert moved(model, norm) == [True, True]
    freeze(model)
    assert moved(model, norm) == [False, False]


# Keras 3.12 reads variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_frozen_before_it_was_trained_the_optimizer_does_not_know_it():
    """As the docstring says: Keras raises, and compiling anew is the way."""
    norm = L.BatchNormalization()
    model = compiled(freeze(MODELS["Sequential"](norm)))
    assert moved(model, norm) == [False, False]
    unfreeze(model)
    # Keras 3.12 fails while it writes this message.
    with pytest.raises((ValueError, NotImplementedError), match=r"Unknown variable|numpy\(\)"):
        model.fit(X, Y, verbose=0)
    compiled(model)
    assert moved(model, norm) == [True, True]


# Keras 3.12 reads variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_inside_what_is_frozen_as_a_whole():
    """γ and β are trained unless the model itself is frozen; the averages move in any case."""
    norm = L.BatchNormalization()
    model = MODELS["nested"](norm)
    inner = model.layers[0]
    inner.trainable = False
    assert not norm.trainable
    unfreeze(model)
    assert not inner.trainable
    assert inner.trainable_variables == []
    assert [v.path for v in model.trainable_variables][:2] == [norm.gamma.path, norm.beta.path]
    compiled(model)
    weights = [*norm.get_weights(), inner.layers[0].get_weights()[0]]
    model.fit(X, Y, verbose=0)
    after = [*norm.get_weights(), inner.layers[0].get_weights()[0]]
    changed = [not np.array_equal(a, b) for a, b in zip(weights, after, strict=True)]
    assert changed == [True] * 4 + [False]

    model.trainable = False
    unfreeze(model)
    assert model.trainable_variables == []
    weights = model.get_weights()
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        compiled(model).fit(X, Y, verbose=0)
    changed = {
        weight.name
        for weight, before in zip(model.weights, weights, strict=True)
        if not np.array_equal(weight, before)
    }
    assert changed == {"moving_mean", "moving_variance"}


def test_all_kinds_of_batch_normalizations_and_nothing_else():
    class Own(L.BatchNormalization):
        pass

    shared = L.BatchNormalization()
    wrapped = L.TimeDistributed(BatchNormalization())
    layers = [L.Dense(3), Own(), shared, shared, wrapped, L.LayerNormalization(), L.Dropout(0.5)]
    x = y = keras.Input((4, 3))
    for layer in layers:
        y = layer(y)
    model = keras.Model(x, y)
    freeze(model)
    assert [norm.trainable for _, norm in find_batch_norms(model)] == [False] * 3
    assert [layer.trainable for layer in layers] == [True, False, False, False, True, True, True]
    unfreeze(model)
    assert all(layer.trainable for layer in model._flatten_layers())


def test_unbuilt_or_itself():
    norm = L.BatchNormalization()
    model = freeze(keras.Sequential([L.Dense(2), norm]))
    assert (norm.trainable, model.built) == (False, False)
    model.build((None, 3))
    assert norm.trainable_variables == []
    assert unfreeze(norm) is norm
    assert [variable.name for variable in norm.trainable_variables] == ["gamma", "beta"]


@pytest.mark.parametrize("change", [freeze, unfreeze])
@pytest.mark.parametrize("thing", [None, "model.keras", [L.BatchNormalization()]])
def test_what_is_no_model_is_refused(change, thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        change(thing)
