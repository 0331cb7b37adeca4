"""The PDF and the EPUB beside the pages, where `make pdf` or `make epub` has made them.

An edition is copied and linked only while it is newer than all sources of the book, so that no page
offers an old one.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

from publish.catalogs import CHINESE
from publish.configuration import FOLDER as ZH
from publish.print import file_name

FOLDER = "downloads"
# What the pages are made of.
SOURCES = ("_config.yml", "_toc.yml", "bn_tutorial", "book", "locale", "publish")


def current_editions(app: Sphinx) -> Iterator[Path]:
    """Yield the files of the editions that are newer than every source of the book."""
    root = Path(app.srcdir)
    sources = [path for name in SOURCES for path in (root / name, *(root / name).rglob("*"))]
    changed = max(
        path.stat().st_mtime
        for path in sources
        if path.is_file() and "__pycache__" not in path.parts
    )
    chinese = app.config.language == CHINESE
    for kind in ("pdf", "epub"):
        path = root / "_build" / (ZH if chinese else "") / kind / f"{file_name(chinese)}.{kind}"
        if path.is_file() and path.stat().st_mtime >= changed:
            yield path


def write_pages_again(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Have all pages written again where they offer other editions than the last time."""
    if app.builder.name != "html":
        return []
    before = getattr(env, "editions", [])
    env.editions = now = [path.name for path in current_editions(app)]  # type: ignore[attr-defined]
    return [] if now == before else list(env.found_docs)


def link_editions(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give the side bar the editions, by their kind, and the address of each."""
    editions = current_editions(app) if app.builder.name == "html" else ()
    context["editions"] = {path.suffix[1:].upper(): f"{FOLDER}/{path.name}" for path in editions}


def copy_editions(app: Sphinx, exception: Exception | None) -> None:
    """Copy the editions to where the pages link to them, and remove older ones."""
    if app.builder.name == "html" and exception is None:
        target = Path(app.outdir, FOLDER)
        shutil.rmtree(target, ignore_errors=True)
        for path in current_editions(app):
            target.mkdir(exist_ok=True)
            shutil.copy(path, target)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("env-get-outdated", write_pages_again)
    app.connect("html-page-context", link_editions)
    app.connect("build-finished", copy_editions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
