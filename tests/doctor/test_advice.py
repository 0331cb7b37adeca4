"""What the doctor recommends: nothing that would do harm, and nothing that cannot be done."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ward_statistics import mute
from ward_structure import (
    ARRAYS,
    SIZE,
    conv,
    dense,
    fitted,
    forgotten_in_a_step,
    listed,
    ours,
    samples,
    theirs,
)

from bn_tutorial import doctor
from bn_tutorial.models import freeze, recalibrate

L = keras.layers


def found(model, *data, **options):
    """Return the findings by their codes, each of which must be in one layer alone."""
    findings = doctor.examine(model, *data, **options).findings
    codes = [finding.code for finding in findings]
    assert len(codes) == len(set(codes)), findings
    return dict(zip(codes, findings, strict=True))


def losses(model, x, y):
    return float(model.evaluate(x, y, batch_size=SIZE, verbose=0))


# Recalibrated.


@pytest.mark.parametrize("labelled", [True, False])
def test_validation_of_one_class_is_not_to_be_recalibrated_on(labelled):
    """It would raise the loss, which is no worse than in training."""
    x, y = samples(8, count=1024)
    x[:, 0] += 4 * y
    model = fitted(dense(ours()), x, y, rate=0.5)
    one = x[y == 1], y[y == 1]
    before = losses(model, *one)
    shift = found(model, (x, y), one if labelled else one[0], **ARRAYS)["data-shift"]
    if labelled:
        assert shift.severity == "note"
        assert "recalibrate" not in shift.remedy
        recalibrate(model, one[0])
        assert losses(model, *one) > 2 * before
    else:
        assert shift.severity == "warning"
        assert "as mixed, models.recalibrate(model, validation)" in shift.remedy


def test_validation_in_another_unit_is():
    x, y = samples(8, count=1024)
    model = fitted(dense(ours()), x, y, rate=0.5)
    shift = found(model, (x, y), (100 * x, y), **ARRAYS)["data-shift"]
    assert shift.severity == "warning"
    assert "models.recalibrate(model, validation)" in shift.remedy
    before = losses(model, 100 * x, y)
    recalibrate(model, 100 * x)
    assert losses(model, 100 * x, y) < before


def test_frozen_averages_that_the_weights_are_used_to_are_left():
    x, y = samples(8)
    model = fitted(dense(ours()), x, y)
    freeze(model)
    model.compile(keras.optimizers.Adam(0.01), model.loss, jit_compile=False)
    x = 2 * x + 1
    model.fit(x, y, epochs=20, batch_size=SIZE, verbose=0)
    mismatch = found(model, (x, y), **ARRAYS)["frozen-mismatch"]
    assert mismatch.severity == "note"
    assert "recalibrate" not in mismatch.remedy
    assert mismatch.evidence["loss_recalibrated"] > mismatch.evidence["loss_now"]


def test_with_momentum_1_no_steps_are_enough():
    x, y = samples(8)
    model = fitted(dense(ours(momentum=1.0)), x, y)
    model.layers[1].moving_mean.assign(3 + model.layers[1].moving_mean)
    lag = found(model, (x, y), **ARRAYS)["averages-lag"]
    assert "steps" not in lag.remedy
    assert lag.remedy.startswith("set momentum to 0.99 or less")


def test_what_few_sorted_batches_say_of_the_averages_is_a_note():
    """The averages are those of all the data, of which the batches are an end."""
    x, y = samples(8, count=2048)
    order = np.argsort(x[:, 0])
    x, y = x[order], y[order]
    model = fitted(dense(ours()), x, y)
    few, all_of_them = (found(model, listed(x, y), steps=steps) for steps in (8, 64))
    assert few["unlike-batches"].severity == "warning"
    assert few["averages-lag"].severity == "note"
    assert "others may be unlike them" in few["averages-lag"].message
    assert few["averages-lag"].remedy == "shuffle, and examine it again"
    assert "averages-lag" not in all_of_them


# What never trained.


def test_a_step_that_forgets_the_mode_is_not_to_be_trained_on_as_it_is():
    ill = forgotten_in_a_step()
    codes = found(ill.model, ill.train, **ill.options)
    assert "averages-lag" not in codes
    assert codes["inference-forced"].remedy.startswith("self(x, training=True) in `train_step`")
    before = ill.model.norm.moving_mean.numpy()
    ill.model.fit(*ill.train, batch_size=SIZE, verbose=0)
    np.testing.assert_array_equal(ill.model.norm.moving_mean, before)


def test_a_call_that_takes_no_mode_is_named():
    ill = mute()
    never = found(ill.model, ill.train)["averages-never-moved"]
    assert "`call` has no argument `training`" in never.message
    assert "loop" not in never.message + never.remedy


class Teaching(keras.Model):
    """Learns from a teacher, which its call does not reach."""

    def __init__(self, teacher, mode):
        super().__init__()
        self.student, self.teacher, self.mode = dense(theirs()), teacher, mode

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean((y_pred - self.teacher(x, training=self.mode)) ** 2)


@pytest.mark.parametrize("mode", [True, False])
def test_a_teacher_whose_averages_move_is_named(mode):
    x, y = samples(8)
    model = Teaching(dense(ours()), mode)
    model.compile("adam", jit_compile=False)
    model.fit(x, y, verbose=0)
    teacher = found(model, (x, y), **ARRAYS)["not-examined"]
    assert ("step of training moves its averages" in teacher.message) is mode


def test_averages_that_were_not_loaded_are_thought_of():
    x, y = samples(8)
    model, healthy = dense(ours()), fitted(dense(ours()), x, y)
    for of, to in zip(healthy.trainable_weights, model.trainable_weights, strict=True):
        to.assign(of)
    never = found(model, (3 * x + 2, y), **ARRAYS)["averages-never-moved"]
    assert "not loaded with the weights" in never.message


# Why the modes differ.


def test_noise_of_small_batches_is_no_other_layer():
    x, y = samples(8)
    model = fitted(dense(ours()), x, y)
    codes = found(model, (x, y), batch_size=4)
    assert codes["small-batch"].severity == "warning"
    differ = codes["modes-disagree"]
    assert "not the cause" not in differ.message
    assert (differ.severity, differ.remedy) == ("note", "as for small-batch")


def test_another_layer_is_told_from_noise_of_keras():
    class Softmax(L.Layer):
        """Returns probabilities in inference alone."""

        def call(self, x, training=None):
            return x if training else tf.nn.softmax(x)

    x, y = samples(8)
    noise = [L.GaussianNoise(1.0), L.Dense(16, use_bias=False), ours(), L.ReLU()]
    for last, severities in ((L.Activation("linear"), []), (Softmax(), ["error"])):
        model = keras.Sequential([keras.Input((8,)), *noise, L.Dense(2), last])
        recalibrate(fitted(model, x, y), x)
        findings = doctor.examine(model, (x, y), **ARRAYS).findings
        other = [f.severity for f in findings if "another layer" in f.message]
        assert other == severities


# Batches.


@pytest.mark.parametrize("as_arrays", [True, False])
def test_one_example_left_over(as_arrays):
    """Larger batches would not help: the batch of one is noise."""
    x, y = samples(8, count=4 * SIZE + 1)
    model = fitted(dense(ours()), x, y)
    options = ARRAYS if as_arrays else {}
    left = found(model, (x, y) if as_arrays else listed(x, y), **options)["small-batch"]
    assert left.remedy.startswith("drop_remainder=True")
    assert "larger batches" not in left.remedy
    assert f"without the batches of fewer than {SIZE} examples" in left.message
    assert "small-batch" not in found(model, listed(x[:-1], y[:-1]))


def test_one_batch_larger_than_the_others_is_not_the_usual_one():
    x, y = samples(8)
    model = fitted(dense(ours()), x, y)
    sizes = [4] * 8 + [64]
    parts = (np.split(part[: sum(sizes)], np.cumsum(sizes)[:-1]) for part in (x, y))
    batches = list(zip(*parts, strict=True))
    assert found(model, batches)["small-batch"].remedy.startswith("larger batches")


def test_steps_that_one_layer_is_called_on_are_no_batches():
    x = samples(6, 4)[0] + 3 * np.arange(6, dtype="float32")[:, None]
    x += np.random.default_rng(0).normal(size=(len(x), 1, 1)).astype("float32")
    model = keras.Sequential([keras.Input((6, 4)), L.TimeDistributed(theirs())])
    codes = found(model, x, **ARRAYS)
    assert "unlike-batches" not in codes
    assert "without TimeDistributed" in codes["shared-layer"].remedy
    in_order = x[np.argsort(x.mean((1, 2)))]
    assert "unlike-batches" in found(model, listed(in_order))


# Layers of Keras.


def test_augmentation_within_the_model_is_a_note_by_name():
    x, y = samples(6, 6, 3)
    inner = conv(ours())
    flip = L.RandomTranslation(0.3, 0.3, fill_mode="constant", name="shifted")
    model = fitted(keras.Sequential([keras.Input((6, 6, 3)), flip, inner]), x, y)
    codes = found(model, (x, y), **ARRAYS)
    forced = codes["training-forced"]
    assert forced.severity == "note"
    assert forced.remedy == "model(x, training=False), or model.predict(x)"


def test_what_is_random_before_the_norm_is_named():
    x, y = samples(8)
    noise = L.GaussianNoise(1.0, name="hiss")
    stack = [noise, L.Dense(16, use_bias=False), theirs(), L.ReLU(), L.Dense(2)]
    x = 0.3 * x
    model = fitted(keras.Sequential([keras.Input((8,)), *stack]), x, y)
    before = found(model, (x, y), **ARRAYS)["dropout-before"]
    assert "what is random in hiss makes" in before.message


# Channels.


def test_no_smaller_epsilon_for_rare_columns():
    rng = np.random.default_rng(0)
    rare = (rng.random((512, 8)) < 0.002).astype("float32")
    small = rng.normal(scale=0.01, size=(512, 8)).astype("float32")
    for x, helps in ((rare, False), (small, True), (np.hstack([rare, small]), True)):
        model = keras.Sequential([keras.Input((x.shape[1],)), theirs(epsilon=0.01)])
        remedy = found(model, x)["small-variance"].remedy
        assert ("larger inputs or a smaller epsilon" in remedy) is helps
        assert ("leave them out" in remedy) is (x is not small)


def test_bands_of_a_spectrogram_are_a_note():
    x, y = samples(24, 16, 1)
    layers = [theirs(axis=2), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(2)]
    model = fitted(keras.Sequential([keras.Input((24, 16, 1)), *layers]), x, y)
    assert found(model, (x, y), **ARRAYS)["wrong-axis"].severity == "note"
