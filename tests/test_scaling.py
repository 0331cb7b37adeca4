"""The scalers against scikit-learn, their formulas, and the properties that define them."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler, minmax_scale

from bn_tutorial.book.data import wine
from bn_tutorial.scaling import max_abs_scale, mean_normalize, min_max_scale, standardize

SCALERS = [min_max_scale, max_abs_scale, mean_normalize, standardize]
CENTRING = [mean_normalize, standardize]
all_scalers = pytest.mark.parametrize("scale", SCALERS)

# The largest number is a million times the smallest difference, so rounding may cost six digits
# of sixteen, and a divisor is never so small that scikit-learn calls the feature constant.
INTEGERS = st.integers(-(10**6), 10**6)
TABLES = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=INTEGERS).map(
    lambda table: table / 1000
)
# Sums and products of these are exact in float64.
WHOLE = arrays(np.float64, st.integers(1, 8), elements=INTEGERS.map(float))
FACTORS = st.integers(-1000, 1000).filter(bool)

LARGEST = np.finfo(np.float64).max
ANY_FLOAT = st.floats(-LARGEST, LARGEST)


def rounding(x, divisor):
    """What rounding may do to ``(x - shift) / divisor``, where the shift is a sum over x."""
    divisor = np.where(divisor == 0, 1, divisor)
    return 8 * len(x) * np.finfo(np.float64).eps * np.abs(x).max(axis=0) / divisor


def mean_normalization_formula(x, reference):
    return (x - np.mean(reference, axis=0)) / np.ptp(reference, axis=0)


PEERS = [
    pytest.param(min_max_scale, MinMaxScaler(), id="min-max to 0, 1"),
    pytest.param(
        lambda x, **kwargs: min_max_scale(x, (-1, 1), **kwargs),
        MinMaxScaler((-1, 1)),
        id="min-max to -1, 1",
    ),
    pytest.param(max_abs_scale, MaxAbsScaler(), id="max-abs"),
    pytest.param(standardize, StandardScaler(), id="standardize"),
]


@pytest.mark.parametrize(("scale", "peer"), PEERS)
@given(x=TABLES)
def test_equals_scikit_learn_on_any_table(scale, peer, x):
    bound = rounding(x, np.std(x, axis=0))  # a standard deviation is the smallest of the divisors
    assert np.all(np.abs(scale(x) - peer.fit_transform(x)) <= bound)


@pytest.mark.parametrize(("scale", "peer"), PEERS)
def test_equals_scikit_learn_fitted_on_a_training_split(scale, peer):
    split, _ = wine()
    np.testing.assert_allclose(
        scale(split.x_test, reference=split.x_train),
        peer.fit(split.x_train).transform(split.x_test),
        rtol=1e-13,
        atol=1e-13,  # scikit-learn computes x * scale + offset, which cancels near 0
    )


def test_min_max_on_the_wine_data_equals_scikit_learns_function():
    x = wine()[0].x_train
    for ends in (0, 1), (-1, 1), (3, 7.5):
        np.testing.assert_allclose(min_max_scale(x, ends), minmax_scale(x, ends), atol=1e-13)


def test_mean_normalization_is_its_formula():
    split, _ = wine()
    for x, reference in (split.x_train, None), (split.x_test, split.x_train):
        expected = mean_normalization_formula(x, split.x_train)
        np.testing.assert_allclose(mean_normalize(x, reference=reference), expected, atol=1e-14)


def test_by_hand():
    x = [[1, -10], [2, 0], [6, 30]]
    np.testing.assert_array_equal(min_max_scale(x), [[0, 0], [0.2, 0.25], [1, 1]])
    np.testing.assert_allclose(min_max_scale(x, (-1, 1))[1], [-0.6, -0.5], rtol=1e-15)
    np.testing.assert_array_equal(max_abs_scale(x)[0], np.array([1, -10]) / [6, 30])
    np.testing.assert_array_equal(mean_normalize(x)[2], [3 / 5, (30 - 20 / 3) / 40])
    np.testing.assert_allclose(standardize(x)[:, 0], np.array([-2, -1, 3]) / np.sqrt(14 / 3))


@given(x=WHOLE, ends=st.lists(ANY_FLOAT, min_size=2, max_size=2, unique=True).map(sorted))
def test_min_max_hits_both_ends_exactly(x, ends):
    low, high = ends
    scaled = min_max_scale(x, (low, high))
    assert np.all(scaled[x == x.min()] == low)
    if x.min() < x.max():
        assert np.all(scaled[x == x.max()] == high)


@given(x=TABLES)
def test_what_each_scaler_does_to_a_feature_with_a_spread(x):
    x = x[:, np.ptp(x, axis=0) > 0]
    assume(x.size)
    bound = rounding(x, np.std(x, axis=0))
    assert np.all(np.abs(max_abs_scale(x)).max(axis=0) == 1)
    assert np.all(np.abs(mean_normalize(x).mean(axis=0)) <= bound)
    assert np.all(np.abs(np.ptp(mean_normalize(x), axis=0) - 1) <= bound)
    assert np.all(np.abs(standardize(x).mean(axis=0)) <= bound)
    assert np.all(np.abs(standardize(x).std(axis=0) - 1) <= bound)


@all_scalers
@given(x=TABLES)
def test_scaling_twice_is_scaling_once(scale, x):
    once = scale(x)
    assert np.all(np.abs(scale(once) - once) <= rounding(x, np.std(x, axis=0)))


@given(x=WHOLE, factor=FACTORS, offset=INTEGERS)
def test_units_do_not_matter(x, factor, offset):
    changed = factor * x + offset
    sign = np.sign(factor)
    flipped = min_max_scale(x) if factor > 0 else min_max_scale(-x)
    np.testing.assert_array_equal(min_max_scale(changed), flipped)
    np.testing.assert_array_equal(max_abs_scale(factor * x), sign * max_abs_scale(x))
    bound = rounding(changed, np.std(changed))
    for scale in CENTRING:
        assert np.all(np.abs(scale(changed) - sign * scale(x)) <= bound)


@given(value=ANY_FLOAT, m=st.integers(1, 9), ends=st.sampled_from([(0, 1), (-1, 1), (3, 7.5)]))
def test_a_constant_feature_becomes_one_exact_constant(value, m, ends):
    x = np.full((m, 1), value)
    assert np.all(min_max_scale(x, ends) == ends[0])
    assert np.all(max_abs_scale(x) == np.sign(value))
    assert np.all(mean_normalize(x) == 0)
    assert np.all(standardize(x) == 0)


@all_scalers
@given(x=TABLES, power=st.integers(-1000, 1013))
def test_the_magnitude_of_the_data_does_not_matter(scale, x, power):
    # A power of two rounds nothing. The largest make sums and even ranges overflow, the squares of
    # the smallest vanish.
    np.testing.assert_array_equal(scale(np.ldexp(x, power)), scale(x))


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200, 1.0, 1e200, LARGEST])
def test_extreme_features_by_hand(size):
    # The second feature is an ordinary one, which is scaled as if it were alone.
    x = np.array([[-size, 4], [size, 2]])
    np.testing.assert_array_equal(min_max_scale(x), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(max_abs_scale(x), [[-1, 1], [1, 0.5]])
    np.testing.assert_array_equal(mean_normalize(x), [[-0.5, 0.5], [0.5, -0.5]])
    np.testing.assert_array_equal(standardize(x), [[-1, 1], [1, -1]])
    np.testing.assert_array_equal(standardize(x[:, :1], axis=None), [[-1], [1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_extremes_of_small_floats_by_hand(dtype):
    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    for size in (tiny, largest):
        x = np.array([-size, 0, 0, size], dtype)
        assert mean_normalize(x).tolist() == [-0.5, 0, 0, 0.5]
        np.testing.assert_allclose(standardize(x), np.sqrt([2, 0, 0, 2]) * [-1, 0, 0, 1], rtol=1e-3)


def test_new_data_of_a_constant_feature_are_shifted_and_not_divided():
    reference = np.full((4, 1), 5.0)
    for scale in (*CENTRING, min_max_scale):
        np.testing.assert_array_equal(scale([[8.5], [4.0]], reference=reference), [[3.5], [-1]])
    np.testing.assert_array_equal(min_max_scale([[7.0]], (1, 3), reference=reference), [[5]])
    np.testing.assert_array_equal(max_abs_scale([[8.5]], reference=0 * reference), [[8.5]])
    # Also where the feature is so small that its statistics are taken of multiples of it.
    for scale in (*CENTRING, min_max_scale):
        scaled = scale([3e-200, 3.0], reference=[1e-200, 1e-200])
        np.testing.assert_array_equal(scaled, [2e-200, 3])


# Numerically constant features

ALMOST = [[0.1, 0.3 - 0.2], [1 / 3, 1 - 2 / 3], [4.35 * 100, 435], [-7e200, -7e200 * (1 + 2**-52)]]


@pytest.mark.parametrize("values", ALMOST, ids=str)
@pytest.mark.parametrize("repeats", [1, 5, 500])
def test_what_rounding_leaves_of_a_constant_is_not_blown_up(values, repeats):
    x = np.array(values * repeats)
    assert np.ptp(x) > 0
    for scale in (*CENTRING, min_max_scale):
        assert np.ptp(scale(x)) == np.ptp(x)  # shifted, and not divided


@pytest.mark.parametrize("axis", [0, None])
def test_a_spread_above_rounding_is_a_spread(axis):
    x = 1 + np.arange(12) * 2.0**-52  # a range of 11 roundings, of 10 ε and more
    assert np.ptp(min_max_scale(x, axis=axis)) == 1
    assert np.ptp(mean_normalize(x, axis=axis)) == pytest.approx(1)
    assert np.ptp(min_max_scale(x[:-1], axis=axis)) == 10 * 2.0**-52
    spread = 1 + np.array([-13, 13] * 6) * 2.0**-52  # 12 values, a deviation of 13 ε
    assert standardize(spread, axis=axis).std() == pytest.approx(1, rel=0.01)
    within = 1 + np.array([-11, 11] * 6) * 2.0**-52
    assert np.abs(standardize(within, axis=axis)).max() == 11 * 2.0**-52


def test_the_precision_is_that_of_the_arithmetic():
    # float32 is computed in float64, which tells its neighbours apart.
    x = np.array([1, 1 + 2.0**-23], np.float32)
    assert standardize(x).tolist() == [-1, 1]
    longdouble = np.array([1, 1 + 16 * np.finfo(np.longdouble).eps])
    assert min_max_scale(longdouble).tolist() == [0, 1]


@given(
    center=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    steps=st.lists(st.integers(-30, 30), min_size=2, max_size=30),
)
def test_a_feature_is_constant_to_standardize_where_it_is_to_scikit_learn(center, steps):
    x = (center + np.spacing(center) * np.array(steps))[:, np.newaxis]
    bound = len(x) * np.finfo(np.float64).eps * np.abs(x.mean())
    # Rounding the mean may move a deviation by one step.
    assume(abs(x.std() - bound) > np.spacing(abs(center)))
    constant = StandardScaler().fit(x).scale_ == 1
    assert (np.abs(standardize(x)).max() < 1e-6) == constant


@all_scalers
@given(x=TABLES)
def test_axis_says_along_what_statistics_are_taken(scale, x):
    down = scale(x)
    np.testing.assert_array_equal(scale(x, axis=-2), down)
    np.testing.assert_array_equal(scale(x.T, axis=1), down.T)
    for column, expected in zip(x.T, down.T, strict=True):
        # Sums of a column and of a table's column may round differently.
        bound = rounding(column, np.std(column))
        assert np.all(np.abs(scale(column) - expected) <= bound)
    np.testing.assert_array_equal(scale(x, axis=None), scale(x.ravel()).reshape(x.shape))


@all_scalers
def test_a_reference_alone_decides_shift_and_scale(scale):
    rng = np.random.default_rng(0)
    reference, x = rng.normal(5, 3, (20, 4)), rng.normal(-50, 9, (7, 4))
    both = scale(np.vstack([reference, x]), reference=reference)
    np.testing.assert_array_equal(both[:20], scale(reference))
    np.testing.assert_array_equal(both[20:], scale(x, reference=reference))
    assert np.abs(both[20:]).max() > 1.5  # new data may land outside


@all_scalers
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (0,), (0, 3)], ids=str)
def test_with_axis_none_x_keeps_its_shape_whatever_the_references(scale, shape):
    reference = np.array([[1.0, 2.0], [4.0, 8.0]])
    x = np.full(shape, 3.0)
    scaled = scale(x, axis=None, reference=reference)
    assert scaled.shape == shape
    np.testing.assert_array_equal(scaled, scale(3.0, axis=None, reference=reference.ravel()))


@all_scalers
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_a_float_dtype_is_kept_and_computed_in_float64_at_least(scale, dtype):
    x = np.random.default_rng(1).normal(300, 100, (500, 3)).astype(dtype)
    scaled = scale(x)
    assert scaled.dtype == dtype
    if dtype != np.longdouble:
        np.testing.assert_array_equal(scaled, scale(x.astype(np.float64)).astype(dtype))


def test_longdouble_is_not_computed_in_float64():
    x = np.array([1, 3], np.longdouble) / 3
    assert abs(max_abs_scale(x)[0] * 3 - 1) <= np.finfo(np.longdouble).eps


@all_scalers
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_integers_become_float64_before_they_can_overflow(scale, dtype):
    x = np.array([[np.iinfo(dtype).min], [3], [np.iinfo(dtype).max]], dtype)
    scaled = scale(x)
    assert scaled.dtype == np.float64
    np.testing.assert_array_equal(scaled, scale(x.astype(np.float64)))


@all_scalers
def test_the_input_is_left_alone(scale):
    x = np.array([[1.0], [2.0], [4.0]])
    scale(x, reference=x)
    np.testing.assert_array_equal(x, [[1], [2], [4]])


@all_scalers
@pytest.mark.parametrize(
    ("x", "kwargs", "error", "message"),
    [
        (["a", "b"], {}, TypeError, r"x must hold integers or floats, got dtype <U1"),
        ([1j], {}, TypeError, "got dtype complex128"),
        ([True], {}, TypeError, "got dtype bool"),
        ([None, 1.0], {}, TypeError, "got dtype object"),
        (np.ma.masked_less([1.0, 2.0], 2), {}, TypeError, "x has masked values"),
        ([1.0], {"reference": ["a"]}, TypeError, "reference must hold integers or floats"),
        ([], {}, ValueError, r"at least one example, got shape \(0,\)"),
        (np.empty((0, 3)), {}, ValueError, r"at least one example, got shape \(0, 3\)"),
        (np.empty((3, 0)), {"axis": 1}, ValueError, r"one example, got shape \(3, 0\)"),
        ([1.0], {"reference": []}, ValueError, r"at least one example, got shape \(0,\)"),
        ([1.0, np.nan], {}, ValueError, "x holds NaN or infinity.* drop or fill"),
        ([1.0, -np.inf], {}, ValueError, "x holds NaN or infinity"),
        ([1.0], {"reference": [np.inf]}, ValueError, "reference holds NaN or infinity"),
        ([1.0], {"axis": 1}, ValueError, r"axis 1 is out of range for x of shape \(1,\)"),
        ([1.0], {"axis": -2}, ValueError, r"axis -2 is out of range for x of shape \(1,\)"),
        (1.0, {}, ValueError, r"axis 0 is out of range for x of shape \(\)"),
        ([1.0], {"reference": 1.0}, ValueError, "out of range for reference of shape"),
        (
            np.ones((4, 3)),
            {"reference": np.ones((4, 2))},
            ValueError,
            r"agree on every axis but 0, got shapes \(4, 3\) and \(4, 2\)",
        ),
        (np.ones(3), {"reference": np.ones((4, 3))}, ValueError, "agree on every axis but 0"),
    ],
)
def test_bad_input_raises(scale, x, kwargs, error, message):
    with pytest.raises(error, match=message):
        scale(x, **kwargs)


@pytest.mark.parametrize(
    "ends", [(1, 0), (1, 1), (0, np.inf), (-np.inf, 0), (np.nan, 1), (0, np.nan)]
)
def test_a_feature_range_must_be_finite_and_increasing(ends):
    with pytest.raises(ValueError, match=r"must be finite and increasing, got \(.*[01]"):
        min_max_scale([1.0, 2.0], ends)


@pytest.mark.parametrize(
    ("scale", "x", "reference"),
    [
        (min_max_scale, [LARGEST], [-LARGEST, -LARGEST]),
        (standardize, [LARGEST], [-LARGEST, -LARGEST]),
        *[(scale, [1e300], [0, 1e-300]) for scale in SCALERS],
        *[(scale, np.array([6e4], np.float16), [0, 1e-3]) for scale in SCALERS],
    ],
)
def test_overflow_raises_and_does_not_warn(scale, x, reference):
    with pytest.raises(ValueError, match=r"overflows .*: divide the data first"):
        scale(x, reference=reference)
