"""Patients whose statistics are sick: averages, batches, data, and what feeds a layer."""

import warnings

import keras
import numpy as np
import tensorflow as tf
from patients import Patient, patient

from bn_tutorial.book.data import digits
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms

L = keras.layers
CLASSES = 3


# Data: each of fixed seed, with features that are correlated and far from mean 0 and variance 1.


def rows(size=512, features=12, seed=0):
    """Examples of `CLASSES` classes, of shape (size, features), and their classes."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(features, features))
    labels = rng.integers(CLASSES, size=size)
    x = (rng.normal(size=(size, features)) + 0.5 * labels[:, None]) @ mix + 1
    return x.astype("float32"), labels


def images(size=512):
    """Digits of shape (size, 8, 8, 1), centred, and their classes modulo `CLASSES`."""
    split = digits()
    x = split.x_train[:size].reshape(-1, 8, 8, 1) - 0.3
    return 2 * x.astype("float32"), split.y_train[:size] % CLASSES


def series(size=256, time=10, features=4, seed=0):
    """Slow and quick waves of shape (size, time, features), and which of them are quick."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=size)
    phase = rng.uniform(0, 2 * np.pi, size=(size, 1, features))
    waves = np.sin(phase + np.arange(time)[:, None] * (0.5 + labels[:, None, None]))
    x = 2 * waves + rng.normal(scale=0.5, size=waves.shape) + np.linspace(-1, 1, features)
    return x.astype("float32"), labels


def batches(arrays, size=64):
    """A list of batches of a tuple of arrays; the examples that fill none are left out."""
    starts = range(0, len(arrays[0]) - size + 1, size)
    return [tuple(array[start : start + size] for array in arrays) for start in starts]


def dataset(arrays, size=64):
    """A `tf.data.Dataset` of a tuple of arrays."""
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size, drop_remainder=True)


class Loader(keras.utils.PyDataset):
    """Batches by their number, as people write for files; ``prepare`` acts on the examples."""

    def __init__(self, arrays, batch_size=64, prepare=np.asarray):
        super().__init__()
        self.arrays, self.batch_size, self.prepare = arrays, batch_size, prepare

    def __len__(self):
        return len(self.arrays[0]) // self.batch_size

    def __getitem__(self, index):
        chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
        x, *rest = (array[chosen] for array in self.arrays)
        return self.prepare(x), *rest


class Stream:
    """Batches from a generator, which begins anew each time."""

    def __init__(self, arrays, size=64):
        self.arrays, self.size = arrays, size

    def __iter__(self):
        for x, *_ in batches(self.arrays, self.size):
            yield x


# Models: of a bias before a norm there is none.


class Net(keras.Model):
    """A subclassed model: a layer without bias, a norm, an activation, and a head."""

    def __init__(self, first, norm, head=None):
        super().__init__()
        self.first, self.norm = first, norm
        self.head = head or L.Dense(CLASSES)

    def call(self, x, training=None):
        x = tf.nn.relu(self.norm(self.first(x), training=training))
        return self.head(tf.reduce_mean(x, axis=1) if len(x.shape) == 3 else x)


class Residual(L.Wrapper):
    """A wrapper that adds what goes into a layer to what comes out."""

    def build(self, shape):
        self.layer.build(shape)
        self.built = True

    def call(self, x, training=None):
        return x + self.layer(x, training=training)


def sequential(norm, features=12, units=16):
    layers = [L.Dense(units, use_bias=False), norm, L.ReLU(), L.Dense(CLASSES)]
    return keras.Sequential([keras.Input((features,)), *layers])


def functional(norm, filters=8):
    x = keras.Input((8, 8, 1))
    h = norm(L.Conv2D(filters, 3, strides=2, use_bias=False)(x))
    h = L.GlobalAveragePooling2D()(L.Activation("relu")(h))
    return keras.Model(x, L.Dense(CLASSES)(h))


def nested(norm, features=12, units=16):
    """A functional model around a block that is Sequential, which is named ``block``."""
    layers = [L.Dense(units, use_bias=False), norm, L.Activation("tanh")]
    block = keras.Sequential(layers, name="block")
    x = keras.Input((features,))
    return keras.Model(x, L.Dense(CLASSES)(block(x)))


def wrapped(norm, time=10, features=4):
    """A model of sequences around a `Residual` named ``skip`` of a model named ``body``."""
    convolution = L.Conv1D(features, 3, padding="same", use_bias=False)
    body = keras.Sequential([keras.Input((time, features)), convolution, norm], name="body")
    layers = [Residual(body, name="skip"), L.ReLU(), L.GlobalAveragePooling1D(), L.Dense(CLASSES)]
    return keras.Sequential([keras.Input((time, features)), *layers])


# Training, and averages set by hand.


def compiled(model, rate=0.05, **optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, **optimizer), loss, jit_compile=False)
    return model


