"""Folded models against the models that they came from."""

import functools
import inspect
import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial import batch_norm, layers
from bn_tutorial.layers import _arguments
from bn_tutorial.models import find_batch_norms, fold_batch_norm

L = keras.layers

# In float64 a few hundred products and sums of order 1 to 100 are off by some 1e-14 each.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
# In float32: a few times 1e-6, since the map is applied to the kernel, not to the sum of products.
CLOSE_32 = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(autouse=True)
def in_float64():
    """What is built here computes in float64, where a wrong fold cannot pass for rounding."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def perturb(model, seed=0):
    """Give every weight of every layer a value that no folding may overlook."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" not in weight.path:
            low, high = (0.2, 3) if "variance" in weight.path else (-1, 1)
            weight.assign(rng.uniform(low, high, weight.shape))
    return model


def sequential(shape, *stack, **kwargs):
    return perturb(keras.Sequential([keras.Input(shape), *stack], **kwargs))


def functional(build, *shapes):
    inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)]
    return perturb(keras.Model(inputs if len(inputs) > 1 else inputs[0], build(*inputs)))


def norm(name="norm", **kwargs):
    return L.BatchNormalization(name=name, **kwargs)


def data(model, batch=5, seed=1):
    rng = np.random.default_rng(seed)
    sizes = [(batch, *(size or 4 for size in x.shape[1:])) for x in model.inputs]
    values = [
        rng.normal(size=size).astype(x.dtype) for size, x in zip(sizes, model.inputs, strict=True)
    ]
    return values[0] if is_sequential(model) else keras.tree.pack_sequence_as(model.input, values)


def is_sequential(model):
    return isinstance(model, keras.Sequential)


def outputs(model, x):
    return [np.asarray(y) for y in tf.nest.flatten(model(x, training=False))]


def assert_close(got, expected, close=CLOSE):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.astype("float64"), b.astype("float64"), **close)


def assert_equivalent(model, left=(), close=CLOSE, x=None):
    """Fold, compare the outputs, see that ``model`` is as before; returns the folded model."""
    x = data(model) if x is None else x
    weights, config = [np.array(weight.numpy()) for weight in model.weights], model.get_config()
    before = outputs(model, x)
    folded = fold_batch_norm(model)

    assert set(folded.not_folded) == set(left), dict(folded.not_folded)
    assert {way for way, _ in find_batch_norms(folded)} == set(left)
    assert_close(outputs(folded, x), before, close)

    assert model.get_config() == config
    for weight, value in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert_close(outputs(model, x), before, {"rtol": 0})
    assert_shared_or_new(model, folded)
    return folded


def assert_shared_or_new(model, folded):
    """Each layer of ``folded`` is one of ``model``, or a new one that shares no weight with it."""
    assert (folded.name, folded.input_shape) == (model.name, model.input_shape)
    assert is_sequential(folded) == is_sequential(model)
    assert folded.dtype_policy.name == model.dtype_policy.name
    assert folded.supports_masking == model.supports_masking
    if not is_sequential(model):
        for a, b in [(folded.input, model.input), (folded.output, model.output)]:
            keras.tree.assert_same_structure(*(keras.tree.map_structure(id, x) for x in (a, b)))
    for layer in folded.layers:
        original = model.get_layer(layer.name)
        if layer is not original:
            assert type(layer) is type(original)
            new = {id(weight) for weight in getattr(layer, "trainable_weights", [])}
            if not isinstance(layer, keras.Model | L.TimeDistributed):
                assert not new & {id(weight) for weight in model.weights}


# What folds back


KINDS = {
    "Dense": ((6,), lambda **kw: L.Dense(5, **kw)),
    "Dense on sequences": ((4, 6), lambda **kw: L.Dense(5, **kw)),
    "Conv1D": ((9, 3), lambda **kw: L.Conv1D(5, 3, strides=2, padding="causal", **kw)),
    "Conv2D": ((8, 7, 3), lambda **kw: L.Conv2D(5, (3, 2), padding="same", **kw)),
    "Conv2D, groups": ((8, 7, 4), lambda **kw: L.Conv2D(6, 3, groups=2, dilation_rate=2, **kw)),
    "Conv3D": ((5, 4, 6, 2), lambda **kw: L.Conv3D(3, 2, **kw)),
    "DepthwiseConv1D": ((8, 3), lambda **kw: L.DepthwiseConv1D(3, depth_multiplier=2, **kw)),
    "DepthwiseConv2D": ((8, 7, 3), lambda **kw: L.DepthwiseConv2D(3, **kw)),
    "DepthwiseConv2D, multiplier": (
        (8, 7, 3),
        lambda **kw: L.DepthwiseConv2D((2, 3), depth_multiplier=4, padding="same", **kw),
    ),
    "SeparableConv1D": ((8, 3), lambda **kw: L.SeparableConv1D(4, 3, depth_multiplier=2, **kw)),
    "SeparableConv2D": ((8, 7, 3), lambda **kw: L.SeparableConv2D(4, 3, padding="same", **kw)),
    "Conv1DTranspose": ((5, 3), lambda **kw: L.Conv1DTranspose(7, 3, strides=2, **kw)),
    "Conv2DTranspose": ((5, 4, 3), lambda **kw: L.Conv2DTranspose(7, 3, strides=2, **kw)),
    "Conv3DTranspose": ((3, 4, 3, 2), lambda **kw: L.Conv3DTranspose(5, 2, strides=2, **kw)),
    "TimeDistributed": ((4, 6, 7, 3), lambda **kw: L.TimeDistributed(L.Conv2D(5, 3, **kw))),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind, bias):
    shape, make = KINDS[kind]
    model = sequential(shape, make(use_bias=bias), L.BatchNormalization(epsilon=0.01))
    folded = assert_equivalent(model)
    [layer] = folded.layers
    assert layer.name == model.layers[0].name
    assert getattr(layer, "layer", layer).use_bias


@pytest.mark.parametrize(
    ("equation", "output_shape", "bias_axes", "shape", "axis"),
    [
        ("abc,cd->abd", (None, 5), None, (4, 3), -1),
        ("abc,cd->abd", (None, 5), "d", (4, 3), 2),
        ("abc,cd->abd", (4, 5), "bd", (4, 3), -1),
        ("abc,cde->abde", (None, 2, 5), "e", (4, 3), 2),
        ("abc,cde->abde", (None, 2, 5), "d", (4, 3), -1),
        ("abc,cde->abed", (4, 5, 2), None, (4, 3), 2),
        ("abc,bcd->abd", (4, 5), "d", (4, 3), 1),
        ("...x,xy->...y", 5, "y", (4, 3), -1),
        ("...x,xy->...y", 5, None, (3,), 1),
        ("ab...,bc->ac...", 5, "c", (3, 4, 2), 1),
    ],
)
def test_einsum_dense(equation, output_shape, bias_axes, shape, axis):
    dense = L.EinsumDense(equation, output_shape, bias_axes=bias_axes)
    assert_equivalent(sequential(shape, dense, L.BatchNormalization(axis=axis)))


@pytest.mark.parametrize(
    ("equation", "output_shape", "shape", "axis"),
    [
        ("abc,cd->abd", (4, 5), (4, 3), 1),  # an axis that the kernel does not have
        ("...x,xy->...y", 5, (4, 3), 1),  # one of the ellipsis
        ("ab...,bc->ac...", 5, (3, 4, 2), 3),
    ],
)
def test_einsum_dense_along_another_axis(equation, output_shape, shape, axis):
    dense = L.EinsumDense(equation, output_shape, name="dense")
    folded = assert_equivalent(sequential(shape, dense, norm(axis=axis)), left=["norm"])
    assert f"axis {axis} is not the channel axis of 'dense'" in folded.not_folded["norm"]


def test_einsum_dense_along_two_axes():
    dense = L.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="e")
    stack = [dense, L.BatchNormalization(axis=2), L.Dropout(0.5), L.BatchNormalization()]
    assert_equivalent(sequential((4, 3), *stack))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_without_scale_or_center(scale, center):
    stack = L.Conv2D(5, 3), L.BatchNormalization(scale=scale, center=center)
    assert_equivalent(sequential((4, 4, 3), *stack))


