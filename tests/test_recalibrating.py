"""Moving averages after `recalibrate` against those of all data, in closed form and by peers."""

import contextlib
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, recalibrate
from tests.layers.layer_cases import TWO_REPLICAS, alone
from tools import record_update_bn

L = keras.layers
EXACT = {"rtol": 1e-6, "atol": 1e-6}


class Own(L.BatchNormalization):
    """A subclass that counts its calls, and cannot be told its mode."""

    calls = 0

    def call(self, inputs, mask=None):
        self.calls += 1
        return super().call(inputs, training=True, mask=mask)


CLASSES = [L.BatchNormalization, BatchNormalization, Own]


def values(*shape, center=2.0, seed=0):
    return np.random.default_rng(seed).normal(center, 3, shape).astype("float32")


def stored(norm):
    return [norm.moving_mean.numpy(), norm.moving_variance.numpy()]


def moments(x, axes=0):
    x = x.astype("float64")
    return [x.mean(axes), x.var(axes)]


def assert_stored(norm, expected, **within):
    for a, b in zip(stored(norm), expected, strict=True):
        np.testing.assert_allclose(a, b, **within or EXACT)


def one_norm(cls=L.BatchNormalization, shape=(3,), **given):
    norm = cls(**given)
    return keras.Sequential([keras.Input(shape), norm]), norm


# What data may be


class Dataset(keras.utils.PyDataset):
    def __init__(self, batches, count):
        super().__init__()
        self.batches, self.count = batches, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, i):
        return self.batches[i % len(self.batches)]


X, Y = values(70, 3), values(70, 1)
BATCHES = [X[:32], X[32:64], X[64:]]
FORMS = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "arrays": lambda: (X, Y),
    "weighted": lambda: (X, None, Y),
    "list": lambda: BATCHES,
    "list of pairs": lambda: [(x, x) for x in BATCHES],
    "generator": lambda: (x for x in BATCHES),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(32),
    "PyDataset": lambda: Dataset(BATCHES, 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_first_layer_gets_the_statistics_of_all_data(form):
    """With a last batch of 6, whose values count like all others."""
    model, norm = one_norm()
    assert recalibrate(model, FORMS[form]()) is model
    assert_stored(norm, moments(X))


def test_far_from_zero_and_in_batches_of_any_size():
    x = (1e4 + 0.1 * np.random.default_rng(0).normal(size=(200, 3))).astype("float32")
    for batch_size in (1, 7, None, 1000):
        model, norm = one_norm()
        recalibrate(model, x, batch_size=batch_size)
        assert_stored(norm, moments(x), rtol=1e-6)


def test_steps_limit_what_is_taken():
    for data in (BATCHES, Dataset(BATCHES, None), tf.data.Dataset.from_tensors(X[:32]).repeat()):
        model, norm = one_norm()
        recalibrate(model, data, steps=1)
        assert_stored(norm, moments(X[:32]))
    taken = iter(BATCHES)
    recalibrate(model, taken, 2)
    assert_stored(norm, moments(X[:64]))
    assert len(list(taken)) == 1


def test_a_state_goes_on_from_batch_to_batch_and_is_given_back():
    """As in Keras's ``predict`` of a recurrent layer with a state."""
    layer, norm, x = L.GRU(2, stateful=True), L.BatchNormalization(), values(15, 4, 3, center=0)
    model = keras.Sequential([keras.Input(batch_shape=(5, 4, 3)), layer, norm])
    recalibrate(model, x, batch_size=5)
    before = keras.Model(model.inputs, layer.output)
    assert_stored(norm, moments(before.predict(x, batch_size=5, verbose=0)))


def test_inputs_of_any_structure():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    norms = L.BatchNormalization(), L.BatchNormalization()
    outputs = [norms[0](a), norms[1](b)]
    x, z = values(70, 3), values(70, 2, seed=1)
    for inputs, data in (
        ({"a": a, "b": b}, {"a": x, "b": z}),
        ({"a": a, "b": b}, ({"a": x, "b": z}, Y)),
        ([a, b], ([x, z], Y)),
        ((a, b), ((x, z), Y)),
        ((a, b), [((x[i : i + 30], z[i : i + 30]), None) for i in (0, 30, 60)]),
    ):
        for norm in norms:
            norm.moving_mean.assign([0] * norm.moving_mean.shape[0])
        recalibrate(keras.Model(inputs, outputs), data)
        assert_stored(norms[0], moments(x))
        assert_stored(norms[1], moments(z))


# What a layer may be


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", [None, False, True])
def test_deeper_layers_against_precise_bn_by_hand(cls, frozen, mode):
    """Batch statistics in all layers, no dropout, whatever the model says of their mode."""
    keras.utils.set_random_seed(0)
    stack = L.Dense(4), cls(epsilon=0.1), L.Dropout(0.5), L.Dense(2), cls(trainable=not frozen)
    x = keras.Input((3,))
    y = x
    for layer in stack:
        told = {"training": mode} if isinstance(layer, CLASSES[0]) and cls is not Own else {}
        y = layer(y, **told)
    model = keras.Model(x, y)
    stack[1].trainable = not frozen
    stack[1].gamma.assign([1, -2, 3, 0.5])
    recalibrate(model, BATCHES)
    (k0, b0), (gamma, beta, *_), (k1, b1) = (stack[i].get_weights() for i in (0, 1, 3))
    hidden, outputs = [], []
    for batch in BATCHES:
        h = batch.astype("float64") @ k0 + b0
        hidden.append(h)
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 0.1) * gamma + beta
        outputs.append(h @ k1 + b1)
    assert_stored(stack[1], moments(np.concatenate(hidden)), rtol=1e-5, atol=1e-5)
    if not (cls is Own and frozen):  # see on_batch_statistics
        assert_stored(stack[4], moments(np.concatenate(outputs)), rtol=1e-5, atol=1e-5)
    assert [stack[i].trainable for i in (1, 4)] == [not frozen] * 2


