"""Make the book's interactive figures live.

A cell that calls `bn_tutorial.book.interactive.show` stores a Vega-Lite specification beside its
still picture. The picture becomes the page's figure, as any other. This extension adds what
_static/interactive.js needs to put the live figure in its place, on those pages only: the
library, and the specification, compiled to Vega.
"""

import json
from pathlib import Path

import nbformat
import vl_convert

from bn_tutorial.book.interactive.toolkit import MIME, VEGA_LITE

LIBRARY = "vega.js"


def specs(notebook):
    """Yield the name of each live figure and its specification in Vega."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if spec := output.get("data", {}).get(MIME):
                vega = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE)
                # It names Vega 5, of which Vega 6 would complain on the console.
                del vega["$schema"]
                yield cell.metadata["mystnb"]["figure"]["name"], vega


def write_library(app):
    """Write Vega and Vega-Embed into one file."""
    if app.builder.name == "html":
        target = Path(app.outdir, "_static", LIBRARY)
        target.parent.mkdir(parents=True, exist_ok=True)
        library = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
        # A module's names are its own. But a browser loads no module from a folder, so a
        # function takes its place.
        target.write_text(f"(() => {{{library}}})();", encoding="utf-8")


def add_figures(app, page, template, context, doctree):
    """Add library, script, style and specifications to a page with live figures."""
    source = Path(app.env.doc2path(page)) if page in app.env.all_docs else Path()
    if app.builder.name != "html" or source.suffix != ".ipynb":
        return
    figures = list(specs(nbformat.read(source, as_version=4)))
    if not figures:
        return
    app.add_css_file("interactive.css")
    app.add_js_file(LIBRARY, defer="defer")
    app.add_js_file("interactive.js", defer="defer")
    for name, spec in figures:
        # In a script element only "<" could end the JSON early.
        text = json.dumps(spec, ensure_ascii=False).replace("<", r"\u003c")
        context["body"] += f'<script type="application/json" data-figure="{name}">{text}</script>\n'


def setup(app):
    app.connect("builder-inited", write_library)
    app.connect("html-page-context", add_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
