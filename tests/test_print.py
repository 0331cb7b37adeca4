"""The EPUB and the PDF: whole, sound, and with the figures, equations and Chinese words right."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from xml.etree import ElementTree
from zipfile import ZIP_STORED, ZipFile

import pytest
import yaml
from fontTools.ttLib import TTFont
from matplotlib import get_data_path
from playwright.sync_api import Error, Page
from pypdf import PdfReader

from publish.catalogs import FRAME, translations
from publish.print.pdf import browser_with, css_string, number_contents, open_page, print_page
from tools.rules import ROOT, code_cells, read, text_of, toc_files
from tools.translations import english_left

PAGES = toc_files()
NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]
CHAPTERS = [page for page in NOTEBOOKS if page.stem != "index"]
TITLE = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["title"]
HAN = re.compile("[\u3400-\u9fff]+")
X = "{http://www.w3.org/1999/xhtml}"
MATH = "{http://www.w3.org/1998/Math/MathML}"

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(program: str, *arguments: object, **settings) -> subprocess.CompletedProcess:
    """Run a script of publish/print."""
    command = [sys.executable, "-m", f"publish.print.{program}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the EPUB was built, and the PDF may be."""
    folder = tmp_path_factory.mktemp("print")
    done = run("epub", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def epub(folder) -> ZipFile:
    """The EPUB."""
    (path,) = folder.glob("epub/*.epub")
    with ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def documents(epub) -> dict[str, ElementTree.Element]:
    """What is XML in the EPUB, which must be well-formed."""
    kinds = (".xhtml", ".svg", ".opf", ".ncx", ".xml")
    return {
        name: ElementTree.fromstring(epub.read(name))
        for name in epub.namelist()
        if name.endswith(kinds)
    }


@pytest.fixture(scope="module")
def package(documents) -> ElementTree.Element:
    """The EPUB's list of what it is and holds."""
    return documents["content.opf"]


@pytest.fixture
def page(documents, path) -> ElementTree.Element:
    """The EPUB's page for the source ``path``."""
    return documents[path.relative_to(ROOT).with_suffix(".xhtml").as_posix()]


def words(element: ElementTree.Element) -> str:
    """The text of ``element``, with single spaces."""
    return " ".join("".join(element.itertext()).split())


def title_of(page: ElementTree.Element) -> str:
    return words(page.find(f".//{X}h1"))


def source_of(path: Path) -> str:
    """The words of a page: its Markdown, the captions of its figures, the references."""
    if path.stem == "bibliography":
        path = path.with_name("references.bib")
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(
        cell.source
        if cell.cell_type == "markdown"
        else cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        for cell in read(path).cells
    )


def prose_of(path: Path) -> str:
    """The words of a page without code."""
    return re.sub(
        r"^```\w+$.*?^```$|(?<!`)`[^`\n]+`", "", source_of(path), flags=re.DOTALL | re.MULTILINE
    )


def equations_of(path: Path) -> Counter:
    """The TeX of each equation of a page."""
    if path.stem == "api":  # the docstrings are in reStructuredText
        source = "\n".join(p.read_text("utf-8") for p in (ROOT / "bn_tutorial").rglob("*.py"))
        inline = re.findall(r":math:`(.+?)`", source, flags=re.DOTALL)
        blocks = re.findall(r"( *)\.\. math::(.*(?:\n\1 +.*|\n\s*(?=\n))*)", source)
        found = inline + [block for _, block in blocks]
    else:
        found = re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", prose_of(path), flags=re.DOTALL)
        found = [block or inline for block, inline in found]
    return Counter(" ".join(tex.split()) for tex in found)


# The EPUB


def test_the_epub_is_packed_as_readers_expect(epub):
    first = epub.infolist()[0]
    assert (first.filename, first.compress_type) == ("mimetype", ZIP_STORED)
    assert epub.read("mimetype") == b"application/epub+zip"
    assert epub.testzip() is None
    assert sum(item.compress_size for item in epub.infolist()) < 3_000_000


def test_the_package_lists_what_it_holds(epub, package):
    listed = [item.get("href") for item in package.findall(".//{*}item")]
    assert len(listed) == len(set(listed))
    outside = {"mimetype", "META-INF/container.xml", "content.opf"}
    assert set(listed) == set(epub.namelist()) - outside


def test_the_package_says_what_the_book_is(package, documents):
    said = {element.tag.rpartition("}")[2]: element.text for element in package.iter()}
    assert said["title"] == TITLE
    assert said["language"] == "en"
    assert all(said[name] not in (None, "unknown") for name in ("creator", "rights", "description"))
    number = documents["toc.ncx"].find(".//{*}meta[@name='dtb:uid']").get("content")
    assert said["identifier"] == number != "unknown"
    features = {
        element.text
        for element in package.iter()
        if element.get("property") == "schema:accessibilityFeature"
    }
    assert features == {"alternativeText", "MathML", "tableOfContents"}


def test_the_package_says_what_its_files_are(package, documents):
    properties = {
        item.get("href"): item.get("properties") for item in package.findall(".//{*}item")
    }
    assert properties["_static/cover.png"] == "cover-image"
    for name, document in documents.items():
        if name.endswith(".xhtml") and name != "nav.xhtml":
            has_math = document.find(f".//{MATH}math") is not None
            assert properties[name] == ("mathml" if has_math else None)


def test_the_chapters_are_read_and_found_in_order(package, documents):
    href = {item.get("id"): item.get("href") for item in package.findall(".//{*}item")}
    spine = [href[item.get("idref")] for item in package.findall(".//{*}itemref")]
    expected = [page.relative_to(ROOT).with_suffix(".xhtml").as_posix() for page in PAGES]
    assert [name for name in spine if name.startswith("book/")] == expected
    nav = documents["nav.xhtml"].find(f".//{X}nav/{X}ol")
    assert [a.get("href") for a in nav.findall(f"{X}li/{X}a")] == expected
    for name, a in zip(expected, nav.findall(f"{X}li/{X}a"), strict=True):
        assert title_of(documents[name]).endswith(words(a))


def test_every_link_and_resource_is_inside(epub, documents):
    names = {
        (name, element.get("id")): element
        for name in documents
        for element in documents[name].iter()
    }
    for name, document in documents.items():
        ids = [element.get("id") for element in document.iter() if element.get("id")]
        assert len(ids) == len(set(ids)), name
        assert document.find(f".//{X}script") is None, name
        for element in document.iter():
            kind = element.tag.rpartition("}")[2]
            for attribute in ("href", "src", "{http://www.w3.org/1999/xlink}href"):
                target, _, fragment = unquote(element.get(attribute, "")).partition("#")
                if kind == "a" and target.startswith(("https:", "http:")):
                    continue
                place = os.path.normpath(PurePosixPath(name).parent / target) if target else name
                assert place in epub.namelist(), (name, target)
                assert not fragment or (place, fragment) in names, (name, target, fragment)
    for name in epub.namelist():
        if name.endswith(".css"):
            assert not re.search(r"@import|url\(", epub.read(name).decode()), name


def test_the_markup_keeps_to_the_standard(epub, documents):
    """What epubcheck found in Sphinx's own EPUB, and the parser forgives."""
    for name, document in documents.items():
        assert not re.search(rb"<!DOCTYPE[^>]*(?:PUBLIC|SYSTEM)", epub.read(name)), name
        for block in ("p", "ul", "ol", "div", "table", "figure"):
            assert document.find(f".//{X}p//{X}{block}") is None, (name, block)
        for math in document.iter(f"{MATH}math"):
            assert not any(key.startswith("data-") for e in math.iter() for key in e.attrib)


@each_page
def test_every_equation_is_mathml(path, page):
    maths = page.findall(f".//{MATH}math")
    assert Counter(math.get("alttext") for math in maths) == equations_of(path)
    for math in maths:
        assert len(list(math.iter())) > 1
        assert math.find(f".//{MATH}merror") is None
    prose = [e for e in page.iter(f"{X}p") if e.find(f".//{X}code") is None]
    assert not re.findall(r"\\[a-zA-Z]{2,}|\$", " ".join(map(words, prose)))


def test_equations_have_their_structure(documents):
    """MathJax's answers, by what must be in them."""
    maths = [math for page in documents.values() for math in page.iter(f"{MATH}math")]
    for command, element in {
        r"\frac": "mfrac",
        r"\sqrt": "msqrt",
        r"\begin{aligned}": "mtable",
        r"\begin{cases}": "mtable",
        r"\boxed": "menclose",
        r"\hat": "mover",
        r"\underbrace": "munder",
    }.items():
        found = [math for math in maths if command in math.get("alttext")]
        assert found, command
        for math in found:
            assert math.find(f".//{MATH}{element}") is not None, (command, math.get("alttext"))
    bold = [math for math in maths if r"\mathbf 1" in math.get("alttext")]
    assert bold
    assert all("\N{MATHEMATICAL BOLD DIGIT ONE}" in words(math) for math in bold)


@each_notebook
def test_every_figure_is_there_with_its_words(path, page, epub):
    figures = [
        cell.metadata.mystnb
        for cell in code_cells(read(path))
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]
    shown = page.findall(f".//{X}figure")
    assert len(page.findall(f".//{X}img")) == len(shown) == len(figures)
    for element, settings in zip(shown, sorted_as(shown, figures), strict=True):
        assert element.find(f".//{X}img").get("src").endswith(".svg")
        assert element.find(f".//{X}img").get("alt") == " ".join(settings.image.alt.split())
        assert words(element.find(f"{X}figcaption")).startswith("Fig. ")


def sorted_as(shown, figures):
    """``figures`` in the order of ``shown``: a solution's figure moves to the chapter's end."""
    by_name = {settings.figure.name: settings for settings in figures}
    return [by_name[element.get("id")] for element in shown]


@each_notebook
def test_every_printed_output_is_there(path, page):
    printed = [unescape("".join(pre.itertext())).strip() for pre in page.iter(f"{X}pre")]
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            if "image/svg+xml" not in output.get("data", {}):
                assert text_of(output).strip() in printed


@each_notebook
def test_folded_code_is_left_out_where_it_shows_something(path, page):
    shown = [unescape("".join(pre.itertext())).strip() for pre in page.iter(f"{X}pre")]
    assert page.find(f".//{X}details") is None
    for cell in code_cells(read(path)):
        left_out = "hide-input" in cell.metadata.get("tags", []) and cell.outputs
        assert (cell.source.strip() in shown) != bool(left_out)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_stand_at_the_end(path, page):
    chapter = page.find(f".//{X}section")
    assert words(chapter[-1].find(f"{X}h2")) == "Solutions"
    solutions = [e for e in page.iter(f"{X}div") if "solution" in e.get("class", "").split()]
    assert solutions == [e for e in chapter[-1] if e.tag == f"{X}div"]
    assert len(solutions) == source_of(path).count("```{exercise}") >= 3


@each_page
def test_chinese_is_marked_as_chinese(path, page):
    marked = Counter(e.text for e in page.iter() if e.get("lang") == "zh-Hans")
    assert marked.keys() >= set(HAN.findall(prose_of(path)))


# The PDF


@pytest.fixture(scope="module")
def pdf(folder) -> PdfReader:
    """The PDF, where this machine can print it."""
    done = run("pdf", folder)
    if " is needed" in done.stderr and os.environ.get("BROWSER_TESTS") != "required":
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("pdf/*.pdf")
    assert path.stat().st_size < 20_000_000
    return PdfReader(path)


def text_on(pdf: PdfReader, first: int, last: int) -> str:
    """What stands on the pages from ``first`` to before ``last``, with single spaces."""
    pages = pdf.pages[first - 1 : last - 1]
    return " ".join(" ".join(page.extract_text() for page in pages).split())


@pytest.fixture(scope="module")
def titles(documents) -> list[str]:
    """The chapters' titles, with their numbers."""
    return [
        title_of(documents[page.relative_to(ROOT).with_suffix(".xhtml").as_posix()])
        for page in PAGES
    ]


@pytest.fixture(scope="module")
def starts(pdf) -> dict[str, int]:
    """The pages that the outline's entries begin on, by title."""
    chapters = [entry for entry in pdf.outline if not isinstance(entry, list)]
    return {entry.title: pdf.get_destination_page_number(entry) + 1 for entry in chapters}


def test_a_title_may_have_quotes_and_tags():
    assert css_string("today’s") == '"today’s"'
    assert css_string(r'"a\b" </style>') == r'"\22 a\5c b\22  \3c /style>"'


def test_what_is_missing_is_named(tmp_path):
    done = run("pdf", tmp_path, env=os.environ | {"PATH": str(tmp_path)})
    assert done.returncode
    assert "apt install chromium" in done.stderr


def test_the_pdf_says_what_it_is(pdf):
    assert pdf.metadata.title == TITLE
    assert pdf.metadata.author
    root = pdf.trailer["/Root"]
    assert root["/Lang"] == "en"
    assert root["/MarkInfo"]["/Marked"]
    assert 150 < len(pdf.pages) < 500
    width, height = pdf.pages[0].mediabox.upper_right
    assert (round(width), round(height)) == (595, 842)


def test_the_outline_and_the_contents_lead_to_the_chapters(pdf, titles, starts):
    assert list(starts) == ["Contents", *titles]
    contents = text_on(pdf, 2, 3)
    for title in titles:
        assert f"{title} {starts[title]}" in contents
        assert title in text_on(pdf, starts[title], starts[title] + 1)


def test_every_link_of_the_pdf_leads_somewhere(pdf):
    names = pdf.named_destinations
    links = [
        annotation.get_object() for page in pdf.pages for annotation in page.get("/Annots", ())
    ]
    inside = [str(link["/Dest"]) for link in links if "/Dest" in link]
    assert len(inside) > 500
    assert set(inside) <= names.keys()
    assert all(link["/A"]["/URI"].startswith("http") for link in links if "/A" in link)


def test_the_pdf_holds_the_words(pdf, starts):
    for title, needed in {
        TITLE: {"158.11388", "归一化", "标准化", "正则化"},
        "6. Moving averages": {"1.2900001", "1.5610001"},
        "Glossary": set(HAN.findall(source_of(ROOT / "book" / "glossary.md"))),
    }.items():
        end = min(start for start in starts.values() if start > starts[title])
        text = text_on(pdf, starts[title], end)
        assert not [word for word in needed if word not in text]
        assert not re.search(r"Math (?:Processing|input) Error|\\frac|\\begin|\$\$", text)


def fonts_of(pdf: PdfReader) -> dict[str, list]:
    """The fonts of the PDF by name."""
    fonts = {
        font.idnum: font.get_object()
        for page in pdf.pages
        for font in page["/Resources"].get("/Font", {}).values()
        for font in [font.indirect_reference]
    }
    by_name = {}
    for font in fonts.values():
        described = font if font["/Subtype"] == "/Type3" else font["/DescendantFonts"][0]
        name = described["/FontDescriptor"]["/FontName"]
        by_name.setdefault(re.sub(r"^/(?:[A-Z]{6}\+)?", "", name), []).append(font)
    return by_name


def test_every_font_is_embedded(pdf):
    for name, fonts in fonts_of(pdf).items():
        for font in fonts:
            if font["/Subtype"] != "/Type3":  # whose letters are drawings in the file
                descriptor = font["/DescendantFonts"][0]["/FontDescriptor"]
                assert {"/FontFile", "/FontFile2", "/FontFile3"} & descriptor.keys(), name
            assert "/ToUnicode" in font, name


def test_the_fonts_are_the_projects_own(pdf):
    families = {re.split("[-_]", name)[0] for name in fonts_of(pdf)}
    assert families == {"STIXGeneral", "DejaVuSans", "DejaVuSansMono", "NotoSerifCJKsc", "MathJax"}


def test_the_fonts_of_the_machine_change_nothing(chinese, tmp_path, monkeypatch):
    """Printed again, as on a machine without a font."""
    printed = chinese_pdf(chinese)
    (tmp_path / "none.conf").write_text("<fontconfig/>")
    monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "none.conf"))
    with browser_with(printed.with_name("fonts.conf")) as browser:
        page = open_page(browser, printed.with_name("book.html"))
        number_contents(page, printed)
        print_page(page, tmp_path / "again.pdf")
    pdf, again = PdfReader(printed), PdfReader(tmp_path / "again.pdf")
    assert fonts_of(again).keys() == fonts_of(pdf).keys()
    assert len(again.pages) == len(pdf.pages)
    for one, other in zip(again.pages, pdf.pages, strict=True):
        assert one.get_contents().get_data() == other.get_contents().get_data()


