"""What the scripts of this folder share."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "batch-normalization-in-tensorflow-verified"

# The MathJax that the site brings along.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
