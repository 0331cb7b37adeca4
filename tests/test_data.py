"""The data sets, their splits, and the dealing of minibatches."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine

from bn_tutorial.book.data import digits, minibatches, wine

DATA = [
    pytest.param(digits, (1347, 450, 64), id="digits"),
    pytest.param(lambda seed=0: wine(seed)[0], (133, 45, 13), id="wine"),
]


def rows(x, y):
    """The examples with their classes, in a canonical order."""
    return sorted(map(tuple, np.column_stack([x, y])))


@pytest.mark.parametrize(("load", "sizes"), DATA)
def test_sizes_and_dtypes(load, sizes):
    train, test, features = sizes
    split = load()
    assert [part.shape for part in split] == [
        (train, features),
        (test, features),
        (train,),
        (test,),
    ]
    assert [part.dtype.kind for part in split] == ["f", "f", "i", "i"]
    assert split.x_train.dtype == split.x_test.dtype == np.float64


@pytest.mark.parametrize(
    ("load", "source", "scale"), [(digits, load_digits, 16), (lambda: wine()[0], load_wine, 1)]
)
def test_a_split_is_the_whole_data_set_each_example_once(load, source, scale):
    split = load()
    x, y = source(return_X_y=True)
    both = rows(
        np.vstack([split.x_train, split.x_test]), np.concatenate([split.y_train, split.y_test])
    )
    assert both == rows(x / scale, y)


@pytest.mark.parametrize(("load", "sizes"), DATA)
def test_classes_keep_their_proportions(load, sizes):
    split = load()
    train, test = np.bincount(split.y_train), np.bincount(split.y_test)
    total = train + test
    # As near as whole examples allow.
    assert np.all(np.abs(test - total * sizes[1] / sum(sizes[:2])) <= 1)
    assert np.all(total > 0)


@pytest.mark.parametrize(("load", "sizes"), DATA)
def test_the_seed_decides_the_split(load, sizes):
    for ours, again in zip(load(), load(0), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert not np.array_equal(load().x_test, load(1).x_test)


def test_digits_run_from_paper_to_ink():
    split = digits()
    for x in split.x_train, split.x_test:
        assert (x.min(), x.max()) == (0, 1)
    assert set(split.y_train) == set(range(10))


def test_wine_features_are_raw_and_named():
    split, names = wine()
    maxima = dict(zip(names, np.vstack([split.x_train, split.x_test]).max(axis=0), strict=True))
    assert maxima["proline"] == 1680
    assert maxima["hue"] < 2
    assert set(split.y_train) == {0, 1, 2}


# Minibatches


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (99, [10]), (1, [1] * 10)]
)
def test_each_example_is_dealt_once_with_its_label(batch_size, sizes):
    x = np.arange(20).reshape(10, 2)
    y = x[:, 0] * 10
    batches = list(minibatches(x, y, batch_size, np.random.default_rng(0)))
    assert [len(labels) for _, labels in batches] == sizes
    for data, labels in batches:
        np.testing.assert_array_equal(labels, data[:, 0] * 10)
    assert rows(*map(np.concatenate, zip(*batches, strict=True))) == rows(x, y)


def test_the_generator_decides_the_order():
    x = y = np.arange(50)

    def deal(rng):
        return np.concatenate([data for data, _ in minibatches(x, y, 8, rng)]).tolist()

    rng = np.random.default_rng(0)
    first, second = deal(rng), deal(rng)
    assert first == deal(np.random.default_rng(0))
    assert len({tuple(first), tuple(second), tuple(x)}) == 3  # shuffled, and anew in each pass


def test_no_examples_make_no_batches():
    assert list(minibatches(np.empty((0, 2)), np.empty(0), 4, np.random.default_rng(0))) == []


@pytest.mark.parametrize(
    ("lengths", "batch_size", "message"),
    [
        ((3, 2), 1, "x and y must be equally long, got 3 and 2"),
        ((3, 3), 0, "batch_size must be 1 or more, got 0"),
        ((3, 3), -4, "batch_size must be 1 or more, got -4"),
    ],
)
def test_bad_input_raises(lengths, batch_size, message):
    x, y = map(np.zeros, lengths)
    with pytest.raises(ValueError, match=message):
        minibatches(x, y, batch_size, np.random.default_rng(0))
