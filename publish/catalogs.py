"""The catalogues of translations in `locale/`: `python -m publish.catalogs` brings them up to date
with the pages that `make book` has built.

Each page has a catalogue, and `sphinx.po` has what stands around the pages: titles, the words of
templates and programs, and those inside the figures with sliders. A message that was changed a
little keeps its old translation, marked as fuzzy, until somebody has seen to it; the pages show it
in English until then.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
import yaml
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_from_file
from babel.messages.pofile import read_po, write_po
from sphinx.ext import mathjax
from sphinx.writers import html5

from bn_tutorial.book.interactive.toolkit import MIME
from tools.rules import ROOT, code_cells, outputs_of, read, reason_of, toc_files
from tools.runs import MATRIX

CHINESE = "zh_CN"
LOCALE = "locale"
FRAME = "sphinx"  # the catalogue that Sphinx and its themes look into

HEADER = f'msgid ""\nmsgstr "Language: {CHINESE}\\nContent-Type: text/plain; charset=UTF-8\\n"\n\n'


def path_of(name: str, source: Path = ROOT) -> Path:
    """Where the catalogue of this name is."""
    return source / LOCALE / CHINESE / "LC_MESSAGES" / f"{name}.po"


def read_catalog(name: str, source: Path = ROOT) -> Catalog:
    """The catalogue of this name; an empty one where there is none yet."""
    path = path_of(name, source)
    if not path.exists():
        return Catalog(CHINESE)
    with path.open("rb") as file:
        return read_po(file, CHINESE)


def translations(name: str, source: Path = ROOT) -> dict[str, str]:
    """The finished translations in the catalogue of this name."""
    return {
        str(message.id): str(message.string)
        for message in read_catalog(name, source)
        if message.id and message.string and not message.fuzzy
    }


def messages_of_page(doctrees: Path, name: str) -> list[str]:
    """The messages of a built page, as `publish.ext.languages` has kept them."""
    messages: list[str] = pickle.loads((doctrees / f"{name}.doctree").read_bytes())["messages"]
    return messages


def messages_of_frame() -> Iterator[str]:
    """The messages around the pages."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    yield from (config["title"], config["author"])
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    yield from (part["caption"] for part in toc["parts"] if "caption" in part)
    marked = extract_from_dir(
        ROOT / "publish",
        method_map=[("**.py", "python"), ("templates/**.html", "jinja2")],
        keywords={"_": None},
    )
    yield from (str(found[2]) for found in marked)
    yield from theme_messages()
    yield from json.loads((ROOT / MATRIX).read_text("utf-8"))["differences"]
    for path in toc_files():
        if path.suffix == ".ipynb":
            notebook = read(path)
            yield from filter(None, map(reason_of, code_cells(notebook)))
            for _, _, output in outputs_of(notebook):
                if figure := output.get("data", {}).get(MIME):
                    yield from words_of_figure(figure)


def theme_messages() -> Iterator[str]:
    """The messages of Sphinx's pages and of the theme, which lack Chinese."""
    for module in (html5, mathjax):
        found = extract_from_file("python", str(module.__file__))
        yield from (str(message) for _, message, *_ in found)
    with Path(pydata_sphinx_theme.__path__[0], "locale", "sphinx.pot").open("rb") as file:
        messages = [str(message.id) for message in read_po(file) if message.id]
    yield from (message for message in messages if "<" not in message)  # Sphinx has those


def with_words(part: Any, say: Callable[[str], str], key: str = "", parent: str = "") -> Any:
    """A part of a Vega-Lite specification, with ``say`` of its words in their place.

    What ``say`` returns may have no straight quote.
    """
    if isinstance(part, dict):
        return {name: with_words(value, say, name, key) for name, value in part.items()}
    if isinstance(part, list):
        return [with_words(value, say, key, parent) for value in part]
    if not isinstance(part, str):
        return part
    is_datum = parent.startswith("data-")
    if key in ("title", "note") or (key, parent) == ("name", "bind") or is_datum:
        return say(part)
    # In an expression words stand between quotes.
    return re.sub("'([^']+)'", lambda word: f"'{say(word[1])}'", part)


def words_of_figure(specification: dict[str, Any]) -> list[str]:
    """The words inside a figure with sliders."""
    words: list[str] = []
    with_words(specification, lambda word: words.append(word) or word)  # type: ignore[func-returns-value]
    return [word for word in words if re.search("[A-Za-z]{2}", word)]


def update(name: str, messages: Iterable[str], known: dict[str, str]) -> None:
    """Bring the catalogue of this name up to date with its ``messages``.

    A new one that is ``known`` from another page is translated as there.
    """
    template = Catalog()
    for message in messages:
        template.add(message)
    catalog = read_catalog(name)
    catalog.update(template)
    for entry in catalog:
        entry.flags -= {"python-format", "python-brace-format"}  # Babel's guesses
        if entry.id in known and (entry.fuzzy or not entry.string):
            entry.string = known[str(entry.id)]
            entry.flags.discard("fuzzy")
    path = path_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(HEADER.encode())
        write_po(file, catalog, 100, omit_header=True, ignore_obsolete=True)


def main() -> None:
    """Bring all catalogues up to date, and say what is left to translate."""
    doctrees = ROOT / "_build" / ".doctrees"
    pages = [path.relative_to(ROOT).with_suffix("").as_posix() for path in toc_files()]
    sources = {name: messages_of_page(doctrees, name) for name in pages}
    known = {message: text for name in pages for message, text in translations(name).items()}
    for name, messages in {**sources, FRAME: list(messages_of_frame())}.items():
        update(name, messages, known)
        done = translations(name)
        for message in messages:
            if message not in done:
                print(f"{path_of(name).relative_to(ROOT)}: to translate: {message}")


if __name__ == "__main__":
    main()
