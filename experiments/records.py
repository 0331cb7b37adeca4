"""What experiments found, kept in files: read by the book, checked by tests, written by a run."""

from __future__ import annotations

import importlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
KEPT = HERE / "records"
FRESH = HERE.parent / "_build" / "experiments"
PACKAGES = ["tensorflow", "keras", "numpy", "scikit-learn"]


class Record:
    """What the runs of one experiment returned.

    Parameters
    ----------
    name
        Of the experiment, a module of this package.
    folder
        Where the file lies: that of the kept records, or that of fresh ones.
    """

    def __init__(self, name: str, folder: Path = KEPT) -> None:
        self.name, self.path = name, folder / f"{name}.json"
        self._content: dict[str, Any] = {"source": digest(name), "versions": {}, "runs": []}
        if self.path.exists():
            self._content = json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def is_of_this_source(self) -> bool:
        """Whether the experiment's module is the one that wrote it."""
        return bool(self._content["source"] == digest(self.name))

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that ran."""
        return dict(self._content["versions"])

    @property
    def seconds(self) -> float:
        """How long all runs took."""
        return sum(run["seconds"] for run in self._content["runs"])

    def has(self, case: dict[str, Any], seed: int) -> bool:
        """Whether a run is there."""
        return any(run["case"] == case and run["seed"] == seed for run in self._content["runs"])

    def add(self, case: dict[str, Any], seed: int, seconds: float, found: dict[str, Any]) -> None:
        """Add a run, and write the file."""
        self._content["versions"] = {package: version(package) for package in PACKAGES}
        run = {"case": case, "seed": seed, "seconds": round(seconds, 1), "found": found}
        self._content["runs"].append(run)
        self.write(self.path)

    def write(self, path: Path) -> None:
        """Write it to a file, a run in a line."""
        head = {key: value for key, value in self._content.items() if key != "runs"}
        runs = ",\n".join(json.dumps(run) for run in self._content["runs"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(head, indent=1)[:-2] + f',\n "runs": [\n{runs}\n]}}\n', encoding="utf-8"
        )

    def values(self, name: str, **case: Any) -> NDArray[np.float64]:
        """Return what was measured under a name in the runs of a case, in the order of seeds."""
        runs = [run for run in self._content["runs"] if case.items() <= run["case"].items()]
        if not runs:
            raise KeyError(f"no run of {self.name} has {case}")
        runs.sort(key=lambda run: run["seed"])
        return np.array([run["found"][name] for run in runs], dtype=float)

    def by_case(self) -> Iterator[tuple[dict[str, Any], str, NDArray[np.float64]]]:
        """Yield each case, each name of what was measured, and the values over the seeds."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in self._content["runs"]:
            for name, value in run["found"].items():
                found[json.dumps(run["case"]), name].append(value)
        for (case, name), values in found.items():
            yield json.loads(case), name, np.array(values)


def module_of(name: str) -> ModuleType:
    """Return the module of an experiment."""
    return importlib.import_module(f"experiments.{name}")


def names() -> list[str]:
    """Return the names of all experiments."""
    return sorted(
        path.stem
        for path in HERE.glob("*.py")
        if re.search(r"^CASES\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def digest(name: str) -> str:
    """Return what a record and its source have in common: the module and what it trains with.

    That is all that it imports from here, but for what reads records afterwards.
    """
    source = (HERE / f"{name}.py").read_text(encoding="utf-8")
    shared = re.findall(r"^from experiments\.(?!claims|records)(\w+) import", source, re.MULTILINE)
    parts = [source, *((HERE / f"{part}.py").read_text(encoding="utf-8") for part in shared)]
    return sha256("".join(parts).encode()).hexdigest()


def todo(name: str, record: Record) -> list[tuple[dict[str, Any], int]]:
    """Return the cases and seeds of an experiment that a record lacks."""
    module = module_of(name)
    wanted = [(case, seed) for case in module.CASES for seed in module.SEEDS]
    return [(case, seed) for case, seed in wanted if not record.has(case, seed)]


def run_all(name: str, at_most: int | None = None) -> Record:
    """Run what of an experiment is not in its fresh record yet, or so much of it; return that."""
    record = Record(name, FRESH)
    if not record.is_of_this_source:
        record.path.unlink()
        record = Record(name, FRESH)
    missing = todo(name, record)
    for number, (case, seed) in enumerate(missing[:at_most], 1):
        start = time.perf_counter()
        found = module_of(name).run(case, seed)
        record.add(case, seed, time.perf_counter() - start, found)
        left = len(missing) - number
        print(f"{name}: {case}, seed {seed}: {found}; {left} to go", flush=True)
    return record


def differences(fresh: Record, kept: Record) -> Iterator[str]:
    """Yield what a fresh record says that a kept one does not, beyond the scatter of the seeds.

    The means of a case are compared. They may differ by four standard errors of both together, and
    by 0.01 besides, for seeds that agree by chance.
    """
    for case, name, new in fresh.by_case():
        old = kept.values(name, **case)
        scatter = np.sqrt(np.var(new, ddof=1) / len(new) + np.var(old, ddof=1) / len(old))
        if abs(new.mean() - old.mean()) > 4 * scatter + 0.01:
            yield f"{case}: {name} is {new.mean():.4g}, and was {old.mean():.4g}"
