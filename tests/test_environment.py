"""Dependencies are declared in pyproject.toml: what is imported, the lock, and all that names the
supported Pythons are held to it.
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import playwright
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.matrix import ROWS
from tools.rules import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
DECLARED = [
    requirement
    for line in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    if (requirement := Requirement(line)).name != PROJECT["name"]
]


def pinned():
    """The versions of each package that the lock allows."""
    versions = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), []).append(version)
    return versions


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_the_lock_pins_what_is_declared(requirement):
    versions = pinned()[canonicalize_name(requirement.name)]
    assert versions
    assert all(version in requirement.specifier for version in versions)


def test_the_lock_has_a_hash_for_every_package_and_names_no_host():
    entries = re.split(r"\n(?=[\w.-]+==)", LOCK)[1:]
    assert len(entries) > len(DECLARED)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links", LOCK)


def test_a_dependency_is_declared_once():
    names = [canonicalize_name(requirement.name) for requirement in DECLARED]
    assert sorted(names) == sorted(set(names))


def test_the_conda_environment_is_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    _, pip, from_pip = environment["dependencies"]
    assert pip == "pip"
    assert from_pip == {"pip": ["--requirement requirements.txt"]}


# What is imported

DISTRIBUTIONS = packages_distributions()


def names_of(requirements):
    """The distributions that these requirements name."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def closure_of(requirements):
    """The distributions that an installation of these requirements brings."""
    found, todo = set(), [*requirements]
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found.add(name)
            todo += requires(name) or []
    return found


def imported_by(path):
    """The distributions that a module imports, wherever in its code."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    return {
        canonicalize_name(name)
        for module in modules - sys.stdlib_module_names
        for name in DISTRIBUTIONS[module]
    }


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bn_tutorial").rglob("*.py")), ids=lambda path: path.stem
)
def test_what_a_module_imports_is_declared(path):
    declared = names_of(PROJECT["dependencies"])
    imported = imported_by(path)
    drawing = {"doctor/_plot.py", "doctor/report.py"}  # which load it when a figure is asked for
    within = path.relative_to(ROOT / "bn_tutorial")
    if "book" in within.parts or within.as_posix() in drawing:  # which need the extra
        declared |= names_of(PROJECT["optional-dependencies"]["figures"])
    assert imported <= declared


def test_the_package_runs_with_its_own_requirements_alone():
    """What an installation without extras would not bring cannot be imported here."""
    installed = closure_of(PROJECT["dependencies"]) | {PROJECT["name"]}
    absent = {
        module
        for module, names in DISTRIBUTIONS.items()
        if installed.isdisjoint(map(canonicalize_name, names))
    }
    assert {"matplotlib", "sklearn", "IPython", "altair", "pytest"} <= absent
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(absent)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import bn_tutorial
for name in bn_tutorial._MODULES:
    getattr(bn_tutorial, name)

import importlib
import keras
import numpy as np
from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import fold_batch_norm

x = np.float32([[1], [2], [6]])
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), BatchNormalization()])
model.compile("sgd", "mse")
model.fit(x, x @ [[1, 2]], verbose=0)
np.testing.assert_allclose(fold_batch_norm(model)(x), model(x), rtol=1e-4, atol=1e-5)
for name in ("data", "interactive", "style"):
    try:
        importlib.import_module(f"bn_tutorial.book.{{name}}")
    except ModuleNotFoundError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"No module named {name!r}" for name in ("sklearn", "altair", "matplotlib")
    ]


def test_the_node_that_draws_equations_runs_on_a_bare_machine():
    if not shutil.which("ldd"):
        pytest.skip("there is no ldd here to ask which libraries a program needs")
    node = Path(playwright.__file__).parent / "driver" / "node"
    needed = subprocess.run(["ldd", node], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"\blib(\w[\w+]*)\.so", needed))
    assert {"c"} <= libraries <= {"c", "m", "dl", "pthread", "rt", "stdc++", "gcc_s"}


# The supported Pythons

PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
OLDEST, NEWEST = (
    [int(part) for part in version.split(".")] for version in PYTHONS[:: len(PYTHONS) - 1]
)


def test_the_supported_pythons_are_the_same_everywhere():
    def text(name):
        return (ROOT / name).read_text(encoding="utf-8")

    *others, last = PYTHONS
    assert f"Python {', '.join(others)} or {last}" in text("README.md")
    assert f"Python {'、'.join(others)} 或 {last}" in text("README.zh-CN.md")
    below = f"{NEWEST[0]}.{NEWEST[1] + 1}"
    assert f"- python>={PYTHONS[0]},<{below}\n" in text("environment.yml")
    makefile = text("Makefile")
    assert f"({OLDEST[0]}, {OLDEST[1]}) <= v <= ({NEWEST[0]}, {NEWEST[1]})" in makefile
    assert f"Python {PYTHONS[0]} to {last} is needed" in makefile
    assert f"--python-version {PYTHONS[0]} " in makefile
    assert PROJECT["requires-python"].startswith(f">={PYTHONS[0]},")


def test_every_supported_python_is_in_the_matrix_with_the_locked_versions():
    assert [row.python for row in ROWS if row.is_locked and not row.onednn] == PYTHONS


def test_the_workflow_runs_every_python_and_every_row():
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(workflow)["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert jobs["matrix"]["strategy"]["matrix"]["row"] == list(range(1, len(ROWS) + 1))
