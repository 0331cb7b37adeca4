"""What a page folds away: the solutions of its exercises, and code.

Both are `details` elements: browsers unfold these without a script, for whoever clicks anywhere on
the bar, by the keyboard, and where they find a word inside. _static/folding.js unfolds those into
which an address points.
"""

from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator
from sphinx_exercise.nodes import solution_node


class Bar(nodes.title):  # type: ignore[misc]
    """What folds and unfolds all that follows it in its parent."""


class MakeSolutionBars(SphinxPostTransform):
    """Make a bar of each solution's title, without the link back that sphinx-exercise puts there:
    the exercise stands right above, and a click on a bar has one meaning."""

    default_priority = 23  # after sphinx-exercise has written the titles, and the links to them
    formats = ("html",)

    def run(self, **options: Any) -> None:
        for solution in self.document.findall(solution_node):
            for link in list(solution[0].findall(nodes.reference)):
                link.replace_self(link.children)
            solution[0] = Bar("", "", *solution[0].children)


class MakeCodeBars(SphinxPostTransform):
    """Put a bar above folded code that says what it is."""

    default_priority = 200  # after MyST-NB has folded it
    formats = ("html",)

    def run(self, **options: Any) -> None:
        for code in self.document.findall(HideCodeCellNode):
            code["classes"] = []  # by which the theme would give the bar another look
            code.insert(0, Bar("", name_of_code(code.parent)))


def name_of_code(cell: nodes.Element) -> str:
    """What the folded code of a cell is, by what the cell shows."""
    if next(cell.findall(nodes.figure), None):
        return str(_("Code of the figure"))
    return str(_("Code") if len(cell) > 1 else _("Imports and set-up"))


def visit_folded(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "details", CLASS="admonition folded"))


def depart_folded(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append("</details>\n")


def visit_bar(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "summary", "", CLASS="admonition-title"))


def depart_bar(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append("</summary>\n")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(Bar, html=(visit_bar, depart_bar))
    for node in (solution_node, HideCodeCellNode):
        app.add_node(node, override=True, html=(visit_folded, depart_folded))
    app.add_post_transform(MakeSolutionBars)
    app.add_post_transform(MakeCodeBars)
    app.add_css_file("folding.css")
    app.add_js_file("folding.js", defer="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
