"""`make sweep` measures the layer in circumstances that meet in all ways, and fails where it is
slow without a reason. Nothing is measured here.
"""

import json
from itertools import combinations

import keras
import pytest
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from bn_tutorial.layers import BatchNormalization
from tools import benchmark, sweep
from tools.sweep import CHANNELS_FIRST, CHANNELS_LAST, DTYPES, MODES, Cell, Reason, Timed, grid

SLOW, FAST, LAST = (
    Cell(shape, -1, False, True, True, "graph", True, "float32") for shape in [(2, 3), (4, 5), (6,)]
)


GRID = grid()


def of(*cells, up_to=1.3):
    return Reason(lambda cell: cell in cells, up_to)


@pytest.fixture
def sweep_of(monkeypatch, tmp_path):
    """What `make sweep` says as it ends, its rows, and the seconds that each cell was measured."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # which main() would set for good
    monkeypatch.setattr(benchmark, "BUILD", tmp_path)

    def run(times, slower):
        seconds = {cell: [] for cell in times}

        def measure(cell, for_seconds):
            seconds[cell].append(for_seconds)
            return Timed(times[cell][len(seconds[cell]) - 1], 1.0, 1.0)

        monkeypatch.setattr(sweep, "SLOWER", slower)
        monkeypatch.setattr(sweep, "LARGE", 2)
        monkeypatch.setattr(sweep, "grid", lambda: list(times))
        monkeypatch.setattr(sweep, "measure", measure)
        try:
            benchmark.main(["sweep"])
            said = None
        except SystemExit as stop:
            said = stop.code
        return said, json.loads((tmp_path / "sweep.json").read_text())["sweep"], seconds

    return run


@pytest.mark.parametrize(
    ("slow", "slower", "missed"),
    [
        ([1.1], {}, []),
        ([1.2, 1.1], {}, []),
        ([1.2, 1.11], {}, [str(SLOW)]),
        ([1.2, 1.2], {"a reason": of(SLOW)}, []),
        ([1.4, 1.3], {"a reason": of(SLOW)}, []),
        ([1.4, 1.31], {"a reason": of(SLOW)}, [str(SLOW)]),
        ([1.4, 1.31], {"a reason": of(SLOW), "another": of(SLOW, up_to=1.4)}, []),
        ([1.2, 1.2], {"none of it": of(SLOW), "a reason": of(SLOW)}, []),
        ([1.01], {"a reason": of(SLOW)}, []),
        ([1.0], {"a reason": of(SLOW)}, ["cells with the reason: a reason"]),
        ([1.2, 0.9], {"a reason": of(SLOW)}, ["cells with the reason: a reason"]),
        ([1.2, 1.2], {"a": of(SLOW), "b": of(FAST)}, ["cells with the reason: b"]),
        ([1.2, 1.2], {"b": of(FAST)}, [str(SLOW), "cells with the reason: b"]),
    ],
)
def test_a_slow_cell_needs_a_reason_and_a_reason_a_slower_cell(
    sweep_of, capsys, slow, slower, missed
):
    said, rows, _ = sweep_of({FAST: [0.5], SLOW: slow, LAST: [0.6]}, slower)
    assert [row["measured"] for row in rows if not row["holds"]] == missed
    assert said == (f"Missed: {'; '.join(missed)}" if missed else None)
    assert capsys.readouterr().out.count("MISSED") == len(missed)


def test_a_slow_cell_is_shown_with_its_reason(sweep_of, capsys):
    fast = {FAST._replace(shape=(n, 1)): [0.5] for n in range(20)}
    slow = {SLOW._replace(shape=(n, 1)): [1.5, 1.5] for n in range(21, 33)}
    _, rows, _ = sweep_of(fast | slow, {"a reason": of(*slow, up_to=1.5)})
    shown = [line for line in capsys.readouterr().out.splitlines() if "channels last" in line]
    assert len(shown) == len(slow)
    assert all(line.endswith("a reason") for line in shown)
    reasons = [(row["relative"], row["reason"]) for row in rows[:-1]]
    assert reasons == [(1.5, "a reason")] * 12 + [(0.5, None)] * 20


def test_the_ten_slowest_cells_are_shown_however_fast(sweep_of, capsys):
    sweep_of({SLOW._replace(shape=(n, 1)): [n / 100] for n in range(1, 30)}, {})
    lines = capsys.readouterr().out.splitlines()
    shown = [line.partition(" channels last")[0] for line in lines if "channels last" in line]
    assert shown == [f"({n},1)" for n in range(29, 19, -1)]


@pytest.mark.parametrize(("median", "holds"), [(0.74, True), (0.75, True), (0.76, False)])
def test_the_median_of_training_on_large_inputs_is_held_to_its_bound(sweep_of, median, holds):
    small, inference = SLOW._replace(shape=(1, 1)), SLOW._replace(training=False)
    others = {small: [1.1], inference: [1.1]}
    said, rows, _ = sweep_of({FAST: [0.1], SLOW: [1.0], LAST: [median]} | others, {})
    assert rows[-1]["ratio"] == median
    assert (said is None) == holds


def test_a_cell_above_the_bound_is_measured_once_more_and_for_longer(sweep_of):
    _, rows, seconds = sweep_of({FAST: [0.5], SLOW: [1.2, 1.3], LAST: [1.1]}, {})
    assert seconds == {FAST: [sweep.SECONDS], SLOW: [sweep.SECONDS, sweep.AGAIN], LAST: [0.6]}
    assert [row["relative"] for row in rows[:3]] == [1.3, 1.1, 0.5]


# The grid


def test_any_three_values_that_can_meet_do():
    assert len(set(GRID)) == len(GRID)
    met = {triple for cell in GRID for triple in combinations(enumerate(cell), 3)}
    values = {
        "masked": (False, True),
        "training": (False, True),
        "backward": (False, True),
        "mode": MODES,
        "batch_known": (False, True),
        "dtype": DTYPES,
    }
    layouts = [(shape, -1) for shape in CHANNELS_LAST] + [(shape, 1) for shape in CHANNELS_FIRST]
    for shape, axis in layouts:
        for one, other in combinations(values, 2):
            for a in values[one]:
                for b in values[other]:
                    named = {"shape": shape, one: a, other: b}
                    triple = tuple(sorted((Cell._fields.index(n), v) for n, v in named.items()))
                    cannot = {one: a, other: b} == {"mode": "eager", "batch_known": False}
                    cannot |= shape == (16, 1, 112, 112) and {one: a, other: b} == {
                        "masked": True,
                        "training": True,
                    }
                    assert (triple in met) == (not cannot), named
        assert axis == (-1 if shape in CHANNELS_LAST else 1)


def test_every_plain_cell_is_measured():
    plain = [c for c in GRID if (c.masked, c.batch_known, c.dtype) == (False, True, "float32")]
    assert len(plain) == len(CHANNELS_LAST + CHANNELS_FIRST) * 2 * 2 * len(MODES)


def test_some_of_all_modes_train_on_large_inputs():
    heavy = [cell for cell in GRID if sweep.is_heavy(cell)]
    assert {cell.mode for cell in heavy} == set(MODES)
    assert {cell.axis for cell in heavy} == {-1, 1}
    assert min(cell.size for cell in heavy) == 2**20


def test_channels_are_from_one_to_a_thousand_in_both_places():
    for axis in (-1, 1):
        channels = {cell.channels for cell in GRID if cell.axis == axis}
        assert {min(channels), max(channels)} == {1, 1024}


# What is timed


class Observed(keras.layers.BatchNormalization):
    """Keras's layer, which keeps what it was called with and where."""

    def call(self, inputs, training=None, mask=None):
        eager = tf.executing_eagerly()
        xla = not eager and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        self.seen = Cell(
            tuple(inputs.shape),
            self.axis,
            mask is not None,
            training,
            False,
            "eager" if eager else "XLA" if xla else "graph",
            inputs.shape[0] is not None,
            {"float32": "float32"}.get(inputs.dtype.name, f"mixed_{inputs.dtype.name}"),
        )
        return super().call(inputs, training=training, mask=mask)


