"""The status page counts what nbval compares, and says only what a run has shown."""

import json
import re
import subprocess
import sys
from datetime import date

import pytest
from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_environment import pinned

from publish.ext import reading, status
from tools import matrix
from tools.rules import ROOT, code_cells, is_exempt, read, toc_files
from tools.runs import MATRIX, RECORD, digest

NOTEBOOKS = [path for path in toc_files() if path.suffix == ".ipynb"]
KEPT = json.loads((ROOT / RECORD).read_text("utf-8"))
KEPT_MATRIX = json.loads((ROOT / MATRIX).read_text("utf-8"))
ROWS = KEPT_MATRIX["rows"]


def rows(*records):
    """The rows of the table, by the name of the notebook."""
    lines = [line for line in status.report(*records) if line.startswith("| {doc}")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.search(r"/book/(\w+)", name).group(1): rest for name, *rest in cells}


@pytest.fixture
def run():
    """A run of the first notebook, as the recorder writes it."""
    notebook = read(NOTEBOOKS[0])
    return {
        "seconds": 12.4,
        "passed": True,
        "cells": len(code_cells(notebook)),
        "digest": digest(notebook),
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


def test_a_run_is_shown_with_its_versions(run):
    runs = {"book/index.ipynb": run}
    assert rows(runs)["index"][-2:] == ["12", "passed"]
    [line] = [line for line in status.report(runs) if "Python" in line]
    assert line == "- {doc}`/book/index`: with Python 3.11.9, NumPy 2.0.1, on 2 January 2026."


def test_a_chapter_tells_only_what_its_last_run_has_shown(run):
    run["versions"] |= {"TensorFlow": "2.1.0", "Keras": "3.9.1"}
    shown = "Last verified on 2 January 2026, with TensorFlow 2.1.0, Keras 3.9.1, NumPy 2.0.1"
    assert status.last_verified(run) == shown
    for other in (run | {"passed": False}, None):
        assert "verified" not in status.last_verified(other)


def test_the_time_to_read_is_that_of_what_is_read():
    """400 words, 650 Chinese characters, 30 lines, 12 formulas and 4 figures take 2 minutes each,
    but for the lines, which take one; exercises take none."""
    page = nodes.section(
        "",
        nodes.paragraph("", "one two's thr_ee 4.5 " * 100),
        nodes.paragraph("", "批" * 650),
        nodes.literal_block("", "x = 1\n" * 30),
        *(nodes.math_block() for _ in range(12)),
        *(nodes.figure() for _ in range(4)),
        nodes.section("", nodes.paragraph("", "one " * 400), ids=["exercises"]),
    )
    assert reading.minutes(page) == pytest.approx((4, 5))
    assert reading.reading_time(page) == "About 9 min, of which 5 for code, formulas and figures"
    page += nodes.citation()
    assert reading.reading_time(page) == ""


FAILED, OTHER_CELLS, INCOMPLETE = {"passed": False}, {"digest": "0"}, {"cells": 0}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ([FAILED], ["12", "**failed**"]),
        ([OTHER_CELLS], ["", "changed since"]),
        ([INCOMPLETE], ["", "changed since"]),
        ([FAILED, {}], ["12", "**failed**"]),
        ([OTHER_CELLS, {"seconds": 7}], ["7", "passed"]),
        ([INCOMPLETE, FAILED], ["12", "**failed**"]),
        ([INCOMPLETE | FAILED, {}], ["12", "**failed**"]),
        ([], ["", "changed since"]),
    ],
)
def test_the_first_run_that_counts_is_shown(run, changes, shown):
    records = [{"book/index.ipynb": run | change} for change in changes]
    assert rows(*records)["index"][-2:] == shown


def test_the_digest_changes_with_what_is_run_and_compared_and_not_with_words():
    def notebook(text="Words.", source="1 + 1", shown="2", tags=()):
        output = new_output("execute_result", data={"text/plain": shown}, execution_count=1)
        code = new_code_cell(
            source, execution_count=1, outputs=[output], metadata={"tags": [*tags]}
        )
        return digest(new_notebook(cells=[new_markdown_cell(text), code]))

    assert notebook(text="Other words.") == notebook()
    others = [dict(source="2"), dict(shown="3"), dict(tags=["nbval-ignore-output"])]
    assert len({notebook(), *(notebook(**other) for other in others)}) == 4


# What is kept with the sources


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_kept_run_is_of_the_notebook_as_it_is(path):
    name = path.relative_to(ROOT).as_posix()
    again = f"`make refresh NOTEBOOKS={name}` keeps a new run"
    assert name in KEPT, again
    run = KEPT[name]
    assert run["digest"] == digest(read(path)), again
    assert (run["passed"], run["cells"]) == (True, len(code_cells(read(path))))
    locked = {name: version for name, version in run["versions"].items() if name != "Python"}
    assert {"TensorFlow", "Keras", "NumPy"} <= locked.keys()
    assert locked == {name: pinned()[name.lower()][0] for name in locked}, again
    assert date.fromisoformat(run["date"]) <= date.today()


def test_the_kept_runs_are_of_notebooks_that_exist():
    assert KEPT.keys() == {path.relative_to(ROOT).as_posix() for path in NOTEBOOKS}


