"""Which of several ways to the same result is taken: the fused kernel, or plain operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from ._layout import Layout

# Elements from which on the fused kernel saves more than it takes to start, and a pass over the
# data takes longer than to look whether it can be saved.
LARGE = 2**17
# Elements from which on a pass takes longer than to draw a sample.
HUGE = 2**20
# Batch size assumed where it is unknown.
LIKELY_BATCH = 128


@dataclass(frozen=True)
class Circumstances:
    """What the choice depends on."""

    elements: int
    channels_last: bool
    training: bool
    float64: bool = False
    eager: bool = False
    #: Traced with ``jit_compile=True``, or for a TPU.
    xla: bool = False
    gpu: bool = False
    masked: bool = False
    #: Moments are shared with other replicas.
    synchronized: bool = False


@dataclass(frozen=True)
class Path:
    """The way that is taken."""

    #: Normalize with TensorFlow's fused kernel.
    use_fused: bool
    #: Compiled by XLA, which has no kernels of its own for some operations, and fuses others.
    xla: bool
    #: Before a pass that is seldom needed, look whether it is.
    look_first: bool
    #: Subtract a center only from data that a sample finds far from zero, not from all.
    center_if_far: bool
    #: Sum what a mask weighs by multiplying matrices.
    multiply_by_mask: bool
    #: Sum everything by multiplying matrices.
    multiply_by_ones: bool


def path_for(x: Any, layout: Layout, training: bool, masked: bool, synchronized: bool) -> Path:
    """Return the path for ``x``."""
    return choose_path(circumstances_of(x, layout, training, masked, synchronized))


def circumstances_of(
    x: Any, layout: Layout, training: bool, masked: bool, synchronized: bool
) -> Circumstances:
    """Return what the choice of a path for ``x`` depends on."""
    eager = tf.executing_eagerly()
    return Circumstances(
        elements=math.prod(LIKELY_BATCH if size is None else size for size in x.shape),
        channels_last=layout.channels_last,
        training=training,
        float64=x.dtype == tf.float64,
        eager=eager,
        xla=not eager and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()),
        gpu=bool(tf.config.get_visible_devices("GPU")),
        masked=masked,
        synchronized=synchronized,
    )


def choose_path(given: Circumstances) -> Path:
    """Return the fastest path that is right in these circumstances.

    On a CPU the fused kernel transposes what does not have its channels last. An eager operation
    costs so much by itself that the kernel is worth it in training even so, unless the input is
    large. XLA puts a kernel in its place that is wrong far from zero.
    """
    large = given.elements >= LARGE and not given.xla
    huge = given.elements >= HUGE
    fast = given.gpu or (large and given.channels_last)
    if given.training and given.eager:
        fast = fast or given.channels_last or not large
    of_all_values = not (given.training and (given.masked or given.synchronized))
    return Path(
        use_fused=fast and of_all_values and not given.float64 and not given.xla,
        xla=given.xla,
        look_first=large,
        center_if_far=huge and not given.xla and of_all_values,
        multiply_by_mask=large and given.channels_last,
        multiply_by_ones=huge and given.xla and given.channels_last,
    )
