"""A drop-in for the batch normalization of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import keras
import tensorflow as tf

from ._arguments import unknown_arguments
from ._dispatch import path_for
from ._layout import Layout
from ._normalize import normalize_batch, normalize_with, without_masked_nans

__all__ = ["BatchNormalization"]

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "bn_tutorial.layers needs the TensorFlow backend of Keras, but Keras runs on "
        f"{keras.backend.backend()}: set KERAS_BACKEND=tensorflow before Keras is imported"
    )


def _is_dense(value: Any) -> bool:
    """Whether a value is, or may become, a plain tensor; ragged and sparse ones do not."""
    return isinstance(value, tf.Tensor | tf.Variable) or not tf.is_tensor(value)


def _reaches(mask: Any, inputs: Any) -> bool:
    """Whether a mask, if any, may be broadcast to the inputs without their last dimension."""
    if mask is None:
        return True
    return len(mask.shape) == len(inputs.shape) - 1 and all(
        place is None or size is None or place in (1, size)
        for place, size in zip(mask.shape, inputs.shape[:-1], strict=True)
    )


class _Named(Protocol):
    """A dtype of NumPy or TensorFlow, or a policy of Keras."""

    @property
    def name(self) -> str: ...


class _Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> Any: ...


# What Keras makes a function of: a name, a configuration, a function or a class of them.
_Function = str | dict[str, Any] | Callable[..., Any]


@keras.saving.register_keras_serializable(package="bn_tutorial")
class BatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    r"""A drop-in for `keras.layers.BatchNormalization`: often faster, and right in more places.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    In training μ and σ² are those of the batch, and the moving averages move: each becomes
    ``average * momentum + moment * (1 - momentum)``. In inference, and always while the layer is
    frozen (``trainable = False``), μ and σ² are the averages.

    Everything that is not said here is as in `keras.layers.BatchNormalization`, from which this
    class descends: arguments and defaults, weights, their names and order, ``get_config``, masks,
    mixed precision, ``synchronized=True``.

    **What Keras adds.** This class implements the arguments that Keras 3.12 has. A layer with
    another one, such as ``renorm=True`` in newer versions, at another value than its default is
    computed by Keras's own code. Of what follows, only the words on files hold for it.

    **Files.** A model with this layer loads as it was saved, wherever this module is imported.
    Between this layer and the one of Keras weights go either way: build the model with the other
    class, then ``model.load_weights(file)``, be it a file of weights (``.weights.h5``) or of a
    model (``.keras``). Where this package is missing, a model with this layer loads with that of
    Keras instead::

        keras.models.load_model(
            file,
            custom_objects={"bn_tutorial>BatchNormalization": keras.layers.BatchNormalization},
        )

    The other way round, `bn_tutorial.models.replace_batch_norm` puts this layer into a model that
    was loaded. (Keras takes its own class from a file whatever ``custom_objects`` says.)

    **How it computes.** Small inputs are computed in float64. Of others no more than 64 values are
    added in their own precision: the sums of such blocks are added again, most in float64, which
    is no slower than one long sum. The channels last, TensorFlow's fused kernel multiplies and adds
    in one pass over the data. ``make sweep`` in the repository times some hundred cases against
    Keras, and lists those in which this layer is slower, with the reasons. On a GPU the same
    operations run, each in one sum: that was never tried.

    **How exact it is.** The moments, and the gradients of γ and β, are sums Σvᵢ whose error is
    below ``10⁻⁵·Σ|vᵢ|``, however many the values are, and in practice a hundredth of that. (One
    float32 sum of n values may lose n·6·10⁻⁸.) Derivatives of every order are right, in reverse and
    forward mode, those for the moving averages too. (The second ones of Keras are not before
    TensorFlow 2.22, whose `tf.nn.moments` no longer stops a gradient that vanishes only at first.)

    **The stored variance** is the biased one, Σ(x − μ)²/n, as in Keras 3. (TensorFlow's fused
    kernel returns, and PyTorch stores, n/(n − 1) times that.)

    **Nothing to learn from.** An empty batch, or one that is masked altogether, leaves the
    moving averages as they are. (Keras: NaN, and a pull towards 0.)

    **Masks** keep values out of the moments, though the values are normalized, as in Keras. A
    masked value that is not a number, or so large that its square might overflow (in float32 from
    5·10¹⁴ on), is read as 0, so that it gets neither into the moments, nor into a gradient or a
    loss that weighs it with 0. (In Keras NaN gets into the gradient of γ even so.) What is not 0
    in a mask is true; older versions of Keras take fractions for weights.

    **Far from zero**, where μ² > 9·σ² in some channel, the moments are those of x − K, for K the
    rounded mean. So y loses only the digits that x itself does not have.

    **Several replicas.** Under a `tf.distribute` strategy each replica normalizes its share of a
    batch and moves averages of its own, and a file gets those of the first. With
    ``synchronized=True`` the moments are those of all shares, and the averages the same on all
    replicas to the last bit, whatever the shares' sizes, masks and distance from zero. (Keras: not
    under a mask, and not far from zero.) For C channels, that takes two messages of 2·C float64
    numbers forward, and one backward.

    **XLA.** What is traced for XLA (``jit_compile=True``, a TPU) is known as such while it is
    traced: it gets plain operations, in float64 where there is one value per channel.

    **Half precision.** float16 and bfloat16 are computed in float32, and y is rounded.

    **What is no dense tensor of numbers**, such as a ragged one, is computed by Keras's own code,
    and so is what has a mask of another shape: Keras does without it in inference.

    Raises
    ------
    ValueError
        When called with a mask that does not have one dimension less than the inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from bn_tutorial.layers import BatchNormalization
    >>> layer = BatchNormalization(momentum=0.5)
    >>> layer(np.float32([[1], [2], [6]]), training=True).numpy().round(2)
    array([[-0.93],
           [-0.46],
           [ 1.39]], dtype=float32)
    >>> layer.moving_mean.numpy()
    array([1.5], dtype=float32)

    In a model, ``fit`` moves the averages, and ``predict`` uses them. At a momentum of 0.9, 3 % is
    left after 32 steps of the 0 from which they start:

    >>> import keras
    >>> keras.utils.set_random_seed(0)
    >>> norm = BatchNormalization(momentum=0.9)
    >>> model = keras.Sequential([keras.Input((2,)), norm, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal([3, -5], [1, 2], size=(256, 2))
    >>> history = model.fit(x, x.sum(axis=1), epochs=4, verbose=0)
    >>> norm.moving_mean.numpy().round()
    array([ 3., -5.], dtype=float32)

    A mask, here from `keras.layers.Masking`, keeps padding out of the moments. The mean of 1, 3 and
    5 is 3; with the zeros it would be 1.5:

    >>> norm = BatchNormalization(momentum=0.0)
    >>> model = keras.Sequential([keras.Input((3, 1)), keras.layers.Masking(), norm])
    >>> padded = np.float32([[[1], [3], [0]], [[5], [0], [0]]])
    >>> y = model(padded, training=True)
    >>> norm.moving_mean.numpy()
    array([3.], dtype=float32)

    For several replicas, make the model in the scope of a strategy, and call ``fit`` as ever. Their
    shares of a batch are then normalized together:

    >>> import tensorflow as tf
    >>> strategy = tf.distribute.MirroredStrategy(["CPU:0"])  # default: all GPUs
    >>> with strategy.scope():
    ...     norm = BatchNormalization(synchronized=True)
    ...     model = keras.Sequential([keras.Input((2,)), norm, keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    """

    if TYPE_CHECKING:
        # Keras has no types. While the program runs, its own `__init__` and `__call__` stay, which
        # may take more, or less: renorm came after 3.12. By position only what stays in its place.

        gamma: Any
        beta: Any
        moving_mean: Any
        moving_variance: Any

        def __init__(
            self,
            axis: int = -1,
            momentum: float = 0.99,
            epsilon: float = 1e-3,
            *,
            center: bool = True,
            scale: bool = True,
            beta_initializer: _Function | _Shaped = "zeros",
            gamma_initializer: _Function | _Shaped = "ones",
            moving_mean_initializer: _Function | _Shaped = "zeros",
            moving_variance_initializer: _Function | _Shaped = "ones",
            beta_regularizer: _Function | None = None,
            gamma_regularizer: _Function | None = None,
            beta_constraint: _Function | None = None,
            gamma_constraint: _Function | None = None,
            renorm: bool = False,
            renorm_clipping: Mapping[str, float] | None = None,
            renorm_momentum: float = 0.99,
            synchronized: bool = False,
            activity_regularizer: _Function | None = None,
            trainable: bool = True,
            dtype: str | dict[str, Any] | type[Any] | _Named | None = None,
            autocast: bool = True,
            name: str | None = None,
        ) -> None: ...

        def __call__(
            self, inputs: Any, *, training: bool | None = None, mask: Any = None
        ) -> Any: ...

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize: in training by the moments of the batch, else by the moving averages.

        Parameters
        ----------
        inputs
            Tensor or array of any rank from 2 on.
        training
            Whether to use the moments of the batch and move the averages; never while frozen.
        mask
            Boolean tensor or array, broadcastable to the shape of the inputs without their last
            dimension; false where values do not count.

        Returns
        -------
        tf.Tensor
            Of the shape of the inputs and the layer's ``compute_dtype``.
        """
        is_plain = all(map(_is_dense, (inputs, mask))) and _reaches(mask, inputs)
        if unknown_arguments(self) or not is_plain:
            return super().call(inputs, training=training, mask=mask)
        inputs = tf.convert_to_tensor(inputs)
        if not self._is_numbers_in_channels(inputs):
            return super().call(inputs, training=training, mask=mask)
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        layout = Layout(x, self.axis % x.shape.rank)
        path = path_for(x, layout)
        if mask is not None:
            mask = layout.expand_mask(mask)
            x = without_masked_nans(x, mask)
        mean, variance = map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(mean)
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(mean)
        if not (training and self.trainable):
            y = normalize_with(layout, path, x, scale, offset, mean, variance, self.epsilon)
            return tf.cast(y, self.compute_dtype)
        all_reduce = self._sum_over_replicas()
        batch = normalize_batch(layout, path, x, scale, offset, self.epsilon, mask, all_reduce)
        self._update_average(self.moving_mean, batch.mean, batch.count)
        self._update_average(self.moving_variance, batch.variance, batch.count)
        return tf.cast(batch.y, self.compute_dtype)

    def _is_numbers_in_channels(self, inputs: Any) -> bool:
        """Whether inputs are real numbers with a known number of channels, and values of each."""
        kind, shape = inputs.dtype, inputs.shape
        if not (kind.is_floating or kind.is_integer or kind.is_bool):
            return False
        return (shape.rank or 0) > 1 and shape[self.axis] is not None

    def _sum_over_replicas(self) -> Callable[[Any], Any] | None:
        """Return the function that sums a tensor over all replicas, or None where there is one."""
        replica = tf.distribute.get_replica_context() if self.synchronized else None
        if replica is None or replica.num_replicas_in_sync == 1:
            return None
        return partial(replica.all_reduce, tf.distribute.ReduceOp.SUM)

    def _update_average(self, average: Any, moment: Any, count: Any) -> None:
        """Move an average towards the moment of ``count`` values, unless there are none."""
        if isinstance(count, float) and not count:
            return
        old = tf.cast(average, keras.backend.result_type(average.dtype, "float32"))
        moment = tf.cast(moment, old.dtype)
        new = old * self.momentum + moment * (1.0 - self.momentum)
        average.assign(new if isinstance(count, float) else tf.where(count > 0, new, old))
