"""Build the EPUB: `python -m publish.print.epub [FOLDER]`, by default _build; with `--chinese` that
of the Chinese edition, in FOLDER/zh.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import bn_tutorial
from publish.building import build_with
from publish.configuration import configuration
from publish.print import asked, file_name
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
    "publish.ext.languages",
    "publish.ext.signatures",
    "publish.ext.source",
    "publish.ext.status",
}
OWN = ["publish.print.ebook", "publish.print.equations"]

# What the names of the settings for the site alone begin with.
WEB = ("comments_", "html_", "ogp_", "sitemap_", "templates_")


def for_epub(config: dict[str, Any], static: Path, name: str) -> dict[str, Any]:
    """The site's configuration, turned into an e-book's with its own ``static`` files."""
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
        "epub_basename": f"../{name}",
        "epub_cover": ("_static/cover.png", "epub-cover.html"),
        "epub_css_files": ["ebook.css"],
        "epub_description": "Batch normalization in TensorFlow, with every number checked.",
        "epub_contributor": config["author"],
        "epub_identifier": name,
        "epub_uid": name,
        "epub_language": config["language"].replace("_", "-"),
        "epub_show_urls": "no",
        "epub_tocdepth": 2,
        "epub_tocscope": "includehidden",
        "epub_use_index": False,
    }


def build(folder: Path, *, chinese: bool = False, source: Path = ROOT) -> Path:
    """Build the pages into ``folder``/epub/pages and bind them into an EPUB beside these."""
    folder = folder / "epub"
    shutil.rmtree(folder, ignore_errors=True)
    static = folder / "static"
    static.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("ebook.css"), static)
    config = configuration(source, folder, chinese=chinese)
    draw_cover(static / "cover.png", chinese=chinese)
    settings = for_epub(config, static, file_name(chinese))
    if build_with("epub", settings, source, folder / "pages", folder / "doctrees"):
        sys.exit("The EPUB was built with warnings: see above.")
    return folder / f"{file_name(chinese)}.epub"


if __name__ == "__main__":
    target, in_zh = asked()
    print("The EPUB is at", build(target, chinese=in_zh))
