"""Every notebook of the book keeps every rule, and each number in its prose a tie that holds."""

import re

import nbformat
import pytest

from tools.rules import ROOT, RULES, exercises_of, prose_of, read, toc_files
from tools.ties import backings_of_the_book, faults, statements_of

PAGES = toc_files()
NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]
TEXTS = [page for page in PAGES if page.suffix == ".md"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path, rule):
    assert not list(rule(read(path)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_names_no_version(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info


def test_every_notebook_and_page_is_in_the_table_of_contents():
    book = ROOT / "book"
    assert {*book.glob("*.ipynb"), *book.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_number_in_prose_is_tied_to_what_backs_it(path):
    backings = backings_of_the_book()
    assert not [fault for each in statements_of(path) for fault in faults(each, backings)]


def test_every_chapter_has_exercises_up_to_one_that_takes_an_hour():
    for path in NOTEBOOKS:
        exercises = exercises_of(read(path)).values()
        if path.stem != "index":
            assert len(exercises) >= 3, path.stem
            assert any("an hour" in exercise for exercise in exercises), path.stem


def test_every_labelled_equation_is_pointed_to_somewhere():
    texts = [path.read_text(encoding="utf-8") for path in TEXTS]
    texts += [source for path in NOTEBOOKS for _, source in prose_of(read(path))]
    text = "\n".join(texts)
    labels = re.findall(r"\$\$ *\((eq-[\w-]+)\)", text)
    assert len(labels) > 50
    assert sorted(set(labels) - set(re.findall(r"\{eq\}`(?:[^`]*<)?([\w-]+)>?`", text))) == []
