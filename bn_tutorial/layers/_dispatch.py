"""Which of several ways to the same result is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from ._layout import Layout

# Elements below which an operation costs more than what it computes, float64 or not: in eager mode,
# where it takes several times as long to start, and in a graph.
SMALL, SMALL_IN_GRAPH = 2**16, 2**14
# Elements and channels from which on the fused kernel saves more than it takes to start.
LARGE, WIDE = 2**17, 2
# Batch size assumed where it is unknown.
LIKELY_BATCH = 32


@dataclass(frozen=True)
class Circumstances:
    """What the choice depends on."""

    #: Their number, or a likely one that is not small.
    elements: int
    channels: int
    channels_last: bool
    #: Of float64, of which the fused kernel knows nothing.
    float64: bool = False
    #: Traced with ``jit_compile=True``, or for a TPU.
    xla: bool = False
    eager: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Path:
    """The way that is taken."""

    #: Compute all in float64, in as few operations as there can be.
    in_float64: bool
    #: Sum blocks of values, and then the sums of the blocks in float64.
    in_blocks: bool
    #: Compute (x − center)·factor + offset in one pass over the data, by the fused kernel.
    use_kernel: bool
    #: Compiled by XLA, which has no kernels of its own for some operations, and fuses others.
    xla: bool


def path_for(x: Any, layout: Layout) -> Path:
    """Return the path for ``x``."""
    return choose_path(circumstances_of(x, layout))


def circumstances_of(x: Any, layout: Layout) -> Circumstances:
    """Return what the choice of a path for ``x`` depends on.

    Many elements in float64 take twice as long; few in blocks take a tenth longer.
    """
    likely = math.prod(LIKELY_BATCH if size is None else size for size in x.shape)
    eager = tf.executing_eagerly()
    return Circumstances(
        elements=likely if layout.is_static else max(likely, SMALL),
        channels=layout.channels,
        channels_last=layout.channels_last,
        float64=x.dtype == tf.float64,
        xla=not eager and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()),
        eager=eager,
        gpu=bool(tf.config.get_visible_devices("GPU")),
    )


def choose_path(given: Circumstances) -> Path:
    """Return the fastest path in these circumstances. All of them are right everywhere.

    A GPU sums in a tree, which is as good as blocks. The kernel of a CPU transposes what does not
    have its channels last, and takes its time over a single one.
    """
    small = given.elements < (SMALL if given.eager else SMALL_IN_GRAPH)
    large = given.elements >= LARGE and given.channels >= WIDE and given.channels_last
    return Path(
        in_float64=small or given.float64,
        in_blocks=not small and not given.gpu,
        use_kernel=large and not (given.float64 or given.xla or given.gpu),
        xla=given.xla,
    )
