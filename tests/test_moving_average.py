"""The NumPy average against tf.train.ExponentialMovingAverage, number for number."""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bn_tutorial.moving_average import ExponentialMovingAverage, half_life, weights, window

bfloat16 = tf.bfloat16.as_numpy_dtype
DTYPES = ["bfloat16", "float16", "float32", "float64"]
STARTS = ["resource variable", "reference variable", "tensor"]
# TensorFlow flushes subnormal numbers to 0 and NumPy does not. With these values and decays, six
# steps stay clear of them in float32; and float16 does not overflow.
VALUES = st.just(0.0) | st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
DECAYS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]) | st.floats(0.01, 0.99)
COUNTS = st.integers(0, 1000)
STEPS = st.lists(st.tuples(VALUES, VALUES, COUNTS), min_size=1, max_size=6)


@functools.cache
def tensorflow_average(dtype, start, zero_debias, counted):
    """A graph that averages a vector of two; built once, with everything else to be fed."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        decay = v1.placeholder(tf.float32, [])
        count = v1.placeholder(tf.int64, [])
        value = v1.placeholder(dtype, [2])
        ema = tf.train.ExponentialMovingAverage(decay, count if counted else None, zero_debias)
        if start == "tensor":
            assign, averaged = tf.no_op(), value
        else:
            averaged = v1.Variable(value, use_resource=start == "resource variable")
            assign = v1.assign(averaged, value)
        update = ema.apply([averaged])
        return SimpleNamespace(
            session=v1.Session(graph=graph),
            decay=decay,
            count=count,
            value=value,
            # In this order: the average of a variable starts from the variable.
            initializers=[variable.initializer for variable in v1.global_variables()],
            step=[assign, update, ema.average(averaged)],
        )


def run_tensorflow(machine, decay, first, values, counts):
    """The average after each step."""
    for initializer in machine.initializers:
        machine.session.run(initializer, {machine.value: first, machine.decay: decay})
    return [
        [
            machine.session.run(
                fetch, {machine.value: value, machine.count: count, machine.decay: decay}
            )
            for fetch in machine.step
        ][-1]
        for value, count in zip(values, counts, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("zero_debias", [False, True], ids=["plain", "debiased"])
@pytest.mark.parametrize("counted", [False, True], ids=["", "num_updates"])
@settings(max_examples=25)
@given(decay=DECAYS, first=st.tuples(VALUES, VALUES), steps=STEPS)
def test_equals_tensorflow_in_a_graph(dtype, start, zero_debias, counted, decay, first, steps):
    if zero_debias:
        # Near 1, float16 cannot tell the debiasing factor from 0.
        decay = min(decay, 0.9)
    values = np.array([step[:2] for step in steps], dtype)
    counts = [step[2] for step in steps]
    first = np.array(first, dtype)
    machine = tensorflow_average(dtype, start, zero_debias, counted)

    ema = ExponentialMovingAverage(decay, zero_debias=zero_debias)
    if start != "tensor":
        ema.initialize({"x": first})
    theirs = run_tensorflow(machine, decay, first, values, counts)
    for t, (value, count, expected) in enumerate(zip(values, counts, theirs, strict=True), 1):
        if counted:
            ema.num_updates = count
        average = ema.apply({"x": value})["x"]
        assert average.dtype == expected.dtype == dtype
        if zero_debias and start == "tensor":
            # Two libraries' d^t may differ in their last digit, which 1 - d^t magnifies.
            in_use = min(decay, (1 + count) / (10 + count)) if counted else decay
            ulps = 2 + 2 / (1 - in_use**t)
            assert np.all(np.abs(average - expected) <= ulps * np.spacing(np.abs(expected)))
        else:
            np.testing.assert_array_equal(average, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=["scalar", "matrix"])
@settings(max_examples=25)
@given(data=st.data(), decay=DECAYS, steps=st.integers(1, 6), counted=st.booleans())
def test_equals_tensorflow_in_eager_mode(dtype, shape, data, decay, steps, counted):
    first, *values = data.draw(
        arrays("float64", (steps + 1, *shape), elements=VALUES).map(lambda x: x.astype(dtype))
    )
    variable = tf.Variable(first)
    count = tf.Variable(0)
    theirs = tf.train.ExponentialMovingAverage(decay, count if counted else None)
    ours = ExponentialMovingAverage(decay, 0 if counted else None)
    theirs.apply([variable])  # the first call creates the average and moves it by 0
    ours.initialize({"w": first})
    for value in values:
        variable.assign(value)
        theirs.apply([variable])
        np.testing.assert_array_equal(ours.apply({"w": value})["w"], theirs.average(variable))
        if counted:
            count.assign_add(1)
            ours.num_updates += 1


def test_prints_what_the_article_prints():
    ema = ExponentialMovingAverage(0.9)
    ema.initialize({"w": 1.0, "x": 3.0})
    for w, x, printed in [
        (2.0, 4.0, ("1.1", "3.1")),
        (3.0, 5.0, ("1.2900001", "3.29")),
        (4.0, 6.0, ("1.5610001", "3.561")),
    ]:
        averages = ema.apply({"w": w, "x": x})
        assert (str(averages["w"]), str(averages["x"])) == printed


def test_names_are_averaged_apart():
    ema = ExponentialMovingAverage(0.5)
    assert ema.apply({"a": 4.0}) == {"a": 2.0}
    assert ema.apply({"b": [8.0, 2.0]})["b"].tolist() == [4, 1]
    assert ema.apply({"a": 4.0}) == {"a": 3.0}
    assert ema.average("b").tolist() == [4, 1]
    assert ema.apply({}) == {}


def test_an_average_begins_with_what_it_was_initialized_to():
    ema = ExponentialMovingAverage(0.5)
    ema.initialize({"w": [1.0, 3.0]})
    assert ema.average("w").tolist() == [1, 3]


@given(count=st.integers(0, 10**6), decay=st.floats(0, 1))
def test_num_updates_lets_an_average_hurry_at_first(count, decay):
    ema = ExponentialMovingAverage(decay, count)
    ema.initialize({"w": 1.0})
    in_use = ema.apply({"w": 0.0})["w"]
    assert in_use == pytest.approx(min(decay, (1 + count) / (10 + count)), abs=2**-23)


@given(value=VALUES, decay=st.floats(0, 0.99), steps=st.integers(1, 50))
def test_a_debiased_average_of_a_constant_is_the_constant(value, decay, steps):
    ema = ExponentialMovingAverage(decay, zero_debias=True)
    for _ in range(steps):
        average = ema.apply({"x": np.float64(value)})["x"]
    # At worst the rounding of 1 - d^t, where d^t is 0.99.
    assert average == pytest.approx(value, rel=400 * np.finfo(np.float64).eps)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        [1.0, 2.0],
        (1, 2.0),
        [[1.0], [2.0]],
        [],
        [np.float64(1), 2.0],
        [1.0, np.float64(2)],
        [np.float16(1), 2.0],
        [np.ones(2), np.ones(2)],
        np.float16(1),
        np.float64(1),
        bfloat16(1),
        np.ones(2, bfloat16),
        np.ones(2, np.float16),
        np.ones(2, np.float32),
        np.ones(2),
        tf.ones(2, tf.float64),
    ],
    ids=repr,
)
def test_dtypes_are_tensorflows(value):
    dtype = tf.Variable(value).dtype.as_numpy_dtype
    applied, initialized = ExponentialMovingAverage(0.9), ExponentialMovingAverage(0.9)
    initialized.initialize({"x": value})
    assert applied.apply({"x": value})["x"].dtype == dtype
    assert initialized.average("x").dtype == dtype
    assert initialized.apply({"x": value})["x"].dtype == dtype


@pytest.mark.parametrize(
    "value",
    [1, [1, 2], np.arange(2), np.int8(1), np.uint16([1]), [np.int64(1), 2], True, 1j],
    ids=repr,
)
def test_what_tensorflow_does_not_average_raises(value):
    with pytest.raises(TypeError, match="must be half, float, or double"):
        tf.train.ExponentialMovingAverage(0.9).apply([tf.Variable(value)])
    ema = ExponentialMovingAverage(0.9)
    for call in ema.initialize, ema.apply:
        with pytest.raises(TypeError, match=f"'x' must hold floats.*{np.asarray(value).dtype}"):
            call({"x": value})


def test_masked_values_are_not_averaged():
    ema = ExponentialMovingAverage(0.9)
    for call in ema.initialize, ema.apply:
        with pytest.raises(TypeError, match="'x' has masked values"):
            call({"x": np.ma.masked_less([1.0, 2.0], 2)})


def test_bfloat16_counts_its_updates_as_tensorflow_does():
    machine = tensorflow_average("bfloat16", "tensor", True, False)
    values = np.ones((300, 2), bfloat16)
    theirs = run_tensorflow(machine, 0.99, values[0], values, [0] * 300)
    ema = ExponentialMovingAverage(0.99, zero_debias=True)
    ours = [ema.apply({"x": value})["x"] for value in values]
    np.testing.assert_allclose(ours[-1], theirs[-1], rtol=2**-8)


def test_no_caller_can_reach_into_the_averages():
    ema = ExponentialMovingAverage(0.5)
    first = np.array([1.0, 2.0])
    ema.initialize({"w": first})
    first[:] = 99
    ema.average("w")[:] = 99
    ema.apply({"w": np.array([1.0, 2.0])})["w"][:] = 99
    assert ema.average("w").tolist() == [1, 2]


# Bad input


@pytest.mark.parametrize("decay", [-0.1, 1.1, np.nan, np.inf])
@pytest.mark.parametrize(
    "call", [ExponentialMovingAverage, lambda decay: weights(decay, 3), window, half_life]
)
def test_a_decay_outside_0_to_1_raises(call, decay):
    with pytest.raises(ValueError, match=rf"decay must lie in \[0, 1\].*, got {decay!r}"):
        call(decay)


@pytest.mark.parametrize("decay", [None, "0.9", True, [0.9], np.array([0.1, 0.9])])
def test_a_decay_that_is_no_number_raises(decay):
    for call in (ExponentialMovingAverage, half_life):
        with pytest.raises(
            TypeError, match=f"decay must be a number, got {re.escape(repr(decay))}"
        ):
            call(decay)


@pytest.mark.parametrize("kind", [bfloat16, np.float16, np.array, tf.constant, int])
def test_a_decay_may_be_a_number_of_any_kind(kind):
    assert ExponentialMovingAverage(kind(1)).decay == 1


def test_the_decay_is_fixed():
    ema = ExponentialMovingAverage(0.5)
    with pytest.raises(AttributeError, match="decay"):
        ema.decay = 7
    assert ema.decay == 0.5


@pytest.mark.parametrize("count", [-1, -0.5, np.nan, np.inf])
def test_a_negative_count_raises(count):
    with pytest.raises(ValueError, match=f"num_updates must be a count, 0 or more, got {count!r}"):
        ExponentialMovingAverage(0.9, count)
    ema = ExponentialMovingAverage(0.9)
    with pytest.raises(ValueError, match="num_updates must be a count"):
        ema.num_updates = count
    assert ema.num_updates is None


def test_zero_debias_with_a_decay_of_1_would_divide_0_by_0():
    for decay in 1, 1 - 1e-8:  # the second is 1 in float32
        with pytest.raises(ValueError, match="zero_debias needs a decay below 1"):
            ExponentialMovingAverage(decay, zero_debias=True)
    hurried = ExponentialMovingAverage(1, 0, zero_debias=True)  # decays by 1/10 at first
    assert hurried.apply({"x": 3.0})["x"] == pytest.approx(3, rel=1e-6)
    for count in None, 10**9:
        hurried.num_updates = count
        with pytest.raises(ValueError, match="a decay below 1 in float32: at 1 an average never"):
            hurried.apply({"new": 3.0})
    with pytest.raises(KeyError, match="'new'"):
        hurried.average("new")


def test_zero_debias_needs_a_dtype_that_tells_the_decay_from_1():
    ema = ExponentialMovingAverage(0.9999, zero_debias=True)
    assert ema.apply({"x": 3.0})["x"] == pytest.approx(3, rel=1e-3)
    with pytest.raises(ValueError, match="a decay below 1 in float16"):
        ema.apply({"x": 6.0, "half": np.float16(3)})
    assert ema.average("x") == pytest.approx(3, rel=1e-3)  # not updated either


def test_a_value_that_does_not_fit_raises_and_moves_nothing():
    ema = ExponentialMovingAverage(0.5)
    ema.initialize({"a": 1.0, "b": [1.0, 2.0]})
    for bad, error, message in [
        ([1.0, 2.0, 3.0], ValueError, r"'b' has shape \(3,\), its average has shape \(2,\)"),
        (1.0, ValueError, r"'b' has shape \(\), its average has shape \(2,\)"),
        (np.ones(2), TypeError, "'b' has dtype float64, its average has dtype float32"),
        (["x", "y"], TypeError, "'b' must hold floats: bfloat16, .* float64, got dtype <U1"),
    ]:
        with pytest.raises(error, match=message):
            ema.apply({"a": 9.0, "new": 9.0, "b": bad})
    assert ema.average("a") == 1
    with pytest.raises(KeyError, match=r"no average of 'new'; there are \['a', 'b'\]"):
        ema.average("new")


@pytest.mark.parametrize("value", ["a", None, [True, False], [1.0, "a"], np.longdouble(1)], ids=str)
def test_values_must_be_floats(value):
    ema = ExponentialMovingAverage(0.5)
    for call in ema.initialize, ema.apply:
        with pytest.raises(TypeError, match=r"'x' must hold floats: .* float64, got dtype"):
            call({"x": value})


def test_an_average_starts_once():
    ema = ExponentialMovingAverage(0.5)
    ema.initialize({"a": 1.0})
    ema.apply({"b": 1.0})
    for name in "a", "b":
        with pytest.raises(ValueError, match=f"the average of '{name}' has started already"):
            ema.initialize({"new": 5.0, name: 5.0})
    with pytest.raises(KeyError, match="'new'"):
        ema.average("new")


# What a decay means

# float32 holds these decays exactly, as the average needs.
BINARY_DECAYS = st.integers(0, 1024).map(lambda k: k / 1024)


@given(decay=st.floats(0, 1), steps=st.integers(0, 100))
def test_weights_sum_to_what_the_start_has_lost(decay, steps):
    assert len(weights(decay, steps)) == steps
    assert np.sum(weights(decay, steps)) == pytest.approx(1 - decay**steps, rel=1e-13, abs=1e-15)


@given(decay=BINARY_DECAYS, steps=st.integers(1, 20))
def test_weights_are_the_response_to_an_impulse(decay, steps):
    ema = ExponentialMovingAverage(decay)
    response = [ema.apply({"x": np.float64(k == 0)})["x"] for k in range(steps)]
    # Each step rounds a difference that leaves only ``decay`` of what it started from.
    bound = steps * np.finfo(np.float64).eps / max(decay, 1 / 1024)
    np.testing.assert_allclose(weights(decay, steps), response, rtol=bound)


@given(decay=st.floats(0, 0.99))
def test_a_plain_mean_over_the_window_is_as_old_as_the_average(decay):
    n = window(decay)
    ages = np.arange(5000)  # 0.99^5000 is 1e-22: nothing older counts
    assert np.sum(ages * weights(decay, 5000)) == pytest.approx((n - 1) / 2, rel=1e-12, abs=1e-15)


@given(decay=st.floats(1e-6, 1 - 1e-6))
def test_half_of_an_old_value_is_left_after_its_half_life(decay):
    assert decay ** half_life(decay) == pytest.approx(0.5, rel=1e-12)


def test_windows_and_half_lives_by_hand():
    assert [window(decay) for decay in (0, 0.5)] == [1, 3]
    assert window(0.9) == pytest.approx(19)
    assert [half_life(decay) for decay in (0.25, 0.5)] == [0.5, 1]
    assert weights(0.5, 3).tolist() == [0.5, 0.25, 0.125]  # the newest first


def test_extreme_decays_have_no_window_or_half_life():
    with pytest.raises(ValueError, match="decay 1 never forgets"):
        window(1)
    for decay in 0, 1:
        with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {decay}"):
            half_life(decay)


def test_a_negative_number_of_weights_raises():
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        weights(0.9, -1)
    with pytest.raises(TypeError, match="integer"):
        weights(0.9, 2.5)
