"""The two settings that say where the book is: what they switch on, and what is off without them.

A book of two pages is built with the project's own configuration, which is fast.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from publish.print import file_name
from tools.rules import ROOT

BOOK = file_name(chinese=False)
SITE = "https://example.org/books/bn"
REPOSITORY = "https://github.com/OWNER/REPOSITORY"
TOC = """format: jb-book
root: book/index
parts:
  - caption: The part
    chapters:
      - file: book/page
"""


def build(folder: Path, site: str, repository: str) -> Path:
    """Build the small book without git and without a warning; return the folder of its pages."""
    no_pages = shutil.ignore_patterns("*.ipynb", "*.md")
    shutil.copytree(ROOT / "book", folder / "book", ignore=no_pages)
    shutil.copytree(ROOT / "publish", folder / "publish")
    config = (ROOT / "_config.yml").read_text("utf-8")
    for key, value in ("url", repository), ("baseurl", site):
        config, found = re.subn(rf'^  {key}: ""$', f'  {key}: "{value}"', config, flags=re.M)
        assert found == 1
    (folder / "_config.yml").write_text(config, "utf-8")
    (folder / "_toc.yml").write_text(TOC, "utf-8")
    (folder / "book" / "index.md").write_text("# Front\n\nThe front page.\n", "utf-8")
    cells = [new_markdown_cell("# Page\n\nA page says this."), new_code_cell("1 + 1")]
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata.language_info = {"name": "python"}
    write(notebook, folder / "book" / "page.ipynb")
    program = str(Path(sys.executable).with_name("jupyter-book"))
    run = subprocess.run(
        [program, "build", ".", "-W", "--keep-going"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": str(folder), "HOME": str(folder)},  # git is not on this path
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "_build" / "html"


def page(html: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((html / name).read_text("utf-8"), "html.parser")


def previews(soup: BeautifulSoup) -> dict[str, str]:
    """The tags that other sites read for a preview."""
    tags = soup.find_all("meta", property=re.compile("^og:"))
    return {tag["property"]: tag["content"] for tag in tags}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A book with a PDF that is newer than its pages, and an EPUB that is older."""
    folder = tmp_path_factory.mktemp("published")
    for kind, time in ("pdf", 2**32), ("epub", 0):
        file = folder / "_build" / kind / f"{BOOK}.{kind}"
        file.parent.mkdir(parents=True)
        file.write_text(kind)
        os.utime(file, (time, time))
    return build(folder, SITE, REPOSITORY)


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("unpublished"), "", "")


def test_every_page_has_a_title_and_a_description_for_previews(unpublished):
    tags = previews(page(unpublished, "book/page.html"))
    assert tags["og:title"] == "Page"
    assert tags["og:description"].startswith("A page says this.")
    assert tags["og:site_name"] == "Batch Normalization in TensorFlow, verified"


def test_without_settings_nothing_names_a_site(unpublished):
    assert not (unpublished / "sitemap.xml").exists()
    for path in unpublished.rglob("*.html"):
        if "_static" not in path.parts:
            soup = page(unpublished, path)
            assert not soup.find("link", rel="canonical")
            assert not {"og:url", "og:image"} & set(previews(soup))
            assert not soup.select(".dropdown-launch-buttons")
            assert "mybinder" not in path.read_text("utf-8")


def test_with_a_site_pages_have_their_address_and_a_picture(published):
    soup = page(published, "book/page.html")
    assert soup.find("link", rel="canonical")["href"] == f"{SITE}/book/page.html"
    tags = previews(soup)
    assert tags["og:url"] == f"{SITE}/book/page.html"
    address, _, picture = tags["og:image"].partition(SITE + "/")
    assert address == ""
    assert (published / picture).read_bytes().startswith(b"\x89PNG")


def test_with_a_site_there_is_a_sitemap_of_its_pages(published):
    tree = ElementTree.parse(published / "sitemap.xml")
    places = {place.text for place in tree.iterfind(".//{*}loc")}
    assert {f"{SITE}/book/index.html", f"{SITE}/book/page.html"} <= places
    assert all((published / place.removeprefix(SITE + "/")).is_file() for place in places)
    assert f"{SITE}/404.html" not in places


def test_with_a_site_the_page_for_wrong_addresses_knows_its_way(published):
    assert page(published, "404.html").find("base")["href"] == "/books/bn/"


def test_with_a_repository_each_notebook_can_be_launched(published):
    [menu] = page(published, "book/page.html").select(".dropdown-launch-buttons")
    assert menu.find("a")["href"].endswith(
        "/OWNER/REPOSITORY/main?urlpath=lab/tree/book/page.ipynb"
    )
    assert not page(published, "book/index.html").select(".dropdown-launch-buttons")


def test_breadcrumbs_name_the_part_and_the_page(unpublished):
    trail = page(unpublished, "book/page.html").select_one(".bd-breadcrumbs")
    assert trail.get_text("|", strip=True).split("|") == ["The part", "Page"]
    assert trail.find("a")["href"] == "index.html"
    assert not page(unpublished, "book/index.html").select(".bd-breadcrumbs")


def test_each_page_offers_the_book_as_one_file_if_that_is_not_older(published, unpublished):
    for name in ("book/page.html", "book/index.html", "404.html"):
        if editions := page(published, name).select(".editions a"):
            [link] = editions
            assert link.text == "PDF"
            assert (published / name).parent.joinpath(link["href"]).resolve().read_text() == "pdf"
        else:
            assert name == "404.html"
    assert [path.name for path in (published / "downloads").iterdir()] == [f"{BOOK}.pdf"]
    assert not page(unpublished, "book/page.html").select(".editions")
    assert not (unpublished / "downloads").exists()
