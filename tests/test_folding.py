"""Folded models against the models that they came from."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial import batch_norm
from bn_tutorial.models import fold_batch_norm

L = keras.layers

# The affine map is applied to the kernel, not to the sum of products, so each of the up to some
# hundred float32 products and sums of order 1 to 10 rounds differently: a few times 1e-6.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def perturb(model, seed=0):
    """Give every weight of every layer a value that no folding may overlook."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low, high = (0.2, 3) if "variance" in weight.path else (-1, 1)
        weight.assign(rng.uniform(low, high, weight.shape))
    return model


def sequential(shape, *layers, **kwargs):
    return perturb(keras.Sequential([keras.Input(shape), *layers], **kwargs))


def data(model, batch=5, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *x.shape[1:])).astype(x.dtype) for x in model.inputs]


def norms(model):
    return [
        layer.name for layer in model._flatten_layers() if isinstance(layer, L.BatchNormalization)
    ]


def assert_equivalent(model, left=(), close=CLOSE):
    """Fold, compare the outputs, see that ``model`` is as before; returns the folded model."""
    x = data(model)
    x = x[0] if len(x) == 1 else x
    before = [weight.numpy() for weight in model.weights]
    config, nodes = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    folded = fold_batch_norm(model)

    assert sorted(name.split("/")[-1] for name in folded.not_folded) == sorted(norms(folded))
    assert set(folded.not_folded) == set(left)
    expected, got = (tf.nest.flatten(m(x, training=False)) for m in (model, folded))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **close)

    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    shared = {id(weight) for weight in model.weights} & {id(weight) for weight in folded.weights}
    assert not shared
    for weight in folded.weights:
        weight.assign(weight + 1)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    return folded


# Kinds of layers