def block(cls, shape=(6, 6, 3)):
    return keras.Sequential([keras.Input(shape), L.Conv2D(4, 3), cls(), L.ReLU()])


def functional(cls):
    x = keras.Input((6, 6, 3))
    y = block(cls)(x)
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(cls()(y) + y)))


class Subclassed(keras.Model):
    """As people write one: without a mode, with lists, unbuilt."""

    def __init__(self, cls):
        super().__init__()
        self.blocks = [L.Conv2D(4, 3), cls(), L.Conv2D(3, 3), cls(axis=-1, scale=False)]

    def call(self, x):
        for layer in self.blocks:
            x = layer(x)
        return x


class Traced(Subclassed):
    """Whose call is a function of TensorFlow, or compiled by XLA."""

    def __init__(self, cls, **options):
        super().__init__(cls)
        self.run = tf.function(super().call, **options)

    def call(self, x):
        return self.run(x)


class Again(L.Layer):
    """A block that is computed once more for its gradient."""

    def __init__(self, cls):
        super().__init__()
        self.norm = cls()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return keras.remat(self.norm)(x)


def compiled(cls):
    model = functional(cls)
    model.compile("sgd", "mse", jit_compile=True)
    return model


def of_policy(policy):
    def make(cls):
        with contextlib.ExitStack() as stack:
            stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
            keras.config.set_dtype_policy(policy)
            return functional(cls)

    return make


MODELS = {
    "Sequential": block,
    "unbuilt": lambda cls: keras.Sequential([L.Conv2D(4, 3), cls(), L.ReLU(), cls()]),
    "functional, nested": functional,
    "subclassed, unbuilt": Subclassed,
    "tf.function": Traced,
    "tf.function, XLA": lambda cls: Traced(cls, jit_compile=True),
    "jit_compile": compiled,
    "remat": lambda cls: keras.Sequential([keras.Input((6, 6, 3)), Again(cls)]),
    "as an activation": lambda cls: keras.Sequential([L.Dense(2, activation=cls())]),
    "channels first": lambda cls: keras.Sequential([L.Permute((3, 1, 2)), cls(axis=1)]),
    "mixed": of_policy("mixed_float16"),
    "half": of_policy("float16"),
    "double": of_policy("float64"),
    "itself": lambda cls: cls(),
}


