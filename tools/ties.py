"""The ties of numbers in prose: each number that counts is tied to the one place that backs it.

What counts, and what a number rounds, `prose_numbers` says. A tie stands beside its text: in the
metadata of a cell as ``"numbers": {number: tie}``, in a page without code as a comment below the
paragraph or table, ``% "number": "tie"``. The ties of a code cell are for its caption and its
alternative text. The number is written as in the text, with as many of the words that follow as
tell it from another: "100 %" and "100 % at" may stand side by side. The tie is one of

- ``"moments-012: 1.25"``: a cell, and a number that it prints or that its code contains, or an
  expression of such numbers, 1 and 100: ``1 - 38 / 100``. Signs do not count, and what an exempt
  cell prints does not. A figure with sliders prints their settings, its data, and how many these
  are;
- ``"= 4 + 1"``: an expression of other numbers in the same text, 1 and 100;
- ``"@ioffe2015batch"``: the source that the same paragraph, or row of a table, cites, or the words
  of a link in it. Whether it says so is for readers to check.

A tie fails when the number is no rounding of what backs it, and when the cell has that no more. It
holds while the cell has the number for any reason: whether it is the one meant, readers must see
to. A number that does not count may be tied as well, and is then held to it.
"""

import ast
import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nbformat import NotebookNode

from tools.prose_numbers import Number, numbers_in
from tools.rules import is_exempt, prose_of, read, text_of, toc_files

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
# What an expression may contain besides: what is whole, and what is whole in percent.
NEUTRAL = {1.0, 100.0}


@dataclass(frozen=True)
class Statement:
    """A text, and the ties of its numbers."""

    place: str
    text: str
    ties: dict[str, str]


@dataclass(frozen=True)
class Backing:
    """The numbers in what a cell prints, unless it is exempt, and in its code."""

    printed: frozenset[float] = frozenset()
    coded: frozenset[float] = frozenset()


def statements_of(path: Path) -> list[Statement]:
    """All that a notebook or a page says in words."""
    if path.suffix == ".ipynb":
        return list(notebook_statements(read(path)))
    return list(page_statements(path.stem, path.read_text(encoding="utf-8")))


def notebook_statements(notebook: NotebookNode) -> Iterator[Statement]:
    """What each cell says, with its ties."""
    for cell, text in prose_of(notebook):
        yield Statement(cell.id, text, dict(cell.metadata.get("numbers", {})))


def page_statements(name: str, text: str) -> Iterator[Statement]:
    """What a page says above each run of ties, with these, and below the last."""
    parts = re.split(r"((?:^% \".*\n?)+)", text, flags=re.MULTILINE)
    for said, comments in zip(parts[::2], [*parts[1::2], ""], strict=True):
        ties = ",".join(line.removeprefix("%") for line in comments.splitlines())
        yield Statement(name, said, json.loads(f"{{{ties}}}"))


def backing_of(cell: NotebookNode) -> Backing:
    """What a cell can back."""
    if cell.cell_type != "code":
        return Backing()
    outputs = [] if is_exempt(cell) else cell.outputs
    return Backing(
        frozenset(number for output in outputs for number in numbers_shown(output)),
        frozenset(constants_of(ast.parse(cell.source))),
    )


def numbers_shown(output: NotebookNode) -> Iterator[float]:
    """The numbers in what an output prints, and those of a figure with sliders."""
    number = r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d*)?(?:e[-+]?\d+)?(?!\w|\.\d)"
    for found in re.findall(number, text_of(output)):
        yield float(found.replace(",", ""))
    if figure := output.get("data", {}).get("application/vnd.vegalite.v5+json"):
        sliders = [parameter for parameter in figure["params"] if "bind" in parameter]
        rows = list(figure["datasets"].values())
        for found in re.findall(number, json.dumps([sliders, rows, list(map(len, rows))])):
            yield float(found)


def backings_of(notebook: NotebookNode) -> dict[str, Backing]:
    """What the cells of a notebook can back, by their names."""
    return {cell.id: backing_of(cell) for cell in notebook.cells}


@cache
def backings_of_the_book() -> dict[str, Backing]:
    """What the cells of all notebooks can back, by their names, in the order of the book."""
    notebooks = [read(path) for path in toc_files() if path.suffix == ".ipynb"]
    return {name: backing for each in notebooks for name, backing in backings_of(each).items()}


