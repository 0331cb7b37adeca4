"""Two directives: `{status}` says what the tests compare in each chapter, and when they last ran;
`{holds-on}` says with which versions they pass. Of its own last run each chapter tells under its
title (`publish.ext.reading`).

The counts come from the notebooks. Times and versions come from the last run on this machine
(`_build/runs.json`) or, where there was none of a notebook as it is now, from the run that is kept
with the sources (`publish/record/runs.json`). A run of other cells counts for nothing.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from babel.dates import format_date
from docutils import nodes
from docutils.statemachine import StringList
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from tools.rules import ROOT, code_cells, is_exempt, read, reason_of, toc_files
from tools.runs import MATRIX, PACKAGES, RECORD, RUNS, digest


class Run(TypedDict):
    """A run of a notebook, as the recorder of `tools.runs` writes it."""

    digest: str
    date: str
    seconds: float
    passed: bool
    cells: int
    versions: dict[str, str]


class MatrixRow(TypedDict):
    """A row of the matrix, as `tools.matrix` writes it."""

    python: str
    versions: dict[str, str]
    onednn: str
    tests: str
    cells: str
    date: str


class Matrix(TypedDict):
    """What `tools.matrix` keeps."""

    rows: list[MatrixRow]
    differences: list[str]


class Chapter(NamedTuple):
    """What the tests compare in a chapter, and its last run, if there was one."""

    page: str
    outputs: int
    figures: int
    exempt: dict[int, str]
    run: Run | None

    @property
    def link(self) -> str:
        """A link to the chapter, in MyST."""
        return f"{{doc}}`/{self.page}`"

    def row(self) -> tuple[object, ...]:
        """The chapter's cells in the table."""
        counted = (self.link, self.outputs, self.figures, len(self.exempt))
        if self.run is None:
            return *counted, "", _("changed since")
        verdict = _("passed") if self.run["passed"] else _("**failed**")
        return *counted, f"{self.run['seconds']:.0f}", verdict


def counts(notebook: NotebookNode) -> tuple[int, int, dict[int, str]]:
    """How many outputs and how many figures nbval compares, and why not which cells."""
    cells = code_cells(notebook)
    outputs = [output for cell in cells if not is_exempt(cell) for output in cell.outputs]
    figures = sum("image/svg+xml" in output.get("data", {}) for output in outputs)
    exempt = {n: reason_of(cell) for n, cell in enumerate(cells, start=1) if is_exempt(cell)}
    return len(outputs) - figures, figures, exempt


def day(iso: str) -> str:
    """A recorded day, as the book's language writes it."""
    return format_date(date.fromisoformat(iso), str(_("d MMMM y")), locale="en")


def versions_in(run: Run, names: Iterable[str]) -> str:
    """The versions of these packages in a run, in words."""
    return str(_(", ")).join(f"{name} {run['versions'][name]}" for name in names)


def last_verified(run: Run | None) -> str:
    """When, and with what, the outputs of a chapter were last compared."""
    if run is None:
        return str(_("Changed since its outputs were last compared"))
    if not run["passed"]:
        return _("An output differed in the last run, on {date}").format(date=day(run["date"]))
    return _("Last verified on {date}, with {versions}").format(
        date=day(run["date"]), versions=versions_in(run, PACKAGES)
    )


def run_of(path: Path, notebook: NotebookNode, records: Iterable[dict[str, Run]]) -> Run | None:
    """The first recorded run of the notebook as it is now; None where there is none.

    A run of some cells only counts if it failed.
    """
    for record in records:
        run = record.get(path.relative_to(ROOT).as_posix())
        if run is None or run["digest"] != digest(notebook):
            continue
        if not run["passed"] or run["cells"] == len(code_cells(notebook)):
            return run
    return None


def chapters(records: Iterable[dict[str, Run]]) -> Iterator[Chapter]:
    """Yield each chapter that is a notebook, with the run that the first of ``records`` knows."""
    for path in toc_files():
        if path.suffix == ".ipynb":
            notebook = read(path)
            page = path.relative_to(ROOT).with_suffix("").as_posix()
            yield Chapter(page, *counts(notebook), run_of(path, notebook, records))