def test_the_fonts_have_every_character(pdf, folder, documents):
    """What is missing? Where it is Chinese, publish/print/fonts/subset.py brings it."""
    matplotlib = Path(get_data_path(), "fonts", "ttf")
    latin = [matplotlib / f"{name}.ttf" for name in ("STIXGeneral", "DejaVuSans")]
    (source,) = folder.glob("pdf/*.html")
    figures = [words(documents[name]) for name in documents if name.endswith(".svg")]
    characters = set(unescape(source.read_text(encoding="utf-8"))).union(*figures) - {"\n"}
    for weight in ("Regular", "Bold"):
        paths = [*latin, ROOT / "publish" / "print" / "fonts" / f"NotoSerifCJKsc-{weight}.otf"]
        known = {chr(code) for path in paths for code in TTFont(path).getBestCmap()}
        assert characters - known == set()


def test_a_search_finds_every_word(pdf):
    """No ligature stands for its letters, and no old radical for the character of its shape."""
    for name, fonts in fonts_of(pdf).items():
        for font in fonts:
            letters = font["/ToUnicode"].get_data()
            assert not re.search(rb"<(?:2[EF]|FB)..>\n", letters), name


@pytest.fixture(scope="module")
def paper(pdf, folder) -> Page:
    """What the PDF was printed from, as wide as its text, with the fonts that it had."""
    (source,) = folder.glob("pdf/*.html")
    with browser_with(source.with_name("fonts.conf")) as browser:
        yield open_page(browser, source)


