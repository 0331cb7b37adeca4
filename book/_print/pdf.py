"""Bind the pages of the EPUB into one document and let Chromium print it as a PDF:
`python book/_print/pdf.py [FOLDER]`, after `python book/_print/epub.py [FOLDER]`.
"""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from html import escape
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import yaml
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from shared import MATHJAX, NAME, ROOT

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
LAYOUT = {"prefer_css_page_size": True, "print_background": True}

HEAD = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{title}</title>
{styles}
<script>
MathJax = {{options: {{menuOptions: {{settings: {{assistiveMml: false}}}}}}}};
</script>
<script src="{mathjax}"></script>
</head>
<body>
<img id="cover" src="{cover}" alt="Cover: {title}">
"""
# A chapter begins a new kind of page, whose head bears the chapter's title.
CHAPTER = """<style>
#{page} {{ page: {page}; }}
@page {page} {{ @top-right {{ content: {head}; font: 9pt "Liberation Serif", serif; }} }}
</style>
<div id="{page}">
{text}
</div>
"""
ENTRY = (
    '<a href="#{page}"><span>{title}</span><span class="number">000</span></a>\n'
)

# MathJax draws the equations, and each one's source stands for it as a picture's words do.
# Marks that change nothing go: each would be an object of the PDF and double its size.
TYPESET = """async () => {
    for (const span of document.querySelectorAll("pre :is(.n, .p, .w, :empty), code .pre"))
        span.replaceWith(...span.childNodes);
    document.body.normalize();
    await MathJax.startup.promise;
    for (const math of MathJax.startup.document.math) {
        math.typesetRoot.setAttribute("role", "img");
        math.typesetRoot.setAttribute("aria-label", math.root.attributes.get("alttext"));
    }
    await document.fonts.ready;
}"""


def chromium() -> str | None:
    """The system's Chromium, or None."""
    names = (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    )
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str | None:
    """What this machine lacks, and how to get it."""
    if chromium() is None:
        return "Chromium is needed to print. On Debian: apt install chromium"
    fonts = shutil.which("fc-list")
    if fonts and not subprocess.check_output([fonts, ":lang=zh"]):
        return (
            "A font with Chinese is needed. On Debian: apt install fonts-noto-cjk"
        )
    return None


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
    return root.find(".//section")


def bind(pages: Path) -> str:
    """The whole book as one HTML document."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    here = Path(__file__).parent
    styles = [pages / "_static/pygments.css", here / "ebook.css", here / "pdf.css"]
    head = HEAD.format(
        language=CONFIG["sphinx"]["config"]["language"],
        title=escape(CONFIG["title"]),
        styles="".join(
            f'<link rel="stylesheet" href="{s.as_uri()}">' for s in styles
        ),
        mathjax=(MATHJAX / "mml-chtml.js").as_uri(),
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
        entry.locator(".number").evaluate(
            "(e, start) => e.textContent = start + 1", start
        )


def finish(target: Path) -> None:
    """Mend what Chromium writes: say whose book it is, and let searches find Chinese.

    Where a font draws a character and an old radical by one shape, as 一 and ⼀, the PDF
    says that the radical was meant, which nobody types.
    """
    writer = PdfWriter(clone_from=target)
    writer.add_metadata({"/Author": CONFIG["author"]})
    writer.page_mode = "/UseOutlines"
    fonts = {
        font.idnum: font.get_object()
        for page in writer.pages
        for font in page["/Resources"].get("/Font", {}).values()
    }
    for font in fonts.values():
        letters = font["/ToUnicode"]
        letters.set_data(re.sub(rb"<(2[EF]..)>\n", as_typed, letters.get_data()))
    writer.write(target)


def as_typed(radical: re.Match[bytes]) -> bytes:
    """The character for a radical, in hexadecimal digits."""
    return b"<%04X>\n" % ord(
        unicodedata.normalize("NFKC", chr(int(radical[1], 16)))
    )


def build(folder: Path) -> Path:
    """Print the pages of ``folder``/epub into ``folder``/pdf."""
    target = folder / "pdf" / f"{NAME}.pdf"
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_name("book.html")
    source.write_text(bind(folder / "epub" / "pages"), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        page = browser.new_page()
        page.goto(source.as_uri())
        page.evaluate(TYPESET)
        number_contents(page, target)
        page.pdf(path=target, tagged=True, outline=True, **LAYOUT)
        browser.close()
    finish(target)
    return target


if __name__ == "__main__":
    if lack := missing():
        sys.exit(lack)
    folder = Path(*sys.argv[1:] or [ROOT / "_build"]).resolve()
    print("The PDF is at", build(folder))
