"""Models that are well, in clothes that look like a disease."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ward_structure import (
    ARRAYS,
    SIZE,
    Late,
    Pages,
    Stream,
    conv,
    dataset,
    dense,
    fitted,
    listed,
    looped,
    nested,
    ours,
    samples,
    settle,
    siamese,
    theirs,
)

from bn_tutorial.book.data import digits
from bn_tutorial.models import recalibrate

L = keras.layers


@dataclass
class Healthy:
    """A model, the arguments of `examine`, and codes of which nothing may be found at all."""

    model: Any
    train: Any
    validation: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    spared: tuple[str, ...] = ()


# What makes a healthy model, by its clothes.
HEALTHY: dict[str, Callable[[], Healthy]] = {}


def healthy(clothes):
    """List what a function makes."""

    def enter(make):
        assert clothes not in HEALTHY
        HEALTHY[clothes] = make
        return make

    return enter


def halves(x, y):
    """The data to train on, and as much of the same kind to validate."""
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


# Known families, from scratch.


def family(build, scale=8, count=256):
    """Two steps of training on digits, in eager mode: tracing would take longer."""
    x, _, y, _ = digits()
    x = np.kron(x[:count].reshape(-1, 8, 8, 1), np.ones((1, scale, scale, 3)))
    x, y = x.astype("float32") * 2 - 1, y[:count]
    keras.utils.set_random_seed(0)
    model = build(weights=None, input_shape=x.shape[1:], classes=10)
    for layer in model.layers:
        # What Keras draws is so small that variances come near epsilon, until they are trained.
        if isinstance(layer, L.DepthwiseConv2D):
            layer.kernel.assign(keras.random.normal(layer.kernel.shape, stddev=0.3))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.05), loss, run_eagerly=True, jit_compile=False)
    model.fit(x[: 2 * SIZE], y[: 2 * SIZE], batch_size=SIZE, verbose=0)
    return Healthy(settle(model, x), listed(x, y))


@healthy("MobileNet")
def mobilenet():
    return family(lambda **given: keras.applications.MobileNet(alpha=0.25, **given))


@healthy("MobileNetV2")
def mobilenet_v2():
    return family(lambda **given: keras.applications.MobileNetV2(alpha=0.35, **given))


@healthy("MobileNetV3Small")
def mobilenet_v3():
    return family(
        lambda **given: keras.applications.MobileNetV3Small(
            alpha=0.35, minimalistic=True, include_preprocessing=False, **given
        )
    )


@healthy("a residual network that activates first, of digits")
def residual():
    x, x_test, y, y_test = digits()
    x, x_test = (v.reshape(-1, 8, 8, 1).astype("float32") for v in (x, x_test))
    keras.utils.set_random_seed(0)
    z = inputs = keras.Input((8, 8, 1))
    z = L.Conv2D(8, 3, padding="same", use_bias=False)(z)
    for _ in range(2):
        branch = L.ReLU()(L.BatchNormalization()(z))
        branch = L.Conv2D(8, 3, padding="same", use_bias=False)(branch)
        z = L.Add()([z, branch])
    z = L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(z)))
    model = fitted(keras.Model(inputs, L.Dense(10)(z)), x, y)
    return Healthy(model, (x, y), (x_test, y_test), ARRAYS)


# Frozen, and right so.


@healthy("fine-tuned: a frozen backbone whose averages fit")
def fine_tuned():
    train, test = halves(*samples(10, 4, count=1024))
    model = fitted(nested(theirs()), *train)
    model.get_layer("block").trainable = False
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(*train, batch_size=SIZE, verbose=0)
    return Healthy(model, dataset(*train), dataset(*test))


@healthy("the norm alone frozen, with averages that fit")
def frozen_norm():
    train, test = halves(*samples(8, count=1024))
    norm = ours()
    model = fitted(dense(norm), *train)
    norm.trainable = False
    return Healthy(model, Stream(*train), Stream(*test))


# Batches of all sizes.


@healthy("batches of 256")
def large_batches():
    train, test = halves(*samples(8, count=4096))
    return Healthy(fitted(dense(ours()), *train), train, test, {"batch_size": 256})


@healthy("batches of 8, each with many pixels")
def small_batches():
    train, test = halves(*samples(16, 16, 3, count=256))
    z = inputs = keras.Input((16, 16, 3))
    z = L.ReLU()(theirs()(L.Conv2D(8, 3, use_bias=False)(z)))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(z)))
    return Healthy(fitted(model, *train), train, test, {"batch_size": 8})


@healthy("averages as training left them, after a hundred steps")
def as_training_left_them():
    train, test = halves(*samples(6, 6, 3, count=2048))
    model = conv(ours(momentum=0.9))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 96)
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=False)
    model.fit(*train, batch_size=SIZE, epochs=6, verbose=0)
    return Healthy(model, dataset(*train), dataset(*test))


@healthy("features with heavy tails, normalized first")
def heavy_tails():
    x, y = samples(8, count=2048)
    train, test = halves(np.exp(0.5 * x), y)
    model = keras.Sequential([keras.Input((8,)), theirs(), L.Dense(16, "gelu"), L.Dense(2)])
    return Healthy(fitted(model, *train), listed(*train), listed(*test))


# Masks.


def ragged():
    """Sequences of 4 to 12 steps, padded with zeros."""
    x, y = samples(12, 4, count=1024)
    lengths = np.random.default_rng(1).integers(4, 13, len(x))
    return halves(np.where(np.arange(12)[:, None] < lengths[:, None, None], x, 0), y)


@healthy("padded sequences, with a mask that reaches the norm")
def masked():
    train, test = ragged()
    layers = [L.Masking(), L.Dense(8, use_bias=False), ours(), L.ReLU()]
    out = [L.GlobalAveragePooling1D(), L.Dense(2)]
    model = keras.Sequential([keras.Input((12, 4)), *layers, *out])
    return Healthy(fitted(model, *train), dataset(*train), dataset(*test))


@healthy("words, with the mask of their embedding")
def words():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 13, (1024, 1))
    x = np.where(np.arange(12) < lengths, rng.integers(1, 30, (1024, 12)), 0)
    train, test = halves(x, (x > 20).sum(1) % 2)
    inputs = keras.Input((12,), dtype="int32")
    wide = keras.initializers.RandomNormal(stddev=1)
    z = theirs()(L.Embedding(30, 8, embeddings_initializer=wide, mask_zero=True)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(z)))
    return Healthy(fitted(model, *train), Pages(*train), Pages(*test))


# One layer at several places, on values of one kind.


@healthy("siamese: both inputs are of one kind, and go through together")
def together():
    x, y = samples(8, count=1024)
    left, right, y = x[:512], x[512:], y[:512]
    model = fitted(siamese(True), [left, right], y)
    train = tf.data.Dataset.from_tensor_slices(((left, right), y)).batch(SIZE)
    return Healthy(model, train)


@healthy("siamese: both inputs are of one kind, one after the other")
def one_after_the_other():
    x, y = samples(8, count=1024)
    left, right, y = x[:512], x[512:], y[:512]
    model = fitted(siamese(False), [left, right], y)
    settle(model, [np.concatenate([left, right]), np.concatenate([right, left])])
    train = tf.data.Dataset.from_tensor_slices(((left, right), y)).batch(SIZE)
    return Healthy(model, train)


# An axis, a precision, a place that are meant.


@healthy("axis=1 behind convolutions with the channels first")
def channels_first():
    x, y = samples(9, 12, 3)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    first = {"data_format": "channels_first"}
    z = inputs = keras.Input((3, 9, 12))
    for filters in (6, 4):
        z = L.Conv2D(filters, 3, use_bias=False, **first)(z)
        z = L.ReLU()(L.BatchNormalization(axis=1)(z))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D(**first)(z)))
    return Healthy(fitted(model, x, y), dataset(x, y))


@healthy("mixed precision, with variables in float32")
def mixed():
    train, test = halves(*samples(8, count=1024))
    half = {"dtype": "mixed_float16"}
    layers = [L.Dense(16, use_bias=False, **half), theirs(**half), L.ReLU(**half)]
    model = keras.Sequential([keras.Input((8,)), *layers, L.Dense(2, dtype="float32")])
    return Healthy(fitted(model, *train), Stream(*train), Stream(*test))


@healthy("under a strategy of one device")
def one_device():
    train, test = halves(*samples(8, count=1024))
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        return Healthy(fitted(dense(ours()), *train), dataset(*train), dataset(*test))


@healthy("normalized after the activation, by a loop of one's own, with a bias that counts")
def after_the_activation():
    train, test = halves(*samples(8, count=1024))
    stem = L.Dense(16, bias_initializer="ones")
    return Healthy(looped(Late(ours(), stem=stem), *train), train[0], test[0], ARRAYS)


@healthy("dropout behind the norm, which has neither gamma nor beta")
def dropout_behind():
    train, test = halves(*samples(8, count=1024))
    plain = theirs(center=False, scale=False)
    layers = [L.Dense(16, use_bias=False), plain, L.LeakyReLU(), L.Dropout(0.2), L.Dense(2)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    return Healthy(fitted(model, *train), listed(*train), listed(*test))


@healthy("training=False in a functional graph, which gives way to the mode of the model's call")
def gives_way():
    train, test = halves(*samples(8, count=1024))
    inputs = keras.Input((8,))
    z = theirs()(L.Dense(16, use_bias=False)(inputs), training=False)
    model = keras.Model(inputs, L.Dense(2)(L.ReLU()(z)))
    return Healthy(fitted(model, *train), listed(*train), listed(*test))


# What reports of strangers took for a disease.


@healthy("validated one by one, while its batches normalize features that hardly vary alone")
def one_by_one():
    train, test = halves(*samples(8, count=1024))
    model = keras.Sequential([keras.Input((8,))])
    for _ in range(3):
        for layer in (L.Dense(24, use_bias=False), L.BatchNormalization(), L.ReLU()):
            model.add(layer)
    model.add(L.Dense(2))
    alone = [tuple(part[i : i + 1] for part in test) for i in range(64)]
    return Healthy(fitted(model, *train), train, alone, spared=("data-shift",))


@healthy("columns of a one-hot code that are seldom 1, and a small epsilon")
def one_hot():
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 31) ** 2
    kinds = rng.choice(30, 8192, p=share / share.sum())
    train, test = halves(np.eye(30, dtype="float32")[kinds], kinds % 2)
    keras.utils.set_random_seed(0)
    weak = L.Dense(2, kernel_regularizer=keras.regularizers.L2(0.01))
    model = keras.Sequential([keras.Input((30,)), theirs(epsilon=1e-5), weak])
    return Healthy(fitted(model, *train), train, test, spared=("data-shift", "averages-lag"))


class Ghosts(L.Layer):
    """Normalizes each half of a batch by itself, and says so to the norm."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def call(self, inputs, training=None):
        if not training:
            return self.norm(inputs, training=False)
        halves = tf.split(inputs, 2)
        return tf.concat([self.norm(half, training=True) for half in halves], 0)


