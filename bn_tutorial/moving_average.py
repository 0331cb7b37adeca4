r"""The exponential moving average, with the semantics of ``tf.train.ExponentialMovingAverage``.

.. math:: a_t = d\,a_{t-1} + (1 - d)\,v_t

where d is the decay, the weight of the old value.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_array, check_decay

__all__ = ["ExponentialMovingAverage", "half_life", "weights", "window"]


class ExponentialMovingAverage:
    """Moving averages of named values, number for number as TensorFlow keeps them.

    TensorFlow knows a value by its ``tf.Variable`` or ``tf.Tensor``; here a name takes its place:

    ========================================  ==============================================
    TensorFlow                                here
    ========================================  ==============================================
    a Variable: starts from its value         ``ema.initialize({"w": 1.0})``
    a Tensor: starts from 0                   a name that was never initialized
    ``ema.apply([w, x])``, run once           ``ema.apply({"w": 2.0, "x": 4.0})``
    ``ema.average(w)``                        ``ema.average("w")``
    ``num_updates``, a step variable          ``ema.num_updates = step``, before an `apply`
    ========================================  ==============================================

    Python floats and lists of them are averaged in float32, as in TensorFlow, and arrays of
    bfloat16, float16, float32 and float64 in their own dtype. TensorFlow averages nothing else, no
    integers either. The decay itself is always rounded to float32 first: TensorFlow does that too,
    so its float64 averages carry a decay that is right to seven digits only.

    Parameters
    ----------
    decay
        The weight of the old value, in [0, 1]; fixed from then on.
    num_updates
        Optional count of updates n ≥ 0, so far. The decay in use is then
        min(decay, (1 + n) / (10 + n)), which lets an average move quickly at first.
    zero_debias
        Divide an average that started from 0 by 1 - decay^t after t updates (Kingma
        and Ba, 2015), so that it starts unbiased. An initialized average is left as it is.

    Raises
    ------
    ValueError
        For a decay outside [0, 1], a negative ``num_updates``, or a decay of 1 with
        ``zero_debias``, which would divide 0 by 0.

    Examples
    --------
    >>> from bn_tutorial.moving_average import ExponentialMovingAverage
    >>> ema = ExponentialMovingAverage(decay=0.9)
    >>> ema.initialize({"w": 1.0})
    >>> for value in [2.0, 3.0, 4.0]:
    ...     print(ema.apply({"w": value})["w"].round(3))
    1.1
    1.29
    1.561
    """

    def __init__(
        self, decay: float, num_updates: int | None = None, zero_debias: bool = False
    ) -> None:
        self._decay = check_decay(decay)
        if zero_debias and np.float32(decay) == 1 and num_updates is None:
            raise ValueError(
                "zero_debias needs a decay below 1 in float32: at 1 an average never leaves 0, "
                f"got {decay!r}"
            )
        self.num_updates = num_updates
        self._zero_debias = zero_debias
        self._averages: dict[str, Array] = {}
        # The averages that are debiased, before debiasing, and their number of updates: a float of
        # the same dtype, as in TensorFlow, where it counts to 256 in bfloat16 and not beyond.
        self._biased: dict[str, tuple[Array, np.floating[Any]]] = {}

    @property
    def decay(self) -> float:
        """The weight of the old value; with ``num_updates``, the most that it may be.

        Examples
        --------
        >>> from bn_tutorial.moving_average import ExponentialMovingAverage
        >>> ExponentialMovingAverage(decay=0.9).decay
        0.9
        """
        return self._decay

    @property
    def num_updates(self) -> int | None:
        """The count of updates that the decay in use depends on, or None.

        Examples
        --------
        At count 0 the decay in use is a tenth, and the average moves nine tenths of the way:

        >>> from bn_tutorial.moving_average import ExponentialMovingAverage
        >>> ema = ExponentialMovingAverage(decay=0.99, num_updates=0)
        >>> print(ema.apply({"x": 10.0})["x"].round(3))
        9.0
        """
        return self._num_updates

    @num_updates.setter
    def num_updates(self, count: int | None) -> None:
        if count is not None and not 0 <= count < np.inf:
            raise ValueError(f"num_updates must be a count, 0 or more, got {count!r}")
        self._num_updates = count

    def initialize(self, values: Mapping[str, ArrayLike]) -> None:
        """Start averages from these values, as TensorFlow does for a Variable.

        Raises
        ------
        ValueError
            For a name whose average has started already.
        TypeError
            For values that are not floats.

        Examples
        --------
        >>> from bn_tutorial.moving_average import ExponentialMovingAverage
        >>> ema = ExponentialMovingAverage(decay=0.5)
        >>> ema.initialize({"w": 6.0})
        >>> print(ema.average("w"))
        6.0
        """
        for name in values:
            if name in self._averages:
                raise ValueError(f"the average of {name!r} has started already")
        for name, value in values.items():
            self._averages[name] = _as_average(value, name)

    def apply(self, values: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Update each average once with its new value, and return the averages.

        After an error no average is updated.

        Raises
        ------
        ValueError
            For a value whose shape differs from its average's, or with ``zero_debias`` if the dtype
            cannot tell the decay in use from 1.
        TypeError
            For values that are not floats, or whose dtype differs from their average's.

        Examples
        --------
        An average that was not initialized starts from 0:

        >>> from bn_tutorial.moving_average import ExponentialMovingAverage
        >>> ema = ExponentialMovingAverage(decay=0.5)
        >>> [float(ema.apply({"x": 8.0})["x"]) for _ in range(3)]
        [4.0, 6.0, 7.0]
        """
        arrays = {name: _as_average(value, name) for name, value in values.items()}
        for name, array in arrays.items():
            average = self._averages.get(name, array)
            if array.shape != average.shape:
                raise ValueError(
                    f"{name!r} has shape {array.shape}, its average has shape {average.shape}"
                )
            if array.dtype != average.dtype:
                raise TypeError(
                    f"{name!r} has dtype {array.dtype}, its average has dtype {average.dtype}"
                )

        averages: dict[str, Array] = {}
        biased: dict[str, tuple[Array, np.floating[Any]]] = {}
        for name, array in arrays.items():
            # TensorFlow forms 1 - decay in float32 and writes the update as a difference.
            new_weight = (np.float32(1) - self._decay_in_use()).astype(array.dtype)
            if name in self._biased or (self._zero_debias and name not in self._averages):
                zero = np.zeros_like(array), array.dtype.type(0)
                average, steps = self._biased.get(name, zero)
                biased[name] = average - (average - array) * new_weight, steps + 1
                averages[name] = biased[name][0] / _weight_since_0(new_weight, steps + 1)
            else:
                average = self._averages.get(name, np.zeros_like(array))
                averages[name] = average - (average - array) * new_weight
        self._averages.update(averages)
        self._biased.update(biased)
        return {name: self.average(name) for name in values}

    def average(self, name: str) -> Array:
        """The average of the value called ``name``, a copy; after `initialize`, its start.

        Raises
        ------
        KeyError
            For a name that was neither initialized nor applied.

        Examples
        --------
        >>> import numpy as np
        >>> from bn_tutorial.moving_average import ExponentialMovingAverage
        >>> ema = ExponentialMovingAverage(decay=0.5)
        >>> _ = ema.apply({"x": np.array([8.0, 2.0])})
        >>> ema.average("x")
        array([4., 1.])
        """
        if name not in self._averages:
            raise KeyError(f"no average of {name!r}; there are {sorted(self._averages)}")
        return self._averages[name].copy()[()]

    def _decay_in_use(self) -> np.float32:
        decay = np.float32(self._decay)
        if self.num_updates is None:
            return decay
        count = np.float32(self.num_updates)
        return min(decay, (1 + count) / (10 + count))


