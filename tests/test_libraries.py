"""The tables of libraries in the book's chapter `today`, cell by cell against what is installed.

Each cell of a library that is installed has a function here that looks the answer up, in a
signature or in a run, and returns what the cell must say. So has each row of the table of what
differs between versions of Keras: the Keras that is installed must do what its side of the row
says. The versions that the book was run with stand above that table alone, held to the lock.
"""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from packaging.version import Version
from test_environment import PROJECT, pinned

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.tf1 import batch_norm_layer
from tools.rules import ROOT, read

v1 = tf.compat.v1

X = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1, 1)
BIASED, UNBIASED = 1.25, 5 / 3


[SECTION] = [
    cell.source
    for cell in read(ROOT / "book" / "today.ipynb").cells
    if "(today-libraries)=" in cell.source
]


def tables():
    """The tables of the section `today-libraries`: {first cell of a row: {column: cell}}."""
    found = []
    for table in re.findall(r"(?:^\|.*\|$\n?)+", SECTION, re.MULTILINE):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        found.append({row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows})
    return found


DEFAULTS, CONVENTIONS, CHANGES = tables()


def argument(function, *names):
    """`name=default` for each argument of ``function`` (only the name without a default)."""
    # Of a class its __init__: before Python 3.11.4 an inherited __new__ came first.
    function = function.__init__ if inspect.isclass(function) else function
    parameters = inspect.signature(function).parameters
    said = [
        name
        if parameters[name].default is inspect.Parameter.empty
        else f"{name}={parameters[name].default!r}"
        for name in names
    ]
    return f"`{', '.join(said)}`"


def kind_of(variance):
    return {BIASED: "biased", UNBIASED: "unbiased"}[
        min((BIASED, UNBIASED), key=lambda v: abs(v - float(np.squeeze(variance))))
    ]


def weighs(after, start, new):
    """Whether a factor of 0.1 is the old value's weight or the new one's."""
    old_says = 0.1 * start + 0.9 * new
    new_says = 0.9 * start + 0.1 * new
    assert np.isclose(after, old_says) or np.isclose(after, new_says)
    return "old" if np.isclose(after, old_says) else "new"


def mode_by_default(y):
    """Which statistics made ``y`` of X, if those stored were a mean of 0 and a variance of 1."""
    y = np.ravel(y)
    if np.allclose(y, X.ravel(), atol=0.01):
        return "inference"
    assert abs(y.mean()) < 1e-4
    return "training"


def takes(function, name):
    return name in inspect.signature(function).parameters


def refuses(call):
    with pytest.raises(TypeError):
        call()
    return "an error"


# Keras's layer and ours


def masked(layer, hidden):
    """Train on 1, 3 and a masked value: moments, the outputs for 1 and 3, the gradient of γ."""
    built = layer(momentum=0.0)
    built.build((None, 3, 1))
    shown = np.array([[True, True, False]])
    with tf.GradientTape() as tape:
        y = built(np.array([[[1.0], [3.0], [hidden]]]), training=True, mask=shown)
        outputs = tf.boolean_mask(y, shown)
        loss = tf.reduce_sum(outputs**2)
    moments = np.ravel([built.moving_mean, built.moving_variance])
    return moments, outputs.numpy().ravel(), tape.gradient(loss, built.gamma.value).numpy()


def spoiled(layer):
    """What is NaN after training with a NaN under the mask."""
    found = zip(["averages", "outputs", "gradients"], masked(layer, np.nan), strict=True)
    return ", ".join(name for name, values in found if np.isnan(values).any())


