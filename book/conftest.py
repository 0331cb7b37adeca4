"""Keep how long each notebook took, and with what it ran, for the book's status page."""

import json
import platform
import time
from collections import defaultdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "_build" / "runs.json"
PACKAGES = ["TensorFlow", "Keras", "NumPy", "Matplotlib"]


class Recorder:
    """Adds up the reports of the cells of each notebook."""

    def __init__(self):
        self.runs = defaultdict(
            lambda: {"seconds": 0.0, "passed": True, "cells": 0}
        )

    def pytest_runtest_logreport(self, report):
        path, _, cell = report.nodeid.partition("::")
        if path.endswith(".ipynb") and cell:
            run = self.runs[path]
            run["seconds"] += report.duration
            run["passed"] &= not report.failed
            run["cells"] += report.when == "teardown"

    def pytest_sessionfinish(self):
        if self.runs:
            known = json.loads(RUNS.read_text("utf-8")) if RUNS.exists() else {}
            for path, run in self.runs.items():
                known[path] = run | {
                    "sha256": sha256((ROOT / path).read_bytes()).hexdigest(),
                    "date": time.strftime("%Y-%m-%d"),
                    "versions": {
                        "Python": platform.python_version(),
                        **{name: version(name) for name in PACKAGES},
                    },
                }
            RUNS.parent.mkdir(exist_ok=True)
            RUNS.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")


def pytest_configure(config):
    # The workers of pytest-xdist report to a process of their own, which records.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
