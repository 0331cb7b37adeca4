"""What is seen while a model trains."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.doctor import Watch

L = keras.layers
X = np.random.default_rng(0).normal(2, 3, (64, 4)).astype("float32")


def compiled(model, rate=0.01, **given):
    model.compile(keras.optimizers.SGD(rate), "mse", **{"run_eagerly": True, **given})
    return model


def two_norms(**given):
    """One in the model and one in a block of it, `first` and `block/norm`."""
    block = keras.Sequential([L.BatchNormalization(name="norm", **given)], name="block")
    first = L.BatchNormalization(name="first", **given)
    return compiled(keras.Sequential([keras.Input((4,)), first, L.Dense(4), block]))


def fit(model, watch, x=X, size=16, epochs=2, **given):
    """Train, and return what it warned of, as (code, layer)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, x, batch_size=size, epochs=epochs, verbose=0, callbacks=[watch], **given)
    # AutoGraph makes syntax trees in a way that Python 3.13 deprecates.
    caught = [warning for warning in caught if "___pyct_anno" not in str(warning.message)]
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(said) == len(caught)
    return [tuple(text.split(": ")[:2]) for text in said]


@pytest.mark.parametrize("traced", [True, False])
def test_healthy_training_is_let_be(traced):
    model = compiled(two_norms(momentum=0.5), run_eagerly=not traced, jit_compile=False)
    watch = Watch(every=1)
    assert fit(model, watch) == watch.findings == []


def test_training_is_the_same_as_without():
    weights = []
    for callbacks in ([], [Watch(every=1)]):
        keras.utils.set_random_seed(0)
        model = two_norms(momentum=0.5)
        model.fit(X, X, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
        weights.append([w.tobytes() for w in model.get_weights()])
    assert weights[0] == weights[1]


def test_what_does_not_move_is_said_once_for_each_layer():
    model, watch = two_norms(momentum=1.0), Watch(every=1)
    expected = [("averages-never-moved", way) for way in ("first", "block/norm")]
    assert fit(model, watch, epochs=3) == expected
    assert [(f.code, f.layer) for f in watch.findings] == expected
    assert {f.severity for f in watch.findings} == {"error"}
    assert fit(model, watch) == []  # nor again in a second training
    assert fit(model, Watch()) == expected


class Forgetful(keras.Model):
    """Has a step that does not say that it trains, and a norm that nothing builds."""

    def __init__(self, training=None):
        super().__init__()
        self.norm, self.last = L.BatchNormalization(name="norm", momentum=0.5), L.Dense(4)
        self.unused = L.BatchNormalization(name="unused", momentum=0.5)
        self.training = training

    def build(self, shape):
        self.norm.build(shape)
        self.last.build(shape)

    def call(self, x, training=None):
        return self.last(self.norm(x, training=training))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=self.training))
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def test_a_step_of_its_own_that_does_not_train():
    assert fit(compiled(Forgetful()), Watch()) == [("averages-never-moved", "norm")]


def test_a_layer_that_nothing_builds():
    assert fit(compiled(Forgetful(training=True)), Watch(every=1)) == []


def test_a_model_that_is_built_after_training_began():
    model, watch = keras.Sequential([L.BatchNormalization(name="norm")]), Watch(every=1)
    watch.set_model(model)
    watch.set_params({"epochs": 100, "steps": 100})
    watch.on_train_begin()
    watch.on_train_batch_end(0)
    model(X, training=True)
    watch.on_train_batch_end(1)
    assert watch.findings == []
    model.layers[0].moving_mean.assign([0, 0, 0, np.inf])
    with pytest.warns(UserWarning, match="not-finite: norm: moving_mean: not finite"):
        watch.on_train_batch_end(2)


def test_frozen_layers_may_stand_still():
    model = two_norms(momentum=0.5)
    model.layers[0].trainable = False
    model.get_layer("block").trainable = False
    assert fit(compiled(model), Watch(every=1)) == []


