"""Settings for all tests and for the kernels that nbval starts, and the record of its runs."""

import os

from tools.rules import OFFLINE
from tools.runs import Recorder

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


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


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest: begun late, it would run while no other does."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_site.py"))
