"""Run the tests with other versions: `make matrix` prints a table and keeps it for the status page.

Each row gets an environment of its own, with the locked versions but for what the row names, and a
copy of the sources. It runs the package's tests and all notebooks. Python interpreters are those
that uv finds on this machine; a row whose Python is not there is not run, and says so.

    .venv/bin/python -m tools.matrix [row ...]    (numbers from 1; all by default)
    .venv/bin/python -m tools.matrix newest       (the newest releases; not kept)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement

from tools.rules import ROOT, code_cells, read
from tools.runs import MATRIX, PACKAGES

UV = Path(sys.executable).with_name("uv")
WORK = ROOT / "_build" / "matrix"
# The package's tests. The others look at the book's files and pages, which are the same everywhere.
OF_THE_BOOK = {"book", "environment", "github", "print", "publish", "rules", "site", "status"}
TESTS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if path.stem.removeprefix("test_") not in OF_THE_BOOK
]
# Those that need nothing but the package and the tools that `install` adds to it: files, or all
# that are in a folder of this name.
ALONE = {
    *("backward", "batch_norm", "examples", "find", "folding", "layers", "moving_average", "tf1"),
}
TESTS_ALONE = [
    test
    for test in TESTS
    if ALONE & {Path(test).stem.removeprefix("test_"), *Path(test).parts[1:-1]}
]
NIGHTLY = "TensorFlow's release candidates ask for keras-nightly, which overwrites Keras's files"


@dataclass(frozen=True)
class Row:
    """The locked versions, but for what is named here."""

    python: str
    others: tuple[str, ...] = ()
    onednn: bool = False
    # The package without its extras, with the "newest" or the "oldest" versions that it takes.
    alone: str = ""

    @property
    def is_locked(self) -> bool:
        """Whether all versions are those of the lock."""
        return not self.others and not self.alone

    def __str__(self) -> str:
        kind = f"the package alone, {self.alone} versions" if self.alone else "locked"
        others = [o if Requirement(o).specifier else f"newest {o}" for o in self.others]
        onednn = "oneDNN on" if self.onednn else "oneDNN off"
        return ", ".join([f"Python {self.python}", kind, *others, onednn])


ROWS = [
    Row("3.11"),
    Row("3.12"),
    Row("3.13"),
    Row("3.12", onednn=True),
    Row("3.13", ("keras==3.12.*",)),
    Row("3.12", ("tensorflow==2.20.*",)),
    Row("3.11", ("tensorflow==2.19.*",)),
    Row("3.13", ("tensorflow==2.22.0rc0",)),
    Row("3.13", alone="newest"),
    Row("3.11", alone="oldest"),
    # The figures wait for an Altair that runs on 3.14 and whose output nbformat takes.
    Row("3.14", ("tensorflow==2.22.0rc0",), alone="newest"),
]
# The newest releases, whatever pyproject.toml says of them: this row asks what is coming, and what
# comes out changes with the day. It is no part of the table.
NEWEST = Row("3.13", ("tensorflow", "keras", "numpy"))


@dataclass(frozen=True)
class Difference:
    """Cells whose outputs may differ with some versions of a package, and the reason."""

    cells: tuple[str, ...]
    versions: str  # a requirement
    reason: str

    def __str__(self) -> str:
        cells = ", ".join(f"`{cell}`" for cell in self.cells)
        return f"{self.versions}, cells {cells}: {self.reason}"

    def covers(self, cell: str, versions: dict[str, str]) -> bool:
        """Whether a cell may differ with these versions."""
        which = Requirement(self.versions)
        return cell in self.cells and which.specifier.contains(versions[which.name], True)


# All that may differ between versions.
DIFFERENCES = [
    Difference(
        (
            *("moments-018", "moments-066", "moments-074", "moments-079"),
            *("speed-014", "speed-018", "speed-019", "speed-022", "speed-036"),
            "speed-039",
        ),
        "TensorFlow>=2.22.0rc0",
        "`tf.nn.moments` subtracts from the mean of (x − μ)² the square of the mean of x − μ",
    ),
    Difference(
        ("moments-020",),
        "TensorFlow>=2.22.0rc0",
        "`tf.nn.moments` takes a constant tensor for its axes",
    ),
]


def uv(*arguments: str | Path, environment: Path) -> None:
    """Run uv for an environment."""
    subprocess.run(
        [UV, *arguments],
        check=True,
        env={**os.environ, "VIRTUAL_ENV": str(environment)},
    )


def install(row: Row, environment: Path, sources: Path) -> None:
    """Set up the environment of a row."""
    uv("venv", "--quiet", "--clear", "--python", row.python, environment, environment=environment)
    overrides = environment / "overrides.txt"
    overrides.write_text(f"keras-nightly; sys_platform == 'never'  # {NIGHTLY}\n")
    pip: list[str | Path] = ["pip", "install", "--quiet", "--overrides", overrides]
    if row.alone:
        resolution = {"newest": "highest", "oldest": "lowest-direct"}[row.alone]
        uv(*pip, "--resolution", resolution, sources, *row.others, environment=environment)
        uv(*pip, "pytest", "hypothesis", "scikit-learn", environment=environment)
        return
    # What a row names has other versions of its dependencies as well, and comes after the others.
    named = {Requirement(other).name for other in row.others}
    packages = re.split(r"\n(?=\S+==)", (ROOT / "requirements.txt").read_text("utf-8"))
    locked = environment / "locked.txt"
    locked.write_text("\n".join(p for p in packages if p.partition("==")[0] not in named), "utf-8")
    uv(*pip, "--requirement", locked, environment=environment)
    if row.others:
        uv(*pip, *row.others, environment=environment)
    uv(*pip, "--no-deps", "--editable", sources, environment=environment)


def versions_in(environment: Path) -> dict[str, str]:
    """The versions that an environment has, Python's among them."""
    code = (
        "import json, platform; from importlib.metadata import version; "
        f"print(json.dumps({{'Python': platform.python_version(), "
        f"**{{name: version(name) for name in {PACKAGES}}}}}))"
    )
    output = subprocess.check_output([environment / "bin" / "python", "-c", code], text=True)
    versions: dict[str, str] = json.loads(output)
    return versions


