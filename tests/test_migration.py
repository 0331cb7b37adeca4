"""Weights of real TensorFlow 1 graphs and of PyTorch's modules, carried over by name."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.migration import BatchNormWeights, from_tf1_checkpoint, from_torch, to_torch
from bn_tutorial.tf1 import batch_norm_layer

v1 = tf.compat.v1

RECORDED = json.loads((Path(__file__).parent / "data" / "state_dicts.json").read_text("utf-8"))
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "int64": np.int64}


def keras_outputs(norm, x, axis=-1):
    """What a layer of Keras with these weights and settings makes of ``x`` in inference."""
    layer = keras.layers.BatchNormalization(axis=axis, **norm.settings)
    layer.build(x.shape)
    layer.set_weights(norm.weights)
    return keras.ops.convert_to_numpy(layer(x, training=False))


def assert_same(y, expected):
    """Equal to 10⁻⁶ of the largest output."""
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


# Checkpoints of TensorFlow 1.


def classic(x, scope="bn", **settings):
    """The classic layer, and what it makes of ``x`` in inference."""
    train_phase = v1.placeholder_with_default(False, [])
    return batch_norm_layer(x, train_phase, scope, **settings), train_phase


def by_hand(x, names, initial=None):
    """A batch normalization of variables with these names, as `tf.layers` and slim make them."""
    rng = np.random.default_rng(5)
    found = {}
    for name in names:
        values = rng.uniform(0.5, 2, x.shape[-1]).astype("float32")
        values = (initial or {}).get(name, values)
        trainable = name in ("gamma", "beta")
        found[name] = v1.get_variable(name, initializer=values, trainable=trainable)
    mean, variance = found["moving_mean"], found["moving_variance"]
    return tf.nn.batch_normalization(x, mean, variance, found.get("beta"), found.get("gamma"), 1e-3)


ALL = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture
def save(tmp_path):
    """Save what ``build(x)`` makes, as a checkpoint; return its prefix and the outputs."""

    def save(build, x, optimizer=None, steps=0):
        with tf.Graph().as_default():
            y = build(tf.constant(x))
            y, train_phase = y if isinstance(y, tuple) else (y, None)
            train = optimizer.minimize(tf.reduce_mean(y**3)) if optimizer else y
            feed = {} if train_phase is None else {train_phase: True}
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                for _ in range(steps):
                    session.run(train, feed)
                path = v1.train.Saver().save(session, str(tmp_path / "model"))
                return path, session.run(y)

    return save


@pytest.fixture
def x():
    return np.random.default_rng(3).normal(3, 2, (6, 2, 3)).astype("float32")


def names_in(path):
    return {name for name, _ in tf.train.list_variables(path)}


@pytest.mark.parametrize("scope", ["bn", "net/bn"])
def test_the_classic_layer(save, x, scope):
    path, expected = save(
        lambda x: classic(x, scope, epsilon=0.02), x, v1.train.AdamOptimizer(0.1), steps=3
    )
    # The averages carry the scope of the variable and that of the operation.
    assert {
        f"{scope}/{scope}/moments/Squeeze/ExponentialMovingAverage",
        f"{scope}/{scope}/moments/Squeeze_1/ExponentialMovingAverage",
        f"{scope}/gamma/Adam",
    } <= names_in(path)
    norm = from_tf1_checkpoint(path, scope, epsilon=0.02)
    assert_same(keras_outputs(norm, x), expected)
    assert norm.unbiased is False


def test_the_averages_of_the_classic_layer_go_on_in_keras(save, x):
    """They are of the biased variance, and the decay is Keras's momentum."""
    start, end = (
        from_tf1_checkpoint(
            save(lambda x: classic(x, decay=0.9), x, steps=steps)[0], "bn", momentum=0.9
        )
        for steps in (1, 3)
    )
    layer = keras.layers.BatchNormalization(**start.settings)
    layer.build(x.shape)
    layer.set_weights(start.weights)
    for _ in range(2):
        layer(x, training=True)
    for weight, expected in zip(layer.get_weights(), end.weights, strict=True):
        assert_same(weight, expected)


