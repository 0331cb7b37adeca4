"""Bind the pages of the EPUB into one document and let Chromium print it as a PDF:
`python -m publish.print.pdf [FOLDER]`, after `python -m publish.print.epub [FOLDER]`.
"""

import json
import os
import shutil
import sys
from html import escape
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
import yaml
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter

from publish.print.shared import MATHJAX, NAME, ROOT

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
LAYOUT = {"prefer_css_page_size": True, "print_background": True}

# The width of the text on A4, in pixels; any height.
TEXT = {"width": int(170 / 25.4 * 96), "height": 900}

# The fonts that Chromium gets to see: Matplotlib's and the book's own Chinese one, none of
# this machine's. CSS could not do it alone: a figure is a picture, which no @font-face
# reaches, and where Chromium finds no font at all it prints empty pages. With hinting,
# letters would stand at whole pixels of a screen, too close or too far apart.
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
<dir>{matplotlib}/fonts/ttf</dir>
<dir>{own}</dir>
<cachedir prefix="xdg">fontconfig</cachedir>
<selectfont><rejectfont><glob>*/LastResort*</glob></rejectfont></selectfont>
<match target="font"><edit name="hintstyle"><const>hintnone</const></edit></match>
</fontconfig>
"""

HEAD = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{title}</title>
{styles}
<script src="{script}"></script>
<script src="{mathjax}"></script>
</head>
<body>
<img id="cover" src="{cover}" alt="Cover: {title}">
"""
# A chapter begins a new kind of page, whose head bears the chapter's title.
CHAPTER = """<style>
#{page} {{ page: {page}; }}
@page {page} {{ @top-right {{ content: {head}; }} }}
</style>
<div id="{page}">
{text}
</div>
"""
ENTRY = '<a href="#{page}"><span>{title}</span><span class="number">000</span></a>\n'


def chromium() -> str | None:
    """The system's Chromium, or None."""
    names = (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    )
    return next(filter(None, map(shutil.which, names)), None)


def chapter(source: Path) -> Element:
    """A chapter, with names and links that stay apart when all are in one document."""
    root = ElementTree.parse(source).getroot()
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
    for math in list(root.iter("math")):
        # From its source MathJax draws an equation better: MathML does not say that max is
        # an operator, and the spaces around it come out wrong.
        tex, tail = math.get("alttext"), math.tail
        form = r"\[{}\]" if math.get("display") == "block" else r"\({}\)"
        math.clear()
        math.set("class", "mathjax_process")
        math.tag, math.text, math.tail = "span", form.format(tex), tail
    return root.find(".//section")


def bind(pages: Path) -> str:
    """The whole book as one HTML document."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    here = Path(__file__).parent
    styles = [pages / "_static/pygments.css", here / "ebook.css", here / "pdf.css"]
    head = HEAD.format(
        language=CONFIG["sphinx"]["config"]["language"],
        title=escape(CONFIG["title"]),
        styles="".join(f'<link rel="stylesheet" href="{s.as_uri()}">' for s in styles),
        script=(here / "pdf.js").as_uri(),
        mathjax=(MATHJAX / "tex-chtml.js").as_uri(),
        cover=(pages / "_static/cover.png").as_uri(),
    )
    contents, chapters = "<nav><h1>Contents</h1>\n", ""
    for part in [{"chapters": [{"file": toc["root"]}]}, *toc["parts"]]:
        if "caption" in part:
            contents += f'<h2 role="presentation">{escape(part["caption"])}</h2>\n'
        for name in [entry["file"] for entry in part["chapters"]]:
            section = chapter(pages / f"{name}.xhtml")
            title = "".join(section.find("h1").itertext())
            page = Path(name).name
            contents += ENTRY.format(page=page, title=escape(title))
            text = ElementTree.tostring(section, encoding="unicode", method="html")
            chapters += CHAPTER.format(
                page=page, head=json.dumps(title, ensure_ascii=False), text=text
            )
    return f"{head}{contents}</nav>\n{chapters}</body>\n</html>\n"


def number_contents(page: Page, target: Path) -> None:
    """Print, see on which page each chapter begins, and write it into the contents."""
    page.pdf(path=target, **LAYOUT)
    reader = PdfReader(target)
    for entry in page.locator("nav a").all():
        name = entry.get_attribute("href").replace("#", "/")
        start = reader.get_destination_page_number(reader.named_destinations[name])
        entry.locator(".number").evaluate("(e, start) => e.textContent = start + 1", start)


def finish(target: Path) -> None:
    """Say whose book it is, which Chromium does not."""
    writer = PdfWriter(clone_from=target)
    writer.add_metadata({"/Author": CONFIG["author"]})
    writer.page_mode = "/UseOutlines"
    writer.write(target)


def write_fonts(folder: Path) -> Path:
    """Write into ``folder`` where the fonts are, as fontconfig wants to be told."""
    target = folder / "fonts.conf"
    text = FONTS.format(
        matplotlib=escape(matplotlib.get_data_path()),
        own=escape(str(Path(__file__).with_name("fonts"))),
    )
    target.write_text(text, encoding="utf-8")
    return target


def build(folder: Path) -> Path:
    """Print the pages of ``folder``/epub into ``folder``/pdf."""
    target = folder / "pdf" / f"{NAME}.pdf"
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_name("book.html")
    source.write_text(bind(folder / "epub" / "pages"), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            env=os.environ | {"FONTCONFIG_FILE": str(write_fonts(target.parent))},
        )
        page = browser.new_page(viewport=TEXT)
        page.emulate_media(media="print")
        page.goto(source.as_uri())
        page.evaluate("typeset()")
        number_contents(page, target)
        page.pdf(path=target, tagged=True, outline=True, **LAYOUT)
        browser.close()
    finish(target)
    return target


if __name__ == "__main__":
    if chromium() is None:
        sys.exit("Chromium is needed to print. On Debian: apt install chromium")
    folder = Path(*sys.argv[1:] or [ROOT / "_build"]).resolve()
    print("The PDF is at", build(folder))
