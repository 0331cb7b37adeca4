"""Errors against float64: those of the layer, of Keras's, and of PyTorch as they were recorded.

An error is relative to what `record_pytorch.errors` says. The layer's is below
`ROUNDING`, or else no more than twice the smaller of the other two.
"""

import json
import math
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import Peer, masked_case, runner

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.layers._dispatch import Path
from bn_tutorial.layers._layout import Layout
from bn_tutorial.layers._sums import BLOCKS, channel_sum, channel_sum_of_squares
from tools import record_pytorch
from tools.record_pytorch import KINDS, LARGE, MEASURED, SHAPES, errors, exact, measured_inputs

ROUNDING = 1e-6
NAMES = ["y", "dx", "dgamma", "dbeta", "mean", "variance"]


@cache
def errors_of_pytorch():
    return json.loads(record_pytorch.ERRORS.read_text())["cases"]


def errors_of(cls, x, dy, axis, mode="eager", truth=None, **kwargs):
    layer = cls(axis=axis, momentum=0, **kwargs)
    layer.build(x.shape)
    results = runner(layer, mode, dtype=layer.compute_dtype)(x, dy)
    moments = (weight.astype("float64") for weight in layer.get_weights()[2:])
    found = dict(zip(NAMES, (*results, *moments), strict=True))
    return errors(found, truth or exact(x, dy, axis))


def too_large(ours, *others, rounding=ROUNDING):
    """The errors above rounding, and above twice the best of the others."""
    return {
        name: (error, *(other[name] for other in others))
        for name, error in ours.items()
        if not error <= max(rounding, 2 * min(other[name] for other in others))
    }


def test_every_recorded_case_is_compared():
    assert errors_of_pytorch().keys() == {
        f"{kind} {shape} {axis}" for kind, shape, axis in MEASURED
    }


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind, shape, axis):
    x, dy = measured_inputs(kind, shape)
    truth = exact(x, dy, axis)
    ours, keras = (errors_of(cls, x, dy, axis, truth=truth) for cls in (BatchNormalization, Peer))
    assert not too_large(ours, keras, errors_of_pytorch()[f"{kind} {shape} {axis}"])


@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("kind", ["ReLU", "far, ReLU"])
def test_errors_in_a_graph(kind, shape, axis, mode):
    x, dy = measured_inputs(kind, shape)
    ours = errors_of(BatchNormalization, x, dy, axis, mode)
    assert not too_large(ours, errors_of_pytorch()[f"{kind} {shape} {axis}"])


@pytest.mark.parametrize(("kind", "shape"), LARGE, ids=str)
def test_errors_of_large_inputs(kind, shape):
    x, dy = measured_inputs(kind, shape)
    truth = exact(x, dy, -1)
    ours = errors_of(BatchNormalization, x, dy, -1, "graph", truth)
    others = [errors_of_pytorch()[f"{kind} {shape} -1"]]
    if math.prod(shape) < 10**7:
        others.append(errors_of(Peer, x, dy, -1, "graph", truth))
    assert not too_large(ours, *others)


def test_where_the_gradient_for_gamma_comes_near_zero():
    """Half a million terms for each unit of their sum: digits that are lost early show."""
    kind, shape = "ReLU", (8, 512, 512, 1)
    ours = errors_of(BatchNormalization, *measured_inputs(kind, shape), -1, "graph")
    assert ours["dgamma"] <= 2 * errors_of_pytorch()[f"{kind} {shape} -1"]["dgamma"]


@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize(("shape", "axis"), [((65521, 1), -1), ((8, 6, 41, 40), 1)])
@pytest.mark.parametrize("kind", ["ReLU", "far, two-valued"])
def test_errors_of_a_batch_of_unknown_size(kind, shape, axis, mode):
    x, dy = measured_inputs(kind, shape)
    layer = BatchNormalization(axis=axis, momentum=0)
    layer.build(x.shape)
    spec = tf.TensorSpec([None, *shape[1:]])

    @tf.function(jit_compile=mode == "jit", input_signature=[spec, spec])
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    results = [v.numpy() for v in run(x, dy)] + layer.get_weights()[2:]
    ours = errors(dict(zip(NAMES, results, strict=True)), exact(x, dy, axis))
    assert not too_large(ours, errors_of_pytorch()[f"{kind} {shape} {axis}"])