@pytest.mark.parametrize("cell", [c for c in GRID if c.shape == (8, 3, 128)], ids=str)
def test_a_layer_is_called_as_its_cell_says(cell):
    layer = Observed(axis=cell.axis, dtype=cell.dtype)
    result = sweep.call_of(layer, cell)()
    shape = cell.shape if cell.batch_known else (None, *cell.shape[1:])
    assert layer.seen == cell._replace(shape=shape, backward=False)
    if cell.backward:
        dx, dgamma, dbeta = result
        assert dx.shape == cell.shape
        assert dgamma.shape == dbeta.shape == (cell.channels,)
    else:
        assert result.shape == cell.shape


def test_the_layer_is_timed_against_keras(monkeypatch):
    cell = SLOW._replace(axis=1, dtype="mixed_float16")
    monkeypatch.setattr(sweep, "call_of", lambda layer, of: (layer, of))

    def paired(ours, theirs, seconds):
        assert [type(layer) for layer, _ in (ours, theirs)] == [
            BatchNormalization,
            keras.layers.BatchNormalization,
        ]
        for layer, of in (ours, theirs):
            assert of == cell
            assert (layer.axis, layer.dtype_policy.name) == (1, "mixed_float16")
        return 4.0, (seconds, 2.0)

    monkeypatch.setattr(sweep, "paired", paired)
    assert sweep.measure(cell, 0.5) == Timed(0.25, 0.5, 2.0)
