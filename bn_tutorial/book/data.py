"""Data sets that come with scikit-learn and need no download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

__all__ = ["Split", "digits", "minibatches", "wine"]


class Split(NamedTuple):
    """A data set in two parts: examples in rows, and their classes as integers."""

    #: Examples to train on, of shape (examples, features).
    x_train: NDArray[np.float64]
    #: Examples to test on, of shape (examples, features).
    x_test: NDArray[np.float64]
    #: Classes of the examples to train on.
    y_train: NDArray[np.int64]
    #: Classes of the examples to test on.
    y_test: NDArray[np.int64]


def digits(seed: int = 0) -> Split:
    """Handwritten digits, 8 by 8 pixels: 1347 images to train on and 450 to test on.

    Pixels are float64 from 0 (paper) to 1 (ink), 64 in a row; classes are 0 to 9, in the same
    proportions in both parts. Alpaydin and Kaynak (1998), by way of scikit-learn.
    """
    images, labels = load_digits(return_X_y=True)
    return _split(images / 16, labels, seed)


def wine(seed: int = 0) -> tuple[Split, list[str]]:
    """Thirteen measurements of 178 wines from three growers, and the measurements' names.

    The features are raw: proline runs to 1680 mg/l while the hue stays below 2. Aeberhard and
    Forina (1991), by way of scikit-learn.
    """
    bunch = load_wine()
    return _split(bunch.data, bunch.target, seed), list(bunch.feature_names)


def minibatches(
    x: NDArray[Any], y: NDArray[Any], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Shuffle the examples and deal them out in batches, all of ``batch_size`` but the last.

    One pass over the data; ``ValueError`` for lengths that differ or a batch size below 1.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long, got {len(x)} and {len(y)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size!r}")
    order = rng.permutation(len(x))
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        yield x[chosen], y[chosen]


def _split(x: NDArray[Any], y: NDArray[Any], seed: int) -> Split:
    return Split(*train_test_split(x, y, test_size=0.25, random_state=seed, stratify=y))
