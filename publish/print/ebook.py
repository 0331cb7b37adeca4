"""A Sphinx extension: what the book needs to be read away from the web.

On an e-reader or on paper, equations are MathML, and Chinese words say that they are
Chinese. What a page folds away is laid open (the solutions, at the end of their chapter)
or left out (the code that draws a figure). And the EPUB keeps to the letter of its
standard, which Sphinx's own builder does not.
"""

import json
import re
import subprocess
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from playwright._impl._driver import compute_driver_executable
from sphinx import addnodes
from sphinx.builders.epub3 import Epub3Builder
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.math import get_node_equation_number
from sphinx_exercise.nodes import (
    exercise_enumerable_node,
    exercise_node,
    solution_node,
)

from publish.print.shared import MATHJAX

MATHML = "http://www.w3.org/1998/Math/MathML"
STATIC = {"ebook.css", "pygments.css", "cover.png"}
HAN = re.compile(r"([\u3400-\u9fff]+)")

# Without this a PDF's figures have ligatures, and a search for float does not find ﬂoat.
SEARCHABLE = "<style>* {font-variant-ligatures: none !important}</style>"

NOTE = (
    "In this edition the solutions of the exercises stand at the end of each chapter. The "
    "interactive figures stand still, and the code that draws the figures is left out: the "
    "notebooks have both, and the web pages as well."
)


class Ebook(Epub3Builder):
    """Sphinx's EPUB 3 builder, less what the standard forbids."""

    html_tag = Epub3Builder.html_tag.replace(">", ' lang="en" xml:lang="en">')

    def copy_image_files(self):
        super().copy_image_files()
        for path in Path(self.outdir, self.imagedir).glob("*.svg"):
            svg = path.read_text(encoding="utf-8")
            svg = re.sub(r"<!DOCTYPE[^>]*>", "", svg)
            svg = re.sub(r"<svg[^>]*>", rf"\g<0>{SEARCHABLE}", svg, count=1)
            path.write_text(svg, encoding="utf-8")

    def build_content(self):
        """Pack no file that no page uses, and declare what the pages hold."""
        out = Path(self.outdir)
        self.config.epub_exclude_files = [
            path.relative_to(out).as_posix()
            for path in out.glob("*static/*")
            if path.name not in STATIC
        ]
        super().build_content()
        package = out / "content.opf"
        text = package.read_text(encoding="utf-8")
        text = re.sub(r'<item id="[^"]*" href="([^"]*)" [^>]*" />', self.declare, text)
        text = text.replace("</metadata>", ACCESSIBILITY + "</metadata>")
        package.write_text(text, encoding="utf-8")

    def declare(self, item):
        """An item of the package, with what a reading system wants to know beforehand."""
        name = item[1]
        if name == self.config.epub_cover[0]:
            properties = "cover-image"
        elif name.endswith(".xhtml") and b"<math" in Path(self.outdir, name).read_bytes():
            properties = "mathml"
        else:
            return item[0]
        return item[0].replace(" />", f' properties="{properties}" />')


ACCESSIBILITY = "".join(
    f'<meta property="schema:{name}">{value}</meta>\n'
    for name, value in [
        ("accessMode", "textual"),
        ("accessMode", "visual"),
        ("accessModeSufficient", "textual"),
        ("accessibilityFeature", "alternativeText"),
        ("accessibilityFeature", "MathML"),
        ("accessibilityFeature", "tableOfContents"),
        ("accessibilityHazard", "none"),
        ("accessibilitySummary", "Each figure has a text that says what it shows."),
    ]
)


class LayOpen(SphinxTransform):
    """Gather a chapter's solutions at its end; say on the first page what is different."""

    default_priority = 400  # after sphinx-exercise has put the solutions together

    def apply(self):
        chapter = next(self.document.findall(nodes.section))
        for toctree in self.document.findall(addnodes.toctree):
            toctree["titlesonly"] = False
        if self.env.docname == self.config.root_doc:
            title = nodes.title("", "About this edition")
            chapter += nodes.admonition("", title, nodes.paragraph("", NOTE))
        if solutions := list(self.document.findall(solution_node)):
            title = nodes.title("", "Solutions")
            gathered = nodes.section("", title, ids=["solutions"])
            chapter += gathered
            for solution in solutions:
                solution.parent.remove(solution)
                gathered += solution


