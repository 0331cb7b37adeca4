"""Training by several processes: with one result, whatever their number.

The chapter *More than one machine* trains by two, kills one of them, starts again, and compares
all that the checkpoints hold: a run that is not repeated here.
"""

import re
import runpy
import signal
import socket
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.book import cluster as launcher
from bn_tutorial.book.cluster import Cluster
from bn_tutorial.book.data import digits
from tools.rules import ROOT

EXAMPLES = ROOT / "examples"


def python(program):
    return [sys.executable, "-c", program]


def example():
    return runpy.run_path(str(EXAMPLES / "train_on_workers.py"))


def finished(command, workers):
    """What each worker of a cluster prints that comes to a good end."""
    with Cluster(command, workers) as cluster:
        assert cluster.wait(timeout=240) == [0] * workers, cluster.errors()
        return cluster.outputs()


def digests(outputs):
    return {re.search("averages: (.*)", output)[1] for output in outputs}


def restored(folder):
    """The network of the last checkpoint, in this process alone."""
    model = example()["network"]()
    checkpoint = tf.train.Checkpoint(model=model)
    checkpoint.restore(tf.train.latest_checkpoint(str(folder))).expect_partial()
    return model


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Folder and outputs of a training by three workers, whose shares are not of one size."""
    folder = tmp_path_factory.mktemp("three")
    program = str(EXAMPLES / "train_on_workers.py")
    return folder, finished([sys.executable, program, str(folder), "--epochs", "1"], 3)


# The launcher


def test_each_worker_learns_which_it_is_and_where_the_others_are():
    program = "import json, os; print(json.dumps(json.loads(os.environ['TF_CONFIG'])))"
    configs = [eval(output) for output in finished(python(program), 3)]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert all(config["cluster"] == configs[0]["cluster"] for config in configs)
    assert len(set(configs[0]["cluster"]["worker"])) == 3


def test_ports_are_held_as_long_as_the_cluster_lives():
    program = "import os, json; print(json.loads(os.environ['TF_CONFIG'])['cluster']['worker'][0])"
    with Cluster(python(program), 1) as cluster:
        cluster.wait(timeout=60)
        port = int(cluster.outputs()[0].rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_no_process_outlives_the_block():
    sleep = python("import time; time.sleep(600)")
    expected = pytest.raises(TimeoutError, match=r"\[0, 1\] have not ended after 0.1")
    with expected, Cluster(sleep, 2) as cluster:
        cluster.wait(timeout=0.1)
    assert [process.poll() for process in cluster.processes] == [-signal.SIGKILL] * 2


def test_a_failure_is_told_with_its_reason(capsys):
    program = """
import json, os, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    import atexit, sys
    atexit.register(print, "WARNING: later\\n  than the error", file=sys.stderr)
    raise ValueError("mine")
print("hello")
"""
    assert launcher.run(python(program), 2) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["hello", "worker 1 failed, code 1: ValueError: mine"]


def test_who_waits_for_ever_is_told(capsys):
    program = """
import json, os, time
time.sleep(600 * json.loads(os.environ["TF_CONFIG"])["task"]["index"])
"""
    assert launcher.run(python(program), 2, patience=0.2) == 1
    assert "worker 1 had not ended 0.2 seconds after the first" in capsys.readouterr().out


def test_half_of_a_character_is_no_error():
    program = "import sys, time; sys.stdout.buffer.write(b'caf\\xc3'); sys.stdout.flush()"
    assert finished(python(program), 1) == ["caf\ufffd"]


def test_a_cluster_of_none_is_refused(capsys, monkeypatch):
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        Cluster(python(""), 0)
    monkeypatch.setattr(sys, "argv", ["cluster", "0", "python"])
    with pytest.raises(SystemExit):
        launcher._main()
    assert "must be 1 worker or more, got 0" in capsys.readouterr().err


# The training


def test_workers_agree_to_the_last_bit_and_learn(three):
    _, outputs = three
    assert len(digests(outputs)) == 1
    assert int(re.search(r"epoch 1: (\d+)% of 450", outputs[0])[1]) >= 90


def test_the_file_serves_in_one_process_as_the_workers_did(three):
    folder, outputs = three
    model, data = restored(folder), digits()
    answers = np.argmax(model.predict(data.x_test.astype("float32"), verbose=0), axis=-1)
    assert f"epoch 1: {np.mean(answers == data.y_test):.0%}" in outputs[0]


@pytest.mark.parametrize(("workers", "each"), [(3, 1), (2, 2)])
def test_every_batch_is_dealt_out_to_all_replicas(workers, each):
    class Strategy:
        """Deals out to workers that are not there, with so many replicas each."""

        num_replicas_in_sync = workers * each

        def distribute_datasets_from_function(self, share_of):
            return [
                list(share_of(tf.distribute.InputContext(workers, number, workers * each)))
                for number in range(workers)
            ]

    def batches(examples, batch_size, seed=None):
        """What each replica gets in each step."""
        x = np.arange(examples)
        of_workers = example()["shares"](Strategy(), x, -x, batch_size, seed)
        assert len({len(shares) for shares in of_workers}) == 1
        for start in range(0, len(of_workers[0]), each):
            step = [share for shares in of_workers for share in shares[start : start + each]]
            for one, other in step:
                np.testing.assert_array_equal(one, -other)
            yield [np.int64(one) for one, _ in step]

    steps = list(batches(1024, 32, seed=0))
    sizes = [[len(share) for share in shares] for shares in steps]
    assert sizes == [[11, 11, 10] if workers == 3 else [8] * 4] * 32
    assert sorted(np.concatenate([share for shares in steps for share in shares])) == list(
        range(1024)
    )
    assert len(list(batches(1030, 32, seed=0))) == 32
    (everything,) = batches(450, 450)
    assert sorted(np.concatenate(everything)) == list(range(450))
    for wrong in (workers * each - 1, 1025):
        with pytest.raises(ValueError, match=f"example for each .* got {wrong}"):
            list(batches(1024, wrong))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3)])
    checkpoint = tf.train.Checkpoint(model=other, epoch=tf.Variable(1))
    tf.train.CheckpointManager(checkpoint, str(tmp_path), 1).save()
    with pytest.raises(AssertionError, match="not bound to checkpointed values"):
        example()["train"](tmp_path, epochs=2)


def test_their_number_makes_no_difference(three, tmp_path):
    """Up to roundings, which training makes larger."""
    example()["train"](tmp_path, epochs=1)  # alone, which needs no process of its own
    weights = [restored(folder).get_weights() for folder in (tmp_path, three[0])]
    for alone, together in zip(*weights, strict=True):
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_fit_learns_over_workers_what_it_learns_in_one_process():
    command = [sys.executable, str(EXAMPLES / "fit_on_workers.py")]
    (alone,), together = finished(command, 1), finished(command, 2)
    assert len(digests(together)) == 1
    losses, expected = (re.findall(r"\d\.\d{4}", text) for text in (together[0], alone))
    assert len(losses) == 2
    np.testing.assert_allclose(np.float64(losses), np.float64(expected), rtol=0, atol=2e-4)
    assert int(re.search(r"(\d+)% right", together[0])[1]) > 90