@pytest.fixture
def as_before():
    """Undo what a test says of functions."""
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cls", CLASSES[:2])
def test_models_of_all_kinds_against_precise_bn_by_momentum_zero(kind, cls, as_before):
    """Which makes a layer store the moments of each batch, without the observer."""
    keras.utils.set_random_seed(0)
    model = MODELS[kind](cls)
    x = values(20, 6, 6, 3)
    recalibrate(model, x, batch_size=8)
    inside = [norm for _, norm in find_batch_norms(model)] or [model]
    found = [stored(norm) for norm in inside]
    sizes, batches = (8, 8, 4), np.split(x, [8, 16])
    each = []
    for norm in inside:
        norm.momentum = 0.0
    tf.config.run_functions_eagerly(True)  # a trace would keep the mode that it was made in
    for batch in batches:
        model(batch, training=True)
        each.append([stored(norm) for norm in inside])
    half = any(norm.variable_dtype == "float16" for norm in inside)
    within = (
        {"rtol": 3e-3, "atol": 3e-3} if half or kind == "mixed" else {"rtol": 1e-5, "atol": 1e-5}
    )
    for i, (mean, variance) in enumerate(found):
        means, variances = ([np.float64(batch[i][j]) for batch in each] for j in (0, 1))
        whole = np.average(means, 0, sizes)
        spread = np.average((means - whole) ** 2, 0, sizes)
        np.testing.assert_allclose(mean, whole, **within)
        np.testing.assert_allclose(variance, np.average(variances, 0, sizes) + spread, **within)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_shared_layer_gets_the_statistics_of_all_its_calls(cls):
    norm, x = cls(), values(70, 3)
    a, b = keras.Input((3,)), keras.Input((5, 3))
    z = values(70, 5, 3, center=-4)
    model = keras.Model([a, b], [norm(a), L.TimeDistributed(norm)(b)])
    recalibrate(model, ([x, z], None))
    assert_stored(norm, moments(np.concatenate([x, z.reshape(-1, 3)])))


@keras.saving.register_keras_serializable("recalibrating")
class Cell(L.Layer):
    state_size = output_size = 3

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, states):
        return self.norm(x), states


@pytest.mark.parametrize("unroll", [False, True])
def test_in_recurrent_layers_all_steps_count(unroll):
    """The first one in time twice, where Keras calls the cell once more."""
    x = values(40, 5, 3)
    rnn = L.RNN(Cell(), return_sequences=True, unroll=unroll)
    model = keras.Sequential([keras.Input((5, 3)), L.Bidirectional(rnn)])
    recalibrate(model, x, batch_size=16)
    seen = x if unroll else np.concatenate([x, x[:, :1]], 1)
    norms = find_batch_norms(model)
    assert len(norms) == 2  # there and back
    for _, norm in norms:
        assert_stored(norm, moments(seen.reshape(-1, 3)))


def test_in_training_too_keras_calls_a_cell_once_more():
    """Which is why it is not left out: the average of n steps moves n + 1 times."""
    x = np.ones((8, 5, 3), "float32")
    model = keras.Sequential([keras.Input((5, 3)), L.RNN(Cell())])
    model.compile("sgd", "mse", jit_compile=False)
    [(_, norm)] = find_batch_norms(model)
    norm.momentum = 0.5
    model.train_on_batch(x, x[:, 0])
    np.testing.assert_allclose(norm.moving_mean.numpy(), [1 - 0.5**6] * 3, rtol=1e-6)


