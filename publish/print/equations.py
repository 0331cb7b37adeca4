"""A Sphinx extension: equations in MathML, which e-readers show without a script.

MathJax translates all equations of the book at once, in the Node.js that Playwright brings along.
"""

import json
import subprocess
import unicodedata
from pathlib import Path
from shutil import which
from xml.etree import ElementTree

import playwright
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.math import get_node_equation_number
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

from publish.print import MATHJAX

MATHML = "http://www.w3.org/1998/Math/MathML"
DRIVER = Path(playwright.__file__).parent / "driver"


def translate(equations: set[tuple[str, bool]]) -> dict[tuple[str, bool], str]:
    """The MathML of equations, each given by its TeX and by whether it has a line of its own."""
    node = which("node", path=DRIVER)  # on Windows node.exe
    if node is None:
        raise FileNotFoundError(f"Playwright has brought no Node.js into {DRIVER}")
    questions = [json.dumps({"tex": tex, "display": display}) for tex, display in equations]
    answers = subprocess.run(
        [node, Path(__file__).with_name("mathml.js"), MATHJAX],
        input="\n".join(questions),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    ).stdout.splitlines()
    return {
        (tex, display): tidy(json.loads(answer), tex)
        for (tex, display), answer in zip(equations, answers, strict=True)
    }


def tidy(mathml: str, tex: str) -> str:
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
            element.text = "".join(in_style(letter, style) for letter in element.text or "")
    math.set("alttext", " ".join(tex.split()))
    return ElementTree.tostring(math, encoding="unicode")


def in_style(letter: str, style: str) -> str:
    """The character that is ``letter`` in ``style``, as 𝐱 is: browsers know no styles in MathML
    any more.
    """
    name = unicodedata.name(letter).replace("LETTER ", "")
    name = name.removeprefix("LATIN ").removeprefix("GREEK ")
    return unicodedata.lookup(f"MATHEMATICAL {style.replace('-', ' ')} {name}")


class MathRenderer:
    """Writes the equations of the pages, once it has translated them."""

    mathml: dict[tuple[str, bool], str]

    def translate_all(self, app: Sphinx, env: BuildEnvironment) -> None:
        """Translate the equations of all pages."""
        self.mathml = translate(
            {
                (node.astext(), isinstance(node, nodes.math_block))
                for page in env.found_docs
                for node in env.get_doctree(page).findall(
                    lambda node: isinstance(node, nodes.math | nodes.math_block)
                )
            }
        )

    def visit_math(self, translator: HTML5Translator, node: nodes.math) -> None:
        """Write an equation in a line of text."""
        translator.body.append(self.mathml[node.astext(), False])
        raise nodes.SkipNode

    def visit_math_block(self, translator: HTML5Translator, node: nodes.math_block) -> None:
        """Write an equation with a line of its own, and its number if it has one."""
        translator.body.append(translator.starttag(node, "div", CLASS="math"))
        if node["number"]:
            number = get_node_equation_number(translator, node)
            translator.body.append(f'<span class="eqno">({number})</span>')
        translator.body.append(self.mathml[node.astext(), True] + "</div>\n")
        raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    renderer = MathRenderer()
    app.connect("env-check-consistency", renderer.translate_all)
    app.add_html_math_renderer(
        "mathml", (renderer.visit_math, None), (renderer.visit_math_block, None)
    )
    return {"parallel_read_safe": False}
