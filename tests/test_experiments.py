"""Records of experiments: that they belong to the present source, and some runs once more."""

import gzip
import json
import re
import subprocess
import sys
from collections import defaultdict

import keras
import numpy as np
import pytest

from experiments import lagging
from experiments.data import images
from experiments.records import Record, differences, digest, module_of, names, run_all, todo
from experiments.training import CROSS_ENTROPY, accuracy, deal, train
from tools.rules import ROOT, read


@pytest.mark.parametrize("name", names())
def test_a_record_is_complete_and_of_the_present_source(name):
    record, module = Record(name), module_of(name)
    assert record.is_of_this_source, f"run: .venv/bin/python -m experiments --keep {name}"
    assert len(module.SEEDS) >= 5
    for case in module.CASES:
        for seed in module.SEEDS:
            assert record.has(case, seed), (case, seed)
    assert set(record.versions) >= {"tensorflow", "keras", "numpy"}


UNTIMED = [name for name in names() if name != "messages"]  # which takes times, as no test may


@pytest.fixture(scope="module")
def quick_runs():
    """What the quick cases of all experiments find now, with the first seed.

    In a process of its own, for "replicas" sets up TensorFlow's devices, before anything runs.
    """
    program = f"""
import json
from experiments.records import module_of
for name in sorted({UNTIMED}, key=lambda name: name != "replicas"):
    module = module_of(name)
    print(json.dumps([name, [module.run(case, 0) for case in module.QUICK]]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", UNTIMED)
def test_one_run_of_each_quick_case_comes_out_as_recorded(name, quick_runs):
    record, module = Record(name), module_of(name)
    assert module.QUICK
    for case, found in zip(module.QUICK, quick_runs[name], strict=True):
        for measure, value in found.items():
            kept = record.values(measure, **case)
            # A run of the same seed on another machine, where last digits differ, is as another
            # seed: within the range of five and twice as much on either side, in all but 1 %.
            margin = 2 * np.ptp(kept) + 0.02
            assert kept.min() - margin < value < kept.max() + margin, (case, measure, value, kept)


def published():
    """The experiments about what others have published, and their claims."""
    modules = {name: module_of(name) for name in names()}
    return {name: module.CLAIMS for name, module in modules.items() if hasattr(module, "CLAIMS")}


def test_the_table_of_the_chapter_says_what_records_say():
    """Its metadata name the claim of each row: an experiment, and which of its claims."""
    cells = read(ROOT / "book" / "published.ipynb").cells
    (table,) = (cell for cell in cells if "claims" in cell.metadata)
    rows = re.findall(
        r"\| (held|did not hold) \| .*<published-([\w-]+)>` \|\n", table.source + "\n"
    )
    outcomes = {True: "held", False: "did not hold"}
    for (verdict, link), key in zip(rows, table.metadata["claims"], strict=True):
        name, number = key.split()
        claim = published()[name][int(number)]
        assert verdict == outcomes[bool(claim.test(Record(name))[0])], key
        assert link == name.replace("_", "-"), key
    assert {link.replace("-", "_") for _, link in rows} == published().keys()


@pytest.mark.parametrize("name", published())
def test_each_verdict_comes_from_the_record(name, tmp_path):
    """Where each run has what another found, under other names, other numbers are told."""
    content = json.loads(Record(name).path.read_text(encoding="utf-8"))
    alike = defaultdict(list)
    for run in content["runs"]:
        alike[tuple(sorted(run["found"]))].append(run)
    for measures, group in alike.items():
        found = [run["found"] for run in group]
        for run, other in zip(group, np.random.default_rng(0).permutation(len(group)), strict=True):
            values = [found[other][measure] for measure in np.roll(measures, 1)]
            run["found"] = dict(zip(measures, values, strict=True))
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for claim in published()[name]:
        assert claim.test(Record(name, tmp_path))[1] != claim.test(Record(name))[1], claim.text


def experiment(tmp_path, monkeypatch, offset=0.0):
    """An experiment of two cases, whose source and records lie in a folder of their own."""
    (tmp_path / "toy.py").write_text(
        f"""
CASES = [{{"size": 1}}, {{"size": 2}}]
SEEDS = range(5)
RUNS = []
def run(case, seed):
    RUNS.append(seed)
    return {{"score": case["size"] + {offset} + 0.1 * seed}}