class LeaveOut(SphinxPostTransform):
    """Remove what a page folds away, and what the standard does not forgive."""

    default_priority = 150  # before MyST-NB folds

    def run(self, **_):
        for cell in self.document.findall(nodes.container):
            if cell.get("hide_mode") == "input":
                del cell["hide_mode"], cell[0]
        for kind in (exercise_node, exercise_enumerable_node, solution_node):
            for exercise in self.document.findall(kind):
                for content in exercise.findall(nodes.section):
                    content["ids"] = []
        for paragraph in list(self.document.findall(nodes.paragraph)):
            # Sphinx puts a list of what is returned or raised into a paragraph.
            if isinstance(paragraph.next_node(), nodes.bullet_list):
                paragraph.replace_self(paragraph.children)


class MarkChinese(SphinxPostTransform):
    """Say which words are Chinese, so that they get Chinese glyphs and a Chinese voice."""

    default_priority = 900

    def run(self, **_):
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


def use_own_style(app, page, template, context, doctree):
    """Drop the styles and scripts that extensions bring for a browser."""
    context["script_files"] = []
    styles = context["css_files"]
    context["css_files"] = [s for s in styles if Path(s.filename).name in STATIC]


def convert_equations(app, env):
    """Turn every equation of the book into MathML, all at once."""
    equations = {
        (node.astext(), isinstance(node, nodes.math_block))
        for document in env.found_docs
        for node in env.get_doctree(document).findall(
            lambda node: isinstance(node, nodes.math | nodes.math_block)
        )
    }
    node, _ = compute_driver_executable()  # Playwright brings its own Node.js
    questions = [json.dumps({"tex": t, "display": d}) + "\n" for t, d in equations]
    answers = subprocess.run(
        [node, Path(__file__).with_name("mathml.js"), MATHJAX],
        input="".join(questions),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    ).stdout.splitlines()
    app.builder.mathml = {
        (tex, display): tidy(json.loads(answer), tex)
        for (tex, display), answer in zip(equations, answers, strict=True)
    }


def tidy(mathml, tex):
    """One equation, without MathJax's own notes, and with its source."""
    ElementTree.register_namespace("", MATHML)
    math = ElementTree.fromstring(mathml)
    if math.find(f".//{{{MATHML}}}merror") is not None:
        raise ValueError(f"MathJax does not understand {tex}")
    for element in math.iter():
        for name in [name for name in element.attrib if name.startswith("data-")]:
            del element.attrib[name]
        element.tail = None
        if len(element):
            element.text = None
        if element.text == "\N{HORIZONTAL BAR}":  # over its letters, however many
            element.set("stretchy", "true")
        if (style := element.get("mathvariant", "normal")) != "normal":
            del element.attrib["mathvariant"]
            element.text = "".join(styled(letter, style) for letter in element.text)
    math.set("alttext", " ".join(tex.split()))
    return ElementTree.tostring(math, encoding="unicode")


def styled(letter, style):
    """A letter of its own, as 𝐱 is: browsers know no styles in MathML any more."""
    name = unicodedata.name(letter).replace("LETTER ", "")
    name = name.removeprefix("LATIN ").removeprefix("GREEK ")
    return unicodedata.lookup(f"MATHEMATICAL {style.replace('-', ' ')} {name}")


def visit_math(self, node):
    self.body.append(self.builder.mathml[node.astext(), False])
    raise nodes.SkipNode


def visit_math_block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})</span>')
    self.body.append(self.builder.mathml[node.astext(), True] + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_builder(Ebook, override=True)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.add_transform(LayOpen)
    app.add_post_transform(LeaveOut)
    app.add_post_transform(MarkChinese)
    app.connect("env-check-consistency", convert_equations)
    app.connect("html-page-context", use_own_style, priority=900)
    return {"parallel_read_safe": False}
