"""Train with `Model.fit` by several processes or machines, which Keras 3 refuses as it is.

    python -m bn_tutorial.book.cluster 2 python examples/fit_on_workers.py

starts two processes on this machine. What stands in the way, and the way around it, is in
`FitsOnWorkers` and `made`.
"""

import keras
import tensorflow as tf
from train_on_workers import BATCH_SIZE, digest, network

from bn_tutorial.book.data import digits


class FitsOnWorkers(keras.Model):
    """A functional model whose steps return vectors of one number, and not numbers.

    `fit` and `evaluate` average what the replicas return, under
    `tf.distribute.MultiWorkerMirroredStrategy` along axis 0, which a number does not have.
    """

    def train_step(self, data):
        """Return the loss and the metrics after a step of training."""
        logs = super().train_step(data)
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}

    def test_step(self, data):
        """Return the loss and the metrics after a step of testing."""
        logs = super().test_step(data)
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}


def made(strategy):
    """Return a compiled model that can be trained by `fit` in the strategy's scope.

    Its layers and its optimizer are made in the scope, the model outside. A model
    that was made in it tries to find out the shapes of its layers from the batches
    of all replicas, and fails, built or not.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = network()
    model = FitsOnWorkers(layers.inputs, layers.outputs)
    with strategy.scope():
        optimizer = keras.optimizers.Adam(0.003)
        optimizer.build(model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def batches(x, y):
    """Return batches that the strategy deals out to the workers, example by example."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y))
    return data.batch(BATCH_SIZE, drop_remainder=True).with_options(options)


if __name__ == "__main__":
    x_train, x_test, y_train, y_test = digits()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    model = made(strategy)
    with strategy.scope():
        history = model.fit(batches(x_train, y_train), epochs=2, verbose=0).history
        accuracy = model.evaluate(batches(x_test, y_test), return_dict=True, verbose=0)["accuracy"]
    print("loss of each epoch:", *(f"{loss:.4f}" for loss in history["loss"]))
    print(f"{accuracy:.0%} right")
    print("weights and averages:", digest(model))