def test_averages_that_have_arrived_are_no_fault():
    """With all of the data in each batch they end, to the bit, where they should be."""
    norm = L.BatchNormalization(momentum=0.5)
    model = compiled(keras.Sequential([keras.Input((4,)), norm, L.Dense(4)]))
    assert fit(model, Watch(every=1), size=64, epochs=40, shuffle=False) == []
    arrived = [w.numpy() for w in norm.non_trainable_weights]
    assert fit(model, Watch(every=1), size=64, epochs=10, shuffle=False) == []
    for before, after in zip(arrived, norm.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_not_finite():
    x = X.copy()
    x[40, 1] = np.nan  # in the third batch
    watch = Watch(every=2)
    found = fit(two_norms(momentum=0.5), watch, x, shuffle=False)
    assert found == [("not-finite", "first"), ("not-finite", "block/norm")]
    first = watch.findings[0]
    assert (first.severity, first.evidence["steps"]) == ("error", 4)
    assert first.message.startswith("gamma and beta and moving_mean and moving_variance: not")


def test_negative_variance():
    model = two_norms(momentum=0.5)
    model.layers[0].moving_variance.assign([-1e5, 1, 1, 1])
    watch = Watch(every=1)
    assert fit(model, watch) == [("negative-variance", "first")]
    assert watch.findings[0].evidence["steps"] == 1


@pytest.mark.parametrize(("every", "steps"), [(1, 1), (3, 3), (100, 4)])
def test_when_it_looks(every, steps):
    """After so many steps, and at the end of the epoch."""
    watch = Watch(every)
    fit(two_norms(momentum=1.0), watch, epochs=2)
    assert {finding.evidence["steps"] for finding in watch.findings} == {steps}


@pytest.mark.parametrize("momentum", [0.8, 0.99, 0.999])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (10, 46), (100, 100)])
def test_too_few_steps_for_the_momentum(momentum, epochs, steps):
    """A share momentum ** steps of each average is what it was; one percent goes unsaid."""
    model, watch = two_norms(momentum=momentum), Watch()
    watch.set_params({"epochs": epochs, "steps": steps})
    watch.set_model(model)
    left = momentum ** (epochs * steps)
    if left > 0.01:
        with pytest.warns(UserWarning, match=f"{left:.0%} of its averages .* {momentum:g} → "):
            watch.on_epoch_begin(0)
        assert [f.code for f in watch.findings] == ["averages-lag"] * 2
        assert watch.findings[0].evidence == {"steps": epochs * steps, "left": left}
    else:
        watch.on_epoch_begin(0)
        assert watch.findings == []


class Counting(keras.callbacks.Callback):
    """Notes when `Watch` looks: after so many steps by the optimizer, and by its own count."""

    def __init__(self, watch):
        super().__init__()
        self.looks = []
        watch._look = lambda: self.looks.append(
            (int(self.model.optimizer.iterations), watch._steps)
        )


@pytest.mark.parametrize(
    ("every", "together", "looks"),
    [
        (1, 1, [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]),
        (3, 1, [3, 4, 6, 8]),
        (1, 3, [3, 4, 4, 7, 8, 8]),  # 4 steps an epoch, as 3 and 1
        (5, 3, [4, 7, 8]),
        (5, 2, [4, 6, 8]),
    ],
)
@pytest.mark.parametrize("epoch", [0, 7])
def test_steps_are_those_of_the_optimizer(every, together, looks, epoch):
    """Also where several are done in one call; what was done before does not count."""
    model, watch = two_norms(momentum=0.5), Watch(every)
    counting = Counting(watch)
    compiled(model, steps_per_execution=together, run_eagerly=False, jit_compile=False)
    given = {"batch_size": 16, "verbose": 0, "callbacks": [watch, counting]}
    model.fit(X, X, epochs=epoch + 2, initial_epoch=epoch, **given)
    assert counting.looks == [(count, count) for count in looks]


@pytest.mark.parametrize("together", [1, 3])
def test_a_training_that_goes_on_has_fewer_steps_to_come(together):
    """They are counted by the optimizer: 4 for each of 2 epochs."""
    model, watch = two_norms(momentum=0.8), Watch()
    compiled(model, steps_per_execution=together, run_eagerly=False, jit_compile=False)
    expected = [("averages-lag", way) for way in ("first", "block/norm")]
    assert fit(model, watch, epochs=102, initial_epoch=100) == expected
    steps = int(model.optimizer.iterations)
    assert watch.findings[0].evidence == {"steps": steps, "left": 0.8**steps}


def test_another_model_of_the_same_names():
    watch = Watch()
    expected = [("averages-never-moved", way) for way in ("first", "block/norm")]
    for _ in range(2):
        model = two_norms(momentum=1.0)
        assert fit(model, watch) == expected
        assert fit(model, watch) == []
        assert [(f.code, f.layer) for f in watch.findings] == expected


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length():
    def batches():
        for i in range(0, 64, 16):
            yield X[i : i + 16], X[i : i + 16]

    model, watch = two_norms(), Watch()  # of too large a momentum, but for how many steps?
    model.fit(batches(), verbose=0, callbacks=[watch], shuffle=False)
    assert watch.findings == []


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match=f"every must be 1 or more, got {every}"):
        Watch(every)


@pytest.mark.parametrize("every", [np.nan, 2.5, "2"])
def test_every_is_an_integer(every):
    with pytest.raises(TypeError, match="integer"):
        Watch(every)