def test_epsilon_zero():
    assert_equivalent(sequential((6,), L.Dense(5), L.BatchNormalization(epsilon=0.0)))


def test_the_weights_are_the_textbooks():
    model = sequential((4, 4, 3), L.Conv2D(5, 3), L.BatchNormalization())
    (kernel, bias), statistics = (layer.get_weights() for layer in model.layers)
    expected = batch_norm.fold_weights(kernel, bias, *statistics)
    for got, wanted in zip(fold_batch_norm(model).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_two_in_a_row_fold_both():
    stack = L.Dense(5), L.BatchNormalization(), L.BatchNormalization(center=False)
    assert len(assert_equivalent(sequential((6,), *stack)).layers) == 1


def test_the_layer_of_this_package_folds():
    assert_equivalent(sequential((6,), L.Dense(5), layers.BatchNormalization()))


def test_axis_1_is_the_last_axis_of_a_dense_output():
    assert_equivalent(sequential((6,), L.Dense(5), L.BatchNormalization(axis=1)))


def einsum(equation, *sizes):
    return L.EinsumDense(equation, sizes, name="host")


def channels_first(cls, *args):
    return cls(*args, use_bias=False, data_format="channels_first", name="host")


@pytest.mark.parametrize(
    ("shape", "host", "axis"),
    [
        ((7,), lambda: einsum("ab,bcd->acd", 5, 5), 1),
        ((4, 3), lambda: einsum("abc,cde->abed", None, 5, 2), 2),
        ((4, 3), lambda: einsum("abc,cde->abde", 4, 4, 3), 2),
        ((9, 3), lambda: einsum("abc,cde->abde", 9, 4, 4), 2),
        ((3, 5, 7), lambda: channels_first(L.Conv2D, 5, 3), 1),
        ((3, 7, None), lambda: channels_first(L.Conv2D, 5, 3), 1),
        ((2, 3, 5, 7), lambda: L.TimeDistributed(channels_first(L.Conv2D, 5, 3), name="host"), 2),
        ((3, 2), lambda: channels_first(L.Conv1DTranspose, 4, 2, 2), 1),
    ],
)
def test_not_where_keras_would_add_the_bias_along_another_axis(shape, host, axis):
    # Not each of these can be computed on a CPU.
    folded = fold_batch_norm(sequential(shape, host(), norm(axis=axis)))
    assert "Keras might add the bias of 'host'" in folded.not_folded["norm"]


@pytest.mark.parametrize(
    ("shape", "own", "other"), [((2, 5, 5), 1, 2), ((2, 5, 4, 3, 5), 1, 4), ((2, 5, 5, 3), 2, 1)]
)
def test_keras_adds_a_bias_along_another_axis(shape, own, other):
    bias = np.arange(5.0)
    along = {
        axis: np.expand_dims(bias, [i for i in range(len(shape)) if i != axis])
        for axis in (own, other)
    }
    added = keras.ops.add(np.zeros(shape), along[own])
    np.testing.assert_array_equal(added, np.broadcast_to(along[other], shape))


def test_channels_first():
    # TensorFlow has no such convolution on a CPU, so compare the weights.
    conv = L.Conv2D(5, 3, data_format="channels_first")
    for axis, video in [(1, False), (2, True)]:
        wrapped, shape = (L.TimeDistributed(conv), (2, 3, 8, 8)) if video else (conv, (3, 8, 8))
        model = sequential(shape, wrapped, L.BatchNormalization(axis=axis))
        folded = fold_batch_norm(model)
        assert not folded.not_folded
        (kernel, bias), statistics = (layer.get_weights() for layer in model.layers)
        expected = batch_norm.fold_weights(kernel, bias, *statistics)
        for got, wanted in zip(folded.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        model = sequential(shape, wrapped, norm(axis=-1))
        assert set(fold_batch_norm(model).not_folded) == {"norm"}


@pytest.mark.parametrize("how", ["norm in it", "both in it", "norm behind it"])
def test_the_wrapper_of_a_video(how):
    conv, shape = L.Conv2D(5, 3, use_bias=False), (4, 6, 7, 3)
    stack = {
        "norm in it": lambda: [L.Dense(5), L.TimeDistributed(norm())],
        "both in it": lambda: [L.TimeDistributed(conv), L.TimeDistributed(norm())],
        "norm behind it": lambda: [L.TimeDistributed(conv), norm()],
    }[how]()
    assert len(assert_equivalent(sequential(shape, *stack)).layers) == 1


# Through layers that commute

COMMUTE = {
    "Dropout": ((6,), [L.Dropout(0.5)], -1),
    "SpatialDropout1D": ((4, 6), [L.SpatialDropout1D(0.5)], -1),
    "SpatialDropout2D": ((4, 3, 6), [L.SpatialDropout2D(0.5)], -1),
    "SpatialDropout3D": ((4, 3, 2, 6), [L.SpatialDropout3D(0.5)], -1),
    "AlphaDropout": ((6,), [L.AlphaDropout(0.5)], -1),
    "GaussianDropout": ((6,), [L.GaussianDropout(0.5)], -1),
    "GaussianNoise": ((6,), [L.GaussianNoise(0.5)], -1),
    "Identity": ((6,), [L.Identity()], -1),
    "ActivityRegularization": ((6,), [L.ActivityRegularization(0.5)], -1),
    "linear": ((6,), [L.Activation("linear")], -1),
    "several": ((6,), [L.Dropout(0.5), L.Activation("linear"), L.GaussianNoise(0.1)], -1),
    "Reshape": ((4, 3, 6), [L.Reshape((12, 5))], -1),
    "Reshape, unknown": ((None, 3, 6), [L.Reshape((-1, 5))], -1),
    "Reshape, into the middle": ((6,), [L.Reshape((1, 5, 1))], 2),
    "Flatten of one place": ((1, 1, 6), [L.Flatten()], -1),
    "Flatten of rank 2": ((6,), [L.Flatten()], -1),
    "Flatten, channels first": ((1, 1, 6), [L.Flatten(data_format="channels_first")], -1),
    "AveragePooling1D": ((6, 4), [L.AveragePooling1D(3, strides=2)], -1),
    "AveragePooling2D": ((6, 5, 4), [L.AveragePooling2D((3, 2))], -1),
    "GlobalAveragePooling1D": ((6, 4), [L.GlobalAveragePooling1D()], -1),
    "GlobalAveragePooling2D": ((6, 5, 4), [L.GlobalAveragePooling2D()], -1),
    "GlobalAveragePooling2D, axes kept": ((6, 5, 4), [L.GlobalAveragePooling2D(keepdims=True)], -1),
    "GlobalAveragePooling3D": ((6, 5, 4, 3), [L.GlobalAveragePooling3D()], -1),
    "UpSampling1D": ((6, 4), [L.UpSampling1D(3)], -1),
    "UpSampling2D": ((6, 5, 4), [L.UpSampling2D((2, 3))], -1),
    "UpSampling3D": ((3, 5, 4, 3), [L.UpSampling3D(2)], -1),
    "Cropping1D": ((6, 4), [L.Cropping1D((1, 2))], -1),
    "Cropping2D": ((6, 5, 4), [L.Cropping2D(((1, 2), (0, 1)))], -1),
    "Cropping3D": ((3, 5, 4, 3), [L.Cropping3D(1)], -1),
    "Permute": ((4, 3, 6), [L.Permute((3, 1, 2))], 1),
    "Permute, Reshape": ((4, 3, 6), [L.Permute((3, 1, 2)), L.Reshape((5, 12))], 1),
    "RepeatVector": ((6,), [L.RepeatVector(3)], -1),
}


def clones(stack):
    """New layers, of the dtype of the tests."""
    configs = [{**layer.get_config(), "dtype": None} for layer in stack]
    return [layer.from_config(config) for layer, config in zip(stack, configs, strict=True)]


@pytest.mark.parametrize("case", COMMUTE)
def test_back_through_what_commutes(case):
    shape, between, axis = COMMUTE[case]
    model = sequential(shape, L.Dense(5), *clones(between), norm(axis=axis))
    assert [type(layer) for layer in assert_equivalent(model).layers] == [
        L.Dense,
        *map(type, between),
    ]


@pytest.mark.parametrize("case", [case for case in COMMUTE if COMMUTE[case][2] == -1])
def test_ahead_through_what_commutes(case):
    shape, between, _ = COMMUTE[case]
    between = [layer for layer in clones(between) if not isinstance(layer, L.Reshape)]
    model = sequential(shape, norm(), *between, L.Dense(3, activation="tanh"))
    assert_equivalent(model)


def test_bilinear_up_sampling():
    stack = L.Conv2D(4, 1), L.UpSampling2D(2, interpolation="bilinear"), norm()
    # TensorFlow resizes in float32.
    assert_equivalent(sequential((6, 5, 4), *stack), close=CLOSE_32)


def test_average_pooling_of_volumes():
    keras.config.set_dtype_policy("float32")  # all that TensorFlow has for it on a CPU
    stack = L.Conv3D(4, 1), L.AveragePooling3D(2), norm()
    assert_equivalent(sequential((6, 5, 4, 3), *stack), close=CLOSE_32)


DO_NOT_COMMUTE = {
    "ReLU": ((6,), lambda: L.ReLU(name="x")),
    "max pooling": ((6, 4), lambda: L.MaxPooling1D(2, name="x")),
    "padded average pooling": ((5, 4), lambda: L.AveragePooling1D(2, padding="same", name="x")),
    "zero padding": ((6, 4), lambda: L.ZeroPadding1D(1, name="x")),
    "channels flattened": ((6, 4), lambda: L.Flatten(name="x")),
    "channels in a heap": ((6, 4), lambda: L.Reshape((5, 6), name="x")),
    "another axis of the same size": ((5, 4), lambda: L.Permute((2, 1), name="x")),
    "bicubic": ((4, 4, 3), lambda: L.UpSampling2D(2, interpolation="bicubic", name="x")),
    "a rescaling": ((6,), lambda: L.Rescaling(2.0, 1.0, name="x")),
    "a mask": ((6, 4), lambda: L.Masking(name="x")),
    "softmax": ((6,), lambda: L.Activation("softmax", name="x")),
    "a lambda": ((6,), lambda: L.Lambda(lambda x: x, name="x")),
    "pooling of another axis": (
        (6, 4, 3),
        lambda: L.AveragePooling2D((1, 1), data_format="channels_first", name="x"),
    ),
}


@pytest.mark.parametrize("case", DO_NOT_COMMUTE)
def test_not_through_what_does_not_commute(case):
    shape, make = DO_NOT_COMMUTE[case]
    model = sequential(shape, L.Dense(5), make(), norm())
    close = CLOSE_32 if case == "bicubic" else CLOSE
    folded = assert_equivalent(model, left=["norm"], close=close)
    assert re.search("'x'|is not the channel axis", folded.not_folded["norm"])


# What folds ahead

AHEAD = {
    "Dense": ((6,), lambda **kw: L.Dense(5, **kw)),
    "Dense on images": ((4, 3, 6), lambda **kw: L.Dense(5, **kw)),
    "Conv1D": ((9, 3), lambda **kw: L.Conv1D(5, 3, strides=2, **kw)),
    "Conv2D": ((8, 7, 3), lambda **kw: L.Conv2D(5, (3, 2), dilation_rate=2, **kw)),
    "Conv2D, groups": ((8, 7, 6), lambda **kw: L.Conv2D(8, 3, groups=2, **kw)),
    "Conv3D": ((5, 4, 6, 2), lambda **kw: L.Conv3D(3, 2, **kw)),
    "DepthwiseConv1D": ((8, 3), lambda **kw: L.DepthwiseConv1D(3, depth_multiplier=2, **kw)),
    "DepthwiseConv2D": ((8, 7, 3), lambda **kw: L.DepthwiseConv2D(3, depth_multiplier=4, **kw)),
    "SeparableConv1D": ((8, 3), lambda **kw: L.SeparableConv1D(4, 3, depth_multiplier=2, **kw)),
    "SeparableConv2D": ((8, 7, 3), lambda **kw: L.SeparableConv2D(4, 3, **kw)),
    "TimeDistributed": ((4, 6, 7, 3), lambda **kw: L.TimeDistributed(L.Conv2D(5, 3, **kw))),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", AHEAD)
def test_ahead_into_each_kind(kind, bias):
    shape, make = AHEAD[kind]
    model = sequential(shape, norm(), L.Dropout(0.5), make(use_bias=bias, activation="tanh"))
    assert len(assert_equivalent(model).layers) == 2


def test_between_two_activations():
    stack = [L.Dense(5, activation="relu"), norm(), L.Dropout(0.5), L.Dense(3, activation="tanh")]
    assert len(assert_equivalent(sequential((6,), *stack)).layers) == 3


def test_ahead_and_back_into_the_same_layer():
    stack = L.BatchNormalization(), L.BatchNormalization(), L.Conv2D(6, 3, groups=3), norm()
    model = sequential((6, 6, 3), L.ReLU(), *stack, L.ReLU())
    assert len(assert_equivalent(model).layers) == 3


def test_groups_take_the_shift_of_their_own_channels():
    model = sequential((1, 1, 4), norm(), L.Conv2D(4, 1, groups=2, use_bias=False))
    model.layers[0].set_weights([np.ones(4), np.arange(4.0), np.zeros(4), np.full(4, 1 - 1e-3)])
    model.layers[1].set_weights([np.ones((1, 1, 2, 4))])
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(folded.layers[0].get_weights()[1], [1, 1, 5, 5], rtol=1e-14)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_not_ahead_through_a_padded_border(padding):
    """Zeros are padded after the normalization; folded, the bias would shift them too."""
    conv = L.Conv1D(1, 3, padding=padding, use_bias=False, name="conv")
    model = sequential((5, 1), norm(scale=False), conv)
    # y = x + 1, and then the sum of three neighbours
    model.layers[0].set_weights([np.ones(1), np.zeros(1), np.full(1, 1 - 1e-3)])
    conv.set_weights([np.ones((3, 1, 1))])
    x = np.zeros((1, 5, 1))
    folded = assert_equivalent(model, left=["norm"], x=x)
    reason = folded.not_folded["norm"]
    assert f"'conv' pads with zeros (padding='{padding}')" in reason
    right = [2, 3, 3, 3, 2] if padding == "same" else [1, 2, 3, 3, 3]
    np.testing.assert_allclose(np.ravel(folded(x)), right, rtol=1e-12)
    # What the formula of the fold would give: all weights times the shift, at the border as well.
    wrong = tf.nn.conv1d(np.pad(x, [(0, 0), (1, 1), (0, 0)]), np.ones((3, 1, 1)), 1, "VALID") + 3
    np.testing.assert_allclose(np.ravel(wrong), [3, 3, 3, 3, 3])


@pytest.mark.parametrize("cls", [L.BatchNormalization, layers.BatchNormalization])
@pytest.mark.parametrize(
    ("dtype", "mean", "left"),
    [
        ("float64", 1e6, False),
        ("float32", 500, False),  # times 2^-23: 6·10⁻⁵ of a standard deviation
        ("float32", 1e5, True),
        ("mixed_float16", 0.05, False),
        ("mixed_float16", 1000, True),
        ("mixed_bfloat16", 1, True),
    ],
)
def test_not_ahead_from_far_away(cls, dtype, mean, left):
    """Inputs that are not normalized would lose their digits in the layer after it."""
    stack = cls(name="norm", dtype=dtype, epsilon=0), L.Dense(3, dtype=dtype)
    model = perturb(keras.Sequential([keras.Input((2,), dtype=stack[0].compute_dtype), *stack]))
    stack[0].set_weights([np.ones(2), np.zeros(2), np.full(2, mean), np.ones(2)])
    x = mean + np.array([[-1.0, 1], [2, 0], [0, -3]])
    folded = fold_batch_norm(model)
    assert ("of their standard deviation" in folded.not_folded.get("norm", "")) == left
    close = {"float64": 1e-9, "float32": 3e-4}.get(dtype, 0.02)
    assert_close(outputs(folded, x), outputs(model, x), {"rtol": 0, "atol": close})


NOT_AHEAD = {
    "its channels": (
        (4, 4, 3),
        norm(axis=1),
        L.Conv2D(2, 1, name="x"),
        "axis 1 is not the channel",
    ),
    "transposed": ((4, 3), norm(), L.Conv1DTranspose(2, 3, name="x"), "'x' is a Conv1DTranspose"),
    "a kernel of two axes": ((4, 3), norm(), L.EinsumDense("abc,cd->abd", (4, 2), name="x"), "'x'"),
    "an activation": ((6,), norm(), L.ReLU(name="x"), "'x' is a ReLU"),
    "flattened": ((4, 3), norm(), L.Flatten(name="x"), "'x' is a Flatten"),
    "an output": ((6,), norm(), L.Dropout(0.5, name="x"), "'x' is an output of the model"),
}


@pytest.mark.parametrize("case", NOT_AHEAD)
def test_what_does_not_fold_ahead(case):
    shape, first, last, reason = NOT_AHEAD[case]
    first, last = clones([first, last])
    folded = assert_equivalent(sequential(shape, first, last), left=["norm"])
    assert reason in folded.not_folded["norm"].partition("ahead")[2]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_not_ahead_where_the_normalization_changes_the_dtype(dtype):
    x = keras.Input((3,), dtype=dtype)
    model = perturb(keras.Model(x, L.Dense(2, name="dense")(norm()(x))))
    folded = assert_equivalent(model, left=["norm"])
    dtypes = ", ".join(sorted([dtype, "float64"]))
    reason = f"the dtypes from 'dense' to it are {dtypes}"
    assert reason in folded.not_folded["norm"].partition("ahead")[2]


def test_not_ahead_where_others_use_the_output():
    def build(x):
        y = norm()(x)
        return L.Dense(5)(y) + L.Dense(5)(y)

    folded = assert_equivalent(functional(build, (6,)), left=["norm"])
    assert "output of 'norm' is used more than once" in folded.not_folded["norm"]
    model = functional(lambda x: [(y := norm()(x)), L.Dense(5)(y)], (6,))
    assert_equivalent(model, left=["norm"])


# Which batch normalizations fold


class AlwaysTrains(L.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask)


class CalledTwice(L.Layer):
    def __call__(self, x, **kwargs):
        return super().__call__(super().__call__(x, **kwargs), **kwargs)


class InheritsCalledTwice(L.BatchNormalization, CalledTwice):
    pass


class OfTheMoments(layers.BatchNormalization):
    def _moments(self, inputs, mask):
        return super()._moments(inputs, mask)


class Builds(L.BatchNormalization):
    def build(self, shape):
        super().build(shape)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (AlwaysTrains, "call"),
        (InheritsCalledTwice, "__call__"),
        (OfTheMoments, "_moments"),
        (Builds, "build"),
    ],
)
def test_a_subclass_with_anything_of_its_own_is_left(cls, name):
    model = sequential((1,), L.Dense(1, name="dense"), cls(name="norm"))
    folded = fold_batch_norm(model)
    assert f"it is a {cls.__name__} with its own {name};" in folded.not_folded["norm"]
    x = np.ones((2, 1))
    np.testing.assert_array_equal(folded(x, training=False), model(x, training=False))


def test_a_layer_that_is_called_twice_by_its_own_call():
    """Whatever its ``__call__`` adds to the graph, folding the layers before adds none of it."""

    class Twice(L.Layer):
        def __call__(self, x, **kwargs):
            return super().__call__(super().__call__(x, **kwargs), **kwargs)

        def call(self, x):
            return 2 * x

    class Inside(L.Layer):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = L.Dense(5), norm("inside")

        def __call__(self, x, **kwargs):
            return self.norm(self.dense(x))

    for make in [Twice, Inside]:
        stack = [L.Dense(5), norm(), make(), L.Dense(5), norm("after")]
        model = keras.Sequential([keras.Input((6,)), *stack])
        x, y = (model.inputs[0], model.outputs[0])
        for each in [model, keras.Model(x, y)]:
            perturb(each)
            values = np.random.default_rng(0).normal(size=(5, 6))
            folded = fold_batch_norm(each)
            assert not folded.not_folded
            assert_close(outputs(folded, values), outputs(each, values))


def test_a_subclass_that_normalizes_by_the_batch():
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False), AlwaysTrains()])
    model.layers[0].set_weights([np.ones((1, 1))])
    y = fold_batch_norm(model)(np.array([[1.0], [3], [5], [7]]), training=False)
    np.testing.assert_allclose(np.ravel(y), [-1.342, -0.447, 0.447, 1.342], atol=1e-3)


