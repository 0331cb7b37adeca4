"""What is kept of runs: how long each notebook took and with what it ran, for the status page."""

import json
import platform
import time
from collections import defaultdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode

from tools.rules import code_cells, read

# Each relative to the root. The first is what the last `make test` saw on this machine; the others
# are kept with the sources: what `make refresh` saw, and what `make matrix` did.
RUNS = Path("_build/runs.json")
RECORD = Path("publish/record/runs.json")
MATRIX = Path("publish/record/matrix.json")

# What the results may depend on, for both tables of the status page.
PACKAGES = ["TensorFlow", "Keras", "NumPy"]


def digest(notebook: NotebookNode) -> str:
    """What nbval runs and compares in a notebook, in short: the same while only words change."""
    cells = [
        (cell.source, cell.outputs, cell.metadata.get("tags")) for cell in code_cells(notebook)
    ]
    return sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


class Recorder:
    """A plug-in of pytest that adds up the reports of the cells of each notebook."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"seconds": 0.0, "passed": True, "cells": 0}
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the time and the outcome of a cell to those of its notebook."""
        path, _, cell = report.nodeid.partition("::")
        if path.endswith(".ipynb") and cell:
            run = self.runs[path]
            run["seconds"] += report.duration
            run["passed"] &= not report.failed
            run["cells"] += report.when == "teardown"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what ran into `RUNS`, and into `RECORD` if it is to be kept."""
        root = session.config.rootpath
        for path, run in self.runs.items():
            run |= {
                "seconds": round(run["seconds"], 1),
                "digest": digest(read(root / path)),
                "date": time.strftime("%Y-%m-%d"),
                "versions": {
                    "Python": platform.python_version(),
                    **{name: version(name) for name in [*PACKAGES, "Matplotlib"]},
                },
            }
        files = [RUNS, RECORD] if session.config.getoption("--record") else [RUNS]
        for file in [root / file for file in files if self.runs]:
            known = json.loads(file.read_text("utf-8")) if file.exists() else {}
            text = json.dumps(known | self.runs, indent=1, sort_keys=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n", "utf-8")
