"""The EPUB of the book, and the PDF that is printed from its pages: what both need."""

import sys
from importlib import import_module
from pathlib import Path

from tools.rules import ROOT

# The name of the files, less their suffix.
BOOK = "batch-normalization-in-tensorflow-verified"

TEMPLATES = Path(__file__).with_name("templates")

# The MathJax that the site brings along.
MATHJAX = Path(import_module("sphinx-mathjax-offline").__path__[0], "static", "mathjax")


def output_folder() -> Path:
    """The folder that the command line names, by default _build."""
    return Path(*sys.argv[1:2] or [str(ROOT / "_build")]).resolve()
