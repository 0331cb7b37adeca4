"""The rule on numbers in prose is checked: what must fail fails, and few wrong numbers pass."""

import random
import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.prose_numbers import LARGE, SMALL, numbers_in
from tools.rules import toc_files
from tools.ties import (
    Statement,
    backings_of,
    backings_of_the_book,
    fault_of,
    faults,
    notebook_statements,
    page_statements,
    statements_of,
    tied_numbers,
)

# What share of wrong numbers, and of wrong ties, of the book may pass; what share of ties may be
# citations, which name what backs a number but do not hold it; how often each number is changed.
PASSING, CITATIONS, ROUNDS = 0.02, 0.02, 2


def counted(text):
    return [number.text for number in numbers_in(text) if number.counts]


def notebook(text, tie, *, printed="loss 1.25 of 38, 1,347 images", code="rate = 0.5", **metadata):
    """A notebook with a code cell, ``c-1``, and a text above it."""
    output = new_output("stream", name="stdout", text=printed)
    cell = new_code_cell(code, id="c-1", outputs=[output], metadata=metadata)
    prose = new_markdown_cell(text, id="c-0", metadata={"numbers": tie} if tie else {})
    return new_notebook(cells=[prose, cell])


def faults_of(book):
    return [
        fault for each in notebook_statements(book) for fault in faults(each, backings_of(book))
    ]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("It falls by 0.5 to 38, and 1,347 or 20 000 remain.", ["0.5", "38", "1,347", "20 000"]),
        ("4 images of 3 steps, 7 % and 1e-3", ["4", "3", "7", "1e-3"]),
        ("ten times, two seeds, twelve wines, some two percent", ["ten", "two", "twelve", "two"]),
        ("less than half, half of it, a third of it", ["half", "half", "a third"]),
        ("twice as large, a hundred thousand sets", ["twice", "a hundred thousand"]),
        ("a rate of `rate=0.5` and $n = 0.25$", ["0.5", "0.25"]),
        # What does not count:
        ("Keras 3.15 of 2015, Algorithm 1, the 15th, Step 12", []),
        ("from 0 to 1, two ways, a third flaw, the first half", []),
        ("## The 38 steps\n\n$$x = 12.5$$\n\n```python\ny = 99\n```", []),
        ("{cite}`lee2018many` and [keras#8982](https://github.com/x/8982)", []),
        ('% "38": "c-1: 38"', []),
    ],
)
def test_which_numbers_count(text, numbers):
    assert counted(text) == numbers


@pytest.mark.parametrize(
    ("text", "tie"),
    [
        ("It is 1.25, or 1.3.", {"1.25": "c-1: 1.25", "1.3": "c-1: 1.25"}),
        ("It is 125 %.", {"125": "c-1: 1.25"}),
        ("1,347 of them", {"1,347": "c-1: 1347"}),
        ("a rate of 0.5", {"0.5": "c-1: 0.5"}),
        ("a rate of one half", {"one half": "c-1: 0.5"}),
        ("It loses 37.5 %.", {"37.5": "c-1: 1.25 * (1 - 0.5) - 0.25 * 1"}),
        (
            "about 40, at least 38, fewer than 39",
            {"40": "c-1: 38", "38": "c-1: 38", "39": "c-1: 38"},
        ),
        ("38 and 1.25 make 39.25", {"38": "c-1: 38", "1.25": "c-1: 1.25", "39.25": "= 38 + 1.25"}),
        ("They report 4.9 {cite}`ioffe2015batch`.", {"4.9": "@ioffe2015batch"}),
        ("They report 4.9 ([the guide](https://x.org)).", {"4.9": "@the guide"}),
        ("38 wines, then 38 images", {"38 wines": "c-1: 38", "38 images": "c-1: 38.0"}),
        ("from 1 on", {"1": "c-1: 1.25"}),
        ("to twelve digits", {"twelve": "c-1: 1e-12"}),
    ],
)
def test_what_is_backed_passes(text, tie):
    assert faults_of(notebook(text, tie, code="rate = 0.5 * 0.25 + 1e-12")) == []