def fitted(model, data, epochs=4, **optimizer):
    compiled(model, **optimizer).fit(data, epochs=epochs, shuffle=False, verbose=0)
    return model


def loop(model, data, epochs=3, training=True, rate=0.05):
    """Train with a loop of one's own, which may forget to say that it trains."""
    optimizer = keras.optimizers.SGD(rate)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    mode = {"training": True} if training else {}

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, **mode))
        weights = model.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    for x, y in data * epochs:
        step(x, y)
    return model


def moments(model, x):
    """Return the moments that a pass in training mode gives, and leave the averages at them."""
    norms = [norm for _, norm in find_batch_norms(model)]
    before = [(norm.momentum, norm.trainable) for norm in norms]
    for norm in norms:
        norm.momentum, norm.trainable = 0.0, True
    model(x, training=True)
    for norm, (momentum, trainable) in zip(norms, before, strict=True):
        norm.momentum, norm.trainable = momentum, trainable
    return [average.numpy() for n in norms for average in (n.moving_mean, n.moving_variance)]


def settled(model, *parts):
    """Set the averages to the mean of the moments of some parts of the data."""
    each = [moments(model, x) for x in parts]
    averages = [a for _, n in find_batch_norms(model) for a in (n.moving_mean, n.moving_variance)]
    for average, *values in zip(averages, *each, strict=True):
        average.assign(np.mean(values, axis=0))
    return model


def in_place(change):
    """A cure that is not of the model: it changes the data where they are."""

    def cure(model):
        change()
        return model

    return cure


# averages-never-moved


@patient("averages-never-moved", "Sequential, dense, a loop that does not pass training, batches")
def _():
    keras.utils.set_random_seed(0)
    train = batches(rows())
    model = loop(sequential(L.BatchNormalization(name="norm")), train, training=False)

    def cure(model):
        model.layers[1].momentum = 0.8
        return loop(model, train)

    return Patient(model, train, cure, layer="norm")


@patient("averages-never-moved", "functional, 2D, momentum 1, fit, tf.data")
def _():
    keras.utils.set_random_seed(1)
    train = dataset(images())
    model = fitted(functional(BatchNormalization(momentum=1.0, name="norm")), train)

    def cure(model):
        model.get_layer("norm").momentum = 0.8
        return fitted(model, train)

    return Patient(model, train, cure, layer="norm")


