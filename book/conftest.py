"""Keep how long each notebook took, and with what it ran, for the book's status page."""

import json
import platform
import time
from collections import defaultdict
from importlib.metadata import version

from rules import read
from runs import RECORD, RUNS, digest

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

    def pytest_sessionfinish(self, session):
        root = session.config.rootpath
        for path, run in self.runs.items():
            run |= {
                "seconds": round(run["seconds"], 1),
                "digest": digest(read(root / path)),
                "date": time.strftime("%Y-%m-%d"),
                "versions": {
                    "Python": platform.python_version(),
                    **{name: version(name) for name in PACKAGES},
                },
            }
        files = [RUNS, RECORD] if session.config.getoption("--record") else [RUNS]
        for file in [root / file for file in files if self.runs]:
            known = json.loads(file.read_text("utf-8")) if file.exists() else {}
            text = json.dumps(known | self.runs, indent=1, sort_keys=True)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text + "\n", "utf-8")


def pytest_addoption(parser):
    parser.addoption(
        "--record",
        action="store_true",
        help="keep what a run of notebooks shows with the sources as well",
    )


def pytest_configure(config):
    # The workers of pytest-xdist report to a process of their own, which records.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