def keras_row(layer):
    def trained(**kwargs):
        built = layer(**kwargs)
        built(X, training=True)
        return built

    def start():
        built = layer()
        built.build((None, 3))
        return ", ".join(f"{w.numpy()[0]:g}" for w in (built.moving_mean, built.moving_variance))

    def mask():
        assert takes(layer.call, "mask")
        moments, outputs, gradient = masked(layer, 50.0)
        assert np.allclose(moments, [2, 1])
        assert np.allclose(outputs, [-1, 1], atol=1e-3)
        assert np.isfinite(gradient).all()
        return "yes, NaN gets into gradients" if "gradients" in spoiled(layer) else "yes"

    def empty():
        built = layer()
        built(X[:0], training=True)
        averages = np.array([built.moving_mean, built.moving_variance]).ravel()
        if np.array_equal(averages, [0, 1]):
            return "averages stay"
        assert np.isnan(averages).all()
        return "averages become NaN"

    def half():
        built = layer(momentum=0.0, dtype="mixed_float16")
        built(np.array([[-300.0], [300.0]], np.float16), training=True)
        assert np.allclose(built.moving_variance, 90000)
        return built.moving_variance.dtype

    return {
        "Average": lambda: argument(layer, "momentum"),
        "It weighs": lambda: weighs(trained(momentum=0.1).moving_mean.numpy()[0], 0, 2.5),
        "Starts at": start,
        "ε": lambda: argument(layer, "epsilon"),
        "Channels": lambda: argument(layer, "axis"),
        "γ and β": lambda: argument(layer, "scale", "center"),
        "Stored variance": lambda: kind_of(trained(momentum=0.0).moving_variance),
        "Mode": lambda: f"`{'training' if takes(layer.call, 'training') else ''}`",
        "Left out, it means": lambda: mode_by_default(layer()(X)),
        "Mask": mask,
        "Empty batch": empty,
        "Statistics of float16": half,
    }


# The classic layer


def classic(batch, steps=1, mode=True, **kwargs):
    """Run the classic layer; return its output and its variables by the end of their names."""
    with tf.Graph().as_default(), v1.Session() as session:
        y = batch_norm_layer(tf.constant(batch), mode, "bn", **kwargs)
        variables = {
            name: v
            for name, v in zip(
                ["beta", "gamma", "mean", "variance"], v1.global_variables(), strict=True
            )
        }
        session.run(v1.global_variables_initializer())
        for _ in range(steps):
            output = session.run(y)
        return (output if steps else None), session.run(variables)


def classic_start():
    _, variables = classic(X, steps=0)
    return f"{variables['mean'][0]:g}, {variables['variance'][0]:g}"


def classic_channels():
    _, variables = classic(np.zeros((2, 3, 4, 5), np.float32))
    assert variables["gamma"].shape == (5,)
    assert not takes(batch_norm_layer, "axis")
    return "last"


def classic_always():
    _, variables = classic(X)
    assert not any(takes(batch_norm_layer, name) for name in ("scale", "center"))
    return "always" if {"gamma", "beta"} <= set(variables) else ""


def classic_empty():
    _, variables = classic(X[:0])
    assert np.isnan([variables["mean"], variables["variance"]]).all()
    return "averages become NaN"


def classic_half():
    batch = np.array([[-300.0], [300.0]], np.float16)
    _, variables = classic(batch, decay=0.0)
    assert np.allclose(variables["variance"], 90000)
    return variables["variance"].dtype.name


CLASSIC = {
    "Average": lambda: argument(batch_norm_layer, "decay"),
    "It weighs": lambda: weighs(classic(X, decay=0.1)[1]["mean"][0], 0, 2.5),
    "Starts at": classic_start,
    "ε": lambda: argument(batch_norm_layer, "epsilon"),
    "Channels": classic_channels,
    "γ and β": classic_always,
    "Stored variance": lambda: kind_of(classic(X, decay=0.0)[1]["variance"]),
    "Mode": lambda: argument(batch_norm_layer, "train_phase"),
    "Left out, it means": lambda: refuses(lambda: batch_norm_layer(X, scope_bn="bn")),
    "Mask": lambda: "yes" if takes(batch_norm_layer, "mask") else "no",
    "Empty batch": classic_empty,
    "Statistics of float16": classic_half,
}