def test_what_was_assigned_to_a_layer_leaves_it():
    for place in range(2):
        model = sequential((6,), L.Dense(6, name="dense"), norm())
        model.layers[place].call = lambda inputs, **kwargs: inputs**2
        folded = assert_equivalent(model, left=["norm"])
        assert "its own call" in folded.not_folded["norm"]


class OnlyConstructed(L.BatchNormalization):
    """Its epsilon is another by default."""

    hint: int = 3

    def __init__(self, epsilon=0.1, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def of_its_own(self):
        return self.hint


def test_a_subclass_that_is_only_constructed_in_another_way_folds():
    assert_equivalent(sequential((6,), L.Dense(5), OnlyConstructed(trainable=False)))

    class OfOurs(layers.BatchNormalization):
        pass

    assert_equivalent(sequential((6,), L.Dense(5), OfOurs()))


@pytest.mark.parametrize("cls", [L.BatchNormalization, layers.BatchNormalization])
def test_an_argument_that_the_package_does_not_know(cls, monkeypatch):
    layer = cls(name="norm")
    monkeypatch.setitem(_arguments.UNKNOWN, "whiten", False)
    layer.whiten = True
    folded = assert_equivalent(sequential((6,), L.Dense(5), layer), left=["norm"])
    assert "it has whiten, which would have to be at its default" in folded.not_folded["norm"]


@pytest.mark.parametrize("training", [True, 1, tf.constant(True)], ids=["True", "1", "a tensor"])
def test_a_norm_that_always_trains_is_left(training):
    model = functional(lambda x: norm()(L.Dense(5)(x), training=training), (6,))
    reason = fold_batch_norm(model).not_folded["norm"]
    assert re.match("it is called with training=.*; it would fold with training=None", reason)
    wrapped = L.TimeDistributed(norm(), name="each")
    model = functional(lambda x: wrapped(L.Dense(5)(x), training=training), (4, 6))
    assert "training=" in fold_batch_norm(model).not_folded["each/norm"]


def test_a_norm_that_never_trains_folds():
    assert_equivalent(functional(lambda x: norm()(L.Dense(5)(x), training=False), (6,)))
    assert_equivalent(functional(lambda x: norm()(inputs=L.Dense(5)(x)), (6,)))
    assert_equivalent(functional(lambda x: norm()(inputs=L.Dense(5)(inputs=x), mask=None), (6,)))


def test_a_mask_as_an_input():
    a, k = keras.Input((3, 2)), keras.Input((3,), dtype="bool")
    model = perturb(keras.Model([a, k], norm()(L.Dense(2)(a), mask=k)))
    folded = assert_equivalent(model, left=["norm"])
    assert "it is called with mask, which may reach the layers after it" in str(folded.not_folded)


def test_a_mask_that_the_next_layer_gets_from_it():
    a, k = keras.Input((3, 2)), keras.Input((3,), dtype="bool")
    y = L.GlobalAveragePooling1D()(L.Activation("tanh")(norm()(L.Dense(2)(a), mask=k)))
    model = perturb(keras.Model([a, k], y))
    x = [data(model)[0], np.array([[1, 0, 1]] * 5, bool)]
    assert_equivalent(model, left=["norm"], x=x)


def test_masks_that_come_with_the_data():
    stack = [
        L.Embedding(7, 4, mask_zero=True),
        L.Bidirectional(L.GRU(3, return_sequences=True)),
        L.LayerNormalization(),
        L.Dense(5),
        L.Dropout(0.5),
        L.BatchNormalization(),
        L.Activation("tanh"),
        L.LSTM(3, return_sequences=True),
        L.BatchNormalization(),
        L.GlobalAveragePooling1D(),
        L.Dense(2),
    ]
    model = perturb(keras.Sequential([keras.Input((4,), dtype="int32"), *stack]))
    x = np.array([[1, 2, 3, 0], [6, 0, 0, 0], [5, 4, 3, 1]])
    assert_equivalent(model, x=x)
    tokens = keras.Input((4,), dtype="int32")
    y = tokens
    for layer in clones(stack):
        y = layer(y)
    assert_equivalent(perturb(keras.Model(tokens, y)), x=x)


def test_masks_are_still_those_of_the_data_when_folded_again():
    def build(tokens):
        y = norm("one")(L.Dense(4)(L.Embedding(7, 4, mask_zero=True)(tokens)))
        return L.LSTM(3)(norm("two")(L.Activation("tanh")(y)))

    x = keras.Input((4,), dtype="int32")
    model, tokens = perturb(keras.Model(x, build(x))), np.array([[1, 2, 3, 0], [6, 0, 0, 0]])
    folded = assert_equivalent(model, left=["two"], x=tokens)
    again = assert_equivalent(folded, left=["two"], x=tokens)
    assert again.not_folded == folded.not_folded


@pytest.mark.filterwarnings("ignore:Layer 'norm' .* was passed an input with a mask:UserWarning")
def test_a_norm_that_keeps_masks_to_itself_is_left():
    layer, x = norm(), keras.Input((4,), dtype="int32")
    layer.supports_masking = False
    y = layer(L.Dense(4)(L.Embedding(7, 4, mask_zero=True)(x)))
    model = perturb(keras.Model(x, L.GlobalAveragePooling1D()(y)))
    tokens = np.array([[1, 2, 3, 0], [6, 0, 0, 0]])
    folded = assert_equivalent(model, left=["norm"], x=tokens)
    assert "supports_masking" in folded.not_folded["norm"]


# Which dtypes


@pytest.mark.parametrize(
    ("dtype", "close"),
    [
        ("float32", CLOSE_32),
        # The unfolded model rounds the dense output to half precision, of 11 and 8 bits, before
        # it normalizes in float32; the folded one rounds its kernel instead.
        ("mixed_float16", {"rtol": 0, "atol": 0.03}),
        ("mixed_bfloat16", {"rtol": 0, "atol": 0.2}),
    ],
)
def test_dtypes(dtype, close):
    stack = L.Dense(5, dtype=dtype), L.BatchNormalization(dtype=dtype)
    folded = assert_equivalent(sequential((6,), *stack), close=close)
    assert folded.layers[0].dtype_policy.name == dtype


@pytest.mark.parametrize(
    ("first", "between", "second"),
    [
        ("mixed_float16", "mixed_float16", "float32"),
        ("float32", "float32", "float64"),
        ("float64", "float64", "float32"),
        ("float32", "mixed_float16", "float32"),
        ("float32", "bfloat16", "float32"),
        ("mixed_bfloat16", "mixed_bfloat16", "mixed_float16"),
    ],
)
def test_where_the_dtypes_differ(first, between, second):
    stack = [L.Dense(5, dtype=first), L.Dropout(0.5, dtype=between), norm(dtype=second)]
    model = sequential((6,), *stack)
    folded = assert_equivalent(model, left=["norm"], close={"rtol": 0})
    assert "the dtypes" in folded.not_folded["norm"]
    stack = [norm(dtype=first), L.Dropout(0.5, dtype=between), L.Dense(5, dtype=second)]
    assert_equivalent(sequential((6,), *stack), left=["norm"], close={"rtol": 0})


def test_half_precision_that_would_overflow():
    """γ = 10⁵ times x − 2 is ±10⁵ in float32; in float16 the folded weights would be infinite."""
    for dtype in ["float32", "mixed_float16"]:
        stack = L.Dense(1, dtype="mixed_float16", name="dense"), norm(dtype=dtype)
        model = keras.Sequential([keras.Input((1,), dtype="float32"), *stack])
        model.set_weights([np.ones((1, 1)), *(np.full(1, v) for v in [0, 1e5, 0, 2, 0.999])])
        folded = fold_batch_norm(model)
        assert set(folded.not_folded) == {"norm"}
        np.testing.assert_array_equal(folded(np.array([[1.0], [3]])), model(np.array([[1.0], [3]])))
    assert "the kernel of 'dense' would leave the range of float16" in folded.not_folded["norm"]
    x = np.array([[1.0], [3]])
    stack = L.Dense(1, dtype="float32"), norm(dtype="float32")
    wide = keras.Sequential([keras.Input((1,), dtype="float32"), *stack])
    wide.set_weights(model.get_weights())
    np.testing.assert_allclose(np.ravel(fold_batch_norm(wide)(x)), [-1e5, 1e5], rtol=1e-3)


@pytest.mark.parametrize(
    ("inputs", "size", "gamma", "folds"),
    [(80, 3e3, 1, True), (512, 1e4, 1, False), (512, 1e4, 0.05, False)],
)
def test_half_precision_keeps_its_digits(inputs, size, gamma, folds):
    """The larger the inputs, the smaller the folded kernel: below 6e-5 float16 loses digits."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(200, inputs)) * size, -6e4, 6e4).astype("float16")
    stack = [L.Dense(8, use_bias=False, dtype="mixed_float16"), norm(dtype="mixed_float16")]
    model = keras.Sequential([keras.Input((inputs,), dtype="float16"), *stack])
    kernel = (rng.normal(size=(inputs, 8)) * 0.3 / np.sqrt(inputs)).astype("float16").astype(float)
    y, gammas = x @ kernel, np.array([1] + [gamma] * 7)
    model.set_weights([kernel, gammas, np.zeros(8), np.zeros(8), y.var(axis=0)])
    folded = fold_batch_norm(model)
    assert set(folded.not_folded) == (set() if folds else {"norm"})
    exact = y * gammas / np.sqrt(y.var(axis=0) + 1e-3)
    before, after = (np.sqrt(np.mean((each(x) - exact) ** 2, axis=0)) for each in (model, folded))
    assert (after <= 3 * before).all()


def test_half_precision_keeps_the_digits_of_large_inputs():
    """Beside an input of deviation 1, one of deviation 10⁴ gets a kernel that is hardly there."""
    stack = [norm(dtype="mixed_float16"), L.Dense(3, dtype="mixed_float16")]
    model = keras.Sequential([keras.Input((2,), dtype="float16"), *stack])
    model.set_weights(
        [
            np.ones(2),
            np.zeros(2),
            np.zeros(2),
            np.array([1.0, 1e8]),
            np.full((2, 3), 0.02),
            np.zeros(3),
        ]
    )
    folded = fold_batch_norm(model)
    assert "the kernel of" in folded.not_folded["norm"]


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        # γ, β, mean, variance; the kernel and what comes out are near 1
        ("mixed_float16", [3e4, 0, 3, 0.999]),  # 3·10⁴·x overflows before its shift is subtracted
        ("mixed_float16", [1e-8, 0, 0, 1]),  # below the smallest float16
        ("float32", [3e38, 0, 0, 1e-4]),
    ],
)
def test_weights_that_would_leave_the_range(dtype, weights):
    assert "would leave the range" in not_folded_with(dtype, weights)


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        ("float32", [1e39, 0, 0, 1]),
        ("float32", [1, 0, np.nan, 1]),
        ("float64", [1, 0, 0, -1]),  # a square root of a negative number
        ("float64", [np.inf, 0, 0, 1]),
    ],
)
def test_weights_that_are_no_affine_map(dtype, weights):
    assert "its scale or shift is not a finite number" in not_folded_with(dtype, weights)


def not_folded_with(dtype, weights):
    """Why a batch normalization with these weights is not folded into a Dense."""
    model = sequential((1,), L.Dense(1, dtype=dtype), norm(dtype=dtype))
    with np.errstate(all="ignore"):
        model.layers[1].set_weights([np.array([value]) for value in weights])
    return fold_batch_norm(model).not_folded["norm"]


# What is left, and why


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ([norm()], "back, as 'input_layer.*' is an input of the model"),
        (
            [L.Conv2D(4, 3, activation="relu", name="conv"), norm()],
            "the activation of 'conv' comes",
        ),
        ([L.Conv2D(4, 3), L.ReLU(name="relu"), norm()], "'relu' is a ReLU, where"),
        ([L.Conv2D(4, 3, name="conv"), norm(axis=1)], "axis 1 is not the channel axis of 'conv'"),
        ([L.Conv2D(6, 3, name="conv"), norm(axis=2)], "axis 2 is not the channel axis of 'conv'"),
    ],
)
def test_what_cannot_be_folded_is_left_and_named(stack, reason):
    folded = assert_equivalent(sequential((8, 8, 3), *clones(stack)), left=["norm"])
    assert re.search(reason, folded.not_folded["norm"])
    assert "nor ahead, as 'norm' is an output of the model" in folded.not_folded["norm"]


class Squared(L.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 2


def test_a_layer_with_a_call_of_its_own_is_left():
    folded = assert_equivalent(sequential((6,), Squared(4, name="own"), norm()), left=["norm"])
    assert "'own' is a Squared, where a Dense layer" in folded.not_folded["norm"]


def test_lora_is_left():
    dense = L.Dense(4, name="dense")
    model = sequential((6,), dense, norm())
    dense.enable_lora(2)
    perturb(model)
    folded = assert_equivalent(model, left=["norm"])
    assert "LoRA" in folded.not_folded["norm"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
def test_a_quantized_layer_is_left():
    dense = L.Dense(4, dtype="float32", name="dense")
    model = sequential((6,), dense, norm(dtype="float32"))
    dense.quantize("int8")
    folded = assert_equivalent(model, left=["norm"])
    assert "quantized" in folded.not_folded["norm"]


def test_a_layer_with_a_weight_more_is_left():
    dense = L.Dense(4, name="dense")
    model = sequential((6,), dense, norm())
    dense._tracker.unlock()
    dense.gate = keras.Variable(np.ones(4))
    folded = assert_equivalent(model, left=["norm"])
    assert "'dense' has other weights" in folded.not_folded["norm"]


def test_an_output_that_others_use_is_left():
    def build(x):
        y = L.Dense(5, name="dense")(x)
        return norm()(y) + y

    folded = assert_equivalent(functional(build, (6,)), left=["norm"])
    assert "the output of 'dense' is used more than once" in folded.not_folded["norm"]
    assert_equivalent(functional(lambda x: [(y := L.Dense(5)(x)), norm()(y)], (6,)), left=["norm"])
    model = functional(lambda x: norm()(y := L.Dense(5)(x)) + norm("norm2")(y), (6,))
    assert_equivalent(model, left=["norm", "norm2"])


def test_a_shared_dense_layer_is_left():
    def build(a, b):
        dense = L.Dense(5, name="dense")
        return norm()(dense(a)) + dense(b)

    folded = assert_equivalent(functional(build, (6,), (6,)), left=["norm"])
    assert "'dense' is called more than once" in folded.not_folded["norm"]


def test_a_shared_norm_folds_wherever_it_can():
    def build(a, b):
        shared = norm()
        return shared(L.Dense(5)(a)) * shared(L.Dense(5)(b))

    assert_equivalent(functional(build, (6,), (6,)))
    shared = norm()
    assert_equivalent(sequential((6,), L.Dense(5), shared, L.ReLU(), L.Dense(5), shared))
    shared = norm()
    stack = L.Dense(5), shared, L.ReLU(), shared
    assert_equivalent(sequential((6,), *stack), left=["norm"])


def test_dropout_that_always_drops_is_not_passed():
    model = functional(
        lambda x: norm()(L.Dropout(0.5, name="x")(L.Dense(5)(x), training=True)), (6,)
    )
    assert "'x' is a Dropout" in fold_batch_norm(model).not_folded["norm"]


# Nested models


def inner_model(shape=(5,), name="inner"):
    return keras.Sequential([keras.Input(shape), L.Dense(5), norm(), L.ReLU()], name=name)


def test_nested_models_are_folded_inside():
    inner = inner_model()
    middle = keras.Sequential([keras.Input((5,)), inner, L.Dense(5), norm()], name="middle")
    model = functional(lambda x: middle(L.BatchNormalization()(L.Dense(5)(x))), (6,))
    folded = assert_equivalent(model)
    assert folded.get_layer("middle").get_layer("inner") is not inner
    assert len(inner.layers) == 3


def test_a_nested_model_in_which_nothing_folds_is_shared():
    inner = keras.Sequential([keras.Input((5,)), L.ReLU(), norm(), L.ReLU()], name="inner")
    folded = assert_equivalent(sequential((6,), L.Dense(5), inner), left=["inner/norm"])
    assert folded.get_layer("inner") is inner


def test_a_nested_model_that_is_called_twice():
    def build(a, b):
        inner = inner_model((6,))
        return inner(a) - inner(b)

    folded = assert_equivalent(functional(build, (6,), (6,)))
    assert [layer.name for layer in folded.layers].count("inner") == 1


def test_a_nested_model_in_two_places():
    inner = inner_model()
    middle = keras.Sequential([keras.Input((5,)), inner, L.Dense(5)], name="middle")
    model = functional(lambda x: middle(x) + inner(x), (5,))
    folded = assert_equivalent(model)
    assert folded.get_layer("middle").get_layer("inner") is folded.get_layer("inner")


def test_a_nested_model_that_always_trains_is_left():
    def build(a, b):
        inner = inner_model((6,))
        return inner(a, training=True) - inner(b)

    folded = fold_batch_norm(functional(build, (6,), (6,)))
    assert folded.not_folded["inner/norm"] == (
        "inside 'inner', which is called with training=True; it folds where training is None"
    )


def test_models_that_share_a_layer():
    dense = L.Dense(5, name="shared")

    def one(name):
        x = keras.Input((5,))
        return keras.Model(x, L.ReLU()(norm()(dense(x))), name=name)

    model = functional(lambda x: one("one")(x) + one("two")(x) + dense(x), (5,))
    folded = assert_equivalent(model)
    assert folded.get_layer("shared") is dense
    assert folded.get_layer("one").get_layer("shared") is not dense


def test_a_model_in_a_time_distributed():
    wrapped = L.TimeDistributed(inner_model((4, 4, 3)), name="each")
    folded = assert_equivalent(sequential((2, 4, 4, 3), wrapped))
    assert len(folded.layers[0].layer.layers) == 2
    inner = keras.Sequential([keras.Input((5,)), L.ReLU(), norm()], name="inner")
    wrapped = L.TimeDistributed(inner, name="each")
    folded = assert_equivalent(sequential((2, 5), wrapped), left=["each/inner/norm"])
    assert folded.layers[0] is wrapped


class Block(L.Layer):
    """A layer of somebody's own, without ``get_config``."""

    def __init__(self, units):
        super().__init__(name="block")
        self.dense, self.norm = L.Dense(units), norm()

    def call(self, x):
        return self.norm(self.dense(x))


def test_inside_other_layers_is_left():
    folded = assert_equivalent(sequential((6,), Block(4)), left=["block/norm"])
    assert "inside 'block', which is no Sequential" in folded.not_folded["block/norm"]
    bidirectional = L.Bidirectional(L.RNN(Cell(), name="rnn"), name="both")
    ways = ["both/forward_rnn/cell/norm", "both/backward_rnn/cell/norm"]
    assert_equivalent(sequential((4, 6), bidirectional), left=ways)


@keras.saving.register_keras_serializable("folding")
class Cell(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(name="cell")
        self.dense, self.norm, self.state_size, self.output_size = L.Dense(3), norm(), 3, 3

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((None, 3))

    def call(self, x, states):
        y = self.norm(self.dense(x)) + states[0]
        return y, [y]

    def get_config(self):
        return {}


class OwnCall(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(x) + 1


def test_a_nested_model_with_a_call_of_its_own_is_left():
    inner = OwnCall([keras.Input((6,)), L.Dense(5), norm()], name="inner")
    folded = assert_equivalent(sequential((6,), inner), left=["inner/norm"])
    assert folded.not_folded["inner/norm"] == "inside 'inner', which has its own call (OwnCall)"


# What is shared, state and all


class Scale(L.Layer):
    """A layer with the configuration that Keras makes of the arguments of ``__init__``."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x


class Unserializable(L.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)

    def get_config(self):
        raise NotImplementedError("no configuration")


@pytest.mark.parametrize("axis", [-1, None, (1, 2)])
def test_the_statistics_of_a_normalization(axis):
    rng = np.random.default_rng(0)
    shape = (3, 2)
    for stack in (
        [L.Dense(4), norm(), L.ReLU(), L.Dense(2)],
        [keras.Sequential([keras.Input(shape), L.Dense(4), norm()], name="inner")],
    ):
        normalization = L.Normalization(axis=axis)
        normalization.adapt(rng.normal(100, 30, (64, *shape)))
        assert_equivalent(sequential(shape, normalization, *stack))
        x = keras.Input(shape)
        y = normalization(x)
        for layer in clones(stack):
            y = layer(y)
        assert_equivalent(perturb(keras.Model(x, y)))


TABLES = {
    "StringLookup": (lambda: L.StringLookup(output_mode="multi_hot"), np.array(["a", "b", "c"])),
    "IntegerLookup": (lambda: L.IntegerLookup(output_mode="multi_hot"), np.array([3, 5, 7])),
    "TextVectorization": (
        lambda: L.TextVectorization(output_mode="tf_idf"),
        np.array(["a b", "c"]),
    ),
    "Discretization": (
        lambda: L.Discretization(num_bins=3),
        np.array([1.0, 2, 3, 4]),
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(kind):
    make, values = TABLES[kind]
    table = make()
    table.adapt(values)
    shape = () if kind == "TextVectorization" else (1,)
    x = keras.Input(shape, dtype="string" if values.dtype.kind == "U" else values.dtype.name)
    y = L.Dense(3)(keras.ops.cast(table(x), "float64"))
    model = keras.Model(x, L.Dense(2)(L.ReLU()(norm()(y))))
    for layer in model.layers[2:]:
        perturb_layer(layer)
    assert_equivalent(model, x=tf.constant(values.reshape(-1, *shape)))


def perturb_layer(layer):
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in layer.weights])


def test_layers_and_activations_of_ones_own():
    stack = [
        L.Dense(5),
        norm("one"),
        Scale(3.0),
        Unserializable(tf.sin),
        L.Lambda(lambda x: 2 * x),
        L.Dense(4, activation=lambda x: x**2),
        norm("two"),
        L.Dense(3, activation=keras.layers.LeakyReLU(0.1)),
    ]
    model = keras.Sequential([keras.Input((6,)), *stack])
    perturb(model)
    before = outputs(model, data(model))
    folded = fold_batch_norm(model)
    assert not folded.not_folded
    assert_close(outputs(folded, data(model)), before)
    assert folded.layers[1] is stack[2]


def test_an_activation_with_weights():
    for activation in [L.PReLU(), Block(3)]:
        stack = L.ReLU(), norm(), L.Dense(3, activation=activation, name="dense")
        model = keras.Sequential([keras.Input((6,)), *stack])
        model(np.ones((1, 6)))
        perturb(model)
        x = data(model)
        folded = fold_batch_norm(model)
        assert_close(outputs(folded, x), outputs(model, x))


def test_a_layer_whose_configuration_cannot_be_had_is_left():
    activation = functools.partial(keras.activations.relu, negative_slope=0.1)
    stack = L.ReLU(), norm(), L.Dense(3, activation=activation, name="dense")
    model = keras.Sequential([keras.Input((6,)), *stack])
    folded = fold_batch_norm(model)
    assert "'dense' cannot be made anew" in folded.not_folded["norm"]
    assert_close(outputs(folded, data(model)), outputs(model, data(model)), {"rtol": 0})


def test_what_a_folded_layer_had_besides_weights():
    settings = {
        "kernel_regularizer": "l2",
        "activity_regularizer": "l1",
        "kernel_constraint": "max_norm",
        "dtype": "float32",
        "autocast": False,
    }
    conv = L.Conv2D(4, 3, trainable=False, **settings)
    x = keras.Input((6, 6, 3), dtype="float32")
    model = perturb(keras.Sequential([x, conv, norm(dtype="float32")]))
    [new] = assert_equivalent(model, close=CLOSE_32).layers
    assert not new.trainable
    assert not new.autocast
    assert conv.losses
    assert not new.losses
    assert new.kernel_constraint is None


def test_what_was_frozen_stays_so():
    model = sequential((6,), L.Dense(5), norm(), L.Dense(3))
    model.layers[2].trainable = False
    folded = assert_equivalent(model)
    assert [layer.trainable for layer in folded.layers] == [True, False]
    assert [layer.trainable for layer in model.layers] == [True, True, False]


def test_the_random_state_is_left_alone():
    model = sequential((6,), L.Dense(5), norm(), L.Dropout(0.5))
    state = random.getstate()  # from which Keras draws seeds
    fold_batch_norm(model)
    assert random.getstate() == state
    L.Dense(3)
    assert random.getstate() != state


# Graphs


def test_a_residual_network_with_two_inputs_and_two_outputs():
    def block(x):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x)))
        y = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(y))
        return L.Add()([x, y])

    def build(image, extra):
        x = block(block(L.BatchNormalization()(L.Conv2D(4, 1)(image))))
        x = L.GlobalAveragePooling2D()(x) * keras.ops.tanh(L.Dense(4)(extra))
        return {"code": x, "logits": L.BatchNormalization()(L.Dense(3, name="logits")(x))}

    folded = assert_equivalent(functional(build, (8, 8, 3), (5,)))
    assert [x.name for x in folded.inputs] == ["in0", "in1"]


def test_inputs_and_outputs_keep_their_structure():
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    total = L.BatchNormalization()(L.Dense(5)(inputs["a"])) + L.Dense(5)(inputs["b"])
    model = perturb(keras.Model(inputs, {"sum": [total, {"twice": 2 * total}]}))
    got = assert_equivalent(model)(data(model))
    assert set(got) == {"sum"}
    assert set(got["sum"][1]) == {"twice"}


def test_arguments_of_calls_are_kept():
    class Weighted(L.Layer):
        def call(self, x, others, factor=1.0):
            return factor * x + others[0] - others[1]["b"]

        def compute_output_shape(self, x_shape, **kwargs):
            return x_shape

    def build(a, b):
        y = norm()(L.Dense(4)(a))
        return Weighted()(y, [L.Dense(4)(b), {"b": y * 2}], factor=3.0)

    assert_equivalent(functional(build, (6,), (6,)))


def test_a_layer_with_several_outputs():
    def build(a):
        y, state = L.GRU(4, return_state=True)(norm()(L.Dense(4)(a)))
        return [norm("out")(L.Dense(3)(y)), state]

    assert_equivalent(functional(build, (5, 6)))


def test_a_model_that_starts_in_the_middle_of_another():
    whole = functional(lambda x: L.ReLU()(norm()(L.Dense(5)(L.Dense(4)(x)))), (6,))
    part = keras.Model(whole.layers[1].output, whole.output)
    assert_equivalent(part)
    assert_equivalent(whole)


def test_layers_that_others_use_elsewhere():
    """The folded model leaves those models alone that share layers with the original."""
    model = functional(lambda x: L.ReLU()(norm()(L.Dense(5, name="dense")(x))), (6,))
    features = keras.Model(model.input, model.get_layer("norm").output)
    x = data(model)
    before = outputs(features, x)
    fold_batch_norm(model)
    assert_close(outputs(features, x), before, {"rtol": 0})
    assert_equivalent(features)


def test_folding_under_other_settings_than_building():
    def build(x):
        return L.ReLU()(norm()(L.Conv2D(3, 2)(inner_model((6, 6, 2))(x))))

    model = functional(build, (6, 6, 2))
    inner = model.get_layer("inner")
    model.supports_masking = inner.supports_masking = True
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_image_data_format("channels_first")
    try:
        folded = assert_equivalent(model)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert_shared_or_new(inner, folded.get_layer("inner"))


def test_operations_between_layers():
    def build(x):
        y = keras.ops.relu(norm("one")(L.Dense(4)(x)))[:, :3] ** 2
        y = keras.ops.concatenate([y, norm("two")(L.Dense(2)(y))], axis=1)
        return norm("three")(2 * L.Dense(3)(y))

    folded = assert_equivalent(functional(build, (6,)), left=["three"])
    assert re.search("'multiply.*' is a Multiply, where", folded.not_folded["three"])


def test_a_norm_beside_the_graph():
    x = keras.Input((5,))
    inner = keras.Model(x, L.ReLU()(x), name="inner")
    inner.beside = norm("beside")
    inner.beside.build((None, 5))
    model = sequential((6,), L.Dense(5), norm(), inner)
    left = [way for way, _ in find_batch_norms(model) if way != "norm"]  # none in Keras 3.12
    folded = assert_equivalent(model, left=left)
    assert set(folded.not_folded.values()) <= {"no call of it was found"}


def test_many_models_inside_each_other():
    model = inner_model(name="m0")
    for i in range(1, 20):
        stack = model, L.Dense(5), norm(scale=False), L.Activation("tanh")
        model = keras.Sequential([keras.Input((5,)), *stack], name=f"m{i}")
    assert_equivalent(perturb(model))


def test_a_graph_that_is_compiled_and_exported(tmp_path):
    model = sequential((6, 6, 2), L.Conv2D(3, 2), norm(), L.ReLU(), L.Flatten(), L.Dense(2))
    folded, x = fold_batch_norm(model), data(model)
    expected = outputs(model, x)
    folded.compile(jit_compile=True)
    assert_close([folded.predict(x, verbose=0)], expected)
    folded.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    assert_close([served.serve(x).numpy()], expected)


def test_folding_twice():
    model = sequential((6, 6, 3), L.Conv2D(4, 3), norm(), L.ReLU(), norm("last"))
    folded = assert_equivalent(model, left=["last"])
    again = assert_equivalent(folded, left=["last"])
    assert again.layers[0] is folded.layers[0]


def test_a_shared_layer_stays_shared():
    def build(a, b):
        dense = L.Dense(5)
        return L.BatchNormalization()(L.Dense(4)(dense(a) - dense(b)))

    model = functional(build, (6,), (6,))
    assert len(assert_equivalent(model).layers) == len(model.layers) - 1


def test_an_optional_input():
    a, b = keras.Input((6,)), keras.Input((6,), optional=True)

    class Default(L.Layer):
        def call(self, x):
            return tf.zeros((1, 6), "float64") if x is None else x

        def compute_output_shape(self, shape):
            return shape

    model = perturb(keras.Model([a, b], norm()(L.Dense(4)(a + Default()(b)))))
    folded = fold_batch_norm(model)
    x = data(model)
    assert not folded.not_folded
    assert_close(outputs(folded, [x[0], None]), outputs(model, [x[0], None]))


def test_the_model_built_by_its_first_call():
    model = keras.Sequential([L.Dense(5), L.BatchNormalization()])
    with pytest.raises(ValueError, match=r"not built"):
        fold_batch_norm(model)
    model(np.ones((2, 6)))
    assert_equivalent(perturb(model))


def a_loss_of_ones_own(expected, got):
    return keras.ops.mean(abs(expected - got))


@pytest.mark.parametrize("loss", [lambda a, b: (a - b) ** 2, a_loss_of_ones_own, "mse"])
def test_a_compiled_and_trained_model(loss):
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (64, 8, 8, 3)), rng.normal(size=(64, 4))
    stack = [L.Conv2D(6, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    model.compile("adam", loss, jit_compile=False)
    model.fit(x, y, epochs=2, verbose=0)
    folded = assert_equivalent(model, x=x)
    assert not folded.compiled
    np.testing.assert_allclose(folded.predict(x, verbose=0), model.predict(x, verbose=0), **CLOSE)


# Keras 3.12 reads variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saved_and_loaded_the_tie_is_cut(tmp_path):
    inner = inner_model((6, 6, 4))
    stack = L.Conv2D(4, 3), norm(), inner, L.Flatten(), L.Dense(1, name="last")
    model = sequential((8, 8, 3), *stack)
    folded = fold_batch_norm(model)
    x = data(model)
    assert folded.get_layer("last") is model.get_layer("last")
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(loaded(x), folded(x))
    model.get_layer("last").kernel.assign(model.get_layer("last").kernel + 1)
    assert not np.allclose(loaded(x), folded(x))


def test_transfer_learning():
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35
    )
    model = keras.Sequential([base, L.GlobalAveragePooling2D(), L.Dense(3)])
    folded = fold_batch_norm(model)
    assert len(find_batch_norms(model)) == 52
    assert not folded.not_folded
    x = data(model, batch=2)
    assert_close(outputs(folded, x), outputs(model, x))


# What is no such model


class Subclassed(keras.Model):
    def call(self, x):
        return x


class OwnPrediction(keras.Model):
    def predict_step(self, batch):
        return super().predict_step(batch) + 1


def own_prediction():
    x = keras.Input((6,))
    return OwnPrediction(x, L.Dense(5)(x))


def with_another_call():
    model = sequential((6,), L.Dense(5), norm())
    model.call = lambda inputs, **kwargs: inputs
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Subclassed, "no Sequential or functional model"),
        (lambda: OwnCall([keras.Input((6,)), L.Dense(5), norm()]), "its own call"),
        (own_prediction, "its own predict_step"),
        (with_another_call, "its own call"),
        (lambda: L.Dense(5), "no Sequential or functional model"),
        (lambda: "model.keras", "no Sequential or functional model"),
        (lambda: None, "no Sequential or functional model"),
    ],
)
def test_other_models_are_refused(make, reason):
    thing = make()
    with pytest.raises(TypeError, match=f"{re.escape(type(thing).__name__)}, which .*{reason}"):
        fold_batch_norm(thing)


class OwnStep(keras.Model):
    def __init__(self, units):
        x = keras.Input((6,))
        super().__init__(x, norm()(L.Dense(units)(x)), name="own")

    def train_step(self, batch):
        return {}


def test_a_functional_model_with_a_constructor_and_a_training_step_of_its_own():
    model = perturb(OwnStep(5))
    folded = fold_batch_norm(model)
    assert not folded.not_folded
    assert_close(outputs(folded, data(model)), outputs(model, data(model)))
    outer = functional(lambda x: L.ReLU()(perturb(OwnStep(4))(x)), (6,))
    assert not fold_batch_norm(outer).not_folded


(TRAINER,) = (
    base for base in keras.Model.__mro__ if base.__module__ == "keras.src.trainers.trainer"
)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, value in vars(TRAINER).items()
        if inspect.isfunction(value) and not name.startswith("_") and "predict" not in name
    ],
)
def test_a_model_may_train_in_its_own_way(name):
    own = type("Own", (keras.Sequential,), {name: lambda self, *args, **kwargs: None})
    model = perturb(own([keras.Input((6,)), L.Dense(5), norm()]))
    assert not fold_batch_norm(model).not_folded


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning")
@pytest.mark.parametrize(
    "make", [lambda: L.Dense(2), lambda: L.TimeDistributed(L.Dense(2))], ids=["itself", "wrapped"]
)
def test_a_layer_that_keeps_masks_from_the_next_still_does(make):
    inputs = keras.Input((4, 3))
    layer = make()
    layer.supports_masking = False
    x = L.BatchNormalization()(layer(L.Masking()(inputs)))
    model = perturb(keras.Model(inputs, L.GlobalAveragePooling1D()(x)))
    x = np.float32([[[1, 2, 3], [0] * 3, [0] * 3, [0] * 3]])
    folded = fold_batch_norm(model)
    assert not folded.not_folded
    np.testing.assert_allclose(folded.predict(x, verbose=0), model.predict(x, verbose=0), **CLOSE)
