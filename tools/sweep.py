"""The layer against Keras's in all kinds of circumstances: `make sweep` prints where it is slowest,
writes `_build/sweep.json`, and fails where a bound is missed.

Where the layer chooses among ways to the same result, a wrong choice shows only in the
circumstances it was made for. So a grid of them is measured, cell by cell, in one process: inputs
from small to large, of 1 to 1024 channels, last or first; with and without a mask; training and
inference, forward or both passes; eager, graph and XLA; batch sizes known in advance and not;
float32 and half precision. The plain cells are all there: float32 of a known batch size, no mask.
Of the others there are as many as it takes for any three of the values above to meet in a cell, if
they can meet at all.

The number is the layer's time relative to Keras's: less is better. A cell above the bound is
measured once more at the end, for longer. One that stays above fails the sweep, unless `SLOWER`
gives a reason, and the cell is no slower than the reason allows; and a reason fails it once no cell
that it is given for is slower than Keras's.

The median of all cells is printed, and no bound is set to it: most inputs of the grid are so small
that starting the operations is all the time there is, and inference has nothing to save on Keras's
one pass. Where the layer is to gain is training on large inputs: the median of those cells has a
bound.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from itertools import combinations, product
from typing import Any, NamedTuple

from tools.benchmark import Ratio, as_row, forward, forward_and_backward, paired, size_of

BOUND = 1.1  # of a cell
MEDIAN = 0.75  # of the cells that train on large inputs
LARGE = 2**20  # elements
SHOWN = 10
SECONDS, AGAIN = 0.6, 3.0  # of measuring a cell

CHANNELS_LAST = [
    *((32, 16), (60, 100), (256, 128), (256, 1024), (10_000, 1), (100_000, 16)),
    *((8, 128, 3), (32, 128, 256)),
    *((8, 8, 8, 32), (32, 32, 32, 64), (64, 56, 56, 64), (16, 112, 112, 1), (32, 7, 7, 1024)),
    (4, 16, 32, 32, 8),
]
CHANNELS_FIRST = [
    *((8, 3, 128), (32, 256, 128)),
    *((8, 32, 8, 8), (32, 64, 32, 32), (64, 64, 56, 56), (16, 1, 112, 112), (32, 1024, 7, 7)),
    (4, 8, 16, 32, 32),
]
MODES = ("eager", "graph", "XLA")
DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")


class Cell(NamedTuple):
    """Circumstances in which both layers are timed."""

    shape: tuple[int, ...]
    axis: int
    masked: bool
    training: bool
    backward: bool
    mode: str
    batch_known: bool
    dtype: str

    def __str__(self) -> str:
        return ", ".join(
            [
                f"{size_of(self.shape)} channels {'last' if self.axis == -1 else 'first'}",
                "training" if self.training else "inference",
                *(["both passes"] if self.backward else []),
                *(["masked"] if self.masked else []),
                self.mode + ("" if self.batch_known else " of any batch size"),
                self.dtype,
            ]
        )

    @property
    def channels(self) -> int:
        """How many channels the inputs have."""
        return self.shape[self.axis]

    @property
    def size(self) -> int:
        """How many elements the inputs have."""
        return math.prod(self.shape)


class Reason(NamedTuple):
    """Why cells are slower than the bound allows: which, and up to what relative time."""

    covers: Callable[[Cell], bool]
    up_to: float


SLOWER = {
    "inference looks for what is no number under a mask, in passes of its own": Reason(
        lambda cell: cell.masked and not cell.training, 3.5
    ),
    "in eager mode more operations are started, for exact sums and gradients": Reason(
        lambda cell: cell.mode == "eager" and cell.size < 2**22, 2.5
    ),
    "XLA takes longer over sums in blocks, and in float64, than over float32": Reason(
        lambda cell: cell.mode == "XLA" and (cell.training or cell.backward), 3.5
    ),
    "a batch of any size is summed in blocks, even if small": Reason(
        lambda cell: not cell.batch_known and cell.size < 2**16, 1.6
    ),
    "one channel has no kernel to take the mean from x on the way to a sum": Reason(
        lambda cell: cell.channels == 1 and cell.backward and not cell.training, 1.6
    ),
}


class Timed(NamedTuple):
    """Seconds that a call takes with each layer, and the time relative to Keras's."""

    relative: float
    ours: float
    keras: float


def is_possible(cell: Cell) -> bool:
    """Whether there are such circumstances, and Keras's layer has an answer in them."""
    if cell.mode == "eager" and not cell.batch_known:
        return False
    # Keras squeezes a single channel out of the moments, and then finds no size to reshape to.
    return not (cell.masked and cell.training and cell.axis == 1 and cell.channels == 1)


def is_plain(cell: Cell) -> bool:
    """Whether these are the most usual circumstances for the inputs."""
    return cell.dtype == "float32" and cell.batch_known and not cell.masked


def is_heavy(cell: Cell) -> bool:
    """Whether a cell trains on a large input, so that the arithmetic is what takes the time."""
    return cell.training and cell.size >= LARGE


