"""Patients whose numbers, axis, mode, units, precision or place in the graph is sick.

The patients with several replicas are admitted where TensorFlow has two logical processors. These
must be asked for before it starts, so in a process of their own, with this folder in its path::

    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import ward_structure
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from patients import Patient, patient

from bn_tutorial.book.data import digits
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms

L = keras.layers
SIZE = 64  # of a batch


def theirs(**arguments):
    return L.BatchNormalization(name="norm", **arguments)


def ours(**arguments):
    return BatchNormalization(name="norm", **arguments)


# Data, and the ways in which it comes.


def samples(*shape, count=512, seed=0):
    """Channels, the last axis, that differ in mean and scale; labels that one can learn."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape))
    y = x.reshape(count, -1, shape[-1]).mean(1)[:, 0] > 0
    x = x * rng.uniform(0.5, 2, shape[-1]) + rng.normal(size=shape[-1])
    return x.astype("float32"), y.astype("int32")


def dataset(*data):
    return tf.data.Dataset.from_tensor_slices(data if len(data) > 1 else data[0]).batch(SIZE)


def listed(*data):
    starts = range(0, len(data[0]), SIZE)
    pieces = [tuple(part[start : start + SIZE] for part in data) for start in starts]
    return pieces if len(data) > 1 else [x for (x,) in pieces]


class Stream:
    """Batches from a generator, that begins again whenever one asks."""

    def __init__(self, *data):
        self.data = data

    def __iter__(self):
        yield from listed(*self.data)


class Pages(keras.utils.PyDataset):
    def __init__(self, *data):
        super().__init__()
        self.pages = listed(*data)

    def __len__(self):
        return len(self.pages)

    def __getitem__(self, index):
        return self.pages[index]


ARRAYS = {"batch_size": SIZE}


# Healthy models with one norm.


def dense(norm):
    """Sequential, for samples of 8 features."""
    return keras.Sequential(
        [keras.Input((8,)), L.Dense(16, use_bias=False), norm, L.ReLU(), L.Dense(2)]
    )


def conv(norm):
    """Functional, for samples of 6 by 6 pixels of 3 colours."""
    x = inputs = keras.Input((6, 6, 3))
    x = norm(L.Conv2D(8, 3, use_bias=False)(x))
    x = L.GlobalAveragePooling2D()(L.Activation("relu")(x))
    return keras.Model(inputs, L.Dense(2)(x))


def nested(norm):
    """A block in a functional model, for samples of 10 steps of 4 features."""
    block = keras.Sequential(
        [keras.Input((10, 4)), L.Conv1D(8, 3, use_bias=False), norm, L.ReLU()], name="block"
    )
    inputs = keras.Input((10, 4))
    return keras.Model(inputs, L.Dense(2)(L.GlobalMaxPooling1D()(block(inputs))))


class Own(keras.Model):
    """Subclassed, with operations of TensorFlow, for samples of 8 features."""

    def __init__(self, norm, stem=None):
        super().__init__()
        self.stem = stem or L.Dense(16, use_bias=False)
        self.norm = norm
        self.out = L.Dense(2)

    def build(self, shape):
        self.stem.build(shape)
        for layer in (self.norm, self.out):
            layer.build((None, self.stem.units))

    def call(self, inputs, training=None):
        return self.out(tf.nn.relu(self.norm(self.stem(inputs), training=training)))


# What one does with a model.


def settle(model, x):
    """Set the averages to the moments of all the data, under the present weights."""
    norms = [norm for _, norm in find_batch_norms(model)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def fitted(model, x, y, rate=0.05):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=False)
    model.fit(x, y, batch_size=SIZE, epochs=2, verbose=0)
    return settle(model, x)


def looped(model, x, y):
    """Train by a loop of one's own, and leave the model without a loss."""
    optimizer = keras.optimizers.Adam(0.01)
    model(x[:1])

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for batch in listed(x, y):
        step(*batch)
    return settle(model, x)


def dressed(model, other):
    """A model with the weights of another one, and its way to train."""
    if not model.built:
        model.build((None, 8))
    model.set_weights(other.get_weights())
    if other.compiled:
        model.compile(keras.optimizers.SGD(0.05), other.loss, jit_compile=False)
    return model


def sick_norm(model):
    (found,) = find_batch_norms(model)
    return found[1]


def restore(weights):
    """The cure that loads the weights of better days."""
    return lambda model: model.set_weights(weights)


# Numbers that are none.


