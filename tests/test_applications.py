"""The families of `keras.applications`, folded and replaced, the smallest member of each.

The statistics are those of a batch, so that what passes through is of order one, in the deepest
network as well. Rounding grows from layer to layer even so: in float32 the outputs of the networks
of Keras are off by up to 5·10⁻⁴ of the largest. So exactness is tested in float64, and in float32
that no more is lost than without folding, both against float64.

``BN_ALL_APPLICATIONS=1 python -m pytest tests/test_applications.py`` tries all families that have
batch normalizations; without it only those run that take a few seconds.
"""

import contextlib
import os
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, fold_batch_norm, replace_batch_norm

L = keras.layers


class Family(NamedTuple):
    folded: int
    kept: int  # behind a sum, a concatenation or pooling, and before an activation
    size: int = 32  # the smallest that Keras takes
    fast: bool = False
    alpha: float | None = None  # the width, where there is a choice


FAMILIES = {
    "MobileNet": Family(27, 0, alpha=0.25, fast=True),
    "MobileNetV2": Family(52, 0, alpha=0.35, fast=True),
    "MobileNetV3Small": Family(34, 0, fast=True),
    "EfficientNetB0": Family(49, 0, fast=True),
    "EfficientNetV2B0": Family(59, 0),
    "NASNetMobile": Family(188, 4),
    "DenseNet121": Family(59, 62, fast=True),
    "ResNet50": Family(53, 0),
    "ResNet50V2": Family(32, 17),
    "InceptionV3": Family(94, 0, size=75),
    "InceptionResNetV2": Family(204, 0, size=75),
    "Xception": Family(40, 0, size=71),
}
ALL = "BN_ALL_APPLICATIONS" in os.environ


class Pair(NamedTuple):
    """A network in float32, and one with the same weights in float64."""

    name: str
    single: Any
    double: Any
    x: np.ndarray
    exact: np.ndarray  # the output in float64
    error: float  # of the one in float32

    def error_of(self, output):
        """The largest error, as a part of the largest output."""
        return np.abs(output - self.exact).max() / np.abs(self.exact).max()


@contextlib.contextmanager
def floats(dtype):
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def network(name):
    family = FAMILIES[name]
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(family.size, family.size, 3),
        classes=10,
        classifier_activation=None,
        **({"alpha": family.alpha} if family.alpha else {}),
    )
    for layer in model.layers:
        if isinstance(layer, L.Dropout):
            layer.rate = 0.0  # so that in training the activations are those of inference
        if isinstance(layer, L.Normalization) and layer.input_mean is None:
            # As loading a file of weights leaves it.
            layer.adapt_mean.assign([120, 115, 100])
            layer.adapt_variance.assign([3000, 4000, 5000])
            layer.finalize_state()
    return model


def calibrate(model, x):
    """Draw γ and β, and give each batch normalization the moments of what it gets."""
    rng = np.random.default_rng(0)
    norms = [norm for _, norm in find_batch_norms(model)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(rng.uniform(-0.5, 0.5, norm.beta.shape))
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def inference(model, x):
    return model(x.astype(model.inputs[0].dtype), training=False).numpy()


@pytest.fixture(
    scope="module", params=[name for name, family in FAMILIES.items() if family.fast or ALL]
)
def pair(request):
    keras.utils.set_random_seed(0)
    size = FAMILIES[request.param].size
    x = np.random.default_rng(0).uniform(0, 255, (16, size, size, 3))
    with floats("float32"):
        single = network(request.param)
        calibrate(single, x.astype(np.float32))
    with floats("float64"):
        double = network(request.param)
    double.set_weights(single.get_weights())
    pair = Pair(request.param, single, double, x, inference(double, x), 0.0)
    return pair._replace(error=pair.error_of(inference(single, x)))


def test_folded(pair):
    for model in [pair.double, pair.single]:
        folded = fold_batch_norm(model)
        kept = [way for way, _ in find_batch_norms(folded)]
        assert list(folded.not_folded) == kept
        assert (len(find_batch_norms(model)) - len(kept), len(kept)) == FAMILIES[pair.name][:2]
        output = inference(folded, pair.x)
        assert output.dtype == model.compute_dtype
        bound = 1e-10 if model is pair.double else 3 * pair.error + 1e-6
        assert pair.error_of(output) < bound


def moving_averages(model):
    norms = [norm for _, norm in find_batch_norms(model)]
    return [np.stack([norm.moving_mean.numpy(), norm.moving_variance.numpy()]) for norm in norms]


def test_replaced(pair):
    """In place, so this comes last."""
    start = pair.double.get_weights()
    pair.double(pair.x[:8], training=True)
    expected = moving_averages(pair.double)
    pair.double.set_weights(start)
    for model in [pair.double, pair.single]:
        replace_batch_norm(model)
        assert all(type(norm) is BatchNormalization for _, norm in find_batch_norms(model))
        bound = 1e-10 if model is pair.double else 3 * pair.error + 1e-6
        assert pair.error_of(inference(model, pair.x)) < bound
    pair.double(pair.x[:8], training=True)
    for got, wanted in zip(moving_averages(pair.double), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