def table(
    heads: Iterable[str], rules: Iterable[str], rows: Iterable[Iterable[object]]
) -> Iterator[str]:
    """The lines of a table in MyST."""
    for row in (heads, rules, *rows):
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def environments(shown: list[Chapter]) -> Iterator[str]:
    """The lines that say with which versions, and when, the chapters ran."""
    ran_with = defaultdict(list)
    for chapter in shown:
        if run := chapter.run:
            versions = versions_in(run, run["versions"])
            ran_with[versions, day(run["date"])].append(chapter.link)
    for (versions, ran_on), links in ran_with.items():
        which = _("All chapters") if len(links) == len(shown) else _(", ").join(links)
        yield "- " + _("{which}: with {versions}, on {date}.").format(
            which=which, versions=versions, date=ran_on
        )


def report(*records: dict[str, Run]) -> Iterator[str]:
    """The lines on the chapters, in MyST; of ``records`` the first that knows a chapter."""
    shown = list(chapters(records))
    rows = [chapter.row() for chapter in shown]
    totals = (
        sum(chapter.outputs for chapter in shown),
        sum(chapter.figures for chapter in shown),
        sum(len(chapter.exempt) for chapter in shown),
    )
    yield from table(
        [_("chapter"), _("outputs"), _("figures"), _("exempt"), _("seconds"), _("last run")],
        ["---", "--:", "--:", "--:", "--:", "---"],
        [*rows, (_("all"), *totals, "", "")],
    )
    yield from environments(shown)
    yield from ["", str(_("The exempt cells, and why they are:")), ""]
    for chapter in shown:
        for number, reason in chapter.exempt.items():
            yield "- " + _("{chapter}, code cell {number}: {reason}").format(
                chapter=chapter.link, number=number, reason=_(reason)
            )


def holds_on(matrix: Matrix) -> Iterator[str]:
    """The lines on the versions that the tests ran on, in MyST."""
    yield from table(
        ["Python", *PACKAGES, "oneDNN", _("tests"), _("cells")],
        ["---"] * 7,
        [
            [
                row["python"],
                *(row["versions"].get(name, "") for name in PACKAGES),
                *(row["onednn"], row["tests"], row["cells"]),
            ]
            for row in matrix["rows"]
        ],
    )
    days = map(day, sorted({row["date"] for row in matrix["rows"]}))
    yield from [_("Run on {days}.").format(days=_(", ").join(days)), ""]
    yield from [str(_("All that may differ with other versions than the locked ones:")), ""]
    for difference in matrix["differences"]:
        yield "- " + _("{difference}.").format(difference=_(difference))


def kept(*files: Path) -> list[Any]:
    """What each of ``files`` holds, less those that do not exist."""
    paths = map(ROOT.joinpath, files)
    return [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]


class MystDirective(SphinxDirective):
    """A directive that puts lines of MyST where it stands."""

    def depend_on(self, *files: Path) -> None:
        """Have the page read again when one of ``files`` changes."""
        for path in files:
            self.env.note_dependency(str(ROOT / path))

    def parse(self, lines: Iterable[str]) -> list[nodes.Node]:
        """The nodes that ``lines`` make."""
        node = nodes.container()
        self.state.nested_parse(StringList([*lines], source=__file__), 0, node)
        for text in node.findall(nodes.TextElement):
            if not isinstance(text, nodes.inline):
                text["translatable"] = False  # not as it stands: it tells of the last run
        return node.children


class StatusDirective(MystDirective):
    """`{status}`: what is compared in each chapter, and the last run."""

    def run(self) -> list[nodes.Node]:
        self.depend_on(RUNS, RECORD, *toc_files())
        return self.parse(report(*kept(RUNS, RECORD)))


class HoldsOnDirective(MystDirective):
    """`{holds-on}`: the versions that the tests ran on."""

    def run(self) -> list[nodes.Node]:
        self.depend_on(MATRIX)
        (matrix,) = kept(MATRIX)
        return self.parse(holds_on(matrix))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("status", StatusDirective)
    app.add_directive("holds-on", HoldsOnDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
