"""Fast functions whose derivatives of every order are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def with_derivatives_of(
    formula: Callable[..., Any],
    fast: Callable[..., tuple[Any, Callable[[Any], Sequence[Any]]]],
) -> Callable[..., Any]:
    """Return the function that ``fast`` computes, with the derivatives of ``formula``.

    Parameters
    ----------
    formula
        Function of some tensors, in operations that TensorFlow can differentiate.
    fast
        Function of the same tensors that returns the same result, alone or the first of several,
        and a function from the gradient for it to those for the tensors. The other results are
        constants. TensorFlow sees nothing of how ``fast`` works, so it may take any operation.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def function(*given: Any) -> Any:
        results, fast_gradient = fast(*map(tf.stop_gradient, given))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def gradient(dy: Any, *given: Any) -> Any:
            def second(*directions: Any) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch([dy, *given])
                    first = _gradient_of(formula, given, dy)
                return tape.gradient(first, [dy, *given], directions)

            return tuple(fast_gradient(tf.stop_gradient(dy))), second

        return results, lambda dy, *_: gradient(dy, *given)

    return function


def _gradient_of(formula: Callable[..., Any], given: Sequence[Any], dy: Any) -> Any:
    """Return the gradients of ``formula`` for what is given, by TensorFlow."""
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = formula(*given)
    return tape.gradient(y, given, tf.cast(dy, y.dtype))
