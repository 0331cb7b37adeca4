"""What the search finds: the sections of the book, each with its words, in a script of its own.

_static/search.js ranks and shows them. Left out are formulas, code and what it prints, but for the
long decimals there. Sphinx's own search finds pages, and quotes none that is opened from a folder.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

SCRIPT = "search_sections.js"
ASSIGNMENT = "const searchSections = "

# No prose, or no place to go to.
SILENT = (
    nodes.literal_block,
    nodes.math_block,
    nodes.raw,
    nodes.comment,
    nodes.image,
    nodes.title,
    addnodes.index,
    addnodes.toctree,
)
# Pages that have the words of all the others come after these.
LESSER = {"book/api": 0.25} | dict.fromkeys(
    ("book/claims", "book/glossary", "book/index", "book/status"), 0.6
)
# Sections that end every chapter.
ENDS = {"summary", "exercises", "further-reading"}


def is_section(node: nodes.Node) -> bool:
    """Whether this is a section with a heading; sphinx-exercise makes others."""
    return isinstance(node, nodes.section) and isinstance(node.next_node(), nodes.title)


def words_of(node: nodes.Node) -> str:
    """The prose in a node, without that of sections inside it."""
    if isinstance(node, nodes.Text):
        return str(node)
    if isinstance(node, SILENT) or is_section(node):
        return ""
    if isinstance(node, nodes.math) and "\\" in node.astext():
        return "…"
    between = "" if isinstance(node, nodes.TextElement) else " "
    return between.join(map(words_of, node.children))


def printed_in(section: nodes.Element) -> Iterator[str]:
    """Yield the long decimals in the code of a section and in what it prints."""
    for block in section.findall(nodes.literal_block):
        above: nodes.Element = block.parent
        while not is_section(above):
            above = above.parent
        if above is section:
            yield from re.findall(r"\d+\.\d{3,}", block.astext())


def sections_of(app: Sphinx, doctree: nodes.document, page: str) -> Iterator[dict[str, Any]]:
    """What the search knows of each section of a page."""
    known = {"page": page, "chapter": app.env.titles[page].astext(), "keys": "", "printed": ""}
    keys = [
        (target, value)
        for index in doctree.findall(addnodes.index)
        for _, value, target, *_ in index["entries"]
    ]
    for section in doctree.findall(is_section):
        text = " ".join(" ".join(map(words_of, section.children[1:])).split())
        if text and not ENDS & set(section["ids"]):
            yield known | {
                "id": "" if section.parent is doctree else section["ids"][0],
                "title": section[0].astext(),
                "keys": " ".join(value for target, value in keys if target in section["ids"]),
                "text": text,
                "printed": " ".join(printed_in(section)),
                "weight": LESSER.get(page, 1),
            }
    for entry in doctree.findall(nodes.definition_list_item):
        terms = [term for term in entry.children if isinstance(term, nodes.term) and term["ids"]]
        if terms:  # of the glossary
            yield known | {
                "id": terms[0]["ids"][0],
                "title": " · ".join(term.astext() for term in terms),
                "text": " ".join(words_of(entry.children[-1]).split()),
                "weight": 1,
            }


def replace_search(app: Sphinx) -> None:
    """Do without Sphinx's own index of pages."""
    if app.builder.name == "html":
        app.builder.search = False  # type: ignore[attr-defined]


def gather_sections(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Keep the sections of a page that is written, until all are."""
    if app.builder.name == "html":
        gathered = app.__dict__.setdefault("sections", {})
        gathered[page] = list(sections_of(app, doctree, page))


def write_sections(app: Sphinx, exception: Exception | None) -> None:
    """Write the script: the pages of this build, and of those before it the others."""
    if app.builder.name != "html" or exception is not None:
        return
    script = Path(app.outdir, "_static", SCRIPT)
    known: dict[str, list[dict[str, Any]]] = {}
    if script.exists():
        for section in json.loads(script.read_text("utf-8").removeprefix(ASSIGNMENT).rstrip(";\n")):
            known.setdefault(section["page"], []).append(section)
    known |= app.__dict__.get("sections", {})
    sections = [section for page in sorted(app.env.found_docs) for section in known.get(page, [])]
    text = json.dumps(sections, ensure_ascii=False)
    script.write_text(f"{ASSIGNMENT}{text};\n", encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("builder-inited", replace_search)
    app.connect("doctree-resolved", gather_sections)
    app.connect("build-finished", write_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
