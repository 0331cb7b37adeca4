"""Measure what the project promises: `make bench` runs this and prints two tables.

Times are of whole processes and depend on the machine: compare ratios, or runs on one machine.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from rules import ROOT, read, toc_files

# Linux counts in kB.
PEAK_MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
REPEATS = 15


def run_notebook(path: Path) -> tuple[float, float]:
    """Seconds to run a notebook in a fresh kernel, and the kernel's peak memory in GB."""
    notebook = read(path)
    notebook.cells.append(new_code_cell(PEAK_MEMORY))
    place = {"metadata": {"path": str(path.parent)}}
    start = time.perf_counter()
    NotebookClient(notebook, kernel_name="python3", resources=place).execute()
    seconds = time.perf_counter() - start
    return seconds, int(notebook.cells[-1].outputs[0].text) / 1e6


def run_statement(statement: str) -> float:
    """Seconds that a fresh interpreter takes for a statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    """Print both tables."""
    print(f"{'notebook':24}{'seconds':>8}{'GB':>6}   (promised: below 30 s and 2 GB)")
    for path in toc_files():
        if path.suffix == ".ipynb":
            seconds, gigabytes = run_notebook(path)
            print(f"{path.stem:24}{seconds:8.1f}{gigabytes:6.2f}")

    # Taken in turn, so that a change in the machine's speed meets both alike.
    pairs = [
        (run_statement("import bn_tutorial, numpy"), run_statement("import numpy"))
        for _ in range(REPEATS)
    ]
    package, numpy = (statistics.median(times) for times in zip(*pairs, strict=True))
    alone = statistics.median(run_statement("import bn_tutorial") for _ in range(REPEATS))
    print(f"\n{'import':24}{'seconds':>8}{'ratio':>7}  (promised: below 1.5)")
    print(f"{'numpy':24}{numpy:8.3f}{1:7.2f}")
    print(f"{'bn_tutorial':24}{alone:8.3f}{alone / numpy:7.2f}")
    print(f"{'bn_tutorial and numpy':24}{package:8.3f}{package / numpy:7.2f}")


if __name__ == "__main__":
    main()
