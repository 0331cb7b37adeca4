"""The line under the title of a page: how long it takes to read, without the exercises; and of a
notebook, when its outputs were last compared.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.locale import _
from sphinx.util.typing import ExtensionMetadata

from publish.ext.search import words_of
from publish.ext.status import chapters, kept, last_verified
from tools.runs import RECORD, RUNS

HAN = "\u3400-\u9fff"
# The pace of a reader: words and Chinese characters in a minute; and the seconds for a line of code
# or of what it prints, which is about seven words, for a formula of its own line, for a figure.
WORDS, CHARACTERS = 200, 325
LINE, FORMULA, FIGURE = 2, 10, 30

# What is looked up and not read through.
LOOKED_UP = (addnodes.desc, addnodes.glossary, nodes.citation)


def parts(node: nodes.Element) -> Iterator[nodes.Element]:
    """Yield the parts of a page that a reader sees, without the exercises and folded code."""
    if "exercises" in node.get("ids", []) or isinstance(node, HideCodeCellNode):
        return
    yield node
    for child in node.children:
        if isinstance(child, nodes.Element):
            yield from parts(child)


def minutes_of_prose(text: str) -> float:
    """How long a text takes, in English, in Chinese, or with words of both."""
    characters = len(re.findall(f"[{HAN}]", text))
    words = len(re.findall(r"[\w…][\w.'’-]*", re.sub(f"[{HAN}]", " ", text)))
    return words / WORDS + characters / CHARACTERS


def minutes(doctree: nodes.document) -> tuple[float, float]:
    """How long a page takes: its prose; its code, formulas and figures."""
    prose = other = 0.0
    for part in parts(doctree):
        if isinstance(part, nodes.paragraph | nodes.caption):
            prose += minutes_of_prose(words_of(part))
        elif isinstance(part, nodes.literal_block):
            other += LINE * len(part.astext().splitlines()) / 60
        elif isinstance(part, nodes.math_block):
            other += FORMULA / 60
        elif isinstance(part, nodes.figure):
            other += FIGURE / 60
    return prose, other


def about(length: float) -> int:
    """A number of minutes, as exact as such an estimate can be."""
    return 5 * round(length / 5) if length > 12 else max(1, round(length))


def reading_time(doctree: nodes.document) -> str:
    """How long a page takes to read, in words; none for what is looked up."""
    if next(doctree.findall(lambda node: isinstance(node, LOOKED_UP)), None):
        return ""
    prose, other = minutes(doctree)
    if other < 1:
        return _("About {all} min").format(all=about(prose + other))
    return _("About {all} min, of which {other} for code, formulas and figures").format(
        all=about(prose + other), other=about(other)
    )


def look_up_runs(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Keep what is recorded of each notebook, and have the pages written again that told other."""
    before = getattr(env, "last_verified", {})
    env.last_verified = now = {  # type: ignore[attr-defined]
        chapter.page: last_verified(chapter.run) for chapter in chapters(kept(RUNS, RECORD))
    }
    changed = {page for page, words in now.items() if before.get(page) != words}
    return sorted(changed & env.found_docs)


def put_line(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give the template of a page what to say under its title."""
    if doctree is not None:
        context["reading_time"] = reading_time(doctree)
        context["last_verified"] = app.env.last_verified.get(page)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("env-updated", look_up_runs)
    app.connect("html-page-context", put_line)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