@pytest.mark.parametrize("kind", ["ReLU", "far, two-valued", "lognormal"])
@pytest.mark.parametrize(("shape", "axis"), [((65521, 1), -1), ((3, 5, 20011), 1)])
@pytest.mark.parametrize(
    ("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float64", 1e-14)]
)
def test_errors_of_other_dtypes(dtype, rounding, kind, shape, axis):
    """Output and gradient for x are rounded to half precision, by half a unit in the last place.

    The sums lose no digits by it. float64 leaves 2⁻⁵³, a few times.
    """
    policy = dtype if dtype == "float64" else "mixed_" + dtype
    x, dy = (tf.cast(v, dtype).numpy() for v in measured_inputs(kind, shape))
    dy = dy.astype("float32")
    truth = exact(x, dy, axis)
    ours, keras = (
        errors_of(cls, x, dy, axis, truth=truth, dtype=policy) for cls in (BatchNormalization, Peer)
    )
    assert not too_large(ours, keras, rounding=rounding)
    sums = {name: ours[name] for name in ("mean", "variance", "dgamma", "dbeta")}
    assert max(sums.values()) < min(rounding, ROUNDING / 2), sums


@pytest.mark.parametrize("kind", ["ReLU", "far, two-valued"])
@pytest.mark.parametrize("shape", [(16_001, 7), (16, 32, 32, 8)])
def test_errors_with_a_mask(kind, shape):
    """Moments and gradients for the weights, and what is not masked of the others."""
    x, dy = measured_inputs(kind, shape)
    mask = masked_case(shape)[2]
    dy[~mask] = 0
    truth = exact(x[mask], dy[mask], -1)
    found = []
    for cls in (BatchNormalization, Peer):
        layer = cls(momentum=0)
        layer.build(shape)
        y, dx, *sums = runner(layer, mask=tf.constant(mask))(x, dy)
        results = (y[mask], dx[mask], *sums, *layer.get_weights()[2:])
        found.append(errors(dict(zip(NAMES, results, strict=True)), truth))
    assert not too_large(*found)


def test_errors_with_one_replica():
    x, dy = measured_inputs("ReLU", (65521, 1))
    ours = errors_of(BatchNormalization, x, dy, -1, synchronized=True)
    assert not too_large(ours, errors_of_pytorch()["ReLU (65521, 1) -1"])


# Sums

KNOWN = [
    *(((count, 1), -1) for count in (1, 31, 33, 1000, 4096, 65521, 880_801)),
    ((61, 61, 16), -1),
    ((1, 3, 200_003), 1),
    ((9001, 2, 7), 1),
    ((64, 16, 8, 8), 1),
]


def known_and_unknown():
    for shape, axis in KNOWN:
        unknown = [None] * len(shape)
        unknown[axis] = shape[axis]
        for mode in ("graph", "jit"):
            for signature in (list(shape), unknown):
                yield shape, axis, mode, signature


@pytest.mark.parametrize(("shape", "axis", "mode", "signature"), list(known_and_unknown()))
def test_the_error_of_a_sum_is_bounded_for_any_count(shape, axis, mode, signature):
    """By 2·64·2⁻²⁴ of the sum of the absolute values; equal ones err all in the same direction."""

    @tf.function(jit_compile=mode == "jit", input_signature=[tf.TensorSpec(signature)])
    def sums(x):
        path = Path(in_float64=False, in_blocks=True, use_kernel=False, xla=mode == "jit")
        layout = Layout(x, axis % len(shape))
        return channel_sum(layout, path, x), channel_sum_of_squares(layout, path, x)

    rng = np.random.default_rng(0)
    axes = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    for x in (np.full(shape, 1.1), rng.normal(size=shape), np.exp(rng.normal(size=shape))):
        x = x.astype("float32")
        exact_x = x.astype("float64")
        for found, values in zip(sums(x), (exact_x, exact_x**2), strict=True):
            bound = 2 * BLOCKS[-1] * 2**-24 * np.abs(values).sum(axes)
            assert (np.abs(found - values.sum(axes)) < bound).all()
