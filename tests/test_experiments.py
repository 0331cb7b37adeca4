"""Records of experiments: that they belong to the present source, and some runs once more."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.records import Record, differences, digest, module_of, names, run_all
from tools.rules import ROOT


@pytest.mark.parametrize("name", names())
def test_a_record_is_complete_and_of_the_present_source(name):
    record, module = Record(name), module_of(name)
    assert record.is_of_this_source, f"run: .venv/bin/python -m experiments --keep {name}"
    assert len(module.SEEDS) >= 5
    for case in module.CASES:
        for seed in module.SEEDS:
            assert record.has(case, seed), (case, seed)
    assert set(record.versions) >= {"tensorflow", "keras", "numpy"}


@pytest.mark.parametrize("name", names())
def test_one_run_of_each_quick_case_comes_out_as_recorded(name):
    """In a process of its own, as experiments may set up TensorFlow's devices."""
    record, module = Record(name), module_of(name)
    assert module.QUICK
    program = f"""
import json
from experiments import {name} as module
print(json.dumps([module.run(case, 0) for case in module.QUICK]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for case, found in zip(module.QUICK, json.loads(done.stdout.splitlines()[-1]), strict=True):
        for measure, value in found.items():
            kept = record.values(measure, **case)
            # A run of the same seed on another machine, where last digits differ, is as another
            # seed: within the range of five and twice as much on either side, in all but 1 %.
            margin = 2 * np.ptp(kept) + 0.02
            assert kept.min() - margin < value < kept.max() + margin, (case, measure, value, kept)


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
