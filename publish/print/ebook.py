"""A Sphinx extension: what the book needs to be read away from the web.

What a page folds away is laid open (the solutions, at the end of their chapter) or left out (the
code that draws a figure), and Chinese words say that they are Chinese. And the EPUB keeps to the
letter of its standard, which Sphinx's own builder does not.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder
from sphinx.locale import _
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata
from sphinx_exercise.nodes import exercise_enumerable_node, exercise_node, solution_node

from publish.catalogs import CHINESE
from publish.print import TEMPLATES

USED_FILES = {"ebook.css", "pygments.css", "cover.png"}
HAN = re.compile(r"([\u3400-\u9fff]+)")

# Without this a PDF's figures have ligatures, and a search for float does not find ﬂoat.
SEARCHABLE = "<style>* {font-variant-ligatures: none !important}</style>"

EDITION_NOTE = _(
    "In this edition the solutions of the exercises stand at the end of each chapter. The "
    "interactive figures stand still, and the code that draws the figures is left out: the "
    "notebooks have both, and the web pages as well."
)


class StrictEpubBuilder(Epub3Builder):
    """Sphinx's EPUB 3 builder, less what the standard forbids."""

    def init(self) -> None:
        """Let each page say which language it is in."""
        super().init()
        language = self.config.epub_language
        self.html_tag = self.html_tag.replace(">", f' lang="{language}" xml:lang="{language}">')

    def copy_image_files(self) -> None:
        """Copy the figures, without a document type and with words that a search finds."""
        super().copy_image_files()
        for path in Path(self.outdir, self.imagedir).glob("*.svg"):
            svg = path.read_text(encoding="utf-8")
            svg = re.sub(r"<!DOCTYPE[^>]*>", "", svg)
            svg = re.sub(r"<svg[^>]*>", rf"\g<0>{SEARCHABLE}", svg, count=1)
            path.write_text(svg, encoding="utf-8")

    def content_metadata(self) -> dict[str, Any]:
        """What the template of content.opf is filled with."""
        return super().content_metadata() | {"has_equations": self.has_equations}

    def has_equations(self, name: str) -> bool:
        """Whether a file of the book is a page with MathML."""
        return name.endswith(".xhtml") and b"<math" in Path(self.outdir, name).read_bytes()

    def build_content(self) -> None:
        """Write content.opf by the book's own template, without files that no page uses."""
        self.config.epub_exclude_files = [
            path.relative_to(self.outdir).as_posix()
            for path in Path(self.outdir).glob("*static/*")
            if path.name not in USED_FILES
        ]
        of_sphinx, self.template_dir = self.template_dir, str(TEMPLATES)
        super().build_content()
        self.template_dir = of_sphinx


class ListSections(SphinxTransform):
    """List the sections of the chapters in the table of contents, not the chapters alone."""

    default_priority = 400

    def apply(self, **options: Any) -> None:
        for toctree in self.document.findall(addnodes.toctree):
            toctree["titlesonly"] = False


class NoteDifferences(SphinxTransform):
    """Say on the first page how this edition differs from the web pages."""

    default_priority = 400

    def apply(self, **options: Any) -> None:
        if self.env.docname == self.config.root_doc:
            chapter = next(self.document.findall(nodes.section))
            title = nodes.title("", _("About this edition"))
            chapter += nodes.admonition("", title, nodes.paragraph("", str(EDITION_NOTE)))


class GatherSolutions(SphinxTransform):
    """Gather a chapter's solutions at its end."""

    default_priority = 400  # after sphinx-exercise has put the solutions together

    def apply(self, **options: Any) -> None:
        if solutions := list(self.document.findall(solution_node)):
            chapter = next(self.document.findall(nodes.section))
            title = nodes.title("", _("Solutions"))
            gathered = nodes.section("", title, ids=["solutions"])
            chapter += gathered
            for solution in solutions:
                solution.parent.remove(solution)
                gathered += solution


class DropFoldedCode(SphinxPostTransform):
    """Remove the code that a page folds away, and show imports, with what is defined there."""

    default_priority = 150  # before MyST-NB folds

    def run(self, **options: Any) -> None:
        for cell in self.document.findall(nodes.container):
            if cell.get("hide_mode") == "input":
                del cell["hide_mode"]
                if len(cell) > 1:
                    del cell[0]


class MendMarkup(SphinxPostTransform):
    """Mend what browsers forgive and the standard does not."""

    default_priority = 150

    def run(self, **options: Any) -> None:
        for kind in (exercise_node, exercise_enumerable_node, solution_node):
            for exercise in self.document.findall(kind):
                # An exercise and the section of its content would have the same id.
                for content in exercise.findall(nodes.section):
                    content["ids"] = []
        for paragraph in list(self.document.findall(nodes.paragraph)):
            # Sphinx puts a list of what is returned or raised into a paragraph.
            if isinstance(paragraph.next_node(), nodes.bullet_list):
                paragraph.replace_self(paragraph.children)


class MarkChinese(SphinxPostTransform):
    """Say which words are Chinese, so that they get Chinese glyphs and a Chinese voice."""

    default_priority = 900

    def run(self, **options: Any) -> None:
        if self.config.language == CHINESE:
            return  # the page says so
        for text in list(self.document.findall(nodes.Text)):
            code = isinstance(text.parent, nodes.literal_block)
            if HAN.search(text) and not code:
                parts = [
                    nodes.inline("", part, classes=["language-zh-Hans"])
                    if HAN.fullmatch(part)
                    else nodes.Text(part)
                    for part in HAN.split(text)
                ]
                text.parent.replace(text, parts)


def drop_web_files(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Drop the styles and scripts that extensions bring for a browser."""
    context["script_files"] = []
    styles = context["css_files"]
    context["css_files"] = [style for style in styles if Path(style.filename).name in USED_FILES]


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_builder(StrictEpubBuilder, override=True)
    for transform in (ListSections, NoteDifferences, GatherSolutions):
        app.add_transform(transform)
    for post_transform in (DropFoldedCode, MendMarkup, MarkChinese):
        app.add_post_transform(post_transform)
    app.connect("html-page-context", drop_web_files, priority=900)
    return {"parallel_read_safe": False}