class ForgetfulNet(Net):
    """Has a training step of its own, which does not say that it trains."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


@patient("averages-never-moved", "subclassed, 1D, a train_step that does not pass training, Loader")
def _():
    keras.utils.set_random_seed(2)
    x, y = series()
    model = ForgetfulNet(L.Conv1D(8, 3, use_bias=False), BatchNormalization(name="norm"))
    train = Loader((x, y), 32)
    return Patient(fitted(model, train), train, lambda m: settled(m, x), layer="norm")


@patient("averages-never-moved", "nested, dense, thawed without a new compile, from a generator")
def _():
    keras.utils.set_random_seed(3)
    x, y = rows()
    kinds = (tf.TensorSpec((64, 12)), tf.TensorSpec((64,), "int64"))
    train = tf.data.Dataset.from_generator(lambda: batches((x, y)), output_signature=kinds)
    train = train.apply(tf.data.experimental.assert_cardinality(8))
    model = nested(L.BatchNormalization(name="norm", momentum=0.8))
    norm = model.get_layer("block").layers[1]
    norm.trainable = False
    fitted(model, train, epochs=2)
    norm.trainable = True  # too late: the trained function was traced before
    model.fit(train, epochs=2, shuffle=False, verbose=0)
    return Patient(model, train, lambda model: fitted(model, train), layer="block/norm")


@patient("averages-never-moved", "wrapped, 1D, neither gamma nor beta, a step traced for inference")
def _():
    keras.utils.set_random_seed(4)
    x, y = series()
    train = batches((x, y))
    norm = L.BatchNormalization(center=False, scale=False, momentum=0.8, name="norm")
    model, optimizer = wrapped(norm), keras.optimizers.SGD(0.05)
    training = False

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=training)  # as it was when the step was traced
            loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, True))
        gradients = tape.gradient(loss, model.trainable_weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))

    step(*train[0])
    training = True
    for batch in train * 4:
        step(*batch)
    return Patient(model, train, lambda m: loop(m, train), layer="skip/body/norm")


class MuteNet(Net):
    """Does not take the mode, which `fit` tells only to what takes it."""

    def call(self, x):
        return super().call(x)


@patient("averages-never-moved", "subclassed, dense, a call that does not take training, tf.data")
def mute():
    keras.utils.set_random_seed(5)
    train = dataset(rows())
    norm = L.BatchNormalization(momentum=0.8, name="norm")
    model = fitted(MuteNet(L.Dense(16, use_bias=False), norm), train)

    def cure(model):
        return fitted(Net(model.first, model.norm, model.head), train)

    return Patient(model, train, cure, layer="norm")


# averages-lag


@patient("averages-lag", "Sequential, dense, momentum 0.99 and eight steps, arrays")
def _():
    keras.utils.set_random_seed(10)
    x, y = rows()
    model = fitted(sequential(L.BatchNormalization(name="norm")), dataset((x, y)), epochs=1)
    options = {"batch_size": 64}
    return Patient(model, (x, y), lambda m: settled(m, x), layer="norm", options=options)


@patient("averages-lag", "functional, 2D, weights averaged by the optimizer, tf.data")
def _():
    keras.utils.set_random_seed(11)
    x, y = images()
    train = dataset((x, y))
    model = functional(L.BatchNormalization(momentum=0.8, name="norm"))
    fitted(model, train, epochs=8, rate=1.0, use_ema=True, ema_momentum=0.98)
    return Patient(model, train, lambda m: settled(m, x), layer="norm")


@patient("averages-lag", "subclassed, 1D, momentum 0.999 in a loop, batches without labels")
def _():
    keras.utils.set_random_seed(12)
    x, y = series()
    norm = BatchNormalization(momentum=0.999, name="norm")
    model = loop(Net(L.Conv1D(8, 3, use_bias=False), norm), batches((x, y), 32))
    train = [part for part, _ in batches((x, y), 32)]
    return Patient(model, train, lambda m: settled(m, x), layer="norm")


@patient("averages-lag", "nested, dense, small weights pruned after training, Loader")
def _():
    keras.utils.set_random_seed(13)
    x, y = rows()
    train = Loader((x, y))
    model = fitted(nested(BatchNormalization(momentum=0.8, name="norm")), train)
    settled(model, x)
    kernel = model.get_layer("block").layers[0].kernel
    kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.6), 0, kernel))
    return Patient(model, train, lambda m: settled(m, x), layer="block/norm")


@patient("averages-lag", "wrapped, 1D, the kernel of another run, batches")
def _():
    keras.utils.set_random_seed(14)
    x, y = series()
    train = batches((x, y))
    one, other = (wrapped(L.BatchNormalization(momentum=0.8, name="norm")) for _ in range(2))
    for model in (one, other):
        loop(model, train, epochs=3)
    settled(one, x)
    body, source = (model.get_layer("skip").layer for model in (one, other))
    body.layers[0].set_weights(source.layers[0].get_weights())
    return Patient(one, train, lambda m: settled(m, x), layer="skip/body/norm")


# data-shift


@patient("data-shift", "Sequential, dense, digits of which the validation is not divided by 16")
def _():
    keras.utils.set_random_seed(20)
    split = digits()
    scale = {"validation": 1.0}
    x, x_test = (16 * part.astype("float32") for part in (split.x_train[:1024], split.x_test))
    train = Loader((x, split.y_train[:1024] % 3), prepare=lambda x: x / 16)
    validation = Loader((x_test, split.y_test % 3), prepare=lambda x: x / scale["validation"])
    model = fitted(sequential(L.BatchNormalization(momentum=0.8, name="norm"), 64), train)
    settled(model, x / 16)
    cure = in_place(lambda: scale.update(validation=16.0))
    return Patient(model, train, cure, validation, "norm")


@patient("data-shift", "functional, 2D, the validation has red and blue exchanged, batches")
def _():
    keras.utils.set_random_seed(21)
    x, y = images(768)
    colours = x * np.float32([1, 0.6, 0.2]) + np.float32([0.5, 0, -0.5])
    image = keras.Input((8, 8, 3))
    h = L.Conv2D(8, 3, strides=2, use_bias=False)(image)
    h = keras.ops.relu(BatchNormalization(momentum=0.8, name="norm")(h))
    model = keras.Model(image, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(h)))
    train = dataset((colours[:512], y[:512]))
    settled(fitted(model, train), colours[:512])
    validation = batches((colours[512:, ..., ::-1].copy(), y[512:]))
    cure = in_place(lambda: [np.copyto(x, x[..., ::-1].copy()) for x, _ in validation])
    return Patient(model, train, cure, validation, "norm")


@patient("data-shift", "subclassed, 1D, one sensor of the validation has an offset, tf.data")
def _():
    keras.utils.set_random_seed(22)
    (x, y), (x_new, y_new) = series(), series(seed=1)
    offset = tf.Variable([0.0, 3.0, 0.0, 0.0])
    model = Net(L.Conv1D(8, 3, use_bias=False), L.BatchNormalization(momentum=0.8, name="norm"))
    train = dataset((x, y), 32)
    settled(fitted(model, train), x)
    validation = dataset((x_new, y_new), 32).map(lambda x, y: (x + offset, y))
    cure = in_place(lambda: offset.assign(tf.zeros(4)))
    return Patient(model, train, cure, validation, "norm")


@patient("data-shift", "nested, dense, noise that only the training data have, batches")
def _():
    keras.utils.set_random_seed(23)
    (x, y), (x_new, y_new) = rows(), rows(seed=1)
    spread = x.std(axis=0)
    noisy = (x + spread * np.random.default_rng(2).normal(size=x.shape)).astype("float32")
    train, validation = batches((noisy, y)), batches((x_new, y_new))
    model = loop(nested(L.BatchNormalization(momentum=0.8, name="norm")), train)
    settled(model, noisy)

    def cure(model):
        train[:] = batches((x, y))
        return settled(loop(model, train, epochs=1), x)

    return Patient(model, train, cure, validation, "block/norm")


@patient("data-shift", "wrapped, 1D, validation of one class alone, without labels")
def _():
    keras.utils.set_random_seed(24)
    x, y = series()
    train = batches((x, y))
    model = loop(wrapped(BatchNormalization(momentum=0.8, name="norm")), train)
    settled(model, x)
    x_new, y_new = series(600, seed=1)
    validation = [part for (part,) in batches((x_new[y_new == 0],))]

    def mix():
        validation[:] = [part for (part,) in batches((x_new,))]

    return Patient(model, train, in_place(mix), validation, "skip/body/norm")


# small-batch


@patient("small-batch", "Sequential, dense, batches of four, arrays")
def _():
    keras.utils.set_random_seed(30)
    x, y = rows(256)
    model = sequential(L.BatchNormalization(momentum=0.99, name="norm"))
    settled(fitted(model, dataset((x, y), 4), epochs=2), *(x for x, _ in batches((x, y), 4)))
    options = {"batch_size": 4}

    def cure(model):
        options.update(batch_size=64)
        return settled(model, x)

    return Patient(model, x, cure, layer="norm", options=options)


@patient("small-batch", "functional, 2D, normalized after the pooling, batches of two, Loader")
def _():
    keras.utils.set_random_seed(31)
    x, y = images(128)
    x *= 10  # a mean over pixels varies less than they do
    image = keras.Input((8, 8, 1))
    h = L.Conv2D(8, 3, strides=2, use_bias=False, activation="relu")(image)
    h = BatchNormalization(name="norm")(L.GlobalAveragePooling2D()(h))
    model = keras.Model(image, L.Dense(CLASSES)(h))
    train = Loader((x, y), 2)
    settled(fitted(model, train, epochs=1), *(x for x, _ in batches((x, y), 2)))

    def cure(model):
        train.batch_size = 64
        return settled(model, x)

    return Patient(model, train, cure, layer="norm")


@patient("small-batch", "subclassed, 1D, one sequence a step that is three long, tf.data")
def _():
    keras.utils.set_random_seed(32)
    x, y = series(time=5)
    train = dataset((x, y), 1).take(128)
    model = Net(L.Conv1D(8, 3, use_bias=False), L.BatchNormalization(name="norm"))
    settled(fitted(model, train, epochs=1), *(x for x, _ in batches((x[:128], y), 1)))

    def cure(model):
        new = Net(model.first, L.LayerNormalization(), model.head)
        new(x[:1])
        return new

    return Patient(model, train, cure, layer="norm")


@patient("small-batch", "nested, dense, every second batch is the rest of one example, batches")
def _():
    keras.utils.set_random_seed(33)
    x, y = rows(65 * 4)
    train = []
    for start in range(0, len(x), 65):
        train += [(x[start : start + 64], y[start : start + 64])]
        train += [(x[start + 64 : start + 65], y[start + 64 : start + 65])]
    model = loop(nested(L.BatchNormalization(name="norm")), train)
    settled(model, x)

    def drop_the_rest(model):
        train[:] = train[::2]
        return settled(model, x)

    return Patient(model, train, drop_the_rest, layer="block/norm")


# modes-disagree


@patient("modes-disagree", "Sequential, dense, an own dropout that does not scale, behind the norm")
def _():
    keras.utils.set_random_seed(40)

    class DropUnits(L.Layer):
        rate = 0.5

        def call(self, x, training=None):
            if not training:
                return x
            return tf.where(tf.random.uniform(tf.shape(x)) < self.rate, 0.0, x)

    x, y = rows()
    train = batches((x, y))
    norm = L.BatchNormalization(momentum=0.8, name="norm")
    layers = [L.Dense(16, use_bias=False), norm, L.ReLU(), DropUnits(), L.Dense(CLASSES)]
    model = settled(loop(keras.Sequential([keras.Input((12,)), *layers]), train), x)

    def cure(model):
        model.layers[3].rate = 0.0
        return model

    return Patient(model, train, cure)


@patient("modes-disagree", "functional, 2D, each batch of one class, Loader")
def _():
    keras.utils.set_random_seed(41)
    split = digits()
    of_classes = [np.flatnonzero(split.y_train == label)[:128] for label in range(CLASSES)]
    order = np.stack(of_classes).reshape(CLASSES, 2, 64).swapaxes(0, 1).reshape(-1)
    x = 2 * split.x_train[order].reshape(-1, 8, 8, 1).astype("float32") - 0.6
    train = Loader((x, split.y_train[order]))
    model = fitted(functional(L.BatchNormalization(momentum=0.95, name="norm")), train)
    settled(model, *(train[i][0] for i in range(len(train))))

    def shuffle(model):
        chosen = np.random.default_rng(0).permutation(len(order))
        train.arrays = tuple(array[chosen] for array in train.arrays)
        return settled(model, x)

    return Patient(model, train, shuffle)


class Classifier(Net):
    """Returns probabilities in inference and logits in training, as many published models do."""

    probabilities = True

    def call(self, x, training=None):
        logits = super().call(x, training=training)
        return logits if training or not self.probabilities else tf.nn.softmax(logits)


@patient("modes-disagree", "subclassed, 1D, probabilities in inference and logits in training")
def _():
    keras.utils.set_random_seed(42)
    x, y = series()
    train = dataset((x, y), 32)
    model = Classifier(L.Conv1D(8, 3, use_bias=False), BatchNormalization(momentum=0.8))
    settled(fitted(model, train), x)

    def cure(model):
        model.probabilities = False
        return model

    return Patient(model, train, cure)


class GainedNorm(L.BatchNormalization):
    """Has a gain of its own, which inference forgets."""

    in_both = False

    def call(self, x, training=None, mask=None):
        y = super().call(x, training=training, mask=mask)
        return 2 * y if training or self.in_both else y


@patient("modes-disagree", "nested, dense, an own norm that scales in training alone, batches")
def _():
    keras.utils.set_random_seed(43)
    x, y = rows()
    train = batches((x, y))
    model = settled(loop(nested(GainedNorm(momentum=0.8, name="norm")), train), x)

    def cure(model):
        model.get_layer("block").layers[1].in_both = True
        return model

    return Patient(model, train, cure)


@patient("modes-disagree", "wrapped, 1D, stochastic depth that inference does not scale, batches")
def _():
    keras.utils.set_random_seed(44)

    class Gate(L.Layer):
        """Lets half of the examples pass in training, and in inference all, at their full size."""

        def call(self, x, training=None):
            if not training:
                return x
            return x * tf.cast(tf.random.uniform([tf.shape(x)[0], 1, 1]) < 0.5, x.dtype)

    x, y = series()
    train = batches((x, y))
    model = wrapped(BatchNormalization(momentum=0.8, name="norm"))
    model = keras.Sequential([*model.layers[:2], Gate(), *model.layers[2:]])
    settled(loop(model, train), x)

    def cure(model):
        return keras.Sequential([layer for layer in model.layers if not isinstance(layer, Gate)])

    return Patient(model, train, cure)


# frozen-mismatch


@patient("frozen-mismatch", "Sequential, dense, a frozen model that learned from inputs over 16")
def _():
    keras.utils.set_random_seed(50)
    split = digits()
    pixels = 16 * split.x_train[:1024].astype("float32") - 5
    y = split.y_train[:1024] % CLASSES
    norm = BatchNormalization(momentum=0.8, name="norm")
    before = settled(fitted(sequential(norm, 64), dataset((pixels / 16, y))), pixels / 16)
    base = keras.Sequential(before.layers[:-1], name="base")
    base.trainable = False
    train = dataset((pixels, y))
    model = fitted(keras.Sequential([keras.Input((64,)), base, L.Dense(CLASSES)]), train, 2)

    def cure(model):
        scaled = [L.Rescaling(1 / 16), *model.layers]
        return fitted(keras.Sequential([keras.Input((64,)), *scaled]), train, 2)

    return Patient(model, train, cure, layer="base/norm")


@patient("frozen-mismatch", "functional, 2D, all norms frozen, fed with inverted images, batches")
def _():
    keras.utils.set_random_seed(51)
    x, y = images()
    model = functional(L.BatchNormalization(momentum=0.8, name="norm"))
    settled(loop(model, batches((x, y))), x)
    for _, norm in find_batch_norms(model):
        norm.trainable = False
    inverted = 0.8 - x
    train = batches((inverted, y))
    loop(model, train, epochs=1, rate=0.001)
    return Patient(model, train, lambda m: settled(m, inverted), layer="norm")


@patient("frozen-mismatch", "subclassed, 1D, the convolution before learns on, Loader")
def _():
    keras.utils.set_random_seed(52)
    x, y = series()
    train = Loader((x, y), 32)
    model = Net(L.Conv1D(8, 3, use_bias=False), BatchNormalization(momentum=0.8, name="norm"))
    settled(fitted(model, train), x)
    model.norm.trainable = False
    fitted(model, train, epochs=6, rate=0.5)

    def thaw(model):
        model.norm.trainable = True
        return settled(fitted(model, train, epochs=2), x)

    return Patient(model, train, thaw, layer="norm")


@patient("frozen-mismatch", "nested, dense, frozen after four steps, tf.data with weights")
def _():
    keras.utils.set_random_seed(53)
    x, y = rows()
    train = dataset((x, y, np.ones(len(x), "float32")))
    model = nested(L.BatchNormalization(name="norm"))
    fitted(model, train.take(4), epochs=1)
    model.get_layer("block").trainable = False
    fitted(model, train, epochs=4)
    return Patient(model, train, lambda m: settled(m, x), layer="block/norm")


@patient("frozen-mismatch", "wrapped, 1D, norms of another model's sensors, a stream")
def _():
    keras.utils.set_random_seed(54)
    x, y = series()
    model = wrapped(BatchNormalization(momentum=0.8, name="norm"))
    settled(loop(model, batches((x, y))), x)
    model.get_layer("skip").trainable = False
    other = (2.5 * x + 1).astype("float32")
    train = Stream((other,))

    def thaw(model):
        model.get_layer("skip").trainable = True
        return settled(model, other)

    return Patient(model, train, thaw, layer="skip/body/norm")


# dropout-before


@patient("dropout-before", "Sequential, dense, dropout right before the norm, batches")
def _():
    keras.utils.set_random_seed(60)
    x, y = rows()
    train = batches((x, y))
    norm = L.BatchNormalization(momentum=0.8, name="norm")
    layers = [L.Dense(16, activation="tanh"), L.Dropout(0.5), norm, L.Dense(CLASSES)]
    model = settled(loop(keras.Sequential([keras.Input((12,)), *layers]), train), *[x] * 20)

    def behind(model):
        dense, dropout, norm, head = model.layers
        layers = [dense, norm, dropout, head]
        return settled(keras.Sequential([keras.Input((12,)), *layers]), x)

    return Patient(model, train, behind, layer="norm")


@patient("dropout-before", "functional, 2D, spatial dropout, then a convolution, tf.data")
def _():
    keras.utils.set_random_seed(61)
    x, y = images()
    train = dataset((x, y))
    image = keras.Input((8, 8, 1))
    h = L.Conv2D(8, 3, activation="relu")(image)
    h = L.SpatialDropout2D(0.4, name="dropout")(h)
    h = L.Conv2D(8, 3, use_bias=False)(h)
    h = L.ReLU()(BatchNormalization(momentum=0.8, name="norm")(h))
    model = keras.Model(image, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(h)))
    settled(fitted(model, train), *[x] * 8)

    def without(model):
        model.get_layer("dropout").rate = 0.0
        return settled(compiled(model), x)

    return Patient(model, train, without, layer="norm")


class NetOfDropout(Net):
    """Drops inputs, then normalizes a dense layer of them."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.dropout = L.Dropout(0.5)

    def call(self, x, training=None):
        return super().call(self.dropout(x, training=training), training=training)


