"""The fast function against the textbook one: the same numbers, in less memory."""

import re
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bn_tutorial import batch_norm, fast_batch_norm
from bn_tutorial.fast_batch_norm import batch_norm_forward

SHAPES = [(7, 3), (5, 4, 3), (4, 3, 2, 5), (2, 3, 4, 2, 3)]
# Both round float64 results once to the dtype of x. What differs before is a few ten float64
# roundings, far below half a step of the smaller types, so they round alike or to neighbours.
# Where γx̂ and β cancel, y is smaller than its parts: an absolute bound covers that.


@pytest.fixture(params=[8, 100, fast_batch_norm.BLOCK], ids=lambda block: f"blocks of {block}")
def _blocks(request, monkeypatch):
    monkeypatch.setattr(fast_batch_norm, "BLOCK", request.param)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(2, 1.5, shape).astype(dtype)


def parameters(channels, seed=1):
    return np.random.default_rng(seed).normal(0, 2, (2, channels))


def assert_as_textbook(x, axis=-1, epsilon=1e-3, out=None):
    """Compare both functions on ``x``; returns what the fast one returned."""
    gamma, beta = parameters(x.shape[axis])
    expected, cache = batch_norm.batch_norm_forward(x, gamma, beta, axis=axis, epsilon=epsilon)
    got = batch_norm_forward(x, gamma, beta, axis=axis, epsilon=epsilon, out=out)
    y, mean, variance = got
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    # Sums of at most some thousand float64 numbers, in another order.
    largest = np.abs(x).max(initial=0).astype(np.float64)
    np.testing.assert_allclose(mean, cache.mean, rtol=1e-13, atol=1e-13 * largest)
    rounding = (2.0**-50 * largest) ** 2  # of the mean, squared
    np.testing.assert_allclose(variance, cache.variance, rtol=1e-10, atol=rounding)
    if y.dtype == np.float64:
        deviation = np.sqrt(cache.variance.min() + epsilon)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12 * (1 + largest / deviation))
    else:
        step = np.spacing(np.maximum(np.abs(y), np.abs(expected)))
        assert (np.abs(y.astype(float) - expected) <= step + 1e-9).all()
    return got


# The textbook's numbers


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")
def test_ranks_axes_and_dtypes(shape, dtype):
    x = normal(*shape, dtype=dtype)
    for axis in range(-len(shape), len(shape)):
        assert_as_textbook(x, axis)


def test_more_blocks_than_one_in_every_direction():
    for shape in [(300, 7, 11, 5), (3, 40_000), (40_000, 3), (2, 300, 300), (70_000, 1)]:
        for axis in range(len(shape)):
            assert_as_textbook(normal(*shape, dtype=np.float32), axis)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_strides(dtype):
    x = normal(20, 6, 9, 8, dtype=dtype)
    for view in [
        x[::2],
        x[..., ::-1],
        x[:, ::-1, 1:, ::3],
        np.asfortranarray(x),
        x.transpose(0, 3, 1, 2),
        x.transpose(2, 1, 3, 0)[:, 1:],
        np.broadcast_to(x[:, :1], x.shape),
        np.broadcast_to(x[:1], x.shape),
    ]:
        before = view.copy()
        for axis in range(4):
            assert_as_textbook(view, axis)
        np.testing.assert_array_equal(view, before)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("offset", "deviation"), [(1e4, 0.1), (1e5, 1), (1e5, 0.1), (-1e6, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_from_zero(offset, deviation, dtype):
    x = (offset + normal(5000, 6) * deviation).astype(dtype)
    assert_as_textbook(x)
    # And against exact arithmetic: the float32 numbers themselves are the data.
    _, mean, variance = batch_norm_forward(x, np.ones(6), np.zeros(6))
    column = [Fraction(float(value)) for value in x[:, 0]]
    exact_mean = sum(column) / len(column)
    exact = sum((value - exact_mean) ** 2 for value in column) / len(column)
    assert mean[0] == pytest.approx(float(exact_mean), rel=1e-14)
    assert variance[0] == pytest.approx(float(exact), rel=1e-10)


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=4, max_side=9),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.data(),
)
def test_any_numbers(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_batch_norm, "BLOCK", data.draw(st.integers(1, 1000)))
        assert_as_textbook(x, axis)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16])
def test_integers_become_float64(dtype):
    y, _, _ = assert_as_textbook(np.arange(60, dtype=dtype).reshape(20, 3))
    assert y.dtype == np.float64


