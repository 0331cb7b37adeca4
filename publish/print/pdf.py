"""Bind the pages of the EPUB into one document and let Chromium print it as a PDF:
`python -m publish.print.pdf [FOLDER]`, after `python -m publish.print.epub [FOLDER]`; with
`--chinese` both for the Chinese edition.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from pypdf import PdfReader, PdfWriter

from publish.catalogs import CHINESE, FRAME, translations
from publish.configuration import configuration
from publish.print import MATHJAX, TEMPLATES, asked, file_name
from tools.rules import ROOT

HERE = Path(__file__).parent

# The width of the text on A4, in pixels; any height.
VIEWPORT: ViewportSize = {"width": int(170 / 25.4 * 96), "height": 900}


class Chapter(NamedTuple):
    """A page of the EPUB as a part of one document."""

    name: str
    title: str
    html: Markup


class Part(NamedTuple):
    """A part of the book; the page that stands before the parts is one without a caption."""

    caption: str | None
    chapters: list[Chapter]


def css_string(text: str) -> Markup:
    """``text`` as a string of CSS, in a `<style>` element."""
    escaped = re.sub(r'["\\<]', lambda character: rf"\{ord(character[0]):x} ", text)
    return Markup(f'"{escaped}"')


def fill(template: str, **values: object) -> str:
    """What a template makes of ``values``."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["css_string"] = css_string
    return environment.get_template(template).render(values)


def chromium() -> str | None:
    """The system's Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def make_names_unique(root: Element, source: Path) -> None:
    """Change a page's names and links so that they stay apart when all are in one document."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if name := element.get("id"):
            element.set("id", f"{source.stem}--{name}")
        if image := element.get("src"):
            element.set("src", (source.parent / image).resolve().as_uri())
        link = element.get("href", "https:")
        if not link.startswith(("https:", "http:")):
            page, _, name = link.partition("#")
            page = Path(page or source).stem
            element.set("href", f"#{page}--{name}" if name else f"#{page}")


def put_tex_for_mathml(root: Element) -> None:
    """Give MathJax each equation in its source.

    From it MathJax draws an equation better: MathML does not say that max is an operator, and the
    spaces around it come out wrong.
    """
    for math in list(root.iter("math")):
        tex, tail = math.get("alttext"), math.tail
        form = r"\[{}\]" if math.get("display") == "block" else r"\({}\)"
        math.clear()
        math.set("class", "mathjax_process")
        math.tag, math.text, math.tail = "span", form.format(tex), tail


def read_chapter(source: Path) -> Chapter:
    """The chapter that the page ``source`` of the EPUB holds."""
    root = ElementTree.parse(source).getroot()
    make_names_unique(root, source)
    put_tex_for_mathml(root)
    section, heading = root.find(".//section"), root.find(".//section/h1")
    if section is None or heading is None:
        raise ValueError(f"{source} has no section with a title")
    html = ElementTree.tostring(section, encoding="unicode", method="html")
    return Chapter(source.stem, "".join(heading.itertext()), Markup(html))


def bind(pages: Path, config: dict[str, Any], source: Path) -> str:
    """The whole book as one HTML document."""
    toc = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    front = {"chapters": [{"file": toc["root"]}]}
    names = translations(FRAME, source) if config["language"] == CHINESE else {}
    parts = [
        Part(
            names.get(part.get("caption"), part.get("caption")),
            [read_chapter(pages / f"{entry['file']}.xhtml") for entry in part["chapters"]],
        )
        for part in [front, *toc["parts"]]
    ]
    styles = [pages / "_static/pygments.css", HERE / "ebook.css", HERE / "pdf.css"]
    scripts = [HERE / "pdf.js", MATHJAX / "tex-chtml.js"]
    return fill(
        "book.html.jinja",
        language=config["language"].replace("_", "-"),
        title=config["html_title"],
        contents=names.get("Contents", "Contents"),
        styles=[path.as_uri() for path in styles],
        scripts=[path.as_uri() for path in scripts],
        cover=(pages / "_static/cover.png").as_uri(),
        parts=parts,
    )


def write_fonts(target: Path) -> None:
    """Tell fontconfig in the file ``target`` which fonts there are."""
    folders = [Path(matplotlib.get_data_path(), "fonts", "ttf"), HERE / "fonts"]
    target.write_text(fill("fonts.conf.jinja", folders=folders), encoding="utf-8")


@contextmanager
def browser_with(fonts: Path) -> Iterator[Browser]:
    """Chromium, with no fonts but those that a file of fontconfig's names."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), env={**os.environ, "FONTCONFIG_FILE": str(fonts)}
        )
        yield browser
        browser.close()


def open_page(browser: Browser, source: Path) -> Page:
    """Open what is to be printed, with its formulas set.

    Chromium breaks the lines of some pages otherwise when it prints them a second time: each print
    is the first one of a page of its own.
    """
    page = browser.new_page(viewport=VIEWPORT)
    page.emulate_media(media="print")
    page.goto(source.as_uri())
    page.evaluate("typeset()")
    return page


def print_page(page: Page, target: Path, *, draft: bool = False) -> None:
    """Print ``page`` into the file ``target``; without tags and outline a ``draft`` is faster."""
    page.pdf(
        path=target,
        prefer_css_page_size=True,
        print_background=True,
        tagged=not draft,
        outline=not draft,
    )


def number_contents(page: Page, printed: Path) -> None:
    """Write into the contents on which page of ``printed`` each chapter begins."""
    reader = PdfReader(printed)
    for entry in page.locator("nav a").all():
        name = (entry.get_attribute("href") or "").replace("#", "/")
        start = reader.get_destination_page_number(reader.named_destinations[name])
        entry.locator(".number").evaluate("(e, start) => e.textContent = start + 1", start)


def add_author(target: Path, author: str) -> None:
    """Say whose book it is, which Chromium does not, and open it with its outline."""
    writer = PdfWriter(clone_from=target)
    writer.add_metadata({"/Author": author})
    writer.page_mode = "/UseOutlines"
    writer.write(target)


def build(folder: Path, *, chinese: bool = False, source: Path = ROOT) -> Path:
    """Print the pages of ``folder``/epub into ``folder``/pdf."""
    target = folder / "pdf" / f"{file_name(chinese)}.pdf"
    target.parent.mkdir(parents=True, exist_ok=True)
    config = configuration(source, folder / "epub", chinese=chinese)
    book, fonts = target.with_name("book.html"), target.with_name("fonts.conf")
    book.write_text(bind(folder / "epub" / "pages", config, source), encoding="utf-8")
    write_fonts(fonts)
    with browser_with(fonts) as browser:
        print_page(open_page(browser, book), target, draft=True)
        page = open_page(browser, book)
        number_contents(page, target)
        print_page(page, target)
    add_author(target, config["author"])
    return target


if __name__ == "__main__":
    if chromium() is None:
        sys.exit("Chromium is needed to print. On Debian: apt install chromium")
    target, in_zh = asked()
    print("The PDF is at", build(target, chinese=in_zh))
