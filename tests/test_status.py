"""The status page counts what nbval compares, and says only what a run has shown."""

import importlib.util
import json
import re
import subprocess
import sys
from hashlib import sha256

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rules import ROOT, toc_files


def load(path):
    """A module of the book, by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


status = load(ROOT / "book" / "_ext" / "status.py")
NOTEBOOKS = [path for path in toc_files() if path.suffix == ".ipynb"]


def rows(runs):
    """The rows of the table, by the name of the notebook."""
    lines = [line for line in status.report(runs) if line.startswith("| {doc}")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.search(r"/book/(\w+)", name).group(1): rest for name, *rest in cells}


@pytest.fixture
def run():
    """A run of the first notebook, as book/conftest.py writes it."""
    text = NOTEBOOKS[0].read_text("utf-8")
    return {
        "seconds": 12.4,
        "passed": True,
        "cells": text.count('"cell_type": "code"'),
        "sha256": sha256(NOTEBOOKS[0].read_bytes()).hexdigest(),
        "date": "2026-01-02",
        "versions": {"Python": "3.11.9", "NumPy": "2.0.1"},
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_counts_are_those_of_the_file(path):
    figures = outputs = exempt = 0
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if "nbval-ignore-output" in cell["metadata"].get("tags", []):
            exempt += 1
        elif cell["cell_type"] == "code":
            pictures = json.dumps(cell["outputs"]).count('"image/svg+xml"')
            figures += pictures
            outputs += len(cell["outputs"]) - pictures
    assert rows({})[path.stem][:3] == [str(outputs), str(figures), str(exempt)]


def test_an_exempt_cell_counts_for_nothing_and_says_why():
    printed = new_output("stream", name="stdout", text="3 s")
    drawn = new_output("display_data", data={"image/svg+xml": "<svg/>"})
    tags = {"tags": ["nbval-ignore-output"]}
    notebook = new_notebook(
        cells=[
            new_code_cell("1", outputs=[printed, drawn]),
            new_code_cell("# Not compared: it is a clock.\n2", outputs=[printed], metadata=tags),
        ]
    )
    assert status.counts(notebook) == (1, 1, {2: "it is a clock."})


def test_without_a_run_the_page_invents_nothing():
    assert {(row[-2], row[-1]) for row in rows({}).values()} == {("", "not run")}
    text = "\n".join(status.report({}))
    assert "`make test` runs them" in text
    assert "Python" not in text


def test_a_run_is_shown_with_its_versions(run):
    runs = {"book/index.ipynb": run}
    assert rows(runs)["index"][-2:] == ["12", "passed"]
    [line] = [line for line in status.report(runs) if "Python" in line]
    assert line == "- {doc}`/book/index`: with Python 3.11.9, NumPy 2.0.1, on 2026-01-02."


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"passed": False}, ["12", "**failed**"]),
        ({"sha256": "0"}, ["", "changed since"]),
        ({"cells": 0}, ["", "not run"]),
    ],
)
def test_a_run_that_does_not_count_is_not_shown_as_passed(run, change, shown):
    assert rows({"book/index.ipynb": run | change})["index"][-2:] == shown


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_of_a_notebook_is_kept(tmp_path, workers):
    """The hook writes what it saw, with pytest-xdist and without."""
    book = tmp_path / "book"
    book.mkdir()
    (book / "conftest.py").write_bytes((ROOT / "book" / "conftest.py").read_bytes())
    cells = [
        new_code_cell("import time; time.sleep(0.5)", execution_count=1),
        new_code_cell("1 + 1", execution_count=2, outputs=[]),
    ]
    good = new_notebook(cells=cells[:1])
    bad = new_notebook(cells=cells)
    bad.cells[1].outputs = [
        new_output("execute_result", data={"text/plain": "3"}, execution_count=2)
    ]
    for name, notebook in ("good", good), ("bad", bad):
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        (book / f"{name}.ipynb").write_text(json.dumps(notebook), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")]
    command += ["--rootdir", ".", "-p", "no:cacheprovider", f"-n{workers}", "book"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "1 failed, 2 passed" in result.stdout, result.stdout + result.stderr

    runs = json.loads((tmp_path / "_build" / "runs.json").read_text("utf-8"))
    assert {name: (run["passed"], run["cells"]) for name, run in runs.items()} == {
        "book/good.ipynb": (True, 1),
        "book/bad.ipynb": (False, 2),
    }
    assert all(0.5 < run["seconds"] < 300 for run in runs.values())
    assert runs["book/good.ipynb"]["versions"]["Python"] == sys.version.split()[0]