def weights(decay: float, steps: int) -> Array:
    r"""The weight that an average gives to each of its last values, the newest first.

    .. math:: w_k = (1 - d)\,d^k, \qquad k = 0, 1, \ldots, \text{steps} - 1

    The rest, :math:`d^{\text{steps}}`, belongs to what came before. ``decay`` must lie in [0, 1]
    and ``steps`` must be an integer (``TypeError``) and not negative (``ValueError``).

    Examples
    --------
    >>> from bn_tutorial.moving_average import weights
    >>> weights(0.5, steps=3)
    array([0.5  , 0.25 , 0.125])
    """
    check_decay(decay)
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps!r}")
    return (1 - decay) * float(decay) ** np.arange(operator.index(steps))


def window(decay: float) -> float:
    r"""The number of values whose plain mean would be as old on average as this average.

    .. math:: n = \frac{1 + d}{1 - d}

    The mean age of a weight, :math:`\sum_k k\,w_k = d / (1 - d)`, equals that of a plain mean
    over n values, :math:`(n - 1) / 2`. ``decay`` must lie in [0, 1) (``ValueError``).

    Examples
    --------
    >>> from bn_tutorial.moving_average import window
    >>> round(window(0.9), 6), round(window(0.99), 6)
    (19.0, 199.0)
    """
    if check_decay(decay) == 1:
        raise ValueError("an average with decay 1 never forgets its start: no window describes it")
    return (1 + decay) / (1 - decay)


def half_life(decay: float) -> float:
    r"""The number of updates after which half of an old value's influence is gone.

    .. math:: d^{h} = \tfrac12 \quad\Rightarrow\quad h = \frac{\ln \frac12}{\ln d}

    ``decay`` must lie in (0, 1) (``ValueError``).

    Examples
    --------
    >>> from bn_tutorial.moving_average import half_life
    >>> round(half_life(0.9), 2), round(half_life(0.99), 2)
    (6.58, 68.97)
    """
    if not 0 < check_decay(decay) < 1:
        raise ValueError(f"a half-life needs a decay strictly between 0 and 1, got {decay!r}")
    return float(np.log(0.5) / np.log(decay))


def _as_average(value: ArrayLike, name: str) -> Array:
    """Return a copy of ``value`` in the dtype that TensorFlow would average it in."""
    first = value
    while isinstance(first, list | tuple) and len(first):
        first = first[0]
    array = as_array(value, repr(name))
    # The first number of a list decides, and Python's own are float32.
    if isinstance(first, np.generic) or not isinstance(first, float | int | list | tuple):
        dtype = np.asarray(first).dtype
    else:
        dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype
    if dtype.name not in ("bfloat16", "float16", "float32", "float64"):
        raise TypeError(
            f"{name!r} must hold floats: bfloat16, float16, float32 or float64, got dtype {dtype}"
        )
    return array.astype(dtype)


def _weight_since_0(new_weight: np.floating[Any], steps: np.floating[Any]) -> np.floating[Any]:
    """The sum of the weights of all values since an average started from 0, 1 - decay^steps."""
    weight = 1 - (1 - new_weight) ** steps
    if weight == 0:
        raise ValueError(
            f"zero_debias needs a decay below 1 in {new_weight.dtype}: at 1 an average never "
            "leaves 0"
        )
    return weight
