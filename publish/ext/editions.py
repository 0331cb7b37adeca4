"""The PDF and the EPUB beside the pages, where `make pdf` or `make epub` has made them.

A book is copied and linked only while it is newer than all sources, so that no page offers an old
one.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

FOLDER = "downloads"


def current_editions(app: Sphinx) -> Iterator[Path]:
    """Yield the files of the editions that are newer than every source of the book."""
    sources = map(app.env.doc2path, app.env.found_docs)
    changed = max(Path(source).stat().st_mtime for source in sources)
    for kind in ("pdf", "epub"):
        for path in Path(app.srcdir, "_build", kind).glob(f"*.{kind}"):
            if path.stat().st_mtime >= changed:
                yield path


def write_pages_again(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Have all pages written again where they offer other editions than the last time."""
    offered = getattr(env, "editions", [])
    env.editions = [path.name for path in current_editions(app)]  # type: ignore[attr-defined]
    return [] if env.editions == offered else list(env.found_docs)  # type: ignore[attr-defined]


def link_editions(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give the side bar the editions, by their kind, and the address of each."""
    context["editions"] = {
        path.suffix[1:].upper(): f"{FOLDER}/{path.name}" for path in current_editions(app)
    }


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