@healthy("ghost batches: each half of a batch is normalized by itself")
def ghosts():
    train, test = halves(*samples(8, count=1024))
    return Healthy(fitted(dense(Ghosts(ours())), *train), train, test, ARRAYS)


def augmented(*first):
    """A classifier of images, behind layers of Keras that change them in training."""
    x, _, y, _ = digits()
    train, test = halves(2 * x[:1024].reshape(-1, 8, 8, 1).astype("float32") - 1, y[:1024] % 3)
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, use_bias=False), L.BatchNormalization(), L.ReLU()]
    out = [L.GlobalAveragePooling2D(), L.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *first, *layers, *out])
    return Healthy(fitted(model, *train), train, test)


@healthy("noise of Keras's own before the norm, recalibrated without it")
def noise_before():
    one = augmented(L.GaussianNoise(1.0))
    recalibrate(one.model, one.train[0])
    return one


class MonteCarlo(L.Dropout):
    """Drops in inference as well, of which many answers are averaged."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


@healthy("dropout in inference as well, for many answers of which to take the mean")
def monte_carlo():
    train, test = halves(*samples(8, count=1024))
    layers = [L.Dense(16, use_bias=False), ours(), L.ReLU(), MonteCarlo(0.5), L.Dense(2)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    return Healthy(fitted(model, *train), train, test, ARRAYS)


@healthy("augmentation within the model")
def augmentation():
    return augmented(L.RandomFlip("horizontal"), L.RandomTranslation(0.1, 0.1))