@patient("not-finite", "one NaN in a batch reached the averages; Sequential, tf.data")
def missing_value():
    x, y = samples(8)
    model = fitted(dense(theirs()), x, y)
    cure = restore(model.get_weights())
    model(np.where(np.arange(8) == 2, np.nan, x[:SIZE]), training=True)
    return Patient(model, dataset(x, y), cure, layer="norm")


@patient("not-finite", "pixels whose square overflows reached the averages; 2D, a list of batches")
def broken_pixels():
    x, y = samples(6, 6, 3)
    model = fitted(conv(theirs()), x, y)
    cure = restore(model.get_weights())
    model(x[:SIZE] * 1e30, training=True)
    return Patient(model, listed(x, y), cure, layer="norm")


@patient("not-finite", "the derivative of a root at 0 reached gamma and beta; subclassed, arrays")
def derivative_of_a_root():
    x, y = samples(8)
    model = looped(Own(ours()), x, y)
    cure = restore(model.get_weights())
    with tf.GradientTape() as tape:
        penalty = tf.sqrt(tf.reduce_sum(tf.nn.relu(-tf.abs(model.norm(model.stem(x))))))
    tuned = model.norm.trainable_variables
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.apply_gradients(zip(tape.gradient(penalty, tuned), tuned, strict=True))
    return Patient(model, x, cure, layer="norm", options=ARRAYS)


@patient("not-finite", "a rate of learning beyond all bounds; a block in 1D, PyDataset")
def diverged():
    x, y = samples(10, 4)
    model = fitted(nested(ours()), x, y)
    cure = restore(model.get_weights())
    model.optimizer.learning_rate = 1e30
    model.fit(x, y, batch_size=SIZE, verbose=0)
    return Patient(model, Pages(x, y), cure, layer="block/norm")


@patient("not-finite", "an infinite average from a file in half precision; subclassed, a stream")
def infinite_variance():
    x, y = samples(8)
    x *= 500
    model = Own(theirs(), stem=L.Dense(16, use_bias=False))
    settle(model, x)
    kept = model.get_weights()
    with np.errstate(over="ignore"):
        model.norm.moving_variance.assign(np.float16(model.norm.moving_variance))
    return Patient(model, Stream(x, y), restore(kept), layer="norm")


# Variances below 0.


def change_variance(model, change):
    """Write what a function makes of the stored variance; the cure."""
    kept = model.get_weights()
    norm = sick_norm(model)
    norm.moving_variance.assign(change(norm.moving_variance.numpy()))
    return restore(kept)


@patient("negative-variance", "its logarithm was stored; Sequential, arrays")
def logarithm():
    x, y = samples(8)
    x *= 0.3
    model = fitted(dense(ours()), x, y)
    cure = change_variance(model, np.log)
    return Patient(model, (x, y), cure, layer="norm", options=ARRAYS)


@patient("negative-variance", "weights extrapolated beyond two snapshots; 2D, tf.data")
def extrapolated():
    x, y = samples(6, 6, 3)
    model = fitted(conv(theirs()), x, y)
    cure = change_variance(model, lambda variance: variance + 3 * (variance - 2 * variance[::-1]))
    return Patient(model, dataset(x, y), cure, layer="norm")


@patient("negative-variance", "noise for privacy on all averages; subclassed, a stream, no loss")
def noisy():
    x, y = samples(8)
    model = looped(Own(theirs()), x, y)
    noise = np.random.default_rng(0).normal(0, 8, 16)
    cure = change_variance(model, lambda variance: variance + noise)
    return Patient(model, Stream(x), cure, layer="norm")


@patient("negative-variance", "the sum of what clients changed, not their mean; a block, a list")
def sum_of_changes():
    x, y = samples(10, 4)
    x *= 0.3
    model = fitted(nested(ours()), x, y)
    cure = change_variance(model, lambda variance: 1 + 6 * (variance - 1))
    return Patient(model, listed(x, y), cure, layer="block/norm")


# The axis of something else.


@patient("wrong-axis", "axis=1 behind a 2D convolution with the channels last; Sequential")
def rows_for_channels():
    x, y = samples(12, 10, 3)

    def build(axis):
        layers = [L.Conv2D(6, 3, use_bias=False), ours(axis=axis), L.ReLU()]
        out = [L.GlobalAveragePooling2D(), L.Dense(2)]
        return keras.Sequential([keras.Input((12, 10, 3)), *layers, *out])

    def cure(_):
        return fitted(build(-1), x, y)

    return Patient(fitted(build(1), x, y), dataset(x, y), cure, layer="norm")


