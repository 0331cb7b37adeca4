"""The book's rules. Each is a function that yields what breaks it in one notebook.

nbval compares every cell's output with the stored one, but it passes over some things in
silence: cells without an execution count, PNG and JPEG. These rules cover what it leaves out.
The rule on numbers in prose has modules of its own, `prose_numbers` and `ties`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import takewhile
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
# On the path of a Python, this folder cuts it off from the network.
OFFLINE = ROOT / "tools" / "offline"
EXEMPT_TAGS = {"nbval-skip", "nbval-ignore-output"}
CLOCKS = {
    *("perf_counter", "process_time", "thread_time", "monotonic"),
    *("time_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns", "monotonic_ns"),
    *("timeit", "default_timer", "getrusage"),
}
# So many lines of imports at the start of a cell stay in sight.
SHORT = 12
# JupyterLab shows the first line of a folded cell: of an answer in words, this comment.
SCREEN = "% The answer in words\n\n"
FORBIDDEN_TAGS = {"raises-exception", "nbval-raises-exception", "skip-execution", "remove-output"}


def toc_files() -> list[Path]:
    """The pages of the table of contents, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]] + [
        chapter["file"] for part in toc["parts"] for chapter in part["chapters"]
    ]
    pages = []
    for name in names:
        found = [path for suffix in (".ipynb", ".md") if (path := ROOT / (name + suffix)).is_file()]
        if len(found) != 1:
            raise FileNotFoundError(f"_toc.yml names {name}, for which there are {found}")
        pages += found
    return pages


def read(path: Path) -> NotebookNode:
    """The notebook at ``path``."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode, NotebookNode]]:
    """Each output: the number of its code cell, this cell, and the output."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            yield number, cell, output


def statements_of(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode, ast.stmt]]:
    """Each statement: the number of its code cell, this cell, and the statement."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        for statement in ast.parse(cell.source).body:
            yield number, cell, statement


def is_exempt(cell: NotebookNode) -> bool:
    """Whether nbval does not compare the outputs of this cell."""
    return bool(EXEMPT_TAGS & set(cell.metadata.get("tags", [])))


def reason_of(cell: NotebookNode) -> str:
    """Why nbval does not compare the outputs of this cell, as its first line says."""
    found = re.match(r"# Not compared: (.+)", cell.source)
    return found.group(1) if found else ""


def text_of(output: NotebookNode) -> str:
    """What an output says in plain text."""
    if output.output_type == "stream":
        return str(output.text)
    return str(output.get("data", {}).get("text/plain", ""))


def ran_in_order(notebook: NotebookNode) -> Iterator[str]:
    """Each cell ran once, in order, in a fresh kernel: nbval skips a cell without a count."""
    for expected, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != expected:
            yield f"code cell {expected} has execution count {cell.execution_count}"
        for output in cell.outputs:
            if output.get("execution_count", expected) != expected:
                yield f"an output of code cell {expected} has another execution count"


def prints_in_one_piece(notebook: NotebookNode) -> Iterator[str]:
    """What a cell prints is stored as one output: in pieces, a page shows it torn apart."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        names = [output.get("name") for output in cell.outputs]
        if names.count("stdout") > 1:
            yield f"code cell {number} stores what it prints in {names.count('stdout')} pieces"