def test_nothing_is_cut_off_or_missing_on_paper(paper, documents):
    wide = """() => [...document.querySelectorAll("body *:not(#cover)")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.outerHTML.slice(0, 200))"""
    assert paper.evaluate(wide) == []
    assert paper.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert paper.evaluate("document.querySelectorAll('mjx-merror').length") == 0
    lost = """() => [...document.querySelectorAll("a[href^='#']")].map(
        a => a.getAttribute("href").slice(1)
    ).filter(name => !document.getElementById(name))"""
    assert paper.evaluate(lost) == []
    equations = sum(len(d.findall(f".//{MATH}math")) for d in documents.values())
    assert paper.evaluate("document.querySelectorAll('mjx-container').length") == equations


def test_a_wide_equation_shrinks_and_stays_readable(paper):
    line = paper.locator("div.math:has(.eqno)").first
    math, number = line.locator("mjx-math"), line.locator(".eqno")
    narrow = """(line, width) => {
        line.style.width = width + "px";
        fit(line.querySelector("mjx-container"));
    }"""
    wide, beside = math.bounding_box()["width"], number.bounding_box()["width"]
    line.evaluate(narrow, 0.8 * wide + 2 * beside + 16)
    assert 0.75 * wide < math.bounding_box()["width"] < 0.85 * wide
    end = math.bounding_box()["x"] + math.bounding_box()["width"]
    assert end < number.bounding_box()["x"]
    with pytest.raises(Error, match="Too wide to be printed"):
        line.evaluate(narrow, 0.5 * wide)