def test_layers_that_share_a_scope_have_averages_of_their_own(save, x):
    def build(x):
        with v1.variable_scope("net"):
            first, phase = classic(x)
            again = batch_norm_layer(first * 3, phase, "bn", decay=0.25)
        return again, phase

    path, expected = save(build, x, v1.train.AdamOptimizer(0.1), steps=3)
    first, second = (from_tf1_checkpoint(path, scope) for scope in ("net/bn", "net/bn_1"))
    assert_same(keras_outputs(second, keras_outputs(first, x) * 3), expected)
    with pytest.raises(ValueError, match=r"'net' contains several .*\['net/bn', 'net/bn_1'\]"):
        from_tf1_checkpoint(path, "net")


def test_the_classic_layer_in_a_scope_of_names_alone(save, x):
    def build(x):
        with tf.name_scope("tower"):
            return classic(x)

    path, expected = save(build, x, v1.train.MomentumOptimizer(0.1, 0.9), steps=2)
    assert "bn/tower/bn/moments/Squeeze/ExponentialMovingAverage" in names_in(path)
    assert_same(keras_outputs(from_tf1_checkpoint(path, "tower/bn"), x), expected)


@pytest.mark.parametrize("names", [ALL, ALL[1:], ALL[2:], (ALL[0], *ALL[2:])], ids="-".join)
@pytest.mark.parametrize("inner", ["batch_normalization", "BatchNorm", "BatchNorm_1"])
def test_the_names_of_tf_layers_and_slim(save, x, names, inner):
    def build(x):
        with v1.variable_scope("conv1"):
            v1.get_variable("weights", [3, 3])
            with v1.variable_scope(inner):
                y = by_hand(x, names)
        ema = tf.train.ExponentialMovingAverage(0.9)
        with tf.control_dependencies([ema.apply(v1.global_variables())]):
            return tf.identity(y)

    has_weights = len(names) > 2
    path, expected = save(
        build, x, v1.train.MomentumOptimizer(0.1, 0.9) if has_weights else None, steps=1
    )
    assert f"conv1/{inner}/moving_mean/ExponentialMovingAverage" in names_in(path)
    if has_weights:
        assert any(name.endswith("/Momentum") for name in names_in(path))
    for scope in (f"conv1/{inner}", f"conv1/{inner}/", "conv1", ""):
        norm = from_tf1_checkpoint(path, scope)
        assert_same(keras_outputs(norm, x), expected)
        assert norm.unbiased is None
        assert (norm.settings["scale"], norm.settings["center"]) == (
            "gamma" in names,
            "beta" in names,
        )
        assert norm.settings["momentum"] == (0.99 if inner == "batch_normalization" else 0.999)


def test_a_path_a_directory_and_a_reader_give_the_same(save, tmp_path, x):
    path, _ = save(lambda x: by_hand(x, ALL), x)
    norms = [
        from_tf1_checkpoint(source, "")
        for source in (path, Path(path), tmp_path, str(tmp_path), tf.train.load_checkpoint(path))
    ]
    for norm in norms[1:]:
        np.testing.assert_array_equal(norm.weights, norms[0].weights)


def test_a_layer_is_taken_before_one_that_lies_deeper(save, x):
    def build(x):
        with v1.variable_scope("block"):
            y = by_hand(x, ALL)
            with v1.variable_scope("BatchNorm"):
                return by_hand(y, ALL[1:])

    path, expected = save(build, x)
    outer, inner = (from_tf1_checkpoint(path, scope) for scope in ("block", "block/BatchNorm"))
    assert_same(keras_outputs(inner, keras_outputs(outer, x)), expected)


def test_the_fused_kernel_returns_the_unbiased_variance(save, x):
    """As `tf.layers` and slim store it for images; ``values_per_step`` makes it biased."""
    images = x[:, :, None]
    with tf.Graph().as_default(), v1.Session() as session:
        results = v1.nn.fused_batch_norm(images, np.ones(3, "f"), np.zeros(3, "f"))
        _, mean, variance = session.run(results[:3])
    path, _ = save(lambda x: by_hand(x, ALL, {"moving_mean": mean, "moving_variance": variance}), x)
    norm = from_tf1_checkpoint(path, "", values_per_step=12)
    np.testing.assert_allclose(norm.moving_variance, x.var((0, 1), dtype="float64"), rtol=1e-6)
    assert norm.unbiased is False
    assert from_tf1_checkpoint(path, "").moving_variance == pytest.approx(variance, rel=0)


