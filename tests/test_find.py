"""Batch normalizations are found wherever Keras keeps layers."""

import keras
import pytest

from bn_tutorial.layers import BatchNormalization
from bn_tutorial.models import find_batch_norms

L = keras.layers


def norm(name="norm"):
    return L.BatchNormalization(name=name)


def ways(model):
    return [way for way, _ in find_batch_norms(model)]


def test_in_a_sequential_and_in_a_functional_model():
    assert ways(keras.Sequential([keras.Input((2,)), L.Dense(2), norm("a"), norm("b")])) == [
        "a",
        "b",
    ]
    x = keras.Input((2,))
    assert ways(keras.Model(x, norm("a")(norm("b")(x)) + x)) == ["b", "a"]


def test_a_model_need_not_be_built_nor_have_any():
    assert ways(keras.Sequential([norm("a")])) == ["a"]
    assert ways(keras.Sequential([L.Dense(2)])) == []
    assert ways(norm()) == []


def test_in_nested_models_and_wrappers():
    innermost = keras.Sequential([norm("a")], name="innermost")
    inner = keras.Sequential([innermost, norm("b")], name="inner")
    wrapper = L.TimeDistributed(norm("c"), name="wrapper")
    model = keras.Sequential([keras.Input((3, 2)), inner, wrapper])
    assert ways(model) == ["inner/innermost/a", "inner/b", "wrapper/c"]


class Block(L.Layer):
    """A layer of somebody's own, that keeps layers as people do."""

    def __init__(self):
        super().__init__(name="block")
        self.one = norm("one")
        self.several = [L.Dense(2), norm("listed")]
        self.named = {"key": norm("named")}


def test_in_a_layer_of_ones_own():
    assert sorted(ways(keras.Sequential([Block()]))) == ["block/listed", "block/named", "block/one"]
    assert sorted(ways(Block())) == ["listed", "named", "one"]


def test_subclasses_count_and_the_layer_itself_is_returned():
    class Own(L.BatchNormalization):
        pass

    layers = [Own(name="own"), BatchNormalization(name="ours")]
    assert [layer for _, layer in find_batch_norms(keras.Sequential(layers))] == layers


def test_each_is_found_once():
    shared = norm("shared")
    x = keras.Input((2,))
    twice = keras.Model(x, shared(shared(x)))
    assert ways(twice) == ["shared"]
    y = keras.Input((2,))
    outer = keras.Model(y, keras.Model(x, shared(x), name="inner")(shared(y)))
    assert sorted(ways(outer)) in (["shared"], ["inner/shared"])


def test_two_of_the_same_name_are_two():
    block = Block()
    block.again = norm("one")
    found = [layer for way, layer in find_batch_norms(block) if way == "one"]
    assert found == [block.one, block.again]


def test_layers_that_hold_each_other():
    block = Block()
    block.child = Block()
    block.child.parent = block
    assert len(ways(block)) == 6


def test_many_ways_to_the_same_layers():
    """Twenty blocks, each used twice by the next: a million ways to the first."""
    block = norm("a")
    for _ in range(20):
        outer = L.Layer()
        outer.one, outer.two = L.Layer(), L.Layer()
        outer.one.inner = outer.two.inner = block
        block = outer
    assert len(ways(block)) == 1


@pytest.mark.parametrize("thing", [None, "model.keras", [norm()], keras.Input((2,))])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        find_batch_norms(thing)