@patient("wrong-axis", "the default behind a 2D convolution with the channels first; functional")
def columns_for_channels():
    x, y = samples(9, 12, 3)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def build(axis):
        first = {"data_format": "channels_first"}
        z = inputs = keras.Input((3, 9, 12))
        z = theirs(axis=axis)(L.Conv2D(6, 3, use_bias=False, **first)(z))
        z = L.GlobalAveragePooling2D(**first)(L.Activation("relu")(z))
        return keras.Model(inputs, L.Dense(2)(z))

    def cure(_):
        return fitted(build(1), x, y)

    return Patient(fitted(build(-1), x, y), Pages(x, y), cure, layer="norm")


class Steps(keras.Model):
    """Subclassed, over steps in time."""

    def __init__(self, norm):
        super().__init__()
        self.stem = L.Conv1D(6, 3, use_bias=False)
        self.norm = norm
        self.out = L.Dense(2)

    def call(self, inputs):
        return self.out(tf.reduce_mean(tf.nn.relu(self.norm(self.stem(inputs))), axis=1))


@patient("wrong-axis", "axis=1, as it was in PyTorch, behind a 1D convolution; subclassed")
def time_for_channels():
    x, y = samples(14, 4)

    def cure(_):
        return looped(Steps(theirs()), x, y)

    model = looped(Steps(theirs(axis=1)), x, y)
    return Patient(model, (x, y), cure, layer="norm", options=ARRAYS)


@patient("wrong-axis", "axis=2 of four behind a transposed convolution; a block, a list")
def axis_two():
    x, y = samples(5, 6, 3)

    def build(axis):
        up = L.Conv2DTranspose(6, 3, use_bias=False)
        block = keras.Sequential([keras.Input((5, 6, 3)), up, ours(axis=axis)], name="block")
        out = [L.Activation("relu"), L.GlobalMaxPooling2D(), L.Dense(2)]
        model = keras.Sequential([keras.Input((5, 6, 3)), block, *out])
        model.build((None, 5, 6, 3))
        return model

    def cure(_):
        return fitted(build(3), x, y)

    return Patient(fitted(build(2), x, y), listed(x, y), cure, layer="block/norm")


# A mode that the caller cannot change. (One written where a functional model calls a layer gives
# way to the mode that the model is called with, so that nobody is sick with it.)


class FixedCall(Own):
    """Subclassed, with a mode in the call."""

    def __init__(self, norm, mode):
        super().__init__(norm)
        self.mode = mode

    def call(self, inputs):
        return self.out(tf.nn.relu(self.norm(self.stem(inputs), training=self.mode)))


class AlwaysInference(L.BatchNormalization):
    """A layer for fine-tuning, that somebody left in."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


class AlwaysTraining(BatchNormalization):
    """A layer that normalizes with the batch, come what may."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask)


class Tuned(keras.Model):
    """A head on a backbone that is called in one mode, for samples of 6 by 6 pixels."""

    def __init__(self, norm, mode=None):
        super().__init__()
        layers = [L.Conv2D(8, 3, use_bias=False), norm, L.ReLU()]
        layers += [L.GlobalAveragePooling2D(), L.Dropout(0.1)]
        self.backbone = keras.Sequential([keras.Input((6, 6, 3)), *layers], name="backbone")
        self.head = L.Dense(2)
        self.mode = mode

    def build(self, _):
        self.head.build((None, 8))

    def call(self, inputs, training=None):
        mode = training if self.mode is None else self.mode
        return self.head(self.backbone(inputs, training=mode))


class Unit(L.Layer):
    """A convolution, its norm and an activation, in one mode or in that of the caller."""

    def __init__(self, norm, mode=None):
        super().__init__(name="unit")
        self.conv = L.Conv1D(8, 3, use_bias=False)
        self.norm = norm
        self.mode = mode

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build(self.conv.compute_output_shape(shape))

    def call(self, inputs, training=None):
        mode = training if self.mode is None else self.mode
        return keras.ops.relu(self.norm(self.conv(inputs), training=mode))


def with_unit(norm, mode=None):
    """Functional, for samples of 10 steps of 4 features."""
    inputs = keras.Input((10, 4))
    features = L.GlobalMaxPooling1D()(Unit(norm, mode)(inputs))
    return keras.Model(inputs, L.Dense(2)(features))


@patient("inference-forced", "training=False in a functional model's own layer; 1D, arrays")
def inference_in_a_unit():
    x, y = samples(10, 4)
    healthy = fitted(with_unit(theirs()), x, y)
    model = dressed(with_unit(theirs(), False), healthy)
    return Patient(
        model,
        (x, y),
        lambda sick: dressed(with_unit(theirs()), sick),
        layer="unit/norm",
        options=ARRAYS,
    )