def ran_cleanly(notebook: NotebookNode) -> Iterator[str]:
    """No cell stores an error or writes to standard error, and no tag hides one."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        for tag in FORBIDDEN_TAGS & set(cell.metadata.get("tags", [])):
            yield f"code cell {number} is tagged {tag}"
        for comment in re.findall(r"#\s*((?:NBVAL|PYTEST_VALIDATE)_\w+)", cell.source):
            yield f"code cell {number} tells nbval {comment}; what is not compared has a tag"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {number} stores an error: {output.ename}"
            if output.get("name") == "stderr":
                yield f"code cell {number} writes to standard error: {output.text[:80]!r}"


def names_no_machine(notebook: NotebookNode) -> Iterator[str]:
    """No output shows a path of a machine or the address of an object."""
    trace = re.compile(
        r"(?:/(?:home|Users|root|tmp|work|usr|opt|var)/\w)|\b[A-Z]:\\\w|0x[0-9a-f]{6,}"
    )
    for number, _, output in outputs_of(notebook):
        if found := trace.search(text_of(output)):
            yield f"code cell {number} prints {found.group()!r}"


def figures_compare(notebook: NotebookNode) -> Iterator[str]:
    """Figures are SVG, which nbval compares, and carry no date."""
    for number, _, output in outputs_of(notebook):
        data = output.get("data", {})
        for kind in [kind for kind in data if kind in ("image/png", "image/jpeg")]:
            yield f"code cell {number} stores {kind}, which is never compared"
        if "<dc:date>" in data.get("image/svg+xml", ""):
            yield f"code cell {number} stores a figure with a date"


def figures_speak(notebook: NotebookNode) -> Iterator[str]:
    """Each figure has an alternative text that says something, a caption and a name."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        if not any("image/svg+xml" in output.get("data", {}) for output in cell.outputs):
            continue
        settings = cell.metadata.get("mystnb", {})
        if len(settings.get("image", {}).get("alt", "").split()) < 8:
            yield f"the figure of code cell {number} has no telling alt text"
        for need in ("caption", "name"):
            if not settings.get("figure", {}).get(need):
                yield f"the figure of code cell {number} has no {need}"


def figures_are_pointed_to(notebook: NotebookNode) -> Iterator[str]:
    """The text refers to each figure by its number."""
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for cell in code_cells(notebook):
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if name and not re.search(rf"\{{numref\}}`(?:[^`]*<)?{name}>?`", source):
            yield f"no text points to {name}"


def exemptions_conclude(notebook: NotebookNode) -> Iterator[str]:
    """A cell exempt from comparison is followed by a compared cell that states the conclusion.

    The next code cell is this cell, and no heading comes between.
    """
    cells, number = notebook.cells, 0
    for place, cell in enumerate(cells):
        number += cell.cell_type == "code"
        if cell.cell_type == "code" and is_exempt(cell):
            section = takewhile(lambda other: not begins_section(other), cells[place + 1 :])
            following = next((other for other in section if other.cell_type == "code"), None)
            if following is None or is_exempt(following) or not following.outputs:
                yield f"code cell {number} is exempt, and no compared cell follows in its section"


def begins_section(cell: NotebookNode) -> bool:
    """Whether a cell has a heading."""
    return cell.cell_type == "markdown" and bool(re.search(r"^#+ ", cell.source, re.MULTILINE))


