"""The book in two languages: what can be translated, where the same page is in the other language,
a role that links to it, and that a build of the English pages builds the Chinese ones beside it.

Sphinx puts the translations of `locale/` in place of a page's messages (its transform `Locale`).
Just before, `KeepMessages` settles what these are and keeps them with the page, so that
`publish.catalogs` finds exactly them.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.locale import _ as translate
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole
from sphinx.util.index_entries import split_index_msg
from sphinx.util.nodes import extract_messages, traverse_translatable_index
from sphinx.util.typing import ExtensionMetadata
from sphinx_exercise.nodes import (
    exercise_enumerable_node,
    exercise_node,
    exercise_subtitle,
    exercise_title,
    solution_title,
)

from publish.catalogs import CHINESE, FRAME, path_of
from publish.configuration import FOLDER

logger = logging.getLogger(__name__)

# A formula is the same in every language, and sphinx-exercise has words of its own for its titles.
SAME = (nodes.math_block, exercise_title, solution_title)


class KeepMessages(SphinxTransform):
    """Settle which words of a page can be translated, and keep them in the document."""

    default_priority = 15  # before Sphinx puts the translations in their place, at 20

    def apply(self, **_: Any) -> None:
        for subtitle in self.document.findall(exercise_subtitle):
            subtitle.source, subtitle.line = self.document["source"], subtitle.parent.line
            subtitle.rawsource = subtitle.astext()
        for node in self.untranslatable():
            # Sphinx takes an inline node that bears this mark out of its place at the end: no other
            # may bear it than those that do.
            if not isinstance(node, nodes.inline) or "translatable" in node:
                node["translatable"] = False
            is_english = isinstance(node, nodes.paragraph | addnodes.desc_signature)
            if self.config.language == CHINESE and is_english:
                node["classes"].append("language-en")
        messages = [message for _, message in extract_messages(self.document)]
        self.document["messages"] = list(dict.fromkeys([*messages, *self.index_entries()]))

    def index_entries(self) -> Iterator[str]:
        """Yield the words of the index that stand in the page itself."""
        for node, entries in traverse_translatable_index(self.document):
            if node.source == self.document["source"]:
                for kind, value, *_ in entries:
                    yield from split_index_msg(kind, value)

    def untranslatable(self) -> Iterator[nodes.Element]:
        """Yield the nodes whose words stay as they are."""
        yield from self.document.findall(lambda node: isinstance(node, SAME))
        # Docstrings are code.
        for description in self.document.findall(addnodes.desc):
            yield from description.findall(nodes.TextElement)
        for node in self.document.findall(nodes.TextElement):
            if ":docstring of" in (node.source or ""):
                yield node


class AdoptTranslations(SphinxTransform):
    """Make the translations the page's own, and tell sphinx-exercise of them.

    Each was parsed in a small document, which would be kept with the page: that takes a minute to
    write and to read again. And sphinx-exercise has copied the title of each exercise for the
    title of its solution.
    """

    default_priority = 21  # after Sphinx has put the translations in their place

    def apply(self, **_: Any) -> None:
        for node in self.document.findall():
            node.document = self.document
        for kind in (exercise_node, exercise_enumerable_node):
            for exercise in self.document.findall(kind):
                entry = self.env.sphinx_exercise_registry[exercise["label"]]  # type: ignore[attr-defined]
                entry["node"] = exercise.deepcopy()


class Twin(NamedTuple):
    """The same page in the other language: which one, by code and by its own name, and where."""

    language: str
    name: str
    address: str


def has_two_languages(app: Sphinx) -> bool:
    """Whether this builds pages of a book that is translated."""
    return app.builder.name == "html" and path_of(FRAME, Path(app.srcdir)).exists()


def twin_of(app: Sphinx, page: str) -> Twin | None:
    """The twin of a page, its address counted from the root of the pages in this language."""
    if not has_two_languages(app):
        return None
    if app.config.language == CHINESE:
        return Twin("en", "English", f"../{page}.html")
    return Twin("zh-CN", "中文", f"{FOLDER}/{page}.html")


def link_twin(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give a page the address of its twin."""
    if twin := twin_of(app, page):
        context["twin"] = twin


class TwinRole(ReferenceRole):
    """A link to a page in the other language, `` {twin}`words <page>` ``; in an edition of one
    language, its words."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        twin = twin_of(self.env.app, self.target)
        if twin is None:
            return [nodes.Text(self.title)], []
        address = "../" * self.env.docname.count("/") + twin.address
        link = nodes.reference("", self.title, refuri=address, internal=True)
        return [link], []


def translate_parts(app: Sphinx) -> None:
    """Give the parts of the book their names in its language."""
    for part in app.config.external_site_map.root.subtrees:
        part.caption = translate(part.caption)


def start_translated(app: Sphinx) -> None:
    """Start to build the Chinese pages, beside the English ones."""
    if has_two_languages(app) and app.config.language != CHINESE:
        command = [sys.executable, "-m", "publish.translated"]
        command += [str(app.srcdir), str(app.outdir.parent / FOLDER)]
        if app.warningiserror or app.keep_going:  # with -W the one or the other is set
            command.append("--strict")
        if app.fresh_env_used:
            command.append("--fresh")
        app.translated = subprocess.Popen(  # type: ignore[attr-defined]
            command,
            cwd=app.srcdir,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def await_translated(app: Sphinx, exception: Exception | None) -> None:
    """Wait until the Chinese pages are there, and put them among the English ones."""
    process = getattr(app, "translated", None)
    if process is None:
        return
    app.translated = None  # type: ignore[attr-defined]  # a failure below comes here again
    if exception is not None:
        process.kill()
    output, _ = process.communicate()
    if exception is None and process.returncode:
        raise ExtensionError(f"The Chinese pages were not built:\n{output}")
    if output:
        logger.info("From the build of the Chinese pages:\n%s", output)
    if exception is None:
        shutil.rmtree(app.outdir / FOLDER, ignore_errors=True)
        shutil.copytree(app.outdir.parent / FOLDER / "html", app.outdir / FOLDER)


def setup(app: Sphinx) -> ExtensionMetadata:
    # Pages depend on their own catalogues; on that of the frame all pages do.
    app.add_config_value("translated_frame", {}, "env", dict)
    app.add_role("twin", TwinRole())
    app.add_transform(KeepMessages)
    app.add_transform(AdoptTranslations)
    app.connect("builder-inited", translate_parts)
    app.connect("builder-inited", start_translated)
    app.connect("html-page-context", link_twin)
    app.connect("build-finished", await_translated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