@pytest.mark.parametrize("cls", CLASSES[:2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_masked_values_do_not_count(cls, axis):
    """With the steps for channels, each has as many values as it is not masked."""
    x = values(40, 5, 3)
    x[np.random.default_rng(1).random((40, 5)) < 0.3] = 0
    x[:, 3], x[8:16, 1] = 0, 0
    mask = (x != 0).any(-1)
    norm = cls(axis=axis)
    model = keras.Sequential([keras.Input((5, 3)), L.Masking(), norm])
    if axis == -1:
        x[~mask] = 0
        recalibrate(model, x, batch_size=8)
        assert_stored(norm, moments(x[mask]))
    else:
        norm.moving_mean.assign([7.0] * 5)
        recalibrate(model, x, batch_size=8)
        for step in (0, 1, 2, 4):
            np.testing.assert_allclose(
                [array[step] for array in stored(norm)],
                moments(x[:, step][mask[:, step]], None),
                1e-6,
            )
        assert norm.moving_mean.numpy()[3] == 7  # which is masked throughout
        assert norm.moving_variance.numpy()[3] == 1


@pytest.mark.skipif(not hasattr(L.BatchNormalization(), "renorm"), reason="no renorm in this Keras")
def test_batch_renormalization_goes_on_from_the_new_statistics():
    model, norm = one_norm(renorm=True, epsilon=0.1)
    after = L.BatchNormalization()
    recalibrate(keras.Sequential([model, after]), X)
    assert_stored(norm, moments(X))
    assert norm.renorm
    # By the statistics of each batch, not corrected by what the averages were.
    normal = [(x - x.mean(0)) / np.sqrt(x.var(0) + 0.1) for x in BATCHES]
    assert_stored(after, moments(np.concatenate(normal)), rtol=1e-5, atol=1e-5)
    before = stored(norm)
    norm(X, training=True)  # of the same statistics: nothing is to move
    assert_stored(norm, before, rtol=1e-5)


def test_on_all_replicas():
    program = """
import contextlib
import keras
from bn_tutorial.models import recalibrate

x = np.random.default_rng(0).normal(2, 3, (70, 3)).astype("float32")
found = []
for cls, synchronized, inside in (
    (keras.layers.BatchNormalization, True, False),
    (keras.layers.BatchNormalization, False, False),
    (BatchNormalization, False, False),
    (BatchNormalization, True, True),
):
    with strategy.scope():
        norm = cls(synchronized=synchronized)
        model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dropout(0.5)])
    others = []
    if inside:
        with strategy.scope():
            model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
        model.fit(x[:33], x[:33], verbose=0)
        others = [w for w in model.variables if "moving" not in w.path]
        others += [*model.optimizer.variables, *model.metrics_variables]
    before = [[v.numpy() for v in w.value.values] for w in others]
    with strategy.scope() if inside else contextlib.nullcontext():
        recalibrate(model, x)
    assert str(before) == str([[v.numpy() for v in w.value.values] for w in others])
    for average, expected in ((norm.moving_mean, x.mean(0)), (norm.moving_variance, x.var(0))):
        assert len(average.value.values) == 2
        found += [float(np.abs(v.numpy() - expected).max()) for v in average.value.values]
print(json.dumps(found))
"""
    errors = json.loads(alone(TWO_REPLICAS + program).splitlines()[-1])
    assert len(errors) == 16
    assert max(errors) < 3e-6


# Against PyTorch


def test_update_bn_of_pytorch_recorded():
    """Of one batch the same, but for n/(n − 1); of more PyTorch averages what each batch has."""
    golden = json.loads(record_update_bn.GOLDEN.read_text())
    compare_with_update_bn(golden)


def test_update_bn_of_pytorch_live():
    pytest.importorskip("torch", reason="PyTorch is not installed: the recorded numbers stand in")
    compare_with_update_bn(record_update_bn.record())


def compare_with_update_bn(recorded):
    assert recorded["seed"] == record_update_bn.SEED
    given, batches = record_update_bn.inputs(), record_update_bn.batches()
    stack = []
    for width in record_update_bn.WIDTHS[1:]:
        norm = L.BatchNormalization(epsilon=record_update_bn.EPSILON)
        stack += [L.Dense(width), norm, L.ReLU()]
    model = keras.Sequential([keras.Input(record_update_bn.WIDTHS[:1]), *stack])
    norms = [stack[1], stack[4]]
    for i in range(2):
        stack[3 * i].set_weights([given[f"kernel {i}"], given[f"bias {i}"]])
    each = []
    for batch, theirs in zip(batches, recorded["each"], strict=True):
        recalibrate(model, [batch])
        means, variances = np.array(theirs[0] + theirs[2]), np.array(theirs[1] + theirs[3])
        biased = variances * (len(batch) - 1) / len(batch)
        each.append((means, biased))
        ours = [np.concatenate(arrays) for arrays in zip(*map(stored, norms), strict=True)]
        np.testing.assert_allclose(ours, [means, biased], rtol=1e-5, atol=1e-5)
    recalibrate(model, batches)
    ours = [np.concatenate(arrays) for arrays in zip(*map(stored, norms), strict=True)]
    sizes = record_update_bn.SIZES
    means, variances = (np.array(arrays) for arrays in zip(*each, strict=True))
    mean = np.average(means, 0, sizes)
    variance = np.average(variances + (means - mean) ** 2, 0, sizes)
    np.testing.assert_allclose(ours, [mean, variance], rtol=1e-5, atol=1e-5)
    # What update_bn makes of the same moments, as the docstring says.
    factors = np.array(sizes) / (np.array(sizes) - 1)
    plain = [means.mean(0), (variances * factors[:, None]).mean(0)]
    theirs = recorded["all"]
    np.testing.assert_allclose(
        [np.array(theirs[0] + theirs[2]), np.array(theirs[1] + theirs[3])],
        plain,
        rtol=1e-5,
        atol=1e-5,
    )


# What does not change


def everything(model):
    """All that can be seen of a model but its moving averages."""
    functions = model.train_function, model.test_function, model.predict_function
    weights = [weight for weight in model.variables if "moving" not in weight.path]
    variables = [*weights, *model.optimizer.variables, *model.metrics_variables]
    layers = model._flatten_layers()
    return (
        [variable.numpy().tolist() for variable in variables],
        [id(variable) for variable in variables],
        [id(function) for function in functions],
        [{key: id(value) for key, value in vars(layer).items()} for layer in layers],
        [layer.trainable for layer in layers],
        [layer.get_config() for layer in model.layers],
        [random.getstate(), str(np.random.get_state())],  # noqa: NPY002
        tf.config.functions_run_eagerly(),
        [getattr(layer, "calls", None) for layer in layers],
        len(model.losses),
    )


def trained():
    keras.utils.set_random_seed(0)
    layers = L.Dense(4), L.BatchNormalization(), L.Dropout(0.5), Own(), BatchNormalization()
    model = keras.Sequential(
        [keras.Input((3,)), *layers, L.ActivityRegularization(0.1), L.Dense(1)]
    )
    layers[1].trainable = False
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    model.fit(X, Y, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    return model


def failing():
    yield X[:32]
    raise KeyError("in the middle")


BAD = X.copy()
BAD[65, 1] = np.nan


@pytest.mark.parametrize(
    ("data", "error"),
    [(X, None), (failing, KeyError), (BAD, ValueError), ([X, X[:, :2]], ValueError)],
    ids=["done", "data fail", "not finite", "model fails"],
)
def test_nothing_else_changes_also_where_it_fails(data, error):
    model = trained()
    before = everything(model)
    averages = [stored(norm) for _, norm in find_batch_norms(model)]
    with pytest.raises(error) if error else contextlib.nullcontext():
        recalibrate(model, data() if callable(data) else data)
    for now, then in zip(everything(model), before, strict=True):
        assert now == then
    same = [np.array_equal(s, a) for s, a in zip(
        [stored(norm) for _, norm in find_batch_norms(model)], averages, strict=True
    )]  # fmt: skip
    assert all(same) if error else not any(same)


def test_training_goes_on_as_if_nothing_had_been():
    """With the same dropout, and the averages set by hand to what they were."""
    losses = []
    for between in (False, True):
        model = trained()
        norms = [norm for _, norm in find_batch_norms(model)]
        averages = [stored(norm) for norm in norms]
        if between:
            recalibrate(model, X)
        for norm, (mean, variance) in zip(norms, averages, strict=True):
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
        losses.append(model.fit(X, Y, epochs=2, verbose=0).history["loss"])
    assert losses[0] == losses[1]


class Noise(L.Layer):
    """As in a variational model: noise in every mode, from a generator that all share."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x)) + np.random.normal(size=x.shape)  # noqa: NPY002


def test_each_batch_gets_noise_of_its_own_and_the_data_theirs():
    keras.utils.set_random_seed(0)
    norm = L.BatchNormalization()
    model = keras.Sequential([Noise(), norm])
    model.build((1, 1))
    drawn = []

    def batches():
        for _ in range(200):
            drawn.append(np.random.normal())  # noqa: NPY002
            yield np.zeros((1, 1), "float32")

    np.random.seed(3)  # noqa: NPY002
    recalibrate(model, batches())
    np.random.seed(3)  # noqa: NPY002
    assert drawn == [np.random.normal() for _ in range(200)]  # noqa: NPY002
    # The variance of two normal numbers, within 5 deviations: 2·√(2/200) is one.
    assert abs(float(norm.moving_variance.numpy()[0]) - 2) < 5 * 2 * np.sqrt(2 / 200)


# What cannot be seen


class Auxiliary(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.extra = L.BatchNormalization(), L.BatchNormalization(name="extra")

    def build(self, shape):
        self.norm.build(shape)
        self.extra.build(shape)

    def call(self, x, training=False):
        return self.extra(x) if training else self.norm(x)


def test_a_layer_that_is_not_called_is_left_alone_and_named():
    model = Auxiliary()
    with pytest.warns(UserWarning, match="left alone.*: extra$"):
        recalibrate(model, X)
    assert_stored(model.norm, moments(X))
    assert_stored(model.extra, [np.zeros(3), np.ones(3)])


# TensorFlow's AutoGraph makes syntax trees in a way that Python 3.13 deprecates.
@pytest.mark.filterwarnings("ignore:.*___pyct_anno:DeprecationWarning")
def test_a_traced_function_that_stays_a_graph_is_named():
    class Frozen(Auxiliary):
        def build(self, shape):
            super().build(shape)
            spec = tf.TensorSpec((None, 3))
            self.graph = tf.function(self.extra).get_concrete_function(spec)

        def call(self, x):
            return self.graph(self.norm(x))

    with pytest.warns(UserWarning, match="left alone.*: extra$"):
        recalibrate(Frozen(), X)


def test_moving_averages_in_a_saved_model_are_named(tmp_path):
    inner = keras.Sequential([keras.Input((3,)), L.BatchNormalization(name="inside")])
    inner.export(tmp_path / "saved", verbose=False)
    loaded = L.TFSMLayer(tmp_path / "saved", call_endpoint="serve")
    norm = L.BatchNormalization()
    with pytest.warns(UserWarning, match="left alone.*moving_mean.*moving_variance"):
        recalibrate(keras.Sequential([norm, loaded]), X)
    assert_stored(norm, moments(X))
    with pytest.raises(ValueError, match=r"no batch normalization .* it has none"):
        recalibrate(keras.Sequential([loaded]), X)


class Vectorized(L.Layer):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def build(self, shape):
        self.norm.build((None, *shape[2:]))

    def call(self, x):
        return tf.vectorized_map(self.norm, x)


# TensorFlow warns that such a function is not run eagerly.
@pytest.mark.parametrize("cls", CLASSES[:2])
def test_a_graph_without_values_is_refused(cls):
    model = keras.Sequential([Vectorized(cls(name="inner"))])
    with pytest.raises(ValueError, match=r"inner.*tf\.vectorized_map"):
        recalibrate(model, values(8, 4, 3))
    inner = model.layers[0].norm
    assert_stored(inner, [np.zeros(3), np.ones(3)])
    assert "call" not in vars(inner)


def test_loops_that_run_eagerly_are_seen():
    class Loop(Vectorized):
        def call(self, x):
            return tf.map_fn(self.norm, x)

    norm, x = L.BatchNormalization(), values(8, 4, 3)
    recalibrate(keras.Sequential([Loop(norm)]), x)
    assert_stored(norm, moments(x.reshape(-1, 3)))


def test_shapes_that_keras_asks_for_are_no_values():
    class Asks(Vectorized):
        def call(self, x):
            keras.ops.convert_to_tensor(x)
            keras.src.backend.compute_output_spec(self.norm.call, keras.KerasTensor((2, 3)))
            return self.norm(x)

        def build(self, shape):
            self.norm.build(shape)

    norm = L.BatchNormalization()
    recalibrate(keras.Sequential([Asks(norm)]), X)
    assert_stored(norm, moments(X))


# What is refused


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ("data", TypeError, "got str"),
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        (lambda: X, TypeError, "got function"),
        ({"a": "text"}, TypeError, "dict with 'a': str"),
        ({"a": X, "b": X[:5]}, ValueError, r"'a': \(70, 3\), 'b': \(5, 3\)"),
        ((X, Y[:5]), ValueError, r"\(70, 3\), \(5, 1\)"),
        (np.float32(3), ValueError, r"shapes \(\)"),
        (X[:0], ValueError, r"no examples: the shapes are \(0, 3\)"),
        ([], ValueError, "no batches"),
        (iter([]), ValueError, "no batches"),
        (tf.data.Dataset.from_tensors(X).repeat(), ValueError, "no end: say with steps"),
        (Dataset(BATCHES, None), ValueError, "no end: say with steps"),
        (X[:, :2], ValueError, r"\(32, 2\)"),
        (["text"], ValueError, "text|string"),
        ([X[:0]], ValueError, "not called on any value|is called on any value"),
    ],
)
def test_bad_data(data, error, words):
    model, norm = one_norm()
    with pytest.raises(error, match=words):
        recalibrate(model, data)
    assert_stored(norm, [np.zeros(3), np.ones(3)])


@pytest.mark.parametrize(
    "given", [{"steps": 0}, {"steps": 1.5}, {"steps": True}, {"batch_size": -1}]
)
def test_bad_numbers(given):
    [(name, value)] = given.items()
    with pytest.raises(
        ValueError, match=rf"{name} must be a positive integer or None, got {value}"
    ):
        recalibrate(one_norm()[0], X, **given)


def test_a_batch_size_is_for_arrays():
    with pytest.raises(ValueError, match="batch_size is for arrays; data is a list"):
        recalibrate(one_norm()[0], BATCHES, batch_size=3)


@pytest.mark.parametrize("thing", [None, "model.keras", [L.BatchNormalization()]])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        recalibrate(thing, X)


def test_a_model_without_batch_normalizations():
    with pytest.raises(ValueError, match=r"no batch normalization .* it has none"):
        recalibrate(keras.Sequential([keras.Input((3,)), L.Dense(2)]), X)


def test_statistics_that_the_average_cannot_hold():
    model, norm = one_norm(dtype="float16")
    with pytest.raises(ValueError, match=r"moving_variance of .* not be finite in float16"):
        recalibrate(model, X * 200)
    assert_stored(norm, [np.zeros(3), np.ones(3)])
