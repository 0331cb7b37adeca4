"""The checks are checked: each rule, and nbval itself, catches what it is there to catch."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import rules
from tools.rules import OFFLINE, ROOT

SVG = '<svg><path d="M 1 2"/></svg>'
FIGURE = {
    "mystnb": {
        "image": {"alt": "A straight line that rises from the lower left corner upwards."},
        "figure": {"caption": "A line.", "name": "fig-line"},
    }
}


def cell(source="1 + 1", count=1, outputs=(), **metadata):
    return new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()})


def figure(svg=SVG):
    return new_output("display_data", data={"image/svg+xml": svg})


EXERCISE = "```{{exercise}} One\n:label: ex-one\nAdd.\n{}\n```"


def clean_notebook():
    return new_notebook(
        cells=[
            new_markdown_cell(
                "The run prints 1.25, which is 1.3 rounded; 0.5 makes {numref}`fig-line`."
            ),
            cell("rate = 0.5", 1, [printed("1.25\n")]),
            cell("plot()", 2, [figure()], **FIGURE),
            cell(
                "# Not compared: the time differs between machines.\n"
                "def clock():\n    return time.perf_counter()\n\nseconds = clock()",
                3,
                [printed("17 s")],
                tags=["nbval-ignore-output"],
            ),
            cell("verdict()", 4, [printed("fast: True")]),
            new_markdown_cell(
                "```{exercise} One\n:label: ex-one\nAdd.\n{ref}`ex-one-solution`\n```"
            ),
            new_markdown_cell("```{solution-start} ex-one\n:label: ex-one-solution\n```"),
            cell("1 + 1", 5, jupyter={"source_hidden": True, "outputs_hidden": True}),
            new_markdown_cell(
                "% The answer in words\n\nSo it is two.",
                metadata={"jupyter": {"source_hidden": True}},
            ),
            new_markdown_cell("```{solution-end}\n```"),
        ]
    )


def spoilt(change):
    notebook = clean_notebook()
    change(notebook.cells)
    return notebook


def set_to(index, **values):
    return lambda cells: cells[index].update(values)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_clean_notebook_passes(rule):
    assert list(rule(clean_notebook())) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (rules.ran_in_order, set_to(1, execution_count=None)),
        (rules.ran_in_order, set_to(1, execution_count=2)),
        (rules.prints_in_one_piece, set_to(1, outputs=[printed("1.2"), printed("5\n")])),
        (rules.ran_cleanly, set_to(1, outputs=[printed("1.25\n", "stderr")])),
        (rules.ran_cleanly, set_to(1, source="rate = 0.5\n#NBVAL_SKIP")),
        (rules.ran_cleanly, set_to(1, source="# PYTEST_VALIDATE_IGNORE_OUTPUT\nrate = 0.5")),
        (rules.ran_cleanly, set_to(1, outputs=[new_output("error", ename="ValueError")])),
        (rules.ran_cleanly, set_to(1, metadata={"tags": ["raises-exception"]})),
        (rules.names_no_machine, set_to(1, outputs=[printed("/home/ada/x.py")])),
        (rules.names_no_machine, set_to(1, outputs=[printed("<X at 0x7f00aa11bb22>")])),
        (rules.figures_compare, set_to(2, outputs=[shown(image_png="iVBOR")])),
        (rules.figures_compare, set_to(2, outputs=[figure("<svg><dc:date>now</dc:date></svg>")])),
        (rules.figures_speak, set_to(2, metadata={})),
        (rules.figures_speak, lambda cells: cells[2].metadata.mystnb.image.update(alt="Figure 3.")),
        (rules.figures_are_pointed_to, set_to(0, source="The run prints 1.25.")),
        (rules.exemptions_conclude, set_to(4, outputs=[])),
        (rules.exemptions_conclude, set_to(4, metadata={"tags": ["nbval-skip"]})),
        (
            rules.exemptions_conclude,
            lambda cells: cells.insert(4, new_markdown_cell("Elsewhere.\n\n## Another matter")),
        ),
        (rules.exemptions_say_why, set_to(3, source="clock()")),
        (rules.exemptions_say_why, set_to(3, source="# Not compared: slow\nclock()")),
        (rules.clocks_are_exempt, set_to(4, source="print(clock() < 20)")),
        (
            rules.clocks_are_exempt,
            set_to(4, source="from time import monotonic; print(monotonic())"),
        ),
        (rules.clocks_are_exempt, set_to(4, source="print(seconds < 20)")),
        (rules.needs_no_network, set_to(1, source="from urllib.request import urlopen")),
        (rules.needs_no_network, set_to(1, source="!pip install numpy")),
        (rules.exercises_are_solved, set_to(7, cell_type="markdown")),
        (rules.cells_are_folded, set_to(1, metadata={"tags": ["hide-input"]})),
        (rules.cells_are_folded, set_to(1, metadata={"jupyter": {"outputs_hidden": True}})),
        (rules.cells_are_folded, set_to(1, source="import os\n" + 12 * "\n", outputs=[])),
        (rules.cells_are_folded, set_to(7, metadata={"jupyter": {"source_hidden": True}})),
        (rules.cells_are_folded, set_to(8, metadata={})),
        (rules.cells_are_folded, set_to(8, source="So it is two.")),
        (
            rules.exercises_are_solved,
            set_to(5, source=EXERCISE.format("")),
        ),
    ],
)
def test_a_broken_rule_is_noticed(rule, change):
    assert list(rule(spoilt(change)))


def test_folding_mends_what_is_not_folded_and_nothing_else():
    notebook = spoilt(lambda cells: [cell.update(metadata={}) for cell in cells[7:9]])
    notebook.cells[1].update(source="import os\n" + 12 * "\n", outputs=[])
    folded = rules.with_folds(notebook)
    assert list(rules.cells_are_folded(folded)) == []
    assert folded.cells[1].metadata == {
        "tags": ["hide-input"],
        "jupyter": {"source_hidden": True},
    }
    changed = [a != b for a, b in zip(notebook.cells, folded.cells, strict=True)]
    assert [number for number, is_changed in enumerate(changed) if is_changed] == [1, 7, 8]
    short = cell("import os\n" + 11 * "\n", 1)
    printing = cell("import os\n" + 12 * "\n", 2, [printed("1")])
    waiting = cell("import os\n" + 12 * "\n", None)
    unchanged = new_notebook(cells=[short, printing, waiting])
    assert rules.with_folds(unchanged) == unchanged


@pytest.mark.parametrize(
    "measuring",
    [
        "t = clock()",
        "t: float = clock()",
        "t = 0\nt += clock()",
        "t = {}\nt['a'] = clock()",
        "t = []\nfor _ in range(3):\n    t.append(clock())",
        "with open('x'):\n    t = clock()",
        "print(t := clock())",
        "t = [clock() for _ in range(3)]",
        "from time import monotonic_ns as now\nt = monotonic_ns()",
        "def race():\n    return clock()\n\nu = race()\nt = u / 2",
    ],
)
def test_what_a_clock_measured_is_not_compared(measuring):
    notebook = clean_notebook()
    notebook.cells[3].source += f"\n{measuring}"
    assert list(rules.clocks_are_exempt(notebook)) == []
    notebook.cells[4].source = "print(t)"
    assert list(rules.clocks_are_exempt(notebook))
    notebook.cells[4].source = "t = 2\nprint(t)"
    assert list(rules.clocks_are_exempt(notebook)) == []


def run_nbval(path):
    """Run nbval on one notebook with the project's settings; return the failed cells."""
    options = ["--numprocesses=0", "-p", "no:cacheprovider", "--tb=no", "-q", "-rf"]
    project = ["-c", ROOT / "pyproject.toml", "--rootdir", path.parent]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *project, *options, path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=path.parent,
    )
    assert re.search(r"\d+ passed", result.stdout), result.stdout + result.stderr
    return [int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", result.stdout, re.M)]


def test_nbval_notices_one_digit_and_one_point_of_a_figure(tmp_path):
    copy = tmp_path / "algorithm.ipynb"
    shutil.copy(ROOT / "book" / "algorithm.ipynb", copy)
    notebook = json.loads(copy.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    def change(pattern, replacement, lines):
        text, changes = re.subn(pattern, replacement, "".join(lines), count=1)
        assert changes == 1
        return text.splitlines(keepends=True)

    def first(*kinds):
        return next(
            (number, output["data"])
            for number, cell in enumerate(cells)
            for output in cell["outputs"]
            if {*kinds} == {*output.get("data", {})}
        )

    digit_cell, data = first("text/plain")
    data["text/plain"] = change(r"200", "201", data["text/plain"])
    point_cell, data = first("text/plain", "image/svg+xml")
    data["image/svg+xml"] = change(r"(M \d+\.\d*)\d", r"\g<1>x", data["image/svg+xml"])
    copy.write_text(json.dumps(notebook), encoding="utf-8")

    assert run_nbval(copy) == sorted([digit_cell, point_cell])


def test_the_kernels_of_the_tests_have_no_network():
    attempt = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    result = subprocess.run(
        [sys.executable, "-c", attempt],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(OFFLINE)},
    )
    assert "PermissionError: the book runs without a network" in result.stderr
    assert str(OFFLINE) in os.environ["PYTHONPATH"]
