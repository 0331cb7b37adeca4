"""The numbers that a text states, in digits and in words.

What counts, in Markdown, captions and alternative texts:

- every decimal and every integer of two digits or more, also 1,347, 20 000, 1e-3 and 10⁻³;
- one digit before what is measured (`MEASURES`: %, times, steps, …) or counted (`OTHER_UNITS`:
  images, rows, …);
- words for numbers from *eleven* up, and from *two* up before what is measured;
- words for ratios: *half of*, *than half*, *two thirds*, *twice as*, *double the*, *a tenth*;
- of formulas and code in a line, the decimals alone.

What does not: headings, code blocks, displayed formulas, link targets and options; names,
versions, years and ordinals (Keras 3.15, Algorithm 1, 2015, 15th); signs; bare digits ("from 0 to
1") and small counts in words ("two ways", "four steps"); *few*, *several*, *hundreds*; what
`IDIOMS` lists. A wrong one of these is for readers to find.

A number in digits rounds what lies within half a unit of its last place, a number in words what
lies within a half, and a ratio or a round word as *a thousand* what lies within `RATIO`. About a
number, `HEDGE`; "more than" and "less than" it, up to `BOUND`, and on that side alone. A
percentage also rounds a share: 12 % is 0.12. Digits and powers of ten also round an exponent: 12
digits are 1e-12.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# How far what backs a number may lie from it, relative to the number: words of ratio ("half of"),
# hedged numbers ("about 30"), and bounds ("more than 30"), these on one side.
RATIO, HEDGE, BOUND = 0.05, 0.1, 0.5


def numbered(words: str, first: int, step: int = 1) -> dict[str, int]:
    """The values of ``words``, which go on from ``first`` by ``step``."""
    return {word: first + step * place for place, word in enumerate(words.split())}


SMALL = numbered("two three four five six seven eight nine ten", 2)
TEENS = numbered("eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 11)
TENS = numbered("twenty thirty forty fifty sixty seventy eighty ninety", 20, step=10)
LARGE = {**TEENS, **TENS}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
PARTS = {
    **{
        part: 1 / n
        for part, n in numbered("half third quarter fifth sixth seventh eighth", 2).items()
    },
    **{"halve": 1 / 2, "tenth": 1 / 10, "hundredth": 1 / 100, "thousandth": 1 / 1000},
}
COUNTS = {"a": 1, "one": 1, "last": 1, **SMALL, **LARGE}
VALUES = {**COUNTS, **SCALES, **PARTS}
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def pattern(form: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """``form`` compiled, with its blanks for any white space."""
    return re.compile(form.replace(" ", r"\s"), flags)


def one_of(words: Iterable[str]) -> str:
    """A pattern for any of ``words``."""
    return "(?:" + "|".join(words) + ")"


NUMBER = pattern(
    r"(?<![\w.#])(?<![A-Za-z][-−])(?:"
    r"(?P<digits>\d{1,3}(?:,\d{3}| \d{3})+(?!\d)|\d+(?:\.\d+)?(?:e[-+−]?\d+)?)"
    r"(?P<power>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?(?!\w|\.\d)"
    r"|(?P<double>(?<=than )twice|twice(?= (?:as|the|its|their|that|what|of)\b)|double(?= the\b))"
    r"|(?P<half>(?:(?<=than )|(?<=by ))half\b|half(?= (?:of|the|an?|its|their|that|as)\b))"
    rf"|(?P<part>{one_of(COUNTS)} {one_of(PARTS)}s?)\b"
    rf"|(?P<scale>(?:{one_of(COUNTS)}[ -])?{one_of(SCALES)}(?: {one_of(SCALES)})?)\b"
    rf"|(?P<large>{one_of(LARGE)})\b"
    rf"|(?P<small>{one_of(SMALL)})\b)"
)
# What follows a number, or stands before it.
MEASURES = pattern(
    r"[ -]?(?:%|(?:percent|times|fold|powers? of ten|crossings?|reads?|writes?|steps?|updates?|"
    r"epochs|batches|seeds|digits?|bits?|bytes?|[kMG]?B|[mµ]?s|seconds?|minutes?|points?)\b)"
)
OTHER_UNITS = pattern(
    r"[ -](?:examples?|values?|features?|channels?|images?|pixels?|rows?|columns?|filters?|"
    r"layers?)\b"
)
PERCENT = pattern(r" ?(?:(?:to|and|or|–) \d+(?:\.\d+)? ?)?(?:%|percent\b)")
DIGITS = pattern(r"[ -](?:digits?|powers? of ten)\b")
# With the version before it, in "Keras 3.12 and 3.13".
NAME = pattern(
    r"\b(?:TensorFlow|Keras|Python|PyTorch|NumPy|IEEE|Algorithm|Chapter|Section|Table|Figure|"
    r"Example|Step|[Vv]ersions?)(?: \d+(?:\.\d+)*(?:,| and| to))* $",
    flags=0,
)
VAGUE = pattern(r"\b(?:few|several|many) $")
HEDGE_BEFORE = pattern(
    r"\b(?:about|around|some|nearly|almost|roughly|near|close to)(?: an?)? [-−]?$"
)
HEDGE_AFTER = pattern(r"^[^.;:]{0,20}\bor so\b")
# "No more than" is the other bound than "more than".
LEAST_BEFORE = pattern(
    r"(?:(?<!no )(?<!not )(?<!hardly )\b(?:more than|above|beyond)|\bat least|"
    r"\b(?:no|not|hardly) (?:less than|fewer than|below|under)) [-−]?$"
)
LEAST_AFTER = pattern(r"^[^.;:]{0,20}\bor more\b")
MOST_BEFORE = pattern(
    r"(?:(?<!no )(?<!not )(?<!hardly )\b(?:less than|fewer than|below|under)|\bat most|\bup to|"
    r"\b(?:no|not|hardly) (?:more than|above|beyond)) [-−]?$"
)
# One more, after two: not a ratio, unless the words around say so.
ORDINAL = pattern("a (?:third|fifth)")
RATIO_BEFORE, RATIO_AFTER = pattern(r"\b(?:to|by|than|about) $"), pattern(r"^ of\b")

IDIOMS = (
    r"(?:first|second) half|half a (?:dozen|migration)|half of the story|two halves"
    r"|(?:two|three|four) steps|two digits or more"
)
UNSPOKEN = [
    *(
        re.compile(form, re.MULTILINE | re.DOTALL)
        for form in (
            r"^```(?:python|bash|console|\{(?:code|index|bibliography|toctree)).*?^```$",
            r"\$\$.*?\$\$(?: *\([\w-]+\))?",
            r"^(?:`{3,}|:{3,})[^\n]*$",  # where a directive begins or ends
            r"^(?:#+ |:[\w-]+:|%|\([\w-]+\)=$)[^\n]*$",  # a heading, option, comment or label
            r"\{(?:ref|eq|numref|cite|cite:t|doc)\}`[^`<]*`",  # a reference without words
            r" ?<[^<>`\s]*>(?=`)",  # the target of one with words
            r"\{[\w:]+\}(?=`)",
            r"\[[\w-]+#\d+\]",  # an issue
            r"https?://[^\s)>]+",
        )
    ),
    pattern(IDIOMS),
]
CODE_IN_LINE = re.compile(r"(?<!`)`[^`\n]+`(?!`)|\$[^$\n]+\$")
DECIMAL = re.compile(r"(?<![\w.])(?:\d+\.\d+(?:e-\d+)?|\de-\d+)(?![\w.])")


@dataclass(frozen=True)
class Number:
    """A number in a text: where it stands, and between which values what backs it must lie."""

    start: int
    text: str
    value: float
    low: float
    high: float
    unit: str  # "%", "digits" or, for all others, nothing
    counts: bool  # as what the module says; otherwise it is a bare digit or a small count

    def is_rounding_of(self, value: float) -> bool:
        """Whether the text may state ``value`` by this number."""
        sizes = [abs(value)]
        if self.unit == "%":
            sizes.append(100 * abs(value))
        elif self.unit == "digits" and value:
            sizes.append(abs(math.log10(abs(value))))
        return any(self.low <= size <= self.high for size in sizes)


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers in ``text``, which is MyST."""
    spoken = spoken_part(text)
    for found in NUMBER.finditer(spoken):
        before = spoken[max(0, found.start() - 40) : found.start()]
        after = spoken[found.end() : found.end() + 40]
        value, margin = value_of(found)
        low, high = bounds(value, margin, before, after)
        yield Number(
            start=found.start(),
            text=found.group(),
            value=value,
            low=low * (1 - 1e-9),
            high=high * (1 + 1e-9),
            unit="%" if PERCENT.match(after) else "digits" if DIGITS.match(after) else "",
            counts=states_quantity(found, before, after),
        )


