"""What a type checker says about programs that use the package: mypy --strict, with no settings."""

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

import bn_tutorial
from bn_tutorial.layers import batch_normalization
from tools.rules import ROOT


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What mypy keeps of NumPy from one program to the next."""
    return tmp_path_factory.mktemp("mypy")


def errors_in(program: str, folder: Path, cache: Path) -> set[tuple[int, str]]:
    """The lines in which mypy finds an error, in a folder that is not of the repository."""
    (folder / "program.py").write_text(program, "utf-8")
    options = ["--strict", "--config-file=", "--no-error-summary", "--cache-dir", cache]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    found = re.findall(r"^program\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    assert len(found) == done.stdout.count("error:"), done.stdout
    return {(int(line), code) for line, code in found}


RIGHT = """
from typing import Any, assert_type

import keras  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from numpy.typing import NDArray

import bn_tutorial
from bn_tutorial import batch_norm
from bn_tutorial.fast_batch_norm import batch_norm_forward
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, fold_batch_norm, replace_batch_norm

Array = NDArray[np.floating]


class Slow(BatchNormalization):
    def __init__(self, momentum: float = 0.999, **kwargs: Any) -> None:
        super().__init__(momentum=momentum, **kwargs)


def halves(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return tf.fill(shape, 0.5)


x, ones, zeros = np.ones((4, 2)), [1, 1], [0, 0]
layer = assert_type(BatchNormalization(1, 0.9, 1e-3, scale=False, name="bn"), BatchNormalization)
BatchNormalization(dtype=np.float32, trainable=False, autocast=False, synchronized=True)
BatchNormalization(dtype=x.dtype, beta_initializer=x[0], gamma_initializer=halves)
BatchNormalization(dtype=tf.float32, beta_initializer="ones", beta_regularizer="l2")
BatchNormalization(dtype=keras.DTypePolicy("float32"), beta_initializer=keras.initializers.Ones())
BatchNormalization(gamma_constraint={"class_name": "NonNeg", "config": {}})
Slow(center=False)(x)
y = layer(x, training=True, mask=np.array([True, True, False, True]))
layer.moving_mean.numpy(), layer.get_weights()

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), layer])
[(way, norm)] = find_batch_norms(model)
assert_type(way, str)
assert_type(list(fold_batch_norm(model).not_folded), list[str])
replace_batch_norm(model).summary
replace_batch_norm(model, lambda norm: keras.layers.GroupNormalization(1)).summary

y, of_batch = assert_type(
    bn_tutorial.batch_norm.batch_norm_forward(x, ones, zeros),
    tuple[Array, batch_norm.BatchNormCache],
)
assert_type(of_batch.mean, Array)
assert_type(batch_norm.batch_norm_backward(y, of_batch), tuple[Array, Array, Array])
assert_type(batch_norm.batch_norm_inference(x, ones, zeros, of_batch.mean, ones), Array)
assert_type(batch_norm.inference_affine(ones, zeros, zeros, ones), tuple[Array, Array])
assert_type(batch_norm.fold_weights(x, zeros, ones, zeros, zeros, ones), tuple[Array, Array])
assert_type(batch_norm_forward(x, ones, zeros), tuple[Array, Array, Array])
assert_type(bn_tutorial.activations.sigmoid(x), Array)
assert_type(bn_tutorial.activations.saturated_share(x), float)
assert_type(bn_tutorial.scaling.standardize(x), Array)
averages = bn_tutorial.moving_average.ExponentialMovingAverage(0.9)
assert_type(averages.apply({"x": x}), dict[str, Array])
assert_type(averages.num_updates, int | None)
assert_type(bn_tutorial.tf1.edges(tf.Graph()), list[bn_tutorial.tf1.Edge])
assert_type(bn_tutorial.__version__, str)
"""


def test_a_right_program_passes(tmp_path, cache):
    assert errors_in(RIGHT, tmp_path, cache) == set()


def test_the_right_program_runs():
    exec(compile(RIGHT, "program.py", "exec"), {"__name__": "program"})


WRONG = """
import numpy as np
from bn_tutorial import batch_norm, scaling
from bn_tutorial import batch_normalization  # attr-defined
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms, fold_batch_norm, replace_batch_norm