@patient("dropout-before", "subclassed, dense, dropout of the inputs, Loader")
def _():
    keras.utils.set_random_seed(62)
    x, y = rows()
    train = Loader((x, y))
    norm = BatchNormalization(momentum=0.8, name="norm")
    model = NetOfDropout(L.Dense(16, use_bias=False), norm)
    settled(fitted(model, train), *[x] * 20)

    def as_in_inference(model):
        return settled(Net(model.first, model.norm, model.head), x)

    return Patient(model, train, as_in_inference, layer="norm")


@patient("dropout-before", "nested, 1D, Gaussian dropout within the block of the norm, batches")
def _():
    keras.utils.set_random_seed(63)
    x, y = series()
    train = batches((x, y))
    norm = L.BatchNormalization(momentum=0.8, name="norm")
    layers = [L.GaussianDropout(0.5), L.Conv1D(8, 3, use_bias=False), norm, L.ReLU()]
    block = keras.Sequential([keras.Input((10, 4)), *layers], name="block")
    sequence = keras.Input((10, 4))
    head = L.Dense(CLASSES)(L.GlobalAveragePooling1D()(block(sequence)))
    model = keras.Model(sequence, head)
    settled(loop(model, train), *[x] * 8)

    def without(model):
        model.get_layer("block").layers[0].rate = 0.0
        return settled(model, x)

    return Patient(model, train, without, layer="block/norm")