def test_a_fresh_build_has_a_run_to_show():
    assert {row[-1] for row in rows(KEPT).values()} == {"passed"}
    text = "\n".join(status.report(KEPT))
    assert f"Keras {pinned()['keras'][0]}" in text


def test_the_matrix_has_every_row_and_each_holds_or_was_not_run():
    assert [row["row"] for row in ROWS] == [str(row) for row in matrix.ROWS]
    assert [row["row"] for row in ROWS if not row["holds"]] == [
        row["row"] for row in ROWS if row["tests"].startswith("not run: no such Python")
    ]
    ran = {row["python"].rpartition(".")[0] for row in ROWS if row["holds"]}
    assert {row.python for row in matrix.ROWS if row.is_locked} <= ran


def test_the_matrix_ran_with_the_locked_versions():
    for row, kept in zip(matrix.ROWS, ROWS, strict=True):
        if row.is_locked:
            locked = {name: pinned()[name.lower()][0] for name in matrix.PACKAGES}
            assert {**locked, **kept["versions"]} == kept["versions"], "`make matrix` after a lock"


def test_what_may_differ_are_cells_that_there_are_and_all_are_shown():
    cells = {cell.id for path in NOTEBOOKS for cell in code_cells(read(path))}
    assert {cell for difference in matrix.DIFFERENCES for cell in difference.cells} <= cells
    differences = [str(difference) for difference in matrix.DIFFERENCES]
    assert KEPT_MATRIX["differences"] == differences
    lines = "\n".join(status.holds_on(KEPT_MATRIX))
    assert all(text in lines for text in differences)
    assert all(row["tests"] in lines for row in ROWS)


@pytest.mark.parametrize(
    ("versions", "may"),
    [({"NumPy": "2.3.5"}, True), ({"NumPy": "2.4.0"}, False), ({"NumPy": "2.10.1"}, False)],
)
def test_a_cell_may_differ_only_below_a_version(monkeypatch, versions, may):
    path = NOTEBOOKS[1]
    cell = code_cells(read(path))[2]
    difference = matrix.Difference((cell.id,), "NumPy<2.4", "it is another")
    monkeypatch.setattr(matrix, "DIFFERENCES", [difference])
    assert matrix.may_differ(f"book/{path.stem}.ipynb::Cell 2", versions) is may
    assert not matrix.may_differ(f"book/{path.stem}.ipynb::Cell 3", versions)
    assert not matrix.may_differ("tests.test_x::test_y", versions)


def test_the_matrix_counts_what_a_report_says(tmp_path, monkeypatch):
    path = NOTEBOOKS[1]
    cell = code_cells(read(path))[2]
    monkeypatch.setattr(matrix, "DIFFERENCES", [matrix.Difference((cell.id,), "NumPy<2.4", "")])
    report = tmp_path / "report.xml"
    outcomes = ["", "<failure/>", "<error/>", "<skipped/>"]
    names = [
        ("tests.test_x", "test_y"),
        *((f"book.{path.stem}.ipynb", f"Cell {n}") for n in (2, 3)),
    ]
    cases = [
        f'<testcase classname="{place}" name="{name}">{outcome}</testcase>'
        for place, name in names
        for outcome in outcomes
    ]
    report.write_text(f"<testsuites>{''.join(cases)}</testsuites>", "utf-8")
    assert matrix.outcomes(report, {"NumPy": "2.3.0"}) == {
        "tests": {"passed": 1, "failed": 2, "skipped": 1},
        "cells": {"passed": 2, "differ": 2, "failed": 2, "skipped": 2},
    }


def test_the_front_pages_say_how_many_cells_are_exempt():
    cells = [cell for path in NOTEBOOKS for cell in code_cells(read(path))]
    number = sum(map(is_exempt, cells))
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    chinese = f"只有{'零一两三四五六七八九十'[number]}个，五个测时间"
    assert chinese in (ROOT / "README.zh-CN.md").read_text("utf-8")
    for name in ("README.md", "book/index.ipynb"):
        text = re.sub(r"\s+", " ", (ROOT / name).read_text("utf-8"))
        assert f"{words[number]} cells, five that measure time" in text, name


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_of_a_notebook_is_kept(tmp_path, workers):
    """The hook writes what it saw, with pytest-xdist and without."""
    book = tmp_path / "book"
    book.mkdir()
    (tmp_path / "conftest.py").write_bytes((ROOT / "conftest.py").read_bytes())
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
    command += ["--record"] * (workers == "0")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "1 failed, 2 passed" in result.stdout, result.stdout + result.stderr

    runs = json.loads((tmp_path / "_build" / "runs.json").read_text("utf-8"))
    assert {name: (run["passed"], run["cells"]) for name, run in runs.items()} == {
        "book/good.ipynb": (True, 1),
        "book/bad.ipynb": (False, 2),
    }
    assert all(0.5 < run["seconds"] < 300 for run in runs.values())
    good = runs["book/good.ipynb"]
    assert good["versions"]["Python"] == sys.version.split()[0]
    assert good["digest"] == digest(read(book / "good.ipynb"))
    kept = tmp_path / RECORD
    assert kept.exists() == (workers == "0")
    if kept.exists():
        assert json.loads(kept.read_text("utf-8")) == runs