def grid() -> list[Cell]:
    """All plain cells, and others until any three values that can meet do so, greedily few."""
    layouts = [(shape, -1) for shape in CHANNELS_LAST] + [(shape, 1) for shape in CHANNELS_FIRST]
    either = (False, True)
    axes = product(layouts, either, either, either, MODES, either, DTYPES)
    every = [Cell._make((*layout, *others)) for layout, *others in axes]
    possible = list(filter(is_possible, every))
    random.Random(0).shuffle(possible)  # of equals, the first is chosen: no value comes first
    meetings = {cell: set(combinations(enumerate(cell), 3)) for cell in possible}
    cells = list(filter(is_plain, possible))
    missing = set().union(*meetings.values()).difference(*(meetings[cell] for cell in cells))
    while missing:
        cells.append(max(possible, key=lambda cell: len(meetings[cell] & missing)))
        missing -= meetings[cells[-1]]
    return cells


def call_of(layer: Any, cell: Cell) -> Callable[[], Any]:
    """The call of a layer that is timed."""
    import tensorflow as tf

    layer.build(cell.shape)
    values = tf.random.stateless_normal((2, *cell.shape), seed=(1, 2))
    arguments = list(tf.cast(values, layer.compute_dtype))
    if cell.masked:
        arguments.append(tf.random.stateless_uniform(cell.shape[:-1], seed=(3, 4)) < 0.7)
    call = (forward_and_backward if cell.backward else forward)(layer, cell.training)
    if cell.mode != "eager":
        of_any_batch = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arguments]
        call = tf.function(
            call,
            input_signature=None if cell.batch_known else of_any_batch,
            jit_compile=cell.mode == "XLA",
            autograph=False,
        )
    return lambda: call(*arguments)


def measure(cell: Cell, seconds: float) -> Timed:
    """Time both layers in a cell."""
    import keras

    from bn_tutorial.layers import BatchNormalization

    ours, theirs = (
        call_of(normalization(axis=cell.axis, dtype=cell.dtype), cell)
        for normalization in (BatchNormalization, keras.layers.BatchNormalization)
    )
    speedup, times = paired(ours, theirs, seconds)
    return Timed(1 / speedup, *times)


def rows_of(measured: dict[Cell, Timed]) -> list[dict[str, Any]]:
    """A row for each cell, the slowest first; one above the bound has its reason, if any."""
    rows = []
    for cell, timed in sorted(measured.items(), key=lambda item: -item[1].relative):
        slow = timed.relative > BOUND
        reasons = (
            why
            for why, reason in SLOWER.items()
            if slow and reason.covers(cell) and timed.relative <= reason.up_to
        )
        reason = next(reasons, None)
        holds = not slow or reason is not None
        row = {"measured": str(cell), **cell._asdict(), **timed._asdict()}
        rows.append(row | {"slow": slow, "reason": reason, "holds": holds})
    return rows


def stale_reasons(measured: dict[Cell, Timed]) -> list[str]:
    """The reasons given for cells of which none is slower than Keras's layer.

    Not: above the bound. A cell near it is above it in one run and below it in the next.
    """
    slower = [cell for cell, timed in measured.items() if timed.relative > 1]
    return [why for why, reason in SLOWER.items() if not any(map(reason.covers, slower))]


def verdict(measured: dict[Cell, Timed]) -> list[dict[str, Any]]:
    """Print what the sweep found, and return it as rows: cells, stale reasons, the median."""
    rows = rows_of(measured)
    slow = sum(row["slow"] for row in rows)
    print(f"{'the slowest cells':100}{'ms':>9}{'Keras':>9}{'time':>7}")
    for row in rows[: max(SHOWN, slow)]:
        print(
            f"{row['measured']:100}{1e3 * row['ours']:9.3f}{1e3 * row['keras']:9.3f}"
            f"{row['relative']:7.3f}  {(row['reason'] or '') if row['holds'] else 'MISSED'}"
        )
    print(f"{slow} of {len(rows)} cells above {BOUND}; promised: none without a reason")
    for reason in stale_reasons(measured):
        print(f"{reason}: no slower cell has this reason any more  MISSED")
        rows.append({"measured": f"cells with the reason: {reason}", "holds": False})
    middle = statistics.median(timed.relative for timed in measured.values())
    heavy = statistics.median(t.relative for cell, t in measured.items() if is_heavy(cell))
    name = "median of those that train on large inputs"
    median = Ratio(name, "Keras's layer", heavy, MEDIAN, at_least=False)
    print(f"median of all cells {middle:.3f}\n{median}\n")
    return [*rows, as_row(median)]


def measure_sweep() -> list[dict[str, Any]]:
    """Measure the grid, those above the bound once more, and return the verdict's rows."""
    cells = grid()
    print(f"{len(cells)} cells, the layer's time relative to that of Keras's ...", flush=True)
    measured = {cell: measure(cell, SECONDS) for cell in cells}
    for cell, timed in measured.items():
        if timed.relative > BOUND:
            measured[cell] = measure(cell, AGAIN)
    return verdict(measured)