def may_differ(name: str, versions: dict[str, str]) -> bool:
    """Whether a test's name is that of a cell that may differ with these versions."""
    found = re.fullmatch(r"book/(\w+)\.ipynb::Cell (\d+)", name)
    if not found:
        return False
    cell = code_cells(read(ROOT / "book" / f"{found[1]}.ipynb"))[int(found[2])]
    return any(difference.covers(cell.id, versions) for difference in DIFFERENCES)


def outcomes(report: Path, versions: dict[str, str]) -> dict[str, Counter[str]]:
    """How many tests and how many cells passed, failed, were skipped or differ as they may."""
    found: dict[str, Counter[str]] = {"tests": Counter(), "cells": Counter()}
    for case in ElementTree.parse(report).iter("testcase"):
        place = re.sub(r"^book\.(\w+)\.ipynb", r"book/\1.ipynb", case.get("classname", ""))
        name = f"{place}::{case.get('name')}"
        part = "cells" if ".ipynb" in name else "tests"
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome = "differ" if may_differ(name, versions) else "failed"
            print(f"    {outcome}: {name}")
        else:
            outcome = "skipped" if "skipped" in kinds else "passed"
        found[part][outcome] += 1
    return found


def run_pytest(row: Row, environment: Path, sources: Path, report: Path) -> None:
    """Run the tests of a row in its environment, and write what they say into ``report``."""
    command: list[str | Path] = [environment / "bin" / "python", "-m", "pytest", "-q", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    if row.alone:  # without the settings and plug-ins of the book's tests
        command += ["-c", os.devnull, "--rootdir=.", "--confcutdir=tests", "-W", "error"]
        command += ["--hypothesis-profile=ci", *TESTS_ALONE]
    else:
        command += [*TESTS, "book"]
    settings = {
        "TF_ENABLE_ONEDNN_OPTS": str(int(row.onednn)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "BN_WARD": "all",  # of tests/doctor
        "MPLCONFIGDIR": str(environment / "matplotlib"),
    }
    log = report.with_name("output.txt")
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=sources,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | settings,
        )
    if done.returncode not in (0, 1):  # 1: tests failed; above: pytest itself did
        sys.exit(f"pytest ended with {done.returncode}; see {log}")


def run(row: Row) -> dict[str, Any]:
    """Run the tests of a row; return what the table says of it."""
    result: dict[str, Any] = {"row": str(row), "python": row.python}
    result["onednn"] = "on" if row.onednn else "off"
    found = subprocess.run([UV, "python", "find", row.python], capture_output=True)
    if found.returncode:
        missing = "not run: no such Python here"
        return result | {"versions": {}, "tests": missing, "cells": "", "holds": None}

    folder = WORK / re.sub(r"[^\w.]+", "-", str(row))
    shutil.rmtree(folder, ignore_errors=True)
    sources, environment, report = (folder / name for name in ("sources", "venv", "report.xml"))
    ignored = shutil.ignore_patterns(".git", ".venv", "_build", "*_cache", "__pycache__")
    shutil.copytree(ROOT, sources, ignore=ignored)
    install(row, environment, sources)
    versions = versions_in(environment)
    run_pytest(row, environment, sources, report)
    counts = outcomes(report, versions)
    shown = {
        part: ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items()))
        for part, count in counts.items()
    }
    failed = sum(count["failed"] for count in counts.values())
    result |= {"python": versions["Python"], "versions": versions}
    return result | {"holds": not failed and bool(counts["tests"])} | shown


def main(numbers: list[str]) -> None:
    """Run the rows of these numbers, print the table, and keep it."""
    numbered = {str(number): row for number, row in enumerate(ROWS, start=1)}
    named = {**numbered, "newest": NEWEST}
    if unknown := set(numbers) - set(named):
        listed = "\n".join(f"{number:>6}  {row}" for number, row in named.items())
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are\n{listed}")
    file = ROOT / MATRIX
    known = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    rows = {row["row"]: row for row in known}
    for number in numbers or numbered:
        row = named[number]
        print(row, flush=True)
        rows[str(row)] = result = run(row) | {"date": time.strftime("%Y-%m-%d")}
        print("    with", ", ".join(map(" ".join, result["versions"].items())) or "nothing")
        print(f"    tests: {result['tests']}; cells: {result['cells']}", flush=True)
        kept = {
            "rows": [rows[str(row)] for row in ROWS if str(row) in rows],
            "differences": [str(difference) for difference in DIFFERENCES],
        }
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    newest_holds = "newest" not in numbers or rows[str(NEWEST)]["holds"]
    if any(row["holds"] is False for row in kept["rows"]) or not newest_holds:
        sys.exit("The tests do not pass with all of these versions.")


if __name__ == "__main__":
    main(sys.argv[1:])