@patient("dropout-before", "wrapped, dense, recalibrated as inference sees it, without labels")
def _():
    keras.utils.set_random_seed(64)
    x, y = rows()
    norm = BatchNormalization(momentum=0.8, name="norm")
    dense = L.Dense(12, use_bias=False)
    body = keras.Sequential([keras.Input((12,)), L.Dropout(0.4), dense, norm], name="body")
    layers = [Residual(body, name="skip"), L.ReLU(), L.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((12,)), *layers])
    settled(loop(model, batches((x, y))), *[x] * 20)

    def recalibrate(model):
        z = dense(x)
        norm.moving_mean.assign(np.mean(z, axis=0))
        norm.moving_variance.assign(np.var(z, axis=0))
        return model

    return Patient(model, batches((x,)), recalibrate, layer="skip/body/norm")


# shared-layer


@patient("shared-layer", "functional, dense, one norm for two inputs of different scale, tf.data")
def _():
    keras.utils.set_random_seed(70)
    x, y = rows(features=24)
    left, right = x[:, :12], 4 * x[:, 12:] + 3

    def build(norms):
        inputs = keras.Input((12,), name="left"), keras.Input((12,), name="right")
        both = [L.Dense(8, use_bias=False)(x) for x in inputs]
        both = [L.ReLU()(norm(h)) for norm, h in zip(norms, both, strict=True)]
        return keras.Model(inputs, L.Dense(CLASSES)(L.Concatenate()(both)))

    train = dataset(((left, right), y))
    norm = L.BatchNormalization(momentum=0.9, name="norm")
    model = fitted(build([norm] * 2), train, epochs=8)

    def apart(model):
        new = build([L.BatchNormalization(momentum=0.8) for _ in range(2)])
        return settled(fitted(new, train), (left, right))

    return Patient(model, train, apart, layer="norm")