@patient("inference-forced", "training=False in the call of a subclass; dense, no loss, tf.data")
def inference_in_a_call():
    x, y = samples(8)
    model = dressed(FixedCall(ours(), False), looped(Own(ours()), x, y))
    return Patient(model, dataset(x, y), lambda sick: dressed(Own(ours()), sick), layer="norm")


@patient("inference-forced", "a trainable backbone called with training=False; 2D, a list")
def inference_of_a_backbone():
    x, y = samples(6, 6, 3)
    model = dressed(Tuned(ours(), False), fitted(Tuned(ours()), x, y))
    return Patient(
        model, listed(x, y), lambda sick: dressed(Tuned(ours()), sick), layer="backbone/norm"
    )


@patient("inference-forced", "a subclass of the layer that ignores its mode; a block, PyDataset")
def inference_in_a_layer():
    x, y = samples(10, 4)
    healthy = fitted(nested(theirs()), x, y)
    model = dressed(nested(AlwaysInference(name="norm")), healthy)
    return Patient(
        model, Pages(x, y), lambda sick: dressed(nested(theirs()), sick), layer="block/norm"
    )


class Forgetful(Own):
    """Has a step of its own, which does not say that it trains."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@patient("inference-forced", "a step without training=True, averages of other data; subclassed")
def forgotten_in_a_step():
    x, y = samples(8)
    model = dressed(Forgetful(ours()), fitted(Own(ours()), x, y))
    x = 3 * x + 2
    model.fit(x, y, batch_size=SIZE, verbose=0)

    def cure(sick):
        return fitted(dressed(Own(ours()), sick), x, y)

    return Patient(model, (x, y), cure, layer="norm", options=ARRAYS)


@patient("training-forced", "training=True in a functional model's own layer; 1D, a stream")
def training_in_a_unit():
    x, y = samples(10, 4)
    model = fitted(with_unit(ours(), True), x, y)
    return Patient(
        model, Stream(x, y), lambda sick: dressed(with_unit(ours()), sick), layer="unit/norm"
    )


@patient("training-forced", "training=True in the call of a subclass; dense, no loss, arrays")
def training_in_a_call():
    x, y = samples(8)
    model = looped(FixedCall(theirs(), True), x, y)
    return Patient(
        model, x, lambda sick: dressed(Own(theirs()), sick), layer="norm", options=ARRAYS
    )


@patient("training-forced", "a backbone kept in training for its dropout's sake; 2D, tf.data")
def training_of_a_backbone():
    x, y = samples(6, 6, 3)
    model = fitted(Tuned(theirs(), True), x, y)
    return Patient(
        model, dataset(x, y), lambda sick: dressed(Tuned(theirs()), sick), layer="backbone/norm"
    )


@patient("training-forced", "a subclass of this layer that ignores its mode; Sequential, a list")
def training_in_a_layer():
    x, y = samples(8)
    model = fitted(dense(AlwaysTraining(name="norm")), x, y)
    return Patient(model, listed(x, y), lambda sick: dressed(dense(ours()), sick), layer="norm")


# Channels that do not vary.


@patient("small-variance", "pixels that nobody inks, normalized first; functional, arrays")
def margins():
    x, _, y, _ = digits()
    x = x.astype("float32")
    inked = np.flatnonzero(x.var(0) > 0.01)
    keras.utils.set_random_seed(0)

    def build(chosen):
        inputs = keras.Input((64,))
        z = theirs()(L.Lambda(lambda pixels: keras.ops.take(pixels, chosen, axis=1))(inputs))
        return keras.Model(inputs, L.Dense(10)(z))

    def cure(_):
        return fitted(build(inked), x, y)

    model = fitted(build(np.arange(64)), x, y)
    return Patient(model, (x, y), cure, layer="norm", options=ARRAYS)


@patient("small-variance", "features in a unit too large; Sequential, tf.data")
def kilometres():
    x, y = samples(8)
    x /= 1000
    model = fitted(keras.Sequential([keras.Input((8,)), ours(), L.Dense(2)]), x, y)

    def cure(model):
        sick_norm(model).epsilon = 1e-10
        # A new model: what was traced keeps the old epsilon.
        return dressed(keras.models.clone_model(model), model)

    return Patient(model, dataset(x, y), cure, layer="norm")


@patient("small-variance", "filters that begin at almost nothing; 2D in a block, PyDataset")
def tiny_filters():
    x, y = samples(6, 6, 3)
    tiny = keras.initializers.RandomNormal(stddev=1e-4, seed=0)
    first = L.Conv2D(8, 3, use_bias=False, kernel_initializer=tiny)
    layers = [first, theirs(), L.ReLU(), L.GlobalMaxPooling2D()]
    block = keras.Sequential([keras.Input((6, 6, 3)), *layers], name="block")
    model = keras.Sequential([keras.Input((6, 6, 3)), block, L.Dense(2)])
    fitted(model, x, y, rate=1e-7)

    def cure(model):
        first.kernel.assign(first.kernel * 1e4)
        settle(model, x)

    return Patient(model, Pages(x, y), cure, layer="block/norm")


class Late(Own):
    """Subclassed: normalizes what has been activated."""

    def call(self, inputs, training=None):
        return self.out(self.norm(tf.nn.relu(self.stem(inputs)), training=training))


@patient("small-variance", "units that died before they are normalized; subclassed, a stream")
def normalized_too_late():
    x, y = samples(8)
    model = looped(Late(ours(), stem=L.Dense(16)), x, y)
    model.stem.bias.assign(np.where(np.arange(16) < 6, -50, 1))

    def cure(model):
        model.stem.bias.assign(np.ones(16))
        settle(model, x)

    return Patient(settle(model, x), Stream(x, y), cure, layer="norm")


# Units that never rest, and units that never wake.


def shift_beta(model, shift, share=0.5):
    """Move beta in a share of the channels; the cure."""
    kept = model.get_weights()
    norm = sick_norm(model)
    moved = np.arange(norm.beta.shape[0]) < share * norm.beta.shape[0]
    norm.beta.assign(np.where(moved, shift, norm.beta))
    return restore(kept)


@patient("dead-unit", "a penalty drove beta down, by a loop of one's own; subclassed, tf.nn.relu")
def penalty_on_activity():
    x, y = samples(8)
    model = looped(Own(theirs()), x, y)
    cure = restore(model.get_weights())
    optimizer = keras.optimizers.Adam(0.5)
    for _ in range(20):
        with tf.GradientTape() as tape:
            activity = tf.nn.relu(model.norm(model.stem(x), training=True))[:, :8]
            penalty = tf.reduce_sum(tf.reduce_mean(activity, axis=0))
        beta = model.norm.beta
        optimizer.apply_gradients([(tape.gradient(penalty, beta.value), beta)])
    return Patient(settle(model, x), (x, y), cure, layer="norm", options=ARRAYS)


@patient("dead-unit", "beta far below 0, keras.layers.ReLU; Sequential, tf.data")
def asleep():
    x, y = samples(8)
    model = fitted(dense(ours()), x, y)
    return Patient(model, dataset(x, y), shift_beta(model, -9), layer="norm")


@patient("dead-unit", "beta far below 0, Activation('relu'); 2D, a list")
def asleep_in_2d():
    x, y = samples(6, 6, 3)
    model = fitted(conv(theirs()), x, y)
    return Patient(model, listed(x, y), shift_beta(model, -12, share=0.4), layer="norm")


@patient("dead-unit", "all of beta far below 0; a block in 1D, a stream without labels")
def all_asleep():
    x, y = samples(10, 4)
    model = fitted(nested(ours()), x, y)
    return Patient(model, Stream(x), shift_beta(model, -12, share=1), layer="block/norm")


@patient("always-on", "beta far above 0, keras.layers.ReLU; Sequential, a list")
def awake():
    x, y = samples(8)
    model = fitted(dense(theirs()), x, y)
    return Patient(model, listed(x, y), shift_beta(model, 9), layer="norm")


@patient("always-on", "gamma decayed to a tenth while beta did not; 2D, PyDataset")
def decayed():
    x, y = samples(6, 6, 3)
    model = fitted(conv(ours()), x, y)
    kept = model.get_weights()
    norm = sick_norm(model)
    norm.gamma.assign(norm.gamma * 0.1)
    norm.beta.assign(np.ones(8))
    return Patient(model, Pages(x, y), restore(kept), layer="norm")


@patient("always-on", "beta that began high, tf.nn.relu; subclassed, no loss, tf.data")
def began_high():
    x, y = samples(8)
    high = keras.initializers.Constant(9)

    def cure(_):
        return looped(Own(theirs()), x, y)

    model = looped(Own(theirs(beta_initializer=high)), x, y)
    return Patient(model, dataset(x, y), cure, layer="norm")


@patient("always-on", "beta far above 0 in most channels; a block in 1D, arrays")
def mostly_awake():
    x, y = samples(10, 4)
    model = fitted(nested(ours()), x, y)
    cure = shift_beta(model, 12, share=0.8)
    return Patient(model, (x, y), cure, layer="block/norm", options=ARRAYS)


# A bias that the mean removes.


@patient("useless-bias", "the default of Dense; Sequential, tf.data")
def bias_of_dense():
    x, y = samples(8)

    def build(bias):
        layers = [L.Dense(16, use_bias=bias), theirs(), L.ReLU(), L.Dense(2)]
        return keras.Sequential([keras.Input((8,)), *layers])

    def cure(_):
        return fitted(build(False), x, y)

    return Patient(fitted(build(True), x, y), dataset(x, y), cure, layer="norm")


@patient("useless-bias", "depthwise convolution; functional, PyDataset")
def bias_of_a_depthwise_convolution():
    x, y = samples(6, 6, 8)

    def build(bias):
        inputs = keras.Input((6, 6, 8))
        z = ours()(L.DepthwiseConv2D(3, use_bias=bias)(inputs))
        return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(L.ReLU()(z))))

    def cure(_):
        return fitted(build(False), x, y)

    return Patient(fitted(build(True), x, y), Pages(x, y), cure, layer="norm")


@patient("useless-bias", "the default of Dense; subclassed, no loss, arrays")
def bias_in_a_subclass():
    x, y = samples(8)

    def cure(_):
        return looped(Own(ours()), x, y)

    model = looped(Own(ours(), stem=L.Dense(16)), x, y)
    return Patient(model, x, cure, layer="norm", options=ARRAYS)


@patient("useless-bias", "1D convolution whose bias began at random; a block, a list")
def bias_in_a_block():
    x, y = samples(10, 4)

    def build(bias):
        first = L.Conv1D(8, 3, use_bias=bias, bias_initializer="random_normal")
        layers = [first, theirs(), L.ReLU(), L.GlobalMaxPooling1D()]
        block = keras.Sequential([keras.Input((10, 4)), *layers], name="block")
        return keras.Sequential([keras.Input((10, 4)), block, L.Dense(2)])

    def cure(_):
        return fitted(build(False), x, y)

    return Patient(fitted(build(True), x, y), listed(x, y), cure, layer="block/norm")


@patient("useless-bias", "Dense at each step in time; wrapped, a stream")
def bias_in_a_wrapper():
    x, y = samples(10, 4)

    def build(bias):
        first = L.TimeDistributed(L.Dense(8, use_bias=bias))
        layers = [first, ours(), L.ReLU(), L.GlobalAveragePooling1D(), L.Dense(2)]
        return keras.Sequential([keras.Input((10, 4)), *layers])

    def cure(_):
        return fitted(build(False), x, y)

    return Patient(fitted(build(True), x, y), Stream(x, y), cure, layer="norm")


# Two replicas, each with statistics of its own.


@functools.cache
def two_replicas():
    """One strategy for all: the collective operations of another would get in its way."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def replicated(build, data, *shape):
    """Under the strategy: a model with `build(synchronized)`, its data, and its cure."""
    x, y = samples(*shape, count=1024)

    def cure(model):
        with two_replicas().scope():
            return settle(dressed(build(True), model), x)

    with two_replicas().scope():
        return fitted(build(False), x, y), data(x, y), cure


