"""Images to train on: the digits, which come with scikit-learn, and Fashion-MNIST."""

import gzip
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bn_tutorial.book.data import Split, digits

#: Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def images(name: str, examples: int | None = None) -> Split:
    """Return images as float32 of shape (examples, height, width, 1), from 0 to 1.

    Parameters
    ----------
    name
        "digits": 1347 images of 8 by 8 pixels to train on, 450 to test on. "fashion":
        Fashion-MNIST, 60,000 and 10,000 images of clothes in ten classes (Xiao, Rasul and
        Vollgraf, 2017), of which each four pixels are averaged into one, so that 14 by 14 are
        left: a network costs a quarter.
    examples
        How many of the images to train on are wanted, the first of them; by default all.

    Raises
    ------
    FileNotFoundError
        If Fashion-MNIST is not on this machine and cannot be had by `keras.datasets` either.
    ValueError
        For another name.
    """
    if name not in ("digits", "fashion"):
        raise ValueError(f"there are images of digits and fashion, got {name!r}")
    if name == "digits":
        data = digits()
        x_train, x_test = (_square(x) for x in (data.x_train, data.x_test))
        return Split(x_train[:examples], x_test, data.y_train[:examples], data.y_test)
    x_train, y_train, x_test, y_test = _fashion()
    return Split(_halved(x_train)[:examples], _halved(x_test), y_train[:examples], y_test)


def _square(x: NDArray[Any]) -> NDArray[Any]:
    return x.reshape(-1, 8, 8, 1).astype("float32")


def _fashion() -> list[NDArray[Any]]:
    if DEBIAN.exists():
        return [
            _idx(DEBIAN / f"{part}-{kind}-ubyte.gz")
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise FileNotFoundError(
            f"Fashion-MNIST is not in {DEBIAN} (Debian: apt install dataset-fashion-mnist), and"
            f" keras.datasets could not download it: {error}"
        ) from error
    return [x_train, y_train, x_test, y_test]


def _idx(path: Path) -> NDArray[Any]:
    """Return the array in a file of MNIST's format: two zeros, the type, the rank, the shape."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _halved(x: NDArray[Any]) -> NDArray[Any]:
    """Average blocks of two by two pixels."""
    blocks = x.reshape(-1, 14, 2, 14, 2, 1).astype("float32") / 255
    return blocks.mean(axis=(2, 4))
