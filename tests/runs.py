"""What is kept of runs: which files hold it, and whether it is of the notebooks as they are."""

import json
from hashlib import sha256
from pathlib import Path

from nbformat import NotebookNode
from rules import code_cells

# Each relative to the root. The first is what the last `make test` saw on this machine; the others
# are kept with the sources: what `make refresh` saw, and what `make matrix` did.
RUNS = Path("_build/runs.json")
RECORD = Path("book/_record/runs.json")
MATRIX = Path("book/_record/matrix.json")


def digest(notebook: NotebookNode) -> str:
    """What nbval runs and compares in a notebook, in short: the same while only words change."""
    cells = [
        (cell.source, cell.outputs, cell.metadata.get("tags")) for cell in code_cells(notebook)
    ]
    return sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()
