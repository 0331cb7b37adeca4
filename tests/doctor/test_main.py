"""The command line."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from bn_tutorial.doctor.__main__ import main
from bn_tutorial.layers import BatchNormalization

# Keras's own, where it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

L = keras.layers
X = np.random.default_rng(0).normal(2, 3, (64, 3)).astype("float32")
SICK = ("not-finite", "error")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Models that are well and sick, and data."""
    folder = tmp_path_factory.mktemp("files")
    for cls in (L.BatchNormalization, BatchNormalization):
        norm = cls(name="norm")
        model = keras.Sequential([keras.Input((3,)), norm])
        norm.moving_mean.assign(X.mean(0))
        norm.moving_variance.assign(X.var(0))
        model.save(folder / f"well_{cls.__module__.split('.')[0]}.keras")
        norm.gamma.assign([1, np.nan, 1])
        model.save(folder / f"sick_{cls.__module__.split('.')[0]}.keras")
    np.savez(folder / "x.npz", x=X)
    np.savez(folder / "all.npz", x=X, y=X[:, :1], sample_weight=np.ones(64))
    np.savez(folder / "shifted.npz", x=X, x_validation=X + 20)
    np.savez(folder / "narrow.npz", x=X[:, :2])
    np.savez(folder / "short.npz", x=X, y=X[1:])
    np.savez(folder / "no_x.npz", y=X)
    np.savez(folder / "unknown.npz", x=X, z=X)
    np.savez(folder / "objects.npz", x=np.array([{}], dtype=object))
    np.save(folder / "x.npy", X)
    whole = (folder / "x.npz").read_bytes()
    (folder / "half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "text.keras", "text.h5", "text.txt"):
        (folder / name).write_text("no such thing")
    with zipfile.ZipFile(folder / "zip.keras", "w") as file:
        file.writestr("hello.txt", "hello")
    (folder / "folder.keras").mkdir()
    return folder


def run(files, capsys, model, data, *options):
    """Return the exit status, and what was printed to both streams."""
    try:
        status = main([str(files / model), str(files / data), *options])
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize("layer", ["keras", "bn_tutorial"])
@pytest.mark.parametrize("data", ["x.npz", "all.npz"])
def test_status(files, capsys, layer, data):
    status, out, err = run(files, capsys, f"well_{layer}.keras", data)
    assert (status, err) == (0, "")
    assert out == "nothing found: 1 batch normalization, 2 batches, 64 examples\n"
    status, out, err = run(files, capsys, f"sick_{layer}.keras", data)
    assert (status, err) == (1, "")
    assert "error    not-finite" in out


def test_json(files, capsys):
    status, out, _ = run(files, capsys, "sick_keras.keras", "x.npz", "--json")
    whole = json.loads(out)
    assert status == 1
    assert SICK in {(finding["code"], finding["severity"]) for finding in whole["findings"]}
    assert (whole["steps"], whole["examples"]) == (2, 64)


def test_batches(files, capsys):
    options = ("--json", "--batch-size", "10", "--steps", "3")
    _, out, _ = run(files, capsys, "well_keras.keras", "x.npz", *options)
    whole = json.loads(out)
    assert (whole["steps"], whole["examples"]) == (3, 30)


def test_validation(files, capsys):
    status, out, _ = run(files, capsys, "well_keras.keras", "shifted.npz")
    assert "data-shift" in out
    assert status == 0  # a warning


DATA = {
    "missing.npz": "missing.npz",
    "no_x.npz": "has y; x is needed, of sample_weight, sample_weight_validation, x, x_validation",
    "unknown.npz": "has x, z; x is needed, of",
    "text.npz": "text.npz is not an .npz file",
    "half.npz": "half.npz is not an .npz file",
    "objects.npz": "objects.npz is not an .npz file",
    "x.npy": "x.npy is not an .npz file",
    "narrow.npz": r"do not fit the model: {'x': (64, 2)",
    "short.npz": r"'y': (63, 3)",
}


@pytest.mark.parametrize("data", DATA)
def test_bad_data(files, capsys, data):
    status, out, err = run(files, capsys, "well_keras.keras", data)
    assert (status, out) == (2, "")
    assert DATA[data] in err


def test_the_shape_that_would_fit_is_said(files, capsys):
    assert "model input (None, 3)" in run(files, capsys, "well_keras.keras", "narrow.npz")[2]


@pytest.mark.parametrize(
    "model",
    ["missing.keras", "text.keras", "text.h5", "text.txt", "zip.keras", "folder.keras", "x.npz"],
)
def test_no_model(files, capsys, model):
    status, out, err = run(files, capsys, model, "x.npz")
    assert (status, out) == (2, "")
    said = "there is no" if model == "missing.keras" else f"{model} is no model that Keras can load"
    assert said in err


@pytest.mark.parametrize("option", ["--steps", "--batch-size"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "few", ""])
def test_bad_numbers(files, capsys, option, value):
    status, out, err = run(files, capsys, "well_keras.keras", "x.npz", f"{option}={value}")
    assert (status, out) == (2, "")
    assert f"argument {option}: it must be a positive integer, got {value!r}" in err
    assert "do not fit" not in err


def test_an_unknown_option(files, capsys):
    status, out, err = run(files, capsys, "well_keras.keras", "x.npz", "--what")
    assert (status, out) == (2, "")
    assert "--what" in err


def test_as_a_program(files):
    done = subprocess.run(
        [sys.executable, "-m", "bn_tutorial.doctor", files / "sick_keras.keras", files / "x.npz"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 1
    assert "not-finite" in done.stdout
