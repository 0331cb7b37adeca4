"""Build the EPUB: `python -m publish.print.epub [FOLDER]`, by default _build."""

import shutil
import sys
from pathlib import Path
from typing import Any

from jupyter_book.config import get_final_config
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

import bn_tutorial
from bn_tutorial.book.notebook import quiet_tensorflow
from publish.print import BOOK, output_folder
from publish.print.cover import draw_cover
from tools.rules import ROOT

# Of the site's extensions, those that bring content; the others are for a browser.
CONTENT = {
    "myst_nb",
    "jupyter_book",
    "sphinx_external_toc",
    "sphinx_multitoc_numbering",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_exercise",
    "publish.ext.status",
}
OWN = ["publish.print.ebook", "publish.print.equations"]

# What the names of the settings for the site alone begin with.
WEB = ("comments_", "html_", "ogp_", "sitemap_", "templates_")


def configuration(static: Path) -> dict[str, Any]:
    """The site's configuration, turned into an e-book's with its own ``static`` files."""
    config, _ = get_final_config(
        user_yaml=ROOT / "_config.yml",
        sourcedir=ROOT,
        cli_config={"latex_individualpages": False},
    )
    title = config["html_title"]
    config = {key: value for key, value in config.items() if not key.startswith(WEB)}
    return config | {
        "extensions": [name for name in config["extensions"] if name in CONTENT] + OWN,
        "project": title,
        "version": bn_tutorial.__version__,
        "html_theme": "basic",
        "html_static_path": [str(static)],
        "html_domain_indices": False,
        "html_math_renderer": "mathml",
        "epub_basename": f"../{BOOK}",
        "epub_cover": ("_static/cover.png", "epub-cover.html"),
        "epub_css_files": ["ebook.css"],
        "epub_description": "Batch normalization in TensorFlow, with every number checked.",
        "epub_contributor": config["author"],
        "epub_identifier": BOOK,
        "epub_uid": BOOK,
        "epub_show_urls": "no",
        "epub_tocdepth": 2,
        "epub_tocscope": "includehidden",
        "epub_use_index": False,
    }


def build(folder: Path) -> Path:
    """Build the pages into ``folder``/pages and bind them into an EPUB beside them."""
    shutil.rmtree(folder, ignore_errors=True)
    static = folder / "static"
    static.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("ebook.css"), static)
    draw_cover(static / "cover.png")
    quiet_tensorflow()  # the reference imports it
    with docutils_namespace(), patch_docutils():
        app = Sphinx(
            srcdir=ROOT,
            confdir=None,
            outdir=folder / "pages",
            doctreedir=folder / "doctrees",
            buildername="epub",
            confoverrides=configuration(static),
            status=None,
            warningiserror=True,
            keep_going=True,
        )
        app.build()
    if app.statuscode:
        sys.exit("The EPUB was built with warnings: see above.")
    return folder / f"{BOOK}.epub"


if __name__ == "__main__":
    print("The EPUB is at", build(output_folder() / "epub"))