def test_bfloat16_in_a_checkpoint(save, x):
    values = np.array([1.0, 0.1, 3.0], ml_dtypes.bfloat16)

    def build(x):
        for name in ALL:
            v1.get_variable(name, initializer=tf.constant(values))
        return x

    path, _ = save(build, x)
    for array in from_tf1_checkpoint(path, "").weights:
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, values.astype("float32"))


def test_the_defaults_are_those_of_the_classic_layer(save, x):
    path, _ = save(classic, x)
    defaults = inspect.signature(batch_norm_layer).parameters
    assert from_tf1_checkpoint(path, "bn").settings == {
        "epsilon": defaults["epsilon"].default,
        "momentum": defaults["decay"].default,
        "center": True,
        "scale": True,
    }


def reader(**changed):
    """A reader of a checkpoint with one layer of three channels, ``bn``, and what is changed."""
    arrays = {f"bn/{name}": np.ones(3, "f") for name in ALL}
    arrays |= {name.replace("__", "/"): value for name, value in changed.items()}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    shapes = {name: list(value.shape) for name, value in arrays.items()}
    return SimpleNamespace(
        get_variable_to_shape_map=lambda: shapes, get_tensor=lambda name: arrays[name]
    )


THREE, TWO = np.ones(3, "f"), np.ones(2, "f")


@pytest.mark.parametrize(
    ("changed", "scope", "message"),
    [
        ({}, "b", r"no batch normalization in 'b', .* \[\]; .* averages are \['bn'\]"),
        ({}, "bn/gamma", "no batch normalization in 'bn/gamma'"),
        ({"bn__moving_variance": None}, "bn", r"'bn' has no moving_variance, only \['bn/beta'"),
        ({"bn__moving_mean": None}, "bn", "'bn' has no moving_mean"),
        (
            {"bn__moving_mean": None, "bn__moving_variance": None},
            "bn",
            r"names are \['bn/beta', 'bn/gamma'\].*averages are \[\].*Saver",
        ),
        ({"bn_1__moving_mean": THREE}, "", r"several .*\['bn', 'bn_1'\]"),
        ({"bn__gamma": None, "bn__scale": THREE}, "bn", r"no gamma, and \['bn/scale'\] may be"),
        ({"bn__beta": None, "bn__beta__Adam": THREE}, "bn", r"no beta, and \['bn/beta/Adam'\]"),
        ({"bn__gamma": TWO}, "bn", r"gamma must have the shape .*\(3,\), got \(2,\)"),
        ({"bn__moving_variance": TWO}, "bn", r"moving_variance must have the shape"),
        ({"bn__moving_mean": np.ones((1, 3))}, "bn", r"shape \(channels,\), got \(1, 3\)"),
        ({"bn__moving_variance": -THREE}, "bn", "variance cannot be negative"),
        (
            {"bn__bn__moments__Squeeze__ExponentialMovingAverage": THREE},
            "bn",
            r"more than one moving_mean: \['bn/moving_mean', 'bn/bn/moments/Squeeze/Exp",
        ),
    ],
)
def test_what_is_no_batch_normalization_raises(changed, scope, message):
    with pytest.raises(ValueError, match=message):
        from_tf1_checkpoint(reader(**changed), scope)


def test_one_average_of_the_classic_layer_is_not_enough():
    averages = {"bn__moving_mean": None, "bn__moving_variance": None}
    averages["bn__bn__moments__Squeeze__ExponentialMovingAverage"] = THREE
    with pytest.raises(ValueError, match=r"'bn' has no moving_variance, only"):
        from_tf1_checkpoint(reader(**averages), "bn")
    with pytest.raises(ValueError, match=r"no batch normalization in 'bn', whose names are"):
        from_tf1_checkpoint(reader(**averages, bn__beta=None), "bn")


def test_averages_do_not_become_those_of_a_layer_with_a_like_name():
    """``net/bn`` without gamma, beside a ``bn`` that is none: neither is a batch normalization."""
    averages = {"bn__moving_mean": None, "bn__moving_variance": None}
    for squeeze in ("Squeeze", "Squeeze_1"):
        averages[f"net__bn__net__bn__moments__{squeeze}__ExponentialMovingAverage"] = THREE
    with pytest.raises(ValueError, match=r"no batch normalization in 'bn'.*averages are \[\]"):
        from_tf1_checkpoint(reader(**averages), "bn")
    whole = reader(**averages, net__bn__gamma=THREE, net__bn__beta=THREE)
    assert from_tf1_checkpoint(whole, "net").unbiased is False


