"""What newer versions of Keras add is left to Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    MODES,
    Peer,
    alone,
    assert_close,
    build,
    digits,
    history,
    masked_case,
    needs_renorm,
    runner,
)

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import fold_batch_norm


@needs_renorm
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(renorm_clipping=dict(rmax=1.1, rmin=0.9, dmax=0.1), renorm_momentum=0.5),
        dict(scale=False, center=False, dtype="mixed_float16"),
        dict(synchronized=True, masked=True),
        dict(trainable=False),
        dict(renorm=False, renorm_momentum=0.5, renorm_clipping=dict(dmax=0.1)),
    ],
    ids=str,
)
def test_renorm_is_that_of_keras(kwargs, mode, take):
    take("kernel")
    kwargs = dict(renorm=True) | kwargs
    shape = (4, 5, 6)
    mask = tf.constant(masked_case(shape)[2]) if kwargs.pop("masked", False) else None
    found, moved = [], []
    for cls in (BatchNormalization, Peer):
        layer = build(cls, shape, -1, **kwargs)
        before = layer.get_weights()
        runs = (runner(layer, mode, training, mask) for training in (True, False))
        found.append([*history(layer, shape, *runs), *layer.get_weights()])
        changes = zip(before, layer.get_weights(), strict=True)
        moved.append([bool(np.any(old != new)) for old, new in changes])
    assert_close(*found, tolerance=1e-6)
    averages = 5 if kwargs["renorm"] else 2
    assert moved == [[False] * (len(before) - averages) + [layer.trainable] * averages] * 2


@needs_renorm
def test_the_configuration_of_renorm_is_that_of_keras():
    kwargs = dict(renorm=True, renorm_clipping=dict(rmax=3), renorm_momentum=0.9, name="bn")
    config, expected = (cls(**kwargs).get_config() for cls in (BatchNormalization, Peer))
    assert config == expected
    assert kwargs.items() <= BatchNormalization.from_config(config).get_config().items()


@needs_renorm
@pytest.mark.parametrize("cls", [BatchNormalization, Peer])
def test_renorm_is_folded_by_its_averages(cls):
    """Two fold into the layers before them, and one, behind an activation, ahead."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            cls(renorm=True, momentum=0.5),
            layers.Conv2D(8, 3, activation="relu"),
            cls(renorm=True, momentum=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
            cls(renorm=True, momentum=0.5, scale=False),
        ]
    )
    model.compile("sgd", "mse")
    x = digits()[0][:96]
    model.fit(x, np.ones((96, 10)), batch_size=16, verbose=0)
    folded = fold_batch_norm(model)
    assert not folded.not_folded
    expected = model.predict(x, verbose=0)
    assert np.abs(expected - model(x, training=True)).max() > 1e-2
    assert_close([folded.predict(x, verbose=0)], [expected])


@pytest.mark.parametrize("kept_as", ["factor", "_factor"])
def test_an_argument_that_a_later_keras_adds_is_left_to_keras(kept_as):
    """The layer of a Keras to come has an argument by which it multiplies its output."""
    program = f"""
import keras
import numpy as np

class Future(keras.layers.BatchNormalization):
    def __init__(self, momentum=0.99, factor=None, **kwargs):
        super().__init__(momentum=momentum, **kwargs)
        self.{kept_as} = factor

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * (self.{kept_as} or 1)

keras.layers.BatchNormalization = Future
from bn_tutorial.layers import BatchNormalization
x = np.array([[1.0], [3.0], [8.0]], "float32")
for kwargs in ({{}}, dict(factor=3), dict(momentum=0.5)):
    for training in (True, False):
        layers = BatchNormalization(**kwargs), Future(**kwargs)
        a, b = (layer(x, training=training).numpy() for layer in layers)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
# An empty batch tells whose code ran.
for kwargs in ({{}}, dict(factor=3)):
    layer = BatchNormalization(**kwargs)
    layer(x[:0], training=True)
    print("Keras" if np.isnan(layer.moving_mean).any() else "ours")
"""
    expected = ["ours", "Keras"] if kept_as == "factor" else ["Keras", "Keras"]
    assert alone(program).split() == expected