class TwoBlocks(keras.Model):
    """Two convolutions, each followed by a norm, which may be the same."""

    def __init__(self, norms):
        super().__init__()
        self.convolutions = [L.Conv2D(6, 3, strides=s, use_bias=False) for s in (2, 1)]
        self.norms = norms
        self.head = L.Dense(CLASSES)

    def call(self, x, training=None):
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = tf.nn.relu(norm(convolution(x), training=training))
        return self.head(tf.reduce_mean(x, axis=(1, 2)))


@patient("shared-layer", "subclassed, 2D, the norm of the first block in the second too, Loader")
def _():
    keras.utils.set_random_seed(71)
    x, y = images(256)
    train = Loader((x, y))
    norm = BatchNormalization(momentum=0.9, name="norm")
    model = fitted(TwoBlocks([norm, norm]), train, epochs=8)

    def apart(model):
        new = TwoBlocks([BatchNormalization(momentum=0.8) for _ in range(2)])
        return settled(fitted(new, train), x)

    return Patient(model, train, apart, layer="norm")


@patient("shared-layer", "nested, 1D, one encoder for two kinds of sensor, batches")
def _():
    keras.utils.set_random_seed(72)
    x, y = series(features=8)
    one, other = x[..., :4], 3 * x[..., 4:] - 2

    def build(*encoders):
        inputs = [keras.Input((10, 4)) for _ in encoders]
        codes = [encoder(x) for encoder, x in zip(encoders, inputs, strict=True)]
        return keras.Model(inputs, L.Dense(CLASSES)(L.Concatenate()(codes)))

    def encoder(name, momentum):
        norm = L.BatchNormalization(momentum=momentum, name="norm")
        layers = [L.Conv1D(6, 3, use_bias=False), norm, L.ReLU(), L.GlobalAveragePooling1D()]
        return keras.Sequential([keras.Input((10, 4)), *layers], name=name)

    train = [([one, other], y) for one, other, y in batches((one, other, y))]
    model = loop(build(*[encoder("encoder", 0.9)] * 2), train, epochs=8)

    def apart(model):
        new = loop(build(encoder("one", 0.8), encoder("other", 0.8)), train)
        return settled(new, [one, other])

    return Patient(model, train, apart, layer="encoder/norm")


