"""Make the book's interactive figures live.

A cell that calls `bn_tutorial.book.interactive.show` stores a Vega-Lite specification beside its
still picture. The picture becomes the page's figure, as any other. This extension adds what
_static/interactive.js needs to put the live figure in its place, on those pages only: the library,
and the specification, compiled to Vega.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util.typing import ExtensionMetadata

from bn_tutorial.book.interactive.toolkit import MIME, VEGA_LITE
from publish.catalogs import with_words
from tools.rules import outputs_of, read

LIBRARY = "vega.js"


def live_figures(notebook: NotebookNode) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each live figure and its specification in Vega."""
    for _number, cell, output in outputs_of(notebook):
        if spec := output.get("data", {}).get(MIME):
            vega = vl_convert.vegalite_to_vega(with_words(spec, say), vl_version=VEGA_LITE)
            # It names Vega 5, of which Vega 6 would complain on the console.
            del vega["$schema"]
            yield cell.metadata["mystnb"]["figure"]["name"], vega


def say(words: str) -> str:
    """``words`` in the language of the pages."""
    return str(_(words))


def script_element(name: str, spec: dict[str, Any]) -> str:
    """The element that holds the specification of the figure ``name`` in a page."""
    # In a script element only "<" could end the JSON early.
    text = json.dumps(spec, ensure_ascii=False).replace("<", r"\u003c")
    words = {
        "controls": _("Controls of the figure"),
        "presets": _("Situations to look at"),
        "play": _("Play"),
        "pause": _("Pause"),
        "reset": _("Reset"),
    }
    spoken = " ".join(f'data-{key}="{word}"' for key, word in words.items())
    return f'<script type="application/json" data-figure="{name}" {spoken}>{text}</script>\n'


def write_library(app: Sphinx) -> None:
    """Write Vega and Vega-Embed into one file."""
    if app.builder.name == "html":
        target = Path(app.outdir, "_static", LIBRARY)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The declared signature lacks the default of the other argument.
        library = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
        # A module's names are its own. But a browser loads no module from a folder, so a
        # function takes its place.
        target.write_text("(() => {" + library + "})();", encoding="utf-8")


def add_figures(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add library, script, style and specifications to a page with live figures."""
    source = Path(app.env.doc2path(page)) if page in app.env.all_docs else Path()
    if app.builder.name != "html" or source.suffix != ".ipynb":
        return
    figures = list(live_figures(read(source)))
    if not figures:
        return
    app.add_css_file("interactive.css")
    app.add_js_file(LIBRARY, defer="defer")
    app.add_js_file("interactive.js", defer="defer")
    context["body"] += "".join(script_element(name, spec) for name, spec in figures)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("builder-inited", write_library)
    app.connect("html-page-context", add_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
