"""What an examination takes, how much of it it uses, and what it measures."""

import itertools
import tracemalloc
import weakref
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial import doctor
from bn_tutorial.doctor._rules.batches import replicas
from bn_tutorial.doctor._sampling import Sample, gap_between
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models._measured import moments_of_examples

L = keras.layers
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def values(*shape, seed=0):
    """Channels, the last axis, of other means and deviations."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape[-1])
    return x.astype("float32")


def normalizer(shape=(3,), **given):
    return keras.Sequential([keras.Input(shape), L.BatchNormalization(name="norm", **given)])


# What data may be.

X = values(60, 3)
Y, WEIGHT = X[:, :1], np.ones(60, "float32")
ARRAYS = {"batch_size": 16}


class Pages(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(part[index * 16 : index * 16 + 16] for part in (X, Y))


def listed(*data):
    return [tuple(part[i : i + 16] for part in data) for i in range(0, 60, 16)]


def of_tensors(*data):
    return tf.data.Dataset.from_tensor_slices(data).batch(16)


KINDS = {
    "an array": (X, ARRAYS),
    "a tensor": (tf.constant(X), ARRAYS),
    "arrays (x,)": ((X,), ARRAYS),
    "arrays (x, y)": ((X, Y), ARRAYS),
    "arrays (x, None, w)": ((X, None, WEIGHT), ARRAYS),
    "arrays (x, y, w)": ((X, Y, WEIGHT), ARRAYS),
    "a dataset of x": (tf.data.Dataset.from_tensor_slices(X).batch(16), {}),
    "a dataset of (x, y)": (of_tensors(X, Y), {}),
    "a dataset of (x, y, w)": (of_tensors(X, Y, WEIGHT), {}),
    "a PyDataset": (Pages(), {}),
    "a PyDataset with workers": (Pages(workers=2, use_multiprocessing=False), {}),
    "a list of x": ([x for (x,) in listed(X)], {}),
    "a list of (x, y)": (listed(X, Y), {}),
    "a list of (x, y, w)": (listed(X, Y, WEIGHT), {}),
}


def assert_measured(report, x):
    (layer,) = report.layers
    exact = x.astype("float64")
    np.testing.assert_allclose(layer.mean, exact.mean(0), **EXACT)
    np.testing.assert_allclose(layer.variance, exact.var(0), **EXACT)


@pytest.fixture(scope="module")
def model():
    """A model with a loss, which no examination changes."""
    made = normalizer()
    made.compile("sgd", "mse", jit_compile=False)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(kind, model):
    data, options = KINDS[kind]
    report = doctor.examine(model, data, data, **options)
    assert (report.steps, report.examples) == (4, 60)
    assert_measured(report, X)


def test_a_generator(model):
    report = doctor.examine(model, iter(listed(X, Y)), (batch for batch in listed(X)))
    assert (report.steps, report.examples) == (4, 60)
    assert_measured(report, X)


@pytest.mark.parametrize("form", ["dictionary", "tuple", "list"])
def test_several_inputs(form):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    inputs = {"dictionary": {"a": a, "b": b}, "tuple": (a, b), "list": [a, b]}[form]
    two = keras.Model(inputs, L.BatchNormalization()(L.Subtract()([a, b])))
    other = values(60, 3, seed=1)
    x = {"dictionary": {"b": other, "a": X}, "tuple": (X, other), "list": [X, other]}[form]
    for train, options in [((x, Y), ARRAYS), (list(_batches(x)), {})]:
        assert_measured(doctor.examine(two, train, **options), X - other)


def _batches(x):
    for i in range(0, 60, 16):
        yield keras.tree.map_structure(lambda part, i=i: part[i : i + 16], x), Y[i : i + 16]


# How much of it is used.


class Drawn:
    """Batches without an end, which counts what is asked of it."""

    def __init__(self, size):
        self.size, self.count = size, 0

    def __iter__(self):
        for seed in itertools.count():
            self.count += 1
            yield values(self.size, 3, seed=seed)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_no_more_batches_are_drawn_than_are_used(steps, model):
    train, validation = Drawn(8), Drawn(8)
    report = doctor.examine(model, train, validation, steps=steps)
    assert report.steps == train.count == validation.count == steps


@pytest.mark.parametrize(("size", "steps"), [(4, 64), (32, 16), (50, 11), (200, 8)])
def test_how_many_batches_are_used_unless_one_says(size, steps, model):
    train, validation = Drawn(size), Drawn(size)
    report = doctor.examine(model, train, validation)
    assert report.steps == train.count == validation.count == steps
    assert report.examples == steps * size


def test_a_dataset_without_an_end(model):
    assert doctor.examine(model, of_tensors(X, Y).repeat()).steps == 34  # 512 examples of 60 in 4


class Counted(L.Layer):
    calls = 0  # of the class: what is in a layer is given back

    def call(self, inputs):
        Counted.calls += 1
        return inputs


def test_three_passes_for_each_batch_and_a_step():
    counted = keras.Sequential([keras.Input((3,)), L.BatchNormalization(), Counted()])
    Counted.calls = 0
    doctor.examine(counted, Drawn(8), steps=10)
    assert Counted.calls == 3 * 10 + 1
    Counted.calls = 0
    doctor.examine(counted, Drawn(8), Drawn(8), steps=10)
    assert Counted.calls == 4 * 10 + 1


def test_one_more_pass_without_noise_and_one_on_validation_that_has_a_loss():
    noise = L.GaussianNoise(0.1)
    counted = keras.Sequential([keras.Input((3,)), noise, L.BatchNormalization(), Counted()])
    counted.compile("sgd", "mse", jit_compile=False)
    batches = [(X[i : i + 10], X[i : i + 10]) for i in range(0, 60, 10)]
    Counted.calls = 0
    doctor.examine(counted, batches, batches)
    assert Counted.calls == 3 * 6 + 1 + 1 + 6 + 1


def test_memory_does_not_grow_with_the_number_of_batches():
    alive, memory, batch = [], [], None

    def batches():
        nonlocal batch
        for seed in range(40):
            batch = values(256, 128, seed=seed)
            alive.append(weakref.ref(batch))
            memory.append(tracemalloc.get_traced_memory()[0])
            assert sum(ref() is not None for ref in alive) <= 3
            yield batch

    tracemalloc.start()
    try:
        doctor.examine(normalizer((128,)), batches(), steps=60)
    finally:
        tracemalloc.stop()
    assert len(alive) == 40
    assert max(memory[20:]) - max(memory[5:20]) < batch.nbytes


# What may be examined.


class Block(L.Layer):
    """Holds a norm, but is no model."""

    def __init__(self):
        super().__init__()
        self.norm = L.BatchNormalization()

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def call(self, inputs, training=None):
        return self.block(inputs, training=training)


@pytest.mark.parametrize(
    "make",
    [
        Block,
        Subclassed,
        lambda: keras.Sequential([BatchNormalization()]),
        lambda: L.TimeDistributed(keras.Sequential([L.BatchNormalization()])),
    ],
    ids=["layer", "subclassed", "Sequential", "wrapper"],
)
def test_what_is_not_built_is_built(make):
    x = X.reshape(30, 2, 3) if isinstance(thing := make(), L.TimeDistributed) else X
    assert not thing.built
    assert_measured(doctor.examine(thing, x, batch_size=10), X)
    assert thing.built


def test_a_model_without_batch_normalization():
    plain = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    report = doctor.examine(plain, X)
    assert report.findings == report.layers == ()


BAD = {
    "no model": (lambda model: (lambda x: x, X), {}, TypeError, "must be a Keras model or layer"),
    "steps of 0": (lambda model: (model, X), {"steps": 0}, ValueError, "steps must be .* 0"),
    "steps below 0": (lambda model: (model, X), {"steps": -1}, ValueError, "steps must be .* -1"),
    "half a step": (lambda model: (model, X), {"steps": 2.5}, ValueError, r"steps must be .* 2\.5"),
    "batches of 0": (lambda m: (m, X), {"batch_size": 0}, ValueError, "batch_size must be .* 0"),
    "a size for batches": (lambda m: (m, [X]), {"batch_size": 8}, ValueError, "train is a list"),
    "no batches": (lambda model: (model, []), {}, ValueError, "train has no batches"),
    "no examples": (lambda model: (model, X[:0]), {}, ValueError, "train has no examples"),
    "a number": (lambda model: (model, 3), {}, TypeError, "train must be arrays.*int"),
    "a name": (lambda model: (model, "x.npy"), {}, TypeError, "train must be arrays.*str"),
    "sizes": (lambda model: (model, (X, Y[1:])), {}, ValueError, r"\(60, 3\).*\(59, 1\)"),
    "validation": (lambda m: (m, X, []), {}, ValueError, "validation has no batches"),
    "validation size": (lambda m: (m, X, (X, Y[1:])), {}, ValueError, "validation must be arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, model):
    arguments, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        doctor.examine(*arguments(model), **options)


def test_what_the_model_raises_is_raised(model):
    with pytest.raises(ValueError, match="incompatible with the layer"):
        doctor.examine(model, X[:, :2])


# What it measures.


def test_far_from_zero_and_by_its_axis():
    x = values(40, 5, 4, 3) + np.float32(1e4)
    channels_second = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    for model, data in [
        (normalizer((5, 4, 3)), x),
        (normalizer((3, 5, 4), axis=1), channels_second),
    ]:
        assert_measured(doctor.examine(model, data, batch_size=7), x.reshape(-1, 3))


def test_what_a_mask_leaves_out_does_not_count():
    x = values(40, 6, 3)
    lengths = np.random.default_rng(0).integers(1, 7, 40)
    there = np.arange(6) < lengths[:, None]
    masked = keras.Sequential([keras.Input((6, 3)), L.Masking(), L.BatchNormalization()])
    padded = np.where(there[..., None], x, 0)
    assert_measured(doctor.examine(masked, padded, batch_size=7), x[there])


def test_a_deep_layer_sees_what_batch_statistics_give_and_no_dropout():
    """In NumPy, each batch is normalized by itself; and what is stored is given as it is."""
    first, second = L.BatchNormalization(epsilon=0.1), L.BatchNormalization(name="second")
    dense = L.Dense(4)
    stack = [first, L.Dropout(0.5), dense, second]
    deep = keras.Sequential([keras.Input((3,)), *stack])
    second.moving_mean.assign([1, 2, 3, 4])
    second.moving_variance.assign([5, 6, 7, 8])
    kernel, bias = (w.numpy().astype("float64") for w in (dense.kernel, dense.bias))
    seen = []
    for (x,) in listed(X.astype("float64")):
        seen.append((x - x.mean(0)) / np.sqrt(x.var(0) + 0.1) @ kernel + bias)
    seen = np.concatenate(seen)
    layer = doctor.examine(deep, [X[i : i + 16] for i in range(0, len(X), 16)]).layers[1]
    assert (layer.layer, layer.epsilon) == ("second", 1e-3)
    np.testing.assert_allclose(layer.mean, seen.mean(0), rtol=0, atol=2e-6)
    np.testing.assert_allclose(layer.variance, seen.var(0), rtol=5e-6)
    np.testing.assert_array_equal(layer.moving_mean, [1, 2, 3, 4])
    np.testing.assert_array_equal(layer.moving_variance, [5, 6, 7, 8])


def lag_of(model, x, **options):
    found = doctor.examine(model, x, batch_size=64, **options).findings
    return next((finding for finding in found if finding.code == "averages-lag"), None)


def test_the_steps_that_averages_still_need():
    """As many as it says are enough, and half as many are not."""
    x = np.random.default_rng(0).normal(3, 2, (1024, 4)).astype("float32")
    model = normalizer((4,), momentum=0.9)
    norm = model.layers[0]

    def start():
        norm.moving_mean.assign([10.0] * 4)
        norm.moving_variance.assign([30.0] * 4)

    start()
    lag = lag_of(model, x, steps_per_epoch=16)
    steps = int(lag.evidence["steps"])
    expected = f"about {steps} more steps ({steps / 16:.2g} epochs) at momentum 0.9"
    assert expected in lag.remedy
    assert "epochs" not in lag_of(model, x).remedy
    for some, is_enough in ((steps // 2, False), (steps, True)):
        start()
        for i in range(some):
            rows = np.arange(64 * i, 64 * i + 64) % 1024
            model(x[rows], training=True)
        assert (lag_of(model, x) is None) == is_enough


def test_the_losses_are_those_of_the_model_in_inference():
    """Now, and with the averages that the data give so far; in every second batch."""
    x = np.random.default_rng(0).normal(3, 2, (512, 4)).astype("float32")
    model = normalizer((4,))
    model.compile("sgd", "mse", jit_compile=False)
    y = np.square(x)
    model.layers[0].moving_mean.assign([10.0] * 4)
    batches = [slice(64 * i, 64 * i + 64) for i in range(8)]
    findings = doctor.examine(model, [(x[b], y[b]) for b in batches]).findings
    [evidence] = [finding.evidence for finding in findings if finding.code == "averages-lag"]
    now = [np.mean((y[b] - model(x[b]).numpy()) ** 2) for b in batches[1::2]]
    np.testing.assert_allclose(evidence["loss_now"], np.mean(now), rtol=1e-6)
    right = []
    for i in range(1, 8, 2):
        so_far = x[: 64 * (i + 1)].astype("float64")
        out = (x[batches[i]] - so_far.mean(0)) / np.sqrt(so_far.var(0) + 1e-3)
        right.append(np.mean((y[batches[i]] - out) ** 2))
    np.testing.assert_allclose(evidence["loss_recalibrated"], np.mean(right), rtol=1e-6)


# What chance explains: simulated.

MOMENTUM, CHANNELS = 0.9, 3
AXIS = SimpleNamespace(axis=-1)


def normal(rng, count):
    return rng.normal(2, 3, (count, CHANNELS))


def skewed(rng, count):
    return rng.exponential(size=(count, CHANNELS))


def alike_inside(rng, count):
    """Pixels of an example that have much in common."""
    return rng.normal(size=(count, 1, CHANNELS)) + 0.3 * rng.normal(size=(count, 8, CHANNELS))


def gaps(draw, seed, shift=0.0, draws=200):
    """Gaps between averages as training leaves them and a sample of the same distribution."""
    rng = np.random.default_rng(seed)
    weights = (1 - MOMENTUM) * MOMENTUM ** np.arange(150)
    for _ in range(draws):
        past = draw(rng, 150 * 32).reshape(150, -1, CHANNELS)
        mean = weights @ past.mean(1) / weights.sum()
        variance = weights @ past.var(1) / weights.sum()
        sample = Sample()
        for _ in range(8):
            sample.add(moments_of_examples(AXIS, draw(rng, 32) + shift))
        worth = (1 + MOMENTUM) / (1 - MOMENTUM)
        against = sample.mean, sample.variances.mean
        yield gap_between(mean, variance, sample, 1e-3, worth, against)


@pytest.mark.parametrize("draw", [normal, skewed, alike_inside])
def test_chance_is_as_large_as_it_is_said_to_be(draw):
    """In units of it, means scatter by one or, since it is estimated from above, by a bit less.

    So that what is 4.4 of them, which chance makes once in 10⁴ times, is not met in 200.
    """
    found = list(gaps(draw, seed=1))
    apart = np.array([[gap.mean, gap.scale] / gap.chance for gap in found])
    assert 0.75 < apart[:, 0].std() < 1.05
    assert 0.7 < apart[:, 1].std() < 1.15
    assert sum(gap.is_real for gap in found) <= 1


def test_what_is_no_chance_is_seen():
    """8 deviations of the difference: 3 σ (1 / (32 · 8) + 1 / (32 · 19))½, of one batch of 32."""
    deviation = 3 * np.sqrt((1 / 8 + 1 / 19) / 32)
    assert all(gap.is_real for gap in gaps(normal, seed=2, shift=8 * deviation, draws=50))
    assert sum(gap.is_real for gap in gaps(normal, seed=3, shift=2 * deviation, draws=50)) < 10


@pytest.mark.parametrize("means", [[0, 10], [10, 4, 0], [0, 0, 0, 10]])
def test_replicas_are_as_far_apart_as_the_two_farthest(means):
    copies = [np.array([mean, 2 * mean, 7]) for mean in means]
    average = SimpleNamespace(value=SimpleNamespace(values=copies))
    norm = SimpleNamespace(
        layer=SimpleNamespace(moving_mean=average),
        variance=np.array([1.0, 4.0, 9.0]),
        epsilon=0.0,
        way="norm",
    )
    (finding,) = replicas(SimpleNamespace(norms=[norm]))
    assert finding.evidence["apart"] == pytest.approx(np.sqrt((10**2 + 10**2 + 0) / 3))