def test_lists_do():
    y, mean, variance = batch_norm_forward([[1, 10], [3, 10]], [2, 3], [-1, 7], epsilon=1)
    np.testing.assert_array_equal(mean, [2, 10])
    np.testing.assert_array_equal(variance, [1, 0])
    np.testing.assert_allclose(y, [[-1 - 2**0.5, 7], [-1 + 2**0.5, 7]], rtol=1e-15)


def test_epsilon_and_axis_by_default():
    y, _, _ = batch_norm_forward([[1.0, 5.0], [3.0, 5.0]], [1, 1], [0, 0])
    np.testing.assert_allclose(y, np.array([[-1, 0], [1, 0]]) / 1.001**0.5, rtol=1e-15)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("constant", [0.1, 1e8 / 3, -7e-9, 1e30])
def test_a_constant_channel_comes_out_as_beta(constant):
    x = np.full((1000, 3), constant)
    x[:, 1] = np.arange(1000)
    y, mean, variance = batch_norm_forward(x, [2.0, 1.0, -3.0], [0.1, 0.2, 0.3])
    assert (y[:, [0, 2]] == [0.1, 0.3]).all()
    assert (mean[[0, 2]] == constant).all()
    assert (variance[[0, 2]] == 0).all()


@pytest.mark.usefixtures("_blocks")
def test_nan_stays_in_its_channel():
    x = normal(500, 3)
    x[300, 1] = np.nan
    y, mean, variance = batch_norm_forward(x, np.ones(3), np.zeros(3))
    assert np.isnan(y[:, 1]).all()
    assert np.isnan([mean[1], variance[1]]).all()
    y_clean, _, _ = batch_norm_forward(x[:, [0, 2]], np.ones(2), np.zeros(2))
    np.testing.assert_allclose(y[:, [0, 2]], y_clean, rtol=0, atol=1e-12)


def test_no_channels():
    y, mean, variance = batch_norm_forward(np.empty((5, 0)), [], [])
    assert (y.shape, mean.shape, variance.shape) == ((5, 0), (0,), (0,))


# The output's place


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_out_is_filled_and_returned(dtype):
    x = normal(40, 5, 6, dtype=dtype)
    for axis in range(3):
        gamma, beta = parameters(x.shape[axis])
        expected, _, _ = batch_norm_forward(x, gamma, beta, axis=axis)
        for out in [
            np.empty_like(x),
            np.empty_like(x, order="F"),
            np.empty((40, 10, 6), dtype)[:, ::-2],
        ]:
            y, _, _ = batch_norm_forward(x, gamma, beta, axis=axis, out=out)
            assert y is out
            np.testing.assert_array_equal(out, expected)


@pytest.mark.usefixtures("_blocks")
def test_in_place():
    x = normal(40, 5, 6, dtype=np.float32)
    for view in [lambda x: x, lambda x: x[::2, ::-1], lambda x: x.T]:
        work = x.copy()
        gamma, beta = parameters(view(x).shape[-1])
        expected, *moments = batch_norm_forward(view(x), gamma, beta)
        y, *moments_in_place = batch_norm_forward(view(work), gamma, beta, out=view(work))
        np.testing.assert_array_equal(view(work), expected)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(moments_in_place, moments)


def test_parameters_may_lie_in_out():
    x = normal(9, 4)
    gamma, beta = x[0].copy(), x[1].copy()
    expected, _, _ = batch_norm_forward(x, gamma, beta)
    y, _, _ = batch_norm_forward(x, x[0], x[1], out=x)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.usefixtures("_blocks")
def test_parameters_in_the_rows_of_out_that_are_written_first():
    # With small blocks the first channels are written before the last are read.
    x = normal(70, 40)
    gamma, beta = np.ones(40), np.arange(40.0)
    expected, _, _ = batch_norm_forward(x, gamma, beta)
    for name in ("gamma", "beta"):
        out = np.empty_like(x.T)
        place = out.reshape(-1)[:40]
        place[:] = {"gamma": gamma, "beta": beta}[name]
        y, _, _ = batch_norm_forward(x, **{"gamma": gamma, "beta": beta, name: place}, out=out.T)
        np.testing.assert_array_equal(y, expected)


def test_neighbours_that_share_no_memory():
    both = normal(2, 30, 4)
    interleaved = both.transpose(1, 2, 0)
    expected, _, _ = batch_norm_forward(both[0].copy(), np.ones(4), np.zeros(4))
    batch_norm_forward(interleaved[..., 0], np.ones(4), np.zeros(4), out=interleaved[..., 1])
    np.testing.assert_array_equal(both[1], expected)
    pairs = normal(60, 4)
    expected, _, _ = batch_norm_forward(pairs[::2].copy(), np.ones(4), np.zeros(4))
    batch_norm_forward(pairs[::2], np.ones(4), np.zeros(4), out=pairs[1::2])
    np.testing.assert_array_equal(pairs[1::2], expected)


