"""Examine a saved model from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from . import examine

NAMES = ("x", "y", "sample_weight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of a model on data; return 1 if it has an error, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bn_tutorial.doctor",
        description="Examine the batch normalizations of a Keras model.",
    )
    parser.add_argument("model", type=Path, help="a model as model.save writes it (.keras, .h5)")
    parser.add_argument(
        "data",
        type=Path,
        help="an .npz file with x, and maybe y, sample_weight, x_validation, y_validation",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=32, help="as in training (default: 32)"
    )
    parser.add_argument("--steps", type=_positive, help="batches, at most")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    train, validation = _load_data(parser, options.data)
    model = _load_model(parser, options.model)

    try:
        report = examine(
            model, train, validation, steps=options.steps, batch_size=options.batch_size
        )
    except ValueError as error:
        shapes = {name: np.shape(value) for name, value in zip(NAMES, train, strict=False)}
        parser.error(
            f"the data do not fit the model: {shapes}, model input "
            f"{getattr(model, 'input_shape', 'unknown')}: {error}"
        )
    print(report.to_json() if options.json else report)
    return int(any(finding.severity == "error" for finding in report.findings))


def _positive(text: str) -> int:
    """Return the number of an option."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"it must be a positive integer, got {text!r}")
    return int(text)


def _load_data(parser: argparse.ArgumentParser, path: Path) -> tuple[Any, Any]:
    """Return what is to be examined, and what to compare it with, or None."""
    try:
        with path.open("rb") as file, np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
    except Exception as error:  # of many kinds, as files are
        parser.error(f"{path} is not an .npz file: {error}")
    known = {*NAMES, *(f"{name}_validation" for name in NAMES)}
    if "x" not in arrays or not set(arrays) <= known:
        parser.error(
            f"{path} has {', '.join(sorted(arrays))}; x is needed, of {', '.join(sorted(known))}"
        )
    parts = [tuple(arrays.get(name + end) for name in NAMES) for end in ("", "_validation")]
    return parts[0], None if parts[1][0] is None else parts[1]


def _load_model(parser: argparse.ArgumentParser, path: Path) -> Any:
    if not path.exists():
        parser.error(f"there is no {path}")
    try:
        return keras.models.load_model(path)
    except Exception as error:  # of many kinds, as files are
        parser.error(f"{path} is no model that Keras can load: {error}")


if __name__ == "__main__":
    sys.exit(main())
