"""What the layer computes on several replicas against float64 on all their examples at once.

    python replica_program.py 4              (so many logical processors, mirrored)
    TF_CONFIG=… python replica_program.py    (as one of several workers)

Prints the worst errors of each case, as JSON: of all cases over two logical processors, and else of
those in which replicas differ most. A program of its own, since TensorFlow's devices are made once
in a process.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from bn_tutorial.layers import BatchNormalization

# Mean of the values; examples of each replica, the same for each further pair of replicas; share
# of the mask, of each replica, or None; axis; policy.
CASES = {
    "alike": (3, (4, 4), None, 2, "float32"),
    "uneven": (3, (6, 2), None, 2, "float32"),
    "one is empty": (3, (8, 0), None, 2, "float32"),
    "far from zero": (1e4, (6, 2), None, 2, "float32"),
    "as different as large and small": (1e5, (700, 14), None, 2, "float32"),
    "masked": (3, (5, 3), (0.7, 0.7), 2, "float32"),
    "masked, another axis": (3, (5, 3), (0.7, 0.7), 1, "float32"),
    "one is masked altogether": (3, (5, 3), (0.7, 0.0), 2, "float32"),
    "all are masked": (3, (5, 3), (0.0, 0.0), 2, "float32"),
    "masked far from zero": (1e4, (5, 3), (0.7, 0.0), 2, "float32"),
    "float16": (3, (6, 2), (0.7, 0.7), 2, "mixed_float16"),
    "bfloat16": (3, (6, 2), (0.7, 0.7), 2, "mixed_bfloat16"),
    "float64": (1e4, (6, 2), (0.7, 0.0), 2, "float64"),
}
UNLIKE = ["one is empty", "as different as large and small", "masked far from zero", "float16"]
LENGTH, CHANNELS = 7, 5
RESULTS = ["y", "dx", "ddx", "dgamma", "dbeta", "mean", "variance"]


def errors(strategy, center, sizes, shares, axis, policy):
    """The worst error of each result here, where 1 is the largest value of it, or 1.

    And all bits that the moving mean, and the moving variance, have on the replicas here.
    """
    replicas = strategy.num_replicas_in_sync
    sizes, shares = sizes * (replicas // 2), shares and shares * (replicas // 2)
    ends = np.cumsum(sizes)
    pieces = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    rng = np.random.default_rng(0)
    dtype = keras.DTypePolicy(policy).compute_dtype
    x, dy, v = (
        tf.constant(rng.normal(mean, 1, (ends[-1], LENGTH, CHANNELS)), dtype)
        for mean in (center, 0, 0)
    )
    mask = np.ones((ends[-1], LENGTH), bool)
    if shares:
        for piece, share in zip(pieces, shares, strict=True):
            mask[piece] = rng.random(mask[piece].shape) < share

    def built(policy):
        layer = BatchNormalization(axis, synchronized=True, momentum=0.5, dtype=policy)
        layer.build((None, LENGTH, CHANNELS))
        layer.gamma.assign(np.linspace(0.5, 2, layer.gamma.shape[0]))
        return layer

    def step(layer, x, dy, v, mask):
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                y = layer(x, training=True, mask=mask if shares else None)
            dx, *slopes = first.gradient(y, [x, *layer.trainable_variables], dy)
        replica = tf.distribute.get_replica_context()
        return y, dx, second.gradient(dx, x, v), *(replica.all_reduce("SUM", s) for s in slopes)

    def here(value):
        return strategy.experimental_distribute_values_from_function(
            lambda context: value[pieces[context.replica_id_in_sync_group]]
        )

    with strategy.scope():
        layer = built(policy)
    run = tf.function(lambda *pieces: strategy.run(step, (layer, *pieces)))
    results = run(*(here(value) for value in (x, dy, v, mask)))
    found = [strategy.experimental_local_results(result) for result in results]
    averages = [strategy.experimental_local_results(w.value) for w in layer.non_trainable_variables]
    whole = built("float64")
    expected = step(whole, *(tf.cast(value, "float64") for value in (x, dy, v)), tf.constant(mask))
    expected = [*expected, *whole.get_weights()[2:]]
    worst = {}
    for name, values, wanted in zip(RESULTS, [*found, *averages], expected, strict=True):
        wanted = np.asarray(wanted)
        parts = [wanted[pieces[i]] if wanted.ndim > 1 else wanted for i in local_ids(strategy)]
        scale = max(1, np.abs(wanted).max())
        worst[name] = np.max(  # which is NaN if anything is
            [off(value, part) / scale for value, part in zip(values, parts, strict=True)]
        )
    states = [[average.numpy().tobytes().hex() for average in each] for each in averages]
    return worst, sorted({*states[0]}), sorted({*states[1]})


def local_ids(strategy):
    """The numbers of the replicas in this process."""
    if "TF_CONFIG" in os.environ:
        return [json.loads(os.environ["TF_CONFIG"])["task"]["index"]]
    return list(range(strategy.num_replicas_in_sync))


def off(value, reference):
    """The largest difference."""
    return np.abs(np.asarray(value, "float64") - reference).max(initial=0)


def strategy_for(arguments):
    """Mirrored over logical processors, or with other workers, each in a process."""
    if not arguments:
        return tf.distribute.MultiWorkerMirroredStrategy()
    number = int(arguments[0])
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * number
    tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(number)])


if __name__ == "__main__":
    strategy = strategy_for(sys.argv[1:])
    chosen = CASES if sys.argv[1:] == ["2"] else UNLIKE
    print(json.dumps({name: errors(strategy, *CASES[name]) for name in chosen}))