@patient("shared-layer", "wrapped, dense, a residual block that is called three times, batches")
def _():
    keras.utils.set_random_seed(73)
    x, y = rows()
    x = x / x.std(axis=0)

    def skip(name, momentum):
        norm = BatchNormalization(momentum=momentum, name="norm")
        body = [keras.Input((12,)), L.ReLU(), L.Dense(12, use_bias=False), norm]
        return Residual(keras.Sequential(body, name="body"), name=name)

    def build(*skips):
        inputs = keras.Input((12,))
        h = inputs
        for skip in skips:
            h = skip(h)
        return keras.Model(inputs, L.Dense(CLASSES)(h))

    train = batches((x, y))
    model = loop(build(*[skip("skip", 0.95)] * 3), train, epochs=5)

    def apart(model):
        return settled(loop(build(*(skip(f"skip_{i}", 0.8) for i in range(3))), train), x)

    return Patient(model, train, apart, layer="skip/body/norm")


# padding-counts


def padded(size=256, time=12, features=4):
    """Sequences of different lengths, filled up with zeros, and their classes."""
    x, y = series(size, time, features)
    lengths = np.random.default_rng(3).integers(3, time, size=size)
    x[np.arange(time) >= lengths[:, None]] = 0
    return x + 0.0, y


def tokens(size=256, time=12):
    """Sentences of the words 1 to 20, filled up with the token 0, and their classes."""
    rng = np.random.default_rng(4)
    y = rng.integers(CLASSES, size=size)
    x = rng.integers(20, size=(size, time)) // (1 + y[:, None]) + 1
    lengths = rng.integers(3, time, size=size)
    x[np.arange(time) >= lengths[:, None]] = 0
    return x, y