def test_what_else_is_in_the_scope_does_not_matter():
    others = {"bn__weights": np.ones((3, 3)), "bn__renorm_mean": THREE, "bn__renorm_stddev": THREE}
    assert from_tf1_checkpoint(reader(**others, bn__gamma=None), "bn").gamma is None
    assert from_tf1_checkpoint(reader(bn__scale=THREE), "bn").settings["scale"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\], such as 0.99, got 1.5"),
        ({"values_per_step": 1}, "values_per_step must be 2 or more, got 1"),
    ],
)
def test_settings_that_cannot_be_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        from_tf1_checkpoint(reader(), "bn", **settings)


@pytest.mark.parametrize("value", ["0.5", None, True, np.array([0.5])])
@pytest.mark.parametrize("name", ["epsilon", "momentum"])
def test_settings_that_are_no_numbers_raise(name, value):
    settings = {"epsilon": 1e-3, "momentum": 0.9, name: value}
    with pytest.raises(TypeError, match=f"{name} must be a number, got {re.escape(repr(value))}"):
        BatchNormWeights(None, None, THREE, THREE, **settings)


def test_what_is_not_finite_is_taken():
    """As a checkpoint of a training that failed has it."""
    bad = np.array([np.nan, np.inf, 1], "float32")
    norm = from_tf1_checkpoint(reader(bn__moving_variance=bad, bn__gamma=bad), "bn")
    for values in (norm.gamma, norm.moving_variance):
        np.testing.assert_array_equal(values, bad)


def test_a_biased_variance_is_not_made_biased_again(save, x):
    path, _ = save(classic, x)
    with pytest.raises(ValueError, match="for an unbiased variance, and this one is biased"):
        from_tf1_checkpoint(path, "bn", values_per_step=12)


def test_what_cannot_be_read_raises(tmp_path):
    with pytest.raises(TypeError, match="path of a checkpoint or a reader, got 3"):
        from_tf1_checkpoint(3, "bn")
    with pytest.raises(TypeError, match="must be a string, got None"):
        from_tf1_checkpoint(reader(), None)
    with pytest.raises(tf.errors.NotFoundError):
        from_tf1_checkpoint(tmp_path / "nothing", "bn")
    with pytest.raises(TypeError, match="gamma must hold floats, got dtype int8"):
        from_tf1_checkpoint(reader(bn__gamma=np.ones(3, "int8")), "bn")
    with pytest.raises(TypeError, match="integer"):
        from_tf1_checkpoint(reader(), "bn", values_per_step=2.5)


# PyTorch.


def array(recorded):
    values, shape = recorded
    return np.array(values, "float32").reshape(shape)


def state_dict_of(recorded):
    return {
        name: np.array(values).astype(DTYPES[dtype]).reshape(shape)
        for name, (dtype, values, shape) in recorded["state_dict"].items()
    }


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("defaults", ""),
        ("two dimensions", ""),
        ("not affine", ""),
        ("no bias", ""),
        ("bfloat16", ""),
        ("within", "1"),
        ("within", "1."),
        ("within", ""),
        ("two", "1"),
    ],
)
def test_a_module_of_pytorch(name, prefix):
    recorded = RECORDED["modules"][name]
    eps = {} if recorded["eps"] == 1e-5 else {"eps": recorded["eps"]}
    norm = from_torch(state_dict_of(recorded), prefix, momentum=recorded["momentum"], **eps)
    assert_same(keras_outputs(norm, array(recorded["x"]), axis=1), array(recorded["y"]))


def test_the_defaults_are_those_of_pytorch():
    recorded = RECORDED["modules"]["defaults"]
    norm = from_torch(state_dict_of(recorded))
    assert norm.settings == {"epsilon": 1e-5, "momentum": 0.9, "center": True, "scale": True}
    assert (recorded["eps"], recorded["momentum"]) == (1e-5, 0.1)
    assert norm.unbiased is True


