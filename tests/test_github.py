"""What is said to GitHub is true of the project: its workflows, and the form for an output that
differs.
"""

import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from tools.matrix import NEWEST, TESTS, TESTS_ALONE
from tools.rules import ROOT, read, toc_files

GITHUB = ROOT / ".github"
FILES = sorted(path for path in GITHUB.rglob("*") if path.is_file())
WORKFLOWS = [path for path in FILES if path.parent.name == "workflows"]
VERBS = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def load(path):
    return yaml.safe_load((GITHUB / path).read_text(encoding="utf-8"))


def commands(steps):
    """What the steps of a job run, a word at a time."""
    return [shlex.split(step["run"], comments=True) for step in steps if "run" in step]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_can_be_read(path):
    assert path.suffix == ".yml"
    assert isinstance(load(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_makes_is_a_verb(path):
    made = [
        words[1]
        for job in load(path)["jobs"].values()
        for words in commands(job["steps"])
        if words[0] == "make"
    ]
    assert made
    assert set(made) <= set(VERBS)


def test_each_week_the_newest_releases_and_the_links_are_tried():
    jobs = load("workflows/weekly.yml")["jobs"]
    newest = jobs["newest"]["steps"]
    assert ["make", "matrix", "ROWS=newest"] in commands(newest)
    [python] = [step["with"] for step in newest if "setup-python" in step.get("uses", "")]
    assert python["python-version"] == NEWEST.python
    assert ["make", "links"] in commands(jobs["links"]["steps"])


def test_other_systems_run_tests_of_the_package():
    [run] = [
        words[3:]
        for words in commands(load("workflows/book.yml")["jobs"]["package"]["steps"])
        if words[:3] == ["python", "-m", "pytest"]
    ]
    assert all((ROOT / name).exists() for name in run)
    tests = {test for test in TESTS if any(test == name or f"{name}/" in test for name in run)}
    assert set(TESTS_ALONE) <= tests


# The form for an output that differs


def fields():
    """The fields of the form by their names."""
    body = load("ISSUE_TEMPLATE/output-differs.yml")["body"]
    return {field["id"]: field["attributes"] for field in body if "id" in field}


def title_of(path):
    """The title of a chapter."""
    return re.search(r"^# (.+)$", read(path).cells[0].source, re.MULTILINE)[1]


def test_the_form_names_every_chapter_in_order():
    chapters = [title_of(path) for path in toc_files() if path.suffix == ".ipynb"]
    assert fields()["chapter"]["options"] == chapters


def test_the_command_of_the_form_prints_the_versions():
    command = re.search(r"^python -c .*$", fields()["versions"]["description"], re.MULTILINE)[0]
    _, *arguments = shlex.split(command)
    printed = subprocess.check_output([sys.executable, *arguments], text=True)
    assert printed.count("\n") == 1
    assert printed.startswith(f"Python {platform.python_version()}, ")
    for name in ("tensorflow", "keras", "numpy"):
        assert f", {name} {version(name)}, " in printed


def test_what_the_form_quotes_is_there():
    assert "It prints something else here" in (ROOT / "book" / "status.md").read_text("utf-8")