# tf.nn.moments and tf.nn.batch_normalization


def pieces_have(*names):
    """None, unless one of the two functions takes one of these arguments."""
    for function in (tf.nn.moments, tf.nn.batch_normalization):
        assert not any(takes(function, name) for name in names)
    return "none"


def pieces_may_lack_parameters():
    said = argument(tf.nn.batch_normalization, "offset", "scale")
    y = tf.nn.batch_normalization(X, 0.0, 1.0, None, None, 1e-3)
    assert np.allclose(y, X, atol=0.01)
    return f"{said}, may be None"


def pieces_empty():
    moments = tf.nn.moments(X[:0], [0, 1, 2])
    assert np.isnan(moments).all()
    return "NaN"


PIECES = {
    "Average": lambda: pieces_have("momentum", "decay", "exponential_avg_factor"),
    "It weighs": lambda: pieces_have("momentum", "decay", "exponential_avg_factor"),
    "Starts at": lambda: pieces_have("moving_mean_initializer"),
    "ε": lambda: argument(tf.nn.batch_normalization, "variance_epsilon"),
    "Channels": lambda: argument(tf.nn.moments, "axes"),
    "γ and β": pieces_may_lack_parameters,
    "Stored variance": lambda: kind_of(tf.nn.moments(X, [0, 1, 2])[1]),
    "Mode": lambda: pieces_have("training", "is_training"),
    "Left out, it means": lambda: pieces_have("training", "is_training"),
    "Mask": lambda: {"none": "no"}[pieces_have("mask")],
    "Empty batch": pieces_empty,
    "Statistics of float16": lambda: tf.nn.moments(X.astype(np.float16), [0])[1].dtype.name,
}


# The fused operation

fused_op = v1.nn.fused_batch_norm


def fused(batch=X, **kwargs):
    return [t.numpy() for t in fused_op(batch, [1.0], [0.0], **kwargs)]


def fused_start():
    starts = [
        fused(mean=[start], variance=[1.0], exponential_avg_factor=0.5)[1].item()
        for start in (0.0, 10.0)
    ]
    assert np.isclose(starts[1] - starts[0], 5)
    return "the caller's"


def fused_empty():
    assert np.isnan(fused(X[:0])[1:]).all()
    return "NaN"


def fused_half():
    _, _, variance = fused(np.array([-300, 300], np.float16).reshape(2, 1, 1, 1))
    assert np.allclose(variance, 180000)
    return variance.dtype.name


def fused_factor_of_one_returns_the_batch():
    assert np.allclose(fused()[1], 2.5)
    return argument(fused_op, "exponential_avg_factor")


FUSED = {
    "Average": fused_factor_of_one_returns_the_batch,
    "It weighs": lambda: weighs(
        fused(mean=[0.0], variance=[1.0], exponential_avg_factor=0.1)[1].item(), 0, 2.5
    ),
    "Starts at": fused_start,
    "ε": lambda: argument(fused_op, "epsilon"),
    "Channels": lambda: argument(fused_op, "data_format"),
    "γ and β": lambda: argument(fused_op, "scale", "offset"),
    "Stored variance": lambda: kind_of(fused()[2]),
    "Mode": lambda: f"`{'is_training' if takes(fused_op, 'is_training') else ''}`",
    "Left out, it means": lambda: mode_by_default(fused()[0]),
    "Mask": lambda: "yes" if takes(fused_op, "mask") else "no",
    "Empty batch": fused_empty,
    "Statistics of float16": fused_half,
}

INSTALLED = {
    "Keras 3": keras_row(keras.layers.BatchNormalization),
    "`bn_tutorial.layers`": keras_row(BatchNormalization),
    "the classic layer": CLASSIC,
    "`tf.nn`": PIECES,
    "the fused operation": FUSED,
}