x = np.ones((4, 2))
layer = BatchNormalization(momentun=0.5)  # call-arg
BatchNormalization(axis="no")  # arg-type
BatchNormalization(momentum="0.5")  # arg-type
BatchNormalization(-1, 0.9, 1e-3, True)  # call-arg
BatchNormalization(beta_initializer=0.5)  # arg-type
BatchNormalization(gamma_regularizer=0.5)  # arg-type
BatchNormalization(renorm_clipping={"rmax": "3"})  # dict-item
BatchNormalization(trainable=None)  # arg-type
BatchNormalization(dtype=32)  # arg-type
BatchNormalization(name=1)  # arg-type
layer()  # call-arg
layer(x, True)  # call-arg
layer(x, trainig=True)  # call-arg
layer(x, training="yes")  # arg-type
layer.call(x, training="yes")  # arg-type
batch_norm.batch_norm_forward(x, 1)  # call-arg
batch_norm.batch_norm_backward(x, x)  # arg-type
batch_norm.moments(x).mean  # attr-defined
scaling.standardize(x, 0)  # call-arg
scaling.standardize(x, axis="rows")  # arg-type
fold_batch_norm(3)  # arg-type
find_batch_norms("model.keras")  # arg-type
replace_batch_norm(3)  # type-var
"""


def test_a_wrong_program_fails_where_it_is_wrong(tmp_path, cache):
    expected = {
        (number, line.split("  # ")[1])
        for number, line in enumerate(WRONG.splitlines(), 1)
        if "  # " in line
    }
    assert errors_in(WRONG, tmp_path, cache) == expected


def test_the_modules_of_the_package_are_known(tmp_path, cache):
    """Though each loads when it is first asked for."""
    names = bn_tutorial._MODULES
    right = [f"bn_tutorial.{name}.__name__" for name in names]
    wrong = [f"bn_tutorial.{name}.no_such" for name in names]
    program = "\n".join(["import bn_tutorial", *right, *wrong])
    expected = {(2 + len(names) + i, "attr-defined") for i in range(len(names))}
    assert errors_in(program, tmp_path, cache) == expected


def signature_for_type_checkers() -> dict[str, object]:
    """The arguments of the layer that a type checker sees, and their defaults."""
    [arguments] = [
        node.args
        for node in ast.walk(ast.parse(Path(batch_normalization.__file__).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    positional, defaults = arguments.args[1:], arguments.defaults
    return {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(
            positional + arguments.kwonlyargs, defaults + arguments.kw_defaults, strict=True
        )
    }


def test_a_type_checker_sees_the_arguments_of_keras():
    arguments = signature_for_type_checkers()
    of_keras = {}
    for cls in (keras.layers.BatchNormalization, keras.layers.Layer):
        of_keras |= {
            name: parameter.default
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if parameter.default is not parameter.empty
        }
    assert {"axis", "synchronized", "dtype", "name"} <= of_keras.keys()
    assert {name: arguments.get(name, "missing") for name in of_keras} == of_keras
    # Keras 3.12 does not have renorm yet.
    assert {name for name in arguments.keys() - of_keras if "renorm" not in name} == set()


def test_the_constructor_is_that_of_keras():
    """It takes what a later Keras adds."""
    for name in ("__init__", "__call__"):
        assert name not in vars(batch_normalization.BatchNormalization)


def test_the_wheel_says_that_it_is_typed(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run(
        [uv, "build", "--offline", "--wheel", "--out-dir", tmp_path, ROOT],
        capture_output=True,
        text=True,
    )
    if "not found in the cache" in done.stderr:
        pytest.skip("uv has not kept flit, which builds the wheel, and there is no network")
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert "bn_tutorial/py.typed" in zipfile.ZipFile(wheel).namelist()
