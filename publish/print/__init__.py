"""The EPUB of the book, and the PDF that is printed from its pages: what both need."""

import argparse
from importlib import import_module
from pathlib import Path

from publish.configuration import FOLDER
from tools.rules import ROOT

TEMPLATES = Path(__file__).with_name("templates")

# The MathJax that the site brings along.
MATHJAX = Path(import_module("sphinx-mathjax-offline").__path__[0], "static", "mathjax")


def file_name(chinese: bool) -> str:
    """The name of the files of an edition, less their suffix."""
    return "batch-normalization-in-tensorflow-verified" + ("-zh" if chinese else "")


def asked() -> tuple[Path, bool]:
    """What the command line asks for: the folder to build in, and whether in Chinese."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folder", nargs="?", type=Path, default=ROOT / "_build", help="by default _build"
    )
    parser.add_argument("--chinese", action="store_true", help="the Chinese edition, in FOLDER/zh")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    return (folder / FOLDER if arguments.chinese else folder), arguments.chinese