KINDS = {
    "Dense": ((6,), lambda **kw: L.Dense(5, **kw)),
    "Dense on sequences": ((4, 6), lambda **kw: L.Dense(5, **kw)),
    "Conv1D": ((9, 3), lambda **kw: L.Conv1D(5, 3, strides=2, padding="causal", **kw)),
    "Conv2D": ((8, 7, 3), lambda **kw: L.Conv2D(5, (3, 2), padding="same", **kw)),
    "Conv2D, groups": ((8, 7, 4), lambda **kw: L.Conv2D(6, 3, groups=2, dilation_rate=2, **kw)),
    "Conv3D": ((5, 4, 6, 2), lambda **kw: L.Conv3D(3, 2, **kw)),
    "DepthwiseConv2D": ((8, 7, 3), lambda **kw: L.DepthwiseConv2D(3, **kw)),
    "DepthwiseConv2D, multiplier": (
        (8, 7, 3),
        lambda **kw: L.DepthwiseConv2D((2, 3), depth_multiplier=4, padding="same", **kw),
    ),
    "Conv2DTranspose": ((5, 4, 3), lambda **kw: L.Conv2DTranspose(7, 3, strides=2, **kw)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind, bias):
    shape, make = KINDS[kind]
    model = sequential(shape, make(use_bias=bias), L.BatchNormalization(epsilon=0.01))
    folded = assert_equivalent(model)
    assert len(folded.layers) == 1
    assert folded.layers[0].name == model.layers[0].name
    assert folded.layers[0].use_bias


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_without_scale_or_center(scale, center):
    norm = L.BatchNormalization(scale=scale, center=center)
    assert not norms(assert_equivalent(sequential((4, 4, 3), L.Conv2D(5, 3), norm)))


def test_the_weights_are_the_textbooks():
    model = sequential((4, 4, 3), L.Conv2D(5, 3), L.BatchNormalization())
    (kernel, bias), statistics = (layer.get_weights() for layer in model.layers)
    expected = batch_norm.fold_weights(kernel, bias, *statistics)
    for got, wanted in zip(fold_batch_norm(model).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_two_in_a_row_fold_both():
    model = sequential((6,), L.Dense(5), L.BatchNormalization(), L.BatchNormalization(center=False))
    assert len(assert_equivalent(model).layers) == 1


def test_a_subclass_folds():
    class Custom(L.BatchNormalization):
        pass

    assert not norms(assert_equivalent(sequential((6,), L.Dense(5), Custom(trainable=False))))


def test_axis_1_is_the_last_axis_of_a_dense_output():
    assert not norms(assert_equivalent(sequential((6,), L.Dense(5), L.BatchNormalization(axis=1))))


def test_channels_first():
    # TensorFlow has no such convolution on a CPU, so compare the weights.
    model = sequential(
        (3, 8, 8), L.Conv2D(5, 3, data_format="channels_first"), L.BatchNormalization(axis=1)
    )
    folded = fold_batch_norm(model)
    assert not folded.not_folded
    (kernel, bias), statistics = (layer.get_weights() for layer in model.layers)
    expected = batch_norm.fold_weights(kernel, bias, *statistics)
    for got, wanted in zip(folded.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    last = L.BatchNormalization(axis=-1)
    model = sequential((3, 8, 8), L.Conv2D(5, 3, data_format="channels_first"), last)
    assert set(fold_batch_norm(model).not_folded) == {last.name}


@pytest.mark.parametrize(
    ("dtype", "close"),
    [
        ("float64", {"rtol": 1e-12, "atol": 1e-12}),
        # The unfolded model rounds the dense output to half precision, of 11 and 8 bits, before
        # it normalizes in float32; the folded one rounds its kernel instead.
        ("mixed_float16", {"rtol": 0, "atol": 0.03}),
        ("mixed_bfloat16", {"rtol": 0, "atol": 0.2}),
    ],
)
def test_dtypes(dtype, close):
    layers = L.Dense(5, dtype=dtype), L.BatchNormalization(dtype=dtype)
    model = perturb(keras.Sequential([keras.Input((6,)), *layers]))
    folded = assert_equivalent(model, close=close)
    assert folded.layers[0].dtype_policy.name == dtype


# What is left


def left(layers, shape=(8, 8, 3)):
    """Why the layer named ``norm`` of a Sequential model was left."""
    model = sequential(shape, *layers)
    folded = assert_equivalent(model, left=["norm"])
    return folded.not_folded["norm"]


def norm(**kwargs):
    return L.BatchNormalization(name="norm", **kwargs)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([norm()], "follows 'input_layer"),
        ([L.Conv2D(4, 3, activation="relu", name="conv"), norm()], "the activation of 'conv'"),
        ([L.Conv2D(4, 3), L.ReLU(name="relu"), norm()], "follows 'relu', a ReLU"),
        ([L.Conv2D(4, 3), L.MaxPooling2D(name="pool"), norm()], "follows 'pool'"),
        ([L.Conv2D(4, 3, name="conv"), norm(axis=1)], "axis 1 is not the channel axis of 'conv'"),
        ([L.Conv2D(6, 3, name="conv"), norm(axis=2)], "axis 2 is not the channel axis of 'conv'"),
        ([L.SeparableConv2D(4, 3), norm()], "a SeparableConv2D"),
        ([L.Conv2D(4, 3), L.Dropout(0.5), norm()], "a Dropout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_folded_is_left_and_named(layers, reason):
    assert reason in left(layers)


def test_a_layer_with_a_call_of_its_own_is_left():
    class Custom(L.Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    assert "a Custom" in left([Custom(4), norm()])


def test_lora_is_left():
    dense = L.Dense(4, name="dense")
    model = sequential((6,), dense, norm())
    dense.enable_lora(2)
    assert "LoRA" in fold_batch_norm(model).not_folded["norm"]


def functional(build, *shapes):
    inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)]
    outputs = build(*inputs)
    return perturb(keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs))


def test_an_output_that_others_use_is_left():
    def build(x):
        y = L.Dense(5, name="dense")(x)
        return norm()(y) + y

    folded = assert_equivalent(functional(build, (6,)), left=["norm"])
    assert "not alone in using the output of 'dense'" in folded.not_folded["norm"]


def test_an_output_that_two_norms_use_is_left():
    def build(x):
        y = L.Dense(5)(x)
        return norm()(y) + L.BatchNormalization(name="norm2")(y)

    assert_equivalent(functional(build, (6,)), left=["norm", "norm2"])


def test_an_output_of_the_model_is_left():
    def build(x):
        y = L.Dense(5)(x)
        return [y, norm()(y)]

    assert_equivalent(functional(build, (6,)), left=["norm"])


def test_a_shared_dense_layer_is_left():
    def build(a, b):
        dense = L.Dense(5, name="dense")
        return norm()(dense(a)) + dense(b)

    folded = assert_equivalent(functional(build, (6,), (6,)), left=["norm"])
    assert "'dense', which is called more than once" in folded.not_folded["norm"]


def test_a_shared_norm_is_left():
    def build(a, b):
        shared = norm()
        return shared(L.Dense(5)(a)) * shared(L.Dense(5)(b))

    folded = assert_equivalent(functional(build, (6,), (6,)), left=["norm"])
    assert folded.not_folded["norm"] == "called more than once"


def test_a_norm_that_always_trains_is_left():
    model = functional(lambda x: norm()(L.Dense(5)(x), training=True), (6,))
    folded = fold_batch_norm(model)
    assert folded.not_folded == {"norm": "called with training=True"}
    [x] = data(model)
    np.testing.assert_allclose(folded(x), model(x), **CLOSE)
    model = functional(lambda x: norm()(L.Dense(5)(x), training=False), (6,))
    assert_equivalent(model)


def test_nested_models_are_left():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(5), norm()], name="inner")
    middle = keras.Sequential([keras.Input((5,)), inner, L.Dense(5)], name="middle")
    model = sequential((6,), L.Dense(5), L.BatchNormalization(), inner)
    folded = assert_equivalent(model, left=["inner/norm"])
    assert folded.not_folded["inner/norm"] == "inside 'inner'"

    def build(x):
        return middle(L.BatchNormalization()(L.Dense(5)(x)))

    assert_equivalent(functional(build, (6,)), left=["middle/inner/norm"])