@pytest.mark.parametrize("written", RECORDED["written"])
def test_pytorch_computes_the_same_with_what_is_written(written):
    """What `to_torch` writes is what the strict ``load_state_dict`` of PyTorch took."""
    weights = [each and array(each) for each in written["weights"]]
    norm = BatchNormWeights(*weights, epsilon=0.02, momentum=0.9)
    state_dict, arguments = to_torch(norm)
    assert arguments == written["arguments"]
    assert state_dict.keys() == written["state_dict"].keys()
    for name, value in state_dict.items():
        np.testing.assert_array_equal(value, array(written["state_dict"][name]))
    assert_same(keras_outputs(norm, array(written["x"])), array(written["y"]))


def test_what_is_written_is_a_copy():
    norm = from_torch(state_dict_of(RECORDED["modules"]["defaults"]))
    before = [weight.copy() for weight in norm.weights]
    for value in to_torch(norm)[0].values():
        value[:] = 7
    np.testing.assert_array_equal(norm.weights, before)


@pytest.mark.parametrize("name", ["defaults", "two dimensions", "not affine"])
@pytest.mark.parametrize("prefix", ["", "body.1", "body.1."])
def test_there_and_back(name, prefix):
    recorded = RECORDED["modules"][name]
    state_dict = state_dict_of(recorded)
    settings = {key: recorded[key] for key in ("eps", "momentum")}
    back, arguments = to_torch(from_torch(state_dict, **settings), prefix)
    del state_dict["num_batches_tracked"]
    names = {name: f"body.1.{name}" if prefix else name for name in state_dict}
    assert back.keys() == {*names.values()}
    for name, value in state_dict.items():
        assert back[names[name]].dtype == value.dtype
        np.testing.assert_array_equal(back[names[name]], value)
    affine = "weight" in state_dict
    channels = len(state_dict["running_mean"])
    assert arguments == {"num_features": channels, "affine": affine, **settings}


def test_training_goes_on_as_in_pytorch():
    """The same momentum, and after many steps the same averages, once both are of one kind."""
    trained = RECORDED["trained"]
    batches = array(trained["batches"])
    start = {"running_mean": np.zeros(3, "f"), "running_var": np.ones(3, "f")}
    begun = from_torch(start, momentum=trained["momentum"])
    layer = keras.layers.BatchNormalization(**begun.settings)
    layer.build(batches[0].shape)
    layer.set_weights(begun.weights)
    for step in range(trained["steps"]):
        layer(batches[step % len(batches)], training=True)
    n = len(batches[0])
    norm = from_torch(state_dict_of(trained), momentum=trained["momentum"], values_per_step=n)
    assert norm.unbiased is False
    assert_same(norm.moving_mean, layer.get_weights()[-2])
    assert_same(norm.moving_variance, layer.get_weights()[-1])
    back, _ = to_torch(norm, values_per_step=n)
    assert_same(back["running_var"], state_dict_of(trained)["running_var"])