def replicas_of_dense():
    return Patient(*replicated(lambda sync: dense(theirs(synchronized=sync)), dataset, 8))


def replicas_of_conv():
    return Patient(*replicated(lambda sync: conv(ours(synchronized=sync)), listed, 6, 6, 3))


def replicas_of_a_block():
    return Patient(*replicated(lambda sync: nested(theirs(synchronized=sync)), Pages, 10, 4))


def replicas_of_a_subclass():
    return Patient(*replicated(lambda sync: Own(ours(synchronized=sync)), Stream, 8))


if len(tf.config.list_logical_devices("CPU")) > 1:
    patient("replicas", "Sequential, tf.data")(replicas_of_dense)
    patient("replicas", "functional in 2D, a list")(replicas_of_conv)
    patient("replicas", "a block in 1D, PyDataset")(replicas_of_a_block)
    patient("replicas", "subclassed, a stream")(replicas_of_a_subclass)


# Half precision.


@patient("half-precision", "every layer in float16; Sequential, arrays")
def half_dense():
    x, y = samples(8)

    def build(dtype):
        half = {"dtype": dtype}
        layers = [L.Dense(16, use_bias=False, **half), theirs(**half), L.ReLU(**half)]
        return keras.Sequential([keras.Input((8,)), *layers, L.Dense(2, **half)])

    def cure(_):
        return fitted(build("mixed_float16"), x, y)

    return Patient(fitted(build("float16"), x, y), (x, y), cure, layer="norm", options=ARRAYS)