@pytest.mark.parametrize("library", INSTALLED)
@pytest.mark.parametrize(
    "column", [*next(iter(DEFAULTS.values())), *next(iter(CONVENTIONS.values()))]
)
def test_the_cell_says_what_is_so(library, column):
    table = DEFAULTS if column in DEFAULTS[library] else CONVENTIONS
    assert table[library][column] == INSTALLED[library][column]()


@pytest.mark.parametrize("table", [DEFAULTS, CONVENTIONS], ids=["defaults", "conventions"])
def test_every_row_is_checked_or_marked_as_reported(table):
    unmarked = {library for library in table if not library.endswith("†")}
    assert unmarked == set(INSTALLED)
    assert {library for library in table if library not in unmarked} == {
        "tf_keras †",
        "PyTorch †",
        "Sonnet †",
        "Flax †",
    }


def test_the_tables_name_the_same_libraries():
    assert list(DEFAULTS) == list(CONVENTIONS)


# Versions of Keras

INSTALLED_KERAS = Version(keras.__version__)


def renorm(layer):
    try:
        built = layer(renorm=True)
    except ValueError:
        return "an error"
    plain = layer()
    for each in (built, plain):
        each.build((None, 1, 1, 1))
    names = [weight.name for weight in built.weights]
    assert names[:4] == [weight.name for weight in plain.weights]
    assert not any(weight.trainable for weight in built.weights[4:])
    # The averages, which start at 0 and 1, and not the moments of the batch.
    assert np.allclose(built(X, training=True), X, atol=1e-2)
    return f"batch renormalization, {({3: 'three'})[len(names) - 4]} more weights"


def fraction_in_a_mask(layer):
    built = layer(momentum=0.0)
    built(np.array([[[1.0], [4.0]]]), training=True, mask=np.array([[0.5, 1.0]], np.float32))
    [mean] = built.moving_mean.numpy()
    assert np.isclose(mean, [3, 2.5]).any()
    return "a weight" if np.isclose(mean, 3) else "true"


LOOKUPS = {
    "`renorm=True`": renorm,
    "what a NaN under a mask spoils": spoiled,
    "a fraction in a mask": fraction_in_a_mask,
}


@pytest.mark.parametrize("what", LOOKUPS)
def test_the_row_says_what_the_installed_keras_does(what):
    row = CHANGES[what]
    old, new = Version(row["Up to"]), Version(row["From"])
    assert old < new
    may_be = [row["it was"]] * (new > INSTALLED_KERAS) + [row["it is"]] * (old < INSTALLED_KERAS)
    assert LOOKUPS[what](keras.layers.BatchNormalization) in may_be


def test_every_row_of_changes_is_checked():
    assert list(CHANGES) == list(LOOKUPS)


def test_our_layer_is_the_same_with_every_keras():
    assert spoiled(BatchNormalization) == ""
    assert fraction_in_a_mask(BatchNormalization) == "true"
    said = CHANGES["`renorm=True`"]
    assert renorm(BatchNormalization) == renorm(keras.layers.BatchNormalization)
    assert renorm(BatchNormalization) in (said["it was"], said["it is"])


def test_the_versions_are_those_of_the_lock():
    [said] = re.findall(r"was run with Keras (\S+) and TensorFlow (\S+), the versions", SECTION)
    assert [[version] for version in said] == [pinned()[name] for name in ("keras", "tensorflow")]


def test_the_oldest_keras_is_of_the_series_that_the_package_takes():
    [said] = re.findall(r"pass with Keras (\d+\.\d+)\.\d+ as well", SECTION)
    assert f"keras>={said}" in PROJECT["dependencies"]


@pytest.mark.parametrize("layer", [keras.layers.BatchNormalization, BatchNormalization])
def test_the_arguments_change_the_list_of_weights_as_the_book_says(layer):
    def names(**kwargs):
        built = layer(**kwargs)
        built.build((None, 2))
        return [weight.name for weight in built.weights]

    four = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert names() == four
    assert names(scale=False) == four[1:]
    assert names(center=False) == four[:1] + four[2:]