def faults(statement: Statement, backings: dict[str, Backing]) -> Iterator[str]:
    """What is wrong with the numbers of a statement and with their ties."""
    tied = tied_numbers(statement)
    for number, key in tied:
        place = f"{statement.place}, …{context(number, statement.text)}…: "
        if key is None:
            near = ", ".join(suggestions(number, statement.place, backings))
            yield f"{place}{number.text!r} is not tied; near it are {near or 'no such numbers'}"
        elif fault := fault_of(number, statement.ties[key], statement.text, backings):
            yield f"{place}{fault}"
    for key in statement.ties.keys() - {key for _, key in tied}:
        yield f"{statement.place}: {key!r} is tied, and is no number in the text"


def tied_numbers(statement: Statement) -> list[tuple[Number, str | None]]:
    """The numbers that count or are tied, and under which key."""
    numbers = list(numbers_in(statement.text))
    counting = [(n, key_of(n, statement)) for n in numbers if n.counts]
    taken = {None, *(key for _, key in counting)}
    others = [(n, key_of(n, statement)) for n in numbers if not n.counts]
    return counting + [(n, key) for n, key in others if key not in taken]


def key_of(number: Number, statement: Statement) -> str | None:
    """The longest key with which the text goes on where the number starts."""
    rest = statement.text[number.start :]
    keys = [
        key
        for key in statement.ties
        if key.startswith(number.text) and re.match(rf"{re.escape(key)}(?!\w)", rest)
    ]
    return max(keys, key=len, default=None)


def fault_of(number: Number, tie: str, text: str, backings: dict[str, Backing]) -> str | None:
    """Why a tie does not back a number of the text; None if it does."""
    if tie.startswith("@"):
        is_cited = tie[1:] in sources_of(paragraph_at(number.start, text))
        return None if is_cited else f"its paragraph does not cite {tie[1:]}"
    name, _, expression = ("", "", tie[1:]) if tie.startswith("=") else tie.partition(": ")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        value, operands = evaluate(tree), constants_of(tree)
    except (SyntaxError, ValueError, ArithmeticError):
        return f"{tie!r} is no tie"
    if not name:
        others = text[: number.start] + text[number.start + len(number.text) :]
        missing = operands - plain_numbers(others)
    elif name in backings:
        missing = operands - backings[name].printed - backings[name].coded
    else:
        return f"there is no cell {name}"
    if operands - NEUTRAL:
        missing -= NEUTRAL
    if missing:
        return f"{name or 'the text'} has no {', '.join(map(shown, missing))}"
    if not number.is_rounding_of(value):
        return f"{number.text!r} is no rounding of {shown(value)}"
    return None


def evaluate(node: ast.expr) -> float:
    """The value of an expression of numbers."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            result: float = OPERATIONS[type(op)](evaluate(left), evaluate(right))
            return result
    raise ValueError(f"not an expression of numbers: {ast.unparse(node)}")


def constants_of(tree: ast.AST) -> set[float]:
    """The numbers in an expression or in code."""
    return {
        float(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    }


def plain_numbers(text: str) -> set[float]:
    """All numbers in a text, formulas and code included."""
    digits = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)
    return {float(found.replace(",", "")) for found in digits} | {
        number.value for number in numbers_in(text)
    }


def paragraph_at(place: int, text: str) -> str:
    """The paragraph around a place, or the row of a table."""
    line_start, line_end = text.rfind("\n", 0, place) + 1, (text + "\n").index("\n", place)
    if text.startswith("|", line_start):
        return text[line_start:line_end]
    return text[text.rfind("\n\n", 0, place) + 1 : (text + "\n\n").index("\n\n", place)]


def sources_of(paragraph: str) -> set[str]:
    """The keys that a paragraph cites, and the words of its links."""
    keys = re.findall(r"\{cite(?::t)?\}`([^`]+)`", paragraph)
    return {key.strip() for group in keys for key in group.split(",")} | set(
        re.findall(r"\[([^\[\]]+)\]\(", paragraph)
    )


def suggestions(number: Number, place: str, backings: dict[str, Backing]) -> list[str]:
    """Up to three ties that would do, those from the nearest cells first."""
    names = list(backings)
    here = names.index(place) if place in backings else 0
    near = sorted(names, key=lambda name: abs(names.index(name) - here))
    found = [
        f'"{number.text}": "{name}: {shown(value)}"'
        for name in near
        for value in sorted(backings[name].printed) + sorted(backings[name].coded)
        if number.is_rounding_of(value)
    ]
    return list(dict.fromkeys(found))[:3]


def context(number: Number, text: str) -> str:
    """The words around a number."""
    around = text[max(0, number.start - 30) : number.start + len(number.text) + 30]
    return " ".join(around.split())


def shown(value: float) -> str:
    """A number as one writes it."""
    return f"{value:.15g}"