@patient("half-precision", "a policy for the whole program; 2D, tf.data")
def half_policy():
    x, y = samples(6, 6, 3)
    before = keras.config.dtype_policy()

    def build(policy):
        keras.config.set_dtype_policy(policy)
        try:
            return fitted(conv(ours()), x, y)
        finally:
            keras.config.set_dtype_policy(before)

    return Patient(build("float16"), dataset(x, y), lambda _: build("float32"), layer="norm")


@patient("half-precision", "the norm alone in float16; subclassed, no loss, PyDataset")
def half_norm():
    x, y = samples(8)

    def cure(model):
        return dressed(Own(theirs()), model)

    return Patient(looped(Own(theirs(dtype="float16")), x, y), Pages(x, y), cure, layer="norm")


@patient("half-precision", "cast to float16 to take less room; a block, a list")
def half_copy():
    x, y = samples(10, 4)
    model = fitted(nested(ours()), x, y)

    def halve(layer):
        return layer.from_config({**layer.get_config(), "dtype": "float16"})

    def cure(_):
        return model

    half = dressed(keras.models.clone_model(model, clone_function=halve, recursive=True), model)
    return Patient(half, listed(x, y), cure, layer="block/norm")


@patient("half-precision", "raw values at the end of the range of float16; functional, a stream")
def raw_values():
    x, y = samples(8)
    x = (60000 * np.tanh(x)).astype("float32")

    def build(scale):
        inputs = keras.Input((8,))
        z = L.Rescaling(scale, dtype="float32")(inputs)
        z = theirs(dtype="mixed_float16")(z)
        return keras.Model(inputs, L.Dense(2, dtype="float32")(z))

    def cure(_):
        return fitted(build(1e-4), x, y)

    return Patient(fitted(build(1.0), x, y), Stream(x, y), cure, layer="norm")


