"""With ``synchronized=True`` the moments are those of all replicas' values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    MODES,
    WITHIN,
    Peer,
    assert_close,
    build,
    data,
    exact,
    runner,
)

from bn_tutorial.book.cluster import Cluster
from bn_tutorial.layers import BatchNormalization


def test_one_replica_synchronizes_with_itself():
    shape = (6, 4, 5)
    x, dy = data(shape)
    found = []
    for cls in (Peer, BatchNormalization):
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            layer = build(cls, shape, -1, synchronized=True)

        def step(layer=layer):
            batch = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(batch)
                loss = tf.reduce_sum(layer(batch, training=True) * dy)
            dx, *gradients = tape.gradient(loss, [batch, *layer.trainable_variables])
            return loss, dx, *gradients

        run = tf.function(lambda step=step, strategy=strategy: strategy.run(step))
        results = [tf.convert_to_tensor(r).numpy() for r in run()]
        found.append([*results, *layer.get_weights()])
    assert_close(found[1], found[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_far_from_zero_and_without_a_strategy(mode, masked):
    shape = (8, 20, 6)
    x, dy = data(shape, center=1e5, deviation=0.1)
    mask = np.arange(20) < 15
    layer = BatchNormalization(synchronized=True, momentum=0)
    layer.build(shape)
    y = runner(layer, mode, mask=tf.constant(mask[None]) if masked else None)(x, dy)[0]
    x, dy, y = (v[:, mask] if masked else v for v in (x, dy, y))
    np.testing.assert_allclose(y, exact(x, dy, -1).y, rtol=0, atol=WITHIN)


PROGRAM = [sys.executable, str(Path(__file__).with_name("replica_program.py"))]
# Roundings of y and dx in half precision; else of sums, and of what they are taken of, in float32.
ALLOWED = {"float16": 2**-10, "bfloat16": 2**-7}


def check(outputs, cases):
    """Compare what the processes found with float64, and their averages with each other."""
    reports = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert len(reports[0]) == cases
    for case in reports[0]:
        for errors, *averages in (report[case] for report in reports):
            for name, error in errors.items():
                half = ALLOWED.get(case, 0) if name in ("y", "dx", "ddx") else 0
                assert error < max(half, 1e-6), (case, name, error)
            assert averages == reports[0][case][1:], case  # to the last bit, here and there
            assert all(len(each) == 1 for each in averages), case


@pytest.mark.parametrize(("replicas", "cases"), [(2, 13), (4, 4)])
def test_logical_processors_find_what_one_finds_in_the_whole_batch(replicas, cases):
    done = subprocess.run(
        [*PROGRAM, str(replicas)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    check([done.stdout], cases)


@pytest.mark.parametrize("workers", [2, 4])
def test_processes_find_what_one_finds_in_the_whole_batch(workers):
    with Cluster(PROGRAM, workers) as cluster:
        assert cluster.wait(timeout=300) == [0] * workers, cluster.errors()
        check(cluster.outputs(), 4)
