"""Data sets that come with scikit-learn and need no download, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

__all__ = ["Split", "digits", "minibatches", "wine"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Split(NamedTuple):
    """A data set in two parts: examples in rows, and their classes as integers.

    Examples
    --------
    >>> from bn_tutorial.book.data import digits
    >>> x_train, x_test, y_train, y_test = digits()
    >>> x_test.shape, y_test.shape
    ((450, 64), (450,))
    """

    #: Examples to train on, of shape (examples, features).
    x_train: Floats
    #: Examples to test on, of shape (examples, features).
    x_test: Floats
    #: Classes of the examples to train on.
    y_train: Integers
    #: Classes of the examples to test on.
    y_test: Integers


def digits(seed: int = 0) -> Split:
    """Handwritten digits, 8 by 8 pixels: 1347 images to train on and 450 to test on.

    Pixels are float64 from 0 (paper) to 1 (ink), 64 in a row; classes are 0 to 9, in the same
    proportions in both parts. ``seed`` decides the split. Alpaydin and Kaynak (1998), by way of
    scikit-learn.

    Examples
    --------
    >>> from bn_tutorial.book.data import digits
    >>> digits().x_train.shape
    (1347, 64)
    """
    images, labels = load_digits(return_X_y=True)
    return _split(images / 16, labels, seed)


def wine(seed: int = 0) -> tuple[Split, list[str]]:
    """Thirteen measurements of 178 wines from three cultivars, and the measurements' names.

    133 wines to train on and 45 to test on; ``seed`` decides the split. The features are raw
    float64: proline runs to 1680 mg/l while the hue stays below 2. Classes are 0 to 2, one for
    each cultivar, in the same proportions in both parts. Aeberhard and Forina (1991), by way of
    scikit-learn.

    Examples
    --------
    >>> from bn_tutorial.book.data import wine
    >>> split, names = wine()
    >>> split.x_train.shape, names[:3]
    ((133, 13), ['alcohol', 'malic_acid', 'ash'])
    """
    bunch = load_wine()
    return _split(bunch.data, bunch.target, seed), list(bunch.feature_names)


def minibatches(
    x: Array, y: Array, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Shuffle the examples and deal them out in batches, all of ``batch_size`` but the last.

    One pass over the data, in an order that ``rng`` draws when the function is called.

    Parameters
    ----------
    x, y
        Arrays with one entry per example along their first axis.
    batch_size
        How many examples a batch has, 1 or more.
    rng
        Deals differently in each pass, and the same from the same seed.

    Returns
    -------
    Iterator
        Of pairs: a batch of ``x`` and the same examples of ``y``.

    Raises
    ------
    ValueError
        For ``x`` and ``y`` of different lengths, or a batch size below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from bn_tutorial.book.data import minibatches
    >>> x, y = np.zeros((10, 3)), np.zeros(10)
    >>> [batch.shape for batch, _ in minibatches(x, y, 4, np.random.default_rng(0))]
    [(4, 3), (4, 3), (2, 3)]
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long, got {len(x)} and {len(y)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size!r}")
    order = rng.permutation(len(x))
    batches = (order[start : start + batch_size] for start in range(0, len(x), batch_size))
    return ((x[chosen], y[chosen]) for chosen in batches)


def _split(x: Array, y: Array, seed: int) -> Split:
    return Split(*train_test_split(x, y, test_size=0.25, random_state=seed, stratify=y))
