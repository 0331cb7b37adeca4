"""What an import costs, and what the package says about itself."""

import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
import types

import pytest
from rules import ROOT

import bn_tutorial

MODULES = sorted(
    module.name for module in pkgutil.iter_modules(bn_tutorial.__path__) if module.name[0] != "_"
)
HEAVY = {"tensorflow", "keras", "matplotlib", "sklearn", "scipy", "IPython"}


def in_a_fresh_process(program):
    environment = {name: value for name, value in os.environ.items() if name[:3] != "TF_"}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )


def imported_by(statement):
    """The top-level packages that are loaded after ``statement`` in a fresh process."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    return {name.split(".")[0] for name in json.loads(in_a_fresh_process(program).stdout)}


def test_importing_the_package_loads_nothing_heavy():
    loaded = imported_by("import bn_tutorial")
    assert "bn_tutorial" in loaded
    assert not loaded & {*HEAVY, "numpy"}


def test_the_numpy_modules_load_nothing_heavier_than_numpy():
    loaded = imported_by(
        "from bn_tutorial import activations, batch_norm, moving_average, scaling\n"
        "batch_norm.moments([[1.0], [2.0]])"
    )
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_a_module_loads_when_it_is_asked_for():
    loaded = imported_by("import bn_tutorial; bn_tutorial.scaling.standardize([1.0, 2.0])")
    assert "numpy" in loaded
    loaded = imported_by("import bn_tutorial; bn_tutorial.data.wine; dir(bn_tutorial)")
    assert loaded & HEAVY == {"sklearn", "scipy"}
    # IPython comes with the notebooks, and is no dependency of the package.
    assert imported_by("import bn_tutorial; bn_tutorial.plots.draw_graph") & HEAVY == {"matplotlib"}


def test_dir_lists_every_module():
    assert set(MODULES) <= set(dir(bn_tutorial))
    for name in MODULES:
        assert getattr(bn_tutorial, name) is importlib.import_module(f"bn_tutorial.{name}")
        assert f"``{name}``" in bn_tutorial.__doc__


def test_an_unknown_attribute_raises():
    with pytest.raises(AttributeError, match="module 'bn_tutorial' has no attribute 'layer'"):
        _ = bn_tutorial.layer


def public():
    for module_name in MODULES:
        module = importlib.import_module(f"bn_tutorial.{module_name}")
        yield module_name, module
        for name in module.__all__:
            yield f"{module_name}.{name}", getattr(module, name)


def test_everything_public_is_documented_and_typed():
    for name, thing in public():
        if isinstance(thing, str):  # a colour
            continue
        assert inspect.getdoc(thing), f"{name} has no docstring"
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for function in [thing, *(value for key, value in members if key[0] != "_")]:
            if inspect.isfunction(function):
                assert inspect.getdoc(function), f"{name}: {function} has no docstring"
                unannotated = [
                    parameter
                    for parameter in inspect.signature(function).parameters.values()
                    if parameter.annotation is parameter.empty and parameter.name != "self"
                ]
                assert not unannotated, name
    assert (ROOT / "bn_tutorial" / "py.typed").is_file()


def test_all_is_what_a_module_defines():
    for name in MODULES:
        module = importlib.import_module(f"bn_tutorial.{name}")
        defined = {
            key
            for key, value in vars(module).items()
            if key[0] != "_" and getattr(value, "__module__", None) == module.__name__
        }
        assert defined <= set(module.__all__), name


def test_the_version_is_the_projects():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"$', project, re.MULTILINE)[1] == bn_tutorial.__version__


def test_the_installed_package_says_what_it_is():
    metadata = importlib.metadata.metadata("bn_tutorial")
    assert metadata["Version"] == bn_tutorial.__version__
    assert metadata["License-Expression"] == "MIT"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    requirements = metadata.get_all("Requires-Dist")
    required = [each for each in requirements if "extra ==" not in each]
    assert {re.match(r"[\w-]+", each)[0] for each in required} == {"keras", "numpy", "tensorflow"}
    assert {"figures", "book", "test"} <= {*metadata.get_all("Provides-Extra")}


def test_tensorflow_starts_without_a_word():
    done = in_a_fresh_process(
        "import bn_tutorial.notebook, os, sys\n"
        "bn_tutorial.notebook.quiet_tensorflow()\n"
        "assert 'tensorflow' in sys.modules\n"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])\n"
        "print('still heard', file=sys.stderr)"
    )
    assert (done.stdout, done.stderr) == ("0\n", "still heard\n")


def test_a_chosen_onednn_setting_is_kept(monkeypatch):
    tensorflow = types.SimpleNamespace(get_logger=lambda: logging.getLogger("tests"))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    bn_tutorial.notebook.quiet_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert logging.getLogger("tests").level == logging.ERROR
