"""Let the search find decimals and Chinese words, and quote the section that an index entry leads
to.

Sphinx takes 158.11388 apart, and its search then passes over bare digits. Here a decimal is one
word, both in the index (`split`) and in what the reader types (`splitQuery`). Other words are as
Sphinx splits them for English. So are Chinese ones, which no space parts: what stands between two
marks is one word, and the search also finds parts of words.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util.typing import ExtensionMetadata


class SearchWithDecimals(SearchEnglish):
    """The search, with each decimal as one word."""

    _word_re = re.compile(r"\d+\.\d+|\w+")
    js_splitter_code = r"""
var splitQuery = (query) => query.match(/\d+\.\d+|[\p{Letter}\p{Number}_]+/gu) ?? [];

// A page opened from a folder may not read other pages: its results have no excerpts.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY &&= location.protocol !== "file:";
"""


class SearchInChinese(SearchWithDecimals):
    """The same for Chinese pages."""

    lang = "zh"
    language_name = "Chinese"


def lead_to_sections(app: Sphinx, doctree: nodes.document) -> None:
    """Let an index entry above a heading lead to the section, which has a text to quote."""
    sections = {
        name: node["ids"][0] for node in doctree.findall(nodes.section) for name in node["ids"]
    }
    for index in doctree.findall(addnodes.index):
        index["entries"] = [
            (kind, value, sections.get(target, target), *rest)
            for kind, value, target, *rest in index["entries"]
        ]


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_search_language(SearchWithDecimals)
    app.add_search_language(SearchInChinese)
    app.connect("doctree-read", lead_to_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
