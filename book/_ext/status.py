"""The `{status}` directive: what the tests compare in each chapter, and when they last ran.

The counts come from the notebooks. Times and versions come from `_build/runs.json`, which
the tests write (book/conftest.py). What was not run is said not to have been run.
"""

import json
import sys
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "_build" / "runs.json"

sys.path.append(str(ROOT / "tests"))
from rules import code_cells, is_exempt, read, reason_of, toc_files


def counts(notebook):
    """How many outputs and how many figures nbval compares, and why not which cells."""
    cells = code_cells(notebook)
    outputs = [
        output for cell in cells if not is_exempt(cell) for output in cell.outputs
    ]
    figures = sum("image/svg+xml" in output.get("data", {}) for output in outputs)
    exempt = {
        n: reason_of(cell)
        for n, cell in enumerate(cells, start=1)
        if is_exempt(cell)
    }
    return len(outputs) - figures, figures, exempt


def last_run(path, notebook, runs):
    """The seconds of the last run of a notebook, and how it ended."""
    run = runs.get(path.relative_to(ROOT).as_posix())
    if run is None or run["cells"] != len(code_cells(notebook)):
        return "", "not run"
    if run["sha256"] != sha256(path.read_bytes()).hexdigest():
        return "", "changed since"
    return f"{run['seconds']:.0f}", "passed" if run["passed"] else "**failed**"


def report(runs):
    """The lines of the status page, in MyST."""
    rows, exemptions, environments = [], [], defaultdict(list)
    sums = [0, 0, 0]
    for path in toc_files():
        if path.suffix == ".ipynb":
            notebook = read(path)
            outputs, figures, exempt = counts(notebook)
            seconds, verdict = last_run(path, notebook, runs)
            chapter = f"{{doc}}`/book/{path.stem}`"
            rows.append((chapter, outputs, figures, len(exempt), seconds, verdict))
            sums = [a + b for a, b in zip(sums, rows[-1][1:4], strict=True)]
            exemptions += [
                f"- {chapter}, code cell {n}: {why}" for n, why in exempt.items()
            ]
            if verdict in ("passed", "**failed**"):
                run = runs[path.relative_to(ROOT).as_posix()]
                versions = ", ".join(
                    f"{name} {number}" for name, number in run["versions"].items()
                )
                environments[f"{versions}, on {run['date']}"].append(chapter)

    yield "| chapter | outputs | figures | exempt | seconds | last run |"
    yield "|---|--:|--:|--:|--:|---|"
    for row in [*rows, ("all", *sums, "", "")]:
        yield "| " + " | ".join(map(str, row)) + " |"
    if exemptions:
        yield from ["", "The exempt cells, and why they are:", "", *exemptions]
    yield ""
    for environment, chapters in environments.items():
        which = (
            "All chapters" if len(chapters) == len(rows) else ", ".join(chapters)
        )
        yield f"- {which}: with {environment}."
    if len(runs) == 0:
        yield "The notebooks were not run where this page was built. `make test` runs them,"
        yield "and keeps their times and versions for the next `make book`."


class Status(SphinxDirective):
    """Put the report where the directive stands."""

    def run(self):
        for path in [*toc_files(), RUNS]:
            self.env.note_dependency(str(path))
        runs = json.loads(RUNS.read_text("utf-8")) if RUNS.exists() else {}
        node = nodes.container()
        self.state.nested_parse(
            StringList([*report(runs)], source=__file__), 0, node
        )
        return node.children


def setup(app):
    app.add_directive("status", Status)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