def test_only_a_biased_variance_is_made_unbiased():
    norm = from_torch(state_dict_of(RECORDED["modules"]["defaults"]))
    with pytest.raises(ValueError, match="for a biased variance, and this one is unbiased"):
        to_torch(norm, values_per_step=6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_unbiased_variance_that_its_dtype_cannot_hold_raises(dtype):
    largest, settings = np.finfo(dtype).max, {"epsilon": 1e-3, "momentum": 0.9}
    for value in (largest, largest / 4, np.inf):
        variance = np.array([1, value], dtype)
        norm = BatchNormWeights(None, None, np.zeros(2, dtype), variance, **settings)
        if value == largest:
            with pytest.raises(ValueError, match=f"variance would not be finite in {dtype}"):
                to_torch(norm, values_per_step=2)
        else:
            written, _ = to_torch(norm, values_per_step=2)
            np.testing.assert_array_equal(written["running_var"], 2 * variance)


def test_a_layer_is_no_weights():
    for layer in (keras.layers.BatchNormalization(), {}):
        with pytest.raises(TypeError, match=f"expected BatchNormWeights, .*{type(layer).__name__}"):
            to_torch(layer)


class Tensor:
    """As far as the package knows a tensor of PyTorch: NumPy gets it in steps alone."""

    def __init__(self, values, dtype, detached=False, cpu=False):
        self.values, self.dtype, self.shape = values, dtype, values.shape
        self.detached, self.on_cpu = detached, cpu

    def detach(self):
        return Tensor(self.values, self.dtype, True, self.on_cpu)

    def cpu(self):
        return Tensor(self.values, self.dtype, self.detached, True)

    def float(self):
        return Tensor(self.values.astype("float32"), "torch.float32", self.detached, self.on_cpu)

    def numpy(self):
        assert self.detached
        assert self.on_cpu
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert device type tensor to numpy")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_tensors_are_copied(dtype):
    values = np.array([0.1, 2.0, 3.0]).astype(DTYPES.get(dtype, dtype))
    state_dict = {
        name: Tensor(values, f"torch.{dtype}")
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    norm = from_torch(state_dict)
    expected = values.astype("float32" if dtype == "bfloat16" else dtype)
    values[:] = 7
    for weight in norm.weights:
        assert weight.dtype == expected.dtype
        np.testing.assert_array_equal(weight, expected)


def test_real_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3).bfloat16())
    norm = from_torch(module.state_dict(keep_vars=True))
    state_dict, _ = to_torch(norm, "0")
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state_dict.items()})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("no statistics", {}, r"names are \['bias', 'weight'\].*track_running_stats=False"),
        ("two", {}, r"'' contains several batch normalizations, name one: \['0', '1'\]"),
        ("two", {"1.running_var": None, "0.running_var": None}, "several"),
        ("defaults", {"running_var": None}, "has no running_var, only"),
        ("defaults", {"weight": None}, "no weight, and|without a weight"),
        ("defaults", {"weight": None, "weight_orig": THREE}, r"\['weight_orig'\] may be that"),
        ("defaults", {"bias": TWO}, r"beta must have the shape of moving_mean, \(3,\)"),
        ("within", {"1.running_mean": None}, "has no running_mean"),
    ],
)
@pytest.mark.parametrize("left_out", [True, False])
def test_what_is_no_module_raises(name, change, message, left_out):
    """What is None is as what is not there."""
    state_dict = state_dict_of(RECORDED["modules"][name]) | change
    if left_out:
        state_dict = {key: value for key, value in state_dict.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_torch(state_dict)


def test_what_is_no_state_dict_raises():
    with pytest.raises(TypeError, match=r"expected a state_dict, names to tensors, got .*Tensor"):
        from_torch(Tensor(THREE, "torch.float32"))
    with pytest.raises(TypeError, match="expected a state_dict, names to tensors, got 0 for a na"):
        from_torch({0: THREE})
    with pytest.raises(TypeError, match=r"momentum must be a number, got '0\.1'"):
        from_torch({"running_mean": THREE, "running_var": THREE}, momentum="0.1")
    integers = state_dict_of(RECORDED["modules"]["defaults"]) | {"weight": np.ones(3, "int8")}
    with pytest.raises(TypeError, match="gamma must hold floats, got dtype int8"):
        from_torch(integers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": None}, "cumulative average, has no counterpart"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\], such as 0.1, got -0.1"),
        ({"eps": 0}, "epsilon must be"),
        ({"values_per_step": 0}, "values_per_step must be 2 or more"),
    ],
)
def test_settings_that_keras_cannot_have_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        from_torch(state_dict_of(RECORDED["modules"]["defaults"]), **settings)


@pytest.mark.parametrize("momentum", [0, 0.001, 0.1, 0.3, 0.7, 1])
def test_the_other_momentum_is_the_decimal_one(momentum):
    """In binary, 1 − 0.9 would be 0.09999999999999998."""
    norm = from_torch(state_dict_of(RECORDED["modules"]["defaults"]), momentum=momentum)
    assert len(str(norm.momentum)) <= 5
    assert norm.momentum == pytest.approx(1 - momentum, abs=1e-15)
    assert to_torch(norm)[1]["momentum"] == momentum


def test_tensorflow_is_imported_for_files_alone():
    program = (
        "import sys, types\n"
        "from bn_tutorial import migration\n"
        "one = {name: [1.0] for name in ('running_mean', 'running_var')}\n"
        "migration.to_torch(migration.from_torch(one))\n"
        "import numpy as np\n"
        "reader = types.SimpleNamespace(\n"
        "    get_variable_to_shape_map=lambda: {'moving_mean': [1], 'moving_variance': [1]},\n"
        "    get_tensor=lambda name: np.ones(1),\n"
        ")\n"
        "migration.from_tf1_checkpoint(reader, '')\n"
        "print({'tensorflow', 'keras', 'torch'} & {*sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
