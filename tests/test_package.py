"""What an import costs, and what the package says about itself."""

import ast
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

import bn_tutorial
from bn_tutorial.book.notebook import quiet_tensorflow
from tools.rules import ROOT

MODULES = sorted(
    module.name.removeprefix("bn_tutorial.")
    for module in pkgutil.walk_packages(bn_tutorial.__path__, "bn_tutorial.")
    if "._" not in module.name
)
ROOMS = [name for name in MODULES if "." not in name]
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
        "from bn_tutorial import activations, batch_norm, migration, moving_average, scaling\n"
        "batch_norm.moments([[1.0], [2.0]])"
    )
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_a_module_loads_when_it_is_asked_for():
    loaded = imported_by("import bn_tutorial; bn_tutorial.scaling.standardize([1.0, 2.0])")
    assert "numpy" in loaded
    loaded = imported_by("from bn_tutorial.book import data; dir(data)")
    assert loaded & HEAVY == {"sklearn", "scipy"}
    # IPython comes with the notebooks, and is no dependency of the package.
    assert imported_by("from bn_tutorial.book import graph_drawing") & HEAVY == {"matplotlib"}


def test_dir_lists_every_module():
    assert set(ROOMS) <= set(dir(bn_tutorial))
    for name in ROOMS:
        assert getattr(bn_tutorial, name) is importlib.import_module(f"bn_tutorial.{name}")
        assert f"``{name}``" in bn_tutorial.__doc__


def test_an_unknown_attribute_raises():
    with pytest.raises(AttributeError, match="module 'bn_tutorial' has no attribute 'layer'"):
        _ = bn_tutorial.layer


def public():
    for module_name in MODULES:
        module = importlib.import_module(f"bn_tutorial.{module_name}")
        yield module_name, module
        for name in getattr(module, "__all__", []):
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
        assert defined <= set(getattr(module, "__all__", [])), name


# Who may import whom: arrows run downward only.
REFERENCE = {"activations", "batch_norm", "fast_batch_norm", "moving_average", "scaling"}
MAY_IMPORT = {
    "_checks": {"numpy"},
    **{name: {"numpy", "_checks", *REFERENCE} for name in REFERENCE},
    "tf1": {"tensorflow", "_checks"},
    "layers": {"tensorflow", "keras", "layers"},
    "migration": {"tensorflow", "numpy", "_checks"},  # TensorFlow where a checkpoint is opened
    "models": {"tensorflow", "keras", "numpy", "_checks", *REFERENCE, "layers", "models"},
    "doctor": {*HEAVY, "keras", "numpy", "_checks", "layers", "models", "doctor"},
    "book": {*HEAVY, "numpy", "altair", "matplotlib_inline", "vl_convert", *REFERENCE, "book"},
}


def imports_of(path):
    """The rooms of this package, and the other packages, that a module imports."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("bn_tutorial.").partition(".")[0] for name in names)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bn_tutorial").rglob("*.py")), ids=lambda path: path.stem
)
def test_arrows_run_downward_only(path):
    room = path.relative_to(ROOT / "bn_tutorial").with_suffix("").parts[0]
    if room != "__init__":
        assert set(imports_of(path)) - (sys.stdlib_module_names - {"importlib"}) <= MAY_IMPORT[room]


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
        "import os, sys\n"
        "from bn_tutorial.book.notebook import quiet_tensorflow\n"
        "quiet_tensorflow()\n"
        "assert 'tensorflow' in sys.modules\n"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])\n"
        "print('still heard', file=sys.stderr)"
    )
    assert (done.stdout, done.stderr) == ("0\n", "still heard\n")


def test_a_chosen_onednn_setting_is_kept(monkeypatch):
    tensorflow = types.SimpleNamespace(get_logger=lambda: logging.getLogger("tests"))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    quiet_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert logging.getLogger("tests").level == logging.ERROR