def states_quantity(found: re.Match[str], before: str, after: str) -> bool:
    """Whether a number counts, as the module says."""
    has_unit = bool(MEASURES.match(after) or OTHER_UNITS.match(after))
    if found["digits"]:
        is_year = re.fullmatch(r"(?:19|20)\d\d", found.group())
        is_version = NAME.search(before) and not found.group().startswith("0.")
        return not is_version and (has_unit or (len(found.group()) > 1 and not is_year))
    if found["small"]:
        return bool(MEASURES.match(after))
    if ORDINAL.fullmatch(found.group()):
        return bool(RATIO_BEFORE.search(before) or RATIO_AFTER.search(after))
    if found.group().startswith("last"):
        return bool(RATIO_AFTER.search(after))
    return not VAGUE.search(before)


def value_of(found: re.Match[str]) -> tuple[float, float]:
    """The value of a number, and how far what it rounds may lie from it."""
    if found["digits"]:
        digits = re.sub(r"[,\s]", "", found["digits"]).replace("−", "-")
        if found["power"]:
            value = float(digits) ** int(found["power"].translate(SUPERSCRIPTS))
            return value, RATIO * value
        mantissa, _, exponent = digits.partition("e")
        places = len(mantissa.partition(".")[2])
        return float(digits), 0.5 * 10.0 ** (int(exponent or 0) - places)
    if found["double"]:
        return 2.0, RATIO * 2
    value = 1.0
    for word in re.split(r"[\s-]", found.group().lower()):
        value *= VALUES.get(word) or VALUES[word.removesuffix("s")]
    return value, 0.5 if found["small"] or found["large"] else RATIO * value


def bounds(value: float, margin: float, before: str, after: str) -> tuple[float, float]:
    """Between which values what backs a number must lie, with the words around it."""
    if LEAST_BEFORE.search(before) or LEAST_AFTER.search(after):
        return value, value * (1 + BOUND)
    if MOST_BEFORE.search(before):
        return value / (1 + BOUND), value
    if HEDGE_BEFORE.search(before) or HEDGE_AFTER.search(after):
        margin = max(margin, HEDGE * value)
    return value - margin, value + margin


def spoken_part(text: str) -> str:
    """``text`` with blanks for all that states no quantity. What is left keeps its place."""
    for form in UNSPOKEN:
        text = form.sub(blank, text)
    return CODE_IN_LINE.sub(only_decimals, text)


def blank(found: re.Match[str]) -> str:
    """Blanks in place of what was found."""
    return re.sub(r"[^\n]", " ", found.group())


def only_decimals(found: re.Match[str]) -> str:
    """Blanks in place of all but the decimals."""
    kept = list(blank(found))
    for decimal in DECIMAL.finditer(found.group()):
        kept[slice(*decimal.span())] = decimal.group()
    return "".join(kept)