@pytest.mark.parametrize(
    ("text", "tie", "fault"),
    [
        ("It is 1.25.", {}, "not tied"),
        ("twelve wines", {}, "not tied"),
        ("It is 1.26.", {"1.26": "c-1: 1.25"}, "no rounding"),
        ("It is 1.26.", {"1.26": "c-1: 1.26"}, "c-1 has no 1.26"),
        ("It is 1.26.", {"1.26": "c-2: 1.26"}, "no cell c-2"),
        ("It is 1.26.", {"1.26": "about 1.26"}, "is no tie"),
        ("It is 1.26.", {"1.26": "c-1: round(1.25)"}, "is no tie"),
        ("It is 1.26.", {"1.26": "c-1: 1.25 / 0"}, "is no tie"),
        ("It is 1.26.", {"1.26": "= 1.26"}, "the text has no 1.26"),
        ("two percent", {"two": "c-1: 1 + 1"}, "c-1 has no 1"),
        ("It is 1.25.", {"1.25": "c-1: 1.25", "38": "c-1: 38"}, "no number in the text"),
        ("It is 12 %.", {"12": "c-1: 1.25"}, "no rounding"),
        ("a third of it", {"a third": "c-1: 0.5"}, "no rounding"),
        ("twice as much", {"twice": "c-1: 38 / 1.25"}, "no rounding"),
        ("eleven digits", {"eleven": "c-1: 38"}, "no rounding"),
        ("more than 40", {"40": "c-1: 38"}, "no rounding"),
        ("fewer than 30", {"30": "c-1: 38"}, "no rounding"),
        ("38 wines, then 38 images", {"38 wines": "c-1: 38"}, "not tied"),
        ("They report 4.9.", {"4.9": "@ioffe2015batch"}, "does not cite"),
        ("{cite}`ioffe2015batch`\n\nIt is 4.9.", {"4.9": "@ioffe2015batch"}, "does not cite"),
        ("| 4.9 |\n| {cite}`ioffe2015batch` |", {"4.9": "@ioffe2015batch"}, "does not cite"),
        ("They report 4.9 {cite}`wu2018group`.", {"4.9": "@ioffe2015batch"}, "does not cite"),
        ("from 1 on", {"1": "c-1: 38"}, "no rounding"),
    ],
)
def test_what_is_not_backed_fails(text, tie, fault):
    found = faults_of(notebook(text, tie))
    assert len(found) == 1
    assert fault in found[0]


def test_what_an_exempt_cell_prints_backs_nothing_but_its_code_does():
    exempt = {"tags": ["nbval-ignore-output"]}
    assert faults_of(notebook("1.25", {"1.25": "c-1: 1.25"}, **exempt))
    assert not faults_of(notebook("0.5", {"0.5": "c-1: 0.5"}, **exempt))


def test_parts_of_words_and_longer_numbers_back_nothing():
    for printed in ("v38", "38x", "138", "1.38", "38.5", "x_38"):
        assert faults_of(notebook("38", {"38": "c-1: 38"}, printed=printed))


def test_a_caption_and_an_alternative_text_are_held_to_the_ties_of_their_cell():
    for settings in ({"figure": {"caption": "Up to 38."}}, {"image": {"alt": "Up to 38."}}):
        assert faults_of(notebook("", {}, mystnb=settings))
        assert not faults_of(notebook("", {}, mystnb=settings, numbers={"38": "c-1: 38"}))
        assert faults_of(notebook("", {}, mystnb=settings, numbers={"38": "c-1: 1.25"}))


def test_a_figure_with_sliders_backs_its_settings_and_its_data():
    figure = {
        "params": [{"bind": {"max": 15}, "value": 4}, {"value": [77]}],
        "datasets": {"a": [{"x": 2.5}] * 30},
        "width": 640,
    }
    output = new_output("display_data", data={"application/vnd.vegalite.v5+json": figure})
    cell = new_code_cell("show()", id="c-1", outputs=[output])
    assert backings_of(new_notebook(cells=[cell]))["c-1"].printed == {15, 4, 2.5, 30}


