"""The layer as a part of Keras: models, files, configurations, exports."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import Peer, alone, assert_close, build, data, digits, needs_renorm

from bn_tutorial.batch_norm import batch_norm_inference
from bn_tutorial.layers import BatchNormalization


def small_model(cls, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            cls(**kwargs),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, use_bias=False),
            cls(**kwargs),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, use_bias=False),
            cls(**kwargs),
            layers.Dense(10),
        ]
    )


def train(cls, epochs=2, **kwargs):
    model = small_model(cls)
    model.compile(
        keras.optimizers.SGD(0.005, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    x, y = digits()
    losses = model.fit(x, y, batch_size=96, epochs=epochs, shuffle=False, verbose=0)
    return model, losses.history["loss"]


@pytest.mark.parametrize("kwargs", [{}, dict(run_eagerly=True)], ids=str)
def test_a_model_trains_to_the_same_losses(kwargs):
    """Noise grows in training, by leaps where a ReLU flips: 3e-6 in Keras's weights make 1e-3."""
    (_, losses), (_, expected) = (train(cls, **kwargs) for cls in (BatchNormalization, Peer))
    np.testing.assert_allclose(losses[0], expected[0], rtol=2e-5)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    assert losses[1] < losses[0]


# Keras calls NumPy in a way that NumPy 2 deprecates.
stores_in_old_ways = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SETTINGS = dict(
    axis=1, momentum=0.9, epsilon=1e-4, center=False, beta_initializer="ones",
    gamma_initializer=keras.initializers.Constant(2.0), moving_mean_initializer="ones",
    moving_variance_initializer="zeros", gamma_regularizer=keras.regularizers.L2(0.1),
    gamma_constraint=keras.constraints.NonNeg(), synchronized=True, name="bn", dtype="float64",
    trainable=False,
)  # fmt: skip


def test_the_configuration_is_that_of_keras():
    mine, theirs = BatchNormalization(**SETTINGS), Peer(**SETTINGS)
    config, expected = mine.get_config(), theirs.get_config()
    # dtypes carry the identity of an object
    assert json.dumps(config).count("float64") == json.dumps(expected).count("float64")
    assert {**config, "dtype": 0} == {**expected, "dtype": 0}
    again = BatchNormalization.from_config(config)
    assert {**again.get_config(), "dtype": 0} == {**config, "dtype": 0}
    for layer in (mine, theirs):
        layer.build((2, 3, 4))
    assert [w.name for w in mine.weights] == [w.name for w in theirs.weights]
    assert BatchNormalization().get_config().keys() == Peer().get_config().keys()


def test_weights_have_the_names_and_the_order_of_keras():
    mine, theirs = (build(cls, (2, 3), -1, name="bn") for cls in (BatchNormalization, Peer))
    for a, b in zip(mine.weights, theirs.weights, strict=True):
        assert (a.name, a.shape, a.dtype, a.trainable) == (b.name, b.shape, b.dtype, b.trainable)
    mine.set_weights(theirs.get_weights())


def shake(model):
    """Give every weight a value of its own."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    return model


@stores_in_old_ways
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize(
    ("saved", "loading"), [(BatchNormalization, Peer), (Peer, BatchNormalization)]
)
@pytest.mark.parametrize(
    ("kwargs", "weights"), [({}, 4), pytest.param(dict(renorm=True), 7, marks=needs_renorm)]
)
def test_weights_are_exchanged(kwargs, weights, saved, loading, suffix, tmp_path):
    model, other = shake(small_model(saved, **kwargs)), small_model(loading, seed=1, **kwargs)
    assert [len(layer.weights) for layer in model.layers if type(layer) is saved] == [weights] * 3
    path = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    other.load_weights(path)
    assert_close(other.get_weights(), model.get_weights(), 0)
    x = digits()[0][:9]
    assert_close([other.predict(x, verbose=0)], [model.predict(x, verbose=0)])


@stores_in_old_ways
def test_a_saved_model_loads(tmp_path):
    model = shake(small_model(BatchNormalization, epsilon=0.01))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    mine = [layer for layer in again.layers if type(layer) is BatchNormalization]
    assert [layer.epsilon for layer in mine] == [0.01] * 3
    assert_close(again.get_weights(), model.get_weights(), 0)
    assert "bn_tutorial>BatchNormalization" in str(
        zipfile.ZipFile(tmp_path / "model.keras").read("config.json")
    )


@stores_in_old_ways
def test_a_model_that_version_0_1_saved_loads():
    """Written with Keras 3.12.0, when the layer was in a module and not in a package."""
    file = Path(__file__).parent / "saved_by_0.1.keras"
    assert b'"module": "bn_tutorial.layers"' in zipfile.ZipFile(file).read("config.json")
    model = keras.models.load_model(file)
    hidden, norm, output = model.layers
    assert type(norm) is BatchNormalization
    assert norm.momentum == 0.9
    x = np.float32([[1, 2, 3, 4], [-1, 0, 0.5, 2]])
    kernel, bias = output.get_weights()
    y = batch_norm_inference(hidden(x), *norm.get_weights()) @ kernel + bias
    written_down = [[-0.6399217, 2.9052279], [-0.8269645, 0.9729404]]
    assert_close([model(x), y], [np.array(written_down)] * 2)


@stores_in_old_ways
def test_a_saved_model_loads_without_this_package(tmp_path):
    model = shake(small_model(BatchNormalization, epsilon=0.01))
    model.save(tmp_path / "model.keras")
    x = digits()[0][:3]
    program = (
        "import keras, json, sys\n"
        "from sklearn.datasets import load_digits\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r}, custom_objects="
        "{'bn_tutorial>BatchNormalization': keras.layers.BatchNormalization})\n"
        "assert 'bn_tutorial' not in sys.modules\n"
        "assert type(model.layers[1]) is keras.layers.BatchNormalization\n"
        "assert model.layers[1].epsilon == 0.01\n"
        "x = load_digits().data[:3].reshape(3, 8, 8, 1) / 16\n"
        "print(json.dumps(model.predict(x, verbose=0).tolist()))\n"
    )
    assert_close([np.array(json.loads(alone(program)))], [model.predict(x, verbose=0)])


def test_a_model_is_exported(tmp_path):
    model = shake(small_model(BatchNormalization))
    model.export(tmp_path / "exported", verbose=0)
    served = tf.saved_model.load(tmp_path / "exported")
    x = digits()[0][:3]
    assert_close([served.serve(x).numpy()], [model.predict(x, verbose=0)])


def test_stateless_calls():
    layer, peer = (build(cls, (6, 5), -1) for cls in (BatchNormalization, Peer))
    before = layer.get_weights()
    found = []
    for some in (layer, peer):
        y, state = some.stateless_call(
            [w.value for w in some.trainable_variables],
            [w.value for w in some.non_trainable_variables],
            data((6, 5))[0],
            training=True,
        )
        found.append([y.numpy(), *(np.array(value) for value in state)])
    assert_close(*found)
    assert_close(layer.get_weights(), before, 0)


def test_symbolic_calls():
    y = BatchNormalization(dtype="mixed_float16")(keras.Input((5, 6)))
    assert (y.shape, y.dtype) == ((None, 5, 6), "float16")
    assert BatchNormalization().compute_output_shape((None, 3)) == (None, 3)


def test_another_backend_is_refused():
    program = (
        "import keras\n"
        "keras.backend.backend = lambda: 'jax'\n"
        "try:\n"
        "    import bn_tutorial.layers\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "TensorFlow backend of Keras, but Keras runs on jax" in alone(program)
