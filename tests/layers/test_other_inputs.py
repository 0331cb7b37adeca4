"""What is no dense tensor of moderate numbers ends as in Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import MODES, PATHS, Peer, assert_close, build, data, runner

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import replace_batch_norm

CLASSES = BatchNormalization, Peer
LENGTHS = [2, 3, 4]
ROWS = data((sum(LENGTHS), 4))[0]
RAGGED = tf.RaggedTensor.from_row_lengths(ROWS, LENGTHS)


def outcome(cls, inputs, training):
    """The output with its type, and the averages; or the type and the end of the error."""
    layer = cls(momentum=0, name="bn")
    try:
        y = layer(inputs, training=training)
    except Exception as error:
        return type(error), str(error)[:100].replace(cls.__name__, "")
    values = y.flat_values if isinstance(y, tf.RaggedTensor) else y
    return type(y), y.dtype, [values.numpy(), *layer.get_weights()[2:]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("inputs", "fails"),
    [
        (RAGGED, None),
        (tf.Variable(ROWS), None),
        (ROWS[0], None),
        (ROWS.astype("complex64"), None),
        (ROWS > 0, None),
        (ROWS.tolist(), ValueError),
        (tf.sparse.from_dense(ROWS[:2]), ValueError),
        (np.array([["a", "b"]]), ValueError),
    ],
    ids=["ragged", "variable", "rank 1", "complex", "bool", "lists", "sparse", "strings"],
)
def test_inputs_of_other_kinds_end_as_in_keras(inputs, fails, training):
    (kind, *found), (expected_kind, *expected) = (outcome(cls, inputs, training) for cls in CLASSES)
    assert kind is expected_kind
    assert (fails is not None) == issubclass(kind, Exception)
    if fails:
        assert kind is fails
        assert found == expected
    else:
        assert found[0] == expected[0]
        assert_close(found[1], expected[1], 1e-6)


def test_the_moments_of_a_ragged_batch_are_those_of_its_rows():
    layer = BatchNormalization(momentum=0)
    y = layer(RAGGED, training=True)
    assert y.row_lengths().numpy().tolist() == LENGTHS
    mean, variance = ROWS.astype("float64").mean(0), ROWS.astype("float64").var(0)
    assert_close(layer.get_weights()[2:], [mean, variance], 1e-6)
    assert_close([y.flat_values.numpy()], [(ROWS - mean) / np.sqrt(variance + 1e-3)], 1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_of_ragged_inputs_trains_and_predicts_as_with_keras():
    def loss(truth, prediction):
        return tf.reduce_mean(tf.square(truth - prediction).flat_values)

    found = []
    for cls in CLASSES:
        model = keras.Sequential([keras.Input((None, 4), ragged=True), cls(momentum=0.5)])
        model.compile("sgd", loss)
        losses = model.fit(RAGGED, RAGGED, epochs=2, shuffle=False, verbose=0).history["loss"]
        predicted = model.predict(RAGGED, verbose=0)
        assert isinstance(predicted, tf.RaggedTensor)
        found.append([losses, predicted.flat_values.numpy(), *model.get_weights()])
    assert_close(*found, 1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_one_huge_value_ends_as_in_keras(path, mode, training, take):
    """The square of 1e30 is infinite in float32, and so is the variance that is stored."""
    x, dy = data((40, 3))
    x[5, 1] = 1e30
    layer, peer = (build(cls, x.shape, -1) for cls in CLASSES)
    expected = runner(peer, mode, training)(x, dy) + peer.get_weights()
    take(path)
    found = runner(layer, mode, training)(x, dy) + layer.get_weights()
    assert not any(np.isnan(values).any() for values in found)
    for values, theirs in zip(found, expected, strict=True):
        assert (np.isfinite(values) == np.isfinite(theirs)).all()
    others = [np.delete(values, 1, -1) for values in found]
    assert_close(others, [np.delete(theirs, 1, -1) for theirs in expected])
    assert np.isinf(layer.moving_variance.numpy()).any() == training


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_class_in_a_model_of_keras_is_replaced_after_loading(tmp_path):
    """Keras looks for its own classes first, so ``custom_objects`` says nothing to it."""
    file = tmp_path / "model.keras"
    keras.Sequential([keras.Input((3,)), Peer(momentum=0.7)]).save(file)
    loaded = keras.models.load_model(
        file, custom_objects={"BatchNormalization": BatchNormalization}
    )
    assert type(loaded.layers[0]) is Peer
    replaced = replace_batch_norm(keras.models.load_model(file))
    model = loaded if replaced is None else replaced
    assert type(model.layers[0]) is BatchNormalization
    assert model.layers[0].momentum == 0.7