def exemptions_say_why(notebook: NotebookNode) -> Iterator[str]:
    """A cell exempt from comparison begins with a comment that says why."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        if is_exempt(cell) and len(reason_of(cell).split()) < 3:
            yield f"code cell {number} is exempt, and does not begin with '# Not compared: …'"


def clocks_are_exempt(notebook: NotebookNode) -> Iterator[str]:
    """No compared cell reads what a clock measured: that depends on what else the machine does.

    A function that reads one of `CLOCKS` is a clock, and so is what a statement sets that does so.
    """
    clocks = set(CLOCKS)
    for number, cell, statement in statements_of(notebook):
        measured = names_in(statement, ast.Load) & clocks
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            known = {statement.name}
        else:
            known = {name for node in ast.walk(statement) for name in set_by(node, clocks)}
            if measured and not is_exempt(cell):
                yield f"code cell {number} reads what a clock measured: {sorted(measured)}"
        if measured:
            clocks |= known
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign):
            clocks -= known


def set_by(node: ast.AST, clocks: set[str]) -> set[str]:
    """The names that a node sets; of a call of a method, as `append`, whose it is."""
    match node:
        case ast.Assign(targets=targets):
            return set().union(*(names_in(target) for target in targets))
        case ast.AugAssign() | ast.AnnAssign() | ast.NamedExpr():
            return names_in(node.target)
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner))):
            return names_in(owner) if names_in(node) & clocks else set()
    return set()


def names_in(code: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> set[str]:
    """The names and attributes that a piece of code reads, or sets, or both."""
    nodes = [node for node in ast.walk(code) if isinstance(getattr(node, "ctx", None), context)]
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def needs_no_network(notebook: NotebookNode) -> Iterator[str]:
    """No cell names what would fetch something (the kernels that run them are offline as well)."""
    fetchers = re.compile(
        r"\b(?:requests|urllib|httpx|aiohttp|ftplib|tensorflow_datasets|fetch_\w+|get_file|"
        r"load_data|https?://\S+)|^\s*[!%]",
        re.MULTILINE,
    )
    for number, cell in enumerate(code_cells(notebook), start=1):
        if found := fetchers.search(cell.source):
            yield f"code cell {number} contains {found.group()!r}"


def exercises_of(notebook: NotebookNode) -> dict[str, str]:
    """The label of each exercise and what it says."""
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    form = re.compile(r"```\{exercise\}[^\n]*\n:label: (\S+)\n(.*?)\n```", re.DOTALL)
    return dict(form.findall(source))


def solutions_of(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """The cells between the two marks of each solution, with the label of its exercise."""
    label = ""
    for cell in notebook.cells:
        if cell.source.startswith("```{solution-end}"):
            label = ""
        if start := re.match(r"```\{solution-start\} (\S+)", cell.source):
            label = start.group(1)
        elif label:
            yield label, cell


def exercises_are_solved(notebook: NotebookNode) -> Iterator[str]:
    """Each exercise has a solution with cells that run, and a link to it (Sphinx links back)."""
    exercises = exercises_of(notebook)
    for label, body in exercises.items():
        if f"{{ref}}`{label}-solution`" not in body:
            yield f"exercise {label} does not link to its solution, {label}-solution"
    solved = {label for label, cell in solutions_of(notebook) if cell.cell_type == "code"}
    for label in sorted(exercises.keys() - solved):
        yield f"exercise {label} has no solution that runs"
    for label in sorted(solved - exercises.keys()):
        yield f"solution {label} has no exercise"


def imports_at_length(cell: NotebookNode) -> bool:
    """Whether a cell that ran begins with imports, has many lines, and shows nothing."""
    is_long = len(cell.source.splitlines()) > SHORT
    starts = cell.source.startswith(("import ", "from "))
    return bool(is_long and starts and cell.execution_count and not cell.outputs)


def with_folds(notebook: NotebookNode) -> NotebookNode:
    """The notebook with what folds cells: long imports, what has the tag `hide-input`, and
    solutions. The book goes by the tags, JupyterLab by `jupyter`."""
    notebook = deepcopy(notebook)
    solutions = {cell.id for _, cell in solutions_of(notebook)}
    for cell in notebook.cells:
        is_code, is_solution = cell.cell_type == "code", cell.id in solutions
        tags = cell.metadata.get("tags", [])
        if is_code and imports_at_length(cell) and "hide-input" not in tags:
            tags = cell.metadata["tags"] = [*tags, "hide-input"]
        hidden = {
            "source_hidden": is_solution or "hide-input" in tags,
            "outputs_hidden": is_solution and is_code,
        }
        if is_solution and not is_code and not cell.source.startswith("%"):
            cell.source = SCREEN + cell.source
        cell.metadata.pop("collapsed", None)  # JupyterLab's other word for hidden outputs
        cell.metadata.pop("jupyter", None)
        if any(hidden.values()):
            cell.metadata["jupyter"] = {key: True for key, is_hidden in hidden.items() if is_hidden}
    return notebook


def cells_are_folded(notebook: NotebookNode) -> Iterator[str]:
    """Long imports, the code of figures and solutions are folded, and nothing else is."""
    for number, (cell, folded) in enumerate(
        zip(notebook.cells, with_folds(notebook).cells, strict=True), start=1
    ):
        if cell != folded:
            yield f"cell {number} is not folded as it should be, which `make format` mends"


def prose_of(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, str]]:
    """Each cell that says something in words, and what: a text, or a caption and what it shows."""
    for cell in notebook.cells:
        settings = cell.metadata.get("mystnb", {})
        caption = settings.get("figure", {}).get("caption", "")
        alt = settings.get("image", {}).get("alt", "")
        text = cell.source if cell.cell_type == "markdown" else f"{caption}\n\n{alt}".strip()
        if text:
            yield cell, text


RULES: list[Callable[[NotebookNode], Iterator[str]]] = [
    ran_in_order,
    prints_in_one_piece,
    ran_cleanly,
    names_no_machine,
    figures_compare,
    figures_speak,
    figures_are_pointed_to,
    exemptions_conclude,
    exemptions_say_why,
    clocks_are_exempt,
    needs_no_network,
    exercises_are_solved,
    cells_are_folded,
]