"""
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which would outlive a change
    monkeypatch.setattr("experiments.__path__", [str(tmp_path)])
    monkeypatch.setattr("experiments.records.HERE", tmp_path)
    monkeypatch.setattr("experiments.records.FRESH", tmp_path / "fresh")
    monkeypatch.delitem(sys.modules, "experiments.toy", raising=False)


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    experiment(tmp_path, monkeypatch)
    record = Record("toy", tmp_path / "fresh")
    record.add({"size": 1}, 0, 1.5, {"score": 7.0})
    assert run_all("toy").values("score", size=1).tolist() == [7.0, 1.1, 1.2, 1.3, 1.4]
    assert module_of("toy").RUNS == [1, 2, 3, 4, 0, 1, 2, 3, 4]
    run_all("toy")
    assert len(module_of("toy").RUNS) == 9


def test_a_process_runs_some_and_another_the_rest(tmp_path, monkeypatch):
    experiment(tmp_path, monkeypatch)
    first = run_all("toy", at_most=7)
    assert todo("toy", first) == [({"size": 2}, seed) for seed in (2, 3, 4)]
    assert not todo("toy", run_all("toy", at_most=7))
    assert module_of("toy").RUNS == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_another_source_makes_a_record_stale(tmp_path, monkeypatch):
    experiment(tmp_path, monkeypatch)
    run_all("toy")
    before = digest("toy")
    experiment(tmp_path, monkeypatch, offset=0.5)
    assert digest("toy") != before
    assert not Record("toy", tmp_path / "fresh").is_of_this_source
    assert run_all("toy").values("score", size=2)[0] == 2.5


@pytest.mark.parametrize(("offset", "words"), [(0.0, []), (0.1, []), (0.5, ["size", "score"])])
def test_differences_beyond_the_scatter_are_told(tmp_path, monkeypatch, offset, words):
    experiment(tmp_path, monkeypatch)
    run_all("toy").write(tmp_path / "kept" / "toy.json")
    experiment(tmp_path, monkeypatch, offset=offset)
    found = list(differences(run_all("toy"), Record("toy", tmp_path / "kept")))
    assert len(found) == (2 if words else 0)
    assert all(word in line for line in found for word in words)


def test_a_case_that_was_not_run_is_named(tmp_path, monkeypatch):
    experiment(tmp_path, monkeypatch)
    with pytest.raises(KeyError, match=r"size.*3"):
        run_all("toy").values("score", size=3)


# What several experiments share


def test_each_pass_deals_every_example_once():
    order = deal(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    for examples in order.ravel().reshape(2, 10):
        assert sorted(examples) == list(range(10))
    assert not np.array_equal(order, deal(10, 4, 5, seed=1))


def two_layers():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((3,)), dense(8, activation="tanh"), dense(4)])


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)).astype("float32"), rng.integers(0, 4, 40)


def test_training_is_that_of_keras(some):
    """By its `fit`, on the same batches in the same order."""
    x, y = some
    order = deal(40, 8, 10, seed=0)
    ours, theirs = two_layers(), two_layers()
    losses, steps = train(ours, keras.optimizers.SGD(0.3), x, y, order, 5, lambda: "measured")
    theirs.compile(keras.optimizers.SGD(0.3), CROSS_ENTROPY, jit_compile=False)
    rows = order.ravel()
    history = theirs.fit(x[rows], y[rows], batch_size=8, shuffle=False, verbose=0).history
    np.testing.assert_allclose(losses.mean(), history["loss"][0], rtol=1e-5)
    for mine, others in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, rtol=0, atol=1e-6)
    assert steps == ["measured"] * 2
    theirs.compile(loss=CROSS_ENTROPY, metrics=["accuracy"], jit_compile=False)
    assert accuracy(ours, x, y) == pytest.approx(theirs.evaluate(x, y, verbose=0)[1])


def test_training_ends_where_a_loss_is_not_finite(some):
    x, y = some
    x[7] = np.nan
    order = np.arange(40).reshape(10, 4)
    losses, _ = train(two_layers(), keras.optimizers.SGD(0.1), x, y, order, 2)
    assert np.isfinite(losses).tolist() == [True, False]


def test_steps_between_measurements_must_divide_all(some):
    order = deal(40, 4, 10, seed=0)
    with pytest.raises(ValueError, match="divide the 10 steps, got 4"):
        train(two_layers(), keras.optimizers.SGD(0.1), *some, order, 4)


def test_fashion_mnist_is_read_from_the_files_of_mnist(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        for kind, values in {"images-idx3": pixels, "labels-idx1": np.uint8([7, 0, 9])}.items():
            shape = np.array(values.shape, ">u4").tobytes()
            content = bytes([0, 0, 8, values.ndim]) + shape + values.tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr("experiments.data.DEBIAN", tmp_path)
    data = images("fashion", 2)
    assert data.x_train.shape == (2, 14, 14, 1)
    assert data.y_test.tolist() == [7, 0, 9]
    expected = pixels[1, 6:8, 26:28].mean() / 255
    np.testing.assert_allclose(data.x_test[1, 3, 13, 0], expected, rtol=1e-6)


def test_without_fashion_mnist_it_is_said_where_to_get_it(tmp_path, monkeypatch):
    def fail():
        raise OSError("no network")

    monkeypatch.setattr("experiments.data.DEBIAN", tmp_path / "not there")
    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", fail)
    with pytest.raises(FileNotFoundError, match=r"apt install dataset-.* no network"):
        images("fashion")
    with pytest.raises(ValueError, match="digits and fashion, got 'mnist'"):
        images("mnist")


# One of them


def test_averages_taken_beside_a_training_are_those_of_keras_layers():
    """One training with Keras's layers and their momentum, one with averages beside it."""
    x, _, y, _ = images("digits", 128)
    order = deal(len(x), 16, 12, seed=0)
    ours, theirs = (lagging.network(), lagging.network(keras.layers.BatchNormalization, 0.9))
    theirs.set_weights(ours.get_weights())
    variables = lagging.statistics(ours)
    averages = lagging.started(variables, 0.9)
    sgd = keras.optimizers.SGD
    train(theirs, sgd(0.1, momentum=0.9), x, y, order)
    train(
        *(ours, sgd(0.1, momentum=0.9), x, y, order, 1),
        lambda: averages.apply(lagging.values_of(variables)),
    )
    lagging.put(averages, variables)
    for mine, others in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, rtol=1e-3, atol=1e-4)