@patient("padding-counts", "Sequential, 1D, a convolution loses the mask of Masking, tf.data")
def _():
    keras.utils.set_random_seed(80)
    # Keras says so each time that the model is called.
    warnings.filterwarnings("ignore", message=".*does not support masking")
    x, y = padded()
    train = dataset((x, y))
    norm = L.BatchNormalization(momentum=0.8, name="norm")

    def build(first, norm):
        layers = [L.Masking(), first, norm, L.ReLU(), L.GlobalAveragePooling1D(), L.Dense(CLASSES)]
        return keras.Sequential([keras.Input((12, 4)), *layers])

    model = settled(fitted(build(L.Conv1D(8, 1, use_bias=False), norm), train), x)

    def dense(model):
        new = build(L.Dense(8, use_bias=False), L.BatchNormalization(momentum=0.8))
        return settled(fitted(new, train), x)

    return Patient(model, train, dense, layer="norm")


@patient("padding-counts", "functional, 1D, keras.ops lose the mask of an embedding, Loader")
def _():
    keras.utils.set_random_seed(81)
    x, y = tokens()
    train = Loader((x, y))

    def build(scale):
        words = keras.Input((12,), dtype="int32")
        h = scale(L.Embedding(21, 6, mask_zero=True)(words))
        h = BatchNormalization(momentum=0.8, name="norm")(L.Dense(8, use_bias=False)(h))
        h = L.GlobalAveragePooling1D()(L.ReLU()(h))
        return keras.Model(words, L.Dense(CLASSES)(h))

    # The embedding of the padding is learned like others where no mask keeps it from it.
    model = settled(fitted(build(lambda h: h * 8.0), train), x)

    def by_layer(model):
        return settled(fitted(build(L.Rescaling(8.0)), train), x)

    return Patient(model, train, by_layer, layer="norm")


class NetOfSequences(Net):
    """Masks what is padded, and may pass the mask on to the norm."""

    passes_mask = False

    def __init__(self, *layers):
        super().__init__(*layers)
        self.masking = L.Masking()

    def call(self, x, training=None):
        x = self.masking(x)
        mask = self.masking.compute_mask(x) if self.passes_mask else None
        h = tf.tanh(self.first(x))
        h = self.norm(h, training=training, mask=mask)
        return self.head(tf.reduce_mean(h, axis=1))


@patient("padding-counts", "subclassed, dense, tf.tanh loses the mask of Masking, batches")
def _():
    keras.utils.set_random_seed(82)
    x, y = padded()
    train = batches((x, y))
    norm = L.BatchNormalization(momentum=0.8, name="norm")
    model = settled(loop(NetOfSequences(L.Dense(8), norm), train), x)

    def passing(model):
        model.passes_mask = True
        return settled(model, x)

    return Patient(model, train, passing, layer="norm")


class NormWithoutMask(BatchNormalization):
    """A norm of somebody's own, whose call was written without the mask."""

    def call(self, x, training=None):
        return super().call(x, training=training)


@patient("padding-counts", "nested, 1D, an own norm whose call takes no mask, batches, no labels")
def _():
    keras.utils.set_random_seed(83)
    x, y = padded()

    def build(norm):
        layers = [L.Masking(), L.Dense(8, use_bias=False), norm, L.ReLU()]
        block = keras.Sequential([keras.Input((12, 4)), *layers], name="block")
        sequence = keras.Input((12, 4))
        h = L.GlobalAveragePooling1D()(block(sequence))
        return keras.Model(sequence, L.Dense(CLASSES)(h))

    train = batches((x, y))
    model = settled(loop(build(NormWithoutMask(momentum=0.8, name="norm")), train), x)

    def with_mask(model):
        return settled(loop(build(BatchNormalization(momentum=0.8, name="norm")), train), x)

    return Patient(model, batches((x,)), with_mask, layer="block/norm")


# unlike-batches, outliers


@patient("unlike-batches", "Sequential, dense, sorted by the first feature, batches")
def _():
    keras.utils.set_random_seed(90)
    x, y = rows()
    order = np.argsort(x[:, 0])
    train = batches((x[order], y[order]))
    model = settled(loop(sequential(L.BatchNormalization(name="norm")), batches((x, y))), x)

    def shuffle(model):
        train[:] = batches((x, y))
        return settled(model, x)

    return Patient(model, train, shuffle, layer="norm")


@patient("outliers", "Sequential, dense, one reading in 64 is in another unit, batches")
def _():
    keras.utils.set_random_seed(91)
    x, y = rows()
    odd = np.where(np.arange(len(x))[:, None] % 64 == 7, 100 * x, x)
    train = batches((odd, y))
    model = settled(loop(sequential(L.BatchNormalization(name="norm")), batches((x, y))), odd)

    def convert(model):
        train[:] = batches((x, y))
        return settled(model, x)

    return Patient(model, train, convert, layer="norm")