def test_wrapped_layers_are_left():
    wrapped = L.TimeDistributed(norm(), name="each")
    assert_equivalent(sequential((4, 6), L.Dense(5), wrapped), left=["each/norm"])


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

    model = functional(build, (8, 8, 3), (5,))
    folded = assert_equivalent(model)
    assert len(norms(model)) == 6
    assert not norms(folded)
    assert [x.name for x in folded.inputs] == ["in0", "in1"]


@pytest.mark.parametrize("application", ["MobileNet", "ResNet50"])
def test_a_known_network(application):
    model = getattr(keras.applications, application)(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    folded = fold_batch_norm(model)
    assert norms(model)
    assert not norms(folded)
    [x] = data(model, batch=2)
    expected = model(x, training=False).numpy()
    # The roundings of some fifty layers add up.
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_inputs_and_outputs_keep_their_structure():
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    total = L.BatchNormalization()(L.Dense(5)(inputs["a"])) + L.Dense(5)(inputs["b"])
    model = perturb(keras.Model(inputs, {"sum": total}))
    values = dict(zip("ab", data(model), strict=True))
    got, expected = fold_batch_norm(model)(values), model(values)
    assert set(got) == {"sum"}
    np.testing.assert_allclose(got["sum"], expected["sum"], **CLOSE)


def test_a_shared_layer_stays_shared():
    def build(a, b):
        dense = L.Dense(5)
        return L.BatchNormalization()(L.Dense(4)(dense(a) - dense(b)))

    model = functional(build, (6,), (6,))
    assert len(assert_equivalent(model).layers) == len(model.layers) - 1


def test_other_layers_are_copied_with_their_state():
    layers = [
        L.Embedding(7, 4, mask_zero=True),
        L.Bidirectional(L.GRU(3, return_sequences=True)),
        L.LayerNormalization(),
        L.Dense(5),
        L.BatchNormalization(),
        L.Dropout(0.5),
    ]
    model = perturb(keras.Sequential([keras.Input((4,), dtype="int32"), *layers]))
    folded = fold_batch_norm(model)
    tokens = np.array([[1, 2, 3, 0], [6, 0, 0, 0]])
    np.testing.assert_allclose(folded(tokens), model(tokens), **CLOSE)
    assert not folded.not_folded


def test_a_lambda_layer_is_copied():
    model = sequential((6,), L.Dense(5), L.BatchNormalization(), L.Lambda(lambda x: 2 * x))
    assert not norms(assert_equivalent(model))


def test_the_model_built_by_its_first_call():
    model = keras.Sequential([L.Dense(5), L.BatchNormalization()])
    with pytest.raises(ValueError, match=r"not built"):
        fold_batch_norm(model)
    model(np.ones((2, 6)))
    assert_equivalent(perturb(model))


# Keras 3.12 reads variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_saved_compiled_and_evaluated(tmp_path):
    model = sequential((8, 8, 3), L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten(), L.Dense(1))
    model.compile("adam", "mse", jit_compile=False)
    folded = fold_batch_norm(model)
    [x] = data(model)
    losses = [m.evaluate(x, np.zeros((5, 1)), verbose=0) for m in (model, folded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(loaded(x), folded(x))


def test_a_trained_model():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(3, 2, (64, 8, 8, 3)), rng.integers(0, 4, 64)
    layers = [L.Conv2D(6, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    model.fit(x, labels, epochs=2, verbose=0)
    np.testing.assert_allclose(fold_batch_norm(model)(x), model(x, training=False), **CLOSE)


# What is no such model


class Subclassed(keras.Model):
    def call(self, x):
        return x


class OwnCall(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(x) + 1


@pytest.mark.parametrize(
    "make",
    [
        Subclassed,
        lambda: OwnCall([keras.Input((6,)), L.Dense(5), L.BatchNormalization()]),
        lambda: L.Dense(5),
        lambda: "model.keras",
    ],
)
def test_other_models_are_refused(make):
    thing = make()
    with pytest.raises(TypeError, match=re.escape(type(thing).__name__)):
        fold_batch_norm(thing)


def test_a_functional_model_with_a_training_step_of_its_own():
    class OwnStep(keras.Model):
        def train_step(self, batch):
            return {}

    x = keras.Input((6,))
    model = perturb(OwnStep(x, L.BatchNormalization()(L.Dense(5)(x))))
    assert not norms(assert_equivalent(model))
