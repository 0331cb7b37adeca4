"""Run a model in all modes, and write down what its batch normalizations do there."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from .._checks import Array
from ..models._batches import examples_in
from ..models._measured import moments_of_examples
from ..models._observing import observing, on_batch_statistics
from ..models._state import eagerly
from ._noise import is_of_keras, silenced
from ._sampling import Sample
from ._tracing import Trace, number, tracing

__all__ = ["Calls", "Examined", "Norm", "Outputs", "Passes"]


@dataclass
class Calls:
    """What a batch normalization was called on in one mode of the model."""

    sample: Sample = field(default_factory=Sample)
    places: dict[int, Sample] = field(default_factory=lambda: defaultdict(Sample))
    moved: bool = False  # whether a call moved the averages
    dtypes: set[str] = field(default_factory=set)
    unseen: int = 0  # calls inside a graph, which have no values
    lowest: Array = field(default_factory=lambda: np.array(np.inf))  # of the outputs
    highest: Array = field(default_factory=lambda: np.array(-np.inf))


@dataclass
class Norm:
    """A batch normalization, and what was seen of it."""

    way: str
    layer: Any
    written: bool | None = None  # the mode that a functional model has written into its graph
    training: Calls = field(default_factory=Calls)  # the model in training mode
    batch: Calls = field(default_factory=Calls)  # batch statistics, all else as in inference
    inference: Calls = field(default_factory=Calls)
    validation: Calls = field(default_factory=Calls)  # as `inference`, on other data
    order: int = -1  # in which it was called first
    moves: int = 0  # of its averages in one training step
    moves_forward: int = 0
    own_moves: int | None = None  # in the model's own `train_step`, or None if it calls it not
    untold: str = ""  # why `fit` calls it in inference mode: its model's "train_step", or "call"
    is_repeated: bool = False  # by a TimeDistributed around it
    has_bias_before: bool = False
    random_before: frozenset[str] = frozenset()  # whose chance makes its inputs random
    relu_after: str | None = None
    mask_lost: float = 0.0  # the share of positions that a mask which did not arrive leaves out
    channel_axis: int | None = None  # of the convolution before, or else after it
    axis_from_before: bool = False
    shape: tuple[int, ...] = ()  # of its inputs

    def __post_init__(self) -> None:
        self.mean, self.variance = (
            keras.ops.convert_to_numpy(keras.ops.cast(average, "float32")).astype(np.float64)
            for average in (self.layer.moving_mean, self.layer.moving_variance)
        )

    @property
    def epsilon(self) -> float:
        return float(self.layer.epsilon)


@dataclass
class Outputs:
    """How far apart the outputs of a model in two modes are, and their losses, by example."""

    count: int = 0  # examples
    apart: float = 0.0  # squares, summed
    spread: float = 0.0
    bias: float = 0.0
    along: float = 0.0
    losses: list[tuple[float, float, int]] = field(default_factory=list)  # and of how many

    def add(self, one: Any, other: Any, losses: tuple[Any, Any], size: int) -> None:
        self.count += size
        for a, b in zip(one, other, strict=True):
            self.apart += size * float(np.mean((a - b) ** 2))
            around = b - b.mean(axis=0, keepdims=True) if len(b) > 1 else b
            self.spread += size * float(np.mean(around**2)) * (len(b) / max(len(b) - 1, 1))
            self.bias += size * float(np.mean((a - b).mean(axis=0) ** 2))
            self.along += size * float(np.mean((a - b) * around))
        if None not in losses:
            self.losses.append((float(losses[0]), float(losses[1]), size))

    @property
    def size(self) -> float:
        """The root mean square of the difference, in standard deviations of the outputs."""
        return float(np.sqrt(self.apart / max(self.spread, 1e-30)))

    @property
    def on_average(self) -> float:
        """The part of the difference that is no noise: another mean, or another scale."""
        spread = max(self.spread, 1e-30)
        return float(np.sqrt(self.bias / spread + (self.along / spread) ** 2))

    @property
    def loss(self) -> tuple[float, float] | None:
        """The mean losses of both, or None."""
        if not self.losses:
            return None
        first, second, sizes = np.transpose(self.losses)
        return float(np.average(first, weights=sizes)), float(np.average(second, weights=sizes))


@dataclass
class Examined:
    """All that an examination saw."""

    model: Any
    norms: list[Norm]
    steps: int = 0
    is_whole: bool = False  # whether there were no more batches than those
    validation_losses: list[tuple[float, int]] = field(default_factory=list)  # and of how many
    is_better_adapted: bool = True  # whether the first of them falls with the batch's statistics
    steps_per_epoch: int | None = None
    batch_against_inference: Outputs = field(default_factory=Outputs)
    right_against_inference: Outputs = field(default_factory=Outputs)
    batch_against_right: Outputs = field(default_factory=Outputs)
    training_against_batch: Outputs = field(default_factory=Outputs)
    others_against_batch: Outputs = field(default_factory=Outputs)  # without noise of Keras's own
    is_random: bool = False  # whether anything is, in training mode
    trains_by_default: Any = None  # a layer whose `call` has training=True by default
    step_failed: str | None = None  # what the model's own `train_step` raised
    finite_inputs: bool = True
    finite_outputs: bool = True

    @property
    def seen(self) -> list[Norm]:
        """The batch normalizations that were called on values, in the order of their calls."""
        called = [norm for norm in self.norms if norm.batch.sample.batches]
        return sorted(called, key=lambda norm: norm.order)


class Passes:
    """Runs a model in several modes on batch after batch.

    Every pass leaves the variables as they were, so that the order does not matter, and all passes
    of a batch have the same noise.
    """

    def __init__(self, model: Any, norms: list[Norm], variables: list[Any]) -> None:
        self.model = model
        self.examined = Examined(model, norms)
        self._norms = {id(norm.layer): norm for norm in norms}
        self._noisy: list[Any] = []  # layers of Keras
        self._state = [(variable, tf.identity(variable)) for variable in variables]

    def train(self, batch: tuple[Any, Any, Any], step: int) -> None:
        """Run the passes on a batch of what the model is trained on."""
        x, y, weight = batch
        examined = self.examined
        self._reseed()
        inputs = map(np.asarray, keras.tree.flatten(x))
        examined.finite_inputs &= all(np.isfinite(a).all() for a in inputs if a.dtype.kind == "f")
        modes = {"batch": self._run("batch", x), "inference": self._run("inference", x)}
        if step == 0:
            modes["training"] = self._training_step(x)
            modes["others"] = (
                self._without_noise(x, training=True) if self._noisy else modes["training"]
            )
        elif step % 2 == 0:
            modes["training"] = self._run("training", x)
        else:
            modes["right"] = self._right(x)
        losses = {mode: self._loss(x, y, weight, outputs) for mode, outputs in modes.items()}
        arrays = {mode: _arrays(outputs) for mode, outputs in modes.items()}
        examined.finite_outputs &= all(np.isfinite(a).all() for a in arrays["inference"])
        pairs = {
            ("inference", "batch"): examined.batch_against_inference,
            ("training", "batch"): examined.training_against_batch,
            ("others", "batch"): examined.others_against_batch,
            ("inference", "right"): examined.right_against_inference,
            ("batch", "right"): examined.batch_against_right,
        }
        for (one, other), outputs in pairs.items():
            if one in modes and other in modes:
                outputs.add(
                    arrays[one], arrays[other], (losses[one], losses[other]), examples_in(x)
                )
        examined.steps += 1

    def validate(self, batch: tuple[Any, Any, Any]) -> None:
        """Run the pass on a batch of other data."""
        x, y, weight = batch
        examined = self.examined
        loss = self._loss(x, y, weight, self._run("validation", x))
        if loss is None:
            return
        if not examined.validation_losses:
            adapted = self._loss(x, y, weight, self._without_noise(x, training=False))
            examined.is_better_adapted = adapted is not None and adapted < loss
        examined.validation_losses.append((loss, examples_in(x)))

    def _run(self, mode: str, x: Any) -> Any:
        """Run the model, and write down what its batch normalizations are called on."""
        counts: dict[int, int] = defaultdict(int)

        def see(layer: Any, call: Any, inputs: Any, given: dict[str, Any]) -> Any:
            norm = self._norms[id(layer)]
            calls: Calls = getattr(norm, mode)
            if in_stateless_scope():  # Keras asks for shapes
                return call(inputs, **given)
            if not (isinstance(inputs, tf.Tensor) and tf.executing_eagerly()):
                calls.unseen += 1
                return call(inputs, **given)
            calls.dtypes.add(inputs.dtype.name)
            place = counts[id(layer)]
            counts[id(layer)] += 1
            batch = moments_of_examples(layer, inputs, given.get("mask"))
            calls.sample.add(batch)
            calls.places[place].add(batch)
            if norm.order < 0:
                norm.order = sum(counts.values())
            if mode != "batch":
                outputs, moved = _watched(layer, call, inputs, given)
                calls.moved |= moved
                return outputs
            outputs = on_batch_statistics(layer, call, inputs, given)
            axes = [a for a in range(outputs.shape.rank) if a != layer.axis % outputs.shape.rank]
            calls.lowest = np.minimum(calls.lowest, tf.reduce_min(outputs, axes))
            calls.highest = np.maximum(calls.highest, tf.reduce_max(outputs, axes))
            return outputs

        with self._restored(), observing((norm.layer for norm in self._norms.values()), see):
            return self.model(x, training=mode == "training")

    def _without_noise(self, x: Any, training: bool) -> Any:
        """Run the model with the statistics of the batch, and Keras's noisy layers in inference."""
        layers = (norm.layer for norm in self._norms.values())
        with self._restored(), silenced(self._noisy), observing(layers, on_batch_statistics):
            return self.model(x, training=training)

    def _right(self, x: Any) -> Any:
        """Run the model in inference mode, with the averages that the data so far would give."""
        with self._restored(), eagerly():
            for norm in self._norms.values():
                sample = norm.batch.sample
                if sample.batches:
                    norm.layer.moving_mean.assign(sample.mean)
                    norm.layer.moving_variance.assign(sample.variance)
            return self.model(x, training=False)

    def _training_step(self, x: Any) -> Any:
        """Run the model as in a training step, gradients and all, and see what is around."""
        weights = [variable.value for variable in self.model.trainable_variables]
        ends: dict[int, tuple[Any, Any]] = {}
        lost: dict[int, Any] = {}

        def see(layer: Any, call: Any, inputs: Any, given: dict[str, Any]) -> Any:
            if not tf.executing_eagerly():
                return call(inputs, **given)
            outputs, moved = _watched(layer, call, inputs, given)
            self._norms[id(layer)].moves += moved
            ends.setdefault(id(layer), (inputs, outputs))
            if given.get("mask") is None and (mask := trace.masks.get(number(inputs))) is not None:
                lost.setdefault(id(layer), mask)
            return outputs

        with (
            self._restored(),
            tracing() as trace,
            observing((norm.layer for norm in self._norms.values()), see),
        ):
            with tf.GradientTape() as tape:
                outputs = self.model(x, training=True)
                parts = [tf.reduce_sum(tf.cast(out, "float32")) for out in _floats(outputs)]
                total = tf.add_n([tf.zeros(()), *parts])
            for norm in self._norms.values():
                norm.moves_forward = norm.moves
            self._read(trace, ends, lost)
            with contextlib.suppress(LookupError):  # an operation without a gradient
                tape.gradient(total, weights)
        self._run("training", x)
        return outputs

    def own_step(self, batch: tuple[Any, Any, Any]) -> None:
        """Let a model take one step as `fit` does, where its own code says what it calls how."""
        model = self.model
        optimizer = getattr(model, "optimizer", None)
        if not (isinstance(model, keras.Model) and getattr(optimizer, "built", False)):
            return
        own_step, own_loss = (
            getattr(type(model), name) is not getattr(keras.Model, name)
            for name in ("train_step", "compute_loss")
        )
        if not (own_step or own_loss) and getattr(model, "_call_has_training_arg", True):
            return
        moves: dict[int, int] = defaultdict(int)

        def see(layer: Any, call: Any, inputs: Any, given: dict[str, Any]) -> Any:
            if not tf.executing_eagerly():
                return call(inputs, **given)
            outputs, moved = _watched(layer, call, inputs, given)
            moves[id(layer)] += moved
            return outputs

        with self._restored(), observing((norm.layer for norm in self._norms.values()), see):
            try:
                model.train_step(keras.utils.pack_x_y_sample_weight(*batch))
            except Exception as error:  # anybody's code, which may need what `fit` prepares
                self.examined.step_failed = f"{type(error).__name__}: {error}"
                return
        for norm in self._norms.values():
            norm.own_moves = moves.get(id(norm.layer))
            if norm.own_moves == 0:
                norm.untold = "train_step" if own_step else "call"

    def _read(self, trace: Trace, ends: dict[int, Any], lost: dict[int, Any]) -> None:
        """Write down what the trace of a step says of each batch normalization."""
        outputs_of = {number(outputs): key for key, (_, outputs) in ends.items()}
        for key, (inputs, outputs) in ends.items():
            norm = self._norms[key]
            norm.shape = tuple(inputs.shape)
            norm.has_bias_before = trace.bias_of(inputs)
            norm.random_before = trace.random.get(number(inputs), frozenset())
            norm.relu_after = trace.relu_after(outputs)
            if (mask := lost.get(key)) is not None:
                norm.mask_lost = 1.0 - float(tf.reduce_mean(tf.cast(mask, "float32")))
            for at in trace.backwards(number(inputs)):
                axis = _channel_axis(trace.layers.get(at), inputs.shape.rank)
                if axis is not None or at in outputs_of:
                    norm.channel_axis, norm.axis_from_before = axis, axis is not None
                    break
        for layer, sources in trace.calls:
            axis = _channel_axis(layer, None)
            for at in trace.backwards(sources[0]) if axis is not None and sources else ():
                if at in outputs_of:
                    norm = self._norms[outputs_of[at]]
                    if norm.channel_axis is None:
                        norm.channel_axis = axis % ends[outputs_of[at]][0].shape.rank
                if at in outputs_of or _channel_axis(trace.layers.get(at), None) is not None:
                    break
        self.examined.is_random = bool(trace.random)
        self._noisy = [layer for layer in trace.noisy.values() if is_of_keras(layer)]

    def _loss(self, x: Any, y: Any, weight: Any, outputs: Any) -> float | None:
        """Return the loss without regularizers, or None where there is none."""
        loss = getattr(self.model, "_compile_loss", None)
        if y is None or loss is None:
            return None
        return float(loss(y, outputs, weight))

    def _reseed(self) -> None:
        """Let Keras's layers draw other random numbers from now on."""
        for i, (variable, value) in enumerate(self._state):
            if "seed_generator_state" in variable.name:
                self._state[i] = variable, value + tf.cast([1, 0], value.dtype)
                variable.assign(self._state[i][1])

    @contextmanager
    def _restored(self) -> Iterator[None]:
        try:
            yield
        finally:
            for variable, value in self._state:
                variable.assign(value)


def _watched(layer: Any, call: Any, inputs: Any, given: dict[str, Any]) -> tuple[Any, bool]:
    """Return what a call returns, and whether it moved the averages."""
    before = layer.moving_mean.numpy()
    outputs = call(inputs, **given)
    return outputs, not np.array_equal(before, layer.moving_mean.numpy(), equal_nan=True)


def _floats(outputs: Any) -> list[Any]:
    leaves = [leaf for leaf in keras.tree.flatten(outputs) if tf.is_tensor(leaf)]
    return [leaf for leaf in leaves if leaf.dtype.is_floating]


def _arrays(outputs: Any) -> list[Array]:
    return [np.asarray(tf.cast(out, "float64")) for out in _floats(outputs)]


def _channel_axis(layer: Any, rank: int | None) -> int | None:
    """Return the axis along which a layer has its channels, or None if it says nothing of it."""
    if hasattr(layer, "kernel_size") and hasattr(layer, "data_format"):
        axis = 1 if layer.data_format == "channels_first" else -1
    elif isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense):
        axis = -1
    else:
        return None
    return axis if rank is None else axis % rank