# More than one move a step.


class Recomputed(Own):
    """Subclassed: its features are computed again for the gradients, to save memory."""

    again = staticmethod(keras.remat)

    def call(self, inputs, training=None):
        def features(inputs):
            return tf.nn.relu(self.norm(self.stem(inputs), training=training))

        return self.out(self.again(features)(inputs))


class RecomputedByTensorFlow(Recomputed):
    again = staticmethod(tf.recompute_grad)


@patient("twice-a-step", "keras.remat; subclassed, no loss, tf.data")
def remat():
    x, y = samples(8)
    model = looped(Recomputed(theirs()), x, y)
    return Patient(model, dataset(x, y), lambda sick: dressed(Own(theirs()), sick), layer="norm")


@patient("twice-a-step", "tf.recompute_grad; subclassed, arrays")
def recompute_grad():
    x, y = samples(8)
    model = looped(RecomputedByTensorFlow(ours()), x, y)
    return Patient(
        model,
        (x, y),
        lambda sick: dressed(Own(ours()), sick),
        layer="norm",
        options=ARRAYS,
    )


@patient("twice-a-step", "TimeDistributed around the norm; Sequential, a list")
def time_distributed():
    x, y = samples(6, 4)

    def build(wrap):
        layers = [L.Dense(8, use_bias=False), wrap(ours()), L.ReLU()]
        out = [L.GlobalAveragePooling1D(), L.Dense(2)]
        return keras.Sequential([keras.Input((6, 4)), *layers, *out])

    def cure(_):
        return fitted(build(lambda norm: norm), x, y)

    model = fitted(build(functools.partial(L.TimeDistributed, name="steps")), x, y)
    # Each of its calls must see the values of all steps.
    settle(model, np.concatenate([np.roll(x, shift, axis=1) for shift in range(6)]))
    return Patient(model, listed(x, y), cure, layer="steps/norm")


def siamese(together):
    """Two inputs that are the same kind of thing, through one encoder, or both at once."""
    left, right = keras.Input((8,)), keras.Input((8,))
    shape = (2, 8) if together else (8,)
    layers = [L.Dense(16, use_bias=False), theirs(), L.ReLU()]
    encoder = keras.Sequential([keras.Input(shape), *layers], name="encoder")
    if together:
        both = encoder(keras.ops.stack([left, right], axis=1))
        difference = both[:, 0] - both[:, 1]
    else:
        difference = encoder(left) - encoder(right)
    return keras.Model([left, right], L.Dense(2)(keras.ops.abs(difference)))