def read_only(array):
    array.flags.writeable = False
    return array


LARGE = normal(12, 3, dtype=np.float32)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([[0.0] * 3] * 10, TypeError, "out must be a NumPy array, got list"),
        (np.empty((10, 3)), TypeError, "dtype of the result, float32, got float64"),
        (np.empty((3, 10), np.float32), ValueError, "shape of x, (10, 3), got (3, 10)"),
        (read_only(np.empty((10, 3), np.float32)), ValueError, "read-only"),
        (LARGE[1:11], ValueError, "overlaps"),
        (LARGE[9::-1], ValueError, "overlaps"),
    ],
    ids=["list", "dtype", "shape", "read-only", "shifted", "reversed"],
)
def test_an_unfit_out_is_refused(out, error, message):
    x = LARGE[:10]
    before = LARGE.copy()
    with pytest.raises(error, match=re.escape(message)):
        batch_norm_forward(x, np.ones(3), np.zeros(3), out=out)
    np.testing.assert_array_equal(LARGE, before)


# The textbook's errors


@pytest.mark.parametrize(
    ("x", "kwargs"),
    [
        (np.empty((0, 3)), {}),
        (np.empty((4, 0, 3), np.float32), {}),
        (np.empty((0, 0)), {}),
        (np.ones((4, 3)), {"axis": 2}),
        (np.ones((4, 3)), {"axis": -3}),
        (np.ones(3), {}),
        (np.float64(1), {}),
        (np.ones((4, 3)), {"gamma": np.ones(4)}),
        (np.ones((4, 3)), {"gamma": 1.0}),
        (np.ones((4, 3)), {"beta": np.ones((1, 3))}),
        (np.ones((4, 3)), {"beta": ["a", "b", "c"]}),
        (np.ones((4, 3)), {"epsilon": 0}),
        (np.ones((4, 3)), {"epsilon": -1.0}),
        (np.ones((4, 3)), {"epsilon": np.nan}),
        (np.ones((4, 3), complex), {}),
        (np.ones((4, 3), bool), {}),
        ([["a", "b", "c"]], {}),
        (np.ma.masked_equal([[1.0, 2.0, 3.0]] * 2, 2), {}),
        (np.ones((4, 3)), {"gamma": np.ma.masked_equal([1.0, 2.0, 3.0], 2)}),
    ],
)
def test_errors_are_the_textbooks(x, kwargs):
    kwargs = {"gamma": np.ones(3), "beta": np.zeros(3), **kwargs}
    with pytest.raises((ValueError, TypeError)) as expected:
        batch_norm.batch_norm_forward(x, **kwargs)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        batch_norm_forward(x, **kwargs)


# Its memory (`make bench` measures its time)


def peak_memory_of(*args, **kwargs):
    """How many bytes a call allocates at most at a time."""
    tracemalloc.start()
    try:
        batch_norm_forward(*args, **kwargs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("in_place", [False, True], ids=["out", "in place"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_extra_memory_is_below_five_percent(axis, in_place):
    x = normal(32, 56, 28, 64, dtype=np.float32)  # 13 MB
    out = x if in_place else np.empty_like(x)
    ones, zeros = np.ones(x.shape[axis]), np.zeros(x.shape[axis])
    peak = peak_memory_of(x, ones, zeros, axis=axis, out=out)
    assert peak < 0.05 * x.nbytes


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32], ids=lambda dtype: f"gamma {dtype.__name__}"
)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 300_000), -1), ((300_000, 8), 0), ((2, 300_000, 4), 1), ((10**6, 1), -1)],
)
def test_extra_memory_is_below_512_kib_and_what_the_channels_need(shape, axis, dtype):
    x = normal(*shape, dtype=np.float32)
    channels = shape[axis]
    gamma, beta = np.ones(channels, dtype), np.zeros(channels, dtype)
    peak = peak_memory_of(x, gamma, beta, axis=axis, out=x)
    converted = 0 if dtype == np.float64 else 2
    assert peak < 2**19 + (2 + converted) * 8 * channels


def test_it_loads_no_tensorflow():
    program = (
        "import sys; from bn_tutorial import fast_batch_norm\n"
        "fast_batch_norm.batch_norm_forward([[1.0], [2.0]], [1.0], [0.0])\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
