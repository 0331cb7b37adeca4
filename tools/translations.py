"""The rules of the Chinese edition: what a message and its translation share; how Chinese is set.

A message is what Sphinx takes for one: a paragraph, a heading, a cell of a table, a caption. Code,
formulas, roles, addresses and numbers stand in its translation as often as in the message, in any
order. Each term of `locale/zh_CN/terms.csv` has one name. Punctuation is full-width among Chinese
words, and a space parts these from Latin words, numbers, code and formulas.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from markdown_it import MarkdownIt

from tools.rules import ROOT

TERMS = ROOT / "locale" / "zh_CN" / "terms.csv"
GLOSSARY = ROOT / "book" / "glossary.md"
PACKAGE = ROOT / "bn_tutorial"

MARKUP = re.compile(
    r"\{(?P<role>[\w:-]+)\}`(?P<content>[^`]+)`"
    r"|(?P<code>(?P<ticks>`+).+?(?P=ticks))"
    r"|(?P<formula>\$[^$]+\$)"
    r"|\[(?P<words>[^\]]*)\]\((?P<address>[^)]*)\)"
    r"|(?P<link><?https?://[^\s>，。]+>?)"
)
TARGET = re.compile(r"(?P<words>.*?)\s*<(?P<target>[^<>]+)>", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:,\d{3})*(?:\.\d+)?")

# What stands for markup when Chinese is looked at as it is set: code, formulas and citations are
# Latin, and what a reference is called the page decides.
LATIN, ANY = "A", "\ue000"
CALLED_BY_THE_PAGE = {"doc", "eq", "numref", "ref", "term"}

HAN = "\u3400-\u9fff"
FULL_WIDTH = "，。：；？！（）“”、《》…—"
WORD = "A-Za-z0-9\u0370-\u03ff"
QUOTED = re.compile("“[^”]*”|《[^》]*》")
ENGLISH = re.compile(r"[A-Za-z][a-z'’]+(?:[ ,;:]+[A-Za-z][a-z'’-]*){4,}")
# A word as any other, unlike NaN or tf.cond; and names that look like one.
ORDINARY = re.compile(r"(?<![\w.])[A-Za-z][a-z]{2,}(?!\.?\w|[=#])")
NAMES = frozenset({"Flax", "Keras", "Lite", "Sonnet"})
TYPOGRAPHY = {
    f"(?:[{HAN}][{WORD}]|[{WORD}%][{HAN}])": "a space is missing in",
    f"[{HAN}] +[{HAN}]": "there is a space in",
    f" [{FULL_WIDTH}]|[{FULL_WIDTH.replace('—', '').replace('…', '')}] ": "there is a space in",
    f"[{HAN}][,.;:!?()\"']|[,;:!?()\"'][{HAN}]|[,;:!?] [{HAN}]": "half-width punctuation in",
    r"\.\.\.|--|。。|[.,;:]$": "punctuation in",
}


class Term(NamedTuple):
    """A line of the table of terms: what it is in English and in Chinese, and what not to write."""

    english: str
    chinese: str
    avoided: tuple[str, ...]


@cache
def terms() -> list[Term]:
    """The table of terms."""
    with TERMS.open(encoding="utf-8", newline="") as file:
        return [
            Term(english, chinese, tuple(filter(None, avoided.split("|"))))
            for english, chinese, avoided in list(csv.reader(file))[1:]
        ]


@cache
def names_in_glossary() -> dict[str, str]:
    """The English name of each entry of the glossary, by either of its names."""
    pairs = re.findall(r"^(\S.*)\n(\S.*)\n {2}", GLOSSARY.read_text(encoding="utf-8"), re.M)
    return {name: english for english, chinese in pairs for name in (english, chinese)}


def markup(text: str) -> Counter[str]:
    """The markup of a message, each as often as it stands there, without the words that it sets."""
    found: Counter[str] = Counter()
    for part in MARKUP.finditer(text):
        if role := part["role"]:
            named = TARGET.fullmatch(part["content"])
            target = named["target"] if named else part["content"]
            if role == "term":
                target = names_in_glossary().get(target, target).lower()
            found[f"{{{role}}}`{target}`"] += 1
        elif part["address"] is not None:
            found[f"({part['address']})"] += 1
        else:
            found[part[0]] += 1
    return found


def words(text: str, *, role: str = ANY, code: str = LATIN) -> str:
    """The message without markup: ``role`` for a reference without words of its own, ``code`` for
    code, a formula and a citation."""

    def set_words(part: re.Match[str]) -> str:
        if part["words"] is not None:
            return part["words"]
        if part["role"] is None:
            return code
        if named := TARGET.fullmatch(part["content"]):
            # A reference to a finding bears its name, as `outliers <wrong-outliers>` does.
            is_name = named["target"].endswith(f"-{named['words']}")
            return code if is_name else named["words"]
        if part["role"] == "term":
            return part["content"]
        if part["role"] == "numref":  # it ends with the number
            return role + code
        return role if part["role"] in CALLED_BY_THE_PAGE else code

    return re.sub(r"\*+", "", MARKUP.sub(set_words, text))


def numbers(text: str) -> Counter[str]:
    """The numbers of a message outside its markup."""
    return Counter(NUMBER.findall(words(text, role=" ", code=" ")))


def not_one_paragraph(translation: str) -> Iterator[str]:
    """What Sphinx would pass over, and emphasis that does not close."""
    plain = MARKUP.sub("{A}", translation)  # markup begins and ends with a mark
    kinds = [token.type for token in MarkdownIt().parse(plain)]
    if kinds != ["paragraph_open", "inline", "paragraph_close"]:
        yield "it is not one paragraph"
    for token in MarkdownIt().parseInline(plain)[0].children or []:
        if token.type == "text" and "*" in token.content:
            yield f"emphasis is not closed in {token.content}"


def same_markup(message: str, translation: str) -> Iterator[str]:
    """What of the one is not in the other."""
    for here, there in (markup, markup), (numbers, numbers):
        for lost in (here(message) - there(translation)).elements():
            yield f"{lost} is lost"
        for new in (there(translation) - here(message)).elements():
            yield f"{new} is new"


def same_terms(message: str, translation: str) -> Iterator[str]:
    """The terms that have another name than in the table."""
    english, chinese = words(message, role=" ", code=" "), words(translation)
    unquoted = QUOTED.sub("", chinese)
    for term in terms():
        is_named = re.search(rf"(?<![\w-]){term.english}s?(?![\w-])", english, re.I)
        if is_named and term.chinese not in chinese:
            yield f"{term.english} is {term.chinese}"
        for avoided in term.avoided:
            if avoided in unquoted:
                yield f"{term.chinese}, not {avoided}"


def typography(translation: str) -> Iterator[str]:
    """Where Chinese is not set as it should be; what is quoted in English is left as it is."""
    text = re.sub(f"“[^”{HAN}]*”", "“”", words(translation))
    for pattern, fault in TYPOGRAPHY.items():
        for found in re.finditer(pattern, text):
            around = text[max(0, found.start() - 8) : found.end() + 8]
            yield f"{fault} …{around.replace(ANY, '·')}…"


def english_left(translation: str) -> Iterator[str]:
    """Sentences that are still English."""
    text = QUOTED.sub("", words(translation, code=","))
    yield from (f"English is left: {found}" for found in ENGLISH.findall(text))


def stays(message: str) -> bool:
    """Whether a message is the same in Chinese: a name, or nothing but markup and Latin names."""
    if message in names_in_glossary() or message in {path.stem for path in PACKAGE.iterdir()}:
        return True
    ordinary = re.findall(ORDINARY, words(message, role=" ", code=" "))
    return NAMES.issuperset(ordinary)


def faults(message: str, translation: str) -> list[str]:
    """What is wrong with the translation of a message."""
    if message == translation or not re.search(f"[{HAN}{FULL_WIDTH}]", translation):
        return [] if message == translation and stays(message) else ["it is not translated"]
    return [
        *not_one_paragraph(translation),
        *same_markup(message, translation),
        *same_terms(message, translation),
        *typography(translation),
        *english_left(translation),
    ]