@patient("twice-a-step", "an encoder for two inputs of one kind; functional, tf.data")
def two_inputs():
    x, y = samples(8, count=1024)
    left, right, y = x[:512], x[512:], y[:512]
    train = tf.data.Dataset.from_tensor_slices(((left, right), y)).batch(SIZE)

    def fit(together):
        model = fitted(siamese(together), [left, right], y)
        # Each of its two calls must see the values of both.
        return settle(model, [np.concatenate([left, right]), np.concatenate([right, left])])

    return Patient(fit(False), train, lambda _: fit(True), layer="encoder/norm")


class TwoViews(Steps):
    """Subclassed: compares a sequence with its mirror image."""

    def call(self, inputs):
        return super().call(inputs) + super().call(inputs[:, ::-1])


@patient("twice-a-step", "two views of each example through one encoder; subclassed, a stream")
def two_views():
    x, y = samples(14, 4)

    def cure(_):
        return looped(Steps(theirs()), x, y)

    model = settle(looped(TwoViews(theirs()), x, y), np.concatenate([x, x[:, ::-1]]))
    return Patient(model, Stream(x, y), cure, layer="norm")


class Wary(Own):
    """Subclassed: its step asks for the gradients where the weights would go, then goes."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        climbs = [0.01 * gradient for gradient in self.slopes(x, y)[1]]
        variables = self.trainable_variables
        for variable, climb in zip(variables, climbs, strict=True):
            variable.assign_add(climb)
        loss, gradients = self.slopes(x, y)
        for variable, climb in zip(variables, climbs, strict=True):
            variable.assign_sub(climb)
        self.optimizer.apply(gradients, variables)
        return {"loss": loss}

    def slopes(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        return loss, tape.gradient(loss, [v.value for v in self.trainable_variables])


@patient("twice-a-step", "a step that computes the batch twice; subclassed, PyDataset")
def two_passes():
    x, y = samples(8)
    model = fitted(Wary(ours()), x, y)
    return Patient(model, Pages(x, y), lambda sick: dressed(Own(ours()), sick), layer="norm")


# Called where nobody looks, or not at all.


class Assisted(Own):
    """Has a second output while it learns, whose norm is not called for the first alone."""

    assists = True

    def __init__(self, norm):
        super().__init__(L.BatchNormalization())
        self.aside, self.second = norm, L.Dense(2)

    def build(self, shape):
        super().build(shape)
        for layer in (self.aside, self.second):
            layer.build((None, self.stem.units))

    def call(self, inputs, training=None):
        out = super().call(inputs, training=training)
        if not self.assists:
            return out
        return out + 0.1 * self.second(self.aside(self.stem(inputs), training=training))


@patient("not-examined", "the norm of an output that is left out in the end; subclassed, arrays")
def left_out():
    x, y = samples(8)
    model = fitted(Assisted(ours()), x, y)
    model.assists = False

    def cure(model):
        model.assists = True

    return Patient(model, (x, y), cure, layer="norm", options=ARRAYS)


@patient("not-examined", "a block that was kept, but is not in the graph; functional, a list")
def kept_aside():
    x, y = samples(6, 6, 3)
    model = fitted(conv(theirs()), x, y)
    model.aside = keras.Sequential([keras.Input((4,)), ours()], name="block")

    def cure(model):
        return keras.Model(model.input, model.output)

    return Patient(model, listed(x, y), cure, layer="block/norm")


class Mapped(L.Wrapper):
    """Calls a layer on every half of the steps, in a graph of its own or, slower, without one."""

    graph = True

    def build(self, shape):
        self.layer.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        halves = tf.stack(tf.split(inputs, 2, axis=1))
        over = tf.vectorized_map if self.graph else tf.map_fn
        halves = over(lambda half: self.layer(half, training=training), halves)
        return tf.concat(tf.unstack(halves), axis=1)


@patient("not-examined", "tf.vectorized_map around the norm; wrapped, in 1D, tf.data")
def mapped():
    x, y = samples(10, 4)
    layers = [Mapped(theirs(), name="map"), L.GlobalAveragePooling1D(), L.Dense(2)]
    model = fitted(keras.Sequential([keras.Input((10, 4)), *layers]), x, y)

    def cure(model):
        model.layers[0].graph = False

    return Patient(model, dataset(x, y), cure, layer="map/norm")
