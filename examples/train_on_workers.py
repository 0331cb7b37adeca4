"""Train a convolutional network on the digits, by several processes or machines together.

    python -m bn_tutorial.book.cluster 2 python examples/train_on_workers.py FOLDER

starts two processes on this machine. On several machines, start what follows the 2 on each, with
``TF_CONFIG`` set, and a FOLDER that all of them see. There every epoch leaves a checkpoint, and the
same command again goes on from the last one.
"""

import argparse
from hashlib import sha256
from pathlib import Path

import keras
import tensorflow as tf

from bn_tutorial.book.data import digits
from bn_tutorial.layers import BatchNormalization

BATCH_SIZE = 32  # of all workers together
PATIENCE = 60  # seconds that a step may wait for another worker


def train(folder, epochs):
    """Train as one of the workers that ``TF_CONFIG`` names; the first prints how far they are.

    At the end each prints a digest of its weights and averages.

    Parameters
    ----------
    folder
        For checkpoints. If there are some, training goes on from the last, which must be one
        of this network and its optimizer.
    epochs
        How many there are in all.

    Raises
    ------
    AssertionError
        If the last checkpoint lacks something that this network has.
    tensorflow.errors.UnavailableError
        If another worker is dead. The message names it.
    tensorflow.errors.DeadlineExceededError
        If another worker lives, but takes no part for a minute.
    """
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=PATIENCE)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    is_first = strategy.cluster_resolver.task_id in (None, 0)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = network()
        optimizer = keras.optimizers.Adam(0.003)
        optimizer.build(model.trainable_variables)
    x_train, x_test, y_train, y_test = digits()
    test = shares(strategy, x_test, y_test, len(x_test))
    train_step, test_step = steps(strategy, model, optimizer, test.element_spec)

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, epoch=tf.Variable(0))
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    for epoch in range(int(checkpoint.epoch), epochs):
        for x, y in shares(strategy, x_train, y_train, BATCH_SIZE, seed=epoch):
            train_step(x, y)
        [(right, examples)] = [test_step(x, y).numpy() for x, y in test]
        checkpoint.epoch.assign_add(1)
        if is_first:
            manager.save()
            print(f"epoch {epoch + 1}: {right / examples:.0%} of {examples} right", flush=True)
    print("weights and averages:", digest(model))


def network():
    """Return the network, whose batch normalizations see the batches of all workers as one."""
    layers = [keras.Input((64,)), keras.layers.Reshape((8, 8, 1))]
    for filters, strides in ((16, 1), (32, 2)):
        layers += [
            keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9, synchronized=True),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def digest(model):
    """Return twelve letters that are the same only if all weights and averages are, bit for bit."""
    state = b"".join(variable.numpy().tobytes() for variable in model.variables)
    return sha256(state).hexdigest()[:12]


def shares(strategy, x, y, batch_size, seed=None):
    """Return batches, of which each worker gets its share.

    ``batch_size`` is that of all together, which their shares divide among them as evenly
    as can be. With a ``seed`` examples are shuffled before they are dealt out, in the same
    way on all workers, and those that make no full batch of all workers are left out: who
    has none would get an empty share, at which the convolutions of oneDNN fail.
    """
    replicas = strategy.num_replicas_in_sync
    if not replicas <= batch_size <= len(x):
        raise ValueError(
            f"a batch needs an example for each of {replicas} replicas, and at most the"
            f" {len(x)} that there are, got {batch_size}"
        )

    def share_of(context):
        here = replicas // context.num_input_pipelines  # more than one if a worker has GPUs
        first = here * context.input_pipeline_id
        data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y))
        if seed is not None:
            data = data.shuffle(len(x), seed)
        data = data.batch(batch_size, drop_remainder=seed is not None)
        return data.flat_map(
            lambda x, y: tf.data.Dataset.range(first, first + here).map(
                lambda replica: (x[replica::replicas], y[replica::replicas])
            )
        )

    return strategy.distribute_datasets_from_function(share_of)


def steps(strategy, model, optimizer, signature):
    """Return one step of training, and one of testing, on a batch of all workers.

    ``signature`` is what batches look like on all workers. The steps are traced by
    that, not by the batches here, so that all workers run the same graph.
    """
    total = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def learn(x, y):
        here = tf.cast(tf.shape(x)[0], tf.float32)
        examples = tf.distribute.get_replica_context().all_reduce("SUM", here)
        with tf.GradientTape() as tape:
            loss = total(y, model(x, training=True)) / examples
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients)  # which adds up those of all workers

    def count(x, y):
        answers = tf.argmax(model(x, training=False), axis=-1)
        right = tf.math.count_nonzero(answers == tf.cast(y, answers.dtype))
        return tf.stack([right, tf.size(y, tf.int64)])

    @tf.function(input_signature=signature)
    def train_step(x, y):
        strategy.run(learn, (x, y))

    @tf.function(input_signature=signature)
    def test_step(x, y):
        return strategy.reduce("SUM", strategy.run(count, (x, y)), axis=None)

    return train_step, test_step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.epochs)
