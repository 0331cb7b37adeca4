"""Dependencies are declared in pyproject.toml; the lock and environment.yml are held to it."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rules import ROOT

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
    python, pip, from_pip = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    assert from_pip == {"pip": ["--requirement requirements.txt"]}