# The Chinese edition


SMALL_TOC = """format: jb-book
root: book/index
parts:
  - caption: The idea
    chapters:
      - file: book/terminology
  - caption: Reference
    chapters:
      - file: book/glossary
      - file: book/bibliography
"""
PRINT_SMALL = """
import sys
from pathlib import Path
from publish.print import epub, pdf
source, folder = map(Path, sys.argv[1:])
epub.build(folder, chinese=True, source=source)
if pdf.chromium():
    pdf.build(folder, chinese=True, source=source)
"""


@pytest.fixture(scope="module")
def chinese(tmp_path_factory) -> Path:
    """Where the Chinese edition of a small book was bound, and printed where there is Chromium: the
    first page and three more, whose references to others lead nowhere."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("chinese")
    config = (ROOT / "_config.yml").read_text("utf-8")
    config = config.replace("suppress_warnings: [", "suppress_warnings: [ref, toc, ")
    (source / "_config.yml").write_text(config, "utf-8")
    (source / "_toc.yml").write_text(SMALL_TOC, "utf-8")
    shutil.copytree(ROOT / "locale", source / "locale")
    (source / "book").mkdir()
    for name in ("index.ipynb", "terminology.ipynb", "glossary.md", "bibliography.md"):
        shutil.copy(ROOT / "book" / name, source / "book")
    shutil.copy(ROOT / "book" / "references.bib", source / "book")
    command = [sys.executable, "-c", PRINT_SMALL, str(source), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_chinese_epub_is_chinese(chinese):
    (path,) = chinese.glob("epub/*-zh.epub")
    with ZipFile(path) as archive:
        package = ElementTree.fromstring(archive.read("content.opf"))
        page = ElementTree.fromstring(archive.read("book/terminology.xhtml"))
    said = {element.tag.rpartition("}")[2]: element.text for element in package.iter()}
    assert said["language"] == "zh-CN"
    assert said["title"] == translations(FRAME)[TITLE]
    assert page.get("lang") == "zh-CN"
    text = words(page)
    assert "解答" in text
    assert re.search(r"图 ?\d", text)
    assert not [left for it in page.iter(f"{X}p") for left in english_left(words(it))]


def chinese_pdf(folder: Path) -> Path:
    """The PDF of the small book, where this machine can print it."""
    found = list(folder.glob("pdf/*-zh.pdf"))
    if not found and os.environ.get("BROWSER_TESTS") != "required":
        pytest.skip("there is no Chromium on the PATH")
    (path,) = found
    return path


def test_the_chinese_pdf_is_chinese(chinese):
    pdf = PdfReader(chinese_pdf(chinese))
    assert pdf.trailer["/Root"]["/Lang"] == "zh-CN"
    assert pdf.metadata.title == translations(FRAME)[TITLE]
    assert pdf.metadata.author == translations(FRAME)[f"The authors of {TITLE}"]
    assert "目录" in text_on(pdf, 2, 3)
    assert "思想" in text_on(pdf, 2, 3)
    text = text_on(pdf, 3, len(pdf.pages) + 1)
    for word in ("归一化", "标准化", "正则化", "解答"):
        assert word in text
    fonts = {re.split("[-_]", name)[0] for name in fonts_of(pdf)}
    assert "NotoSerifCJKsc" in fonts
    assert fonts <= {"STIXGeneral", "DejaVuSans", "DejaVuSansMono", "NotoSerifCJKsc", "MathJax"}


def test_the_chinese_font_has_every_character():
    """If not: publish/print/fonts/subset.py."""
    catalogues = "".join(path.read_text("utf-8") for path in ROOT.glob("locale/**/*.po"))
    used = set("".join(HAN.findall(catalogues)) + "，。：；？！、（）“”《》—…")
    for weight in ("Regular", "Bold"):
        font = TTFont(ROOT / "publish" / "print" / "fonts" / f"NotoSerifCJKsc-{weight}.otf")
        known = {chr(code) for code in font.getBestCmap()}
        assert not used - known
