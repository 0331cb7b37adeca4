"""Two directives: `{status}` says what the tests compare in each chapter, and when they
last ran; `{holds-on}` says with which versions they pass.

The counts come from the notebooks. Times and versions come from the last run on this
machine (`_build/runs.json`) or, where there was none of a notebook as it is now, from the
run that is kept with the sources (`publish/record/runs.json`). A run of other cells counts
for nothing.
"""

import json
from collections import defaultdict

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from tools.rules import ROOT, code_cells, is_exempt, read, reason_of, toc_files
from tools.runs import MATRIX, RECORD, RUNS, digest


def counts(notebook):
    """How many outputs and how many figures nbval compares, and why not which cells."""
    cells = code_cells(notebook)
    outputs = [output for cell in cells if not is_exempt(cell) for output in cell.outputs]
    figures = sum("image/svg+xml" in output.get("data", {}) for output in outputs)
    exempt = {n: reason_of(cell) for n, cell in enumerate(cells, start=1) if is_exempt(cell)}
    return len(outputs) - figures, figures, exempt


def run_of(path, notebook, records):
    """The first recorded run of the notebook as it is now; None where there is none.

    A run of some cells only counts if it failed.
    """
    for record in records:
        run = record.get(path.relative_to(ROOT).as_posix(), {})
        if run.get("digest") == digest(notebook) and (
            not run["passed"] or run["cells"] == len(code_cells(notebook))
        ):
            return run
    return None


def report(*records):
    """The lines on the chapters, in MyST; of ``records`` the first that knows a chapter."""
    rows, exemptions, environments = [], [], defaultdict(list)
    sums = [0, 0, 0]
    for path in toc_files():
        if path.suffix == ".ipynb":
            notebook = read(path)
            outputs, figures, exempt = counts(notebook)
            chapter = f"{{doc}}`/book/{path.stem}`"
            run = run_of(path, notebook, records)
            if run:
                seconds = f"{run['seconds']:.0f}"
                verdict = "passed" if run["passed"] else "**failed**"
                versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
                environments[f"{versions}, on {run['date']}"].append(chapter)
            else:
                seconds, verdict = "", "changed since"
            rows.append((chapter, outputs, figures, len(exempt), seconds, verdict))
            sums = [a + b for a, b in zip(sums, rows[-1][1:4], strict=True)]
            exemptions += [f"- {chapter}, code cell {n}: {why}" for n, why in exempt.items()]

    yield "| chapter | outputs | figures | exempt | seconds | last run |"
    yield "|---|--:|--:|--:|--:|---|"
    for row in [*rows, ("all", *sums, "", "")]:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""
    for environment, chapters in environments.items():
        which = "All chapters" if len(chapters) == len(rows) else ", ".join(chapters)
        yield f"- {which}: with {environment}."
    yield from ["", "The exempt cells, and why they are:", "", *exemptions]


def holds_on(matrix):
    """The lines on the versions that the tests ran on, in MyST."""
    names = ("TensorFlow", "Keras", "NumPy")
    yield f"| Python | {' | '.join(names)} | oneDNN | tests | cells |"
    yield "|---|---|---|---|---|---|---|"
    for row in matrix["rows"]:
        versions = [row["versions"].get(name, "") for name in names]
        shown = [row[key] for key in ("onednn", "tests", "cells")]
        yield "| " + " | ".join([row["python"], *versions, *shown]) + " |"
    days = sorted({row["date"] for row in matrix["rows"]})
    yield from ["", f"Run on {', '.join(days)}.", ""]
    yield from ["All that may differ with other versions than the locked ones:", ""]
    yield from (f"- {difference}." for difference in matrix["differences"])


class Lines(SphinxDirective):
    """Put lines of MyST where the directive stands."""

    def kept(self, *files):
        """What those of the files hold that there are."""
        for path in map(ROOT.joinpath, files):
            self.env.note_dependency(str(path))
            if path.exists():
                yield json.loads(path.read_text("utf-8"))

    def show(self, lines):
        node = nodes.container()
        self.state.nested_parse(StringList([*lines], source=__file__), 0, node)
        return node.children


class Status(Lines):
    """What is compared in each chapter, and the last run."""

    def run(self):
        for path in toc_files():
            self.env.note_dependency(str(path))
        return self.show(report(*self.kept(RUNS, RECORD)))


class HoldsOn(Lines):
    """The versions that the tests ran on."""

    def run(self):
        (matrix,) = self.kept(MATRIX)
        return self.show(holds_on(matrix))


def setup(app):
    app.add_directive("status", Status)
    app.add_directive("holds-on", HoldsOn)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
