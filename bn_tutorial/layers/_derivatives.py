"""Fast functions whose derivatives of every order are right, backward and forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.forwardprop_util import pack_tangents


def with_derivatives_of(
    formula: Callable[..., Any],
    fast: Callable[..., tuple[Any, Callable[[Any], Sequence[Any]]]],
) -> Callable[..., Any]:
    """Return the function that ``fast`` computes, with the derivatives of ``formula``.

    Parameters
    ----------
    formula
        Function of some tensors, in operations that TensorFlow can differentiate, perhaps in
        another dtype.
    fast
        Function of the same tensors that returns a tuple, whose first is what ``formula`` returns
        and whose others are constants; and a function from the gradient for the first to the
        gradients for the tensors. TensorFlow sees nothing of how ``fast`` works, so it may take
        any operation.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def function(*given: Any) -> Any:
        results, fast_gradient = fast(*map(tf.stop_gradient, given))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def gradient(dy: Any, *given: Any) -> Any:
            def second(*directions: Any) -> Any:
                return _second_derivatives(formula, dy, given, directions)

            return tuple(fast_gradient(tf.stop_gradient(dy))), second

        # As tensors of the graph in which the gradient is computed, perhaps another than this.
        return results, lambda dy, *_: gradient(dy, *map(tf.identity, given))

    def function_and_tangents(*given: Any) -> Any:
        # In a graph, forward mode looks into functions with custom gradients.
        (y, *others), _ = fast(*map(tf.stop_gradient, given))
        return tf.cast(formula(*given), y.dtype), *others

    return lambda *given: (function_and_tangents if pack_tangents(given).tangents else function)(
        *given
    )


def _second_derivatives(
    formula: Callable[..., Any], dy: Any, given: Sequence[Any], directions: Sequence[Any]
) -> Any:
    """Return the gradients, for ``dy`` and what is given, of the gradients along directions."""
    zero = tf.UnconnectedGradients.ZERO

    def in_graph(dy: Any, given: Any, directions: Any) -> Any:
        # Others than in the graph around, where each may be a function of another.
        dy, *given = map(tf.identity, [dy, *given])
        y = formula(*given)
        first = tf.gradients(y, given, tf.cast(dy, y.dtype))
        return tf.gradients(first, [dy, *given], directions, unconnected_gradients=zero)

    if not tf.executing_eagerly():
        return in_graph(dy, given, directions)
    with tf.GradientTape() as outer:
        outer.watch([dy, *given])
        with tf.GradientTape() as inner:
            inner.watch(given)
            y = formula(*given)
        first = inner.gradient(y, given, tf.cast(dy, y.dtype))
    # Tapes see nothing while TensorFlow works in forward mode.
    if any(each is None for each in first):
        return tf.function(in_graph, autograph=False)(dy, given, directions)
    return outer.gradient(first, [dy, *given], directions, unconnected_gradients=zero)