def faults_of_page(page):
    backings = backings_of(notebook("", {}))
    return [fault for each in page_statements("page", page) for fault in faults(each, backings)]


def test_the_ties_of_a_page_are_comments_below_what_they_back():
    page = (
        'It is 38.\n\n% "38": "c-1: 38"\n\nIt is {} now, not 1.2.\n\n% "1.2": "c-1: 1.25"\n\nEnd.'
    )
    assert [list(each.ties) for each in page_statements("page", page)] == [["38"], ["1.2"], []]
    assert faults_of_page(page.format("less")) == []
    assert "not tied" in faults_of_page(page.format("38"))[0]
    assert "no rounding" in faults_of_page(page.replace("38", "39", 2))[0]


def another(text, chance):
    """A number of the same form as ``text``."""
    if text[0].isdigit():
        return re.sub(r"(?!0\.)\d", lambda _: chance.choice("123456789"), text)
    ratios = ["one half", "a third", "a quarter", "a fifth", "a tenth", "a hundredth"]
    ratios += ["two thirds", "three quarters", "three times", "four times", "five times"]
    scales = ["a hundred", "two hundred", "a thousand", "ten thousand", "a million"]
    groups = [list(SMALL), list(LARGE), scales, ratios]
    fitting = [group for group in groups if text.lower() in group]
    is_scale = re.search("hundred|thousand|million", text) and not text.endswith("th")
    return chance.choice(fitting[0] if fitting else scales if is_scale else ratios)


def with_another_number(statement, number, chance):
    """The text and the number in it when the prose, but not the tie, states another number."""
    while True:
        other = another(number.text, chance)
        end = number.start + len(number.text)
        text = statement.text[: number.start] + other + statement.text[end:]
        there = [each for each in numbers_in(text) if each.start == number.start]
        if there and there[0].value != number.value:
            return text, there[0]


def with_another_tie(tie, chance):
    """The tie with one of its numbers changed."""
    start = tie.index(": ") + 2 if ": " in tie else 1
    numbers = list(re.finditer(r"\d[\d.]*(?:e[-+]?\d+)?", tie[start:]))
    found = chance.choice(numbers)
    while True:
        other = another(found.group(), chance)
        if float(other) != float(found.group()):
            return tie[: start + found.start()] + other + tie[start + found.end() :]


def test_hardly_a_wrong_number_and_hardly_a_wrong_tie_of_the_book_would_pass():
    chance, backings = random.Random(0), backings_of_the_book()
    tied = [
        (statement, number, statement.ties[key])
        for path in toc_files()
        for statement in statements_of(path)
        for number, key in tied_numbers(statement)
        if key
    ]
    cited = [tie for _, _, tie in tied if tie.startswith("@")]
    assert len(cited) <= CITATIONS * len(tied)

    held = ROUNDS * [each for each in tied if not each[2].startswith("@")]
    wrong_numbers, wrong_ties = [], []
    for statement, number, tie in held:
        text, wrong = with_another_number(statement, number, chance)
        if fault_of(wrong, tie, text, backings) is None:
            wrong_numbers.append(f"{statement.place}: {number.text} → {wrong.text}, {tie}")
        wrong_tie = with_another_tie(tie, chance)
        if fault_of(number, wrong_tie, statement.text, backings) is None:
            wrong_ties.append(f"{statement.place}: {number.text}, {tie} → {wrong_tie}")
    print(f"{len(wrong_numbers)} numbers and {len(wrong_ties)} ties of {len(held)} each passed")
    assert len(held) > ROUNDS * 500
    assert len(wrong_numbers) <= PASSING * len(held), wrong_numbers
    assert len(wrong_ties) <= PASSING * len(held), wrong_ties


def test_a_number_is_found_by_the_longest_key_that_fits():
    text = "100 % at first, then near 100 % to the end"
    statement = Statement("c-0", text, {"100": "c-1: 38", "100 % to": "c-1: 1.25"})
    assert [key for _, key in tied_numbers(statement)] == ["100", "100 % to"]
