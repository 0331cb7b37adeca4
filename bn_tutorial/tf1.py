"""The classic graph-mode batch normalization layer, and a small way to run graphs.

Everything here works inside ``with tf.Graph().as_default():`` on today's TensorFlow, without
switching eager execution off for the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from ._checks import check_decay, check_epsilon

__all__ = ["Edge", "batch_norm_layer", "edges", "run"]


def batch_norm_layer(
    x: tf.Tensor,
    train_phase: tf.Tensor | bool,
    scope_bn: str,
    decay: float = 0.5,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    r"""Add the classic batch normalization layer to the graph of ``x``.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    While ``train_phase`` is true, μ and σ² are the batch's own, and running the result also moves
    their exponential moving averages. While it is false, μ and σ² are those averages, and nothing
    moves. The averages begin at 0 as TensorFlow's averages of tensors do, so a layer that is
    evaluated before any training divides by √ε.

    The graph gets the trainable variables ``beta`` (0) and ``gamma`` (1) of shape (channels,)
    and one average for each statistic, all under ``scope_bn``; as resource or reference
    variables and under control flow v1 or v2, whatever is in force when the layer is built. Build
    the layer once: a second call has variables and averages of its own.

    The graph of a placeholder cannot be frozen: it contains the training branch, which assigns to
    the averages, and nothing can be assigned to a constant. Build the layer again in another graph
    with ``train_phase=False``, restore the checkpoint there, and freeze that. The variables have
    the same names, and the output depends on nothing that assigns to them.

    Parameters
    ----------
    x
        Float16, float32 or float64 tensor of rank 2 or more whose last dimension, the channels,
        is known. Statistics are taken over all the other dimensions. float16 is computed in
        float32, and the variables are float32 then.
    train_phase
        Scalar boolean tensor, usually a placeholder, by which `tf.cond` chooses in each run. A
        Python bool, which `tf.cond` itself would refuse, fixes the mode: the output then depends
        on the operations of that mode alone.
    scope_bn
        Name of the variable scope.
    decay
        The weight of the old value in the moving averages, in [0, 1].
    epsilon
        Added to the variance, above 0.

    Returns
    -------
    tf.Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    ValueError
        For ``x`` of unknown rank, of rank below 2 or of unknown last dimension, a ``train_phase``
        that is not a scalar, a decay outside [0, 1], or an epsilon not above 0.
    TypeError
        For an ``x`` that is not a floating-point tensor, or a ``train_phase`` that is not boolean.
    RuntimeError
        When called in eager mode or inside of a ``tf.function``: moving averages of tensors need
        a ``tf.Graph``.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from bn_tutorial.tf1 import batch_norm_layer, run
    >>> with tf.Graph().as_default():
    ...     x = tf.constant([[1.0], [2.0], [6.0]])
    ...     [y] = run(batch_norm_layer(x, train_phase=True, scope_bn="bn"))
    >>> y.round(3)
    array([[-0.926],
           [-0.463],
           [ 1.389]], dtype=float32)
    """
    check_decay(decay)
    check_epsilon(epsilon)
    x, train_phase, fixed = _check_tensors(x, train_phase)
    dtype = x.dtype
    x = tf.cast(x, tf.float32) if dtype == tf.float16 else x
    with tf.compat.v1.variable_scope(scope_bn):
        channels = x.shape[-1]
        beta = tf.compat.v1.Variable(tf.zeros([channels], x.dtype), name="beta")
        gamma = tf.compat.v1.Variable(tf.ones([channels], x.dtype), name="gamma")

        batch_axes = list(range(x.shape.rank - 1))
        batch_mean, batch_variance = tf.nn.moments(x, batch_axes, name="moments")

        ema = tf.train.ExponentialMovingAverage(decay)

        def update_and_use_batch() -> tuple[tf.Tensor, tf.Tensor]:
            # `apply` stands inside the branch: outside, evaluation would move the averages too.
            update = ema.apply([batch_mean, batch_variance])
            with tf.control_dependencies([update]):
                # New ops that wait for the update; without them nothing would ask for it.
                return tf.identity(batch_mean), tf.identity(batch_variance)

        def use_averages() -> tuple[tf.Tensor, tf.Tensor]:
            return (
                tf.convert_to_tensor(ema.average(batch_mean)),
                tf.convert_to_tensor(ema.average(batch_variance)),
            )

        if fixed is None:
            # In this order: `apply` makes the averages, which do not exist before.
            mean, variance = tf.cond(train_phase, update_and_use_batch, use_averages)
        else:
            # Both are built, so that there are the same variables; a run follows one alone.
            batch, averages = update_and_use_batch(), use_averages()
            mean, variance = batch if fixed else averages
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    return tf.cast(y, dtype)


def _check_tensors(
    x: tf.Tensor, train_phase: tf.Tensor | bool
) -> tuple[tf.Tensor, tf.Tensor, bool | None]:
    """Return the arguments of `batch_norm_layer` as tensors, and the mode where it is fixed."""
    if tf.executing_eagerly() or tf.inside_function():
        raise RuntimeError(
            "batch_norm_layer builds a graph: use it in `with tf.Graph().as_default():`, and "
            "outside of any tf.function"
        )
    x = tf.convert_to_tensor(x)
    if x.dtype not in (tf.float16, tf.float32, tf.float64):
        raise TypeError(f"x must be a float16, float32 or float64 tensor, got {x.dtype.name}")
    if x.shape.rank is None or x.shape.rank < 2:
        raise ValueError(f"x must have a known rank of 2 or more, got shape {x.shape}")
    if x.shape[-1] is None:
        raise ValueError(f"x must have a known last dimension, got shape {x.shape}")

    phase = tf.convert_to_tensor(train_phase)
    if phase.dtype != tf.bool:
        raise TypeError(f"train_phase must be boolean, got {phase.dtype.name}")
    if phase.shape.rank not in (0, None):
        raise ValueError(f"train_phase must be a scalar, got shape {phase.shape}")
    # A constant tensor does not fix the mode: a run may feed another value in its place.
    fixed = None if tf.is_tensor(train_phase) else tf.get_static_value(phase)
    return x, phase, fixed


def run(fetch: Any, times: int = 1, feed_dict: Mapping[tf.Tensor, Any] | None = None) -> list[Any]:
    """Initialize the default graph, then run ``fetch`` ``times`` times.

    All of its variables are initialized, global and local ones, and then its lookup tables.

    Each call has a new session: state lasts from one run to the next, not from one call to the
    next.

    Parameters
    ----------
    fetch
        A tensor, operation or nested structure of them, as ``Session.run`` takes.
    times
        How many runs, 0 or more.
    feed_dict
        Values for placeholders, the same in each run.

    Returns
    -------
    list
        What each run returned, in order.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from bn_tutorial.tf1 import run
    >>> with tf.Graph().as_default():
    ...     count = tf.compat.v1.Variable(0)
    ...     values = run(tf.compat.v1.assign_add(count, 1), times=3)
    >>> [int(value) for value in values]
    [1, 2, 3]
    """
    with tf.compat.v1.Session() as session:
        variables = tf.compat.v1.global_variables() + tf.compat.v1.local_variables()
        session.run(tf.compat.v1.variables_initializer(variables))
        session.run(tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS))
        return [session.run(fetch, feed_dict) for _ in range(times)]


class Edge(NamedTuple):
    """One edge of a graph: ``target`` waits for ``source`` and, unless ``control``, reads it.

    Examples
    --------
    >>> from bn_tutorial.tf1 import Edge
    >>> source, target, control = Edge("x", "y", control=False)
    >>> target
    'y'
    """

    #: Name of the operation that runs first.
    source: str
    #: Name of the operation that waits.
    target: str
    #: Whether it waits without reading a value.
    control: bool


def edges(graph: tf.Graph) -> list[Edge]:
    """All edges of ``graph`` between named operations, in order of creation of their targets.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from bn_tutorial.tf1 import edges
    >>> with tf.Graph().as_default() as graph:
    ...     y = tf.negative(tf.constant(1.0, name="x"), name="y")
    >>> edges(graph)
    [Edge(source='x', target='y', control=False)]
    """
    return [
        Edge(source, operation.name, control)
        for operation in graph.get_operations()
        for control, sources in (
            (False, [tensor.op.name for tensor in operation.inputs]),
            (True, sorted(source.name for source in operation.control_inputs)),
        )
        for source in sources
    ]
