"""Batch normalizations are found wherever Keras keeps layers."""

import collections

import keras
import numpy as np
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


class Containers(L.Layer):
    """Whatever Python keeps things in, one inside another, filled before or after."""

    def __init__(self):
        super().__init__()
        self.tuples = (norm("a"), (norm("b"), L.Dense(2)))
        self.lists = {"key": [norm("c"), {"key": norm("d")}]}
        self.set = {norm("e"), norm("f")}
        self.ordered = collections.OrderedDict(key=norm("g"))
        self.named = collections.namedtuple("Named", "one two")(norm("h"), [norm("i")])
        self.filled = []
        self.filled.append(norm("j"))
        self.filled += [norm("k")]
        self.filled.insert(0, norm("l"))
        self.late = {}
        self.late["key"] = [norm("m")]


def test_in_containers():
    assert sorted(ways(Containers())) == list("abcdefghijklm")


@keras.saving.register_keras_serializable("find")
class Cell(L.Layer):
    state_size = output_size = 2

    def __init__(self, name="cell", **kwargs):
        super().__init__(name=name, **kwargs)
        self.norm = norm()

    def call(self, x, states):
        return x, states


def test_in_the_cells_of_recurrent_layers():
    assert ways(L.RNN(Cell())) == ["cell/norm"]
    cells = L.RNN([Cell("one"), L.GRUCell(2), Cell("two")])
    assert ways(cells) == ["stacked_rnn_cells/one/norm", "stacked_rnn_cells/two/norm"]
    there, back = (L.RNN(Cell(), go_backwards=back, name=f"r{back}") for back in (False, True))
    both = L.Bidirectional(there, backward_layer=back)
    assert [way.rpartition("/")[2] for way in ways(both)] == ["norm", "norm"]


def test_in_wrappers_and_activations():
    assert ways(L.Wrapper(norm())) == ["norm"]
    assert ways(keras.Sequential([L.Dense(2, activation=norm(), name="dense")])) == ["dense/norm"]
    assert ways(L.Pipeline([norm()])) == ["norm"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.stack = [L.Dense(2), norm("stacked")]

    def call(self, x):
        return self.stack[1](self.stack[0](x))


def test_in_a_subclassed_model_built_or_not():
    model = Subclassed()
    assert ways(model) == ["stacked"]
    model(np.ones((2, 3)))
    assert ways(model) == ["stacked"]


def test_what_is_assigned_to_a_functional_model_later():
    x = keras.Input((2,))
    model = keras.Model(x, norm("inside")(x))
    model.late, model.later = norm("late"), {"key": (norm("later"),)}
    model.late.build((None, 2))
    counted = len(model.weights) == 8  # not in Keras 3.12
    assert ways(model) == ["inside", "late", "later"][: 3 if counted else 1]


def test_a_sequential_model_has_the_layers_of_its_stack():
    """Keras counts no attribute of it among its layers, nor the weights among its weights."""
    model = keras.Sequential([keras.Input((2,)), norm("a"), norm("b")])
    model.aside = norm("aside")
    model.aside.build((None, 2))
    assert len(model.weights) == 8
    assert ways(model) == ["a", "b"]
    model.pop()
    assert ways(model) == ["a"]
    model.add(norm("c"))
    assert ways(model) == ["a", "c"]


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
